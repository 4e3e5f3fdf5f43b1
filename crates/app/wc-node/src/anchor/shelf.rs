//! Where anchors are kept: one row each, numbered; durable before anybody is told.

use serde::{Deserialize, Serialize};
use wc_ledger::anchor::Standing;
use wc_proto::api::view::AnchorView;
use wc_store::{Change, Store, StoreError, Table};
use wc_types::code::{Class, Code};
use wc_types::{Refusal, Timestamp, to_canonical};

use crate::view;

/// Anchors that are kept: ten weeks of one every ten minutes. Each covers all before it, so the oldest may go; who wants
/// them longer exports them.
const KEPT_MAX: u64 = 10_000;
const PREFIX: u8 = b'a';
const STANDING: &[u8] = b"standing";
/// Number of the anchor that an operator has to look at. There is one at most: what happens again is added to it.
const FLAGGED: &[u8] = b"flagged";

const UNKNOWN_ANCHOR: Code = Code::new("WC-NODE-080", Class::Caller);
const NOT_FLAGGED: Code = Code::new("WC-NODE-081", Class::Conflict);
const NO_FILE: Code = Code::new("WC-NODE-082", Class::Conflict);

/// The anchors cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShelfError {
    /// The store refused.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("a row of the anchors does not decode")]
    Corrupt,
}

/// What is known of an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It is in the log, and that was proved.
    Anchored,
    /// What the log answered does not verify.
    Flagged,
    /// An operator has looked.
    Cleared,
}

/// One anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub state: State,
    pub size: u64,
    #[serde(with = "serde_bytes")]
    pub root: [u8; 32],
    pub at: Timestamp,
    pub api: String,
    pub log: String,
    pub log_index: Option<u64>,
    pub entry_id: Option<String>,
    pub integrated_at: Option<Timestamp>,
    pub reason: Option<String>,
    /// The anchor as a file; empty when nothing was proved.
    #[serde(with = "serde_bytes")]
    pub file: Vec<u8>,
}

impl Record {
    /// Returns what people see.
    pub fn view(self, id: u64) -> AnchorView {
        let state = match self.state {
            State::Anchored => "anchored",
            State::Flagged => "flagged",
            State::Cleared => "cleared",
        };
        AnchorView {
            id,
            state: state.to_owned(),
            checkpoint_size: self.size,
            checkpoint_root: view::hex(&self.root),
            at: self.at,
            api: self.api,
            log: self.log,
            log_index: self.log_index,
            entry_id: self.entry_id,
            integrated_at: self.integrated_at,
            reason: self.reason,
        }
    }
}

/// The anchors of a cell.
#[derive(Clone)]
pub(crate) struct Shelf {
    store: Store,
    table: Table,
}

fn key(id: u64) -> [u8; 9] {
    let mut key = [PREFIX; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

fn decode<T: serde::de::DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, ShelfError> {
    wc_types::from_canonical(bytes).map_err(|_| ShelfError::Corrupt)
}

impl Shelf {
    /// Opens the table.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { store: store.clone(), table: store.table("anchors")? })
    }

    /// Returns how anchoring stood.
    pub fn standing(&self) -> Result<Standing, ShelfError> {
        self.table.get(STANDING)?.map_or_else(|| Ok(Standing::default()), |bytes| decode(&bytes))
    }

    /// Keeps how anchoring stands, so that a restart ends no alarm.
    pub fn set_standing(&self, standing: &Standing) -> Result<(), ShelfError> {
        self.table.put(STANDING, &to_canonical(standing))?;
        Ok(self.store.sync()?)
    }

    fn next_id(&self) -> Result<u64, ShelfError> {
        let Some(last) = self.table.range(&[PREFIX]).next_back() else { return Ok(1) };
        let (last, _) = last?;
        let id = last.get(1..).and_then(|id| id.try_into().ok()).ok_or(ShelfError::Corrupt)?;
        Ok(u64::from_be_bytes(id).saturating_add(1))
    }

    /// Keeps a new anchor, and lets go of the one that is too many.
    pub(super) fn put(&self, record: &Record) -> Result<u64, ShelfError> {
        let id = self.next_id()?;
        let mut changes = vec![Change::Put { key: key(id).to_vec(), value: to_canonical(record) }];
        let flagged = self.flagged()?;
        if let Some(old) = id.checked_sub(KEPT_MAX).filter(|old| Some(*old) != flagged) {
            changes.push(Change::Remove { key: key(old).to_vec() });
        }
        self.table.apply(changes)?;
        self.store.sync()?;
        Ok(id)
    }

    /// Flags that what the log answers does not verify. While one is flagged, that one is brought up to date.
    pub(super) fn flag(&self, record: Record) -> Result<u64, ShelfError> {
        if let Some(id) = self.flagged()? {
            self.table.put(&key(id), &to_canonical(&record))?;
            self.store.sync()?;
            return Ok(id);
        }
        let id = self.put(&record)?;
        self.table.put(FLAGGED, &id.to_be_bytes())?;
        self.store.sync()?;
        Ok(id)
    }

    /// Returns the anchor that an operator has to look at.
    pub fn flagged(&self) -> Result<Option<u64>, ShelfError> {
        let Some(bytes) = self.table.get(FLAGGED)? else { return Ok(None) };
        bytes.as_slice().try_into().map(|id| Some(u64::from_be_bytes(id))).map_err(|_| ShelfError::Corrupt)
    }

    fn get(&self, id: u64) -> Result<Option<Record>, ShelfError> {
        self.table.get(&key(id))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Takes note that an operator has looked at a flagged anchor.
    pub fn clear(&self, id: u64) -> Result<Result<(), Refusal>, ShelfError> {
        let Some(mut record) = self.get(id)? else { return Ok(Err(unknown(id))) };
        if record.state != State::Flagged {
            let refusal = Refusal::new(NOT_FLAGGED, format!("anchor {id} is not flagged"));
            return Ok(Err(refusal.hint("list the anchors with 'worldcompute ledger anchors'")));
        }
        record.state = State::Cleared;
        self.table.apply([
            Change::Put { key: key(id).to_vec(), value: to_canonical(&record) },
            Change::Remove { key: FLAGGED.to_vec() },
        ])?;
        self.store.sync()?;
        Ok(Ok(()))
    }

    /// Returns an anchor as a file.
    pub fn file(&self, id: u64) -> Result<Result<Vec<u8>, Refusal>, ShelfError> {
        Ok(match self.get(id)? {
            None => Err(unknown(id)),
            Some(record) if record.file.is_empty() => {
                let reason = record.reason.unwrap_or_default();
                Err(Refusal::new(
                    NO_FILE,
                    format!("anchor {id} was never proved, so there is no file of it: {reason}"),
                ))
            }
            Some(record) => Ok(record.file),
        })
    }

    /// Returns at most `limit` anchors, newest first, those below `before`.
    pub(super) fn newest(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, Record)>, ShelfError> {
        let mut rows = Vec::new();
        for row in self.table.range(&[PREFIX]).rev() {
            let (key, value) = row?;
            let id = key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
            let id = id.ok_or(ShelfError::Corrupt)?;
            if before.is_some_and(|before| id >= before) {
                continue;
            }
            if rows.len() == limit {
                break;
            }
            rows.push((id, decode(&value)?));
        }
        Ok(rows)
    }
}

fn unknown(id: u64) -> Refusal {
    Refusal::new(UNKNOWN_ANCHOR, format!("this cell keeps no anchor {id}"))
        .hint("list the anchors with 'worldcompute ledger anchors'; the oldest are let go")
}

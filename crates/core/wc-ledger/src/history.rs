//! One account's history, checked by its owner: every entry that moved its credit, and what they add up to.
//!
//! ```text
//! signed checkpoint ──► Audit ◄── own entries in order, each with its path to the root
//!                         │          in the log? mine? balanced? what the verdict awards? what decay may take?
//!                         └──► finish: adds up to the claimed balance, and is what was seen the last time
//! ```
//! What this cannot show is an entry that the coordinator keeps back together with its amount: the sum would still be
//! right. It would have to be kept back from the beginning, since what was seen once is remembered; and the receipt of a
//! submitter, or anybody who reads the whole log, shows it.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use wc_types::charter::Economy;
use wc_types::entry::{Entry, EntryKind, Holder};
use wc_types::receipt::Verdict;
use wc_types::{AccountId, CellId, Class, Code, JobId, MicroNcu, PartsPerMillion};

use crate::book::net;
use crate::chain::leaf_hash;
use crate::earnings::Earnings;
use crate::fade::Retained;
use crate::issue::{VerdictFault, check_entry, check_verdict};
use crate::merkle::Hash;
use crate::proof::{ProofError, verify_inclusion};

/// What is wrong with a history. Names the entry wherever there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryFault {
    /// The entry is not in the log that the cell signed.
    #[error("entry {index} is not in the log under the checkpoint")]
    NotInLog {
        /// The entry.
        index: u64,
        /// What is wrong with its path.
        #[source]
        source: ProofError,
    },
    /// The entry is of another cell.
    #[error("entry {index} is of another cell")]
    OtherCell {
        /// The entry.
        index: u64,
    },
    /// Entries must come in order, each once.
    #[error("entry {index} comes after entry {after}")]
    OutOfOrder {
        /// The entry.
        index: u64,
        /// The one that came before.
        after: u64,
    },
    /// The entry does not concern this account.
    #[error("entry {index} does not concern {account}")]
    NotMine {
        /// The entry.
        index: u64,
        /// The account.
        account: AccountId,
    },
    /// Credit appears or vanishes.
    #[error("entry {index} has postings that sum to {sum} µNCU, not to zero")]
    Unbalanced {
        /// The entry.
        index: u64,
        /// What they sum to.
        sum: i128,
    },
    /// The entry takes more than there is.
    #[error("entry {index} leaves a balance of {balance} µNCU")]
    Overdrawn {
        /// The entry.
        index: u64,
        /// What would be left.
        balance: i128,
    },
    /// The verdict that an entry names was not shown.
    #[error("entry {index} accepts a task, and its verdict was not shown")]
    VerdictMissing {
        /// The entry.
        index: u64,
    },
    /// The verdict is not the one that the entry names, or awards something else than the entry posts.
    #[error("entry {index} does not pay what its verdict awards")]
    Verdict {
        /// The entry.
        index: u64,
        /// What is different.
        #[source]
        source: VerdictFault,
    },
    /// Decay found another balance or floor than the history has, or took something else than the charter says.
    #[error("entry {index} fades {found} µNCU with a floor of {floor} to {left}; {reason}")]
    Decay {
        /// The entry.
        index: u64,
        /// The balance that the entry claims.
        found: u64,
        /// The floor that the entry claims.
        floor: u64,
        /// What it leaves.
        left: i128,
        /// What it should be.
        reason: String,
    },
    /// The entries do not add up to the balance.
    #[error("the entries add up to {summed} µNCU, the cell says {claimed}")]
    Balance {
        /// What they add up to.
        summed: i128,
        /// What the cell says.
        claimed: u64,
    },
    /// What was seen the last time is not what is shown now.
    #[error("the history up to entry {size} is not the one that was seen before: {entries} entries then, {now} now{}",
        if entries == now { ", and others" } else { "" })]
    Changed {
        /// Entries of the log at that time.
        size: u64,
        /// Entries of this history then.
        entries: u64,
        /// Entries of this history up to there now.
        now: u64,
    },
}

impl HistoryFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotInLog { .. } => Code::new("WC-LEDGER-160", Class::Peer),
            Self::OtherCell { .. } => Code::new("WC-LEDGER-161", Class::Peer),
            Self::OutOfOrder { .. } => Code::new("WC-LEDGER-162", Class::Peer),
            Self::NotMine { .. } => Code::new("WC-LEDGER-163", Class::Peer),
            Self::Unbalanced { .. } => Code::new("WC-LEDGER-164", Class::Peer),
            Self::Overdrawn { .. } => Code::new("WC-LEDGER-165", Class::Peer),
            Self::VerdictMissing { .. } => Code::new("WC-LEDGER-166", Class::Peer),
            Self::Verdict { .. } => Code::new("WC-LEDGER-167", Class::Peer),
            Self::Decay { .. } => Code::new("WC-LEDGER-168", Class::Peer),
            Self::Balance { .. } => Code::new("WC-LEDGER-169", Class::Peer),
            Self::Changed { .. } => Code::new("WC-LEDGER-170", Class::Peer),
        }
    }

    /// Returns the entry that is wrong, if it is one.
    pub fn entry(&self) -> Option<u64> {
        match self {
            Self::NotInLog { index, .. }
            | Self::OtherCell { index }
            | Self::OutOfOrder { index, .. }
            | Self::NotMine { index, .. }
            | Self::Unbalanced { index, .. }
            | Self::Overdrawn { index, .. }
            | Self::VerdictMissing { index }
            | Self::Verdict { index, .. }
            | Self::Decay { index, .. } => Some(*index),
            Self::Balance { .. } | Self::Changed { .. } => None,
        }
    }
}

/// What a machine remembers of a history: enough to notice when it is told another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Entries of the log then.
    pub size: u64,
    /// Entries of this history then.
    pub entries: u64,
    /// Digest of those.
    pub digest: [u8; 32],
}

/// What a sound history came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryReport {
    /// What to remember.
    pub seen: Remembered,
    /// The balance.
    pub balance: MicroNcu,
    /// Hashes of the longest path: what a stranger computes to check one entry.
    pub depth: usize,
    /// Earnings whose verdicts were recomputed.
    pub verdicts: u64,
    /// Decays that were recomputed.
    pub decays: u64,
}

/// The checking of one history. Feed it every entry of the account in order, then [`finish`](Self::finish).
pub struct Audit {
    account: AccountId,
    cell: CellId,
    economy: Option<Economy>,
    size: u64,
    root: Hash,
    remembered: Option<Remembered>,
    last: Option<u64>,
    jobs: BTreeSet<JobId>,
    balance: i128,
    earnings: Earnings,
    entries: u64,
    digest: [u8; 32],
    depth: usize,
    verdicts: u64,
    decays: u64,
}

impl Audit {
    /// Begins to check the history of `account` in the log of `cell` with this size and root.
    ///
    /// - `economy`: the rules by which credit fades, from the cell's founding record
    /// - `remembered`: what was seen the last time
    pub fn new(
        account: AccountId,
        cell: CellId,
        economy: Option<Economy>,
        (size, root): (u64, Hash),
        remembered: Option<Remembered>,
    ) -> Self {
        Self {
            account,
            cell,
            economy,
            size,
            root,
            remembered,
            last: None,
            jobs: BTreeSet::new(),
            balance: 0,
            earnings: Earnings::default(),
            entries: 0,
            digest: [0; 32],
            depth: 0,
            verdicts: 0,
            decays: 0,
        }
    }

    /// Checks the next entry.
    ///
    /// - `verdict`: what was decided, for an entry that accepts a task
    /// - `path`: the hashes from the entry's leaf to the root
    ///
    /// # Errors
    /// [`HistoryFault`], which names the entry.
    pub fn take(
        &mut self,
        entry: &Entry,
        verdict: Option<&Verdict>,
        path: &[Hash],
    ) -> Result<(), HistoryFault> {
        let index = entry.index;
        if entry.cell != self.cell {
            return Err(HistoryFault::OtherCell { index });
        }
        if let Some(after) = self.last.filter(|last| index <= *last) {
            return Err(HistoryFault::OutOfOrder { index, after });
        }
        let leaf = leaf_hash(entry);
        verify_inclusion(&leaf, index, self.size, path, &self.root)
            .map_err(|source| HistoryFault::NotInLog { index, source })?;
        self.check_memory(index)?;
        let changes = net(&entry.postings);
        let sum: i128 = changes.iter().map(|(_, amount)| amount).sum();
        if sum != 0 {
            return Err(HistoryFault::Unbalanced { index, sum });
        }
        let mine = Holder::Account(self.account);
        let own = changes.iter().find(|(holder, _)| *holder == mine).map(|(_, amount)| *amount);
        let paid = matches!(&entry.kind, EntryKind::TaskAccepted { job, .. } if self.jobs.contains(job));
        if own.is_none() && !paid {
            return Err(HistoryFault::NotMine { index, account: self.account });
        }
        let amount = own.unwrap_or(0);
        match &entry.kind {
            EntryKind::TaskAccepted { .. } => {
                let verdict = verdict.ok_or(HistoryFault::VerdictMissing { index })?;
                check_verdict(verdict)
                    .and_then(|()| check_entry(&self.cell, verdict, entry))
                    .map_err(|source| HistoryFault::Verdict { index, source })?;
                self.verdicts += 1;
                self.earnings.add(entry.at.day(), u64::try_from(amount).unwrap_or(0));
            }
            EntryKind::JobAdmitted { job, .. } => {
                self.jobs.insert(*job);
            }
            EntryKind::CreditDecayed { day, acceleration, .. } => {
                self.check_decay(entry, *day, *acceleration, amount)?;
                self.decays += 1;
            }
            EntryKind::CreditReversed { .. } => {
                self.earnings.take_back(u64::try_from(-amount).unwrap_or(0));
            }
            EntryKind::CellFounded { .. }
            | EntryKind::NodeJoined { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::JobEnded { .. }
            | EntryKind::NodeLeft { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CreditExpired { .. } => {}
        }
        let balance = self.balance + amount;
        if balance < 0 {
            return Err(HistoryFault::Overdrawn { index, balance });
        }
        self.balance = balance;
        self.last = Some(index);
        self.entries += 1;
        self.digest = Sha256::new().chain_update(self.digest).chain_update(leaf).finalize().into();
        self.depth = self.depth.max(path.len());
        Ok(())
    }

    /// Checks that the entries add up to what the cell says, and returns what they came to.
    ///
    /// # Errors
    /// [`HistoryFault::Balance`], or [`HistoryFault::Changed`] if entries that were seen before are gone.
    pub fn finish(mut self, claimed: MicroNcu) -> Result<HistoryReport, HistoryFault> {
        self.check_memory(u64::MAX)?;
        if self.balance != i128::from(claimed.0) {
            return Err(HistoryFault::Balance { summed: self.balance, claimed: claimed.0 });
        }
        Ok(HistoryReport {
            seen: Remembered { size: self.size, entries: self.entries, digest: self.digest },
            balance: claimed,
            depth: self.depth,
            verdicts: self.verdicts,
            decays: self.decays,
        })
    }

    /// Compares with what was seen the last time, as soon as the history goes beyond it.
    fn check_memory(&mut self, next: u64) -> Result<(), HistoryFault> {
        let Some(seen) = self.remembered.filter(|seen| next >= seen.size) else { return Ok(()) };
        if seen.entries != self.entries || seen.digest != self.digest {
            return Err(HistoryFault::Changed { size: seen.size, entries: seen.entries, now: self.entries });
        }
        self.remembered = None;
        Ok(())
    }

    fn check_decay(
        &self,
        entry: &Entry,
        day: u32,
        acceleration: PartsPerMillion,
        amount: i128,
    ) -> Result<(), HistoryFault> {
        let EntryKind::CreditDecayed { accounts, .. } = &entry.kind else { return Ok(()) };
        let mine = Holder::Account(self.account);
        let place = entry.postings.iter().position(|posting| posting.holder == mine);
        let row = place.and_then(|place| accounts.get(place)).copied();
        let found = row.map_or(0, |row| row.before.0);
        let floor = row.map_or(0, |row| row.floor.0);
        let fault = |reason: String| {
            let left = i128::from(found) + amount;
            Err(HistoryFault::Decay { index: entry.index, found, floor, left, reason })
        };
        if row.is_none() {
            return fault("it does not say what it found".to_owned());
        }
        if i128::from(found) != self.balance {
            return fault(format!("the balance before it was {}", self.balance));
        }
        let own_floor = self.earnings.trailing(day);
        if floor != own_floor {
            return fault(format!("{own_floor} were earned in the 30 days before it"));
        }
        let Some(economy) = &self.economy else {
            return fault("nothing fades in this cell".to_owned());
        };
        if acceleration < PartsPerMillion::ONE || acceleration > economy.acceleration_max {
            return fault(format!("the charter allows no acceleration of {acceleration}"));
        }
        let retained = Retained::of_day(economy.half_life_days, acceleration);
        let expected = retained.above(MicroNcu(found), MicroNcu(floor)).0;
        if i128::from(expected) != i128::from(found) + amount {
            return fault(format!("{expected} should be left"));
        }
        Ok(())
    }
}

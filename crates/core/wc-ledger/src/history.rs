//! One account's history, checked by its owner: every entry that moved its credit, and what they add up to.
//!
//! ```text
//! signed checkpoint ──► Audit ◄── own entries in order, each with its path to the root
//!                         │          in the log? mine? what its kind may post (rules)? what the verdict awards?
//!                         └──► finish: adds up to the claimed balance, and is what was seen the last time
//! ```
//! What this cannot show is an entry that the coordinator keeps back together with its amount: the sum would still be
//! right. It would have to be kept back from the beginning, since what was seen once is remembered; and the receipt of a
//! submitter, or anybody who reads the whole log, shows it.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use wc_types::charter::Economy;
use wc_types::entry::{Entry, EntryKind, Holder};
use wc_types::receipt::Verdict;
use wc_types::{AccountId, CellId, Class, Code, JobId, MicroNcu, NodeId, PartsPerMillion, TaskId, Timestamp};

use crate::accepted::Accepted;
use crate::chain::leaf_hash;
use crate::earnings::Earnings;
use crate::issue::{VerdictFault, check_entry, check_verdict};
use crate::merkle::Hash;
use crate::proof::{ProofError, verify_inclusion};
use crate::rules::{Known, Machine, OpenJob, Purse, RuleFault, Unchecked, check_postings};

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
    /// The entry is of a day that has not come, or of one before that of the entry before it.
    #[error("entry {index} is of {at}, which is not between {earliest} and {latest}")]
    Time {
        /// The entry.
        index: u64,
        /// When it says that it was decided.
        at: Timestamp,
        /// When the entry before it was.
        earliest: Timestamp,
        /// The latest that the reader's own clock allows.
        latest: Timestamp,
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
    /// Its kind does not allow what it posts.
    #[error("entry {index}")]
    Rule {
        /// The entry.
        index: u64,
        /// What is wrong.
        #[source]
        source: RuleFault,
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
            Self::Time { .. } => Code::new("WC-LEDGER-164", Class::Peer),
            Self::OutOfOrder { .. } => Code::new("WC-LEDGER-162", Class::Peer),
            Self::NotMine { .. } => Code::new("WC-LEDGER-163", Class::Peer),
            Self::Rule { source, .. } => source.code(),
            Self::Overdrawn { .. } => Code::new("WC-LEDGER-165", Class::Peer),
            Self::VerdictMissing { .. } => Code::new("WC-LEDGER-166", Class::Peer),
            Self::Verdict { .. } => Code::new("WC-LEDGER-167", Class::Peer),
            Self::Balance { .. } => Code::new("WC-LEDGER-169", Class::Peer),
            Self::Changed { .. } => Code::new("WC-LEDGER-170", Class::Peer),
        }
    }

    /// Returns the entry that is wrong, if it is one.
    pub fn entry(&self) -> Option<u64> {
        match self {
            Self::NotInLog { index, .. }
            | Self::OtherCell { index }
            | Self::Time { index, .. }
            | Self::OutOfOrder { index, .. }
            | Self::NotMine { index, .. }
            | Self::Rule { index, .. }
            | Self::Overdrawn { index, .. }
            | Self::VerdictMissing { index }
            | Self::Verdict { index, .. } => Some(*index),
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
    earliest: Timestamp,
    latest: Timestamp,
    /// My open jobs.
    jobs: BTreeMap<JobId, OpenJob>,
    /// Jobs of mine that have ended.
    ended: BTreeSet<JobId>,
    /// Tasks that paid me or that I paid for.
    accepted: BTreeMap<JobId, Accepted>,
    balance: i128,
    earned: u64,
    earnings: Earnings,
    /// Day of my first posting or of the last decay that took something.
    faded_on: Option<u32>,
    pace: Option<(u32, PartsPerMillion)>,
    /// What each machine earned for me since its last agreed check.
    unchecked: BTreeMap<NodeId, Unchecked>,
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
    /// - `latest`: no entry may be of a later moment, or a coordinator could fade days that have not come
    /// - `remembered`: what was seen the last time
    pub fn new(
        account: AccountId,
        cell: CellId,
        economy: Option<Economy>,
        (size, root): (u64, Hash),
        latest: Timestamp,
        remembered: Option<Remembered>,
    ) -> Self {
        Self {
            earliest: Timestamp(i64::MIN),
            latest,
            account,
            cell,
            economy,
            size,
            root,
            remembered,
            last: None,
            jobs: BTreeMap::new(),
            ended: BTreeSet::new(),
            accepted: BTreeMap::new(),
            balance: 0,
            earned: 0,
            earnings: Earnings::default(),
            faded_on: None,
            pace: None,
            unchecked: BTreeMap::new(),
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
        let (at, earliest, latest) = (entry.at, self.earliest, self.latest);
        if at < earliest || at > latest {
            return Err(HistoryFault::Time { index, at, earliest, latest });
        }
        let leaf = leaf_hash(entry);
        verify_inclusion(&leaf, index, self.size, path, &self.root)
            .map_err(|source| HistoryFault::NotInLog { index, source })?;
        self.check_memory(index)?;
        let changes = check_postings(entry, self).map_err(|source| HistoryFault::Rule { index, source })?;
        let mine = Holder::Account(self.account);
        let own = changes.iter().find(|(holder, _)| *holder == mine).map(|(_, amount)| *amount);
        let paid = matches!(&entry.kind, EntryKind::TaskAccepted { job, .. } if self.jobs.contains_key(job));
        if own.is_none() && !paid {
            return Err(HistoryFault::NotMine { index, account: self.account });
        }
        let amount = own.unwrap_or(0);
        match &entry.kind {
            EntryKind::TaskAccepted { job, stage, index: task, .. } => {
                let verdict = verdict.ok_or(HistoryFault::VerdictMissing { index })?;
                check_verdict(verdict)
                    .and_then(|()| check_entry(&self.cell, verdict, entry))
                    .map_err(|source| HistoryFault::Verdict { index, source })?;
                self.verdicts += 1;
                self.accepted.entry(*job).or_default().insert(*stage, *task);
                let earned = u64::try_from(amount).unwrap_or(0);
                self.earnings.add(entry.at.day(), earned);
                self.earned = self.earned.saturating_add(earned);
                if let Some(open) = self.jobs.get_mut(job) {
                    open.left = open.left.saturating_sub(verdict.charged.0);
                }
                self.note_votes(verdict, entry.at);
            }
            EntryKind::JobAdmitted { job, .. } => {
                let left = u64::try_from(-amount).unwrap_or(0);
                self.jobs.insert(*job, OpenJob { submitter: Some(self.account), left });
            }
            EntryKind::JobEnded { job, .. } => {
                self.jobs.remove(job);
                self.ended.insert(*job);
            }
            EntryKind::CreditDecayed { day, acceleration, .. } => {
                self.faded_on = Some(*day);
                self.pace = Some((*day, *acceleration));
                self.decays += 1;
            }
            EntryKind::CreditReversed { node, .. } => {
                self.earnings.take_back(u64::try_from(-amount).unwrap_or(0));
                self.unchecked.remove(node);
            }
            EntryKind::CellFounded { .. }
            | EntryKind::NodeJoined { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::NodeLeft { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CellMet { .. }
            | EntryKind::CreditExpired { .. } => {}
        }
        if own.is_some() {
            self.faded_on.get_or_insert(entry.at.day());
        }
        let balance = self.balance + amount;
        if balance < 0 {
            return Err(HistoryFault::Overdrawn { index, balance });
        }
        self.balance = balance;
        self.last = Some(index);
        self.earliest = at;
        self.entries += 1;
        self.digest = Sha256::new().chain_update(self.digest).chain_update(leaf).finalize().into();
        self.depth = self.depth.max(path.len());
        Ok(())
    }

    /// Checks that the entries add up to what the cell says, and returns what they came to.
    ///
    /// - `claimed`: what the cell says; `None` if it speaks of a longer log than this one
    ///
    /// # Errors
    /// [`HistoryFault::Balance`], or [`HistoryFault::Changed`] if entries that were seen before are gone.
    pub fn finish(mut self, claimed: Option<MicroNcu>) -> Result<HistoryReport, HistoryFault> {
        self.check_memory(u64::MAX)?;
        let summed = MicroNcu(u64::try_from(self.balance).unwrap_or(u64::MAX));
        if let Some(claimed) = claimed.filter(|claimed| *claimed != summed) {
            return Err(HistoryFault::Balance { summed: self.balance, claimed: claimed.0 });
        }
        Ok(HistoryReport {
            seen: Remembered { size: self.size, entries: self.entries, digest: self.digest },
            balance: summed,
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

    /// Notes what my machines earned by this verdict, and whether anybody else vouches for it.
    fn note_votes(&mut self, verdict: &Verdict, at: Timestamp) {
        let checked = verdict.spread.owners > 1;
        for vote in verdict.agreeing.iter().filter(|vote| vote.owner == self.account) {
            if checked {
                self.unchecked.remove(&vote.node);
            } else if vote.awarded.0 > 0 {
                let fresh = Unchecked { since: at, tasks: 0, earned: 0 };
                let work = self.unchecked.entry(vote.node).or_insert(fresh);
                work.tasks += 1;
                work.earned = work.earned.saturating_add(vote.awarded.0);
            }
        }
    }
}

impl Known for Audit {
    fn economy(&self) -> Option<&Economy> {
        self.economy.as_ref()
    }

    fn purse(&self, account: &AccountId, day: u32) -> Option<Purse> {
        (*account == self.account).then(|| Purse {
            balance: u64::try_from(self.balance).unwrap_or(0),
            earned: self.earned,
            floor: self.earnings.trailing(day),
            faded_on: self.faded_on.unwrap_or(0),
        })
    }

    /// A job that is not among mine is somebody else's, unless the entry says that it is mine.
    fn job(&self, job: &JobId, submitter: Option<&AccountId>) -> Option<Option<OpenJob>> {
        match self.jobs.get(job) {
            Some(open) => Some(Some(*open)),
            None => (submitter == Some(&self.account)).then_some(None),
        }
    }

    fn has_ended(&self, job: &JobId) -> bool {
        self.ended.contains(job)
    }

    fn is_accepted(&self, task: &TaskId) -> bool {
        self.accepted.get(&task.job).is_some_and(|accepted| accepted.contains(task.stage, task.index))
    }

    /// Who joined is not told to a donor.
    fn machine(&self, _node: &NodeId, _owner: &AccountId) -> Option<Machine> {
        None
    }

    fn expires_at(&self, _account: &AccountId) -> Option<Option<Timestamp>> {
        None
    }

    fn pace(&self) -> Option<(u32, PartsPerMillion)> {
        self.pace
    }

    fn unchecked(&self, node: &NodeId, owner: &AccountId) -> Option<Unchecked> {
        let none = Unchecked { since: Timestamp(i64::MIN), tasks: 0, earned: 0 };
        (*owner == self.account).then(|| self.unchecked.get(node).copied().unwrap_or(none))
    }
}

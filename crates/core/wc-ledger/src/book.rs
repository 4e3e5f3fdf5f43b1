//! Balances: the state that the entries of a log add up to.
//!
//! Credit is never made or lost here: the sum over all holders is zero before and after every entry, because what
//! accounts and reserves hold is exactly what the issuance is below zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wc_types::charter::Economy;
use wc_types::entry::{Decay, Entry, EntryKind, Holder, Posting, Standing};
use wc_types::{AccountId, Class, Code, JobId, MicroNcu, NodeId, PartsPerMillion, TaskId, Timestamp};

use crate::accepted::Accepted;
use crate::earnings::Earnings;
use crate::fade::Retained;
use crate::pairs;
use crate::rules::{Known, Machine, OpenJob, Purse, RuleFault, Unchecked, check_postings};

/// Accounts that one look for decay passes over at most, whether they lose anything or not.
const LOOKED_AT_MAX: usize = 65_536;

/// An entry cannot be posted. The book is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// Its kind does not allow what it posts.
    #[error(transparent)]
    Rule(#[from] RuleFault),
    /// Somebody would owe (CRD-02).
    #[error("{holder:?} holds {balance} µNCU and cannot give {amount}")]
    Overdrawn {
        /// Whose balance.
        holder: Holder,
        /// What it is.
        balance: i64,
        /// What would be taken.
        amount: i128,
    },
    /// A balance or a total leaves the range of 64 bits.
    #[error("balance of {holder:?} leaves the range of 64 bits")]
    Overflow {
        /// Whose balance.
        holder: Holder,
    },
}

impl PostError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Rule(fault) => fault.code(),
            Self::Overdrawn { .. } => Code::new("WC-LEDGER-002", Class::Exhausted),
            Self::Overflow { .. } => Code::new("WC-LEDGER-003", Class::Ours),
        }
    }
}

/// What an account holds and where it came from, in micro-NCU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// What it may spend now.
    pub balance: i64,
    /// What accepted tasks ever paid it.
    pub earned: i64,
    /// What its jobs ever cost it: set aside, less what came back.
    pub spent: i64,
    /// What decay, reversal and expiry ever took.
    pub lost: i64,
}

/// One account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    totals: Totals,
    /// What it earned of late: its floor.
    earnings: Earnings,
    /// Day of its first posting or of the last decay that took something.
    faded_on: u32,
    /// Whether decay ever took something.
    faded: bool,
}

/// What one day takes from some accounts, ready to be posted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fading {
    /// Who loses, in order of accounts: what it had, its floor, and what it has afterwards.
    pub accounts: Vec<(AccountId, Decay, MicroNcu)>,
    /// The last account that was looked at, if there may be more behind it.
    pub next: Option<AccountId>,
}

/// The balances of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// Minus everything that is outstanding.
    issuance: i64,
    /// What withdrawn donors left behind.
    public_good: i64,
    /// What submitters paid with of late.
    redeemed: Earnings,
    #[serde(with = "pairs")]
    accounts: BTreeMap<AccountId, Account>,
    /// Jobs that were admitted and have not ended, with what is left of their reserves.
    #[serde(with = "pairs")]
    jobs: BTreeMap<JobId, OpenJob>,
    /// Tasks of those that were accepted.
    #[serde(with = "pairs")]
    accepted: BTreeMap<JobId, Accepted>,
    /// Jobs that have ended.
    ended: BTreeSet<JobId>,
    /// The rules of credit in the founding record, if it has any.
    economy: Option<Economy>,
    /// Machines that joined, each with every owner that it joined for.
    machines: BTreeSet<(NodeId, AccountId)>,
    /// Owners of the machines that have not left.
    #[serde(with = "pairs")]
    owners: BTreeMap<NodeId, AccountId>,
    /// The same, by owner.
    owned: BTreeSet<(AccountId, NodeId)>,
    /// Machines that were convicted and not forgiven.
    quarantined: BTreeSet<NodeId>,
    /// Donors without a machine, and when their credit ends.
    #[serde(with = "pairs")]
    leaving: BTreeMap<AccountId, Timestamp>,
    /// Day and acceleration of the last decay.
    pace: Option<(u32, PartsPerMillion)>,
}

impl Book {
    /// Returns the book before the first entry.
    ///
    /// - `economy`: the rules of credit in the cell's founding record, if it has any
    pub fn new(economy: Option<Economy>) -> Self {
        Self { economy, ..Self::default() }
    }

    /// Posts an entry: all of its postings, or none.
    ///
    /// # Errors
    /// [`PostError`] if the entry's kind does not allow what it posts ([`check_postings`]), if a holder other than the
    /// issuance would go below zero, or if an amount leaves the range of 64 bits.
    ///
    /// # Source
    /// CRD-02, invariant LEDGER-1: the sum over all holders is zero.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), PostError> {
        let changes = check_postings(entry, self)?;
        let mut next = Vec::with_capacity(changes.len());
        for &(holder, amount) in &changes {
            next.push((holder, self.after(holder, amount, &entry.kind)?));
        }
        let day = entry.at.day();
        for (holder, totals) in next {
            match holder {
                Holder::Issuance => self.issuance = totals.balance,
                Holder::PublicGood => self.public_good = totals.balance,
                Holder::Account(account) => self.settle(account, totals, &entry.kind, day),
                Holder::Reserve(job) => {
                    self.jobs.entry(job).or_default().left = u64::try_from(totals.balance).unwrap_or(0);
                }
            }
        }
        self.record(&entry.kind, &changes, day);
        Ok(())
    }

    /// Remembers what later entries are checked against.
    fn record(&mut self, kind: &EntryKind, changes: &[(Holder, i128)], day: u32) {
        match kind {
            EntryKind::NodeJoined { node, owner, .. } => {
                self.machines.insert((*node, *owner));
                if let Some(before) = self.owners.insert(*node, *owner) {
                    self.owned.remove(&(before, *node));
                }
                self.owned.insert((*owner, *node));
                self.leaving.remove(owner);
            }
            EntryKind::NodeStanding { node, standing: Standing::Quarantined } => {
                self.quarantined.insert(*node);
            }
            EntryKind::NodeStanding { node, standing: Standing::Good } => {
                self.quarantined.remove(node);
            }
            EntryKind::NodeLeft { node, owner, expires_at } => {
                self.owners.remove(node);
                self.owned.remove(&(*owner, *node));
                if let Some(at) = expires_at {
                    self.leaving.insert(*owner, *at);
                }
            }
            EntryKind::JobAdmitted { job, .. } => {
                let submitter = changes.iter().find_map(|(holder, _)| match holder {
                    Holder::Account(account) => Some(*account),
                    Holder::Issuance | Holder::Reserve(_) | Holder::PublicGood => None,
                });
                self.jobs.entry(*job).or_default().submitter = submitter;
            }
            EntryKind::TaskAccepted { job, stage, index, .. } => {
                self.accepted.entry(*job).or_default().insert(*stage, *index);
                let paid = changes.iter().find(|(holder, _)| *holder == Holder::Reserve(*job));
                let paid = paid.map_or(0, |&(_, amount)| u64::try_from(-amount).unwrap_or(0));
                self.redeemed.add(day, paid);
            }
            EntryKind::JobEnded { job, .. } => {
                self.jobs.remove(job);
                self.accepted.remove(job);
                self.ended.insert(*job);
            }
            EntryKind::CreditDecayed { day, acceleration, .. } => self.pace = Some((*day, *acceleration)),
            EntryKind::CreditExpired { account, .. } => {
                self.leaving.remove(account);
            }
            EntryKind::CellFounded { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CellMet { .. }
            | EntryKind::CreditReversed { .. } => {}
        }
    }

    /// Writes an account's new totals and what they mean for its floor.
    fn settle(&mut self, id: AccountId, totals: Totals, kind: &EntryKind, day: u32) {
        let account =
            self.accounts.entry(id).or_insert_with(|| Account { faded_on: day, ..Account::default() });
        let change = totals.earned - account.totals.earned;
        account.earnings.add(day, u64::try_from(change).unwrap_or(0));
        match kind {
            EntryKind::CreditDecayed { day, .. } => {
                account.faded_on = *day;
                account.faded = true;
            }
            EntryKind::CreditReversed { .. } => {
                account.earnings.take_back(totals.lost.abs_diff(account.totals.lost));
            }
            EntryKind::CellFounded { .. }
            | EntryKind::NodeJoined { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::JobAdmitted { .. }
            | EntryKind::TaskAccepted { .. }
            | EntryKind::JobEnded { .. }
            | EntryKind::NodeLeft { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CellMet { .. }
            | EntryKind::CreditExpired { .. } => {}
        }
        account.totals = totals;
    }

    /// Returns what `day` takes from the accounts after `after`, at most `limit` of them that lose something.
    ///
    /// Posting it is one or several [`EntryKind::CreditDecayed`] entries; the book itself does not change here.
    pub fn fading(&self, after: Option<&AccountId>, day: u32, retained: Retained, limit: usize) -> Fading {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut fading = Fading::default();
        for (looked_at, (id, account)) in (1..).zip(self.accounts.range((from, Unbounded))) {
            let before = MicroNcu(u64::try_from(account.totals.balance).unwrap_or(0));
            if before.0 > 0 && account.faded_on < day {
                let floor = MicroNcu(account.earnings.trailing(day));
                let left = retained.above(before, floor);
                if left < before {
                    fading.accounts.push((*id, Decay { before, floor }, left));
                }
            }
            if fading.accounts.len() >= limit || looked_at >= LOOKED_AT_MAX {
                fading.next = Some(*id);
                break;
            }
        }
        fading
    }

    /// Returns what `account` may not fade below on `day`: what it earned in the trailing 30 days (CRD-05).
    pub fn floor(&self, account: &AccountId, day: u32) -> MicroNcu {
        MicroNcu(self.accounts.get(account).map_or(0, |account| account.earnings.trailing(day)))
    }

    /// Returns when decay last took something from `account`.
    pub fn faded_at(&self, account: &AccountId) -> Option<Timestamp> {
        let account = self.accounts.get(account)?;
        account.faded.then(|| Timestamp::of_day(account.faded_on))
    }

    /// Returns what accounts and reserves hold together.
    pub fn outstanding(&self) -> u64 {
        let outstanding = -i128::from(self.issuance) - i128::from(self.public_good);
        u64::try_from(outstanding).unwrap_or(0)
    }

    /// Returns what submitters paid with in the 30 days before `day`.
    pub fn redeemed(&self, day: u32) -> u64 {
        self.redeemed.trailing(day)
    }

    /// Returns what `holder` holds, in micro-NCU.
    pub fn balance(&self, holder: &Holder) -> i64 {
        match holder {
            Holder::Issuance => self.issuance,
            Holder::PublicGood => self.public_good,
            Holder::Account(account) => self.totals(account).balance,
            Holder::Reserve(job) => {
                self.jobs.get(job).map_or(0, |open| i64::try_from(open.left).unwrap_or(i64::MAX))
            }
        }
    }

    /// Returns what `account` holds, earned and spent; zeros for one that never had a posting.
    pub fn totals(&self, account: &AccountId) -> Totals {
        self.accounts.get(account).map(|account| account.totals).unwrap_or_default()
    }

    /// Returns every account that ever had a posting, in order.
    pub fn accounts(&self) -> impl Iterator<Item = (&AccountId, &Totals)> {
        self.accounts.iter().map(|(id, account)| (id, &account.totals))
    }

    /// Returns the sum over all holders, which is zero (invariant LEDGER-1).
    pub fn total(&self) -> i128 {
        let accounts: i128 = self.accounts.values().map(|account| i128::from(account.totals.balance)).sum();
        let reserves: i128 = self.jobs.values().map(|open| i128::from(open.left)).sum();
        i128::from(self.issuance) + i128::from(self.public_good) + accounts + reserves
    }

    /// Returns what `holder` would have after `amount`.
    fn after(&self, holder: Holder, amount: i128, kind: &EntryKind) -> Result<Totals, PostError> {
        let balance = self.balance(&holder);
        let changed = i128::from(balance) + amount;
        if changed < 0 && holder != Holder::Issuance {
            return Err(PostError::Overdrawn { holder, balance, amount: -amount });
        }
        let fit = |wide: i128| i64::try_from(wide).map_err(|_| PostError::Overflow { holder });
        let Holder::Account(account) = holder else {
            return Ok(Totals { balance: fit(changed)?, ..Totals::default() });
        };
        let Totals { earned, spent, lost, .. } = self.totals(&account);
        let (mut earned, mut spent, mut lost) = (i128::from(earned), i128::from(spent), i128::from(lost));
        match kind {
            EntryKind::TaskAccepted { .. } if amount > 0 => earned += amount,
            EntryKind::TaskAccepted { .. } | EntryKind::JobAdmitted { .. } | EntryKind::JobEnded { .. } => {
                spent -= amount;
            }
            EntryKind::CreditDecayed { .. }
            | EntryKind::CreditReversed { .. }
            | EntryKind::CreditExpired { .. } => lost -= amount,
            EntryKind::CellFounded { .. }
            | EntryKind::NodeJoined { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CellMet { .. }
            | EntryKind::NodeLeft { .. } => {}
        }
        Ok(Totals { balance: fit(changed)?, earned: fit(earned)?, spent: fit(spent)?, lost: fit(lost)? })
    }
}

impl Known for Book {
    fn economy(&self) -> Option<&Economy> {
        self.economy.as_ref()
    }

    fn purse(&self, account: &AccountId, day: u32) -> Option<Purse> {
        let Some(account) = self.accounts.get(account) else { return Some(Purse::default()) };
        let amount = |signed: i64| u64::try_from(signed).unwrap_or(0);
        Some(Purse {
            balance: amount(account.totals.balance),
            earned: amount(account.totals.earned),
            floor: account.earnings.trailing(day),
            faded_on: account.faded_on,
        })
    }

    fn job(&self, job: &JobId, _submitter: Option<&AccountId>) -> Option<Option<OpenJob>> {
        Some(self.jobs.get(job).copied())
    }

    fn has_ended(&self, job: &JobId) -> bool {
        self.ended.contains(job)
    }

    fn is_accepted(&self, task: &TaskId) -> bool {
        self.accepted.get(&task.job).is_some_and(|accepted| accepted.contains(task.stage, task.index))
    }

    fn machine(&self, node: &NodeId, owner: &AccountId) -> Option<Machine> {
        let joined = self.machines.contains(&(*node, *owner));
        let mut owned = self.owned.range((*owner, NodeId([0; 32]))..).take_while(|(of, _)| of == owner);
        Some(Machine {
            joined,
            here: self.owned.contains(&(*owner, *node)),
            last: owned.all(|(_, other)| other == node),
            quarantined: self.quarantined.contains(node),
        })
    }

    fn expires_at(&self, account: &AccountId) -> Option<Option<Timestamp>> {
        Some(self.leaving.get(account).copied())
    }

    fn pace(&self) -> Option<(u32, PartsPerMillion)> {
        self.pace
    }

    /// Verdicts are no part of the ledger: whoever has only its entries cannot know.
    fn unchecked(&self, _node: &NodeId, _owner: &AccountId) -> Option<Unchecked> {
        None
    }
}

/// Returns the change of each holder that has one, in order of holders. A holder may occur in several postings: one
/// owner of two machines is paid for both.
pub(crate) fn net(postings: &[Posting]) -> Vec<(Holder, i128)> {
    let mut changes: Vec<(Holder, i128)> =
        postings.iter().map(|posting| (posting.holder, i128::from(posting.amount))).collect();
    changes.sort_unstable_by_key(|&(holder, _)| holder);
    changes.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
    changes.retain(|&(_, amount)| amount != 0);
    changes
}

#[cfg(test)]
mod tests;

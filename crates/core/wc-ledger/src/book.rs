//! Balances: the state that the entries of a log add up to.
//!
//! Credit is never made or lost here: the sum over all holders is zero before and after every entry, because what
//! accounts and reserves hold is exactly what the issuance is below zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::{AccountId, Class, Code, JobId};

use crate::pairs;

/// An entry cannot be posted. The book is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// Credit would appear or vanish.
    #[error("postings sum to {sum} µNCU, not to zero")]
    Unbalanced {
        /// What they sum to.
        sum: i128,
    },
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
            Self::Unbalanced { .. } => Code::new("WC-LEDGER-001", Class::Ours),
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
}

/// The balances of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// Minus everything that was ever issued.
    issuance: i64,
    #[serde(with = "pairs")]
    accounts: BTreeMap<AccountId, Totals>,
    /// Open reserves; one that is used up is forgotten.
    #[serde(with = "pairs")]
    reserves: BTreeMap<JobId, i64>,
}

impl Book {
    /// Returns the book before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Posts an entry: all of its postings, or none.
    ///
    /// # Errors
    /// [`PostError`] if the postings do not sum to zero, would take a holder other than the issuance below zero, or
    /// leave the range of 64 bits.
    ///
    /// # Source
    /// CRD-02, invariant LEDGER-1: the sum over all holders is zero.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), PostError> {
        let changes = net(&entry.postings);
        let sum: i128 = changes.iter().map(|&(_, amount)| amount).sum();
        if sum != 0 {
            return Err(PostError::Unbalanced { sum });
        }
        let mut next = Vec::with_capacity(changes.len());
        for &(holder, amount) in &changes {
            next.push((holder, self.after(holder, amount, &entry.kind)?));
        }
        for (holder, totals) in next {
            match holder {
                Holder::Issuance => self.issuance = totals.balance,
                Holder::Account(account) => {
                    self.accounts.insert(account, totals);
                }
                Holder::Reserve(job) if totals.balance == 0 => {
                    self.reserves.remove(&job);
                }
                Holder::Reserve(job) => {
                    self.reserves.insert(job, totals.balance);
                }
            }
        }
        Ok(())
    }

    /// Returns what `holder` holds, in micro-NCU.
    pub fn balance(&self, holder: &Holder) -> i64 {
        match holder {
            Holder::Issuance => self.issuance,
            Holder::Account(account) => self.totals(account).balance,
            Holder::Reserve(job) => self.reserves.get(job).copied().unwrap_or(0),
        }
    }

    /// Returns what `account` holds, earned and spent; zeros for one that never had a posting.
    pub fn totals(&self, account: &AccountId) -> Totals {
        self.accounts.get(account).copied().unwrap_or_default()
    }

    /// Returns every account that ever had a posting, in order.
    pub fn accounts(&self) -> impl Iterator<Item = (&AccountId, &Totals)> {
        self.accounts.iter()
    }

    /// Returns the sum over all holders, which is zero (invariant LEDGER-1).
    pub fn total(&self) -> i128 {
        let accounts: i128 = self.accounts.values().map(|totals| i128::from(totals.balance)).sum();
        let reserves: i128 = self.reserves.values().map(|&balance| i128::from(balance)).sum();
        i128::from(self.issuance) + accounts + reserves
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
        let Totals { earned, spent, .. } = self.totals(&account);
        let (mut earned, mut spent) = (i128::from(earned), i128::from(spent));
        match kind {
            EntryKind::TaskAccepted { .. } if amount > 0 => earned += amount,
            EntryKind::TaskAccepted { .. } | EntryKind::JobAdmitted { .. } | EntryKind::JobEnded { .. } => {
                spent -= amount;
            }
            EntryKind::CellFounded { .. }
            | EntryKind::NodeJoined { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::SignersChanged { .. } => {}
        }
        Ok(Totals { balance: fit(changed)?, earned: fit(earned)?, spent: fit(spent)? })
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

//! `CELL-10`: decay never raises a balance nor takes it below what was earned in the trailing 30 days, and only the
//! convicted lose what they earned unchecked.

use std::collections::{BTreeMap, BTreeSet};

use wc_cell::Command;
use wc_types::entry::{Entry, EntryKind, Holder, Standing};
use wc_types::receipt::Verdict;
use wc_types::{AccountId, NodeId};

use crate::invariant::{Invariant, Step};

/// Days that the floor is taken over.
const DAYS: u32 = 30;

/// Keeps every account's book the long way, from what was published.
#[derive(Default)]
pub struct Fading {
    balances: BTreeMap<AccountId, i64>,
    /// What each account earned, by day.
    earned: BTreeMap<AccountId, Vec<(u32, u64)>>,
    /// What each node earned for whom since it was last checked and agreed.
    unchecked: BTreeMap<NodeId, BTreeMap<AccountId, u64>>,
    convicted: BTreeSet<NodeId>,
    /// The last day on which an account faded.
    faded: BTreeMap<AccountId, u32>,
    withdrawn: BTreeMap<AccountId, i64>,
}

impl Fading {
    fn entry(&mut self, entry: &Entry, verdict: Option<&Verdict>) -> Result<(), String> {
        match &entry.kind {
            EntryKind::CreditDecayed { day, accounts, .. } => {
                if accounts.is_empty() || accounts.len() + 1 != entry.postings.len() {
                    return Err(format!("entry {} does not say what it found", entry.index));
                }
                for (decay, posting) in accounts.iter().zip(&entry.postings) {
                    let Holder::Account(account) = posting.holder else {
                        return Err(format!("entry {} fades {:?}", entry.index, posting.holder));
                    };
                    let floor = self.floor(&account, *day);
                    let before = self.balances.get(&account).copied().unwrap_or(0);
                    let after = before + posting.amount;
                    if decay.before.0 != before.unsigned_abs() || decay.floor.0 != floor {
                        return Err(format!(
                            "entry {} found {decay:?}, not {before} and {floor}",
                            entry.index
                        ));
                    }
                    if posting.amount >= 0 || after < before.min(i64::try_from(floor).unwrap_or(i64::MAX)) {
                        return Err(format!("{account} fades from {before} to {after}, floor {floor}"));
                    }
                    if self.faded.insert(account, *day).is_some_and(|last| last >= *day) {
                        return Err(format!("{account} fades twice on day {day}"));
                    }
                }
            }
            EntryKind::CreditReversed { node, owner, unverified, shortfall, .. } => {
                let own = self.unchecked.get_mut(node).and_then(|owners| owners.remove(owner)).unwrap_or(0);
                let taken: u64 = entry
                    .postings
                    .iter()
                    .filter(|posting| posting.holder == Holder::Account(*owner))
                    .map(|posting| posting.amount.unsigned_abs())
                    .sum();
                if !self.convicted.contains(node) || own != unverified.0 || taken + shortfall.0 != own {
                    return Err(format!("{node} earned {own} unchecked, entry {} is {entry:?}", entry.index));
                }
                let strangers = entry.postings.iter().any(|posting| {
                    posting.holder != Holder::Account(*owner) && posting.holder != Holder::Issuance
                });
                if strangers {
                    return Err(format!("entry {} touches others than {owner}", entry.index));
                }
                self.take_back(owner, taken);
            }
            EntryKind::NodeStanding { node, standing: Standing::Quarantined } => {
                self.convicted.insert(*node);
            }
            EntryKind::NodeLeft { owner, expires_at, .. } => {
                match expires_at {
                    Some(at) => self.withdrawn.insert(*owner, at.0),
                    None => self.withdrawn.remove(owner),
                };
            }
            EntryKind::CreditExpired { account, .. } => {
                if self.withdrawn.remove(account).is_none_or(|at| entry.at.0 < at) {
                    return Err(format!("the credit of {account} expires before its time"));
                }
            }
            EntryKind::NodeJoined { owner, .. } => {
                self.withdrawn.remove(owner);
            }
            EntryKind::CellFounded { .. }
            | EntryKind::SignersChanged { .. }
            | EntryKind::CellMet { .. }
            | EntryKind::NodeStanding { .. }
            | EntryKind::JobAdmitted { .. }
            | EntryKind::TaskAccepted { .. }
            | EntryKind::JobEnded { .. } => {}
        }
        for posting in &entry.postings {
            let Holder::Account(account) = posting.holder else { continue };
            *self.balances.entry(account).or_default() += posting.amount;
            if matches!(entry.kind, EntryKind::TaskAccepted { .. }) {
                let earned = self.earned.entry(account).or_default();
                earned.push((entry.at.day(), posting.amount.unsigned_abs()));
            }
        }
        if let Some(verdict) = verdict {
            for vote in &verdict.agreeing {
                let unchecked = self.unchecked.entry(vote.node).or_default();
                if verdict.spread.owners > 1 {
                    unchecked.clear();
                } else {
                    *unchecked.entry(vote.owner).or_default() += vote.awarded.0;
                }
            }
        }
        Ok(())
    }

    fn floor(&self, account: &AccountId, day: u32) -> u64 {
        let earned = self.earned.get(account).into_iter().flatten();
        earned.filter(|(on, _)| on + DAYS >= day).map(|(_, amount)| amount).sum()
    }

    fn take_back(&mut self, owner: &AccountId, mut amount: u64) {
        for (_, earned) in self.earned.get_mut(owner).into_iter().flatten().rev() {
            let taken = amount.min(*earned);
            *earned -= taken;
            amount -= taken;
        }
    }
}

impl Invariant for Fading {
    fn name(&self) -> &'static str {
        "CELL-10 fading"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        let verdict = |index: u64| {
            step.commands.iter().find_map(|command| match command {
                Command::Decide { verdict, entry, .. } if *entry == index => Some(verdict),
                _ => None,
            })
        };
        for command in step.commands {
            if let Command::Publish { entries } = command {
                for entry in entries {
                    self.entry(entry, verdict(entry.index))?;
                }
            }
        }
        Ok(())
    }
}

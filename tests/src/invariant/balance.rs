//! `CELL-1`: credit is moved, never made: postings sum to zero and only the issuance is below it.

use std::collections::BTreeMap;

use wc_cell::Command;
use wc_ledger::{Tree, leaf_hash};
use wc_types::entry::{Entry, Holder};
use wc_types::{Cid, record_cid};

use crate::invariant::{Invariant, Step};

/// Follows the ledger as a stranger would.
#[derive(Default)]
pub struct Balance {
    balances: BTreeMap<Holder, i64>,
    tree: Tree,
    previous: Option<Cid>,
}

impl Balance {
    fn entry(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.index != self.tree.size() || entry.previous != self.previous {
            return Err(format!("entry {} does not continue the log", entry.index));
        }
        if entry.postings.iter().map(|posting| i128::from(posting.amount)).sum::<i128>() != 0 {
            return Err(format!("entry {} makes or loses credit", entry.index));
        }
        for posting in &entry.postings {
            *self.balances.entry(posting.holder).or_default() += posting.amount;
        }
        for posting in &entry.postings {
            let balance = self.balances.get(&posting.holder).copied().unwrap_or(0);
            if balance < 0 && posting.holder != Holder::Issuance {
                return Err(format!("{:?} has {balance} after entry {}", posting.holder, entry.index));
            }
        }
        self.previous = Some(record_cid(entry));
        self.tree.push(leaf_hash(entry));
        Ok(())
    }
}

impl Invariant for Balance {
    fn name(&self) -> &'static str {
        "CELL-1 balance"
    }

    fn observe(&mut self, step: &Step<'_>) -> Result<(), String> {
        for command in step.commands {
            if let Command::Publish { entries } = command {
                entries.iter().try_for_each(|entry| self.entry(entry))?;
            }
        }
        if step.cell.ledger_size() != self.tree.size() || step.cell.ledger_root() != self.tree.root() {
            return Err("what was published is not what the cell has".into());
        }
        Ok(())
    }

    fn finish(&mut self, step: &Step<'_>) -> Result<(), String> {
        for (holder, balance) in &self.balances {
            match holder {
                Holder::Reserve(job) if *balance != 0 => {
                    return Err(format!("{balance} µNCU are still set aside for {job}"));
                }
                Holder::Account(account) if step.cell.balance(account).0 != balance.unsigned_abs() => {
                    return Err(format!("the cell and the ledger disagree on {account}"));
                }
                Holder::Account(_) | Holder::Reserve(_) | Holder::Issuance | Holder::PublicGood => {}
            }
        }
        Ok(())
    }
}

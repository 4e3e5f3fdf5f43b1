//! What happens to credit after it was earned: it fades day by day, is taken back from the convicted, and outlives its
//! owner's withdrawal by half a year.
//!
//! ```text
//! midnight ──► acceleration of the day ──► accounts in order, a batch for each tick ──► CreditDecayed …
//! conviction ──► what the node earned unchecked ──► CreditReversed
//! last node leaves ── 180 days ──► CreditExpired          joins again in time: nothing
//! ```
//! A cell that was founded without an [`Economy`](wc_types::charter::Economy) does none of this.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wc_ledger::{Acceleration, Fading, Retained};
use wc_types::charter::Economy;
use wc_types::entry::{EntryKind, Holder, Posting};
use wc_types::node::CaliberClass;
use wc_types::{AccountId, MicroNcu, Millis, NodeId, Timestamp};

use crate::cell::Cell;
use crate::node::NodeNo;
use crate::pairs;
use crate::timer::Due;
use crate::turn::Turn;

/// Accounts that one decay entry names at most: bounds what a donor must fetch to check its own line, to about 40 KB.
const ACCOUNTS_PER_ENTRY: usize = 256;
/// Accounts that fade in one fact at most. What is left follows with the next tick, so that nobody waits long behind a
/// cell with a million accounts.
const ACCOUNTS_PER_FACT: usize = 16 * ACCOUNTS_PER_ENTRY;
/// Owners for whom one node's unchecked work is remembered. A machine that changes hands more often without one agreed
/// check is forgiven the oldest.
const UNVERIFIED_OWNERS_MAX: usize = 16;
const DAY: u64 = 24 * 3_600_000;
/// Days of one accounting window of donated classes.
const WINDOW_DAYS: u32 = 30;

/// Credit over time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tide {
    /// The day that fades next, or is fading.
    day: u32,
    /// The last account of that day that was looked at, while it is fading.
    after: Option<AccountId>,
    pub(crate) acceleration: Acceleration,
    /// Donors none of whose nodes are left, and since when.
    #[serde(with = "pairs")]
    withdrawn: BTreeMap<AccountId, Timestamp>,
    /// What each donor's machines were, weighed by what they earned.
    #[serde(with = "pairs")]
    donated: BTreeMap<AccountId, Donated>,
}

/// What a donor's machines earned, by class, in the accounting window that runs and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Donated {
    window: u32,
    now: [u64; 5],
    before: [u64; 5],
}

impl Donated {
    fn note(&mut self, class: CaliberClass, amount: MicroNcu, at: Timestamp) {
        let window = at.day() / WINDOW_DAYS;
        if window > self.window {
            self.before = if window == self.window + 1 { self.now } else { [0; 5] };
            self.now = [0; 5];
            self.window = window;
        }
        let earned = &mut self.now[usize::from(class as u8)];
        *earned = earned.saturating_add(amount.0);
    }

    /// Returns the average class, rounded down: credit from many small machines and one large does not claim the large.
    fn class(&self, at: Timestamp) -> Option<CaliberClass> {
        let window = at.day() / WINDOW_DAYS;
        let (mut weight, mut sum) = (0u128, 0u128);
        for (age, amounts) in [(0, &self.now), (1, &self.before)] {
            if window.saturating_sub(self.window) + age > 1 {
                continue;
            }
            for (class, &amount) in (0u128..).zip(amounts) {
                weight += u128::from(amount);
                sum += class * u128::from(amount);
            }
        }
        match sum.checked_div(weight)? {
            0 => Some(CaliberClass::C0),
            1 => Some(CaliberClass::C1),
            2 => Some(CaliberClass::C2),
            3 => Some(CaliberClass::C3),
            _ => Some(CaliberClass::C4),
        }
    }
}

/// What a node earned for one owner since its last agreed check, by work that was compared with nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unverified {
    since: Timestamp,
    tasks: u64,
    earned: u64,
}

impl Cell {
    pub(crate) fn economy(&self) -> Option<&Economy> {
        self.charter()?.economy.as_ref()
    }

    /// Begins to count days.
    pub(crate) fn open_books(&mut self, turn: &Turn) {
        if self.economy().is_some() {
            self.tide.day = turn.at.day().saturating_add(1);
            self.timers.set(Timestamp::of_day(self.tide.day), Due::Day);
        }
    }

    /// Fades the next accounts of the day that is due. Days that a sleeping coordinator missed come one after the
    /// other, so what is left does not depend on when it woke up.
    pub(crate) fn day_begins(&mut self, turn: &mut Turn) {
        let Some(economy) = self.economy().cloned() else { return };
        let today = turn.at.day();
        if self.tide.after.is_none() {
            let book = &self.ledger.book;
            if book.outstanding() == 0 {
                // Nothing can fade: a cell that slept for years need not count them.
                self.tide.day = today;
            }
            let redeemed = book.redeemed(self.tide.day);
            self.tide.acceleration = self.tide.acceleration.next(book.outstanding(), redeemed, &economy);
        }
        let retained = Retained::of_day(economy.half_life_days, self.tide.acceleration.factor);
        let Fading { accounts, next } =
            self.ledger.book.fading(self.tide.after.as_ref(), self.tide.day, retained, ACCOUNTS_PER_FACT);
        let (day, acceleration) = (self.tide.day, self.tide.acceleration.factor);
        for accounts in accounts.chunks(ACCOUNTS_PER_ENTRY) {
            let loss =
                |before: MicroNcu, left: MicroNcu| i64::try_from(before.0 - left.0).unwrap_or(i64::MAX);
            let mut postings: Vec<Posting> = accounts
                .iter()
                .map(|(account, decay, left)| {
                    let amount = -loss(decay.before, *left);
                    Posting { holder: Holder::Account(*account), amount }
                })
                .collect();
            let total = postings.iter().fold(0i64, |sum, posting| sum.saturating_sub(posting.amount));
            postings.push(Posting { holder: Holder::Issuance, amount: total });
            let accounts = accounts.iter().map(|(_, decay, _)| *decay).collect();
            self.post(EntryKind::CreditDecayed { day, acceleration, accounts }, postings, turn);
        }
        // Due again right after this moment, in a fact of its own.
        let soon = Timestamp(turn.at.0.saturating_add(1));
        let due = if next.is_some() {
            soon
        } else {
            self.tide.day = self.tide.day.saturating_add(1);
            Timestamp::of_day(self.tide.day).max(soon)
        };
        self.tide.after = next;
        // A clock at the end of time has no later moment: due at once, the days would follow each other without end.
        if due > turn.at {
            self.timers.set(due, Due::Day);
        }
    }

    /// Notes what an accepted replica earned, and whether anybody else vouches for it.
    pub(crate) fn note_earning(
        &mut self,
        no: NodeNo,
        owner: AccountId,
        awarded: MicroNcu,
        checked: bool,
        turn: &Turn,
    ) {
        if self.economy().is_none() || awarded.0 == 0 {
            return;
        }
        let Some(node) = self.node_at_mut(no) else { return };
        let class = node.capabilities.caliber;
        if !checked {
            let unverified = &mut node.unverified;
            if unverified.len() >= UNVERIFIED_OWNERS_MAX && !unverified.contains_key(&owner) {
                let oldest = unverified.iter().min_by_key(|(_, work)| work.since).map(|(owner, _)| *owner);
                oldest.map(|oldest| unverified.remove(&oldest));
            }
            let fresh = Unverified { since: turn.at, tasks: 0, earned: 0 };
            let work = unverified.entry(owner).or_insert(fresh);
            work.tasks = work.tasks.saturating_add(1);
            work.earned = work.earned.saturating_add(awarded.0);
        }
        self.tide.donated.entry(owner).or_default().note(class, awarded, turn.at);
    }

    /// Forgets what a node earned unchecked: it was checked, and agreed.
    pub(crate) fn vouch(&mut self, no: NodeNo) {
        if let Some(node) = self.node_at_mut(no) {
            node.unverified.clear();
        }
    }

    /// Takes back what a convicted node earned unchecked, as far as its owners still have it. Nobody goes below zero,
    /// and nobody else's credit is touched.
    pub(crate) fn reverse(&mut self, no: NodeNo, turn: &mut Turn) {
        if self.economy().is_none() {
            return;
        }
        let Some(node) = self.node_at_mut(no) else { return };
        let id = node.id;
        for (owner, work) in std::mem::take(&mut node.unverified) {
            let balance = u64::try_from(self.ledger.book.balance(&Holder::Account(owner))).unwrap_or(0);
            let taken = work.earned.min(balance);
            let postings = transfer(Holder::Account(owner), Holder::Issuance, taken);
            let kind = EntryKind::CreditReversed {
                node: id,
                owner,
                since: work.since,
                tasks: work.tasks,
                unverified: MicroNcu(work.earned),
                shortfall: MicroNcu(work.earned - taken),
            };
            self.post(kind, postings, turn);
        }
    }

    /// Records that a node's owner withdrew it, and from when on the owner's credit waits for its end.
    pub(crate) fn node_left(&mut self, id: NodeId, turn: &mut Turn) {
        let Some(days) = self.economy().map(|economy| economy.expiry_days) else { return };
        let Some(&no) = self.node_numbers.get(&id) else { return };
        let Some(node) = self.node_at_mut(no) else { return };
        if std::mem::replace(&mut node.left, true) {
            return;
        }
        let owner = node.owner;
        let last = self.nodes.iter().all(|node| node.owner != owner || node.left);
        let expires_at = last.then(|| turn.at.plus(Millis(u64::from(days) * DAY)));
        if let Some(at) = expires_at {
            self.tide.withdrawn.insert(owner, turn.at);
            self.timers.set(at, Due::Expiry(owner));
        }
        self.post(EntryKind::NodeLeft { node: id, owner, expires_at }, Vec::new(), turn);
    }

    /// A donor is back: its credit stays.
    pub(crate) fn owner_is_here(&mut self, owner: AccountId) {
        let Some(since) = self.tide.withdrawn.remove(&owner) else { return };
        if let Some(at) = self.expiry_of(since) {
            self.timers.cancel(at, Due::Expiry(owner));
        }
    }

    /// Moves what a withdrawn donor left to the public good.
    pub(crate) fn expire_credit(&mut self, account: AccountId, turn: &mut Turn) {
        let Some(withdrawn_at) = self.tide.withdrawn.remove(&account) else { return };
        let balance = u64::try_from(self.ledger.book.balance(&Holder::Account(account))).unwrap_or(0);
        if balance > 0 {
            let postings = transfer(Holder::Account(account), Holder::PublicGood, balance);
            self.post(EntryKind::CreditExpired { account, withdrawn_at }, postings, turn);
        }
    }

    /// Returns when a withdrawn donor's credit expires.
    pub(crate) fn expires_at(&self, account: &AccountId) -> Option<Timestamp> {
        self.expiry_of(*self.tide.withdrawn.get(account)?)
    }

    fn expiry_of(&self, withdrawn_at: Timestamp) -> Option<Timestamp> {
        let days = self.economy()?.expiry_days;
        Some(withdrawn_at.plus(Millis(u64::from(days) * DAY)))
    }

    /// Returns the class of hardware that an account's credit was earned with of late.
    pub(crate) fn donated_class(&self, account: &AccountId, at: Timestamp) -> Option<CaliberClass> {
        self.tide.donated.get(account)?.class(at)
    }

    /// Returns the day that fades next.
    pub(crate) fn next_fading_day(&self) -> u32 {
        self.tide.day
    }
}

fn transfer(from: Holder, to: Holder, amount: u64) -> Vec<Posting> {
    match i64::try_from(amount) {
        Ok(0) | Err(_) => Vec::new(),
        Ok(amount) => {
            vec![Posting { holder: from, amount: -amount }, Posting { holder: to, amount }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_donated_class_is_an_average_over_the_accounting_window_rounded_down() {
        let day = Timestamp::of_day;
        let mut donated = Donated::default();
        assert_eq!(donated.class(day(600)), None);
        donated.note(CaliberClass::C4, MicroNcu(100), day(600));
        assert_eq!(donated.class(day(600)), Some(CaliberClass::C4));
        donated.note(CaliberClass::C1, MicroNcu(100), day(601));
        assert_eq!(donated.class(day(602)), Some(CaliberClass::C2), "two and a half, rounded down");
        donated.note(CaliberClass::C1, MicroNcu(1), day(630));
        assert_eq!(donated.class(day(659)), Some(CaliberClass::C2), "the window before still counts");
        assert_eq!(donated.class(day(660)), Some(CaliberClass::C1));
        assert_eq!(donated.class(day(690)), None);
    }
}

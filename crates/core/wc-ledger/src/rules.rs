//! What each kind of entry may post: one function, asked by everybody who believes an entry.
//!
//! ```text
//! Book (the cell, its replay, a published log) ──┐
//!                                                ├──► check_postings(entry, what is known before it) ──► changes
//! Audit (one donor's own history) ───────────────┘
//! ```
//! A reader of a whole log knows everything before an entry; a donor knows its own account and jobs, and the verdicts.
//! What a reader does not know is not checked by that reader, and nothing else differs between them.

use serde::{Deserialize, Serialize};
use wc_types::charter::Economy;
use wc_types::entry::{Decay, Entry, EntryKind, Holder};
use wc_types::{
    AccountId, CellId, Class, Code, JobId, MicroNcu, Millis, NodeId, PartsPerMillion, TaskId, Timestamp,
};

use crate::book::net;
use crate::fade::Retained;

const DAY_MS: u64 = 24 * 3_600_000;

/// An entry posts what its kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleFault {
    /// Credit would appear or vanish.
    #[error("postings sum to {sum} µNCU, not to zero")]
    Unbalanced {
        /// What they sum to.
        sum: i128,
    },
    /// An entry that is only a record moves credit.
    #[error("{kind} moves credit, and may move none")]
    Moves {
        /// What kind of entry.
        kind: &'static str,
    },
    /// Credit comes from or goes to somebody whom this kind of entry does not concern.
    #[error("{kind} may only move credit {allowed}")]
    Holders {
        /// What kind of entry.
        kind: &'static str,
        /// Between whom it may.
        allowed: &'static str,
    },
    /// The founding record has no rules for this.
    #[error("{kind} in a cell whose charter knows nothing of it")]
    NoEconomy {
        /// What kind of entry.
        kind: &'static str,
    },
    /// A job's reserve is not handled as one.
    #[error("{job}: {what}")]
    Job {
        /// The job.
        job: JobId,
        /// What is wrong.
        what: String,
    },
    /// Decay is repeated, dated wrongly, or takes something else than the charter says.
    #[error("decay of day {day} from {found} µNCU with a floor of {floor} to {left}: {reason}")]
    Decay {
        /// The day.
        day: u32,
        /// The balance that the entry claims.
        found: u64,
        /// The floor that the entry claims.
        floor: u64,
        /// What it leaves.
        left: i128,
        /// What it should be.
        reason: String,
    },
    /// A conviction takes something else than what the convicted machine earned unchecked.
    #[error("reversal for {node}: {what}")]
    Reversal {
        /// The machine.
        node: NodeId,
        /// What is wrong.
        what: String,
    },
    /// Credit expires that does not, or not all of it.
    #[error("expiry of {account}: {what}")]
    Expiry {
        /// Whose.
        account: AccountId,
        /// What is wrong.
        what: String,
    },
    /// A cell says that it met itself.
    #[error("{cell} meets {cell}: a cell does not meet itself")]
    Meeting {
        /// The cell.
        cell: CellId,
    },
    /// A machine leaves that is not there, or its owner's credit is to end at the wrong time.
    #[error("{node} leaves: {what}")]
    Leaving {
        /// The machine.
        node: NodeId,
        /// What is wrong.
        what: &'static str,
    },
}

impl RuleFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unbalanced { .. } => Code::new("WC-LEDGER-001", Class::Peer),
            Self::Moves { .. } => Code::new("WC-LEDGER-180", Class::Peer),
            Self::Holders { .. } => Code::new("WC-LEDGER-181", Class::Peer),
            Self::NoEconomy { .. } => Code::new("WC-LEDGER-182", Class::Peer),
            Self::Job { .. } => Code::new("WC-LEDGER-183", Class::Peer),
            Self::Decay { .. } => Code::new("WC-LEDGER-168", Class::Peer),
            Self::Reversal { .. } => Code::new("WC-LEDGER-184", Class::Peer),
            Self::Expiry { .. } => Code::new("WC-LEDGER-185", Class::Peer),
            Self::Leaving { .. } => Code::new("WC-LEDGER-186", Class::Peer),
            Self::Meeting { .. } => Code::new("WC-LEDGER-188", Class::Peer),
        }
    }
}

/// What an account has before an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    /// What it may spend.
    pub balance: u64,
    /// What accepted tasks ever paid it.
    pub earned: u64,
    /// What it may not fade below on the day that was asked for.
    pub floor: u64,
    /// Day of its first posting or of the last decay that took something.
    pub faded_on: u32,
}

/// A job that was admitted and has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenJob {
    /// Who set credit aside for it; nobody if nothing was.
    pub submitter: Option<AccountId>,
    /// What is left of that, in micro-NCU.
    pub left: u64,
}

/// A machine, under one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether it ever joined for that owner.
    pub joined: bool,
    /// Whether it has not left since, nor joined for another owner.
    pub here: bool,
    /// Whether that owner has no other machine that is here.
    pub last: bool,
    /// Whether it is quarantined.
    pub quarantined: bool,
}

/// What a machine earned for one owner since its last agreed check, by work that nobody else vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// When the first of it was accepted.
    pub since: Timestamp,
    /// Tasks.
    pub tasks: u64,
    /// Micro-NCU.
    pub earned: u64,
}

/// What a reader knows of the log before an entry. `None` everywhere means that this reader cannot know.
pub trait Known {
    /// The rules of credit in the founding record, if it has any.
    fn economy(&self) -> Option<&Economy>;
    /// What an account has, with its floor on `day`.
    fn purse(&self, account: &AccountId, day: u32) -> Option<Purse>;
    /// The job, if it is open.
    ///
    /// - `submitter`: who sets credit aside for it or gets it back, where the entry says so
    fn job(&self, job: &JobId, submitter: Option<&AccountId>) -> Option<Option<OpenJob>>;
    /// Whether the job is known to have ended.
    fn has_ended(&self, job: &JobId) -> bool;
    /// Whether the task is known to have been accepted.
    fn is_accepted(&self, task: &TaskId) -> bool;
    /// The machine under this owner.
    fn machine(&self, node: &NodeId, owner: &AccountId) -> Option<Machine>;
    /// When the credit of a withdrawn donor ends, if it is one.
    fn expires_at(&self, account: &AccountId) -> Option<Option<Timestamp>>;
    /// Day and acceleration of the last decay.
    fn pace(&self) -> Option<(u32, PartsPerMillion)>;
    /// The most that a conviction of this machine may take from this owner, by the verdicts.
    fn unchecked(&self, node: &NodeId, owner: &AccountId) -> Option<Unchecked>;
}

/// Checks that an entry posts what its kind allows, and returns the change of each holder that has one, in order of
/// holders.
///
/// # Errors
/// [`RuleFault`].
///
/// # Source
/// CRD-02, CRD-04 to CRD-06, AGT-15, VER-07, invariant LEDGER-1; `docs/credits.md`.
pub fn check_postings(entry: &Entry, known: &impl Known) -> Result<Vec<(Holder, i128)>, RuleFault> {
    let changes = net(&entry.postings);
    let sum: i128 = changes.iter().map(|&(_, amount)| amount).sum();
    if sum != 0 {
        return Err(RuleFault::Unbalanced { sum });
    }
    match &entry.kind {
        EntryKind::CellFounded { .. } => still("a founding", &changes)?,
        EntryKind::NodeJoined { .. } => still("a machine that joins", &changes)?,
        EntryKind::NodeStanding { .. } => still("a change of standing", &changes)?,
        EntryKind::SignersChanged { .. } => still("a change of signers", &changes)?,
        EntryKind::CellMet { parent, .. } => {
            still("a cell that meets another", &changes)?;
            if *parent == entry.cell {
                return Err(RuleFault::Meeting { cell: *parent });
            }
        }
        EntryKind::NodeLeft { node, owner, expires_at } => {
            still("a machine that leaves", &changes)?;
            check_leaving(entry.at, node, owner, *expires_at, known)?;
        }
        EntryKind::JobAdmitted { job, .. } => check_admission(job, &changes, known)?,
        EntryKind::TaskAccepted { job, stage, index, .. } => {
            check_payment(&TaskId { job: *job, stage: *stage, index: *index }, &changes, known)?;
        }
        EntryKind::JobEnded { job, .. } => check_refund(job, &changes, known)?,
        EntryKind::CreditDecayed { day, acceleration, accounts } => {
            Fade { day: *day, acceleration: *acceleration }.check(entry, accounts, known)?;
        }
        EntryKind::CreditReversed { .. } => check_reversal(entry, &changes, known)?,
        EntryKind::CreditExpired { account, withdrawn_at } => {
            check_expiry(entry.at, account, *withdrawn_at, &changes, known)?;
        }
    }
    Ok(changes)
}

fn still(kind: &'static str, changes: &[(Holder, i128)]) -> Result<(), RuleFault> {
    if changes.is_empty() { Ok(()) } else { Err(RuleFault::Moves { kind }) }
}

/// What an admission sets aside goes from one account to the job's own reserve, once.
fn check_admission(job: &JobId, changes: &[(Holder, i128)], known: &impl Known) -> Result<(), RuleFault> {
    let submitter = match changes {
        [] => None,
        [(Holder::Account(submitter), amount), (Holder::Reserve(to), _)] if to == job && *amount < 0 => {
            Some(submitter)
        }
        _ => {
            let allowed = "from one account to the reserve of its job";
            return Err(RuleFault::Holders { kind: "an admission", allowed });
        }
    };
    let before = known.has_ended(job) || matches!(known.job(job, submitter), Some(Some(_)));
    if before { Err(RuleFault::Job { job: *job, what: "it was admitted before".to_owned() }) } else { Ok(()) }
}

/// An accepted task is paid once, out of its job's reserve and the issuance, to accounts.
fn check_payment(task: &TaskId, changes: &[(Holder, i128)], known: &impl Known) -> Result<(), RuleFault> {
    let job = &task.job;
    let mut charged = 0;
    for (holder, amount) in changes {
        let allowed = match holder {
            Holder::Account(_) => *amount > 0,
            Holder::Issuance => *amount < 0,
            Holder::Reserve(from) => {
                charged = -amount;
                from == job && *amount < 0
            }
            Holder::PublicGood => false,
        };
        if !allowed {
            let allowed = "from the reserve of its job and the issuance to accounts";
            return Err(RuleFault::Holders { kind: "an accepted task", allowed });
        }
    }
    let fault = |what: String| Err(RuleFault::Job { job: *job, what });
    if known.is_accepted(task) {
        return fault(format!("task {}/{} was accepted before", task.stage, task.index));
    }
    match known.job(job, None) {
        Some(None) => fault("it accepts a task, and was not admitted or has ended".to_owned()),
        Some(Some(open)) if charged > i128::from(open.left) => {
            fault(format!("{charged} µNCU are taken from its reserve of {}", open.left))
        }
        Some(Some(_)) | None => Ok(()),
    }
}

/// The end of a job returns all that is left of its reserve to whom it came from, once.
fn check_refund(job: &JobId, changes: &[(Holder, i128)], known: &impl Known) -> Result<(), RuleFault> {
    let (submitter, refund) = match changes {
        [] => (None, 0),
        [(Holder::Account(submitter), amount), (Holder::Reserve(from), _)] if from == job && *amount > 0 => {
            (Some(submitter), *amount)
        }
        _ => {
            let allowed = "from the reserve of its job to one account";
            return Err(RuleFault::Holders { kind: "the end of a job", allowed });
        }
    };
    let fault = |what: String| Err(RuleFault::Job { job: *job, what });
    match known.job(job, submitter) {
        None => Ok(()),
        Some(None) => fault("it ends, and was not admitted or has ended before".to_owned()),
        Some(Some(open)) if i128::from(open.left) != refund => {
            fault(format!("{refund} µNCU come back of the {} that are left", open.left))
        }
        Some(Some(open)) if submitter.is_some() && open.submitter.as_ref() != submitter => {
            fault("its reserve goes back to another account than it came from".to_owned())
        }
        Some(Some(_)) => Ok(()),
    }
}

/// A day's decay.
struct Fade {
    day: u32,
    acceleration: PartsPerMillion,
}

impl Fade {
    fn check(&self, entry: &Entry, rows: &[Decay], known: &impl Known) -> Result<(), RuleFault> {
        let Some(economy) = known.economy() else { return Err(RuleFault::NoEconomy { kind: "decay" }) };
        let Self { day, acceleration } = *self;
        let row = rows.first().copied().unwrap_or(Decay { before: MicroNcu(0), floor: MicroNcu(0) });
        let amount = entry.postings.first().map_or(0, |posting| posting.amount);
        if day > entry.at.day() {
            return self.fault(&row, amount, "that day had not begun".to_owned());
        }
        if acceleration < PartsPerMillion::ONE || acceleration > economy.acceleration_max {
            let reason = format!("the charter allows no acceleration of {acceleration}");
            return self.fault(&row, amount, reason);
        }
        if let Some((before, pace)) = known.pace() {
            if day < before {
                return self.fault(&row, amount, format!("day {before} has faded already"));
            }
            let steps = u64::from(day - before) * u64::from(economy.acceleration_step.0);
            if u64::from(acceleration.0.abs_diff(pace.0)) > steps {
                let reason =
                    format!("acceleration was {pace} on day {before} and cannot be {acceleration} yet");
                return self.fault(&row, amount, reason);
            }
        }
        let shape = || {
            let allowed = "from accounts in ascending order, one row for each, to the issuance";
            RuleFault::Holders { kind: "decay", allowed }
        };
        let (back, lost) = entry.postings.split_last().ok_or_else(shape)?;
        if back.holder != Holder::Issuance || lost.len() != rows.len() || rows.is_empty() {
            return Err(shape());
        }
        let retained = Retained::of_day(economy.half_life_days, acceleration);
        let mut previous = None;
        for (posting, row) in lost.iter().zip(rows) {
            let Holder::Account(account) = posting.holder else { return Err(shape()) };
            if previous.replace(account).is_some_and(|previous| previous >= account) {
                return Err(shape());
            }
            self.check_row(&account, row, posting.amount, retained, known)?;
        }
        Ok(())
    }

    fn check_row(
        &self,
        account: &AccountId,
        row: &Decay,
        amount: i64,
        retained: Retained,
        known: &impl Known,
    ) -> Result<(), RuleFault> {
        if let Some(purse) = known.purse(account, self.day) {
            if row.before.0 != purse.balance {
                return self.fault(row, amount, format!("the balance before it was {}", purse.balance));
            }
            if row.floor.0 != purse.floor {
                let reason = format!("{} were earned in the 30 days before it", purse.floor);
                return self.fault(row, amount, reason);
            }
            if self.day <= purse.faded_on {
                let reason = format!("the account has faded, or begun, on day {}", purse.faded_on);
                return self.fault(row, amount, reason);
            }
        }
        let expected = retained.above(row.before, row.floor).0;
        if i128::from(expected) != i128::from(row.before.0) + i128::from(amount) {
            return self.fault(row, amount, format!("{expected} should be left"));
        }
        if amount >= 0 {
            return self.fault(row, amount, "it takes nothing".to_owned());
        }
        Ok(())
    }

    fn fault(&self, row: &Decay, amount: i64, reason: String) -> Result<(), RuleFault> {
        let left = i128::from(row.before.0) + i128::from(amount);
        Err(RuleFault::Decay { day: self.day, found: row.before.0, floor: row.floor.0, left, reason })
    }
}

/// A conviction takes from the owner that it names what the machine earned for it unchecked, as far as it is there.
fn check_reversal(entry: &Entry, changes: &[(Holder, i128)], known: &impl Known) -> Result<(), RuleFault> {
    let EntryKind::CreditReversed { node, owner, since, tasks, unverified, shortfall } = &entry.kind else {
        return Ok(());
    };
    if known.economy().is_none() {
        return Err(RuleFault::NoEconomy { kind: "a reversal" });
    }
    let taken = match changes {
        [] => 0,
        [(Holder::Account(from), amount), (Holder::Issuance, _)] if from == owner && *amount < 0 => -amount,
        _ => {
            let allowed = "from the owner of the convicted machine to the issuance";
            return Err(RuleFault::Holders { kind: "a reversal", allowed });
        }
    };
    let fault = |what: String| Err(RuleFault::Reversal { node: *node, what });
    if taken + i128::from(shortfall.0) != i128::from(unverified.0) {
        return fault(format!(
            "{taken} µNCU taken and {} missing are not the {} that it earned unchecked",
            shortfall.0, unverified.0
        ));
    }
    if *tasks == 0 || unverified.0 == 0 || *since > entry.at {
        return fault("it names no work".to_owned());
    }
    if let Some(machine) = known.machine(node, owner) {
        if !machine.joined {
            return fault(format!("it never worked for {owner}"));
        }
        if !machine.quarantined {
            return fault("it is not quarantined, so it was not convicted".to_owned());
        }
    }
    if let Some(purse) = known.purse(owner, entry.at.day()) {
        let there = unverified.0.min(purse.balance);
        if taken != i128::from(there) {
            return fault(format!("{taken} µNCU are taken where {there} are there to take"));
        }
        if unverified.0 > purse.earned {
            return fault(format!(
                "{} µNCU are more than its owner ever earned, {}",
                unverified.0, purse.earned
            ));
        }
    }
    if let Some(most) = known.unchecked(node, owner)
        && (unverified.0 > most.earned || *tasks > most.tasks || *since < most.since)
    {
        return fault(format!(
            "the verdicts show {} µNCU of {} unchecked tasks since {}, not {} of {tasks} since {since}",
            most.earned, most.tasks, most.since, unverified.0
        ));
    }
    Ok(())
}

/// All that a withdrawn donor has goes to the public good, when its time is over.
fn check_expiry(
    at: Timestamp,
    account: &AccountId,
    withdrawn_at: Timestamp,
    changes: &[(Holder, i128)],
    known: &impl Known,
) -> Result<(), RuleFault> {
    let Some(economy) = known.economy() else { return Err(RuleFault::NoEconomy { kind: "an expiry" }) };
    let taken = match changes {
        [(Holder::Account(from), amount), (Holder::PublicGood, _)] if from == account && *amount < 0 => {
            -amount
        }
        _ => {
            let allowed = "from the account that it names to the public good";
            return Err(RuleFault::Holders { kind: "an expiry", allowed });
        }
    };
    let fault = |what: String| Err(RuleFault::Expiry { account: *account, what });
    let due = withdrawn_at.plus(Millis(u64::from(economy.expiry_days) * DAY_MS));
    if at < due {
        return fault(format!("not before {due}"));
    }
    match known.expires_at(account) {
        Some(None) => return fault("its owner has not withdrawn".to_owned()),
        Some(Some(recorded)) if recorded != due => {
            return fault(format!("the ledger says that it ends at {recorded}, not at {due}"));
        }
        Some(Some(_)) | None => {}
    }
    match known.purse(account, at.day()) {
        Some(purse) if taken != i128::from(purse.balance) => {
            fault(format!("{taken} µNCU are taken of {}", purse.balance))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_leaving(
    at: Timestamp,
    node: &NodeId,
    owner: &AccountId,
    expires_at: Option<Timestamp>,
    known: &impl Known,
) -> Result<(), RuleFault> {
    let Some(economy) = known.economy() else {
        return Err(RuleFault::NoEconomy { kind: "a machine that leaves" });
    };
    let fault = |what| Err(RuleFault::Leaving { node: *node, what });
    if let Some(machine) = known.machine(node, owner) {
        if !machine.here {
            return fault("it never joined for this owner, or has left it");
        }
        if machine.last != expires_at.is_some() {
            return fault("its owner's credit ends when the last of its machines has left, and only then");
        }
    }
    let due = at.plus(Millis(u64::from(economy.expiry_days) * DAY_MS));
    if expires_at.is_some_and(|at| at != due) {
        return fault("its owner's credit is to end at another time than the charter says");
    }
    Ok(())
}

//! Every code that policy refuses with.

use wc_types::{Class, Code};

/// A field breaks a rule of structure or range.
pub const MALFORMED: Code = Code::new("WC-POLICY-001", Class::Caller);
/// Signed by another key than the submitter's.
pub const WRONG_SIGNER: Code = Code::new("WC-POLICY-002", Class::Caller);
/// The same job was submitted before.
pub const DUPLICATE: Code = Code::new("WC-POLICY-003", Class::Conflict);
/// Made too long ago, or in the future.
pub const STALE: Code = Code::new("WC-POLICY-004", Class::Caller);
/// Confidential data needs nodes that this cell does not have.
pub const CONFIDENTIAL: Code = Code::new("WC-POLICY-005", Class::Caller);
/// The kind of artifact needs a sandbox that this cell does not have.
pub const WORKLOAD_TYPE: Code = Code::new("WC-POLICY-006", Class::Caller);
/// Egress is not granted.
pub const EGRESS: Code = Code::new("WC-POLICY-007", Class::Caller);
/// A task may not run that long here.
pub const WALL_CLOCK: Code = Code::new("WC-POLICY-008", Class::Caller);
/// Too few replicas for nodes without hardware evidence.
pub const REPLICAS: Code = Code::new("WC-POLICY-009", Class::Caller);
/// Too many unfinished jobs of one submitter.
pub const JOBS_OPEN: Code = Code::new("WC-POLICY-010", Class::Exhausted);
/// Too many unfinished tasks of one submitter.
pub const TASKS_OPEN: Code = Code::new("WC-POLICY-011", Class::Exhausted);
/// Nobody wants the result any more.
pub const DEADLINE: Code = Code::new("WC-POLICY-012", Class::Caller);
/// Another stage cannot read the results of so many tasks.
pub const GATHER: Code = Code::new("WC-POLICY-013", Class::Caller);
/// No such job.
pub const UNKNOWN_JOB: Code = Code::new("WC-POLICY-014", Class::Caller);
/// Only its submitter may do this to a job.
pub const NOT_SUBMITTER: Code = Code::new("WC-POLICY-015", Class::Caller);
/// The job has ended.
pub const ENDED: Code = Code::new("WC-POLICY-016", Class::Conflict);
/// A class of hardware is redeemed that the submitter's credit was not earned with (E-41: insufficient credits).
pub const CALIBER: Code = Code::new("WC-POLICY-017", Class::Exhausted);

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 17] = [
        MALFORMED,
        WRONG_SIGNER,
        DUPLICATE,
        STALE,
        CONFIDENTIAL,
        WORKLOAD_TYPE,
        EGRESS,
        WALL_CLOCK,
        REPLICAS,
        JOBS_OPEN,
        TASKS_OPEN,
        DEADLINE,
        GATHER,
        UNKNOWN_JOB,
        NOT_SUBMITTER,
        ENDED,
        CALIBER,
    ];

    #[test]
    fn codes_are_numbered_without_gap_or_repetition() {
        for (position, code) in ALL.iter().enumerate() {
            assert_eq!(code.name, format!("WC-POLICY-{:03}", position + 1));
        }
    }
}

//! May this node take a replica of this task, and if not, in words a submitter understands, why not?
//!
//! Two questions, because the first one does not change from task to task: [`may_run`] compares a node with what a
//! stage requires, [`may_stand_beside`] compares it with the nodes that hold other replicas of the same task.

use std::fmt;

use wc_types::entry::Standing;
use wc_types::manifest::{Placement, WorkClass};
use wc_types::node::{CaliberClass, Locality, TrustTier};
use wc_types::{AccountId, Bytes, NodeId};

/// What a stage requires of every node that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// Class that the owner must consent to.
    pub class: WorkClass,
    /// Memory of the guest.
    pub memory: Bytes,
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// Replicas of each task.
    pub replicas: u8,
    /// How far apart they run.
    pub placement: Placement,
    /// Class of hardware that every node must have at least; none if any will do.
    pub caliber_min: Option<CaliberClass>,
    /// Least replicas on nodes without evidence of their own; 1 where the cell's owner declares its nodes trusted.
    pub t0_replicas_min: u8,
}

/// Where a node stands in the world: what must differ, or be equal, among the replicas of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// The machine.
    pub node: NodeId,
    /// Its owner.
    pub owner: AccountId,
    /// Its network.
    pub locality: Locality,
    /// What decides a guest's exact bytes.
    pub engine: &'a str,
}

/// A node that asks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Whether it is connected.
    pub online: bool,
    /// Whether its owner paused it.
    pub paused: bool,
    /// Whether the cell gives it work.
    pub standing: Standing,
    /// How far its evidence goes.
    pub tier: TrustTier,
    /// Guests it runs at once.
    pub slots: u16,
    /// Cores it offers.
    pub cpu_cores: u32,
    /// Class of its hardware.
    pub caliber: CaliberClass,
    /// Most memory of one guest.
    pub guest_memory_max: Bytes,
    /// Classes its owner consents to.
    pub consents: &'a [WorkClass],
}

/// Why a node may not take a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is not connected.
    Offline,
    /// Its owner paused it.
    Paused,
    /// It disagreed too often.
    Quarantined,
    /// Its owner does not consent to this class of work.
    NoConsent {
        /// The class.
        class: WorkClass,
    },
    /// A guest may not have as much memory there.
    Memory {
        /// What the task needs.
        needed: Bytes,
        /// What the node allows.
        offered: Bytes,
    },
    /// It has fewer cores than the task asks for.
    Cores {
        /// Thousandths of a core.
        needed_millicores: u32,
        /// Cores it offers.
        offered: u32,
    },
    /// Its hardware is of a lower class than the submitter asks for in return for its own (SCH-25).
    Caliber {
        /// The least class that will do.
        needed: CaliberClass,
        /// Its own.
        offered: CaliberClass,
    },
    /// It runs no guests.
    NoSlots,
    /// Its evidence is too weak for so few replicas.
    WeakEvidence {
        /// Replicas that nodes like it would need.
        replicas_min: u8,
    },
    /// It holds, or held, a replica of this task.
    SameNode,
    /// Its owner holds another replica of this task.
    SameOwner,
    /// A machine in the same /24 network holds another replica.
    SameNetwork,
    /// A machine in the same autonomous system holds another replica.
    SameSystem,
    /// Nobody knows its network, and the manifest wants different ones.
    UnknownNetwork,
    /// The other replicas run on another engine.
    OtherEngine,
    /// It failed this task before.
    FailedBefore,
    /// It gave a wrong result for this task before.
    Dissented,
    /// Too few nodes like it to agree on a result.
    TooFewPeers {
        /// Nodes that must agree.
        needed: u8,
        /// Nodes that could.
        present: u8,
    },
    /// It has not asked for more work.
    NotAsking,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline => f.write_str("is not connected"),
            Self::Paused => f.write_str("is paused by its owner"),
            Self::Quarantined => f.write_str("is quarantined for wrong results"),
            Self::NoConsent { class } => write!(f, "does not consent to class {}", class.name()),
            Self::Memory { needed, offered } => {
                write!(f, "gives a guest at most {offered} of memory, the task needs {needed}")
            }
            Self::Cores { needed_millicores, offered } => {
                write!(f, "has {offered} cores, the task needs {needed_millicores}/1000 of one")
            }
            Self::Caliber { needed, offered } => {
                write!(f, "has hardware of class {offered:?}, the job redeems class {needed:?}")
            }
            Self::NoSlots => f.write_str("runs no guests"),
            Self::WeakEvidence { replicas_min } => {
                write!(f, "has no hardware evidence, so a task needs at least {replicas_min} replicas")
            }
            Self::SameNode => f.write_str("already runs a replica of the task; needs another node"),
            Self::SameOwner => f.write_str("its owner already runs a replica; needs a node of another owner"),
            Self::SameNetwork => {
                f.write_str("a replica already runs in its /24 network; needs a node of another network")
            }
            Self::SameSystem => {
                f.write_str("a replica already runs in its autonomous system; needs a node of another one")
            }
            Self::UnknownNetwork => {
                f.write_str("its network is unknown; the job wants known, different networks")
            }
            Self::OtherEngine => f.write_str("runs another engine than the other replicas of the task"),
            Self::FailedBefore => f.write_str("failed this task before; needs a node that has not"),
            Self::Dissented => f.write_str("gave a wrong result for this task before"),
            Self::TooFewPeers { needed, present } => {
                write!(f, "needs {needed} nodes apart from each other on its engine, the cell has {present}")
            }
            Self::NotAsking => f.write_str("is busy and has not asked for more work"),
        }
    }
}

/// Returns whether a node may run tasks of a stage at all.
///
/// # Errors
/// The first [`Reason`] against it.
pub fn may_run(candidate: &Candidate<'_>, needs: &Requirement) -> Result<(), Reason> {
    if !candidate.online {
        return Err(Reason::Offline);
    }
    match candidate.standing {
        Standing::Good => {}
        Standing::Quarantined => return Err(Reason::Quarantined),
    }
    if !candidate.consents.contains(&needs.class) {
        return Err(Reason::NoConsent { class: needs.class });
    }
    if needs.memory > candidate.guest_memory_max {
        return Err(Reason::Memory { needed: needs.memory, offered: candidate.guest_memory_max });
    }
    if needs.cpu_millicores > candidate.cpu_cores.saturating_mul(1000) {
        return Err(Reason::Cores { needed_millicores: needs.cpu_millicores, offered: candidate.cpu_cores });
    }
    if let Some(needed) = needs.caliber_min.filter(|needed| candidate.caliber < *needed) {
        return Err(Reason::Caliber { needed, offered: candidate.caliber });
    }
    if candidate.slots == 0 {
        return Err(Reason::NoSlots);
    }
    if candidate.tier == TrustTier::T0 && needs.replicas < needs.t0_replicas_min {
        return Err(Reason::WeakEvidence { replicas_min: needs.t0_replicas_min });
    }
    if candidate.paused {
        return Err(Reason::Paused);
    }
    Ok(())
}

/// Returns whether a node may hold a replica of a task whose other replicas are, or were, at `holders`.
///
/// # Errors
/// The first [`Reason`] against it.
pub fn may_stand_beside<'a>(
    site: &Site<'_>,
    holders: impl IntoIterator<Item = Site<'a>>,
    placement: Placement,
    replicas: u8,
) -> Result<(), Reason> {
    if replicas > 1
        && placement == Placement::Disjoint
        && (site.locality.asn == 0 || site.locality.prefix_24 == 0)
    {
        return Err(Reason::UnknownNetwork);
    }
    for holder in holders {
        if holder.node == site.node {
            return Err(Reason::SameNode);
        }
        if holder.engine != site.engine {
            return Err(Reason::OtherEngine);
        }
        match placement {
            Placement::Machines => continue,
            Placement::Lan | Placement::Disjoint if holder.owner == site.owner => {
                return Err(Reason::SameOwner);
            }
            Placement::Lan => continue,
            Placement::Disjoint => {}
        }
        if holder.locality.prefix_24 == site.locality.prefix_24 {
            return Err(Reason::SameNetwork);
        }
        if holder.locality.asn == site.locality.asn {
            return Err(Reason::SameSystem);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEEDS: Requirement = Requirement {
        class: WorkClass::Rendering,
        memory: Bytes(256 << 20),
        cpu_millicores: 1000,
        replicas: 3,
        placement: Placement::Lan,
        caliber_min: None,
        t0_replicas_min: 1,
    };

    const FIT: Candidate<'static> = Candidate {
        online: true,
        paused: false,
        standing: Standing::Good,
        tier: TrustTier::T0,
        slots: 4,
        cpu_cores: 4,
        caliber: CaliberClass::C1,
        guest_memory_max: Bytes(1 << 30),
        consents: &WorkClass::ALL,
    };

    fn site(node: u8, owner: u8, asn: u32, prefix_24: u32) -> Site<'static> {
        Site {
            node: NodeId([node; 32]),
            owner: AccountId([owner; 32]),
            locality: Locality { asn, prefix_24 },
            engine: "e",
        }
    }

    #[test]
    fn every_hard_requirement_has_its_own_words() {
        let table: [(Candidate<'_>, Requirement, &str); 9] = [
            (
                FIT,
                Requirement { caliber_min: Some(CaliberClass::C2), ..NEEDS },
                "has hardware of class C1, the job redeems class C2",
            ),
            (Candidate { online: false, ..FIT }, NEEDS, "is not connected"),
            (Candidate { paused: true, ..FIT }, NEEDS, "is paused by its owner"),
            (Candidate { standing: Standing::Quarantined, ..FIT }, NEEDS, "is quarantined for wrong results"),
            (Candidate { consents: &[], ..FIT }, NEEDS, "does not consent to class rendering"),
            (
                Candidate { guest_memory_max: Bytes(9), ..FIT },
                NEEDS,
                "gives a guest at most 9 B of memory, the task needs 268435456 B",
            ),
            (Candidate { cpu_cores: 0, ..FIT }, NEEDS, "has 0 cores, the task needs 1000/1000 of one"),
            (Candidate { slots: 0, ..FIT }, NEEDS, "runs no guests"),
            (
                FIT,
                Requirement { t0_replicas_min: 5, ..NEEDS },
                "has no hardware evidence, so a task needs at least 5 replicas",
            ),
        ];
        for (candidate, needs, words) in table {
            assert_eq!(may_run(&candidate, &needs).expect_err(words).to_string(), words);
        }
        assert_eq!(may_run(&FIT, &NEEDS), Ok(()));
    }

    #[test]
    fn placement_decides_what_must_differ() {
        use Placement::{Disjoint, Lan, Machines};
        let here = site(1, 1, 10, 100);
        let table = [
            (site(1, 9, 90, 900), [Err(Reason::SameNode); 3]),
            (site(2, 1, 20, 200), [Err(Reason::SameOwner), Err(Reason::SameOwner), Ok(())]),
            (site(2, 2, 20, 100), [Err(Reason::SameNetwork), Ok(()), Ok(())]),
            (site(2, 2, 10, 200), [Err(Reason::SameSystem), Ok(()), Ok(())]),
            (site(2, 2, 20, 200), [Ok(()), Ok(()), Ok(())]),
        ];
        for (other, expected) in table {
            for (placement, expected) in [Disjoint, Lan, Machines].into_iter().zip(expected) {
                assert_eq!(
                    may_stand_beside(&here, [other], placement, 3),
                    expected,
                    "{placement:?} {other:?}"
                );
            }
        }
        let unknown = site(3, 3, 0, 0);
        assert_eq!(may_stand_beside(&unknown, [], Disjoint, 3), Err(Reason::UnknownNetwork));
        assert_eq!(may_stand_beside(&unknown, [], Disjoint, 1), Ok(()));
        assert_eq!(may_stand_beside(&unknown, [here], Lan, 3), Ok(()));
        let other_engine = Site { engine: "f", ..site(4, 4, 40, 400) };
        assert_eq!(may_stand_beside(&other_engine, [here], Machines, 3), Err(Reason::OtherEngine));
    }

    proptest! {
        #[test]
        fn standing_beside_is_symmetric(
            a in (1u8..5, 1u8..4, 1u32..4, 1u32..4),
            b in (1u8..5, 1u8..4, 1u32..4, 1u32..4),
        ) {
            let (a, b) = (site(a.0, a.1, a.2, a.3), site(b.0, b.1, b.2, b.3));
            for placement in [Placement::Disjoint, Placement::Lan, Placement::Machines] {
                prop_assert_eq!(
                    may_stand_beside(&a, [b], placement, 3),
                    may_stand_beside(&b, [a], placement, 3)
                );
            }
        }
    }
}

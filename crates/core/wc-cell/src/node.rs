//! A machine as the cell sees it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wc_scheduler::{Candidate, Site};
use wc_trust::{Evidence, TrustRecord};
use wc_types::manifest::WorkClass;
use wc_types::node::{Capabilities, Enrolment, Locality, Path, TrustTier};
use wc_types::{AccountId, LeaseId, NodeId, PartsPerMillion, Timestamp};

use crate::economy::Unverified;
use crate::pairs;

/// Number of a node inside the cell, in order of first joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct NodeNo(pub(crate) u32);

/// One machine. Never forgotten: its record must outlive its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) owner: AccountId,
    pub(crate) capabilities: Capabilities,
    pub(crate) locality: Locality,
    pub(crate) consents: Vec<WorkClass>,
    pub(crate) agent_version: String,
    pub(crate) joined_at: Timestamp,
    pub(crate) online: bool,
    pub(crate) paused: bool,
    pub(crate) trust: TrustRecord,
    /// How its session reaches the coordinator, as far as anybody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Path>,
    /// Whether its owner withdrew it.
    pub(crate) left: bool,
    /// What it earned, by owner, since it was last checked and agreed.
    #[serde(with = "pairs")]
    pub(crate) unverified: BTreeMap<AccountId, Unverified>,
    /// Replicas that it asked for and has not been granted.
    pub(crate) credit: u32,
    /// Leases that it owes a report for.
    pub(crate) leases: BTreeSet<LeaseId>,
    /// Whether it gave leases back and has not asked for work since: what it asked for before waits until it does.
    pub(crate) returned: bool,
    /// Replicas that were part of an accepted majority.
    pub(crate) agreed: u64,
    /// Replicas that were not.
    pub(crate) dissented: u64,
    /// Replicas that ended without a result.
    pub(crate) failed: u64,
}

impl Node {
    pub(crate) fn new(enrolment: &Enrolment, at: Timestamp) -> Self {
        let mut node = Self {
            id: enrolment.node(),
            owner: enrolment.owner(),
            capabilities: enrolment.capabilities.clone(),
            locality: enrolment.locality,
            consents: Vec::new(),
            agent_version: String::new(),
            joined_at: at,
            online: true,
            paused: false,
            trust: TrustRecord::new(at),
            path: None,
            left: false,
            unverified: BTreeMap::new(),
            credit: 0,
            leases: BTreeSet::new(),
            returned: false,
            agreed: 0,
            dissented: 0,
            failed: 0,
        };
        node.accept(enrolment);
        node
    }

    /// Takes over the terms of an enrolment; returns whether they changed.
    pub(crate) fn accept(&mut self, enrolment: &Enrolment) -> bool {
        let changed = self.owner != enrolment.owner()
            || self.capabilities != enrolment.capabilities
            || self.locality != enrolment.locality
            || self.consents != enrolment.consents
            || self.agent_version != enrolment.agent_version;
        self.owner = enrolment.owner();
        self.capabilities = enrolment.capabilities.clone();
        self.locality = enrolment.locality;
        self.consents = enrolment.consents.clone();
        self.agent_version = enrolment.agent_version.clone();
        changed
    }

    /// Returns what its sandbox lets it prove over its path.
    fn evidence(&self) -> Evidence {
        Evidence::of_sandbox(self.capabilities.sandbox).over(self.is_inspected())
    }

    pub(crate) fn is_inspected(&self) -> bool {
        self.path.is_some_and(|path| path.inspected)
    }

    pub(crate) fn score(&self, at: Timestamp) -> PartsPerMillion {
        self.trust.score(self.evidence().attestation(), at)
    }

    pub(crate) fn site(&self) -> Site<'_> {
        Site { node: self.id, owner: self.owner, locality: self.locality, engine: &self.capabilities.engine }
    }

    pub(crate) fn tier(&self, at: Timestamp) -> TrustTier {
        match self.evidence() {
            // Whatever its score, so that the score need not be computed for every match.
            Evidence::InspectedPath | Evidence::SoftAgent => TrustTier::T0,
            evidence => wc_trust::tier(self.score(at), self.trust.age(at), evidence),
        }
    }

    pub(crate) fn candidate(&self, at: Timestamp) -> Candidate<'_> {
        Candidate {
            online: self.online,
            paused: self.paused,
            standing: self.trust.standing(),
            tier: self.tier(at),
            slots: self.capabilities.slots,
            cpu_cores: self.capabilities.cpu_cores,
            caliber: self.capabilities.caliber,
            guest_memory_max: self.capabilities.guest_memory_max,
            consents: &self.consents,
        }
    }

    /// Returns how many of its slots no lease waits for.
    pub(crate) fn free_slots(&self) -> u32 {
        let held = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        u32::from(self.capabilities.slots).saturating_sub(held)
    }

    /// Returns how much of its slots is taken, in thousandths; the emptiest node is served first.
    pub(crate) fn load(&self) -> usize {
        self.leases.len() * 1000 / usize::from(self.capabilities.slots.max(1))
    }
}

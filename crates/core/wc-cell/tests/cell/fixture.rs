//! A cell with real keys, driven by hand: each step is one fact.

use std::collections::BTreeMap;

use wc_cell::{Cell, Command, Event, Fact};
use wc_types::charter::{Charter, Founding};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, cid_of};
use wc_types::entry::Entry;
use wc_types::grant::Grant;
use wc_types::manifest::*;
use wc_types::node::*;
use wc_types::outcome::{Commitment, Ending, Failure, Outcome, Usage};
use wc_types::*;

/// A moment in 2027.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000_000);

/// The first moment at which credit fades.
pub(crate) fn midnight() -> Timestamp {
    Timestamp::of_day(START.day() + 1)
}

pub(crate) fn key(kind: u8, number: u8) -> SigningKey {
    let mut seed = [kind; 32];
    seed[0] = number;
    SigningKey::from_seed(&seed)
}

pub(crate) fn node_key(number: u8) -> SigningKey {
    key(1, number)
}

pub(crate) fn node_id(number: u8) -> NodeId {
    node_key(number).node_id()
}

pub(crate) fn owner_key(number: u8) -> SigningKey {
    key(2, number)
}

pub(crate) fn submitter_key() -> SigningKey {
    key(3, 0)
}

/// The record that a guest of this name leaves for a task.
pub(crate) fn record(name: &str, index: u32) -> Cid {
    cid_of(CODEC_DAG_CBOR, format!("{name}/{index}").as_bytes())
}

pub(crate) fn charter() -> Charter {
    Charter { nodes_trusted: true, ..Charter::default() }
}

pub(crate) fn stage(name: &str, tasks: u32, replicas: u8) -> Stage {
    Stage {
        name: name.into(),
        workload: BlobRef { cid: cid_of(CODEC_RAW, b"wasm"), bytes: Bytes(4) },
        workload_type: WorkloadType::WasmModule,
        command: vec![],
        env: BTreeMap::new(),
        tasks,
        inputs: vec![],
        outputs: vec![],
        resources: Resources::default(),
        replicas,
        comparison: Comparison::BitExact,
        preempt: PreemptClass::Restartable,
        retries_max: 3,
    }
}

pub(crate) fn manifest(stages: Vec<Stage>) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        name: "job".into(),
        submitter: submitter_key().account_id(),
        submitted_at: START,
        priority_class: PriorityClass::PublicGood,
        confidentiality: Confidentiality::Public,
        class: WorkClass::General,
        deadline: None,
        max_total: None,
        placement: Placement::Lan,
        allowed_endpoints: vec![],
        stages,
    }
}

pub(crate) fn enrolment(number: u8, owner: u8) -> Enrolment {
    let owner = owner_key(owner);
    let delegation = Delegation { owner: owner.account_id(), node: node_id(number), issued_at: START };
    Enrolment {
        delegation: Signed::seal(delegation, &owner),
        capabilities: Capabilities {
            cpu_cores: 4,
            memory: Bytes(8 << 30),
            slots: 4,
            guest_memory_max: Bytes(1 << 30),
            storage_cap: Bytes(1 << 30),
            sandbox: SandboxKind::WasmHost,
            engine: "wasmtime-48".into(),
            caliber: CaliberClass::C1,
        },
        locality: Locality { asn: 100 + u32::from(number), prefix_24: 1000 + u32::from(number) },
        consents: WorkClass::ALL.to_vec(),
        agent_version: "0.1.0".into(),
        at: START,
    }
}

/// A cell and what it said.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) cell: Cell,
    pub(crate) at: Timestamp,
    pub(crate) facts: Vec<Fact>,
    /// Grants that nobody took from here yet.
    pub(crate) grants: Vec<Grant>,
    pub(crate) reveals: Vec<(NodeId, LeaseId)>,
    pub(crate) revoked: Vec<(NodeId, LeaseId)>,
    pub(crate) settled: Vec<(NodeId, LeaseId)>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) commands: Vec<Command>,
}

impl World {
    pub(crate) fn new(charter: Charter) -> Self {
        let coordinator = key(4, 0);
        let founding = Founding {
            network: "test".into(),
            coordinator: coordinator.node_id(),
            owner: key(5, 0).account_id(),
            charter,
            founded_at: START,
        };
        let mut world = Self {
            cell: Cell::empty(),
            at: START,
            facts: vec![],
            grants: vec![],
            reveals: vec![],
            revoked: vec![],
            settled: vec![],
            entries: vec![],
            commands: vec![],
        };
        world.tell(Event::Founded(Signed::seal(founding, &coordinator).witnessed()));
        world
    }

    /// A trusted cell with so many nodes of different owners, none of which asked for work.
    pub(crate) fn with_nodes(nodes: u8) -> Self {
        let mut world = Self::new(charter());
        for number in 0..nodes {
            world.join(number);
        }
        world
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<Command> {
        let seq = self.facts.len() as u64;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&seq.to_le_bytes());
        let fact = Fact { seq, at: self.at, seed, event };
        let mut commands = Vec::new();
        self.cell.apply(&fact, &mut commands);
        self.facts.push(fact);
        for command in &commands {
            let pairs = |node: &NodeId, leases: &[LeaseId]| {
                leases.iter().map(|lease| (*node, *lease)).collect::<Vec<_>>()
            };
            match command {
                Command::Grant(grant) => self.grants.push(grant.clone()),
                Command::AskReveal { node, leases } => self.reveals.extend(pairs(node, leases)),
                Command::Revoke { node, leases } => self.revoked.extend(pairs(node, leases)),
                Command::Settled { node, leases } => self.settled.extend(pairs(node, leases)),
                Command::Publish { entries } => self.entries.extend(entries.clone()),
                Command::Answer { .. }
                | Command::Stage { .. }
                | Command::Keep { .. }
                | Command::Decide { .. }
                | Command::Forget { .. }
                | Command::JobEnded { .. } => {}
            }
        }
        self.commands.extend(commands.clone());
        commands
    }

    pub(crate) fn pass(&mut self, time: Millis) {
        self.at = self.at.plus(time);
    }

    pub(crate) fn join(&mut self, number: u8) -> Vec<Command> {
        self.enrol(enrolment(number, number), number)
    }

    pub(crate) fn enrol(&mut self, enrolment: Enrolment, number: u8) -> Vec<Command> {
        self.tell(Event::NodeJoined(Signed::seal(enrolment, &node_key(number)).witnessed()))
    }

    pub(crate) fn submit(&mut self, manifest: Manifest) -> (Option<JobId>, Vec<Refusal>) {
        let manifest = Signed::seal(manifest, &submitter_key());
        let commands = self.tell(Event::JobSubmitted(manifest.witnessed()));
        match commands.into_iter().next() {
            Some(Command::Answer { refusals, job }) => (job, refusals),
            other => panic!("a submission is answered first, not by {other:?}"),
        }
    }

    /// Submits and stages.
    pub(crate) fn run(&mut self, manifest: Manifest) -> JobId {
        let (job, refusals) = self.submit(manifest);
        assert_eq!(refusals, []);
        let job = job.expect("admitted");
        self.tell(Event::JobStaged { job, listed: Vec::new() });
        job
    }

    pub(crate) fn want(&mut self, number: u8, replicas: u32) -> Vec<Command> {
        self.tell(Event::WorkWanted { node: node_id(number), replicas })
    }

    /// Takes every lease granted to a node so far.
    pub(crate) fn take(&mut self, number: u8) -> Vec<(TaskId, LeaseId)> {
        let node = node_id(number);
        let (mine, others) =
            std::mem::take(&mut self.grants).into_iter().partition(|grant| grant.node == node);
        self.grants = others;
        let mine: Vec<Grant> = mine;
        mine.iter()
            .flat_map(|grant| {
                grant.leases.iter().map(|term| {
                    (TaskId { job: grant.job, stage: grant.stage, index: term.index }, term.lease)
                })
            })
            .collect()
    }

    pub(crate) fn outcome(&self, number: u8, (task, lease): (TaskId, LeaseId), ending: Ending) -> Outcome {
        Outcome {
            cell: self.cell.id(),
            job: task.job,
            stage: task.stage,
            index: task.index,
            lease,
            node: node_id(number),
            ending,
            usage: Usage { fuel: Fuel(5_000_000), ..Usage::default() },
            salt: [number; 16],
            ended_at: self.at,
        }
    }

    pub(crate) fn result(&self, number: u8, at: (TaskId, LeaseId), name: &str) -> Outcome {
        let record = record(name, at.0.index);
        self.outcome(number, at, Ending::Result { record, success: true })
    }

    pub(crate) fn commit(&mut self, number: u8, outcome: &Outcome) -> Vec<Command> {
        let record = outcome.result().expect("a result");
        let commitment = Commitment::new(record, &outcome.salt, &outcome.node);
        self.tell(Event::Committed { node: node_id(number), items: vec![(outcome.lease, commitment)] })
    }

    pub(crate) fn report(&mut self, number: u8, outcome: Outcome) -> Vec<Command> {
        let signed = Signed::seal(outcome, &node_key(number));
        self.tell(Event::Reported { outcomes: vec![signed.witnessed()] })
    }

    pub(crate) fn fail(&mut self, number: u8, at: (TaskId, LeaseId), failure: Failure) -> Vec<Command> {
        let outcome = self.outcome(number, at, Ending::Failed(failure));
        self.report(number, outcome)
    }

    /// Replays every fact from the beginning and compares.
    pub(crate) fn check_replay(&self) {
        let mut cell = Cell::empty();
        let mut commands = Vec::new();
        for (position, fact) in self.facts.iter().enumerate() {
            assert_eq!(
                from_canonical::<Fact>(&to_canonical(fact)).as_ref(),
                Ok(fact),
                "facts survive a journal"
            );
            if position == self.facts.len() / 2 {
                cell = Cell::restore(&cell.snapshot()).expect("own snapshot");
            }
            cell.apply(fact, &mut commands);
        }
        assert_eq!(commands, self.commands);
        assert_eq!(cell.state_hash(), self.cell.state_hash());
    }
}

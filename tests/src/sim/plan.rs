//! What a seed says before anything happens: who is there, what they are like, which jobs come when.

use std::collections::BTreeMap;

use wc_types::charter::Charter;
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::manifest::{
    BlobRef, Comparison, Confidentiality, Input, InputSource, Manifest, Placement, PreemptClass,
    PriorityClass, Resources, SCHEMA_VERSION, Stage, WorkClass, WorkloadType,
};
use wc_types::node::{CaliberClass, Capabilities, Delegation, Enrolment, Locality, SandboxKind};
use wc_types::{Bytes, Fuel, MicroNcu, Millis, Signed, SigningKey, Timestamp};

use crate::sim::Chance;
use crate::sim::donor::{Donor, Kind};

/// The moment at which every world begins.
pub const START: Timestamp = Timestamp(1_800_000_000_000_000);
/// How long faults last.
pub const TROUBLE: Millis = Millis(120_000);

/// One job and what must become of it.
#[derive(Clone, Debug)]
pub struct PlannedJob {
    /// When it is submitted.
    pub at: Timestamp,
    /// What is submitted.
    pub manifest: Signed<Manifest>,
    /// Whether its guest exits unsuccessfully, so that the job must fail.
    pub doomed: bool,
    /// When its submitter cancels it.
    pub cancel_at: Option<Timestamp>,
}

/// One world before it begins.
pub struct Plan {
    /// Where it came from.
    pub seed: u64,
    /// The rest of the randomness.
    pub chance: Chance,
    /// The cell's numbers.
    pub charter: Charter,
    /// The machines.
    pub donors: Vec<Donor>,
    /// The jobs.
    pub jobs: Vec<PlannedJob>,
    /// When the coordinator dies and comes back.
    pub restarts: Vec<Timestamp>,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let trusted = chance.percent(60);
        let charter = Charter { nodes_trusted: trusted, ..Charter::default() };
        let donors = draw_donors(&mut chance, trusted);
        let jobs = draw_jobs(&mut chance, trusted, &donors);
        let restarts = (0..chance.between(0, 3)).map(|_| moment(&mut chance)).collect();
        Self { seed, chance, charter, donors, jobs, restarts }
    }
}

fn moment(chance: &mut Chance) -> Timestamp {
    START.plus(Millis(chance.between(0, TROUBLE.0)))
}

fn draw_donors(chance: &mut Chance, trusted: bool) -> Vec<Donor> {
    // A few seeds have the hundreds that the cell is made for, most are smaller so that many seeds are tried.
    let count = if chance.percent(8) { chance.between(150, 400) } else { chance.between(12, 60) };
    let mut kinds = vec![Kind::Honest; usize::try_from(count).expect("small")];
    // At least three fifths stay honest; which troubles a world has is drawn, too.
    let troubles = usize::try_from(count * 2 / 5).expect("small");
    let menu = [
        Kind::Slow,
        Kind::Crashing,
        Kind::Leaving,
        Kind::Flaky,
        Kind::Silent,
        Kind::Broken,
        Kind::Picky,
        Kind::Babbling,
        Kind::Liar,
        Kind::Copier,
        Kind::Eager,
        Kind::Withholder,
    ];
    let menu: Vec<Kind> = menu.into_iter().filter(|_| chance.percent(60)).collect();
    for kind in kinds.iter_mut().take(troubles) {
        if !menu.is_empty() {
            *kind = chance.pick(&menu);
        }
    }
    if !trusted && chance.percent(40) {
        // Two that tell the same lie are a minority of five.
        kinds[0] = Kind::Colluder;
        kinds[1] = Kind::Colluder;
    }
    // In some worlds an upgrade is under way: results of different engines are not compared with each other.
    let upgrading = chance.percent(30);
    let donors = kinds.into_iter().enumerate();
    donors.map(|(number, kind)| draw_donor(chance, number, kind, upgrading)).collect()
}

fn draw_donor(chance: &mut Chance, number: usize, kind: Kind, upgrading: bool) -> Donor {
    let tag = u32::try_from(number).expect("small");
    let seed = |kind: u8| {
        let mut seed = [kind; 32];
        seed[..4].copy_from_slice(&tag.to_le_bytes());
        seed
    };
    let key = SigningKey::from_seed(&seed(1));
    // Some honest people own several machines; whoever breaks the rules owns one, so that its account shows it.
    let owner_tag = if kind == Kind::Honest && chance.percent(20) { tag - tag % 3 } else { tag };
    let mut owner_seed = [if kind == Kind::Honest { 2 } else { 3 }; 32];
    owner_seed[..4].copy_from_slice(&owner_tag.to_le_bytes());
    let owner = SigningKey::from_seed(&owner_seed);
    let delegation = Delegation { owner: owner.account_id(), node: key.node_id(), issued_at: START };
    let slots = chance.between(1, 8);
    let enrolment = Enrolment {
        delegation: Signed::seal(delegation, &owner),
        capabilities: Capabilities {
            cpu_cores: 8,
            memory: Bytes(8 << 30),
            slots: u16::try_from(slots).expect("small"),
            guest_memory_max: Bytes(1 << 30),
            storage_cap: Bytes(1 << 30),
            sandbox: SandboxKind::WasmHost,
            engine: if upgrading && chance.percent(15) { "engine-2" } else { "engine-1" }.into(),
            caliber: CaliberClass::C1,
        },
        locality: Locality {
            asn: u32::try_from(chance.between(1, 40)).expect("small"),
            prefix_24: u32::try_from(chance.between(1, 200)).expect("small"),
        },
        consents: WorkClass::ALL.to_vec(),
        agent_version: "0.1.0".into(),
        at: START,
    };
    Donor {
        node: key.node_id(),
        owner: owner.account_id(),
        kind,
        born: kind,
        enrolment: Signed::seal(enrolment, &key).witnessed(),
        key,
        slots: usize::try_from(slots).expect("small"),
        held: BTreeMap::new(),
        waiting: Default::default(),
        busy: 0,
        wished: 0,
        linked: true,
        link: 0,
        boot: 0,
        gone: false,
        unsent: Vec::new(),
        flushing: false,
    }
}

fn draw_jobs(chance: &mut Chance, trusted: bool, donors: &[Donor]) -> Vec<PlannedJob> {
    let mut budget = 600i64;
    let mut jobs = Vec::new();
    while budget > 0 && jobs.len() < 24 {
        let replicas = if trusted { chance.pick(&[1, 1, 3, 3, 5]) } else { chance.pick(&[5, 5, 7]) };
        let width = if chance.percent(40) { 1 } else { chance.between(2, 80) };
        let width = u32::try_from(width).expect("small");
        let mut stages = vec![draw_stage(chance, "map", width, replicas)];
        if chance.percent(30) {
            let mut reduce = draw_stage(chance, "reduce", 1, replicas);
            reduce.inputs.push(Input { name: "parts".into(), source: InputSource::Stage(0) });
            stages.push(reduce);
        }
        budget -= i64::from(width) * i64::from(replicas);
        let number = jobs.len();
        // Some submitters are strangers with nothing to spend, some spend what their machines earned.
        let key =
            if chance.percent(50) { SigningKey::from_seed(&[9; 32]) } else { owner_key(chance, donors) };
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            name: format!("job{number}"),
            submitter: key.account_id(),
            submitted_at: START,
            priority_class: PriorityClass::PublicGood,
            confidentiality: Confidentiality::Public,
            class: chance.pick(&WorkClass::ALL),
            deadline: None,
            max_total: chance.percent(30).then(|| MicroNcu(chance.between(1, 500))),
            placement: if donors.len() >= 40 {
                chance.pick(&[Placement::Disjoint, Placement::Lan, Placement::Machines])
            } else {
                chance.pick(&[Placement::Lan, Placement::Machines])
            },
            allowed_endpoints: vec![],
            stages,
        };
        let at = moment(chance);
        let cancel_at = chance.percent(10).then(|| at.plus(Millis(chance.between(0, 30_000))));
        jobs.push(PlannedJob {
            at,
            manifest: Signed::seal(manifest, &key),
            doomed: chance.percent(8),
            cancel_at,
        });
    }
    jobs
}

/// Returns the key of an owner whose machines tell the truth.
fn owner_key(chance: &mut Chance, donors: &[Donor]) -> SigningKey {
    let last = u32::try_from(donors.len() - 1).expect("small");
    let tag = u32::try_from(chance.between(u64::from(last / 2), u64::from(last))).expect("small");
    let mut seed = [2; 32];
    seed[..4].copy_from_slice(&tag.to_le_bytes());
    SigningKey::from_seed(&seed)
}

fn draw_stage(chance: &mut Chance, name: &str, tasks: u32, replicas: u8) -> Stage {
    let wall_clock = Millis(chance.between(60, 120) * 1000);
    Stage {
        name: name.into(),
        workload: BlobRef { cid: cid_of(CODEC_RAW, b"wasm"), bytes: Bytes(4) },
        workload_type: WorkloadType::WasmModule,
        command: vec![],
        env: BTreeMap::new(),
        tasks,
        inputs: vec![],
        outputs: vec![],
        resources: Resources {
            wall_clock,
            fuel: chance.percent(50).then_some(Fuel(50_000_000)),
            ..Resources::default()
        },
        replicas,
        comparison: Comparison::BitExact,
        preempt: PreemptClass::Restartable,
        retries_max: 10,
    }
}

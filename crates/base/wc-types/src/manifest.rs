//! What a submitter asks for: a workflow of stages, each an array of tasks that run one artifact.
//!
//! A manifest is immutable; its identity is the CID of its canonical bytes and its author signs that CID. A stage's
//! inputs name earlier stages, so the graph is acyclic by construction.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cid::{CODEC_DAG_CBOR, Cid, HASH_SHA2_256};
use crate::id::{AccountId, JobId};
use crate::node::CaliberClass;
use crate::time::Timestamp;
use crate::unit::{Bytes, Fuel, MicroNcu, Millis};

/// The one schema version that this release speaks.
pub const SCHEMA_VERSION: u16 = 1;
/// Longest name of a job, stage, input or output, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most stages in one workflow.
pub const STAGES_MAX: usize = 64;
/// Most tasks in one stage. A task is a few dozen bytes of coordinator memory once it has a result.
pub const TASKS_MAX: u32 = 10_000_000;
/// Most arguments of a command.
pub const COMMAND_ARGS_MAX: usize = 256;
/// Most bytes in a command's arguments, or in its environment.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Most inputs, or outputs, of one stage.
pub const FILES_MAX: usize = 64;
/// Replicas of one task (JOB-07).
pub const REPLICAS_MAX: u8 = 20;
/// Default replicas (VER-01).
pub const REPLICAS_DEFAULT: u8 = 3;
/// Shortest and longest wall-clock limit of a task: one second, seven days.
pub const WALL_CLOCK_RANGE: (Millis, Millis) = (Millis(1_000), Millis(7 * 24 * 3_600_000));
/// Least and most memory of a guest: 1 MiB, 4 GiB (the address space of 32-bit WebAssembly).
pub const MEMORY_RANGE: (Bytes, Bytes) = (Bytes(1 << 20), Bytes(4 << 30));
/// Most scratch, and most output, of one task.
pub const FILE_BYTES_MAX: Bytes = Bytes(64 << 30);
/// Most attempts at one replica before the task fails (WFL-04).
pub const RETRIES_MAX: u8 = 10;

/// What kind of work a job is; donors consent to each class by name (AGT-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkClass {
    /// Scientific computing.
    Scientific,
    /// Machine learning for the public good.
    PublicGoodMl,
    /// Rendering of images and film.
    Rendering,
    /// Crawling and indexing of open data.
    Indexing,
    /// The federation's own improvement.
    SelfImprovement,
    /// Anything else that the acceptable-use rules allow.
    General,
}

impl WorkClass {
    /// Every class, in order.
    pub const ALL: [Self; 6] = [
        Self::Scientific,
        Self::PublicGoodMl,
        Self::Rendering,
        Self::Indexing,
        Self::SelfImprovement,
        Self::General,
    ];

    /// Returns the name used in manifests, on the command line and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scientific => "scientific",
            Self::PublicGoodMl => "public-good-ml",
            Self::Rendering => "rendering",
            Self::Indexing => "indexing",
            Self::SelfImprovement => "self-improvement",
            Self::General => "general",
        }
    }
}

/// Accounting label of a job; never an input to scheduling (SCH-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PriorityClass {
    /// A donor spends what it earned.
    DonorRedemption,
    /// Sponsored work.
    PaidSponsored,
    /// Work for everybody.
    PublicGood,
    /// The federation's own improvement.
    SelfImprovement,
}

/// Who may see a job's data (CNF-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidentiality {
    /// Plain text on every machine that runs it.
    Public,
    /// Encrypted; the key goes to attested agents only.
    ConfidentialMedium,
    /// The key is sealed to the measurement of an encrypted guest.
    ConfidentialHigh,
}

/// How a stage's results are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// Equal bytes: the CIDs of the results are equal.
    BitExact,
}

/// How far apart the replicas of one task must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Different owners, different /24 networks and different autonomous systems (SCH-30).
    Disjoint,
    /// Different owners; networks as different as the cell can offer, and the receipt says how different.
    Lan,
    /// Different machines, possibly of one owner; the receipt says so.
    Machines,
}

/// What runs: WebAssembly in the WASM sandbox or an OCI image in a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadType {
    /// A WASI command or component.
    WasmModule,
    /// An OCI image.
    OciContainer,
}

/// What happens to a replica when its machine's human returns (JOB-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreemptClass {
    /// Freeze and hold.
    Yieldable,
    /// Checkpoint and evict.
    Checkpointable,
    /// End, and start again elsewhere.
    Restartable,
}

/// A content id with the size of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Content id.
    pub cid: Cid,
    /// Size of the content.
    pub bytes: Bytes,
}

/// Where the bytes of one input come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InputSource {
    /// The same blob for every task.
    Blob(BlobRef),
    /// One blob per task: an [`InputList`] record with exactly as many items as the stage has tasks.
    Each(Cid),
    /// The outputs of every task of an earlier stage, as a directory `<index, 8 digits>/<output name>`.
    Stage(u16),
}

/// One entry under `/in`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// File or directory name under `/in`.
    pub name: String,
    /// Where its bytes come from.
    pub source: InputSource,
}

/// One file that a task must leave under `/out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Path under `/out`.
    pub name: String,
    /// Most bytes it may have.
    pub bytes_max: Bytes,
}

/// What one task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// Memory of the guest.
    pub memory: Bytes,
    /// Room under `/scratch`.
    pub scratch: Bytes,
    /// Most bytes of standard output.
    pub stdout: Bytes,
    /// Longest run.
    pub wall_clock: Millis,
    /// Most work, when the submitter bounds it.
    pub fuel: Option<Fuel>,
    /// Class of hardware that a redeeming donor asks for (SCH-25).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caliber: Option<CaliberWish>,
}

/// A donor's wish to be served by hardware such as it donated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaliberWish {
    /// The class that is asked for; at most the one that the submitter's credit was earned with.
    pub class: CaliberClass,
    /// Whether a lower class will do, for part of the charge back (CRD-08). If not, the job waits for its class.
    pub lower_accepted: bool,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_millicores: 1_000,
            memory: Bytes(256 << 20),
            scratch: Bytes(256 << 20),
            stdout: Bytes(1 << 20),
            wall_clock: Millis(3_600_000),
            fuel: None,
            caliber: None,
        }
    }
}

/// One stage: an array of tasks that run the same artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Unique among the job's stages.
    pub name: String,
    /// The artifact.
    pub workload: BlobRef,
    /// What kind of artifact it is.
    pub workload_type: WorkloadType,
    /// Arguments after the program name.
    pub command: Vec<String>,
    /// Declared environment; nothing else exists for the guest.
    pub env: BTreeMap<String, String>,
    /// Number of tasks; task `i` sees `WC_TASK_INDEX=i`.
    pub tasks: u32,
    /// What appears under `/in`.
    pub inputs: Vec<Input>,
    /// What must appear under `/out`. Empty: whatever the guest leaves, up to the limits.
    pub outputs: Vec<Output>,
    /// What one task may use.
    pub resources: Resources,
    /// Independent runs of each task.
    pub replicas: u8,
    /// How results are compared.
    pub comparison: Comparison,
    /// What happens when the human returns.
    pub preempt: PreemptClass,
    /// New attempts after failures of machines or disagreement, before the task fails.
    pub retries_max: u8,
}

impl Stage {
    /// Returns the earlier stages whose results this stage reads, ascending.
    pub fn dependencies(&self) -> BTreeSet<u16> {
        self.inputs
            .iter()
            .filter_map(|input| match input.source {
                InputSource::Stage(stage) => Some(stage),
                InputSource::Blob(_) | InputSource::Each(_) => None,
            })
            .collect()
    }
}

/// A job as its submitter signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u16,
    /// A name for people.
    pub name: String,
    /// Whose job it is; also the key that signs.
    pub submitter: AccountId,
    /// When the submitter made it; part of the job's identity.
    pub submitted_at: Timestamp,
    /// Accounting label.
    pub priority_class: PriorityClass,
    /// Who may see the data.
    pub confidentiality: Confidentiality,
    /// What kind of work it is.
    pub class: WorkClass,
    /// When the result stops being useful.
    pub deadline: Option<Timestamp>,
    /// Most credit it may cost.
    pub max_total: Option<MicroNcu>,
    /// How far apart replicas must run.
    pub placement: Placement,
    /// Declared egress; empty means none, which is all that this release grants.
    pub allowed_endpoints: Vec<String>,
    /// The stages, producers before consumers.
    pub stages: Vec<Stage>,
}

/// The blobs of an `each` input, one per task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputList {
    /// One item per task, in task order.
    pub items: Vec<InputItem>,
}

/// One item of an [`InputList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputItem {
    /// The file's own name, kept for naming results.
    pub name: String,
    /// Its content.
    pub blob: BlobRef,
}

/// Which field of a manifest is wrong, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {constraint}")]
pub struct FieldError {
    /// Path of the field, such as `stages[0].replicas`.
    pub field: String,
    /// The rule, as a sentence about the field.
    pub constraint: String,
}

/// Collects every broken rule instead of stopping at the first.
#[derive(Default)]
struct Findings(Vec<FieldError>);

impl Findings {
    fn require(&mut self, holds: bool, field: impl Into<String>, constraint: impl Into<String>) {
        if !holds {
            self.0.push(FieldError { field: field.into(), constraint: constraint.into() });
        }
    }

    fn name(&mut self, field: String, name: &str) {
        let plain = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !name.starts_with('.');
        self.require(
            plain,
            field,
            format!("must be 1 to {NAME_BYTES_MAX} characters of a-z A-Z 0-9 . _ - and not start with a dot"),
        );
    }

    fn cid(&mut self, field: String, cid: &Cid, codec: Option<u64>) {
        self.require(
            cid.version() == cid::Version::V1
                && cid.hash().code() == HASH_SHA2_256
                && codec.is_none_or(|codec| cid.codec() == codec),
            field,
            "must be a CIDv1 with SHA-256",
        );
    }
}

impl Manifest {
    /// Returns the id of the job that this manifest makes: SHA-256 of manifest CID, submitter and submission time in
    /// microseconds, big-endian (JOB-10).
    pub fn job_id(&self, manifest_cid: &Cid) -> JobId {
        let mut bytes = manifest_cid.to_bytes();
        bytes.extend_from_slice(&self.submitter.0);
        bytes.extend_from_slice(&self.submitted_at.0.to_be_bytes());
        JobId(crate::cid::sha256(&bytes))
    }

    /// Returns the number of tasks over all stages.
    pub fn tasks(&self) -> u64 {
        self.stages.iter().map(|stage| u64::from(stage.tasks)).sum()
    }

    /// Returns every rule of structure and range that this manifest breaks, in field order; empty when it is sound.
    /// What a cell allows beyond that is for its policy to say.
    pub fn check(&self) -> Vec<FieldError> {
        let mut findings = Findings::default();
        findings.require(
            self.schema_version == SCHEMA_VERSION,
            "schema_version",
            format!("must be {SCHEMA_VERSION}"),
        );
        findings.name("name".into(), &self.name);
        findings.require(self.submitted_at.0 > 0, "submitted_at", "must be after 1970");
        findings.require(
            !self.stages.is_empty() && self.stages.len() <= STAGES_MAX,
            "stages",
            format!("must have 1 to {STAGES_MAX} stages"),
        );
        findings.require(
            self.allowed_endpoints.len() <= FILES_MAX
                && self.allowed_endpoints.iter().all(|endpoint| endpoint.len() <= 256),
            "allowed_endpoints",
            format!("must have at most {FILES_MAX} entries of at most 256 bytes"),
        );
        let mut names = BTreeSet::new();
        for (index, stage) in self.stages.iter().take(STAGES_MAX).enumerate() {
            findings.require(
                names.insert(stage.name.as_str()),
                format!("stages[{index}].name"),
                "must be unique among the stages",
            );
            stage.check(index, &mut findings);
        }
        findings.0
    }
}

impl Stage {
    fn check(&self, index: usize, findings: &mut Findings) {
        let at = |field: &str| format!("stages[{index}].{field}");
        findings.name(at("name"), &self.name);
        findings.cid(at("workload.cid"), &self.workload.cid, None);
        findings.require(self.workload.bytes.0 > 0, at("workload.bytes"), "must not be zero");
        findings.require(
            self.command.len() <= COMMAND_ARGS_MAX
                && self.command.iter().map(|arg| arg.len() + 1).sum::<usize>() <= COMMAND_BYTES_MAX
                && self.command.iter().all(|arg| !arg.contains('\0')),
            at("command"),
            format!(
                "must have at most {COMMAND_ARGS_MAX} arguments of together {COMMAND_BYTES_MAX} bytes, without NUL"
            ),
        );
        findings.require(
            self.env.len() <= COMMAND_ARGS_MAX
                && self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() <= COMMAND_BYTES_MAX
                && self.env.iter().all(|(k, v)| {
                    !k.is_empty() && !k.contains(['=', '\0']) && !v.contains('\0') && !k.starts_with("WC_")
                }),
            at("env"),
            format!(
                "must have at most {COMMAND_ARGS_MAX} names, of together {COMMAND_BYTES_MAX} bytes, none empty, \
                 with `=` or NUL, or starting with the reserved `WC_`"
            ),
        );
        findings.require(
            (1..=TASKS_MAX).contains(&self.tasks),
            at("tasks"),
            format!("must be 1 to {TASKS_MAX}"),
        );
        findings.require(
            (1..=REPLICAS_MAX).contains(&self.replicas),
            at("replicas"),
            format!("must be 1 to {REPLICAS_MAX}"),
        );
        findings.require(
            self.retries_max <= RETRIES_MAX,
            at("retries_max"),
            format!("must be at most {RETRIES_MAX}"),
        );
        let resources = &self.resources;
        findings.require(
            (1..=256_000).contains(&resources.cpu_millicores),
            at("resources.cpu_millicores"),
            "must be 1 to 256000 thousandths of a core",
        );
        findings.require(
            (MEMORY_RANGE.0..=MEMORY_RANGE.1).contains(&resources.memory),
            at("resources.memory"),
            "must be 1 MiB to 4 GiB",
        );
        findings.require(
            resources.scratch <= FILE_BYTES_MAX,
            at("resources.scratch"),
            "must be at most 64 GiB",
        );
        findings.require(
            resources.stdout <= Bytes(64 << 20),
            at("resources.stdout"),
            "must be at most 64 MiB; write larger results to /out",
        );
        findings.require(
            (WALL_CLOCK_RANGE.0..=WALL_CLOCK_RANGE.1).contains(&resources.wall_clock),
            at("resources.wall_clock"),
            "must be 1 second to 7 days",
        );
        findings.require(
            self.inputs.len() <= FILES_MAX,
            at("inputs"),
            format!("must have at most {FILES_MAX} entries"),
        );
        findings.require(
            self.outputs.len() <= FILES_MAX,
            at("outputs"),
            format!("must have at most {FILES_MAX} entries"),
        );
        let mut seen = BTreeSet::new();
        for (position, input) in self.inputs.iter().take(FILES_MAX).enumerate() {
            let field = at(&format!("inputs[{position}]"));
            findings.name(format!("{field}.name"), &input.name);
            findings.require(
                seen.insert(input.name.as_str()),
                format!("{field}.name"),
                "must be unique among the stage's inputs",
            );
            match &input.source {
                InputSource::Blob(blob) => findings.cid(format!("{field}.source"), &blob.cid, None),
                InputSource::Each(list) => {
                    findings.cid(format!("{field}.source"), list, Some(CODEC_DAG_CBOR));
                }
                InputSource::Stage(stage) => findings.require(
                    usize::from(*stage) < index,
                    format!("{field}.source"),
                    "must name an earlier stage, so that the workflow has no cycle",
                ),
            }
        }
        let mut seen = BTreeSet::new();
        for (position, output) in self.outputs.iter().take(FILES_MAX).enumerate() {
            let field = at(&format!("outputs[{position}]"));
            findings.name(format!("{field}.name"), &output.name);
            findings.require(
                seen.insert(output.name.as_str()),
                format!("{field}.name"),
                "must be unique among the stage's outputs",
            );
            findings.require(
                output.bytes_max <= FILE_BYTES_MAX,
                format!("{field}.bytes_max"),
                "must be at most 64 GiB",
            );
        }
    }
}

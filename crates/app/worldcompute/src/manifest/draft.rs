//! A job whose blobs have no names yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, Cid, cid_of};
use wc_types::manifest::{
    BlobRef, Comparison, Confidentiality, Input, InputSource, Manifest, Output, Placement, PreemptClass,
    PriorityClass, REPLICAS_DEFAULT, Resources, SCHEMA_VERSION, Stage, WorkClass, WorkloadType,
};
use wc_types::{AccountId, Bytes, MicroNcu, Timestamp};

/// New attempts before a task fails, unless the author says otherwise.
pub const RETRIES_DEFAULT: u8 = 3;

/// A job as its author wrote it, checked, with its stages in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Name for people.
    pub name: String,
    /// Kind of work.
    pub class: WorkClass,
    /// Accounting label.
    pub priority_class: PriorityClass,
    /// Who may see the data.
    pub confidentiality: Confidentiality,
    /// How far apart replicas run.
    pub placement: Placement,
    /// When the result stops being useful.
    pub deadline: Option<Timestamp>,
    /// Most credit it may cost.
    pub max_total: Option<MicroNcu>,
    /// Declared egress.
    pub allowed_endpoints: Vec<String>,
    /// Producers before consumers.
    pub stages: Vec<StageDraft>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageDraft {
    /// Path of this stage in the author's document.
    pub origin: String,
    /// Unique name.
    pub name: String,
    /// The WebAssembly module.
    pub module: Source,
    /// Arguments.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Number of tasks.
    pub tasks: u32,
    /// What appears under `/in`.
    pub inputs: Vec<InputDraft>,
    /// What must appear under `/out`.
    pub outputs: Vec<Output>,
    /// What one task may use.
    pub resources: Resources,
    /// Independent runs of each task.
    pub replicas: u8,
    /// What happens when the human returns.
    pub preempt: PreemptClass,
    /// New attempts.
    pub retries_max: u8,
}

/// Where the bytes of a blob are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file on this machine.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
    /// In some node's store already.
    Blob {
        /// Content id.
        cid: Cid,
        /// Its size, if the author knows it.
        bytes: Option<Bytes>,
    },
}

/// One entry under `/in`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputDraft {
    /// Name under `/in`.
    pub name: String,
    /// Where it comes from.
    pub from: InputFrom,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFrom {
    /// The same for every task.
    All(Source),
    /// One for each task, with its own name.
    Each(Vec<(String, Source)>),
    /// The outputs of an earlier stage.
    Stage(u16),
}

/// What the sources of a draft turned out to be: one entry for each stage.
#[derive(Clone, Debug)]
pub struct Blobs(pub Vec<StageBlobs>);

/// The blobs of one stage.
#[derive(Clone, Debug)]
pub struct StageBlobs {
    /// The module.
    pub module: BlobRef,
    /// The inputs, in the draft's order.
    pub inputs: Vec<InputSource>,
}

impl Draft {
    /// A job of one stage with everything at its default.
    pub fn single(name: &str, stage: StageDraft) -> Self {
        Self {
            name: name.to_owned(),
            class: WorkClass::General,
            priority_class: PriorityClass::PublicGood,
            confidentiality: Confidentiality::Public,
            placement: Placement::Lan,
            deadline: None,
            max_total: None,
            allowed_endpoints: Vec::new(),
            stages: vec![stage],
        }
    }

    /// Returns the manifest that this draft becomes with its blobs.
    pub fn manifest(&self, blobs: &Blobs, submitter: AccountId, submitted_at: Timestamp) -> Manifest {
        let stages = self.stages.iter().zip(&blobs.0).map(|(stage, blobs)| Stage {
            name: stage.name.clone(),
            workload: blobs.module,
            workload_type: WorkloadType::WasmModule,
            command: stage.command.clone(),
            env: stage.env.clone(),
            tasks: stage.tasks,
            inputs: stage
                .inputs
                .iter()
                .zip(&blobs.inputs)
                .map(|(input, source)| Input { name: input.name.clone(), source: source.clone() })
                .collect(),
            outputs: stage.outputs.clone(),
            resources: stage.resources,
            replicas: stage.replicas,
            comparison: Comparison::BitExact,
            preempt: stage.preempt,
            retries_max: stage.retries_max,
        });
        Manifest {
            schema_version: SCHEMA_VERSION,
            name: self.name.clone(),
            submitter,
            submitted_at,
            priority_class: self.priority_class,
            confidentiality: self.confidentiality,
            class: self.class,
            deadline: self.deadline,
            max_total: self.max_total,
            placement: self.placement,
            allowed_endpoints: self.allowed_endpoints.clone(),
            stages: stages.collect(),
        }
    }

    /// Returns sound blobs that stand for the real ones while nothing but structure is checked.
    pub fn placeholders(&self) -> Blobs {
        let module = BlobRef { cid: cid_of(CODEC_RAW, b""), bytes: Bytes(1) };
        let input = |input: &InputDraft| match input.from {
            InputFrom::All(_) => InputSource::Blob(module),
            InputFrom::Each(_) => InputSource::Each(cid_of(CODEC_DAG_CBOR, b"")),
            InputFrom::Stage(stage) => InputSource::Stage(stage),
        };
        let blobs =
            |stage: &StageDraft| StageBlobs { module, inputs: stage.inputs.iter().map(input).collect() };
        Blobs(self.stages.iter().map(blobs).collect())
    }

    /// Translates a field of the manifest to the field of the author's document that it comes from.
    pub fn authored(&self, field: &str) -> String {
        let Some((index, rest)) = field
            .strip_prefix("stages[")
            .and_then(|rest| rest.split_once("]."))
            .and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)))
        else {
            return match field {
                "name" => "metadata.name".to_owned(),
                "max_total" => "spec.max_total_ncu".to_owned(),
                other => format!("spec.{other}"),
            };
        };
        let origin = self.stages.get(index).map_or("spec", |stage| &stage.origin);
        let local = match rest {
            "workload.cid" | "workload.bytes" => "module".to_owned(),
            "resources.cpu_millicores" => "resources.cpu".to_owned(),
            "resources.wall_clock" => "max_wall_time".to_owned(),
            "retries_max" => "retries".to_owned(),
            other => other.trim_end_matches(".source").replace(".bytes_max", ".max"),
        };
        format!("{origin}.{local}")
    }
}

impl StageDraft {
    /// A stage of one task with everything at its default.
    pub fn new(name: &str, module: Source) -> Self {
        Self {
            origin: "spec".to_owned(),
            name: name.to_owned(),
            module,
            command: Vec::new(),
            env: BTreeMap::new(),
            tasks: 1,
            inputs: Vec::new(),
            outputs: Vec::new(),
            resources: Resources::default(),
            replicas: REPLICAS_DEFAULT,
            preempt: PreemptClass::Yieldable,
            retries_max: RETRIES_DEFAULT,
        }
    }
}

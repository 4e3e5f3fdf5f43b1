//! A module sent straight to one peer (JOB-13): the executor's side, and the submitter's short-lived one.

use std::sync::Arc;
use std::time::Duration;

use wc_mesh::{
    DialError, LanDiscovery, Mesh, MeshConfig, MeshStream, OpenError, Reservations, TransportConfig,
};
use wc_proto::limit::{DISPATCH_BYTES_MAX, FRAME_BYTES_MAX, STDERR_BYTES_MAX};
use wc_proto::peer::dispatch::{Dispatch, DispatchAnswer, DispatchRequest};
use wc_proto::version;
use wc_sandbox::{Limits, Sandbox, SandboxError, TaskSpec};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, cid_digest, cid_of, sha256};
use wc_types::code::{Class, Code};
use wc_types::manifest::{BlobRef, WorkClass};
use wc_types::outcome::{Ending, Exit, Outcome, ResultRecord, Usage};
use wc_types::{
    Bytes, CellId, Fuel, JobId, LeaseId, NodeId, Refusal, SignError, Signed, SigningKey, record_cid,
    to_canonical,
};

use crate::clock;
use crate::flow::run::ending_of;
use crate::link::{self, LinkError};

/// Oldest request that is still run.
const REQUEST_AGE_MAX_MS: u64 = 5 * 60_000;
/// Longest run of a directly dispatched module, whatever it asks for.
const WALL_MAX: Duration = Duration::from_secs(600);
/// Longest wait for a connection: looking a name up at servers that do not answer and then at others, and one dial
/// through a relay.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

const REFUSED: Code = Code::new("WC-NODE-050", Class::Caller);
const NO_CONSENT: Code = Code::new("WC-NODE-051", Class::Caller);
const FAILED: Code = Code::new("WC-NODE-052", Class::Host);
const UNREACHABLE: Code = Code::new("WC-NODE-053", Class::Exhausted);

/// Runs what strangers send, one stream each, as long as this future is polled. Only started when the owner asked for
/// it.
pub(crate) async fn serve(mesh: Mesh, sandbox: Arc<Sandbox>, key: Arc<SigningKey>, consents: Vec<WorkClass>) {
    let Ok(mut incoming) = mesh.accept(version::DISPATCH) else {
        tracing::error!("direct dispatches cannot be accepted");
        return;
    };
    let consents = Arc::new(consents);
    while let Some((node, stream)) = incoming.recv().await {
        let (mesh, sandbox, key, consents) = (mesh.clone(), sandbox.clone(), key.clone(), consents.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, &sandbox, &key, &consents).await
                && error.is_misbehaviour()
            {
                mesh.report_misbehaviour(node, error.to_string());
            }
        });
    }
}

async fn serve_one(
    mut stream: MeshStream,
    sandbox: &Sandbox,
    key: &SigningKey,
    consents: &[WorkClass],
) -> Result<(), LinkError> {
    let dispatch: Dispatch = link::read(&mut stream, FRAME_BYTES_MAX).await?;
    let answer = match execute(&dispatch, sandbox, key, consents).await {
        Ok(answer) => answer,
        Err(refusal) => DispatchAnswer::Refused { refusal },
    };
    link::write(&mut stream, &answer, FRAME_BYTES_MAX).await
}

fn check(dispatch: &Dispatch, consents: &[WorkClass]) -> Result<(), Refusal> {
    let request = &dispatch.request;
    if request.signed_by(&request.submitter.0).is_err() {
        return Err(Refusal::new(REFUSED, "the request is not signed by its submitter").field("submitter"));
    }
    if clock::now().since(request.at).0 > REQUEST_AGE_MAX_MS {
        return Err(Refusal::new(REFUSED, "the request is older than five minutes").field("at"));
    }
    if dispatch.module.len() > DISPATCH_BYTES_MAX {
        return Err(Refusal::new(REFUSED, format!("the module has more than {DISPATCH_BYTES_MAX} bytes"))
            .field("module")
            .hint("submit it as a job: 'worldcompute job submit job.yaml'"));
    }
    if cid_digest(&request.module) != Some(sha256(&dispatch.module)) {
        return Err(Refusal::new(REFUSED, "the module does not match its CID").field("module"));
    }
    if !consents.contains(&request.class) {
        return Err(Refusal::new(
            NO_CONSENT,
            format!("this machine's owner does not consent to class {}", request.class.name()),
        )
        .field("class"));
    }
    Ok(())
}

async fn execute(
    dispatch: &Dispatch,
    sandbox: &Sandbox,
    key: &SigningKey,
    consents: &[WorkClass],
) -> Result<DispatchAnswer, Refusal> {
    check(dispatch, consents)?;
    let request = &dispatch.request;
    let failed = |error: SandboxError| Refusal::new(FAILED, error.to_string());
    let job = cid_digest(&request.cid()).expect("records are hashed with SHA-256");
    let resources = &request.resources;
    let wall = Duration::from_millis(resources.wall_clock.0).min(WALL_MAX);
    let limits = Limits {
        memory_bytes: resources.memory.0,
        fuel: resources.fuel.map_or(u64::MAX, |fuel| fuel.0),
        cpu: wall,
        wall,
        stdout_bytes: resources.stdout.0.min(DISPATCH_BYTES_MAX as u64),
        stderr_bytes: STDERR_BYTES_MAX as u64,
        ..Limits::default()
    };
    let prepared = match sandbox.prepared(&request.module).await {
        Some(prepared) => prepared,
        None => sandbox.prepare(&request.module, &dispatch.module).await.map_err(failed)?,
    };
    let mut slot = sandbox.slot(job, &prepared, limits).await.map_err(failed)?;
    let mut args = vec!["module".to_owned()];
    args.extend(request.command.iter().cloned());
    let spec = TaskSpec {
        args,
        env: request.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        seed: job,
        ..TaskSpec::default()
    };
    let ran = slot.run(spec).await.map_err(failed)?;
    let exit = ending_of(ran.exit).map_err(|failure| Refusal::new(FAILED, format!("{failure:?}")))?;
    let stdout_cid = cid_of(CODEC_RAW, &ran.stdout);
    let record = ResultRecord {
        exit: exit.clone(),
        stdout: BlobRef { cid: stdout_cid, bytes: Bytes(ran.stdout.len() as u64) },
        outputs: std::collections::BTreeMap::new(),
    };
    let outcome = Signed::seal(
        Outcome {
            cell: CellId([0; 32]),
            job: JobId(job),
            stage: 0,
            index: 0,
            lease: LeaseId(0),
            node: key.node_id(),
            ending: Ending::Result { record: record_cid(&record), success: exit.is_success() },
            usage: Usage {
                fuel: Fuel(ran.usage.fuel),
                cpu_micros: ran.usage.cpu_micros,
                wall_micros: ran.usage.wall_micros,
                memory_peak: Bytes(ran.usage.memory_bytes_peak),
                output: Bytes(ran.stdout.len() as u64),
            },
            salt: clock::random(),
            ended_at: clock::now(),
        },
        key,
    );
    Ok(DispatchAnswer::Ran {
        outcome: Box::new(outcome),
        exit,
        stdout: ran.stdout,
        stderr: ran.stderr,
        record: to_canonical(&record),
    })
}

/// A direct dispatch did not bring a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The executor's address.
    #[error("`{text}` is not a multiaddr such as /ip4/192.168.1.10/tcp/19999")]
    Address {
        /// What was given.
        text: String,
    },
    /// The short-lived mesh of the submitter.
    #[error("the mesh cannot start")]
    Mesh(#[from] wc_mesh::StartError),
    /// Nobody answered there.
    #[error("the executor cannot be reached")]
    Dial(#[from] DialError),
    /// Nobody answered in time.
    #[error("the executor did not answer in {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    /// The executor does not take direct dispatches.
    #[error("the executor takes no direct dispatches; its owner starts it with --accept-direct")]
    NotAccepted(#[source] OpenError),
    /// The connection broke.
    #[error("the connection to the executor broke")]
    Link(#[from] LinkError),
    /// The executor refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The executor's answer does not hold together.
    #[error("the executor's answer cannot be believed: {reason}")]
    Unbelievable {
        /// Why.
        reason: &'static str,
    },
    /// The executor's signature is wrong.
    #[error("the executor's answer is not signed by the peer we talked to")]
    Signature(#[from] SignError),
}

impl DirectError {
    /// Returns whether every way to the executor was tried and none got through.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout | Self::Dial(DialError::Unreachable { .. } | DialError::NoAddress { .. })
        )
    }

    /// Returns what to tell the submitter about ways that do not get through: what was tried, why it failed, what next.
    pub fn to_refusal(&self) -> Option<Refusal> {
        if !self.is_unreachable() {
            return None;
        }
        let message = match self {
            Self::Dial(source) => format!("{self}: {source}"),
            _ => self.to_string(),
        };
        let hint = "is it running, and is the address its own? `worldcompute doctor` says what this network lets through";
        Some(Refusal::new(UNREACHABLE, message).field("executor").hint(hint))
    }
}

/// What a direct dispatch brought back, checked.
#[derive(Debug)]
pub struct DirectRun {
    /// Who ran it.
    pub executor: NodeId,
    /// Its signed word.
    pub outcome: Signed<Outcome>,
    /// How the guest ended.
    pub exit: Exit,
    /// Standard output; its CID is in the record that the outcome names.
    pub stdout: Vec<u8>,
    /// Tail of standard error.
    pub stderr: Vec<u8>,
}

/// Sends a module to one peer and returns its checked answer.
///
/// - `executor`: multiaddr of the peer
/// - `network`: name of the network that the executor belongs to
/// - `transport`: proxy, name servers and whom to believe on the way there
///
/// # Errors
/// [`DirectError`] says whose move it is.
pub async fn dispatch(
    executor: &str,
    network: &str,
    transport: TransportConfig,
    request: Signed<DispatchRequest>,
    module: Vec<u8>,
) -> Result<DirectRun, DirectError> {
    let address = executor.parse().map_err(|_| DirectError::Address { text: executor.to_owned() })?;
    // A name for this one connection: the request itself says whose it is, and signs it.
    let mut config = MeshConfig::new(clock::random(), network);
    config.listen = Vec::new();
    config.lan = LanDiscovery { mdns: false, loopback: false };
    config.reach.reservations = Reservations::Never;
    config.agent_version = version::AGENT_VERSION.to_owned();
    config.transport = transport;
    let (mesh, _events) = Mesh::start(config).await?;
    let job = cid_digest(&request.cid());
    let node = tokio::time::timeout(CONNECT_TIMEOUT, mesh.dial(address))
        .await
        .map_err(|_| DirectError::ConnectTimeout)??;
    let mut stream = mesh.open(node, version::DISPATCH).await.map_err(DirectError::NotAccepted)?;
    link::write(&mut stream, &Dispatch { request, module }, FRAME_BYTES_MAX).await.map_err(|error| {
        match error {
            LinkError::Frame(_) => DirectError::Refused(
                Refusal::new(REFUSED, format!("the module has more than {DISPATCH_BYTES_MAX} bytes"))
                    .field("workload")
                    .hint("submit it as a job: 'worldcompute job submit job.yaml'"),
            ),
            other => DirectError::Link(other),
        }
    })?;
    let answer: DispatchAnswer = link::read(&mut stream, FRAME_BYTES_MAX).await?;
    let run = believe(node, job, answer)?;
    // Closes the connection in words: over QUIC the executor would otherwise wait for a peer that is gone.
    mesh.stop().await;
    Ok(run)
}

fn believe(node: NodeId, job: Option<[u8; 32]>, answer: DispatchAnswer) -> Result<DirectRun, DirectError> {
    let (outcome, exit, stdout, stderr, record) = match answer {
        DispatchAnswer::Refused { refusal } => return Err(DirectError::Refused(refusal)),
        DispatchAnswer::Ran { outcome, exit, stdout, stderr, record } => {
            (*outcome, exit, stdout, stderr, record)
        }
    };
    outcome.signed_by(&node.0)?;
    let unbelievable = |reason| DirectError::Unbelievable { reason };
    if outcome.node != node || Some(outcome.job.0) != job {
        return Err(unbelievable("it is about another request"));
    }
    if outcome.result() != Some(&cid_of(CODEC_DAG_CBOR, &record)) {
        return Err(unbelievable("its record is not the one it signed"));
    }
    let record: ResultRecord =
        wc_types::from_canonical(&record).map_err(|_| unbelievable("its record does not decode"))?;
    if record.exit != exit || record.stdout.cid != cid_of(CODEC_RAW, &stdout) {
        return Err(unbelievable("its output is not the one it signed"));
    }
    Ok(DirectRun { executor: node, outcome, exit, stdout, stderr })
}

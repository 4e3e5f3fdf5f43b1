//! A peer that a test plays itself: it connects to a real coordinator and then says what it should, or should not.
//!
//! [`Peer`] is a mesh of its own with its own keys. [`Session`] is its conversation as a donor, word for word.
//! [`Donor`] answers by itself, honestly or not, until it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, timeout};
use wc_mesh::{LanDiscovery, Mesh, MeshConfig, MeshEvents, MeshStream, Multiaddr};
use wc_proto::api::{CellRequest, Request, Response};
use wc_proto::frame::{self, PREFIX_BYTES};
use wc_proto::limit::FRAME_BYTES_MAX;
use wc_proto::peer::session::{AgentMessage, CoordinatorMessage, InlineBlob, Report};
use wc_proto::version;
use wc_types::charter::cell_id;
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, cid_of};
use wc_types::grant::{Grant, LeaseTerm};
use wc_types::manifest::{BlobRef, WorkClass};
use wc_types::node::{CaliberClass, Capabilities, Delegation, Enrolment, Locality, SandboxKind};
use wc_types::outcome::{Commitment, Ending, Exit, Outcome, ResultRecord, Usage};
use wc_types::{Bytes, CellId, Cid, Fuel, LeaseId, NodeId, Refusal, Signed, SigningKey, to_canonical};

use crate::federation::{Federation, SOON, now};

/// What a played replica says it used; enough to be worth credit.
pub const FUEL: Fuel = Fuel(50_000_000);
/// More often than any charter asks for.
const BEAT: Duration = Duration::from_secs(1);

/// A machine that exists only in the test.
pub struct Peer {
    /// Its key.
    pub key: SigningKey,
    /// Its owner's key.
    pub owner: SigningKey,
    /// Its place on the network.
    pub mesh: Mesh,
    /// The coordinator it is connected to.
    pub coordinator: NodeId,
    /// The engine that it says it has; replicas of one task run on equal engines.
    pub engine: String,
    _events: MeshEvents,
}

impl Peer {
    /// Joins the federation's network and connects to its coordinator. Peers of one federation differ by `number`.
    pub async fn connect(federation: &Federation, number: u8) -> Self {
        // A second test in the same process finds it installed, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let key = SigningKey::from_seed(&[number; 32]);
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")];
        let config = MeshConfig {
            listen,
            lan: LanDiscovery { mdns: false, loopback: false },
            ..MeshConfig::new(*key.to_seed(), federation.network())
        };
        let (mesh, events) = Mesh::start(config).await.expect("a mesh on loopback starts");
        let coordinator = mesh.dial(coordinator_address(federation).await).await.expect("the coordinator");
        Self {
            owner: SigningKey::from_seed(&[number ^ 0x80; 32]),
            key,
            mesh,
            coordinator,
            engine: "played".into(),
            _events: events,
        }
    }

    /// Returns who it is.
    pub fn node(&self) -> NodeId {
        self.key.node_id()
    }

    /// Opens a stream to the coordinator.
    pub async fn open(&self, protocol: &str) -> MeshStream {
        self.mesh.open(self.coordinator, protocol).await.expect("the coordinator accepts a stream")
    }

    /// Asks the coordinator something on a stream of its own.
    pub async fn ask(&self, request: &CellRequest) -> Response {
        let mut stream = self.open(version::CONTROL).await;
        let frame = frame::encode(request, FRAME_BYTES_MAX).expect("small");
        stream.write_all(&frame).await.expect("the coordinator reads");
        stream.flush().await.expect("the coordinator reads");
        let body = timeout(SOON, read_frame(&mut stream)).await.expect("in time").expect("an answer");
        frame::decode(&body).expect("an answer that can be read")
    }

    /// Returns its owner's word that it is theirs.
    pub fn delegation(&self) -> Delegation {
        Delegation { owner: self.owner.account_id(), node: self.node(), issued_at: now() }
    }

    /// Returns a request to join under a delegation.
    pub fn enrolment(&self, delegation: Signed<Delegation>) -> Enrolment {
        Enrolment {
            delegation,
            capabilities: Capabilities {
                cpu_cores: 4,
                memory: Bytes(8 << 30),
                slots: 1,
                guest_memory_max: Bytes(4 << 30),
                storage_cap: Bytes(1 << 30),
                sandbox: SandboxKind::WasmHost,
                engine: self.engine.clone(),
                caliber: CaliberClass::C1,
            },
            locality: Locality::default(),
            consents: WorkClass::ALL.to_vec(),
            agent_version: version::AGENT_VERSION.to_owned(),
            at: now(),
        }
    }

    /// Joins the cell as it should.
    pub async fn enrol(&self) -> Session {
        let delegation = Signed::seal(self.delegation(), &self.owner);
        let enrolment = Signed::seal(self.enrolment(delegation), &self.key);
        self.enrol_with(enrolment).await.expect("an honest enrolment is welcome")
    }

    /// Joins the cell again with leases of an earlier session.
    pub async fn come_back(&self, held: &[LeaseId]) -> Session {
        let delegation = Signed::seal(self.delegation(), &self.owner);
        let enrolment = Signed::seal(self.enrolment(delegation), &self.key);
        let mut session = Session::open(self).await;
        session.held.extend(held);
        session.join(enrolment, held.to_vec()).await.expect("who comes back is welcome");
        session
    }

    /// Asks to join the cell with whatever it was given.
    ///
    /// # Errors
    /// What the coordinator refused with.
    pub async fn enrol_with(&self, enrolment: Signed<Enrolment>) -> Result<Session, Refusal> {
        let mut session = Session::open(self).await;
        session.join(enrolment, Vec::new()).await?;
        Ok(session)
    }
}

async fn coordinator_address(federation: &Federation) -> Multiaddr {
    let mut client = federation.coordinator().client().await;
    let Response::Donor(view) = client.ask(Request::DonorStatus).await.expect("the node answers") else {
        panic!("a node says how it does")
    };
    let address = view.addresses.iter().find(|address| address.contains("/tcp/")).expect("it listens on TCP");
    address.parse().expect("a multiaddr")
}

/// A conversation with the coordinator as a donor. Beats while it listens.
pub struct Session {
    /// The cell that welcomed it.
    pub cell: CellId,
    key: SigningKey,
    writer: WriteHalf<MeshStream>,
    inbox: mpsc::Receiver<CoordinatorMessage>,
    held: BTreeSet<LeaseId>,
    beats: Interval,
    reading: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Session {
    /// Opens the conversation and says nothing yet.
    pub async fn open(peer: &Peer) -> Self {
        let (mut reader, writer) = tokio::io::split(peer.open(version::SESSION).await);
        let (sender, inbox) = mpsc::channel(64);
        let reading = tokio::spawn(async move {
            while let Some(body) = read_frame(&mut reader).await {
                let Ok(message) = frame::decode(&body) else { return };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Self {
            cell: CellId([0; 32]),
            key: peer.key.clone(),
            writer,
            inbox,
            held: BTreeSet::new(),
            beats: tokio::time::interval(BEAT),
            reading,
        }
    }

    async fn join(&mut self, enrolment: Signed<Enrolment>, held: Vec<LeaseId>) -> Result<(), Refusal> {
        self.say(AgentMessage::Enrol { enrolment: Box::new(enrolment), held }).await;
        loop {
            match self.hear().await.expect("an enrolment is answered") {
                CoordinatorMessage::Welcome { founding } => {
                    self.cell = cell_id(&founding);
                    return Ok(());
                }
                CoordinatorMessage::Refused { refusal } => return Err(refusal),
                _ => {}
            }
        }
    }

    /// Sends bytes as they are; a coordinator that has hung up does not mind.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.writer.write_all(bytes).await;
        let _ = self.writer.flush().await;
    }

    /// Sends a message.
    pub async fn say(&mut self, message: AgentMessage) {
        let frame = frame::encode(&message, FRAME_BYTES_MAX).expect("small");
        self.send(&frame).await;
    }

    /// Returns what the coordinator says next, or `None` once it has ended the session.
    ///
    /// # Panics
    /// When it says nothing for long.
    pub async fn hear(&mut self) -> Option<CoordinatorMessage> {
        let heard = timeout(SOON, async {
            loop {
                tokio::select! {
                    message = self.inbox.recv() => return message,
                    _ = self.beats.tick(), if self.cell != CellId([0; 32]) => {
                        let held = self.held.iter().copied().collect();
                        let beat = AgentMessage::Beat { held, load_ppm: 0 };
                        let frame = frame::encode(&beat, FRAME_BYTES_MAX).expect("small");
                        let _ = self.writer.write_all(&frame).await;
                        let _ = self.writer.flush().await;
                    }
                }
            }
        });
        let message = heard.await.expect("the coordinator says something");
        match &message {
            Some(CoordinatorMessage::Grant { grant, .. }) => {
                self.held.extend(grant.leases.iter().map(|term| term.lease));
            }
            Some(CoordinatorMessage::Settled { leases } | CoordinatorMessage::Revoke { leases }) => {
                self.held.retain(|lease| !leases.contains(lease));
            }
            _ => {}
        }
        message
    }

    /// Waits until the coordinator has ended the session.
    pub async fn ended(&mut self) {
        while self.hear().await.is_some() {}
    }

    /// Asks for one lease and waits for it.
    pub async fn lease(&mut self) -> Lease {
        self.leases(1).await.remove(0)
    }

    /// Asks for leases and waits for all of them.
    pub async fn leases(&mut self, replicas: u32) -> Vec<Lease> {
        self.say(AgentMessage::Want { replicas }).await;
        let mut leases = Vec::new();
        while leases.len() < replicas as usize {
            match self.hear().await.expect("the session goes on") {
                CoordinatorMessage::Grant { grant, manifest } => {
                    let has_manifest = manifest.is_some();
                    let lease =
                        |term: &LeaseTerm| Lease { grant: (*grant).clone(), term: *term, has_manifest };
                    leases.extend(grant.leases.iter().map(lease));
                }
                CoordinatorMessage::Refused { refusal } => panic!("{refusal}"),
                _ => {}
            }
        }
        leases
    }

    /// Waits until the coordinator asks for what was committed under a lease.
    pub async fn asked(&mut self, lease: &Lease) {
        loop {
            if let CoordinatorMessage::AskReveal { leases } = self.hear().await.expect("the session goes on")
                && leases.contains(&lease.term.lease)
            {
                return;
            }
        }
    }

    /// Waits until the coordinator wants to hear no more of a lease.
    pub async fn settled(&mut self, lease: LeaseId) {
        loop {
            if let CoordinatorMessage::Settled { leases } = self.hear().await.expect("the session goes on")
                && leases.contains(&lease)
            {
                return;
            }
        }
    }

    /// Commits to something under a lease.
    pub async fn commit(&mut self, lease: &Lease, commitment: Commitment) {
        self.say(AgentMessage::Commit { items: vec![(lease.term.lease, commitment)] }).await;
    }

    /// Reports an outcome with the bytes of what was found.
    pub async fn report(&mut self, outcome: Signed<Outcome>, found: &Found) {
        let report = Report { outcome, blobs: found.blobs.clone(), stderr: Vec::new() };
        self.say(AgentMessage::Report { reports: vec![report] }).await;
    }

    /// Returns what a replica under `lease` has to say that found `found`; not signed yet.
    pub fn outcome(&self, lease: &Lease, found: &Found) -> Outcome {
        let mut salt = [7; 16];
        salt[..8].copy_from_slice(&lease.term.lease.0.to_be_bytes());
        Outcome {
            cell: self.cell,
            job: lease.grant.job,
            stage: lease.grant.stage,
            index: lease.term.index,
            lease: lease.term.lease,
            node: self.key.node_id(),
            ending: Ending::Result { record: found.record, success: true },
            usage: Usage { fuel: FUEL, ..Usage::default() },
            salt,
            ended_at: now(),
        }
    }

    /// Signs an outcome with this donor's key.
    pub fn sign(&self, outcome: Outcome) -> Signed<Outcome> {
        Signed::seal(outcome, &self.key)
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame::body_bytes(prefix, FRAME_BYTES_MAX).ok()?];
    reader.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// Permission to run one replica.
#[derive(Clone)]
pub struct Lease {
    /// What it was granted by.
    pub grant: Signed<Grant>,
    /// Its number and its task.
    pub term: LeaseTerm,
    /// Whether the job's manifest came with the grant.
    pub has_manifest: bool,
}

/// A well-formed result: success, some standard output, no files.
#[derive(Clone)]
pub struct Found {
    /// CID of the record.
    pub record: Cid,
    /// Record and standard output.
    pub blobs: Vec<InlineBlob>,
}

impl Found {
    /// Returns the result of a guest that printed `stdout`.
    pub fn printed(stdout: &[u8]) -> Self {
        let cid = cid_of(CODEC_RAW, stdout);
        let record = ResultRecord {
            exit: Exit::Success,
            stdout: BlobRef { cid, bytes: Bytes(stdout.len() as u64) },
            outputs: BTreeMap::new(),
        };
        let bytes = to_canonical(&record);
        let record = cid_of(CODEC_DAG_CBOR, &bytes);
        let blobs = vec![InlineBlob { cid, bytes: stdout.to_vec() }, InlineBlob { cid: record, bytes }];
        Self { record, blobs }
    }
}

/// A played donor that answers every lease by itself until it is dropped.
pub struct Donor {
    /// Who it is.
    pub peer: Arc<Peer>,
    answering: JoinHandle<()>,
}

impl Drop for Donor {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Donor {
    /// Enrols, asks for `replicas` leases at a time, and says of task `index` that it printed `prints(index)`.
    pub async fn start(peer: Peer, replicas: u32, prints: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Self {
        let peer = Arc::new(peer);
        let mut session = peer.enrol().await;
        session.say(AgentMessage::Want { replicas }).await;
        let answering = tokio::spawn(async move {
            let mut reports: BTreeMap<LeaseId, (Signed<Outcome>, Found)> = BTreeMap::new();
            loop {
                let message = tokio::select! {
                    message = session.inbox.recv() => message,
                    _ = session.beats.tick() => {
                        let held = reports.keys().copied().collect();
                        session.say(AgentMessage::Beat { held, load_ppm: 0 }).await;
                        continue;
                    }
                };
                match message {
                    Some(CoordinatorMessage::Grant { grant, manifest }) => {
                        for term in grant.leases.clone() {
                            let has_manifest = manifest.is_some();
                            let lease = Lease { grant: (*grant).clone(), term, has_manifest };
                            let found = Found::printed(&prints(term.index));
                            let outcome = session.sign(session.outcome(&lease, &found));
                            if lease.grant.commit_first {
                                let node = outcome.node;
                                let commitment = Commitment::new(&found.record, &outcome.salt, &node);
                                session.commit(&lease, commitment).await;
                            } else {
                                session.report(outcome.clone(), &found).await;
                            }
                            reports.insert(term.lease, (outcome, found));
                        }
                        let replicas = u32::try_from(grant.leases.len()).unwrap_or(1);
                        session.say(AgentMessage::Want { replicas }).await;
                    }
                    Some(CoordinatorMessage::AskReveal { leases }) => {
                        for (outcome, found) in leases.iter().filter_map(|lease| reports.get(lease)) {
                            session.report(outcome.clone(), found).await;
                        }
                    }
                    Some(CoordinatorMessage::Settled { leases } | CoordinatorMessage::Revoke { leases }) => {
                        reports.retain(|lease, _| !leases.contains(lease));
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        });
        Self { peer, answering }
    }
}

//! A node: keys, store, mesh, a cell to belong to, slots to lend, and the socket through which its owner talks to it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wc_api::{ApiError, Server};
use wc_host::{DataDir, KeyError, KeyFile, LoadSampler, Machine};
use wc_ledger::AnchorKey;
use wc_mesh::blob::ServeLimits;
use wc_mesh::{
    Interception, LanDiscovery, Mesh, MeshConfig, MeshEvent, MeshEvents, Multiaddr, Proxy, ReachConfig,
};
use wc_proto::api::view::{DefenceView, DonorCellView, DonorView, PeerView};
use wc_proto::api::{CellRequest, Order, Request, Response};
use wc_proto::peer::gossip::PresenceState;
use wc_proto::peer::hello::{CellBrief, Hello};
use wc_proto::version;
use wc_sandbox::{DefenceState, Sandbox, SandboxConfig, SandboxError};
use wc_store::{Store, StoreConfig, StoreError};
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::code::{Class, Code};
use wc_types::directive::Directives;
use wc_types::node::{Capabilities, Delegation, Locality};
use wc_types::{CellId, NodeId, Refusal, Signed, SigningKey};

use crate::agent::Agent;
use crate::anchor::{self, Anchoring, Shelf};
use crate::archive::Archive;
use crate::brain::{self, Brain, BrainError};
use crate::cells::{Cells, Island, Place, Watcher};
use crate::config::{Coordinate, NodeConfig};
use crate::control::Messenger;
use crate::coordinator::{Coordinator, Hands, Sessions, lock};
use crate::directives::{self, Standing};
use crate::finder::{self, Search};
use crate::flow::{run, schedule, stage, submit};
use crate::logtree::LogTreeError;
use crate::publish::{self, Publication};
use crate::recorder::Recorder;
use crate::retention::Forgetter;
use crate::serving::{EnrolmentMaker, Worker};
use crate::signers::cabinet::Cabinet;
use crate::signers::notary::{self, Notary};
use crate::signers::signer::{self, Signer};
use crate::witness::{self, Witness};
use crate::{blobs, clock, control, direct, known, reach};

/// Locked workers that wait for a guest while there is work: a job of one short task takes one, and a new one needs a
/// few milliseconds. They go after a minute without work.
const SPARES: usize = 3;
/// Hellos of others that wait to be looked at.
const HEARD_MAX: usize = 64;
/// How often a coordinator that has no jobs looks for an older cell on its network.
const LOOK_FOR_OLDER: Duration = Duration::from_secs(2);
/// Time from the start until memory is given back for the first time, and from each time to the next.
const SPARE_AFTER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

const NO_CELL: Code = Code::new("WC-NODE-040", Class::Host);
const NOT_A_DONOR: Code = Code::new("WC-NODE-041", Class::Caller);
const NOT_COORDINATOR: Code = Code::new("WC-NODE-043", Class::Caller);
const UNKNOWN_CELL: Code = Code::new("WC-NODE-044", Class::Caller);
const STORE_REFUSED: Code = Code::new("WC-NODE-042", Class::Host);

/// The node cannot start, or has to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A key file.
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
    /// The data directory.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The journal, or what is in it.
    #[error("the cell's journal cannot be used")]
    Brain(#[from] BrainError),
    /// The sandbox.
    #[error("the sandbox cannot be used")]
    Sandbox(#[from] SandboxError),
    /// The control socket.
    #[error("the control socket cannot be used")]
    Api(#[from] ApiError),
    /// The machine does not say what it is.
    #[error("the machine cannot be measured")]
    Host(#[from] wc_host::HostError),
    /// The mesh.
    #[error("the mesh cannot start")]
    Mesh(#[from] wc_mesh::StartError),
    /// The log that checkpoints are to be anchored in.
    #[error("the log to anchor in cannot be used")]
    Anchor(#[from] wc_anchor::ClientError),
    /// An address in the configuration.
    #[error("`{text}` is not a multiaddr such as /ip4/192.168.1.10/tcp/19999")]
    Address {
        /// What was given.
        text: String,
    },
    /// The published ledger.
    #[error("the published ledger cannot be kept")]
    LogTree(#[from] LogTreeError),
    /// The address of the published ledger.
    #[error("the published ledger cannot be served at {address}")]
    LogListen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The journal failed while the node ran.
    #[error("the coordinator stopped: what happens cannot be kept under {}", store.display())]
    JournalFailed {
        /// Where the journal lies.
        store: PathBuf,
        /// Why.
        source: Box<wc_store::JournalError>,
    },
}

impl NodeError {
    /// Returns what to tell the owner, when it is more than the error itself: a journal that failed is a matter of the
    /// machine's disk.
    pub fn to_refusal(&self) -> Option<Refusal> {
        let Self::JournalFailed { source, .. } = self else { return None };
        let mut message = self.to_string();
        let mut cause: Option<&dyn std::error::Error> = Some(source.as_ref());
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Some(
            Refusal::new(source.code(), message).hint(
                "free or repair the disk and start the node again; nothing that was acknowledged is lost",
            ),
        )
    }
}

/// How a run ended.
enum Ended {
    /// As asked.
    Stopped,
    /// The owner withdrew: nothing of ours stays.
    Left,
    /// An older cell was found while ours had no jobs; start again and join it.
    Yielded,
}

impl Ended {
    fn wished(wish: Option<EndWish>) -> Self {
        match wish {
            Some(EndWish::Leave) => Self::Left,
            Some(EndWish::Stop) | None => Self::Stopped,
        }
    }
}

/// What this node is to its cell.
#[derive(Clone)]
pub(crate) enum Role {
    Searching,
    Coordinating(Arc<Coordinator>),
    Member { coordinator: NodeId, founding: Arc<Signed<Founding>> },
}

/// What the local requests need.
struct Desk {
    mesh: Mesh,
    messenger: Messenger,
    store: Store,
    node: NodeId,
    owner: wc_types::AccountId,
    role: watch::Receiver<Role>,
    cells: Arc<Cells>,
    standing: Arc<Standing>,
    agent: Option<Arc<Agent>>,
    witness: Option<Arc<Witness>>,
    sandbox: Option<Arc<Sandbox>>,
    load: Mutex<LoadSampler>,
    capabilities: Capabilities,
    slots: u16,
    consents: Vec<wc_types::manifest::WorkClass>,
    storage_cap: wc_types::Bytes,
    started: Instant,
    joins_cell: bool,
    recorder: Recorder,
    ending: mpsc::Sender<EndWish>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndWish {
    Stop,
    Leave,
}

/// Runs a node until `shutdown` completes, or its owner stops it, or its journal fails.
///
/// # Errors
/// [`NodeError`] says what could not be used.
pub async fn run(
    config: NodeConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        let _ = stop.send(true);
    });
    let mut config = config;
    loop {
        match run_once(&config, stopped.clone()).await? {
            Ended::Stopped => return Ok(()),
            Ended::Left => return forget_everything(&config.data_dir),
            Ended::Yielded => {
                tracing::info!("an older cell was found; joining it");
                let dir = DataDir::new(&config.data_dir)
                    .map_err(|source| NodeError::DataDir { path: config.data_dir.clone(), source })?;
                let store = dir.store();
                std::fs::remove_dir_all(&store)
                    .map_err(|source| NodeError::DataDir { path: store, source })?;
                forget_published(&config.data_dir)?;
                // The older one is the home from now on.
                let _ = std::fs::remove_file(dir.cells());
                config.coordinate = Coordinate::Never;
            }
        }
    }
}

/// Removes what jobs and the cell left. The keys stay: they are the owner's, and hold what was earned (E-56).
fn forget_everything(data_dir: &Path) -> Result<(), NodeError> {
    let dir =
        DataDir::new(data_dir).map_err(|source| NodeError::DataDir { path: data_dir.to_owned(), source })?;
    forget_published(data_dir)?;
    // Where others are is not this machine's to keep either; a file that is not there is as good.
    let _ = std::fs::remove_file(dir.peers());
    let _ = std::fs::remove_file(dir.cells());
    for path in [dir.store(), dir.sandbox()] {
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(NodeError::DataDir { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the published ledger of a cell that this node no longer keeps.
fn forget_published(data_dir: &Path) -> Result<(), NodeError> {
    let path = data_dir.join("log");
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(NodeError::DataDir { path, source })
        }
        _ => Ok(()),
    }
}

fn parse_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, NodeError> {
    texts.iter().map(|text| text.parse().map_err(|_| NodeError::Address { text: text.clone() })).collect()
}

async fn run_once(config: &NodeConfig, mut stopped: watch::Receiver<bool>) -> Result<Ended, NodeError> {
    // What was typed wrongly is said before anything is made.
    let mut listen = match &config.listen {
        Some(texts) => parse_addresses(texts)?,
        None => wc_mesh::listen_default(),
    };
    listen.extend(parse_addresses(&config.wss_listen)?);
    let mut seeds = parse_addresses(&config.join)?;
    seeds.extend(parse_addresses(&config.bootstrap)?);
    let external = parse_addresses(&config.reach.external)?;
    let unusable = |source| NodeError::DataDir { path: config.data_dir.clone(), source };
    let dir = DataDir::new(&config.data_dir).map_err(unusable)?;
    dir.create().map_err(unusable)?;
    // The socket is bound first: it also keeps a second node out of the directory.
    let server = Server::bind(dir.path())?;
    let key = Arc::new(KeyFile::load_or_create(&dir.node_key())?);
    let owner_path = config.owner_key.clone().unwrap_or_else(|| dir.owner_key());
    let owner_is_new = !owner_path.exists();
    let owner = KeyFile::load_or_create(&owner_path)?;
    if owner_is_new && config.owner_key.is_some() {
        let (account, path) = (owner.account_id(), owner_path.display());
        tracing::warn!(%account, "there was no owner's key at {path}: a new one was made, with an account of its own");
    }
    let anchoring = config
        .anchoring
        .as_ref()
        .map(|anchoring| -> Result<_, NodeError> {
            let seed = KeyFile::load_or_create(&dir.anchor_key())?.to_seed();
            Ok(Arc::new(Anchoring::new(anchoring.clone(), AnchorKey::from_seed(&seed))?))
        })
        .transpose()?;
    let store =
        Store::open(StoreConfig::new(dir.store(), config.storage_cap.0, Arc::new(|| clock::now().0)))?;
    let machine = Machine::detect(dir.path())?;
    let slots = config
        .slots
        .unwrap_or_else(|| u16::try_from(machine.cpu_cores.saturating_sub(1).max(1)).unwrap_or(u16::MAX));
    let sandbox = if slots > 0 || config.accept_direct {
        // One place more than the slots when strangers may send modules straight here.
        let places = usize::from(slots) + usize::from(config.accept_direct);
        let mut sandbox = SandboxConfig::new(dir.sandbox(), places);
        sandbox.spares = SPARES;
        Some(Arc::new(Sandbox::open(sandbox).await?))
    } else {
        None
    };

    let mut mesh_config = MeshConfig::new(*key.to_seed(), config.network.clone());
    mesh_config.listen = listen;
    mesh_config.seeds = seeds;
    mesh_config.transport = config.transport.clone();
    mesh_config.lan = LanDiscovery { mdns: config.reach.lan, loopback: config.reach.lan };
    mesh_config.reach = ReachConfig {
        external,
        relay: config.reach.relay.clone(),
        reservations: config.reach.reservations,
        port_mapping: config.reach.port_mapping,
    };
    mesh_config.known = known::load(&dir.peers());
    mesh_config.agent_version = version::AGENT_VERSION.to_owned();
    let (mesh, events) = Mesh::start(mesh_config).await?;

    let mut tasks = JoinSet::new();
    config.recorder.hide(config.transport.proxies.proxy.iter().flat_map(Proxy::secrets));
    let (directed, heard_directives) = mpsc::channel(directives::HEARD_MAX);
    tasks.spawn(log_events(events, config.recorder.clone(), directed.clone()));
    tasks.spawn(spare_memory());
    tasks.spawn(known::Keeper::new(dir.peers()).run(mesh.clone()));
    let blocks = Arc::new(blobs::StoreBlocks(store.clone()));
    let _serving = wc_mesh::blob::serve(&mesh, blocks, ServeLimits::default())
        .inspect_err(|error| tracing::error!(%error, "blobs cannot be served"));
    let introduction = watch::Sender::new(Hello {
        network: config.network.clone(),
        cell: None,
        coordinates: config.coordinate != Coordinate::Never,
        others: Vec::new(),
    });
    let (heard_sender, heard) = mpsc::channel(HEARD_MAX);
    tasks.spawn(finder::answer(mesh.clone(), introduction.subscribe(), heard_sender));

    let cells = Cells::load(dir.cells(), &config.network, config.cells_max);
    let (role, role_seen) = watch::channel(Role::Searching);
    let (belongs, belongs_seen) = watch::channel(None);
    let cabinet = Cabinet::new(dir.signers());
    let signer = Arc::new(Signer::new(key.clone(), cabinet.clone(), config.cosigner, belongs_seen));
    // Whoever does not sign for others still has to hear that its old shares are worth nothing.
    tasks.spawn(signer::serve(mesh.clone(), signer.clone()));
    let agent = sandbox.as_ref().filter(|_| slots > 0).map(|sandbox| {
        let pantry = run::Pantry::new(dir.sandbox().join("inputs"));
        Agent::new(
            key.clone(),
            store.clone(),
            mesh.clone(),
            sandbox.clone(),
            pantry,
            config.consents.clone(),
            slots,
            directed.clone(),
        )
    });
    let standing = Arc::new(Standing::default());
    tasks.spawn(directives::follow(
        standing.clone(),
        cells.clone(),
        mesh.clone(),
        agent.clone(),
        heard_directives,
    ));
    if let Some(agent) = &agent {
        agent.start_slots();
        // Whoever was away, or paused, is back.
        mesh.present(PresenceState::Here).await;
    }
    if let (true, Some(sandbox)) = (config.accept_direct, &sandbox) {
        tasks.spawn(direct::serve(mesh.clone(), sandbox.clone(), key.clone(), config.consents.clone()));
    }
    let witness = config.witness.then(|| Witness::new(dir.witness(), key.clone()));
    let log_listener = match config.log_listen {
        Some(address) => {
            let bound = tokio::net::TcpListener::bind(address).await;
            Some(bound.map_err(|source| NodeError::LogListen { address, source })?)
        }
        None => None,
    };
    let engine = sandbox.as_ref().map(|sandbox| sandbox.engine_fingerprint().to_owned()).unwrap_or_default();
    let capabilities = machine.offer(Some(slots.max(1)), config.storage_cap, engine);
    let (ending, mut end_wishes) = mpsc::channel(4);
    let desk = Arc::new(Desk {
        mesh: mesh.clone(),
        messenger: Messenger::new(mesh.clone()),
        store: store.clone(),
        node: key.node_id(),
        owner: owner.account_id(),
        role: role_seen.clone(),
        cells: cells.clone(),
        standing,
        agent: agent.clone(),
        witness: witness.clone(),
        sandbox: sandbox.clone(),
        load: Mutex::new(LoadSampler::default()),
        capabilities: capabilities.clone(),
        slots,
        consents: config.consents.clone(),
        storage_cap: config.storage_cap,
        started: Instant::now(),
        joins_cell: config.joins_cell,
        recorder: config.recorder.clone(),
        ending,
    });
    {
        let desk = desk.clone();
        tasks.spawn(async move {
            server
                .serve(move |request| {
                    let desk = desk.clone();
                    async move { desk.answer(request).await }
                })
                .await;
        });
    }

    let starter = Starter {
        config,
        key: key.clone(),
        owner: owner.account_id(),
        store: store.clone(),
        mesh: mesh.clone(),
        introduction: &introduction,
        cells: cells.clone(),
        anchoring: anchoring.clone(),
        signer,
        cabinet,
        directed,
    };
    let mut coordinating = None;
    let mut journal_failed = None;
    let resumed = store.journal().next_seq().is_some();
    let mut ended_early = None;
    let begun = tokio::select! {
        begun = starter.begin(resumed), if config.joins_cell => Some(begun?),
        _ = stopped.changed() => {
            ended_early = Some(Ended::Stopped);
            None
        }
        wish = end_wishes.recv() => {
            ended_early = Some(Ended::wished(wish));
            None
        }
    };
    let mut yielded = None;
    let (island_wishes, mut island_turns) = mpsc::channel(1);
    let mut office = Office {
        log: dir.log(),
        listener: log_listener,
        anchoring,
        cells: cells.clone(),
        mesh: mesh.clone(),
        role: role.clone(),
        introduction: introduction.clone(),
    };
    match begun {
        None => {}
        Some(Begun::Joining(brief)) => {
            role.send_replace(Role::Member {
                coordinator: brief.coordinator,
                founding: Arc::new(brief.founding.clone()),
            });
            cells.belong((*brief).clone());
            mesh.connect(brief.coordinator, finder::addresses(&brief)).await;
            tracing::info!(cell = %brief.cell, coordinator = %brief.coordinator, "cell found");
            if config.trusted {
                tracing::warn!(
                    coordinator = %brief.coordinator, nodes_trusted = brief.founding.charter.nodes_trusted,
                    "--trusted has no effect here: another node founded this cell first, and its word counts; to found one of \
                     your own, start with --coordinate always --trusted"
                );
            }
        }
        Some(Begun::Coordinating(coordinator, threads, failed)) => {
            if config.coordinate == Coordinate::Always && !resumed {
                cells.move_out();
            }
            office.take(&mut tasks, &coordinator);
            if config.coordinate == Coordinate::Auto && !resumed {
                let (found, yielding) = tokio::sync::oneshot::channel();
                tasks.spawn(yield_to_older(coordinator.clone(), introduction.subscribe(), found));
                yielded = Some(yielding);
            }
            tracing::info!(cell = %coordinator.cell, resumed, "coordinating");
            if resumed && config.trusted && !coordinator.founding.charter.nodes_trusted {
                tracing::warn!(
                    "--trusted has no effect here: this cell was founded without it, and a founding record does not change"
                );
            }
            journal_failed = Some(failed);
            coordinating = Some((coordinator, threads));
        }
    }
    if let Some(witness) = witness {
        tasks.spawn(witness::run(witness, mesh.clone(), role_seen.clone()));
    }
    let mut worker = None;
    if let Some(agent) = &agent {
        let enrolment = Arc::new(EnrolmentMaker {
            key: key.clone(),
            delegation: Signed::seal(
                Delegation { owner: owner.account_id(), node: key.node_id(), issued_at: clock::now() },
                &owner,
            ),
            capabilities,
            locality: locality(&mesh).await,
            consents: config.consents.clone(),
        });
        worker = Some(Worker { agent: agent.clone(), enrolment });
    }
    if config.joins_cell {
        let (cells, mesh) = (cells.clone(), mesh.clone());
        let (role, belongs, introduction) = (role.clone(), belongs.clone(), introduction.clone());
        let island = (config.coordinate == Coordinate::Auto)
            .then(|| Island { after: Duration::from_millis(config.island_after.0), found: island_wishes });
        tasks.spawn(Watcher { cells, mesh, introduction, role, belongs, heard, worker, island }.run());
    }

    let ended = loop {
        tokio::select! {
            ended = async { ended_early.take().unwrap_or(Ended::Stopped) }, if ended_early.is_some() => break Ok(ended),
            _ = stopped.changed() => break Ok(Ended::Stopped),
            wish = end_wishes.recv() => break Ok(Ended::wished(wish)),
            error = wait(&mut journal_failed) => {
                break Err(NodeError::JournalFailed { store: dir.store(), source: Box::new(error) });
            }
            () = wait_unit(&mut yielded) => break Ok(Ended::Yielded),
            Some(()) = island_turns.recv(), if coordinating.is_none() => match starter.coordinate().await {
                Ok(Begun::Coordinating(coordinator, threads, failed)) => {
                    tracing::warn!(cell = %coordinator.cell, "the home cell is out of reach: coordinating an island until it is back");
                    office.take(&mut tasks, &coordinator);
                    journal_failed = Some(failed);
                    coordinating = Some((coordinator, threads));
                }
                Ok(Begun::Joining(_)) => {}
                Err(error) => break Err(error),
            },
        }
    };
    if let Some(agent) = &agent {
        agent.stop();
    }
    if let Some((coordinator, threads)) = coordinating {
        if ended.is_ok() {
            coordinator.publication.finish(&coordinator).await;
        }
        coordinator.brain.stop().await;
        drop(coordinator);
        let _ = tokio::task::spawn_blocking(move || threads.join()).await;
    }
    tasks.shutdown().await;
    known::Keeper::new(dir.peers()).keep(&mesh).await;
    mesh.stop().await;
    ended
}

async fn wait(
    failed: &mut Option<tokio::sync::oneshot::Receiver<wc_store::JournalError>>,
) -> wc_store::JournalError {
    match failed {
        Some(receiver) => match receiver.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn wait_unit(signal: &mut Option<tokio::sync::oneshot::Receiver<()>>) {
    match signal {
        Some(receiver) => {
            if receiver.await.is_err() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

/// What a coordinator needs to do its work in this node.
struct Office {
    log: PathBuf,
    listener: Option<tokio::net::TcpListener>,
    anchoring: Option<Arc<Anchoring>>,
    cells: Arc<Cells>,
    mesh: Mesh,
    role: watch::Sender<Role>,
    introduction: finder::Introduction,
}

impl Office {
    /// Begins to coordinate.
    fn take(&mut self, tasks: &mut JoinSet<()>, coordinator: &Arc<Coordinator>) {
        let brief = CellBrief {
            cell: coordinator.cell,
            founding: coordinator.founding.clone(),
            coordinator: coordinator.node(),
            addresses: Vec::new(),
            has_jobs: false,
        };
        self.introduction.send_modify(|hello| hello.cell = Some(brief.clone()));
        self.cells.belong(brief);
        tasks.spawn(notary::run(coordinator.clone()));
        tasks.spawn(notary::tell_former(coordinator.clone()));
        tasks.spawn(keep_introduced(coordinator.clone(), self.cells.clone()));
        tasks.spawn(accept_sessions(coordinator.clone()));
        tasks.spawn(control::serve(self.mesh.clone(), coordinator.clone()));
        tasks.spawn(schedule::run(coordinator.clone()));
        tasks.spawn(directives::repeat(coordinator.clone()));
        tasks.spawn(publish::run(coordinator.clone()));
        if let Some(listener) = self.listener.take() {
            tracing::info!(address = ?listener.local_addr().ok(), "the ledger is served over http");
            tasks.spawn(wc_api::log::serve(listener, self.log.clone()));
        }
        if let Some(anchoring) = self.anchoring.clone() {
            tasks.spawn(anchor::run(coordinator.clone(), anchoring));
        }
        self.role.send_replace(Role::Coordinating(coordinator.clone()));
    }
}

/// What a node becomes once it knows.
enum Begun {
    Joining(Box<CellBrief>),
    Coordinating(
        Arc<Coordinator>,
        brain::BrainThreads,
        tokio::sync::oneshot::Receiver<wc_store::JournalError>,
    ),
}

struct Starter<'a> {
    config: &'a NodeConfig,
    key: Arc<SigningKey>,
    owner: wc_types::AccountId,
    store: Store,
    mesh: Mesh,
    introduction: &'a finder::Introduction,
    cells: Arc<Cells>,
    anchoring: Option<Arc<Anchoring>>,
    signer: Arc<Signer>,
    cabinet: Cabinet,
    directed: mpsc::Sender<Signed<Directives>>,
}

impl Starter<'_> {
    /// Returns the numbers of a cell that this node founds.
    fn charter(&self) -> Charter {
        let mut charter = Charter { nodes_trusted: self.config.trusted, ..Charter::default() };
        if let Some(retention) = self.config.keep_results {
            charter.retention = retention;
        }
        charter
    }

    async fn begin(&self, resumed: bool) -> Result<Begun, NodeError> {
        if !resumed && self.config.coordinate != Coordinate::Always {
            match finder::search(&self.mesh, self.introduction, self.cells.home()).await {
                Search::Found(brief) => return Ok(Begun::Joining(brief)),
                Search::OurTurn => {}
            }
        }
        self.coordinate().await
    }

    /// Resumes the cell in the journal, or founds one.
    async fn coordinate(&self) -> Result<Begun, NodeError> {
        let archive = Archive::open(&self.store)?;
        let publication = Arc::new(Publication::open(&self.config.data_dir.join("log"))?);
        let sessions = Arc::new(Sessions::default());
        let (staging, jobs) = stage::Staging::new();
        let mut hands = Hands {
            archive: archive.clone(),
            store: self.store.clone(),
            sessions: sessions.clone(),
            key: self.key.clone(),
            staging: staging.clone(),
            forgetter: Forgetter::start(archive.clone(), self.store.clone())
                .map_err(|source| NodeError::DataDir { path: self.config.data_dir.clone(), source })?,
            entries: Vec::new(),
        };
        let journal = self.store.journal().clone();
        let recovery = journal.recovery();
        if recovery.rows_cut > 0 || recovery.rows_unacknowledged > 0 {
            tracing::warn!(?recovery, "the journal ended in facts that nobody was told of");
        }
        let recovered = {
            let journal = journal.clone();
            tokio::task::spawn_blocking(move || {
                brain::recover(&journal, &mut hands).map(|recovered| (recovered, hands))
            })
            .await
            .map_err(|_| BrainError::Stopped)?
        };
        let (recovered, hands) = recovered?;
        let founding = match recovered.cell().founding() {
            Some(founding) => founding.clone(),
            None => Signed::seal(
                Founding {
                    network: self.config.network.clone(),
                    coordinator: self.key.node_id(),
                    owner: self.owner,
                    charter: self.charter(),
                    founded_at: clock::now(),
                },
                &self.key,
            ),
        };
        let fresh = recovered.is_empty();
        // Staging that a restart interrupted is begun again.
        for job in recovered.cell().jobs().filter(|job| job.phase == wc_cell::JobPhase::Staging) {
            staging.wanted(job.id);
        }
        let chain = recovered.cell().signers().to_vec();
        let notary = Notary::new(self.signer.clone(), self.cabinet.clone(), &founding, chain)
            .map_err(|source| NodeError::DataDir { path: self.config.data_dir.clone(), source })?;
        let (brain, threads, failed) = Brain::start(journal, recovered, hands);
        if fresh {
            let founded = wc_cell::Event::Founded(founding.clone().witnessed());
            // The answer comes once the founding is durable.
            let _ = brain.ask(founded, Vec::new()).await?;
        }
        let coordinator = Arc::new(Coordinator {
            brain,
            archive,
            store: self.store.clone(),
            mesh: self.mesh.clone(),
            key: self.key.clone(),
            cell: cell_id(&founding),
            founding,
            sessions,
            staging,
            notary,
            publication,
            log_positions: Mutex::default(),
            anchors: Shelf::open(&self.store)?,
            anchoring: self.anchoring.clone(),
            ordering: tokio::sync::Mutex::default(),
            directed: self.directed.clone(),
            state_hash: tokio::sync::Mutex::default(),
            cells: self.cells.clone(),
        });
        tokio::spawn(stage::run(coordinator.clone(), jobs));
        Ok(Begun::Coordinating(coordinator, threads, failed))
    }
}

/// Keeps an idle node small: gives back what it needed to start, and now and then what work has left behind.
async fn spare_memory() {
    let mut pause = SPARE_AFTER.0;
    loop {
        tokio::time::sleep(pause).await;
        pause = SPARE_AFTER.1;
        let given = tokio::task::spawn_blocking(wc_sandbox::give_memory_back).await;
        if let Ok(Err(error)) = given {
            tracing::debug!(%error, "memory is not given back");
            return;
        }
    }
}

/// Keeps true what this node says of its cell: its addresses and whether it has jobs.
async fn keep_introduced(coordinator: Arc<Coordinator>, cells: Arc<Cells>) {
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    loop {
        looks.tick().await;
        let addresses: Vec<String> = coordinator
            .mesh
            .listen_addrs()
            .await
            .iter()
            .take(wc_proto::limit::ADDRESSES_MAX)
            .map(ToString::to_string)
            .collect();
        let Ok(has_jobs) = coordinator.brain.query(|cell, _| cell.jobs().next().is_some()).await else {
            return;
        };
        cells.belong(CellBrief {
            cell: coordinator.cell,
            founding: coordinator.founding.clone(),
            coordinator: coordinator.node(),
            addresses,
            has_jobs,
        });
    }
}

/// Looks for an older cell of the same network while ours has no jobs, and gives way to it.
async fn yield_to_older(
    coordinator: Arc<Coordinator>,
    introduction: watch::Receiver<Hello>,
    found: tokio::sync::oneshot::Sender<()>,
) {
    let ours = (coordinator.founding.founded_at, coordinator.cell);
    loop {
        tokio::time::sleep(LOOK_FOR_OLDER).await;
        let mine = introduction.borrow().clone();
        if mine.cell.as_ref().is_some_and(|brief| brief.has_jobs) {
            return;
        }
        let (oldest, _) = finder::oldest_cell(&coordinator.mesh, &mine).await;
        if oldest.is_some_and(|brief| {
            brief.cell != coordinator.cell
                && (brief.has_jobs || (brief.founding.founded_at, brief.cell) < ours)
        }) {
            let _ = found.send(());
            return;
        }
    }
}

async fn accept_sessions(coordinator: Arc<Coordinator>) {
    let Ok(mut incoming) = coordinator.mesh.accept(version::SESSION) else {
        tracing::error!("sessions cannot be accepted");
        return;
    };
    while let Some((node, stream)) = incoming.recv().await {
        tokio::spawn(coordinator.clone().serve_session(node, stream));
    }
}

/// Where this machine says it is: the network of its first address that others can see.
async fn locality(mesh: &Mesh) -> Locality {
    let addresses = mesh.listen_addrs().await;
    let seen = addresses.iter().filter_map(|address| {
        address.to_string().split('/').nth(2).and_then(|text| text.parse::<IpAddr>().ok())
    });
    let outside = seen.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).find(IpAddr::is_ipv4);
    outside.map(wc_host::locality_of).unwrap_or_default()
}

async fn log_events(mut events: MeshEvents, recorder: Recorder, directed: mpsc::Sender<Signed<Directives>>) {
    while let Some(event) = events.recv().await {
        recorder.note(&event);
        match event {
            // Dials are logged where they happen; that somebody was found to read along is for the owner.
            MeshEvent::DialAttempt(attempt) => {
                if let Some(Interception::Refused { issuer }) = attempt.interception {
                    let address = attempt.target_multiaddr;
                    tracing::warn!(%address, issuer, "a connection was refused: the certificate is not the peer's");
                }
            }
            // Whoever looks at them is never far behind; what is missed comes with the next session.
            MeshEvent::Directed(said) => drop(directed.try_send(said.directives)),
            MeshEvent::Listening { addr } => tracing::info!(%addr, "listening"),
            MeshEvent::Connected { node, addr, .. } => tracing::info!(%node, %addr, "connected"),
            MeshEvent::Disconnected { node, cause } => tracing::info!(%node, cause, "disconnected"),
            MeshEvent::PeerMisbehaved { node, what } => tracing::warn!(%node, what, "peer misbehaved"),
            other => tracing::debug!(?other, "mesh"),
        }
    }
}

impl Desk {
    async fn answer(&self, request: Request) -> Response {
        match request {
            Request::Cell(request) => self.cell(request).await,
            Request::CellOf { cell, request } => self.cell_of(cell, *request).await,
            Request::DonorStatus => Response::Donor(Box::new(self.status().await)),
            Request::Pause => {
                if self.agent.is_some() {
                    self.mesh.present(PresenceState::Paused).await;
                }
                self.with_agent(|agent| agent.pause())
            }
            Request::Resume => {
                if self.agent.is_some() {
                    self.mesh.present(PresenceState::Here).await;
                }
                self.with_agent(|agent| agent.resume())
            }
            Request::Leave => {
                self.mesh.present(PresenceState::Left).await;
                if let Some(agent) = &self.agent {
                    agent.leave().await;
                }
                for place in self.cells.known().places() {
                    if place.brief.coordinator != self.node {
                        self.mesh.disconnect(place.brief.coordinator).await;
                    }
                }
                let _ = self.ending.send(EndWish::Leave).await;
                Response::Done
            }
            Request::Stop => {
                let _ = self.ending.send(EndWish::Stop).await;
                Response::Done
            }
            Request::Peers => Response::Peers(self.peers().await),
            Request::Trace { from } => Response::Trace(self.recorder.page(from)),
            Request::Order(order) => self.order(order).await,
            Request::ClearAnchor { id } => match self.role.borrow().clone() {
                Role::Coordinating(coordinator) => control::clear_anchor(&coordinator, id),
                Role::Searching | Role::Member { .. } => refuse(
                    NOT_COORDINATOR,
                    "only the operator of the coordinator clears an anchor, on its own machine".to_owned(),
                ),
            },
            Request::PutFile { path } => {
                let store = self.store.clone();
                let kept =
                    tokio::task::spawn_blocking(move || blobs::put_file(&store, Path::new(&path))).await;
                match kept {
                    Ok(Ok(blob)) => Response::Blob(blob),
                    Ok(Err(cause)) => refuse(STORE_REFUSED, cause),
                    Err(error) => refuse(STORE_REFUSED, error.to_string()),
                }
            }
            Request::PutBytes { codec, bytes } => match blobs::put_as(&self.store, codec, &bytes) {
                Ok(blob) => Response::Blob(blob),
                Err(cause) => refuse(STORE_REFUSED, cause),
            },
            Request::Export { cid, path } => {
                if let Err(cause) = self.fetch(cid).await {
                    return refuse(STORE_REFUSED, cause);
                }
                match blobs::export(&self.store, cid, Path::new(&path)).await {
                    Ok(()) => Response::Done,
                    Err(cause) => refuse(STORE_REFUSED, cause),
                }
            }
            Request::Read { cid } => {
                if let Err(cause) = self.fetch(cid).await {
                    return refuse(STORE_REFUSED, cause);
                }
                const READ_BYTES_MAX: usize = wc_proto::limit::FRAME_BYTES_MAX / 2;
                if let Ok(Some(stat)) = self.store.blobs().stat(&cid)
                    && stat.bytes > READ_BYTES_MAX as u64
                {
                    let large = format!("{cid} has {} bytes; export it to a file", stat.bytes);
                    return refuse(STORE_REFUSED, large);
                }
                match blobs::read(&self.store, &cid, READ_BYTES_MAX) {
                    Ok(bytes) => Response::Bytes(bytes),
                    Err(cause) => refuse(STORE_REFUSED, cause),
                }
            }
        }
    }

    async fn order(&self, order: Order) -> Response {
        let role = self.role.borrow().clone();
        match role {
            Role::Coordinating(coordinator) => directives::order(&coordinator, order).await,
            Role::Searching | Role::Member { .. } => Response::Refused(vec![
                Refusal::new(
                    NOT_COORDINATOR,
                    "only the operator of the coordinator gives orders to the cell, on its own machine",
                )
                .hint("'worldcompute cluster status' says which node that is"),
            ]),
        }
    }

    fn with_agent(&self, act: impl FnOnce(&Arc<Agent>)) -> Response {
        match &self.agent {
            Some(agent) => {
                act(agent);
                Response::Done
            }
            None => refuse(NOT_A_DONOR, "this node lends nothing: it runs with 0 slots".to_owned()),
        }
    }

    async fn cell(&self, request: CellRequest) -> Response {
        let request = submit::pass_on(request, self.node);
        let role = self.role.borrow().clone();
        match role {
            Role::Coordinating(coordinator) => control::answer(&coordinator, request).await,
            Role::Member { coordinator, .. } => self.messenger.ask(coordinator, &request).await,
            Role::Searching => Response::Refused(vec![
                Refusal::new(NO_CELL, "this node has not found a cell yet")
                    .hint("wait a few seconds, start a node that coordinates, or name one with --join"),
            ]),
        }
    }

    /// Asks one of the known cells.
    async fn cell_of(&self, cell: CellId, request: CellRequest) -> Response {
        let role = self.role.borrow().clone();
        if let Role::Coordinating(own) = role
            && own.cell == cell
        {
            return control::answer(&own, submit::pass_on(request, self.node)).await;
        }
        let coordinator = self.cells.known().get(cell).map(|place| place.brief.coordinator);
        match coordinator {
            Some(coordinator) => self.messenger.ask(coordinator, &submit::pass_on(request, self.node)).await,
            None => Response::Refused(vec![
                Refusal::new(UNKNOWN_CELL, format!("this node does not know the cell {cell}"))
                    .hint("'worldcompute donor status' lists those that it knows"),
            ]),
        }
    }

    async fn fetch(&self, cid: wc_types::Cid) -> Result<(), String> {
        let known = self.cells.known();
        let coordinators = known.places().iter().map(|place| place.brief.coordinator);
        let holders: Vec<NodeId> = coordinators.filter(|node| *node != self.node).collect();
        blobs::fetch(&self.mesh, &self.store, cid, &holders).await
    }

    async fn peers(&self) -> Vec<PeerView> {
        let paths = self.mesh.status().await.map(|status| status.paths).unwrap_or_default();
        reach::peers(self.mesh.peers().await, &paths)
    }

    async fn status(&self) -> DonorView {
        let role = self.role.borrow().clone();
        let (cell, coordinator) = match &role {
            Role::Searching => (None, None),
            Role::Coordinating(coordinator) => (Some(coordinator.cell), Some(coordinator.node())),
            Role::Member { coordinator, founding } => (Some(cell_id(founding.as_ref())), Some(*coordinator)),
        };
        let (paused, guests) = self.agent.as_ref().map_or((false, 0), |agent| agent.activity());
        let state = match (&role, paused, guests) {
            (_, true, _) => "paused",
            (Role::Searching, ..) if self.joins_cell => "searching",
            (Role::Searching, ..) => "relaying",
            (_, false, 1..) => "working",
            (Role::Coordinating(_), false, 0) => "coordinating",
            (Role::Member { .. }, false, 0) => "idle",
        };
        let (mut owner_balance, mut trust_ppm) = (None, None);
        if cell.is_some() {
            if let Response::Balance(balance) = self.cell(CellRequest::Balance { account: self.owner }).await
            {
                owner_balance = Some(balance);
            }
            if let Response::Nodes(nodes) = self.cell(CellRequest::Node { node: self.node }).await {
                trust_ppm = nodes.first().map(|node| node.trust_ppm);
            }
        }
        let peers = self.mesh.peers().await;
        let path = peers.into_iter().find(|peer| Some(peer.node) == coordinator);
        let load = lock(&self.load).sample(Instant::now());
        let cells = self.served();
        let sum = |read: fn(&DonorCellView) -> u64| cells.iter().map(read).sum();
        DonorView {
            node: self.node,
            owner: self.owner,
            state: state.to_owned(),
            cell,
            coordinator,
            addresses: self.mesh.listen_addrs().await.iter().map(ToString::to_string).collect(),
            reach: self.mesh.status().await.map(reach::view).unwrap_or_default(),
            uptime_s: self.started.elapsed().as_secs(),
            guests,
            slots: if self.agent.is_some() { self.slots } else { 0 },
            replicas_run: sum(|cell| cell.replicas_run),
            replicas_settled: sum(|cell| cell.replicas_settled),
            cells,
            owner_balance,
            trust_ppm,
            path: path.as_ref().map(reach::path),
            inspected: path.and_then(|path| path.inspected),
            cpu_ppm: load.cpu.0,
            memory_ppm: load.memory.0,
            stored_bytes: self.store.blobs().usage().used_bytes,
            storage_cap: self.storage_cap.0.min(self.capabilities.storage_cap.0),
            consents: self.consents.clone(),
            witness: self.witness.as_ref().map(|witness| witness.view()),
            defences: self.defences(),
            agent_version: version::AGENT_VERSION.to_owned(),
        }
    }

    /// Returns the known cells, the home cell first, and how much this machine did for each.
    fn served(&self) -> Vec<DonorCellView> {
        let now = Instant::now();
        let tallies = self.agent.as_ref().map(|agent| agent.tallies()).unwrap_or_default();
        let known = self.cells.known();
        let view = |(number, place): (usize, &Place)| {
            let cell = place.brief.cell;
            let tally = tallies.get(&cell).copied().unwrap_or_default();
            let state = match &self.agent {
                Some(agent) if agent.is_in_session(cell) => "working",
                _ if place.is_fresh(now) => "connected",
                _ => "unreachable",
            };
            DonorCellView {
                cell,
                coordinator: place.brief.coordinator,
                home: number == 0,
                state: state.to_owned(),
                halt: self.standing.halt(cell),
                leases: tally.held,
                replicas_run: tally.run,
                replicas_settled: tally.settled,
            }
        };
        known.places().iter().enumerate().map(view).collect()
    }

    fn defences(&self) -> Vec<DefenceView> {
        let Some(sandbox) = &self.sandbox else { return Vec::new() };
        sandbox
            .defences()
            .iter()
            .map(|defence| DefenceView {
                name: defence.name.clone(),
                active: defence.is_active(),
                detail: match &defence.state {
                    DefenceState::Active { detail } => detail.clone(),
                    DefenceState::Unavailable { reason } => reason.clone(),
                },
            })
            .collect()
    }
}

fn refuse(code: Code, message: String) -> Response {
    Response::Refused(vec![Refusal::new(code, message)])
}

//! The cells of its network that a node knows: its home cell, and others that it has met (NET-06, NET-08).
//!
//! ```text
//! hello of a peer ──► known cells ──┬──► hello: where others are led to
//!        ▲                          ├──► role: whom the owner's requests are passed to
//!   asked in turn                   ├──► sessions: for whom this machine works
//!                                   ├──► the meeting, on our own cell's ledger
//!                                   └──► <data dir>/cells, for the next start
//! ```
//!
//! That another cell exists is believed by its founding record, signed by whom it names; that it is there now, only by a
//! hello of that machine itself. A copy of the same cell is the same cell.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use wc_cell::Event;
use wc_mesh::Mesh;
use wc_proto::api::view::OtherCellView;
use wc_proto::limit::CELLS_MAX;
use wc_proto::peer::hello::{CellBrief, Hello};
use wc_types::{CellId, Cid, NodeId, Timestamp, from_canonical, to_canonical};

use crate::finder::{self, Heard, Introduction};
use crate::node::Role;
use crate::serving::Worker;
use crate::witness::put;

/// How long a cell counts as reachable after its coordinator was heard.
const FRESH: Duration = Duration::from_secs(35);
/// Pause between two hellos to a coordinator that this node is not in session with.
const ASK_COORDINATOR: Duration = Duration::from_secs(15);
/// Pause between two hellos to a coordinator that is connected and has not said yet that it is one, or not of late.
const ASK_ABSENT: Duration = Duration::from_secs(5);
/// Pause between two hellos to any other peer. Whoever has news says so at once; this is for what was missed.
const ASK_PEER: Duration = Duration::from_secs(5 * 60);
/// Hellos that are under way at the same time.
const ASKED_MAX: usize = 8;
/// Pause between two looks at who is connected.
const LOOK: Duration = Duration::from_secs(1);
/// How long the others wait for the lowest of those who are cut off to found an island.
const PATIENCE: Duration = Duration::from_secs(45);
/// Time, after it was noticed that nobody of a cell is there, for those who are to be heard.
const OTHERS_HEARD: Duration = Duration::from_secs(8);
/// Peers whose last word is remembered.
const CASTAWAYS_MAX: usize = 256;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// A known cell.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The cell and how to reach it.
    pub brief: CellBrief,
    /// When its coordinator last showed itself.
    pub seen: Option<Instant>,
}

impl Place {
    /// Returns whether its coordinator was there a moment ago.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now.saturating_duration_since(seen) < FRESH)
    }

    fn age(&self) -> (Timestamp, CellId) {
        (self.brief.founding.founded_at, self.brief.cell)
    }
}

/// The known cells, the home cell first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Vec<Place>);

impl Known {
    /// Returns what was kept of an earlier run.
    pub fn of(kept: Vec<CellBrief>) -> Self {
        Self(kept.into_iter().take(CELLS_MAX).map(|brief| Place { brief, seen: None }).collect())
    }

    /// Returns the home cell.
    pub fn home(&self) -> Option<&Place> {
        self.0.first()
    }

    /// Returns all of them, the home cell first.
    pub fn places(&self) -> &[Place] {
        &self.0
    }

    /// Returns one of them.
    pub fn get(&self, cell: CellId) -> Option<&Place> {
        self.0.iter().find(|place| place.brief.cell == cell)
    }

    /// Takes a cell in that this node belongs to: as its home where it has none, else beside it.
    fn belong(&mut self, brief: CellBrief, now: Instant) {
        if let Some(place) = self.0.iter_mut().find(|place| place.brief.cell == brief.cell) {
            *place = Place { brief, seen: Some(now) };
            return;
        }
        if self.0.len() >= CELLS_MAX {
            self.0.pop();
        }
        self.0.push(Place { brief, seen: Some(now) });
    }

    /// Learns from what `from` says of itself; returns whether something has changed that is worth keeping.
    ///
    /// - `own`: the cell that this node coordinates
    /// - `is_needed`: whether something is still held for a cell
    fn hear(
        &mut self,
        from: NodeId,
        hello: &Hello,
        own: Option<CellId>,
        is_needed: impl Fn(CellId) -> bool,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        if let (Some(brief), Some(home)) = (&hello.cell, self.0.first())
            && home.brief.coordinator == from
            && home.brief.cell != brief.cell
            && own.is_none()
        {
            // Whoever coordinated it is somewhere else now: the cell is given up, and its members go along.
            tracing::info!(gave_up = %home.brief.cell, cell = %brief.cell, "the home cell was given up by its coordinator");
            self.0.remove(0);
            self.0.retain(|place| place.brief.cell != brief.cell);
            let seen = (brief.coordinator == from).then_some(now);
            self.0.insert(0, Place { brief: brief.clone(), seen });
            changed = true;
        }
        let direct = hello.cell.iter().map(|brief| (brief, brief.coordinator == from));
        for (brief, is_direct) in direct.chain(hello.others.iter().map(|brief| (brief, false))) {
            if Some(brief.cell) == own {
                continue;
            }
            match self.0.iter_mut().find(|place| place.brief.cell == brief.cell) {
                Some(place) if is_direct => {
                    changed |= place.brief.addresses != brief.addresses;
                    *place = Place { brief: brief.clone(), seen: Some(now) };
                }
                Some(place) => {
                    // Whoever passes it on has heard it of late, and we have not.
                    let is_newer = !place.is_fresh(now) && !brief.addresses.is_empty();
                    if is_newer && place.brief.addresses != brief.addresses {
                        place.brief.addresses.clone_from(&brief.addresses);
                        changed = true;
                    }
                }
                None => {
                    if self.0.len() >= CELLS_MAX {
                        // Only one that shows itself takes the place of one that does not, and for whom nothing is held.
                        let idle = self.0.iter().enumerate().skip(1).find(|(_, place)| {
                            let cell = place.brief.cell;
                            Some(cell) != own && !place.is_fresh(now) && !is_needed(cell)
                        });
                        let Some((at, _)) = idle.filter(|_| is_direct) else { continue };
                        self.0.remove(at);
                    }
                    tracing::info!(cell = %brief.cell, coordinator = %brief.coordinator, "another cell of this network was met");
                    self.0.push(Place { brief: brief.clone(), seen: is_direct.then_some(now) });
                    changed = true;
                }
            }
        }
        changed
    }

    /// Returns the cell to which requests go: the one that this node coordinates, else the home cell, unless that has
    /// been away for long and another one is there.
    fn acting(&self, own: Option<CellId>, now: Instant) -> Option<&Place> {
        if let Some(own) = own {
            return self.get(own);
        }
        let home = self.0.first()?;
        if home.is_fresh(now) {
            return Some(home);
        }
        Some(self.0.iter().find(|place| place.is_fresh(now)).unwrap_or(home))
    }
}

/// The known cells of a running node, shared by all that need them.
pub(crate) struct Cells {
    path: PathBuf,
    /// Cells, at most, for which this machine works.
    served_max: usize,
    known: watch::Sender<Known>,
}

impl Cells {
    /// Returns what was known at the end of an earlier run in this network.
    pub fn load(path: PathBuf, network: &str, served_max: usize) -> Arc<Self> {
        let mut kept = read(&path).unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "what was known of cells cannot be read; starting without");
            }
            Vec::new()
        });
        kept.retain(|brief| finder::is_cell_of(brief, network));
        Arc::new(Self { path, served_max, known: watch::Sender::new(Known::of(kept)) })
    }

    /// Returns the known cells as they are, and when they change.
    pub fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Returns the known cells.
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Returns the home cell.
    pub fn home(&self) -> Option<CellBrief> {
        self.known.borrow().home().map(|place| place.brief.clone())
    }

    /// Takes a cell in that this node belongs to: as its home where it has none, else beside it.
    pub fn belong(&self, brief: CellBrief) {
        self.known.send_if_modified(|known| {
            let changed = known.get(brief.cell).is_none_or(|place| place.brief != brief);
            known.belong(brief, Instant::now());
            changed
        });
    }

    /// Forgets where this node was at home, for a node that founds a cell by its owner's will.
    pub fn move_out(&self) {
        self.known.send_modify(|known| *known = Known::default());
    }

    /// Returns the other cells as the coordinator of `own` knows them, oldest first.
    pub fn others(&self, own: CellId) -> Vec<OtherCellView> {
        let now = Instant::now();
        let known = self.known.borrow();
        let mut others: Vec<&Place> = known.places().iter().filter(|place| place.brief.cell != own).collect();
        others.sort_by_key(|place| place.age());
        let view = |place: &Place| OtherCellView {
            cell: place.brief.cell,
            coordinator: place.brief.coordinator,
            founded_at: place.brief.founding.founded_at,
            state: if place.is_fresh(now) { "connected" } else { "unreachable" }.to_owned(),
        };
        others.into_iter().map(view).collect()
    }
}

fn read(path: &Path) -> std::io::Result<Vec<CellBrief>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    from_canonical(&bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// What the known cells are kept true with, and what follows from them.
pub(crate) struct Watcher {
    pub cells: Arc<Cells>,
    pub mesh: Mesh,
    pub introduction: Introduction,
    pub role: watch::Sender<Role>,
    /// The founding record of the home cell, for whoever holds shares of its key.
    pub belongs: watch::Sender<Option<Cid>>,
    /// What peers say when they ask us.
    pub heard: mpsc::Receiver<Heard>,
    /// Who works for the cells, if this machine lends anything.
    pub worker: Option<Worker>,
    /// When to found an island, for a node that may.
    pub island: Option<Island>,
}

/// When a node that is cut off from its cell founds an island (NET-09).
pub(crate) struct Island {
    /// How long nobody who coordinates has been there.
    pub after: Duration,
    /// Told when it is this node's turn.
    pub found: mpsc::Sender<()>,
}

/// Peers who spoke of late, and whether they may found an island. Those who can be heard from here are as lost, or will
/// notice it soon: what cell they named last says less than that nobody of a cell can be heard.
#[derive(Default)]
struct Castaways(HashMap<NodeId, (Instant, bool)>);

impl Castaways {
    fn hear(&mut self, node: NodeId, hello: &Hello, now: Instant) {
        if self.0.len() >= CASTAWAYS_MAX {
            self.0.retain(|_, (heard, _)| now.saturating_duration_since(*heard) < FRESH);
        }
        if self.0.len() < CASTAWAYS_MAX {
            self.0.insert(node, (now, hello.coordinates));
        }
    }

    /// Returns whether nobody with a lower id may found an island as well.
    fn is_lowest(&self, own: NodeId, now: Instant) -> bool {
        let fresh = |heard: &Instant| now.saturating_duration_since(*heard) < FRESH;
        !self.0.iter().any(|(node, (heard, may))| *may && *node < own && fresh(heard))
    }
}

impl Watcher {
    /// Keeps the known cells true, until it is dropped.
    pub async fn run(mut self) {
        let (answers, mut answered) = mpsc::channel(ASKED_MAX * 2);
        let mut asked: HashMap<NodeId, Instant> = HashMap::new();
        let mut under_way: HashSet<NodeId> = HashSet::new();
        let mut sessions: HashMap<CellId, Option<AbortHandle>> = HashMap::new();
        let mut sought: HashMap<CellId, Vec<String>> = HashMap::new();
        let mut recorded: HashSet<CellId> = HashSet::new();
        let mut castaways = Castaways::default();
        let mut lost_since: Option<Instant> = None;
        let mut written = Vec::new();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                _ = looks.tick() => None,
                Some(heard) = self.heard.recv() => Some(heard),
                Some((node, hello)) = answered.recv() => {
                    under_way.remove(&node);
                    let Some(hello) = hello else {
                        // It is asked again, but not before those who answer.
                        asked.insert(node, Instant::now().checked_sub(ASK_PEER - ASK_COORDINATOR).unwrap_or_else(Instant::now));
                        continue;
                    };
                    Some(Heard { node, hello })
                }
            };
            let now = Instant::now();
            let own = self.own();
            match heard {
                Some(Heard { node, hello }) => {
                    asked.insert(node, now);
                    castaways.hear(node, &hello, now);
                    let is_needed = |cell| self.worker.as_ref().is_some_and(|worker| worker.is_needed(cell));
                    self.cells.known.send_if_modified(|known| known.hear(node, &hello, own, is_needed, now));
                }
                None => {
                    self.notice_sessions(own, now);
                    let is_lost =
                        own.is_none() && !self.cells.known.borrow().0.iter().any(|place| place.is_fresh(now));
                    lost_since = if is_lost { lost_since.or(Some(now)) } else { None };
                    // Who else is lost has to be known when an island is to be founded.
                    let pause = if is_lost { ASK_COORDINATOR } else { ASK_PEER };
                    self.ask_around(&answers, &mut asked, &mut under_way, pause, now).await;
                    self.found_island(&castaways, lost_since, now);
                    self.record(&mut recorded, now).await;
                }
            }
            if self.follow(own, &mut sessions, &mut sought, &mut written, now).await {
                // News: everybody is told by being asked.
                asked.clear();
            }
        }
    }

    fn own(&self) -> Option<CellId> {
        match &*self.role.borrow() {
            Role::Coordinating(coordinator) => Some(coordinator.cell),
            Role::Searching | Role::Member { .. } => None,
        }
    }

    /// Founds an island when nobody who coordinates a cell has been there for long: the lowest of those who are as lost
    /// does, and should it not, the others a while later.
    fn found_island(&self, castaways: &Castaways, lost_since: Option<Instant>, now: Instant) {
        let (Some(island), Some(since)) = (&self.island, lost_since) else { return };
        if !matches!(&*self.role.borrow(), Role::Member { .. }) {
            return;
        }
        // Lost is who has heard of nobody for `FRESH`; then everybody else who is there is asked.
        let noticed = now.saturating_duration_since(since);
        if noticed < OTHERS_HEARD {
            return;
        }
        let lost = noticed + FRESH;
        let lowest = castaways.is_lowest(self.mesh.node_id(), now);
        if lost >= island.after.max(FRESH) + if lowest { Duration::ZERO } else { PATIENCE } {
            // Said again until it is so.
            let _ = island.found.try_send(());
        }
    }

    /// A session is as good as a hello, and so is being the coordinator oneself.
    fn notice_sessions(&self, own: Option<CellId>, now: Instant) {
        self.cells.known.send_if_modified(|known| {
            for place in &mut known.0 {
                let cell = place.brief.cell;
                if Some(cell) == own || self.worker.as_ref().is_some_and(|worker| worker.is_in_session(cell))
                {
                    place.seen = Some(now);
                }
            }
            false
        });
    }

    /// Asks who has just connected, coordinators out of session once in a while, and everybody else now and then.
    async fn ask_around(
        &self,
        answers: &mpsc::Sender<(NodeId, Option<Hello>)>,
        asked: &mut HashMap<NodeId, Instant>,
        under_way: &mut HashSet<NodeId>,
        peer_pause: Duration,
        now: Instant,
    ) {
        let peers: Vec<NodeId> = self.mesh.peers().await.iter().map(|peer| peer.node).collect();
        let coordinators: HashMap<NodeId, Duration> = {
            let known = self.cells.known.borrow();
            let pause = |place: &Place| {
                let is_connected = peers.contains(&place.brief.coordinator);
                match &self.worker {
                    Some(worker) if worker.is_in_session(place.brief.cell) => ASK_PEER,
                    // Whoever wants a session with it dials it already.
                    Some(_) if !is_connected => ASK_PEER,
                    _ if is_connected && !place.is_fresh(now) => ASK_ABSENT,
                    _ => ASK_COORDINATOR,
                }
            };
            known.places().iter().map(|place| (place.brief.coordinator, pause(place))).collect()
        };
        asked.retain(|node, _| peers.contains(node) || coordinators.contains_key(node));
        let own = self.mesh.node_id();
        let is_due = |node: &NodeId, pause: Duration| {
            asked.get(node).is_none_or(|at| now.saturating_duration_since(*at) >= pause)
        };
        let mut due: Vec<NodeId> = coordinators
            .iter()
            .filter(|(node, pause)| is_due(node, **pause))
            .map(|(node, _)| *node)
            .collect();
        due.extend(peers.iter().filter(|peer| is_due(peer, peer_pause)));
        for node in due {
            if node == own || under_way.len() >= ASKED_MAX || !under_way.insert(node) {
                continue;
            }
            asked.insert(node, now);
            let (mesh, mine, answers) =
                (self.mesh.clone(), self.introduction.borrow().clone(), answers.clone());
            tokio::spawn(async move {
                let hello = finder::ask(&mesh, node, &mine).await;
                let _ = answers.send((node, hello)).await;
            });
        }
    }

    /// Writes down, in the ledger of the cell that this node coordinates, which older ones have shown themselves.
    async fn record(&self, recorded: &mut HashSet<CellId>, now: Instant) {
        let role = self.role.borrow().clone();
        let Role::Coordinating(coordinator) = role else { return };
        let own = (coordinator.founding.founded_at, coordinator.cell);
        // Only cells that are known here, so that nobody fills the journal with cells that come and go.
        for place in self.cells.known().places() {
            let Place { brief, .. } = place;
            if !place.is_fresh(now) || place.age() >= own || !recorded.insert(brief.cell) {
                continue;
            }
            tracing::info!(parent = %brief.cell, "this cell has met an older one; each keeps its ledger");
            let met = Event::CellMet(brief.founding.clone().witnessed());
            if let Err(error) = coordinator.brain.events(vec![met]).await {
                tracing::error!(%error, "that another cell was met cannot be recorded");
            }
        }
    }

    /// Lets everything follow from what is known. Returns whether our hello names other cells than before.
    async fn follow(
        &self,
        own: Option<CellId>,
        sessions: &mut HashMap<CellId, Option<AbortHandle>>,
        sought: &mut HashMap<CellId, Vec<String>>,
        written: &mut Vec<u8>,
        now: Instant,
    ) -> bool {
        let known = self.cells.known();
        let has_news = self.introduce(&known, own, now);
        if own.is_none()
            && let Some(acting) = known.acting(own, now)
        {
            self.role.send_if_modified(|role| match role {
                Role::Member { coordinator, founding }
                    if *coordinator != acting.brief.coordinator || **founding != acting.brief.founding =>
                {
                    tracing::info!(cell = %acting.brief.cell, "requests go to this cell now");
                    *coordinator = acting.brief.coordinator;
                    *founding = Arc::new(acting.brief.founding.clone());
                    true
                }
                _ => false,
            });
        }
        if let Some(home) = known.home() {
            let record = Some(home.brief.founding.cid());
            self.belongs.send_if_modified(|belongs| std::mem::replace(belongs, record) != record);
            if let Some(worker) = &self.worker {
                worker.set_home(home.brief.cell);
            }
        }
        // The home cell, one's own, then whoever was met first.
        let first = |place: &&Place| {
            Some(place.brief.cell) == own
                || known.home().is_some_and(|home| home.brief.cell == place.brief.cell)
        };
        let (mut served, rest): (Vec<&Place>, Vec<&Place>) = known.places().iter().partition(first);
        served.extend(rest.into_iter().take(self.cells.served_max.saturating_sub(served.len())));
        sessions.retain(|cell, session| {
            let stays = served.iter().any(|place| place.brief.cell == *cell);
            if let (false, Some(session), Some(worker)) = (stays, session, &self.worker) {
                session.abort();
                worker.forget(*cell);
            }
            stays
        });
        for place in &served {
            let cell = place.brief.cell;
            if Some(cell) != own && sought.get(&cell) != Some(&place.brief.addresses) {
                sought.insert(cell, place.brief.addresses.clone());
                self.mesh.connect(place.brief.coordinator, finder::addresses(&place.brief)).await;
            }
            sessions.entry(cell).or_insert_with(|| {
                self.worker.as_ref().map(|worker| worker.serve(cell, &self.cells, &self.role))
            });
        }
        sought.retain(|cell, _| known.get(*cell).is_some());
        self.keep(&known, written).await;
        has_news
    }

    /// Says in our hello where we lead others: to the cell that requests go to, and to others that are there now.
    /// Returns whether these are other cells than before.
    fn introduce(&self, known: &Known, own: Option<CellId>, now: Instant) -> bool {
        let acting =
            known.acting(own, now).filter(|place| Some(place.brief.cell) == own || place.is_fresh(now));
        let cell = acting.map(|place| place.brief.clone());
        let others = known.places().iter().filter(|place| {
            place.is_fresh(now) && cell.as_ref().is_none_or(|cell| cell.cell != place.brief.cell)
        });
        let others: Vec<CellBrief> = others.map(|place| place.brief.clone()).collect();
        let mut has_news = false;
        let names = |cell: &Option<CellBrief>, others: &[CellBrief]| -> Vec<CellId> {
            cell.iter().chain(others).map(|brief| brief.cell).collect()
        };
        self.introduction.send_if_modified(|hello| {
            has_news = names(&hello.cell, &hello.others) != names(&cell, &others);
            let changed = hello.cell != cell || hello.others != others;
            hello.cell = cell;
            hello.others = others;
            changed
        });
        has_news
    }

    /// Writes what is known, if that has changed.
    async fn keep(&self, known: &Known, written: &mut Vec<u8>) {
        let briefs: Vec<CellBrief> =
            known.places().iter().map(|place| CellBrief { has_jobs: false, ..place.brief.clone() }).collect();
        let bytes = to_canonical(&briefs);
        if bytes == *written {
            return;
        }
        written.clone_from(&bytes);
        let path = self.cells.path.clone();
        let done = tokio::task::spawn_blocking(move || put(&path, &bytes)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(path = %self.cells.path.display(), %error, "what is known of cells cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests;

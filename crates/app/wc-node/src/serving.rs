//! Working for cells: one session with each of them, kept open wherever its coordinator is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use wc_proto::version;
use wc_types::node::{Capabilities, Delegation, Enrolment, Locality};
use wc_types::{CellId, Signed, SigningKey};

use crate::agent::{Agent, SessionEnd};
use crate::cells::{Cells, Known};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::finder;
use crate::link::LinkError;
use crate::node::Role;

/// Room in the pipe between a coordinator and the agent of the same machine.
const LOCAL_SESSION_BYTES: usize = 1 << 20;
/// Shortest and longest pause before a lost session is opened again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Longest pause for a cell that is not the home cell and has been away for `AWAY`: it may be gone for good.
const RECONNECT_AWAY: Duration = Duration::from_secs(30);
const AWAY: Duration = Duration::from_secs(120);

/// Makes the terms under which a machine works. They are the same for every cell.
pub(crate) struct EnrolmentMaker {
    pub key: Arc<SigningKey>,
    pub delegation: Signed<Delegation>,
    pub capabilities: Capabilities,
    pub locality: Locality,
    pub consents: Vec<wc_types::manifest::WorkClass>,
}

impl EnrolmentMaker {
    fn make(&self) -> Signed<Enrolment> {
        Signed::seal(
            Enrolment {
                delegation: self.delegation.clone(),
                capabilities: self.capabilities.clone(),
                locality: self.locality,
                consents: self.consents.clone(),
                agent_version: version::AGENT_VERSION.to_owned(),
                at: clock::now(),
            },
            &self.key,
        )
    }
}

/// What works for cells: the agent, and the terms under which it does.
pub(crate) struct Worker {
    pub agent: Arc<Agent>,
    pub enrolment: Arc<EnrolmentMaker>,
}

impl Worker {
    /// Works for a cell from now on, until the handle is used.
    pub fn serve(&self, cell: CellId, cells: &Cells, role: &watch::Sender<Role>) -> AbortHandle {
        let (agent, enrolment) = (self.agent.clone(), self.enrolment.clone());
        let (known, role) = (cells.subscribe(), role.subscribe());
        tokio::spawn(keep_session(agent, enrolment, cell, known, role)).abort_handle()
    }

    /// Ends everything about a cell.
    pub fn forget(&self, cell: CellId) {
        self.agent.forget(cell);
    }

    /// Says which cell's work comes first.
    pub fn set_home(&self, cell: CellId) {
        self.agent.set_home(cell);
    }

    /// Returns whether a cell is in session.
    pub fn is_in_session(&self, cell: CellId) -> bool {
        self.agent.is_in_session(cell)
    }

    /// Returns whether something is held for a cell that it has not settled.
    pub fn is_needed(&self, cell: CellId) -> bool {
        self.agent.tallies().get(&cell).is_some_and(|tally| tally.held > 0)
    }
}

/// Keeps a session with a cell's coordinator, wherever that is.
async fn keep_session(
    agent: Arc<Agent>,
    enrolment: Arc<EnrolmentMaker>,
    cell: CellId,
    known: watch::Receiver<Known>,
    role: watch::Receiver<Role>,
) {
    let mut pause = RECONNECT.0;
    let mut gone_since = Instant::now();
    while !agent.is_stopping() {
        let started = Instant::now();
        let end = if let Some(own) = own(&role, cell) {
            let (ours, theirs) = tokio::io::duplex(LOCAL_SESSION_BYTES);
            let coordinator = own.node();
            tokio::spawn(own.serve_session(agent.node(), theirs));
            agent.converse(cell, coordinator, enrolment.make(), ours).await
        } else {
            let brief = known.borrow().get(cell).map(|place| place.brief.clone());
            let Some(brief) = brief else { return };
            let coordinator = brief.coordinator;
            // Every time: it may have another address than when it was last there.
            agent.mesh.connect(coordinator, finder::addresses(&brief)).await;
            match agent.mesh.open(coordinator, version::SESSION).await {
                Ok(stream) => agent.converse(cell, coordinator, enrolment.make(), stream).await,
                Err(error) => {
                    tracing::info!(%cell, %coordinator, %error, "the coordinator cannot be reached; trying again");
                    SessionEnd::Link(LinkError::Closed)
                }
            }
        };
        match end {
            SessionEnd::Stopping => return,
            SessionEnd::Refused(refusal) => {
                tracing::error!(%cell, %refusal, "the coordinator refuses this node");
                pause = RECONNECT.1;
            }
            SessionEnd::OtherCell { actual } => {
                tracing::warn!(%cell, %actual, "the coordinator keeps another cell now");
                pause = RECONNECT.1;
            }
            SessionEnd::Link(error) => tracing::info!(%cell, %error, "session ended"),
        }
        if known.borrow().get(cell).is_some_and(|place| place.is_fresh(Instant::now())) {
            gone_since = Instant::now();
        }
        if started.elapsed() > RECONNECT.1 {
            pause = RECONNECT.0;
        }
        tokio::time::sleep(pause).await;
        let is_home = known.borrow().home().is_some_and(|home| home.brief.cell == cell);
        let longest = if is_home || gone_since.elapsed() < AWAY { RECONNECT.1 } else { RECONNECT_AWAY };
        pause = (pause * 2).min(longest);
    }
}

fn own(role: &watch::Receiver<Role>, cell: CellId) -> Option<Arc<Coordinator>> {
    match &*role.borrow() {
        Role::Coordinating(coordinator) if coordinator.cell == cell => Some(coordinator.clone()),
        Role::Searching | Role::Member { .. } | Role::Coordinating(_) => None,
    }
}

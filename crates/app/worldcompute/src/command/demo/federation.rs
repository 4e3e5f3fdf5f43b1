//! A coordinator and its donors as processes of this machine, in one directory that goes away with them.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use wc_host::{DataDir, KeyFile};
use wc_proto::api::Request;
use wc_types::SigningKey;

use crate::client::Node;
use crate::progress::Bar;
use crate::scratch::{Scratch, random_name};

/// How long the nodes may take to find each other on a busy machine.
const JOIN_MAX: Duration = Duration::from_secs(90);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node may take to stop by itself, and then on request of the kernel.
const STOP_MAX: Duration = Duration::from_secs(8);
const TERMINATE_MAX: Duration = Duration::from_secs(3);
/// Lines of a node's log that are shown when something failed.
const LAST_LINES: usize = 12;
/// Bytes of a log that are read for them.
const LAST_BYTES: u64 = 8 << 10;

/// One node.
struct Member {
    name: String,
    dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// The federation.
pub struct Federation {
    scratch: Scratch,
    network: String,
    keep: bool,
    members: Vec<Member>,
}

impl Federation {
    /// Makes the directories of one coordinator and `donors` donors.
    pub fn new(donors: u16, keep: bool) -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        let scratch = Scratch::new(&parent, "worldcompute-demo")
            .with_context(|| format!("could not make a directory in {}", parent.display()))?;
        let names = std::iter::once("coordinator".to_owned())
            .chain((1..=donors).map(|number| format!("donor-{number}")));
        let mut members = Vec::new();
        for name in names {
            let dir = scratch.path().join(&name);
            DirBuilder::new().mode(0o700).create(&dir)?;
            members.push(Member { log: scratch.path().join(format!("{name}.log")), name, dir, child: None });
        }
        // A name of its own, so that the demo neither meets the LAN's nodes nor a second demo's.
        let network = format!("demo-{}", random_name()?);
        Ok(Self { scratch, network, keep, members })
    }

    /// Starts every node. None is told where another is.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let exe = std::env::current_exe().context("could not find this program's own file")?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let slots = (cores / (self.members.len() - 1)).max(1);
        let (network, keep) = (self.network.clone(), self.keep);
        for (index, member) in self.members.iter_mut().enumerate() {
            let log = File::create(&member.log)?;
            let mut command = Command::new(&exe);
            command.arg("--data-dir").arg(&member.dir).args(["node", "run", "--network", &network]);
            command.args(["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
            match index {
                0 => command.args(["--coordinate", "always", "--trusted", "--slots", "0"]),
                _ => {
                    command.args(["--coordinate", "never", "--consent", "all", "--slots", &slots.to_string()])
                }
            };
            // Settings of the person who runs the demo are about another node.
            for (name, _) in crate::config::VARIABLES {
                command.env_remove(name);
            }
            if keep {
                command.stdin(Stdio::null());
            } else {
                // The pipe closes with this process, however it ends, and the node with it.
                command.arg("--until-stdin-closes").stdin(Stdio::piped()).kill_on_drop(true);
            }
            // A group of its own: Ctrl-C is for us, and we stop the nodes in order.
            command.stdout(Stdio::null()).stderr(log).process_group(0);
            member.child = Some(command.spawn().with_context(|| format!("could not start {}", member.name))?);
        }
        Ok(())
    }

    /// Waits until every donor has joined the coordinator.
    pub async fn wait(&mut self, bar: &Bar) -> anyhow::Result<()> {
        let donors = self.members.len() - 1;
        let begun = Instant::now();
        let mut joined = 0;
        while joined < donors {
            self.check_mut()?;
            if begun.elapsed() > JOIN_MAX {
                bail!("only {joined} of {donors} donors have joined after {} s", JOIN_MAX.as_secs());
            }
            if let Ok(count) = self.joined().await {
                joined = count;
            }
            bar.message(&format!("{joined} of {donors} donors have joined"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn joined(&self) -> anyhow::Result<usize> {
        let mut node = self.connect().await?;
        let coordinator = node.cluster().await?.coordinator;
        let nodes = node.nodes().await?;
        Ok(nodes.iter().filter(|node| node.node != coordinator && node.state == "online").count())
    }

    /// Connects to the coordinator.
    pub async fn connect(&self) -> anyhow::Result<Node> {
        Node::connect(&DataDir::new(self.coordinator_dir())?).await
    }

    /// Returns the key of the coordinator's owner, who submits the jobs.
    pub fn submitter(&self) -> anyhow::Result<SigningKey> {
        Ok(KeyFile::load_or_create(&DataDir::new(self.coordinator_dir())?.owner_key())?)
    }

    /// Fails if a node has ended by itself.
    pub fn check(&self) -> anyhow::Result<()> {
        let ended = self.members.iter().find(|member| {
            let id = member.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
            // A child that has ended stays a zombie until it is waited for, so ask the kernel for its state.
            id.and_then(Pid::from_raw).is_none_or(is_zombie)
        });
        match ended {
            Some(member) => bail!("the node `{}` has ended", member.name),
            None => Ok(()),
        }
    }

    fn check_mut(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if let Some(child) = &mut member.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the node `{}` has ended: {status}", member.name);
            }
        }
        Ok(())
    }

    /// Returns the ends of the logs of the nodes that have ended, or of the coordinator's if none has.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        for member in &mut self.members {
            let has_ended = match &mut member.child {
                Some(child) => !matches!(child.try_wait(), Ok(None)),
                None => false,
            };
            if has_ended {
                text += &format!("last lines of {}:\n{}", member.log.display(), tail(&member.log));
            }
        }
        if text.is_empty() && self.members[0].child.is_some() {
            let member = &self.members[0];
            text = format!("last lines of {}:\n{}", member.log.display(), tail(&member.log));
        }
        text
    }

    /// Stops every node, all at once, and removes everything.
    pub async fn stop(mut self) {
        let mut stops = JoinSet::new();
        for member in std::mem::take(&mut self.members) {
            stops.spawn(stop(member));
        }
        stops.join_all().await;
    }

    /// Leaves the nodes running and the directory where it is.
    pub fn leave_running(mut self) {
        self.scratch.keep();
    }

    /// Returns the directory of everything.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Returns the data directories of all nodes.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.members.iter().map(|member| member.dir.as_path())
    }

    /// Returns the data directory of the coordinator.
    pub fn coordinator_dir(&self) -> &Path {
        &self.members[0].dir
    }

    /// Returns the data directory of the first donor.
    pub fn donor_dir(&self) -> Option<&Path> {
        self.members.get(1).map(|member| member.dir.as_path())
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state is the first letter after the command's name, which ends with the last parenthesis.
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// Asks a node to stop, then tells the kernel to terminate it, then to kill it.
async fn stop(mut member: Member) {
    let Some(mut child) = member.child.take() else { return };
    if let Ok(dir) = DataDir::new(&member.dir)
        && let Ok(mut node) = Node::connect(&dir).await
    {
        let _ = tokio::time::timeout(STOP_MAX, node.tell(Request::Stop)).await;
    }
    drop(child.stdin.take());
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_ok() {
        return;
    }
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(TERMINATE_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    let lines = &lines[lines.len().saturating_sub(LAST_LINES)..];
    lines.iter().map(|line| format!("    {}\n", crate::say::harmless(line))).collect()
}

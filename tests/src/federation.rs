//! Real nodes: processes of the real binary on loopback, in directories that go away with the test.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use wc_api::Client;
use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::{ClusterView, JobView, NodeView};
use wc_proto::api::{CellRequest, Request, Response};
use wc_types::manifest::{
    BlobRef, Comparison, Confidentiality, Manifest, Placement, PreemptClass, PriorityClass, Resources, Stage,
    WorkClass, WorkloadType,
};
use wc_types::{AccountId, JobId, Millis, NodeId, Signed, SigningKey, Timestamp};

use crate::port::free_port;

/// Longest wait for anything that should take a moment, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Returns the path of the binary that cargo built beside this test.
///
/// # Panics
/// When it was not built: `cargo test --workspace` builds it, or `cargo build -p worldcompute`.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    let profile = test.ancestors().nth(2).expect("tests live in target/<profile>/deps");
    let binary = profile.join("worldcompute");
    assert!(binary.exists(), "{} is missing: run cargo build -p worldcompute", binary.display());
    binary
}

/// Returns a built guest of `guests/built`.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/built").join(format!("{name}.wasm"));
    path.canonicalize().expect("built guests are in the repository")
}

/// One node.
pub struct Node {
    /// Its data directory.
    pub dir: PathBuf,
    binary: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// Starts, or starts again, the node's process.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).expect("log file");
        let child = Command::new(&self.binary)
            .arg("--data-dir")
            .arg(&self.dir)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.child = Some(child);
    }

    /// Leaves an argument and its value out from the next start on.
    pub fn forget(&mut self, argument: &str) {
        while let Some(at) = self.args.iter().position(|arg| arg == argument) {
            self.args.drain(at..(at + 2).min(self.args.len()));
        }
    }

    /// Returns the id of the running process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the node as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Waits until the process has ended by itself.
    pub fn ended(&mut self, within: Duration) -> bool {
        self.child.is_none() || self.exit(within).is_some()
    }

    /// Waits until the process has ended by itself and returns how; `None` when it goes on, or does not run.
    pub fn exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            let status = self.child.as_mut()?.try_wait().expect("our own child");
            if status.is_some() {
                self.child = None;
                return status;
            }
            if begun.elapsed() >= within {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the number of the node's process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Returns what the node has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the key of the node's owner.
    pub fn owner(&self) -> SigningKey {
        let dir = DataDir::new(&self.dir).expect("data directory");
        KeyFile::load_or_create(&dir.owner_key()).expect("owner key")
    }

    /// Connects as the owner's commands do; waits until the node listens.
    pub async fn client(&self) -> Client {
        let begun = Instant::now();
        loop {
            match Client::connect(&self.dir).await {
                Ok(client) => return client,
                Err(error) if begun.elapsed() > SOON => panic!("{error}\n{}", self.logged()),
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// Asks for something about the cell.
    pub async fn cell(&self, request: CellRequest) -> Response {
        self.client().await.ask(Request::Cell(request)).await.expect("the node answers")
    }

    /// Runs a command of the binary against this node and returns its output.
    pub fn command(&self, args: &[&str]) -> Output {
        Command::new(&self.binary)
            .arg("--data-dir")
            .arg(&self.dir)
            .args(args)
            .output()
            .expect("the command runs")
    }

    /// Runs a command with `--json`, which must succeed, and returns what it printed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.command(&[&["--json"], args].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{args:?} ended with {}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{args:?} printed no JSON ({error}): {text}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A coordinator and some donors.
pub struct Federation {
    /// Node 0 coordinates and lends nothing; the others lend.
    pub nodes: Vec<Node>,
    /// Removed last.
    pub dir: TempDir,
    binary: PathBuf,
    /// The name of their network.
    pub network: String,
}

impl Federation {
    /// Starts a coordinator and `donors` donors with two slots each, and waits until all have joined.
    pub async fn start(donors: usize) -> Self {
        Self::start_with(donors, |_| Vec::new()).await
    }

    /// As [`start`](Self::start), with further arguments for each donor by number from 1.
    pub async fn start_with(donors: usize, extra: impl Fn(usize) -> Vec<String>) -> Self {
        let mut federation = Self::empty(binary());
        federation.add(&["--coordinate", "always", "--trusted", "--slots", "0"]);
        for number in 1..=donors {
            let extra = extra(number);
            let mut args = vec!["--coordinate", "never", "--consent", "all", "--slots", "2"];
            args.extend(extra.iter().map(String::as_str));
            federation.add(&args);
        }
        federation.joined(donors).await;
        federation
    }

    /// Returns a federation of no nodes yet, whose nodes will be processes of `binary`.
    pub fn empty(binary: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let network =
            format!("test-{}", dir.path().file_name().and_then(|name| name.to_str()).map_or_else(
            || "x".to_owned(),
            |name| name.trim_start_matches('.').to_ascii_lowercase(),
        ));
        Self { nodes: Vec::new(), dir, binary, network }
    }

    /// Starts nodes that are told nothing but the name of their network.
    pub fn strangers(count: usize) -> Self {
        let mut federation = Self::empty(binary());
        for _ in 0..count {
            federation.add(&["--coordinate", "auto", "--trusted", "--consent", "all", "--slots", "1"]);
        }
        federation
    }

    /// Adds and starts a node.
    pub fn add(&mut self, args: &[&str]) -> &mut Node {
        self.add_with(args, Vec::new())
    }

    /// Adds and starts a node with further variables in its environment.
    pub fn add_with(&mut self, args: &[&str], env: Vec<(String, String)>) -> &mut Node {
        let listen = ["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let node = self.process(
            &format!("node-{}", self.nodes.len()),
            &["node", "run"],
            &[&listen[..], args].concat(),
            env,
        );
        self.nodes.push(node);
        self.nodes.last_mut().expect("just pushed")
    }

    /// Adds and starts a node that listens nowhere, finds nobody by itself, and knows the addresses of some seeds.
    pub fn add_hidden(&mut self, seeds: &[&str], args: &[&str]) -> &mut Node {
        let mut all = vec!["--listen", "none", "--no-lan"];
        for seed in seeds {
            all.extend(["--join", seed]);
        }
        all.extend(args);
        let node = self.process(&format!("node-{}", self.nodes.len()), &["node", "run"], &all, Vec::new());
        self.nodes.push(node);
        self.nodes.last_mut().expect("just pushed")
    }

    /// Starts a relay of the federation's network, and returns it with its address. It is none of the nodes.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn relay(&self, number: usize, args: &[&str]) -> (Node, String) {
        let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        let here = ["--no-lan", "--listen", &address, "--external-address", &address];
        let node = self.process(
            &format!("relay-{number}"),
            &["relay", "run"],
            &[&here[..], args].concat(),
            Vec::new(),
        );
        (node, address)
    }

    fn process(&self, name: &str, command: &[&str], args: &[&str], env: Vec<(String, String)>) -> Node {
        let common = ["--until-stdin-closes", "--network", &self.network];
        let path = self.dir.path();
        let mut node = Node {
            dir: path.join(name),
            binary: self.binary.clone(),
            log: path.join(format!("{name}.log")),
            args: [command, &common, args].concat().into_iter().map(str::to_owned).collect(),
            env,
            child: None,
        };
        node.start();
        node
    }

    /// Returns the name of the federation's network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Returns the coordinator.
    pub fn coordinator(&self) -> &Node {
        &self.nodes[0]
    }

    /// Waits until `donors` donors are online.
    pub async fn joined(&self, donors: usize) {
        self.until("donors join", async || {
            let Response::Nodes(nodes) = self.coordinator().cell(CellRequest::Nodes).await else {
                return false;
            };
            nodes.iter().filter(|node| node.state == "online").count() >= donors
        })
        .await;
    }

    /// Waits until something holds, and shows the logs when it does not.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < SOON, "waited in vain: {what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the ends of all logs.
    pub fn logs(&self) -> String {
        let end = |node: &Node| {
            let text = node.logged();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        self.nodes.iter().map(|node| format!("--- {}\n{}\n", node.dir.display(), end(node))).collect()
    }

    /// Submits a job of one stage and returns its id.
    pub async fn submit(&self, module: &Path, change: impl FnOnce(&mut Stage)) -> JobId {
        match self.try_submit(module, change).await {
            Response::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    /// Submits a job of one stage.
    pub async fn try_submit(&self, module: &Path, change: impl FnOnce(&mut Stage)) -> Response {
        let mut client = self.coordinator().client().await;
        let path = module.display().to_string();
        let Response::Blob(workload) = client.ask(Request::PutFile { path }).await.expect("answer") else {
            panic!("the module cannot be put")
        };
        let mut stage = stage(workload);
        change(&mut stage);
        let manifest = Box::new(self.manifest(vec![stage]));
        let submit = CellRequest::Submit { manifest, holders: Vec::new(), dry_run: false };
        client.ask(Request::Cell(submit)).await.expect("answer")
    }

    /// Returns a manifest signed by the coordinator's owner.
    pub fn manifest(&self, stages: Vec<Stage>) -> Signed<Manifest> {
        let owner = self.coordinator().owner();
        Signed::seal(
            Manifest {
                schema_version: 1,
                name: "test".into(),
                submitter: owner.account_id(),
                submitted_at: now(),
                priority_class: PriorityClass::PublicGood,
                confidentiality: Confidentiality::Public,
                class: WorkClass::General,
                deadline: None,
                max_total: None,
                placement: Placement::Lan,
                allowed_endpoints: Vec::new(),
                stages,
            },
            &owner,
        )
    }

    /// Returns a job as it is.
    pub async fn job(&self, job: JobId) -> JobView {
        match self.coordinator().cell(CellRequest::Job { job: job.to_string() }).await {
            Response::Job(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a job has ended.
    pub async fn finished(&self, job: JobId) -> JobView {
        self.until("the job ends", async || self.job(job).await.phase.is_final()).await;
        self.job(job).await
    }

    /// Returns what each accepted task of a job's last stage printed, by its index.
    pub async fn printed(&self, job: JobId) -> BTreeMap<u32, String> {
        let request = CellRequest::Results { job: job.to_string(), stage: None, from: 0 };
        let Response::Results { rows, .. } = self.coordinator().cell(request).await else {
            panic!("the coordinator lists results")
        };
        let mut client = self.coordinator().client().await;
        let mut printed = BTreeMap::new();
        for row in rows {
            let read = Request::Read { cid: row.record.stdout.cid };
            match client.ask(read).await.expect("the node answers") {
                Response::Bytes(bytes) => {
                    printed.insert(row.index, String::from_utf8_lossy(&bytes).into_owned())
                }
                other => panic!("{other:?}"),
            };
        }
        printed
    }

    /// Returns the name of the engine that donor 1 runs guests on, which must have run one: it is part of the names of
    /// the modules that were compiled there.
    pub fn engine(&self) -> String {
        let compiled = DataDir::new(&self.nodes[1].dir).expect("data directory").sandbox().join("compiled");
        let mut names = std::fs::read_dir(&compiled)
            .unwrap_or_else(|error| panic!("{}: {error}", compiled.display()))
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .find_map(|name| Some(name.split_once('-')?.1.rsplit_once('.')?.0.to_owned()))
            .expect("a module was compiled")
    }

    /// Returns one node of the cell.
    pub async fn member(&self, node: NodeId) -> Option<NodeView> {
        let Response::Nodes(nodes) = self.coordinator().cell(CellRequest::Nodes).await else {
            panic!("the coordinator lists its nodes")
        };
        nodes.into_iter().find(|view| view.node == node)
    }

    /// Returns an account's balance, in micro-NCU.
    pub async fn balance(&self, account: AccountId) -> i64 {
        match self.coordinator().cell(CellRequest::Balance { account }).await {
            Response::Balance(balance) => balance,
            other => panic!("{other:?}"),
        }
    }

    /// Checks that every accepted task has paid exactly its agreeing donors: all balances together are what receipts
    /// award.
    ///
    /// # Panics
    /// When credit appeared or vanished.
    pub async fn credited_once(&self) {
        let awarded: i64 = match self.coordinator().cell(CellRequest::Jobs { limit: 100 }).await {
            Response::Jobs(jobs) => jobs.iter().map(|job| i64::try_from(job.awarded).expect("small")).sum(),
            other => panic!("{other:?}"),
        };
        let balances: i64 = self.members().await.values().map(|node| node.owner_balance).sum();
        assert_eq!(balances, awarded, "credit appeared or vanished");
        assert!(awarded > 0);
    }

    /// Returns the cell.
    pub async fn cluster(&self) -> ClusterView {
        match self.coordinator().cell(CellRequest::Cluster).await {
            Response::Cluster(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the cell's nodes by the directory they live in; absent when they never joined.
    pub async fn members(&self) -> BTreeMap<PathBuf, NodeView> {
        let Response::Nodes(nodes) = self.coordinator().cell(CellRequest::Nodes).await else {
            panic!("the coordinator lists its nodes")
        };
        let mut members = BTreeMap::new();
        for node in &self.nodes {
            let dir = DataDir::new(&node.dir).expect("data directory");
            let Ok(key) = KeyFile::load(&dir.node_key()) else { continue };
            if let Some(view) = nodes.iter().find(|view| view.node == key.node_id()) {
                members.insert(node.dir.clone(), view.clone());
            }
        }
        members
    }
}

/// Returns a stage of one task, three replicas, generous limits.
pub fn stage(workload: BlobRef) -> Stage {
    Stage {
        name: "main".into(),
        workload,
        workload_type: WorkloadType::WasmModule,
        command: Vec::new(),
        env: BTreeMap::new(),
        tasks: 1,
        inputs: Vec::new(),
        outputs: Vec::new(),
        resources: Resources { wall_clock: Millis(120_000), ..Resources::default() },
        replicas: 3,
        comparison: Comparison::BitExact,
        preempt: PreemptClass::Restartable,
        retries_max: 3,
    }
}

/// Returns the moment now.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(i64::try_from(since.as_micros()).expect("before the year 294000"))
}

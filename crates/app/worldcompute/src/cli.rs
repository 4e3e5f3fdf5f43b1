//! The command line: `worldcompute <noun> <verb>`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use wc_types::NodeId;
use wc_types::directive::BanReason;

/// Lend a machine, submit work, check what came back.
#[derive(Debug, Parser)]
#[command(
    name = "worldcompute",
    version,
    about = "Lend a machine, submit work, check what came back",
    long_about = "Lend a machine to science, or hand work to the machines that others lend.\n\n\
        Start here: `worldcompute demo` runs a whole federation on this machine, gives it two real jobs and shows \
        the results.",
    after_help = "Examples:\n  \
        worldcompute demo\n  \
        worldcompute donor join\n  \
        worldcompute job submit job.yaml --watch\n  \
        worldcompute map program.wasm inputs/ --output results/\n\n\
        Data goes to standard output, talk to standard error. Exit codes: 0 done, and what was checked is right; 1 not done; 2 wrong usage; 3 not decided by \
        what was given; 4 checked, and not what it must be; 65 no way to the other node.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory of the node: keys, blobs, journal, socket [default: ~/.worldcompute]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log, such as `info` or `wc_mesh=debug` [default: info for nodes, warn for other commands]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole federation on this machine and give it two real jobs
    #[command(
        long_about = "Run a whole federation on this machine and give it two real jobs.\n\n\
            One coordinator and several donors start as processes of their own, find each other by themselves, compute \
            a fractal (64 tiles, each on three donors) and a census of the words in the genome of a virus (two stages), \
            and everything is removed afterwards. Pictures, tables and receipts stay in the output directory.",
        after_help = "Examples:\n  worldcompute demo\n  worldcompute demo --keep --donors 6"
    )]
    Demo(DemoArgs),
    /// Run this machine's node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Lend this machine
    #[command(subcommand)]
    Donor(DonorCommand),
    /// Submit jobs and follow them
    #[command(subcommand)]
    Job(JobCommand),
    /// Run one module over many inputs, with no job file at all
    #[command(
        long_about = "Run one WebAssembly module over many inputs: one task for each file.\n\n\
            The task finds its file as /in/input, and what it writes to /out comes back as DIR/<file name>/…; a module \
            that only prints comes back as DIR/<file name>.out.",
        after_help = "Examples:\n  \
            worldcompute map count.wasm books/ --output counts/\n  \
            worldcompute map blur.wasm a.ppm b.ppm --output out/ --arg --radius --arg 3 --replicas 1"
    )]
    Map(MapArgs),
    /// Look at the cell that this node belongs to
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Pass on what nodes behind firewalls say to each other
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Say what this network lets through, which path is in use, and why not a better one
    #[command(after_help = "Examples:\n  worldcompute doctor\n  worldcompute doctor --json\n  \
            worldcompute doctor --target /dns4/relay.example/tcp/443/tls/ws\n\n\
            Exit codes: 0 something gets through (or nobody is known to try), 65 every transport to every known address \
            failed.")]
    Doctor(DoctorArgs),
    /// What an operator needs when something is wrong
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Check receipts
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Look at the ledger, and check it as a stranger would
    #[command(subcommand)]
    Ledger(LedgerCommand),
}

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the federation running and say how to talk to it
    #[arg(long)]
    pub keep: bool,
    /// Number of donors
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(3..=64))]
    pub donors: u16,
    /// Where pictures, tables and receipts go
    #[arg(long, value_name = "DIR", default_value = "worldcompute-demo")]
    pub out: PathBuf,
}

/// `node`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Run the node until it is stopped
    #[command(after_help = "Examples:\n  \
        worldcompute node run\n  \
        worldcompute node run --network lab --coordinate always --trusted\n  \
        worldcompute node run --join /ip4/192.168.1.7/tcp/7441/p2p/12D3KooW… --slots 2\n\n\
        Every option can also stand in <data dir>/config.toml (slots = 2) or in the environment (WORLDCOMPUTE_SLOTS=2).")]
    Run(Box<NodeArgs>),
    /// Stop the node of this data directory
    Stop,
}

/// Options of a running node.
#[derive(Debug, Default, Args)]
pub struct NodeArgs {
    /// Address to listen on, as a multiaddr, or none; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Node to join through, as a multiaddr; may be repeated. Without it nodes of the LAN are found by themselves
    #[arg(long, value_name = "MULTIADDR")]
    pub join: Vec<String>,
    /// Name of the network; nodes of other networks are ignored [default: worldcompute]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Guests to run at the same time; 0 lends nothing [default: one for each core but one]
    #[arg(long, value_name = "N")]
    pub slots: Option<u16>,
    /// Classes of work to consent to, separated by commas, or `all` or `none`
    #[arg(long, value_name = "CLASS,…")]
    pub consent: Option<String>,
    /// Cells of the network to work for at most; 1 works for the home cell only [default: 4]
    #[arg(long, value_name = "N")]
    pub cells: Option<String>,
    /// How long the home cell may be out of reach before this node may found an island of its own [default: 5m]
    #[arg(long, value_name = "TIME")]
    pub island_after: Option<String>,
    /// Whether this node may found and coordinate a cell: auto, always or never [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub coordinate: Option<String>,
    /// Declare the nodes of a cell that this node founds trusted, so that three replicas are enough without attestation
    #[arg(long)]
    pub trusted: bool,
    /// How long a cell that this node founds keeps results and logs of jobs that have ended, such as 36h [default: 7 days]
    #[arg(long, value_name = "TIME")]
    pub keep_results: Option<String>,
    /// Run modules that others send straight to this node (`job submit --executor`)
    #[arg(long)]
    pub accept_direct: bool,
    /// Hold a share of the key that signs the cell's checkpoints, when the cell's owner names this node
    /// (`cluster signers set`)
    #[arg(long)]
    pub cosigner: bool,
    /// Cosign the growth of the cell's ledger, and raise an alarm when it does not add up
    #[arg(long)]
    pub witness: bool,
    /// Serve the published ledger over plain HTTP at this address while this node coordinates, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDR")]
    pub log_listen: Option<String>,
    /// Most room for blobs, such as 10GiB [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub storage_cap: Option<String>,
    /// Key file of this machine's owner [default: keys/owner.key in the data directory]
    #[arg(long, value_name = "FILE")]
    pub owner_key: Option<PathBuf>,
    /// Anchor the checkpoints of a cell that this node coordinates: rekor-v1, rekor-v2 or off [default: off]
    #[arg(long, value_name = "LOG")]
    pub anchor: Option<String>,
    /// Where that log is [default: the public one]
    #[arg(long, value_name = "URL")]
    pub anchor_url: Option<String>,
    /// From one anchor to the next [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub anchor_interval: Option<String>,
    /// Certificates in PEM that the log's must come from, instead of the public authorities
    #[arg(long, value_name = "FILE")]
    pub anchor_authorities: Option<PathBuf>,
    /// HTTP proxy to reach the log through
    #[arg(long, value_name = "URL")]
    pub anchor_proxy: Option<String>,
    /// Logs and keys to believe, such as Sigstore's trusted_root.json [default: the logs that this binary pins]
    #[arg(long, value_name = "FILE")]
    pub trusted_root: Option<PathBuf>,
    /// Also relay for nodes that others cannot dial (`relay run` does nothing else)
    #[arg(long)]
    pub relay: bool,
    /// What a relay gives away
    #[command(flatten)]
    pub limits: RelayLimitArgs,
    /// Where others reach this node
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Ways to other nodes
    #[command(flatten)]
    pub transport: TransportArgs,
    /// How others find and reach this one
    #[command(flatten)]
    pub wss: WssArgs,
    /// Stop when standard input closes: for a program that starts nodes and must not leave them behind
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

/// `relay`
#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// Relay until this command is stopped; lend nothing and coordinate nothing
    #[command(after_help = "Examples:\n  \
        worldcompute relay run\n  \
        worldcompute relay run --wss-listen --wss-cert fullchain.pem --wss-key privkey.pem \\\n    \
        --external-address /dns4/relay.example/tcp/443/tls/ws --relay-rate 20MiB\n  \
        worldcompute relay run --acme-domain relay.example --acme-contact me@example.org\n\n\
        What passes is encrypted between its ends: a relay sees who talks to whom, and how much.")]
    Run(Box<RelayArgs>),
    /// What this node's relay has done, and how the node itself is reached
    Status,
}

/// `relay run`
#[derive(Debug, Default, Args)]
pub struct RelayArgs {
    /// Address to listen on, as a multiaddr; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Node to learn the network from, as a multiaddr; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    pub join: Vec<String>,
    /// Name of the network; nodes of other networks are ignored [default: worldcompute]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// What the relay gives away
    #[command(flatten)]
    pub limits: RelayLimitArgs,
    /// Where others reach it
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Ways to other nodes
    #[command(flatten)]
    pub transport: TransportArgs,
    /// How others find and reach this one
    #[command(flatten)]
    pub wss: WssArgs,
    /// Stop when standard input closes: for a program that starts nodes and must not leave them behind
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

impl From<RelayArgs> for NodeArgs {
    /// A node that relays and does nothing else.
    fn from(args: RelayArgs) -> Self {
        Self {
            relay: true,
            slots: Some(0),
            coordinate: Some("never".to_owned()),
            consent: Some("none".to_owned()),
            listen: args.listen,
            join: args.join,
            network: args.network,
            limits: args.limits,
            reach: args.reach,
            transport: args.transport,
            wss: args.wss,
            until_stdin_closes: args.until_stdin_closes,
            ..Self::default()
        }
    }
}

/// Where others reach a node.
#[derive(Debug, Default, Args)]
pub struct ReachArgs {
    /// Address at which everybody can dial this node, as a multiaddr; may be repeated [default: what peers find out]
    #[arg(long, value_name = "MULTIADDR")]
    pub external_address: Vec<String>,
    /// Whether to be reached through relays of others: auto (while nobody gets through otherwise), always or never
    /// [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub reservations: Option<String>,
    /// Do not ask the router to forward our ports (PCP, NAT-PMP, UPnP)
    #[arg(long)]
    pub no_port_mapping: bool,
    /// Neither look for nodes on this machine and its LAN, nor show this one there
    #[arg(long)]
    pub no_lan: bool,
}

/// What a relay gives away.
#[derive(Debug, Default, Args)]
pub struct RelayLimitArgs {
    /// Nodes that it holds a place for [default: 1024]
    #[arg(long, value_name = "N")]
    pub relay_reservations: Option<String>,
    /// Circuits at the same time [default: 1024]
    #[arg(long, value_name = "N")]
    pub relay_circuits: Option<String>,
    /// Life of a circuit [default: 12h]
    #[arg(long, value_name = "TIME")]
    pub relay_circuit_time: Option<String>,
    /// Bytes through one circuit, 0 for any number [default: 64GiB]
    #[arg(long, value_name = "SIZE")]
    pub relay_circuit_size: Option<String>,
    /// Bytes per second from all peers together, 0 for any number [default: 128MiB]
    #[arg(long, value_name = "SIZE")]
    pub relay_rate: Option<String>,
    /// Bytes per second from one peer, 0 for any number [default: 32MiB]
    #[arg(long, value_name = "SIZE")]
    pub relay_peer_rate: Option<String>,
}

/// `doctor`
#[derive(Debug, Default, Args)]
pub struct DoctorArgs {
    /// Node to try to reach, as a multiaddr; may be repeated [default: seeds, nodes to join through, and peers]
    #[arg(long, value_name = "MULTIADDR")]
    pub target: Vec<String>,
    /// Ways to other nodes
    #[command(flatten)]
    pub transport: TransportArgs,
}

/// `admin`
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Collect evidence of how this network treats a node, for whoever is to find out why it is not reached
    #[command(
        long_about = "Collect evidence of how this network treats a node, for whoever is to find out why it is not reached.\n\n\
            For five minutes it keeps the debugging log of the node's network side, every dial with its outcome, its root \
            cause and what was done about it, and what doctor finds, in a directory: index.md says in plain words what came \
            out. The node that runs in the data directory is asked; if none does, this command looks for the network itself. \
            Passwords and keys are not in it; addresses, node ids and the name of this machine are.",
        after_help = "Examples:\n  worldcompute admin firewall-diagnose\n  \
            worldcompute admin firewall-diagnose --seconds 60 --output for-support\n\n\
            Ctrl-C ends the capture early and keeps what there is. Exit codes: 0 something gets through (or nobody is known \
            to try), 1 not done, 4 a dial failed without saying why or what was done about it, 65 every transport to every \
            known address failed."
    )]
    FirewallDiagnose(DiagnoseArgs),
    #[command(flatten)]
    Order(OrderCommand),
}

/// `admin halt|resume|ban|unban`
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Stop giving out work in the whole cell; what runs is finished
    #[command(
        long_about = "Stop giving out work in the whole cell; what runs is finished.\n\n\
            For the operator of the machine that coordinates the cell, on that machine. No lease is given out from then on, and \
            donors give back what they have not begun. Jobs are still accepted, and wait. It lasts, over restarts too, until \
            'worldcompute admin resume'.",
        after_help = "Example:\n  worldcompute admin halt --reason \"guests of job_1f2e were seen outside their sandbox\""
    )]
    Halt {
        /// Why, in at least 20 characters, for everybody in the network to read
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// End a halt of the cell
    Resume,
    /// Do not work with a node any more: its leases go to others, and members of the cell drop it
    #[command(
        long_about = "Do not work with a node any more.\n\n\
            For the operator of the machine that coordinates the cell, on that machine. The node's session ends, its leases go to \
            others at once, and it may not join again. Members of the cell refuse its connections, unless they know another cell \
            that has not banned it. It lasts until 'worldcompute admin unban'.",
        after_help = "Example:\n  worldcompute admin ban 12D3KooW... --reason BYZANTINE_BEHAVIOR"
    )]
    Ban {
        /// The node, as `worldcompute cluster status` shows it
        #[arg(value_name = "PEER")]
        peer: NodeId,
        /// SANDBOX_ESCAPE, ATTESTATION_FAILED, BYZANTINE_BEHAVIOR, ACCEPTABLE_USE_VIOLATION or OFAC_COMPLIANCE
        #[arg(long, value_name = "CODE")]
        reason: BanReason,
    },
    /// Work with a banned node again
    Unban {
        /// The node
        #[arg(value_name = "PEER")]
        peer: NodeId,
    },
}

/// `admin firewall-diagnose`
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// How long to look on
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(5..=3600))]
    pub seconds: u32,
    /// Where the evidence goes: a new or empty directory [default: evidence/phase1/firewall-traversal/MOMENT]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Node to try to reach, as a multiaddr; may be repeated [default: seeds, nodes to join through, and peers]
    #[arg(long, value_name = "MULTIADDR")]
    pub target: Vec<String>,
    /// Ways to other nodes
    #[command(flatten)]
    pub transport: TransportArgs,
}

/// Ways to other nodes, where a network stands in the way.
#[derive(Debug, Default, Args)]
pub struct TransportArgs {
    /// HTTP proxy, as http://user:password@host:port, or off [default: HTTPS_PROXY or ALL_PROXY of the environment]
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Connect although somebody opens the TLS around our connections (a company's inspection). What nodes say to each
    /// other stays secret; the connection is marked as inspected and trusted less
    #[arg(long)]
    pub allow_ssl_inspection: bool,
    /// Certificates in PEM of those who may read along [default: this machine's store]
    #[arg(long, value_name = "FILE", requires = "allow_ssl_inspection")]
    pub inspection_authorities: Option<PathBuf>,
    /// Certificates in PEM to believe like the public authorities
    #[arg(long, value_name = "FILE")]
    pub tls_authorities: Option<PathBuf>,
    /// Server for DNS over HTTPS, as https://host/path@address; may be repeated [default: Cloudflare's and Google's]
    #[arg(long, value_name = "URL")]
    pub doh: Vec<String>,
    /// Look names up over HTTPS only, never at this machine's name servers
    #[arg(long)]
    pub doh_only: bool,
}

/// How others find and reach a node.
#[derive(Debug, Default, Args)]
pub struct WssArgs {
    /// Also listen for WebSocket over TLS, which gets through where nothing but the web does: a port, or address and port
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "443")]
    pub wss_listen: Option<String>,
    /// Certificate for it, in PEM with its chain; read again when it changes [default: self-signed, with its fingerprint in
    /// the address]
    #[arg(long, value_name = "FILE")]
    pub wss_cert: Option<PathBuf>,
    /// Key of that certificate, in PEM
    #[arg(long, value_name = "FILE")]
    pub wss_key: Option<PathBuf>,
    /// Name that leads to this machine: have an authority issue a certificate for it and renew it in time (ACME), by which
    /// you agree to the authority's terms. Listens on port 443 unless --wss-listen says otherwise
    #[arg(long, value_name = "NAME", conflicts_with_all = ["wss_cert", "wss_key"])]
    pub acme_domain: Option<String>,
    /// Mail address that the authority may write to
    #[arg(long, value_name = "MAIL")]
    pub acme_contact: Option<String>,
    /// Directory of the authority [default: that of Let's Encrypt]
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// Seed of the network, as a multiaddr such as /dnsaddr/seeds.example, or none; may be repeated [default: those of the
    /// public network]
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap_seed: Vec<String>,
}

/// `donor`
#[derive(Debug, Subcommand)]
pub enum DonorCommand {
    /// Lend this machine until this command is stopped
    #[command(after_help = "Examples:\n  worldcompute donor join\n  \
        worldcompute donor join --consent scientific,rendering --slots 2")]
    Join(Box<NodeArgs>),
    /// What this machine is doing, and what stands between guests and it
    Status,
    /// Freeze guests and take no more work
    Pause,
    /// Take work again
    Resume,
    /// Leave the cell, remove every trace that jobs left, and stop
    Leave,
    /// The owner's balance and history, and whether the ledger says the same
    #[command(
        after_help = "Examples:\n  worldcompute donor credits\n  worldcompute donor credits --verify\n\n\
        With --verify every entry of the owner is fetched with a proof, recomputed and added up, against a checkpoint \
        that the cell signed and that continues the one which this machine saw the last time. Exit codes: 0 done or \
        PASS, 1 could not be checked, 2 wrong usage, 3 UNDECIDED: the newest anchor is in a log that this machine does \
        not trust (--trusted-root), 4 FAIL: the ledger does not say what it must, and the message \
        names the entry."
    )]
    Credits(CreditsArgs),
}

/// `donor credits`
#[derive(Debug, Args)]
pub struct CreditsArgs {
    /// Check everything against the ledger, with proofs
    #[arg(long, conflicts_with = "before")]
    pub verify: bool,
    /// Transparency logs to believe when the ledger is anchored, such as Sigstore's trusted_root.json [default: the logs
    /// that this binary pins]
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub trusted_root: Option<PathBuf>,
    /// At most this many entries
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Entries before this one; the newest if none
    #[arg(long, value_name = "ENTRY")]
    pub before: Option<u64>,
    /// Only in this cell, of those that this machine knows [default: the home cell, and every other one that answers]
    #[arg(long, value_name = "CELL")]
    pub cell: Option<String>,
}

/// `job`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job file, or run a module on one named peer
    #[command(
        group = ArgGroup::new("what").required(true).args(["file", "executor"]),
        after_help = "Examples:\n  \
            worldcompute job submit job.yaml --watch\n  \
            worldcompute job submit job.toml --dry-run\n  \
            worldcompute job submit --executor /ip4/192.168.1.7/tcp/7441/p2p/12D3KooW… --workload hello.wasm"
    )]
    Submit(SubmitArgs),
    /// Where a job stands
    Status {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
        /// Stay until it ends
        #[arg(long)]
        watch: bool,
    },
    /// Fetch a job's results
    #[command(
        after_help = "Each task's files go to DIR/<index>/…, its standard output to DIR/<index>/stdout."
    )]
    Results {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
        /// Where they go
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        /// Stage whose results are meant [default: the last]
        #[arg(long, value_name = "NAME")]
        stage: Option<String>,
    },
    /// What replicas wrote to standard error, and how those ended that found no result
    Logs {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
    },
    /// Why a job is not further
    Explain {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
    },
    /// The newest jobs
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Stop a job of yours
    Cancel {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
    },
    /// Fetch the receipts of a job's accepted tasks
    Receipts {
        /// Id of the job, or an unambiguous beginning of it
        #[arg(value_name = "ID")]
        job: String,
        /// Where they go: one `.receipt` and one `.json` for each task
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// `job submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Job file: YAML, JSON or TOML
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Check everything and submit nothing
    #[arg(long, requires = "file")]
    pub dry_run: bool,
    /// Stay until the job ends; with --json, print it once, as it ended
    #[arg(long, requires = "file", conflicts_with = "dry_run")]
    pub watch: bool,
    /// Peer to run a module on directly, outside any job
    #[arg(long, value_name = "MULTIADDR", requires = "workload", conflicts_with = "file")]
    pub executor: Option<String>,
    /// Module to run there
    #[arg(long, value_name = "FILE", requires = "executor")]
    pub workload: Option<PathBuf>,
    /// Network that the peer belongs to, for --executor [default: as for this machine's node]
    #[arg(long, value_name = "NAME", requires = "executor")]
    pub network: Option<String>,
    /// Kind of work, for --executor
    #[arg(long, value_name = "CLASS", default_value = "general")]
    pub class: String,
    /// Ways to the executor
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Arguments of the module, for --executor
    #[arg(last = true, value_name = "ARGS", conflicts_with = "file")]
    pub args: Vec<String>,
}

/// `map`
#[derive(Debug, Args)]
pub struct MapArgs {
    /// WebAssembly module
    #[arg(value_name = "MODULE")]
    pub module: PathBuf,
    /// Files, directories of files, or patterns such as 'data/*.txt'
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Argument of the module; may be repeated
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// Environment of the module, NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub envs: Vec<String>,
    /// Independent runs of each task
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replicas: u8,
    /// Kind of work
    #[arg(long, value_name = "CLASS", default_value = "scientific")]
    pub class: String,
    /// Memory of one task
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub memory: String,
    /// Longest run of one task
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub wall_time: String,
    /// How far apart replicas run: lan, disjoint or machines
    #[arg(long, value_name = "PLACEMENT", default_value = "lan")]
    pub placement: String,
    /// Name of the job [default: the module's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Submit and return; fetch results later with `job results`
    #[arg(long)]
    pub detach: bool,
}

/// `cluster`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// The cell and its nodes
    Status,
    /// Who is connected to this node
    Peers,
    /// The newest entry of the ledger, and how many there are
    LedgerHead,
    /// Who signs the cell's checkpoints
    #[command(
        long_about = "Who signs the cell's checkpoints, and how that goes.\n\n\
            Without `set` it shows the signers. One signer is the coordinator alone; of several, a majority has to sign \
            together, and none of them can sign, or invent credit, without the others.",
        after_help = "Examples:\n  worldcompute cluster signers\n  \
            worldcompute cluster signers set --threshold 2 12D3KooWD9… 12D3KooWNa…"
    )]
    Signers {
        /// What to do; show them if nothing
        #[command(subcommand)]
        command: Option<SignersCommand>,
    },
}

/// `cluster signers`
#[derive(Debug, Subcommand)]
pub enum SignersCommand {
    /// Change the signers: they make a key together, and those before them hand over to it
    #[command(
        long_about = "Change the signers. They make a key together that no machine ever holds whole, show that they can \
            sign with it, and the signers before them hand over. Needs the key of the cell's owner.\n\n\
            The coordinator is always one of the signers; name the others. Each runs with --cosigner and is connected. \
            `--threshold 1` and no node makes the coordinator the only signer again.",
        after_help = "Example, two of three:\n  worldcompute cluster signers set --threshold 2 12D3KooWD9… 12D3KooWNa…"
    )]
    Set {
        /// How many have to sign together: more than half of them
        #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=16))]
        threshold: u16,
        /// The other signers' node ids
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
}

/// `receipt`
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt without a network
    #[command(after_help = "Examples:\n  \
        worldcompute receipt verify receipts/0-00000000.receipt\n  \
        worldcompute receipt verify receipts/*.receipt --checkpoint seen.checkpoint --ledger /srv/log\n\n\
        Exit codes: 0 every receipt is valid, and of one history with the checkpoint if one was given; 1 a file cannot \
        be read; 2 wrong usage; 3 valid by itself, but nothing here proves that it and the checkpoint are of one \
        history: give --ledger; 4 a receipt is not valid, or its history or its cell is another.")]
    Verify {
        /// Receipt files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Checkpoint that was seen before: the receipt must be of the same history
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Published ledger to take the proof from, and the checkpoint if none is given: a directory or http://…
        #[arg(long, value_name = "DIR|URL")]
        ledger: Option<String>,
    },
}

/// `ledger`
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// The newest published checkpoint: size, root, who signed, who cosigned
    #[command(
        after_help = "Examples:\n  worldcompute ledger head\n  worldcompute ledger head --ledger http://203.0.113.7:8080\n  \
        worldcompute ledger head --save seen.checkpoint"
    )]
    Head {
        /// Published ledger to read instead of asking this machine's node: a directory or http://…
        #[arg(long, value_name = "DIR|URL")]
        ledger: Option<String>,
        /// Keep the signed checkpoint in this file, for `receipt verify --checkpoint`
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
    },
    /// Check a published ledger from its first entry to its last
    #[command(after_help = "Examples:\n  worldcompute ledger verify ~/.worldcompute/log\n  \
        worldcompute ledger verify http://203.0.113.7:8080 --checkpoint seen.checkpoint\n\n\
        Reads every entry and every tile: entries link, each moves only what its kind may, nobody is overdrawn, every \
        hash is right, the root is the one that the cell signed, and the signers are those to whom the log was handed \
        over. Needs no node. Exit codes: 0 sound; 1 it cannot be read; 2 wrong usage; 3 sound, but the checkpoint was \
        signed by nobody whom the ledger knows yet; 4 not sound.")]
    Verify {
        /// Directory or http://…
        #[arg(value_name = "DIR|URL")]
        ledger: String,
        /// Checkpoint that was seen before: the ledger must continue it
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Check a witness's evidence of two checkpoints that do not fit
    #[command(
        after_help = "Exit codes: 0 it proves that the cell signed two histories; 1 it cannot be read; \
        2 wrong usage; 3 it proves nothing yet; 4 it is no evidence."
    )]
    Evidence {
        /// Evidence file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Replay this coordinator's journal from its first fact, and compare with everything kept beside it
    #[command(after_help = "Example:\n  worldcompute node stop\n  worldcompute ledger replay\n\n\
        Needs the data directory of a coordinator whose node does not run. Compares snapshot, entries, hashes of the \
        log, balances and every file of the published ledger, those of earlier checkpoints included; a file that does \
        not belong there is named. Exit codes: 0 everything is what the journal gives, 1 \
        the journal cannot be read, and the message names the row, 2 wrong usage, 4 something differs or is damaged.")]
    Replay,
    /// Anchors: checkpoints of the ledger in a log outside of the cell
    #[command(
        long_about = "Anchors: checkpoints of the ledger in a transparency log outside of the cell, which the cell cannot \
            take back. Without a verb, lists them.",
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  \
            worldcompute ledger anchors\n  \
            worldcompute ledger anchors export 12 --output anchor.json\n  \
            worldcompute ledger anchors verify anchor.json\n  \
            worldcompute ledger anchors clear 13"
    )]
    Anchors(AnchorsArgs),
}

/// `ledger anchors`
#[derive(Debug, Args)]
pub struct AnchorsArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: Option<AnchorsCommand>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// `ledger anchors …`
#[derive(Debug, Subcommand)]
pub enum AnchorsCommand {
    /// Check an anchor file without a network
    #[command(
        long_about = "Check an anchor file without a network: that a log which the trusted root names holds it, by the \
            log's own signatures, and that it is about the checkpoint in the file.\n\n\
            Entries of rekor-v2 hold no moment; the key of the log then has to be valid now, or at the moment of --at."
    )]
    Verify {
        /// Anchor files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Trusted root, such as Sigstore's trusted_root.json [default: the logs that this binary pins]
        #[arg(long, value_name = "FILE")]
        trusted_root: Option<PathBuf>,
        /// Key that must have signed the checkpoint, as name+id+key
        #[arg(long, value_name = "KEY")]
        cell_key: Option<String>,
        /// Moment at which the anchor is known to have existed, such as 2026-08-20T12:00:00Z [default: now]
        #[arg(long, value_name = "MOMENT")]
        at: Option<String>,
    },
    /// Write an anchor to a file that anybody can check offline
    Export {
        /// Number of the anchor
        #[arg(value_name = "ID")]
        id: u64,
        /// Where it goes
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Say that a flagged anchor was looked at; for the operator of the coordinator
    Clear {
        /// Number of the anchor
        #[arg(value_name = "ID")]
        id: u64,
    },
}

//! Settings: defaults, then `<data dir>/config.toml`, then the environment, then flags.
//!
//! Every environment variable that this program reads is in [`VARIABLES`]; each but the first has a key of the same
//! name in the file.

mod reach;
mod transport;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use wc_host::DataDir;
use wc_ledger::anchor::AnchorPolicy;
use wc_ledger::rekor::{Api, DOCUMENT_BYTES_MAX};
use wc_ledger::{RekorError, TrustedRoot};
use wc_types::manifest::WorkClass;
use wc_types::{Bytes, Class, Code, Millis, Refusal};

use crate::amount;
use crate::cli::{Global, NodeArgs, TransportArgs};
use crate::client::Failure;
use crate::document::{self, Format};
use crate::exit::Usage;
use crate::fields::{self, Faults, Fields, nearest, syntax_refusal};
use crate::node::{AnchoringConfig, Coordinate, ReachSettings, TransportConfig};
use reach::ReachLayer;
use transport::TransportLayer;

/// Where the data directory is, unless `--data-dir` says so.
pub const HOME: &str = "WORLDCOMPUTE_HOME";
const PREFIX: &str = "WORLDCOMPUTE_";

/// Every environment variable and its meaning. Lists are separated by commas.
pub const VARIABLES: [(&str, &str); 49] = [
    (HOME, "data directory"),
    ("WORLDCOMPUTE_LOG", "what to log, as --log"),
    ("WORLDCOMPUTE_NETWORK", "name of the network"),
    ("WORLDCOMPUTE_LISTEN", "multiaddrs to listen on, or none"),
    ("WORLDCOMPUTE_JOIN", "multiaddrs of nodes to join through"),
    ("WORLDCOMPUTE_SLOTS", "guests at the same time"),
    ("WORLDCOMPUTE_CONSENT", "classes of work to consent to"),
    ("WORLDCOMPUTE_CELLS", "cells of the network to work for at most, the home cell included"),
    (
        "WORLDCOMPUTE_ISLAND_AFTER",
        "how long the home cell may be out of reach before an island is founded, such as 5m",
    ),
    ("WORLDCOMPUTE_COORDINATE", "auto, always or never"),
    ("WORLDCOMPUTE_TRUSTED", "true if the nodes of a cell that this node founds are trusted"),
    ("WORLDCOMPUTE_KEEP_RESULTS", "how long a cell that this node founds keeps results, such as 36h"),
    ("WORLDCOMPUTE_ACCEPT_DIRECT", "true to run modules that others send straight to this node"),
    ("WORLDCOMPUTE_COSIGNER", "true to hold a share of the key that signs checkpoints"),
    ("WORLDCOMPUTE_WITNESS", "true to cosign the growth of the cell's ledger"),
    ("WORLDCOMPUTE_LOG_LISTEN", "address at which the published ledger is served over http"),
    ("WORLDCOMPUTE_STORAGE_CAP", "most room for blobs"),
    ("WORLDCOMPUTE_OWNER_KEY", "key file of this machine's owner"),
    ("WORLDCOMPUTE_ANCHOR", "rekor-v1, rekor-v2 or off"),
    ("WORLDCOMPUTE_ANCHOR_URL", "where the log is that checkpoints are anchored in; also REKOR_URL"),
    ("WORLDCOMPUTE_ANCHOR_INTERVAL", "from one anchor to the next"),
    ("WORLDCOMPUTE_ANCHOR_AUTHORITIES", "certificates that the log's must come from"),
    ("WORLDCOMPUTE_ANCHOR_PROXY", "HTTP proxy to reach the log through"),
    ("WORLDCOMPUTE_TRUSTED_ROOT", "file of the logs and keys to believe"),
    ("WORLDCOMPUTE_BOOTSTRAP_SEEDS", "multiaddrs of the network's seeds, or none"),
    ("WORLDCOMPUTE_PROXY", "http://[user:password@]host:port, or off; also HTTPS_PROXY and ALL_PROXY"),
    ("WORLDCOMPUTE_NO_PROXY", "what is reached without the proxy; also NO_PROXY"),
    ("WORLDCOMPUTE_ALLOW_SSL_INSPECTION", "true to connect although somebody reads along"),
    ("WORLDCOMPUTE_INSPECTION_AUTHORITIES", "certificates of those who may, instead of this machine's store"),
    ("WORLDCOMPUTE_TLS_AUTHORITIES", "certificates to believe like the public authorities"),
    ("WORLDCOMPUTE_DOH", "servers for DNS over HTTPS"),
    ("WORLDCOMPUTE_DOH_ONLY", "true to ask nobody else"),
    ("WORLDCOMPUTE_WSS_LISTEN", "port for WebSocket over TLS"),
    ("WORLDCOMPUTE_WSS_CERT", "its certificate"),
    ("WORLDCOMPUTE_WSS_KEY", "the certificate's key"),
    ("WORLDCOMPUTE_ACME_DOMAIN", "name to have a certificate issued for"),
    ("WORLDCOMPUTE_ACME_CONTACT", "mail address that the authority may write to"),
    ("WORLDCOMPUTE_ACME_DIRECTORY", "directory of the authority"),
    ("WORLDCOMPUTE_EXTERNAL_ADDRESSES", "multiaddrs at which everybody can dial this node"),
    ("WORLDCOMPUTE_RESERVATIONS", "when to hold reservations on relays: auto, always or never"),
    ("WORLDCOMPUTE_PORT_MAPPING", "true to ask the router to forward ports"),
    ("WORLDCOMPUTE_LAN", "false to look for no nodes on this machine and its LAN"),
    ("WORLDCOMPUTE_RELAY", "true to relay for others"),
    ("WORLDCOMPUTE_RELAY_RESERVATIONS", "nodes that a relay holds a place for"),
    ("WORLDCOMPUTE_RELAY_CIRCUITS", "circuits through a relay at the same time"),
    ("WORLDCOMPUTE_RELAY_CIRCUIT_TIME", "life of a circuit"),
    ("WORLDCOMPUTE_RELAY_CIRCUIT_SIZE", "bytes through one circuit"),
    ("WORLDCOMPUTE_RELAY_RATE", "bytes per second through a relay"),
    ("WORLDCOMPUTE_RELAY_PEER_RATE", "the same for one peer"),
];

/// Keys of `config.toml`.
const KEYS: [&str; 48] = [
    "log",
    "network",
    "listen",
    "join",
    "slots",
    "consent",
    "cells",
    "island_after",
    "coordinate",
    "trusted",
    "keep_results",
    "accept_direct",
    "cosigner",
    "witness",
    "log_listen",
    "storage_cap",
    "owner_key",
    "anchor",
    "anchor_url",
    "anchor_interval",
    "anchor_authorities",
    "anchor_proxy",
    "trusted_root",
    "bootstrap_seeds",
    "proxy",
    "no_proxy",
    "allow_ssl_inspection",
    "inspection_authorities",
    "tls_authorities",
    "doh",
    "doh_only",
    "wss_listen",
    "wss_cert",
    "wss_key",
    "acme_domain",
    "acme_contact",
    "acme_directory",
    "external_addresses",
    "reservations",
    "port_mapping",
    "lan",
    "relay",
    "relay_reservations",
    "relay_circuits",
    "relay_circuit_time",
    "relay_circuit_size",
    "relay_rate",
    "relay_peer_rate",
];

/// Network of everybody who did not choose another.
pub const NETWORK_DEFAULT: &str = "worldcompute";
const STORAGE_CAP_DEFAULT: Bytes = Bytes(10 << 30);
const COORDINATES: [(&str, Coordinate); 3] =
    [("auto", Coordinate::Auto), ("always", Coordinate::Always), ("never", Coordinate::Never)];
const ANCHORS: [(&str, Option<Api>); 3] =
    [("rekor-v1", Some(Api::V1)), ("rekor-v2", Some(Api::V2)), ("off", None)];
/// The public log of each protocol. That of v2 changes about twice a year: then `anchor_url` and a trusted root name the
/// next one.
const PUBLIC_LOGS: [(Api, &str); 2] =
    [(Api::V1, "https://rekor.sigstore.dev"), (Api::V2, "https://log2025-1.rekor.sigstore.dev")];
/// Shortest and longest time between two anchors.
const ANCHOR_INTERVAL: (Millis, Millis) = (Millis(1000), Millis(7 * 24 * 60 * 60 * 1000));
/// The log's address under the name that other programs use; it counts less than ours.
const REKOR_URL: &str = "REKOR_URL";
/// Most guests at the same time.
const SLOTS_MAX: u16 = 1024;
const CELLS_MAX: u16 = wc_proto::limit::CELLS_MAX as u16;
/// Longer than a coordinator takes to restart or a router to come back, shorter than people wait with their work.
const ISLAND_AFTER: Millis = Millis(5 * 60_000);

/// A setting in the environment is wrong.
const ENVIRONMENT: Code = Code::new("WC-CONFIG-001", Class::Caller);

/// What every command knows.
#[derive(Debug)]
pub struct Context {
    /// The node's directory.
    pub dir: DataDir,
    /// Whether data is printed as JSON.
    pub json: bool,
    /// What to log, if anybody said.
    pub log: Option<String>,
    layer: Layer,
}

/// Settings of a node, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the network.
    pub network: String,
    /// Multiaddrs to listen on; `None` for the node's own choice.
    pub listen: Option<Vec<String>>,
    /// Multiaddrs of nodes to join through.
    pub join: Vec<String>,
    /// Guests at the same time; `None` for the node's own choice.
    pub slots: Option<u16>,
    /// Classes consented to.
    pub consents: Vec<WorkClass>,
    /// Most cells to work for.
    pub cells: u16,
    /// How long the home cell is waited for before this node founds an island.
    pub island_after: Millis,
    /// Whether this node founds cells.
    pub coordinate: Coordinate,
    /// Whether the nodes of such a cell are trusted.
    pub trusted: bool,
    /// How long such a cell keeps results, if the owner chose.
    pub keep_results: Option<Millis>,
    /// Whether direct dispatch is accepted.
    pub accept_direct: bool,
    /// Whether this node signs checkpoints with others.
    pub cosigner: bool,
    /// Whether this node witnesses its cell's ledger.
    pub witness: bool,
    /// Where the published ledger is served over HTTP.
    pub log_listen: Option<SocketAddr>,
    /// Most bytes of blobs.
    pub storage_cap: Bytes,
    /// The owner's key file, if not in the data directory.
    pub owner_key: Option<PathBuf>,
    /// Where checkpoints are anchored, if they are.
    pub anchoring: Option<AnchorSettings>,
    /// Multiaddrs of the network's seeds.
    pub bootstrap: Vec<String>,
    /// Multiaddrs to listen on for WebSockets, beside `listen`.
    pub wss_listen: Vec<String>,
    reach: ReachLayer,
    transport: TransportLayer,
}

/// Settings of anchoring; the files that they name are not read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorSettings {
    api: Api,
    url: Option<String>,
    interval: Millis,
    authorities: Option<PathBuf>,
    proxy: Option<String>,
    trusted_root: Option<PathBuf>,
}

/// What one source of settings says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layer {
    log: Option<String>,
    network: Option<String>,
    listen: Option<Vec<String>>,
    join: Option<Vec<String>>,
    slots: Option<u16>,
    consents: Option<Vec<WorkClass>>,
    cells: Option<u16>,
    island_after: Option<Millis>,
    coordinate: Option<Coordinate>,
    trusted: Option<bool>,
    keep_results: Option<Millis>,
    accept_direct: Option<bool>,
    cosigner: Option<bool>,
    witness: Option<bool>,
    log_listen: Option<SocketAddr>,
    storage_cap: Option<Bytes>,
    owner_key: Option<PathBuf>,
    // The outer option says whether anybody said anything, the inner one whether it is on.
    anchor: Option<Option<Api>>,
    anchor_url: Option<String>,
    anchor_interval: Option<Millis>,
    anchor_authorities: Option<PathBuf>,
    anchor_proxy: Option<String>,
    trusted_root: Option<PathBuf>,
    reach: ReachLayer,
    transport: TransportLayer,
}

impl Layer {
    /// Returns what `self` says, and what `below` says where it says nothing.
    fn over(self, below: Self) -> Self {
        Self {
            log: self.log.or(below.log),
            network: self.network.or(below.network),
            listen: self.listen.or(below.listen),
            join: self.join.or(below.join),
            slots: self.slots.or(below.slots),
            consents: self.consents.or(below.consents),
            cells: self.cells.or(below.cells),
            island_after: self.island_after.or(below.island_after),
            coordinate: self.coordinate.or(below.coordinate),
            trusted: self.trusted.or(below.trusted),
            keep_results: self.keep_results.or(below.keep_results),
            accept_direct: self.accept_direct.or(below.accept_direct),
            cosigner: self.cosigner.or(below.cosigner),
            witness: self.witness.or(below.witness),
            log_listen: self.log_listen.or(below.log_listen),
            storage_cap: self.storage_cap.or(below.storage_cap),
            owner_key: self.owner_key.or(below.owner_key),
            anchor: self.anchor.or(below.anchor),
            anchor_url: self.anchor_url.or(below.anchor_url),
            anchor_interval: self.anchor_interval.or(below.anchor_interval),
            anchor_authorities: self.anchor_authorities.or(below.anchor_authorities),
            anchor_proxy: self.anchor_proxy.or(below.anchor_proxy),
            trusted_root: self.trusted_root.or(below.trusted_root),
            reach: self.reach.over(below.reach),
            transport: self.transport.over(below.transport),
        }
    }
}

impl Context {
    /// Resolves what every command needs, from the command line, the environment and the file.
    ///
    /// # Errors
    /// When the environment or the file says something that cannot be.
    pub fn resolve(global: &Global, variables: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let path = match (&global.data_dir, variables.get(HOME), variables.get("HOME")) {
            (Some(dir), _, _) => dir.clone(),
            (None, Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
            (None, _, Some(home)) if !home.is_empty() => Path::new(home).join(".worldcompute"),
            _ => {
                return Err(Usage {
                    message: "where is the data directory? HOME is not set".to_owned(),
                    hint: format!("give --data-dir, or set {HOME}"),
                }
                .into());
            }
        };
        let dir = DataDir::new(&path)?;
        let layer = environment(variables)?.over(file(&dir.config())?);
        let log = global.log.clone().or_else(|| layer.log.clone());
        Ok(Self { dir, json: global.json, log, layer })
    }

    /// Returns the owner's key file, if a setting names one outside the data directory.
    pub fn owner_key(&self) -> Option<PathBuf> {
        self.layer.owner_key.clone()
    }

    /// Returns the name of the network that this machine belongs to.
    pub fn network(&self) -> String {
        self.layer.network.clone().unwrap_or_else(|| NETWORK_DEFAULT.to_owned())
    }

    /// Resolves the settings of a node.
    ///
    /// # Errors
    /// When a flag says something that cannot be.
    pub fn settings(&self, args: &NodeArgs) -> anyhow::Result<Settings> {
        let layer = flags(args)?.over(self.layer.clone());
        let network = layer.network.unwrap_or_else(|| self.network());
        let joins = layer.join.as_ref().is_some_and(|join| !join.is_empty());
        Ok(Settings {
            bootstrap: layer.transport.seeds(&network, joins),
            wss_listen: layer.transport.wss_listen(),
            network,
            listen: layer.listen.map(|listen| if listen == ["none"] { Vec::new() } else { listen }),
            join: layer.join.unwrap_or_default(),
            slots: layer.slots,
            // A donor who says nothing lends its machine to everything that the acceptable-use rules allow.
            consents: layer.consents.unwrap_or_else(|| WorkClass::ALL.to_vec()),
            cells: layer.cells.unwrap_or(CELLS_MAX),
            island_after: layer.island_after.unwrap_or(ISLAND_AFTER),
            coordinate: layer.coordinate.unwrap_or(Coordinate::Auto),
            trusted: layer.trusted.unwrap_or(false),
            keep_results: layer.keep_results,
            accept_direct: layer.accept_direct.unwrap_or(false),
            cosigner: layer.cosigner.unwrap_or(false),
            witness: layer.witness.unwrap_or(false),
            log_listen: layer.log_listen,
            storage_cap: layer.storage_cap.unwrap_or(STORAGE_CAP_DEFAULT),
            owner_key: layer.owner_key,
            anchoring: layer.anchor.flatten().map(|api| AnchorSettings {
                api,
                url: layer.anchor_url,
                interval: layer.anchor_interval.unwrap_or(AnchorPolicy::DEFAULT.interval),
                authorities: layer.anchor_authorities,
                proxy: layer.anchor_proxy,
                trusted_root: layer.trusted_root,
            }),
            reach: layer.reach,
            transport: layer.transport,
        })
    }

    /// Returns the network that this machine belongs to, and where to look for it first.
    pub fn network_and_seeds(&self) -> (String, Vec<String>) {
        let network = self.network();
        let mut addresses = self.layer.join.clone().unwrap_or_default();
        addresses.extend(self.layer.transport.seeds(&network, !addresses.is_empty()));
        (network, addresses)
    }

    /// Resolves how a command of its own, without a node, reaches others.
    ///
    /// # Errors
    /// When a flag says something that cannot be, or a file cannot be read.
    pub fn transport(&self, args: &TransportArgs) -> anyhow::Result<TransportConfig> {
        transport::flags(args, None)?.over(self.layer.transport.clone()).read()
    }
}

impl Settings {
    /// Returns how others reach the node.
    pub fn reach(&self) -> ReachSettings {
        let mut settings = self.reach.settings();
        if let Some(named) = self.transport.named_address() {
            // What somebody says of the same name counts more.
            let domain = named.split('/').nth(2).unwrap_or_default();
            if !settings.external.iter().any(|address| address.split('/').any(|part| part == domain)) {
                settings.external.push(named);
            }
        }
        settings
    }

    /// Returns how the node of `dir` reaches others, with the files that the settings name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn transport(&self, dir: &DataDir) -> anyhow::Result<TransportConfig> {
        let mut config = self.transport.read()?;
        config.certificate = self.transport.certificate(dir.path());
        Ok(config)
    }
}

impl AnchorSettings {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// When one cannot be read, or nobody said where the log is.
    pub fn read(&self) -> anyhow::Result<AnchoringConfig> {
        let trusted_root = trusted_root(self.trusted_root.as_deref())?;
        let authorities_pem = self.authorities.as_deref().map(small_file).transpose()?;
        let public = PUBLIC_LOGS.iter().find(|(api, _)| *api == self.api).map(|(_, url)| *url);
        // The public log is the default where it is believed; a trusted root of one's own with one log names it.
        let believed = public.filter(|url| trusted_root.logs().iter().any(|log| log.base_url == *url));
        let url = match (&self.url, believed, trusted_root.logs()) {
            (Some(url), ..) => url.clone(),
            (None, Some(url), _) => url.to_owned(),
            (None, None, [only]) => only.base_url.clone(),
            (None, None, _) => {
                return Err(Usage {
                    message: "where is the log to anchor in? The trusted root does not name the public one"
                        .to_owned(),
                    hint: "give --anchor-url".to_owned(),
                }
                .into());
            }
        };
        Ok(AnchoringConfig {
            api: self.api,
            url,
            trusted_root,
            interval: self.interval,
            authorities_pem,
            proxy: self.proxy.clone(),
        })
    }
}

/// Reads a trusted root, or returns the pinned one.
///
/// # Errors
/// When the file cannot be read, or no log can be believed.
pub fn trusted_root(path: Option<&Path>) -> anyhow::Result<TrustedRoot> {
    let root = match path {
        Some(path) => TrustedRoot::from_json(&small_file(path)?),
        None => Ok(TrustedRoot::pinned()),
    };
    let root =
        root.and_then(|root| if root.logs().is_empty() { Err(RekorError::EmptyRoot) } else { Ok(root) });
    root.map_err(|error| {
        let name = path.map_or_else(|| "this build".to_owned(), |path| path.display().to_string());
        let refusal = Refusal::new(error.code(), format!("{name}: {error}"));
        Failure(vec![refusal.hint("give a trusted root such as Sigstore's trusted_root.json")]).into()
    })
}

fn small_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let message = format!("{} cannot be read: {error}", path.display());
            Failure(vec![Refusal::new(fields::FILE, message)])
        })?;
    Ok(bytes)
}

/// Reads one class by name.
///
/// # Errors
/// A sentence that lists the classes.
pub fn class(name: &str) -> Result<WorkClass, String> {
    WorkClass::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| {
        let names: Vec<&str> = WorkClass::ALL.iter().map(|class| class.name()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn consents(text: &str) -> Result<Vec<WorkClass>, String> {
    match text.trim() {
        "all" => Ok(WorkClass::ALL.to_vec()),
        "none" | "" => Ok(Vec::new()),
        names => {
            let mut classes = names
                .split(',')
                .map(|name| class(name.trim()).map_err(|rule| format!("{rule}, or `all` or `none`")))
                .collect::<Result<Vec<_>, _>>()?;
            classes.sort();
            classes.dedup();
            Ok(classes)
        }
    }
}

fn cells(text: &str) -> Result<u16, String> {
    let cells = text.trim().parse::<u16>().ok().filter(|cells| (1..=CELLS_MAX).contains(cells));
    cells.ok_or_else(|| format!("must be 1 to {CELLS_MAX}"))
}

fn coordinate(text: &str) -> Result<Coordinate, String> {
    let found = COORDINATES.iter().find(|(name, _)| *name == text);
    found.map(|(_, when)| *when).ok_or_else(|| "must be auto, always or never".to_owned())
}

fn network(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty()
        && text.len() <= wc_proto::limit::NETWORK_BYTES_MAX
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let rule = "must be 1 to 64 characters of a-z A-Z 0-9 . _ -";
    if is_plain { Ok(text.to_owned()) } else { Err(rule.to_owned()) }
}

fn slots(text: &str) -> Result<u16, String> {
    let slots = text.trim().parse::<u16>().ok().filter(|slots| *slots <= SLOTS_MAX);
    slots.ok_or_else(|| format!("must be 0 to {SLOTS_MAX}"))
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn anchor(text: &str) -> Result<Option<Api>, String> {
    let found = ANCHORS.iter().find(|(name, _)| *name == text);
    found.map(|(_, api)| *api).ok_or_else(|| "must be rekor-v1, rekor-v2 or off".to_owned())
}

fn interval(text: &str) -> Result<Millis, String> {
    let interval = amount::duration(text)?;
    let rule = || "must be from 1s to 7d".to_owned();
    if (ANCHOR_INTERVAL.0..=ANCHOR_INTERVAL.1).contains(&interval) { Ok(interval) } else { Err(rule()) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned())
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn flags(args: &NodeArgs) -> Result<Layer, Usage> {
    fn read<T>(
        name: &str,
        value: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Usage> {
        let Some(text) = value else { return Ok(None) };
        parse(text).map(Some).map_err(|rule| Usage {
            message: format!("--{name} {rule}, but is `{text}`"),
            hint: "see --help".to_owned(),
        })
    }
    let several = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
    if args.slots.is_some_and(|slots| slots > SLOTS_MAX) {
        return Err(Usage {
            message: format!("--slots must be 0 to {SLOTS_MAX}"),
            hint: "leave it out for one guest on each core but one".to_owned(),
        });
    }
    Ok(Layer {
        log: None,
        network: read("network", args.network.as_ref(), network)?,
        listen: several(&args.listen),
        join: several(&args.join),
        slots: args.slots,
        consents: read("consent", args.consent.as_ref(), consents)?,
        cells: read("cells", args.cells.as_ref(), cells)?,
        island_after: read("island-after", args.island_after.as_ref(), amount::duration)?,
        coordinate: read("coordinate", args.coordinate.as_ref(), coordinate)?,
        trusted: args.trusted.then_some(true),
        keep_results: read("keep-results", args.keep_results.as_ref(), amount::duration)?,
        accept_direct: args.accept_direct.then_some(true),
        cosigner: args.cosigner.then_some(true),
        witness: args.witness.then_some(true),
        log_listen: read("log-listen", args.log_listen.as_ref(), address)?,
        storage_cap: read("storage-cap", args.storage_cap.as_ref(), amount::size)?,
        owner_key: args.owner_key.clone(),
        anchor: read("anchor", args.anchor.as_ref(), anchor)?,
        anchor_url: args.anchor_url.clone(),
        anchor_interval: read("anchor-interval", args.anchor_interval.as_ref(), interval)?,
        anchor_authorities: args.anchor_authorities.clone(),
        anchor_proxy: args.anchor_proxy.clone(),
        trusted_root: args.trusted_root.clone(),
        reach: reach::flags(&args.reach, &args.limits, args.relay)?,
        transport: transport::flags(&args.transport, Some(&args.wss))?,
    })
}

fn environment(variables: &BTreeMap<String, String>) -> Result<Layer, Failure> {
    fn read<T>(
        variables: &BTreeMap<String, String>,
        name: &str,
        wrong: &mut Vec<Refusal>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = variables.get(name)?;
        let parsed = parse(text);
        if let Err(rule) = &parsed {
            let message = format!("the environment variable {name} {rule}, but is `{text}`");
            wrong.push(Refusal::new(ENVIRONMENT, message));
        }
        parsed.ok()
    }
    let known = VARIABLES.map(|(name, _)| name);
    let mut wrong = Vec::new();
    for name in variables.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str())) {
        let message = format!("the environment variable {name} means nothing");
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known: {}", known.join(", ")),
        };
        wrong.push(Refusal::new(ENVIRONMENT, message).hint(hint));
    }
    let text = |name: &str| variables.get(name).filter(|text| !text.is_empty()).cloned();
    let layer = Layer {
        log: text("WORLDCOMPUTE_LOG"),
        network: read(variables, "WORLDCOMPUTE_NETWORK", &mut wrong, network),
        listen: text("WORLDCOMPUTE_LISTEN").map(|text| list(&text)),
        join: text("WORLDCOMPUTE_JOIN").map(|text| list(&text)),
        slots: read(variables, "WORLDCOMPUTE_SLOTS", &mut wrong, slots),
        consents: read(variables, "WORLDCOMPUTE_CONSENT", &mut wrong, consents),
        cells: read(variables, "WORLDCOMPUTE_CELLS", &mut wrong, cells),
        island_after: read(variables, "WORLDCOMPUTE_ISLAND_AFTER", &mut wrong, amount::duration),
        coordinate: read(variables, "WORLDCOMPUTE_COORDINATE", &mut wrong, coordinate),
        trusted: read(variables, "WORLDCOMPUTE_TRUSTED", &mut wrong, flag),
        keep_results: read(variables, "WORLDCOMPUTE_KEEP_RESULTS", &mut wrong, amount::duration),
        accept_direct: read(variables, "WORLDCOMPUTE_ACCEPT_DIRECT", &mut wrong, flag),
        cosigner: read(variables, "WORLDCOMPUTE_COSIGNER", &mut wrong, flag),
        witness: read(variables, "WORLDCOMPUTE_WITNESS", &mut wrong, flag),
        log_listen: read(variables, "WORLDCOMPUTE_LOG_LISTEN", &mut wrong, address),
        storage_cap: read(variables, "WORLDCOMPUTE_STORAGE_CAP", &mut wrong, amount::size),
        owner_key: text("WORLDCOMPUTE_OWNER_KEY").map(PathBuf::from),
        anchor: read(variables, "WORLDCOMPUTE_ANCHOR", &mut wrong, anchor),
        anchor_url: text("WORLDCOMPUTE_ANCHOR_URL").or_else(|| text(REKOR_URL)),
        anchor_interval: read(variables, "WORLDCOMPUTE_ANCHOR_INTERVAL", &mut wrong, interval),
        anchor_authorities: text("WORLDCOMPUTE_ANCHOR_AUTHORITIES").map(PathBuf::from),
        anchor_proxy: text("WORLDCOMPUTE_ANCHOR_PROXY"),
        trusted_root: text("WORLDCOMPUTE_TRUSTED_ROOT").map(PathBuf::from),
        reach: reach::environment(variables, &mut wrong),
        transport: transport::environment(variables, &mut wrong),
    };
    if wrong.is_empty() { Ok(layer) } else { Err(Failure(wrong)) }
}

fn file(path: &Path) -> Result<Layer, Failure> {
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Layer::default());
        }
        Err(error) => {
            let message = format!("the settings {name} cannot be read: {error}");
            return Err(Failure(vec![Refusal::new(fields::FILE, message)]));
        }
    };
    let root = document::parse(&text, Format::Toml)
        .map_err(|error| Failure(vec![syntax_refusal(&name, Format::Toml.name(), &error)]))?;
    let mut faults = Faults::default();
    let layer = Fields::open(&root, "", &KEYS, &mut faults).map(|fields| {
        let several = |key: &str, faults: &mut Faults| {
            let words = fields.words(key, faults);
            fields.find(key).map(|_| words)
        };
        Layer {
            log: fields.text("log", &mut faults).map(str::to_owned),
            network: fields.amount("network", network, &mut faults),
            listen: several("listen", &mut faults),
            join: several("join", &mut faults),
            slots: fields.whole("slots", 0..=SLOTS_MAX, &mut faults),
            consents: several("consent", &mut faults).and_then(|words| {
                consents(&words.join(","))
                    .map_err(|rule| {
                        let node = fields.find("consent").unwrap_or(fields.node());
                        faults.add(fields::OUT_OF_RANGE, "consent", rule, node);
                    })
                    .ok()
            }),
            cells: fields.whole("cells", 1..=CELLS_MAX, &mut faults),
            island_after: fields.amount("island_after", amount::duration, &mut faults),
            coordinate: fields.choice("coordinate", &COORDINATES, &mut faults),
            trusted: fields.flag("trusted", &mut faults),
            keep_results: fields.amount("keep_results", amount::duration, &mut faults),
            accept_direct: fields.flag("accept_direct", &mut faults),
            cosigner: fields.flag("cosigner", &mut faults),
            witness: fields.flag("witness", &mut faults),
            log_listen: fields.amount("log_listen", address, &mut faults),
            storage_cap: fields.amount("storage_cap", amount::size, &mut faults),
            owner_key: fields.text("owner_key", &mut faults).map(PathBuf::from),
            anchor: fields.choice("anchor", &ANCHORS, &mut faults),
            anchor_url: fields.text("anchor_url", &mut faults).map(str::to_owned),
            anchor_interval: fields.amount("anchor_interval", interval, &mut faults),
            anchor_authorities: fields.text("anchor_authorities", &mut faults).map(PathBuf::from),
            anchor_proxy: fields.text("anchor_proxy", &mut faults).map(str::to_owned),
            trusted_root: fields.text("trusted_root", &mut faults).map(PathBuf::from),
            reach: reach::file(&fields, &mut faults),
            transport: transport::file(&fields, &mut faults),
        }
    });
    match layer {
        Some(layer) if faults.is_empty() => Ok(layer),
        _ => Err(Failure(faults.into_refusals(&name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn global(dir: &Path) -> Global {
        Global { data_dir: Some(dir.to_owned()), json: false, log: None }
    }

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn message(error: &anyhow::Error) -> String {
        exit::render(&exit::refusals(error))
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = "network = \"file\"\nslots = 1\nconsent = [\"rendering\"]\nstorage_cap = \"1GiB\"\n";
        fs::write(dir.path().join("config.toml"), config).expect("writes");
        let environment = variables(&[("WORLDCOMPUTE_NETWORK", "env"), ("WORLDCOMPUTE_SLOTS", "2")]);
        let context = Context::resolve(&global(dir.path()), &environment).expect("resolves");
        let args = NodeArgs { network: Some("flag".to_owned()), ..NodeArgs::default() };
        let settings = context.settings(&args).expect("resolves");
        assert_eq!((&*settings.network, settings.slots), ("flag", Some(2)));
        assert_eq!(settings.consents, [WorkClass::Rendering]);
        assert_eq!(settings.storage_cap, Bytes(1 << 30));
        assert_eq!(settings.coordinate, Coordinate::Auto);
    }

    #[test]
    fn a_wrong_setting_is_named_wherever_it_stands() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cases = [
            ("netwrok = \"x\"\n", "did you mean `network`?"),
            ("slots = \"many\"\n", "`slots` must be a whole number"),
            ("slots = 5000\n", "must be 0 to 1024"),
            ("consent = [\"mining\"]\n", "must be one of scientific"),
            ("coordinate = \"allways\"\n", "did you mean `always`?"),
            ("storage_cap = \"lots\"\n", "must be a size"),
            ("network = \"a b\"\n", "must be 1 to 64 characters"),
            ("trusted = 1\n", "must be true or false"),
            ("slots = \n", "not valid TOML"),
        ];
        for (text, expected) in cases {
            fs::write(dir.path().join("config.toml"), text).expect("writes");
            let error = Context::resolve(&global(dir.path()), &variables(&[])).expect_err(text);
            let message = message(&error);
            assert!(message.contains(expected) && message.contains("line 1"), "{text}: {message}");
        }
        fs::remove_file(dir.path().join("config.toml")).expect("removes");
        for (name, value, expected) in [
            ("WORLDCOMPUTE_SLOTS", "x", "must be 0 to 1024"),
            ("WORLDCOMPUTE_NETWROK", "x", "did you mean WORLDCOMPUTE_NETWORK?"),
            ("WORLDCOMPUTE_TRUSTED", "maybe", "must be true or false"),
        ] {
            let error = Context::resolve(&global(dir.path()), &variables(&[(name, value)])).expect_err(name);
            assert!(message(&error).contains(expected), "{}", message(&error));
        }
        let context = Context::resolve(&global(dir.path()), &variables(&[])).expect("resolves");
        let args = NodeArgs { consent: Some("x".to_owned()), ..NodeArgs::default() };
        assert!(context.settings(&args).expect_err("wrong").is::<Usage>());
    }

    #[test]
    fn the_directory_comes_from_the_flag_then_the_environment_then_home() {
        let resolve = |flag: Option<&str>, pairs: &[(&str, &str)]| {
            let global = Global { data_dir: flag.map(PathBuf::from), json: false, log: None };
            Context::resolve(&global, &variables(pairs)).map(|context| context.dir.path().to_owned())
        };
        let both = [(HOME, "/nowhere/env"), ("HOME", "/nowhere/home")];
        assert_eq!(resolve(Some("/nowhere/flag"), &both).expect("a"), Path::new("/nowhere/flag"));
        assert_eq!(resolve(None, &both).expect("b"), Path::new("/nowhere/env"));
        assert_eq!(resolve(None, &both[1..]).expect("c"), Path::new("/nowhere/home/.worldcompute"));
        assert!(resolve(None, &[]).expect_err("no home").is::<Usage>());
    }

    #[test]
    fn anchoring_is_off_until_somebody_turns_it_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let settings = |pairs: &[(&str, &str)], args: NodeArgs| {
            let context = Context::resolve(&global(dir.path()), &variables(pairs)).expect("resolves");
            context.settings(&args).expect("resolves").anchoring
        };
        let url = [("REKOR_URL", "https://log.example")];
        assert_eq!(settings(&url, NodeArgs::default()), None, "an address alone turns nothing on");
        let on = |pairs: &[(&str, &str)]| {
            let args = NodeArgs { anchor: Some("rekor-v1".to_owned()), ..NodeArgs::default() };
            settings(pairs, args).expect("on")
        };
        assert_eq!(on(&url).url.as_deref(), Some("https://log.example"));
        let both = [url[0], ("WORLDCOMPUTE_ANCHOR_URL", "https://ours.example")];
        assert_eq!(on(&both).url.as_deref(), Some("https://ours.example"), "our own name counts more");
        assert_eq!(on(&[]).interval, Millis(600_000));
        assert_eq!(on(&[]).read().expect("pinned").url, "https://rekor.sigstore.dev");
        let off = NodeArgs { anchor: Some("off".to_owned()), ..NodeArgs::default() };
        assert_eq!(settings(&[("WORLDCOMPUTE_ANCHOR", "rekor-v2")], off), None);

        let context = Context::resolve(&global(dir.path()), &variables(&[])).expect("resolves");
        for args in [
            NodeArgs { anchor: Some("bitcoin".to_owned()), ..NodeArgs::default() },
            NodeArgs { anchor_interval: Some("1ms".to_owned()), ..NodeArgs::default() },
        ] {
            assert!(context.settings(&args).expect_err("wrong").is::<Usage>());
        }
    }

    #[test]
    fn every_key_has_its_variable() {
        for key in KEYS {
            let name = format!("{PREFIX}{}", key.to_uppercase());
            assert!(VARIABLES.iter().any(|(variable, _)| *variable == name), "{name}");
        }
    }
}

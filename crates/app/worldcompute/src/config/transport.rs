//! Settings of the ways to other nodes: proxy, name servers, certificates, seeds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use wc_types::Refusal;

use super::{ENVIRONMENT, NETWORK_DEFAULT, flag, list, small_file};
use crate::cli::{TransportArgs, WssArgs};
use crate::exit::Usage;
use crate::fields::{self, Faults, Fields};
use crate::node::{
    AcmeConfig, DohUpstream, Inspection, LETS_ENCRYPT, Proxy, TransportConfig, WssCertificate,
};

/// Where the public network's seeds are listed (NET-05, E-63).
const BOOTSTRAP_DEFAULT: &str = "/dnsaddr/bootstrap.worldcompute.org";
/// What other programs call the proxy, in the order in which they count; all count less than our own name.
const PROXY_VARIABLES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Where the WebSocket listener is unless told otherwise: where every firewall lets web sites be.
const WSS_PORT: u16 = 443;

/// What one source of settings says about the ways to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TransportLayer {
    /// The inner option is none where somebody says that there is no proxy.
    proxy: Option<Option<Proxy>>,
    no_proxy: Option<Vec<String>>,
    allow_ssl_inspection: Option<bool>,
    inspection_authorities: Option<PathBuf>,
    tls_authorities: Option<PathBuf>,
    doh: Option<Vec<DohUpstream>>,
    doh_only: Option<bool>,
    wss_listen: Option<Vec<String>>,
    wss_cert: Option<PathBuf>,
    wss_key: Option<PathBuf>,
    acme_domain: Option<String>,
    acme_contact: Option<String>,
    acme_directory: Option<String>,
    bootstrap_seeds: Option<Vec<String>>,
    /// A proxy that is meant for other programs, and why we do not use it.
    unusable_proxy: Option<String>,
}

impl TransportLayer {
    /// Returns what `self` says, and what `below` says where it says nothing.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            proxy: self.proxy.or(below.proxy),
            no_proxy: self.no_proxy.or(below.no_proxy),
            allow_ssl_inspection: self.allow_ssl_inspection.or(below.allow_ssl_inspection),
            inspection_authorities: self.inspection_authorities.or(below.inspection_authorities),
            tls_authorities: self.tls_authorities.or(below.tls_authorities),
            doh: self.doh.or(below.doh),
            doh_only: self.doh_only.or(below.doh_only),
            wss_listen: self.wss_listen.or(below.wss_listen),
            wss_cert: self.wss_cert.or(below.wss_cert),
            wss_key: self.wss_key.or(below.wss_key),
            acme_domain: self.acme_domain.or(below.acme_domain),
            acme_contact: self.acme_contact.or(below.acme_contact),
            acme_directory: self.acme_directory.or(below.acme_directory),
            bootstrap_seeds: self.bootstrap_seeds.or(below.bootstrap_seeds),
            unusable_proxy: self.unusable_proxy.or(below.unusable_proxy),
        }
    }

    /// Returns what to listen on for WebSockets, beside the other addresses.
    pub(super) fn wss_listen(&self) -> Vec<String> {
        match (&self.wss_listen, &self.acme_domain) {
            (Some(listen), _) => listen.clone(),
            // Whoever wants a certificate wants to show it, where the authority looks for it.
            (None, Some(_)) => wss_listen_at(WSS_PORT),
            (None, None) => Vec::new(),
        }
    }

    /// Returns where others reach the WebSocket listener by the name that its certificate is for.
    pub(super) fn named_address(&self) -> Option<String> {
        let domain = self.acme_domain.as_ref()?;
        let port = self.wss_listen().first()?.split('/').nth(4)?.to_owned();
        Some(format!("/dns/{domain}/tcp/{port}/tls/ws"))
    }

    /// Returns the certificate to show.
    ///
    /// - `data_dir`: where it is kept unless it is in files of its own
    pub(super) fn certificate(&self, data_dir: &Path) -> WssCertificate {
        let kept = data_dir.join("wss");
        match (&self.wss_cert, &self.wss_key, &self.acme_domain) {
            (Some(chain), Some(key), _) => WssCertificate::Files { chain: chain.clone(), key: key.clone() },
            (_, _, Some(domain)) => WssCertificate::Issued {
                wanted: AcmeConfig {
                    domain: domain.clone(),
                    contact: self.acme_contact.clone(),
                    directory: self.acme_directory.clone().unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
                    dir: data_dir.join("acme"),
                },
                before: kept,
            },
            _ => WssCertificate::Kept(kept),
        }
    }

    /// Returns the seeds of `network`. The public ones are asked for only by those who named nobody to join through.
    pub(super) fn seeds(&self, network: &str, joins: bool) -> Vec<String> {
        match &self.bootstrap_seeds {
            Some(seeds) => seeds.clone(),
            None if network == NETWORK_DEFAULT && !joins => vec![BOOTSTRAP_DEFAULT.to_owned()],
            None => Vec::new(),
        }
    }

    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// When one cannot be read, or a key has no certificate.
    pub(super) fn read(&self) -> anyhow::Result<TransportConfig> {
        let mut config = TransportConfig {
            authorities_pem: self.tls_authorities.as_deref().map(small_file).transpose()?,
            ..TransportConfig::default()
        };
        if self.wss_cert.is_some() != self.wss_key.is_some() {
            return Err(Usage {
                message: "a wss certificate needs its key, and a key its certificate".to_owned(),
                hint: "give both --wss-cert and --wss-key, or neither for a self-signed one".to_owned(),
            }
            .into());
        }
        if self.wss_cert.is_some() && self.acme_domain.is_some() {
            return Err(Usage {
                message: "there are two wss certificates: one in files, one that an authority is to issue"
                    .to_owned(),
                hint: "give --wss-cert and --wss-key, or --acme-domain".to_owned(),
            }
            .into());
        }
        // Whoever renews them may do so while the node runs; that they are there at all shows now.
        for path in self.wss_cert.iter().chain(&self.wss_key) {
            small_file(path)?;
        }
        if self.allow_ssl_inspection == Some(true) {
            let authorities = self.inspection_authorities.clone();
            if let Some(path) = &authorities {
                small_file(path)?;
            }
            config.inspection = Inspection::Allow { authorities };
        }
        if let (None, Some(why)) = (&self.proxy, &self.unusable_proxy) {
            tracing::warn!("{why}; connections go without it");
        }
        config.proxies.proxy = self.proxy.clone().flatten();
        config.proxies.exceptions = self.no_proxy.clone().unwrap_or_default();
        config.dns.https_only = self.doh_only.unwrap_or(false);
        if let Some(upstreams) = &self.doh {
            config.dns.upstreams.clone_from(upstreams);
        }
        Ok(config)
    }
}

fn proxy(text: &str) -> Result<Option<Proxy>, String> {
    match text {
        "off" => Ok(None),
        text => Proxy::parse(text).map(Some).map_err(|error| format!("{error}, or off")),
    }
}

fn upstreams(texts: &[String]) -> Result<Vec<DohUpstream>, String> {
    texts.iter().map(|text| DohUpstream::parse(text).map_err(|error| format!("{error}: `{text}`"))).collect()
}

/// Reads a port, or an address and a port.
fn wss_listen(text: &str) -> Result<Vec<String>, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(wss_listen_at(port));
    }
    match text.parse() {
        Ok(SocketAddr::V4(at)) => Ok(vec![format!("/ip4/{}/tcp/{}/tls/ws", at.ip(), at.port())]),
        Ok(SocketAddr::V6(at)) => Ok(vec![format!("/ip6/{}/tcp/{}/tls/ws", at.ip(), at.port())]),
        Err(_) => Err(format!(
            "must be a port such as {WSS_PORT}, or an address and a port such as 0.0.0.0:{WSS_PORT}"
        )),
    }
}

fn wss_listen_at(port: u16) -> Vec<String> {
    vec![format!("/ip4/0.0.0.0/tcp/{port}/tls/ws"), format!("/ip6/::/tcp/{port}/tls/ws")]
}

/// Reads a name that an authority can certify.
fn acme_domain(text: &str) -> Result<String, String> {
    let labels = || text.split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = labels().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if text.len() <= 253 && labels().count() >= 2 && labels().all(is_label) && !numeric {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("must be a name such as relay.example.org".to_owned())
    }
}

fn acme_contact(text: &str) -> Result<String, String> {
    match text.split_once('@') {
        Some((name, host)) if !name.is_empty() && !host.is_empty() && !text.contains([' ', ',', '?']) => {
            Ok(text.to_owned())
        }
        _ => Err("must be a mail address such as me@example.org".to_owned()),
    }
}

fn acme_directory(text: &str) -> Result<String, String> {
    let is_url =
        text.starts_with("https://") && text.len() > 8 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_url {
        Ok(text.to_owned())
    } else {
        Err("must be an address such as https://acme.example/directory".to_owned())
    }
}

fn seeds(texts: Vec<String>) -> Vec<String> {
    if texts == ["none"] { Vec::new() } else { texts }
}

pub(super) fn flags(args: &TransportArgs, wss: Option<&WssArgs>) -> Result<TransportLayer, Usage> {
    let wrong = |name: &str, rule: String| Usage {
        // The value is not repeated: it may hold a password.
        message: format!("--{name} {rule}"),
        hint: "see --help".to_owned(),
    };
    let several = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
    let mut layer = TransportLayer {
        proxy: args.proxy.as_deref().map(proxy).transpose().map_err(|rule| wrong("proxy", rule))?,
        no_proxy: None,
        allow_ssl_inspection: args.allow_ssl_inspection.then_some(true),
        inspection_authorities: args.inspection_authorities.clone(),
        tls_authorities: args.tls_authorities.clone(),
        doh: several(&args.doh)
            .map(|texts| upstreams(&texts))
            .transpose()
            .map_err(|rule| wrong("doh", rule))?,
        doh_only: args.doh_only.then_some(true),
        ..TransportLayer::default()
    };
    if let Some(wss) = wss {
        layer.wss_listen = wss
            .wss_listen
            .as_deref()
            .map(wss_listen)
            .transpose()
            .map_err(|rule| wrong("wss-listen", rule))?;
        layer.wss_cert.clone_from(&wss.wss_cert);
        layer.wss_key.clone_from(&wss.wss_key);
        let read = |name: &str, text: &Option<String>, read: fn(&str) -> Result<String, String>| {
            text.as_deref().map(read).transpose().map_err(|rule| wrong(name, rule))
        };
        layer.acme_domain = read("acme-domain", &wss.acme_domain, acme_domain)?;
        layer.acme_contact = read("acme-contact", &wss.acme_contact, acme_contact)?;
        layer.acme_directory = read("acme-directory", &wss.acme_directory, acme_directory)?;
        layer.bootstrap_seeds = several(&wss.bootstrap_seed).map(seeds);
    }
    Ok(layer)
}

pub(super) fn environment(variables: &BTreeMap<String, String>, wrong: &mut Vec<Refusal>) -> TransportLayer {
    let text = |name: &str| variables.get(name).filter(|text| !text.is_empty()).map(String::as_str);
    let mut refuse = |name: &str, rule: String| {
        wrong.push(Refusal::new(ENVIRONMENT, format!("the environment variable {name} {rule}")));
    };
    let own_proxy = text("WORLDCOMPUTE_PROXY")
        .and_then(|text| proxy(text).map_err(|rule| refuse("WORLDCOMPUTE_PROXY", rule)).ok());
    let mut unusable_proxy = None;
    let others_proxy = || {
        let (name, text) = PROXY_VARIABLES.iter().find_map(|name| Some((name, text(name)?)))?;
        // Meant for other programs, which know more kinds: no reason not to start.
        let wrong = |error| unusable_proxy = Some(format!("the proxy in {name} {error}"));
        Proxy::parse(text).map_err(wrong).ok().map(Some)
    };
    let proxy = own_proxy.or_else(others_proxy);
    let no_proxy =
        text("WORLDCOMPUTE_NO_PROXY").or_else(|| NO_PROXY_VARIABLES.iter().find_map(|name| text(name)));
    let mut read = |name: &str| {
        let parsed = flag(text(name)?);
        parsed.map_err(|rule| refuse(name, rule)).ok()
    };
    TransportLayer {
        allow_ssl_inspection: read("WORLDCOMPUTE_ALLOW_SSL_INSPECTION"),
        doh_only: read("WORLDCOMPUTE_DOH_ONLY"),
        proxy,
        unusable_proxy,
        no_proxy: no_proxy.map(list),
        inspection_authorities: text("WORLDCOMPUTE_INSPECTION_AUTHORITIES").map(PathBuf::from),
        tls_authorities: text("WORLDCOMPUTE_TLS_AUTHORITIES").map(PathBuf::from),
        doh: text("WORLDCOMPUTE_DOH")
            .and_then(|text| upstreams(&list(text)).map_err(|rule| refuse("WORLDCOMPUTE_DOH", rule)).ok()),
        wss_listen: text("WORLDCOMPUTE_WSS_LISTEN")
            .and_then(|text| wss_listen(text).map_err(|rule| refuse("WORLDCOMPUTE_WSS_LISTEN", rule)).ok()),
        wss_cert: text("WORLDCOMPUTE_WSS_CERT").map(PathBuf::from),
        wss_key: text("WORLDCOMPUTE_WSS_KEY").map(PathBuf::from),
        acme_domain: text("WORLDCOMPUTE_ACME_DOMAIN")
            .and_then(|text| acme_domain(text).map_err(|rule| refuse("WORLDCOMPUTE_ACME_DOMAIN", rule)).ok()),
        acme_contact: text("WORLDCOMPUTE_ACME_CONTACT").and_then(|text| {
            acme_contact(text).map_err(|rule| refuse("WORLDCOMPUTE_ACME_CONTACT", rule)).ok()
        }),
        acme_directory: text("WORLDCOMPUTE_ACME_DIRECTORY").and_then(|text| {
            acme_directory(text).map_err(|rule| refuse("WORLDCOMPUTE_ACME_DIRECTORY", rule)).ok()
        }),
        bootstrap_seeds: text("WORLDCOMPUTE_BOOTSTRAP_SEEDS").map(|text| seeds(list(text))),
    }
}

pub(super) fn file(fields: &Fields<'_>, faults: &mut Faults) -> TransportLayer {
    let several = |key: &str, faults: &mut Faults| {
        let words = fields.words(key, faults);
        fields.find(key).map(|_| words)
    };
    let path = |key: &str, faults: &mut Faults| fields.text(key, faults).map(PathBuf::from);
    let doh = several("doh", faults).and_then(|texts| {
        let parsed = upstreams(&texts);
        parsed
            .map_err(|rule| {
                faults.add(fields::OUT_OF_RANGE, "doh", rule, fields.find("doh").unwrap_or(fields.node()));
            })
            .ok()
    });
    // Not `amount`, which repeats what it does not understand: there may be a password in it.
    let proxy = fields.text("proxy", faults).and_then(|text| {
        let wrong = |rule| {
            faults.add(fields::OUT_OF_RANGE, "proxy", rule, fields.find("proxy").unwrap_or(fields.node()));
        };
        proxy(text).map_err(wrong).ok()
    });
    TransportLayer {
        proxy,
        no_proxy: several("no_proxy", faults),
        allow_ssl_inspection: fields.flag("allow_ssl_inspection", faults),
        inspection_authorities: path("inspection_authorities", faults),
        tls_authorities: path("tls_authorities", faults),
        doh,
        doh_only: fields.flag("doh_only", faults),
        wss_listen: fields.amount("wss_listen", wss_listen, faults),
        wss_cert: path("wss_cert", faults),
        wss_key: path("wss_key", faults),
        acme_domain: fields.amount("acme_domain", acme_domain, faults),
        acme_contact: fields.amount("acme_contact", acme_contact, faults),
        acme_directory: fields.amount("acme_directory", acme_directory, faults),
        bootstrap_seeds: several("bootstrap_seeds", faults).map(seeds),
        unusable_proxy: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Context;
    use super::*;
    use crate::cli::{Global, NodeArgs};
    use crate::exit;

    fn context(dir: &Path, pairs: &[(&str, &str)]) -> anyhow::Result<Context> {
        let global = Global { data_dir: Some(dir.to_owned()), json: false, log: None };
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Context::resolve(&global, &pairs.collect())
    }

    #[test]
    fn the_proxy_is_that_of_the_environment_unless_somebody_says_otherwise() {
        let dir = tempfile::tempdir().expect("tempdir");
        let proxy_of = |pairs: &[(&str, &str)], args: TransportArgs| {
            let config = context(dir.path(), pairs).expect("resolves").transport(&args).expect("reads");
            config.proxies.proxy.map(|proxy| proxy.to_string())
        };
        let both = [("HTTPS_PROXY", "http://theirs:1"), ("WORLDCOMPUTE_PROXY", "http://ours:2")];
        assert_eq!(proxy_of(&both[..1], TransportArgs::default()).as_deref(), Some("theirs:1"));
        assert_eq!(proxy_of(&both, TransportArgs::default()).as_deref(), Some("ours:2"));
        let off = TransportArgs { proxy: Some("off".to_owned()), ..TransportArgs::default() };
        assert_eq!(proxy_of(&both, off), None);
        assert_eq!(proxy_of(&[("ALL_PROXY", "socks5://x:1")], TransportArgs::default()), None);
        let config = context(dir.path(), &[("NO_PROXY", "a.example, 10.0.0.0/8")]).expect("resolves");
        let config = config.transport(&TransportArgs::default()).expect("reads");
        assert_eq!(config.proxies.exceptions, ["a.example", "10.0.0.0/8"]);
    }

    #[test]
    fn a_wrong_proxy_is_named_without_its_password() {
        let dir = tempfile::tempdir().expect("tempdir");
        let wrong = "ftp://ann:secret@proxy:1";
        let in_environment = context(dir.path(), &[("WORLDCOMPUTE_PROXY", wrong)]).expect_err("wrong");
        let args = TransportArgs { proxy: Some(wrong.to_owned()), ..TransportArgs::default() };
        let in_flag = context(dir.path(), &[]).expect("resolves").transport(&args).expect_err("wrong");
        std::fs::write(dir.path().join("config.toml"), format!("proxy = \"{wrong}\"\n")).expect("writes");
        let in_file = context(dir.path(), &[]).expect_err("wrong");
        for error in [in_environment, in_flag, in_file] {
            let text = exit::render(&exit::refusals(&error)).to_lowercase();
            assert!(text.contains("proxy") && text.contains("http://[user:password@]host:port"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn seeds_are_the_public_ones_only_in_the_public_network() {
        let dir = tempfile::tempdir().expect("tempdir");
        let seeds = |pairs: &[(&str, &str)], args: NodeArgs| {
            context(dir.path(), pairs).expect("resolves").settings(&args).expect("resolves").bootstrap
        };
        assert_eq!(seeds(&[], NodeArgs::default()), [BOOTSTRAP_DEFAULT]);
        assert!(seeds(&[("WORLDCOMPUTE_NETWORK", "lab")], NodeArgs::default()).is_empty());
        let join = NodeArgs { join: vec!["/ip4/192.0.2.1/tcp/1".to_owned()], ..NodeArgs::default() };
        assert!(seeds(&[], join).is_empty());
        let own = ("WORLDCOMPUTE_BOOTSTRAP_SEEDS", "/dnsaddr/a.example,/ip4/192.0.2.1/tcp/1");
        assert_eq!(seeds(&[own], NodeArgs::default()).len(), 2);
        assert!(seeds(&[("WORLDCOMPUTE_BOOTSTRAP_SEEDS", "none")], NodeArgs::default()).is_empty());
    }

    #[test]
    fn a_websocket_listener_is_a_port_or_an_address() {
        assert_eq!(
            wss_listen("443").expect("a port"),
            ["/ip4/0.0.0.0/tcp/443/tls/ws", "/ip6/::/tcp/443/tls/ws"]
        );
        assert_eq!(wss_listen("192.0.2.1:8443").expect("v4"), ["/ip4/192.0.2.1/tcp/8443/tls/ws"]);
        assert_eq!(wss_listen("[::1]:8443").expect("v6"), ["/ip6/::1/tcp/8443/tls/ws"]);
        assert!(wss_listen("everywhere").is_err());
        let dir = tempfile::tempdir().expect("tempdir");
        let mut args = NodeArgs::default();
        args.wss.wss_cert = Some(PathBuf::from("chain.pem"));
        let settings = context(dir.path(), &[]).expect("resolves").settings(&args).expect("resolves");
        let data_dir = wc_host::DataDir::new(dir.path()).expect("directory");
        assert!(settings.transport(&data_dir).expect_err("half").is::<Usage>());
    }

    #[test]
    fn a_name_for_the_certificate_is_enough_for_a_listener_and_an_address_on_443() {
        let dir = tempfile::tempdir().expect("tempdir");
        let settings = |pairs: &[(&str, &str)]| {
            context(dir.path(), pairs).and_then(|context| context.settings(&NodeArgs::default()))
        };
        let domain = ("WORLDCOMPUTE_ACME_DOMAIN", "Relay.Example.org");
        let named = settings(&[domain]).expect("resolves");
        assert_eq!(named.wss_listen, ["/ip4/0.0.0.0/tcp/443/tls/ws", "/ip6/::/tcp/443/tls/ws"]);
        assert_eq!(named.reach().external, ["/dns/relay.example.org/tcp/443/tls/ws"]);
        let own = ("WORLDCOMPUTE_EXTERNAL_ADDRESSES", "/dns4/relay.example.org/tcp/8443/tls/ws");
        let own = settings(&[domain, ("WORLDCOMPUTE_WSS_LISTEN", "127.0.0.1:8443"), own]).expect("resolves");
        assert_eq!(own.reach().external, ["/dns4/relay.example.org/tcp/8443/tls/ws"]);
        let data_dir = wc_host::DataDir::new(dir.path()).expect("directory");
        let WssCertificate::Issued { wanted, .. } = own.transport(&data_dir).expect("reads").certificate
        else {
            panic!("an authority issues it")
        };
        assert_eq!((wanted.domain.as_str(), wanted.directory.as_str()), ("relay.example.org", LETS_ENCRYPT));
        let both = [domain, ("WORLDCOMPUTE_WSS_CERT", "a.pem"), ("WORLDCOMPUTE_WSS_KEY", "b.pem")];
        assert!(settings(&both).expect("resolves").transport(&data_dir).expect_err("two").is::<Usage>());
        for wrong in ["localhost", "192.0.2.1", "-a.example", "a..example", "a example.org"] {
            assert!(settings(&[("WORLDCOMPUTE_ACME_DOMAIN", wrong)]).is_err(), "{wrong}");
        }
    }
}

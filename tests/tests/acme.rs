//! A relay that gets its certificate from a real ACME server (pebble), shows it, keeps it and renews it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wc_tests::federation::{Federation, Node, SOON, binary};
use wc_tests::flood::Anybody;
use wc_tests::port::free_port;

const NAME: &str = "relay.example.org";
/// Life of a certificate here; it is renewed after two thirds of it.
const LIFE_S: u64 = 45;

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// An authority, and a name server for it that knows every name to be this machine.
struct Authority {
    directory: String,
    management: u16,
    trusted: PathBuf,
    _servers: [Server; 2],
}

impl Authority {
    fn start(dir: &Path, tls_port: u16) -> Option<Self> {
        let (pebble, names) = (find("pebble")?, find("pebble-challtestsrv")?);
        let (port, management, dns) = (free_port(), free_port(), free_port());
        let (trusted, chain, key) = certificate(dir);
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": chain,
            "privateKey": key,
            "httpPort": free_port(),
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": LIFE_S,
        } });
        let path = dir.join("pebble.json");
        fs::write(&path, config.to_string()).expect("writes");
        let names = Command::new(names)
            .args([
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ])
            .args([
                "-dns01",
                &format!("127.0.0.1:{dns}"),
                "-management",
                &format!("127.0.0.1:{}", free_port()),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("challtestsrv starts");
        let log = fs::File::create(dir.join("pebble.log")).expect("a log");
        let pebble = Command::new(pebble)
            .args(["-config", path.to_str().expect("utf-8"), "-dnsserver", &format!("127.0.0.1:{dns}")])
            // Otherwise it waits for up to fifteen seconds before each look at a name.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("pebble starts");
        let directory = format!("https://127.0.0.1:{port}/dir");
        Some(Self { directory, management, trusted, _servers: [Server(pebble), Server(names)] })
    }

    /// Returns the authority's root, in PEM.
    async fn root(&self) -> String {
        let request = "GET /roots/0 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let begun = Instant::now();
        loop {
            if let Ok((_, answer)) = ask(self.management, "127.0.0.1", request).await
                && let Some((_, body)) = answer.split_once("\r\n\r\n")
            {
                return body.to_owned();
            }
            assert!(begun.elapsed() < SOON, "pebble does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes an authority for pebble's own site, and its certificate: paths of the root, the chain and the key.
fn certificate(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let root_key = rcgen::KeyPair::generate().expect("a key");
    let mut root = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = root.self_signed(&root_key).expect("a root");
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &root, &root_key).expect("a certificate");
    let [trusted, chain, secret] = ["site-root.pem", "site.pem", "site-key.pem"].map(|name| dir.join(name));
    fs::write(&trusted, root.pem()).expect("writes");
    fs::write(&chain, leaf.pem()).expect("writes");
    fs::write(&secret, key.serialize_pem()).expect("writes");
    (trusted, chain, secret)
}

/// Connects as anybody does; returns the certificate that was shown, and the answer.
async fn ask(port: u16, name: &str, request: &str) -> std::io::Result<(CertificateDer<'static>, String)> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(server, socket).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Whether the end is announced does not matter here.
    let _ = stream.read_to_end(&mut answer).await;
    Ok((shown.expect("a certificate"), String::from_utf8_lossy(&answer).into_owned()))
}

/// Waits until the relay shows a certificate that `wanted` wants.
async fn shows(
    relay: &Node,
    port: u16,
    what: &str,
    wanted: impl Fn(&CertificateDer<'_>) -> bool,
) -> CertificateDer<'static> {
    let begun = Instant::now();
    let last = Mutex::new(String::new());
    loop {
        match ask(port, NAME, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await {
            Ok((shown, answer)) if wanted(&shown) => {
                assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
                return shown;
            }
            Ok(_) => *last.lock().expect("ours") = "another certificate".to_owned(),
            Err(error) => *last.lock().expect("ours") = error.to_string(),
        }
        assert!(begun.elapsed() < 2 * SOON, "{what}: {}\n{}", last.lock().expect("ours"), relay.logged());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether the authority's name stands in a certificate: pebble calls its issuers so.
fn is_issued(certificate: &CertificateDer<'_>) -> bool {
    certificate.windows(19).any(|window| window == b"Pebble Intermediate")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_a_name_gets_its_certificate_by_itself_and_renews_it() {
    let federation = Federation::empty(binary());
    let dir = federation.dir.path();
    let port = free_port();
    let Some(authority) = Authority::start(dir, port) else {
        println!("SKIP: pebble and pebble-challtestsrv are not installed (Debian: pebble)");
        return;
    };
    let root = authority.root().await;
    let (listen, trusted) = (format!("127.0.0.1:{port}"), authority.trusted.display().to_string());
    let wss = ["--wss-listen", &listen, "--acme-domain", NAME, "--acme-contact", "me@example.org"];
    let acme = ["--acme-directory", &authority.directory, "--tls-authorities", &trusted];
    let (mut relay, _) = federation.relay(1, &[&wss[..], &acme].concat());
    let first = shows(&relay, port, "the first certificate", is_issued).await;
    assert!(first.windows(NAME.len()).any(|window| window == NAME.as_bytes()), "it is for the name");
    // id-ecPublicKey with prime256v1 (E-84).
    let p256 = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    assert!(first.windows(p256.len()).any(|window| window == p256), "its key is ECDSA P-256");

    // The address that others are told follows, without a restart; before, it named the self-signed one by its hash.
    federation
        .until("the relay's address names it", async || {
            let status = relay.json(&["donor", "status"]);
            let addresses = status["addresses"].as_array().cloned().unwrap_or_default();
            addresses.iter().any(|address| {
                address.as_str().is_some_and(|address| address.contains(&format!("/tls/sni/{NAME}/ws")))
            })
        })
        .await;
    // Whoever believes the authority gets in.
    let roots = dir.join("roots.pem");
    fs::write(&roots, &root).expect("writes");
    let address = format!("/ip4/127.0.0.1/tcp/{port}/tls/sni/{NAME}/ws");
    let doctor = |authorities: &[&str]| {
        let args = [&["--json", "doctor", "--target", &address], authorities].concat();
        let output = relay.command(&args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|_| panic!("{args:?}: {text}"))
    };
    let found = doctor(&["--tls-authorities", roots.to_str().expect("utf-8")]);
    assert_eq!(found["best"], "wss", "{found}");
    assert!(doctor(&[])["best"].is_null(), "nobody else has a reason to believe it");

    // What is kept is the owner's alone.
    let kept = relay.dir.join("acme").join(NAME);
    let kept =
        fs::read_dir(kept).expect("a directory").next().expect("one authority").expect("an entry").path();
    for name in ["account.json", "certificate.pem"] {
        let mode = fs::metadata(kept.join(name)).expect("it is kept").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let account = fs::read(kept.join("account.json")).expect("it is kept");

    let renewed =
        shows(&relay, port, "the renewed certificate", |shown| is_issued(shown) && *shown != first).await;
    assert_eq!(fs::read(kept.join("account.json")).expect("it is kept"), account, "one account is enough");
    // Without the authority, what is kept is shown at once.
    drop(authority);
    relay.kill();
    relay.start();
    shows(&relay, port, "the kept certificate", |shown| *shown == renewed).await;
}

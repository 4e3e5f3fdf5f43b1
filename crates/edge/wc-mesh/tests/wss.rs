//! WebSocket over TLS, and what stands in its way: certificates, somebody who reads along, proxies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::net::SocketAddr;

use support::web::{Authority, Manner, interceptor, proxy, tls_to};
use support::{PATIENCE, config, network, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wc_mesh::{
    DialAttempt, DialError, DialOutcome, Inspection, Interception, Mesh, MeshConfig, MeshEvent, Multiaddr,
    Proxy, TcpSession, Transport, WssCertificate,
};

const ECHO: &str = "/test/echo/1.0.0";

/// Returns a configuration that listens for WebSockets only; on 127.0.0.2, where proxies look.
fn relay_config(network: &str) -> MeshConfig {
    MeshConfig { listen: vec!["/ip4/127.0.0.2/tcp/0/tls/ws".parse().unwrap()], ..config(network) }
}

fn client_config(network: &str) -> MeshConfig {
    MeshConfig { listen: Vec::new(), ..config(network) }
}

async fn dial(mesh: &Mesh, addr: Multiaddr) -> Result<wc_types::NodeId, Vec<DialAttempt>> {
    match timeout(PATIENCE, mesh.dial(addr)).await.unwrap() {
        Ok(node) => Ok(node),
        Err(DialError::Unreachable { attempts }) => Err(attempts),
        Err(other) => panic!("{other}"),
    }
}

/// Returns the listening socket in an address.
fn socket_of(addr: &Multiaddr) -> SocketAddr {
    let text = addr.to_string();
    let mut parts = text.split('/').skip(2);
    let ip = parts.next().unwrap();
    let port = parts.nth(1).unwrap();
    format!("{ip}:{port}").parse().unwrap()
}

/// Returns `addr` at another place.
fn moved(addr: &Multiaddr, to: SocketAddr) -> Multiaddr {
    let from = socket_of(addr);
    let text = addr.to_string();
    let moved = text.replace(
        &format!("/ip4/{}/tcp/{}/", from.ip(), from.port()),
        &format!("/ip4/{}/tcp/{}/", to.ip(), to.port()),
    );
    moved.parse().unwrap()
}

async fn echoes(client: &Mesh, server: &Mesh) {
    let mut incoming = server.accept(ECHO).unwrap();
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.recv().await {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        }
    });
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let mut seen = Vec::new();
    timeout(PATIENCE, async {
        let stream = client.open(server.node_id(), ECHO).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (sent, read) = tokio::join!(
            async {
                writer.write_all(&bytes).await?;
                writer.shutdown().await
            },
            reader.read_to_end(&mut seen)
        );
        (sent.unwrap(), read.unwrap());
    })
    .await
    .unwrap();
    assert!(seen == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_listener_is_known_by_the_fingerprint_in_its_address() {
    for session in [TcpSession::Tls, TcpSession::Noise] {
        let network = network();
        let (relay, mut relay_events) = start(relay_config(&network)).await;
        let (client, mut events) =
            start(MeshConfig { tcp_session: session, ..client_config(&network) }).await;
        let addr = relay.listen_addrs().await.remove(0);
        assert!(addr.to_string().contains("/tls/ws/certhash/"), "{addr}");
        assert_eq!(dial(&client, addr.clone()).await.unwrap(), relay.node_id());
        let connected = |event| match event {
            MeshEvent::Connected { transport, addr, .. } => Some((transport, addr)),
            _ => None,
        };
        let (transport, at) = until(&mut events, connected).await;
        assert_eq!(transport, Transport::Wss);
        assert!(addr.to_string().starts_with(&at.to_string()));
        assert_eq!(
            until(&mut relay_events, connected).await.0,
            Transport::Wss,
            "the other side sees it, too"
        );
        assert_eq!(client.peers().await[0].inspected, None);
        echoes(&client, &relay).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_another_fingerprint_is_refused_and_its_issuer_named() {
    let network = network();
    let (relay, _relay_events) = start(relay_config(&network)).await;
    let (other, _other_events) = start(relay_config(&network)).await;
    let (client, mut events) = start(client_config(&network)).await;
    let to = socket_of(&relay.listen_addrs().await[0]);
    let addr = moved(&other.listen_addrs().await[0], to);
    let attempts = dial(&client, addr).await.unwrap_err();
    assert!(matches!(attempts[0].outcome, DialOutcome::Denied(_)), "{attempts:?}");
    let cause = attempts[0].root_cause.clone().unwrap();
    assert!(cause.contains("CN=self-signed") && cause.contains("lacks /certhash"), "{cause}");
    let interception = until(&mut events, |event| match event {
        MeshEvent::DialAttempt(attempt) => attempt.interception,
        _ => None,
    });
    assert_eq!(interception.await, Interception::Refused { issuer: "CN=self-signed".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issued_certificate_is_believed_for_its_name_only() {
    let network = network();
    let authority = Authority::new("Test Authority");
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = authority.write(dir.path(), "relay.example");
    let mut config = relay_config(&network);
    config.transport.certificate = WssCertificate::Files { chain, key };
    let (relay, _relay_events) = start(config).await;
    let addr = relay.listen_addrs().await.remove(0);
    assert!(addr.to_string().contains("/tls/sni/relay.example/ws/p2p/"), "{addr}");

    let (stranger, _events) = start(client_config(&network)).await;
    let attempts = dial(&stranger, addr.clone()).await.unwrap_err();
    let cause = attempts[0].root_cause.clone().unwrap();
    assert!(cause.contains("CN=Test Authority") && cause.contains("--allow-ssl-inspection"), "{cause}");

    let mut config = client_config(&network);
    config.transport.authorities_pem = Some(authority.pem());
    let (client, _events) = start(config).await;
    let misnamed: Multiaddr = addr.to_string().replace("relay.example", "other.example").parse().unwrap();
    let attempts = dial(&client, misnamed).await.unwrap_err();
    assert!(matches!(attempts[0].outcome, DialOutcome::Denied(_)), "{attempts:?}");
    assert_eq!(dial(&client, addr).await.unwrap(), relay.node_id());
    assert_eq!(client.peers().await[0].inspected, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_reads_along_is_refused_unless_allowed_and_then_marked() {
    let network = network();
    let (relay, _relay_events) = start(relay_config(&network)).await;
    let corp = Authority::new("Corp Inspection CA");
    let (middle, seen) = interceptor(&corp, socket_of(&relay.listen_addrs().await[0])).await;
    let addr = moved(&relay.listen_addrs().await[0], middle);

    let (careful, _events) = start(client_config(&network)).await;
    let attempts = dial(&careful, addr.clone()).await.unwrap_err();
    let cause = attempts[0].root_cause.clone().unwrap();
    assert!(cause.contains("somebody reads along") && cause.contains("CN=Corp Inspection CA"), "{cause}");

    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    let allowed = |authority: &Authority| {
        std::fs::write(&roots, authority.pem()).unwrap();
        let mut config = client_config(&network);
        config.transport.inspection = Inspection::Allow { authorities: Some(roots.clone()) };
        config
    };
    // The permission is for those whom the machine trusts, not for everyone.
    let (client, _events) = start(allowed(&Authority::new("Somebody Else"))).await;
    let attempts = dial(&client, addr.clone()).await.unwrap_err();
    let cause = attempts[0].root_cause.clone().unwrap();
    assert!(cause.contains("this machine does not trust it either"), "{cause}");

    let (client, mut events) = start(allowed(&corp)).await;
    assert_eq!(dial(&client, addr).await.unwrap(), relay.node_id());
    let issuer = "CN=Corp Inspection CA".to_owned();
    let interception = until(&mut events, |event| match event {
        MeshEvent::DialAttempt(attempt) => attempt.interception,
        _ => None,
    });
    assert_eq!(interception.await, Interception::Allowed { issuer: issuer.clone() });
    assert_eq!(client.peers().await[0].inspected, Some(issuer));
    echoes(&client, &relay).await;
    let seen = seen.lock().unwrap().clone();
    let is_inside = |what: &[u8]| seen.windows(what.len()).any(|window| window == what);
    assert!(is_inside(b"Upgrade: websocket"), "the middle did read along");
    let pattern: Vec<u8> = (0..64_u8).collect();
    assert!(!is_inside(&pattern) && !is_inside(ECHO.as_bytes()), "but what nodes say is not theirs to read");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_by_name_and_may_want_a_password() {
    let network = network();
    let (relay, _relay_events) = start(MeshConfig {
        listen: ["/ip4/127.0.0.2/tcp/0/tls/ws", "/ip4/127.0.0.2/tcp/0"]
            .map(|addr| addr.parse().unwrap())
            .to_vec(),
        ..config(&network)
    })
    .await;
    for manner in [Manner::Open, Manner::Password] {
        for addr in relay.listen_addrs().await {
            let socket = socket_of(&addr);
            // A name that no name server knows: only the proxy can find it.
            let text = addr.to_string();
            let addr: Multiaddr =
                text.replace("/ip4/127.0.0.2/", "/dns4/relay.nowhere.invalid/").parse().unwrap();
            let (proxy, asked) = proxy(manner).await;
            let mut config = client_config(&network);
            config.transport.proxies.proxy =
                Some(Proxy::parse(&format!("http://ann:secret@{proxy}")).unwrap());
            let (client, _events) = start(config).await;
            assert_eq!(dial(&client, addr).await.unwrap(), relay.node_id());
            let line = format!("CONNECT relay.nowhere.invalid:{} HTTP/1.1", socket.port());
            assert_eq!(*asked.lock().unwrap(), [line]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_help_is_named_with_the_reason() {
    let network = network();
    let addr: Multiaddr = "/dns4/relay.nowhere.invalid/tcp/443/tls/ws".parse().unwrap();
    let long = Manner::Endless;
    let table = [
        (Manner::Password, "refuses our user name and password (407)"),
        (
            Manner::Says(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
            "refuses connections to relay.nowhere.invalid:443 (403 Forbidden)",
        ),
        (
            Manner::Says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            "could not connect to relay.nowhere.invalid:443 (502 Bad Gateway)",
        ),
        (Manner::Says(b"\x05\x00"), "does not speak HTTP"),
        (Manner::Says(b""), "does not speak HTTP"),
        (Manner::Says(b"HTTP/1.1 200 OK\r\n\r\n<html>no</html>"), "TLS to relay.nowhere.invalid:443 failed"),
        (Manner::Silent, "timed out"),
        (long, "more than 8192 bytes"),
    ];
    for (manner, says) in table {
        let (proxy, _asked) = proxy(manner).await;
        let mut config = client_config(&network);
        config.transport.proxies.proxy =
            Some(Proxy::parse(&format!("http://ann:wrong-secret@{proxy}")).unwrap());
        let (client, _events) = start(config).await;
        let attempts = dial(&client, addr.clone()).await.unwrap_err();
        let cause = attempts[0].root_cause.clone().unwrap();
        assert!(cause.contains(says), "{cause}");
        assert!(!format!("{attempts:?}").contains("wrong-secret"));
    }
    let mut config = client_config(&network);
    config.transport.proxies.proxy = Some(Proxy::parse("http://127.0.0.1:1").unwrap());
    let (client, _events) = start(config).await;
    let attempts = dial(&client, addr).await.unwrap_err();
    assert!(
        attempts[0].root_cause.as_ref().unwrap().contains("proxy 127.0.0.1:1 cannot be reached"),
        "{attempts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_browser_the_listener_is_a_web_site_without_pages() {
    let (relay, _events) = start(relay_config(&network())).await;
    let at = socket_of(&relay.listen_addrs().await[0]);
    let mut stream = tls_to(at).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 426 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_talk_nonsense_do_not_keep_others_out() {
    let network = network();
    let (relay, _relay_events) = start(relay_config(&network)).await;
    let addr = relay.listen_addrs().await.remove(0);
    let at = socket_of(&addr);
    let mut silent = Vec::new();
    for i in 0..60_u8 {
        let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
        if i % 2 == 0 {
            let _ = socket.write_all(&[i; 4096]).await;
        }
        silent.push(socket);
    }
    let mut inside = tls_to(at).await;
    let _ = inside.write_all(&vec![b'A'; 20_000]).await;
    let (client, _events) = start(client_config(&network)).await;
    assert_eq!(dial(&client, addr).await.unwrap(), relay.node_id());
}

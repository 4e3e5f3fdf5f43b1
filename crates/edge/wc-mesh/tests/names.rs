//! Names: name servers that work, break and lie, DNS over HTTPS behind them, and lists of seeds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, TXT};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use support::web::{Authority, Manner, proxy};
use support::{PATIENCE, config, network, start, until};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;
use wc_mesh::{DialError, DohUpstream, Mesh, MeshConfig, MeshEvent, Multiaddr, Proxy, Transport};

/// What a name server knows: texts that begin with `dnsaddr=`, and addresses.
type Zone = HashMap<&'static str, Vec<String>>;

/// How a name server behaves.
#[derive(Clone)]
enum Server {
    Knows(Zone),
    Fails(ResponseCode),
    Silent,
}

fn answer(query: &[u8], server: &Server, asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let name = question.name().to_ascii().trim_end_matches('.').to_owned();
    asked.lock().unwrap().push(name.clone());
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    match server {
        Server::Silent => return None,
        Server::Fails(code) => message.metadata.response_code = *code,
        Server::Knows(zone) => match zone.get(name.to_ascii_lowercase().as_str()) {
            None => message.metadata.response_code = ResponseCode::NXDomain,
            Some(records) => {
                for record in records {
                    let data = match (record.parse(), question.query_type()) {
                        (Ok(IpAddr::V4(ip)), RecordType::A) => RData::A(A(ip)),
                        (Ok(IpAddr::V6(ip)), RecordType::AAAA) => RData::AAAA(AAAA(ip)),
                        (Err(_), RecordType::TXT) => RData::TXT(TXT::new(vec![record.clone()])),
                        _ => continue,
                    };
                    message.add_answer(Record::from_rdata(question.name().clone(), 60, data));
                }
            }
        },
    }
    message.to_vec().ok()
}

/// Starts a name server. Returns where, and the names that it was asked about.
async fn name_server(server: Server) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asked_here = asked.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok((count, from)) = socket.recv_from(&mut bytes).await {
            if let Some(answer) = answer(&bytes[..count], &server, &asked_here) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    (addr, asked)
}

/// Starts a name server over HTTPS at 127.0.0.2, known as `doh.example`.
async fn https_server(authority: &Authority, server: Server) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = authority.server("doh.example");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asked_here = asked.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, server, asked) = (acceptor.clone(), server.clone(), asked_here.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (server, asked) = (server.clone(), asked.clone());
                    async move {
                        assert_eq!(
                            request.headers()["host"].to_str().unwrap(),
                            format!("doh.example:{}", addr.port())
                        );
                        assert_eq!(request.headers()["content-type"], "application/dns-message");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let answer = match answer(&body, &server, &asked) {
                            Some(answer) => answer,
                            None => std::future::pending().await,
                        };
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (addr, asked)
}

fn zone(records: &[(&'static str, &[&str])]) -> Server {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Server::Knows(records.iter().map(|(name, texts)| (*name, owned(texts))).collect())
}

/// Returns a client that asks `system`, and `https` behind it.
fn client_config(network: &str, system: SocketAddr, https: Option<(SocketAddr, &Authority)>) -> MeshConfig {
    let mut config = MeshConfig { listen: Vec::new(), ..config(network) };
    let dns = &mut config.transport.dns;
    dns.servers = vec![system];
    dns.timeout = Duration::from_millis(1500);
    dns.upstreams.clear();
    if let Some((addr, authority)) = https {
        let text = format!("https://doh.example:{}/dns-query@{}", addr.port(), addr.ip());
        dns.upstreams.push(DohUpstream::parse(&text).unwrap());
        config.transport.authorities_pem = Some(authority.pem());
    }
    config
}

/// Starts a node at 127.0.0.2, and returns its addresses with a name in place of that.
async fn named_node(network: &str, name: &str) -> (Mesh, wc_mesh::MeshEvents, Vec<Multiaddr>) {
    let listen = ["/ip4/127.0.0.2/tcp/0", "/ip4/127.0.0.2/udp/0/quic-v1", "/ip4/127.0.0.2/tcp/0/tls/ws"];
    let listen = listen.map(|addr| addr.parse().unwrap()).to_vec();
    let (mesh, events) = start(MeshConfig { listen, ..config(network) }).await;
    let named = mesh.listen_addrs().await.into_iter().map(|addr| {
        let text = addr.to_string();
        text.replace("/ip4/127.0.0.2/", &format!("/dns4/{name}/")).parse().unwrap()
    });
    let addrs = named.collect();
    (mesh, events, addrs)
}

async fn dial(mesh: &Mesh, addr: &Multiaddr) -> Result<wc_types::NodeId, String> {
    match timeout(PATIENCE, mesh.dial(addr.clone())).await.unwrap() {
        Ok(node) => Ok(node),
        Err(DialError::Unreachable { attempts }) => Err(attempts[0].root_cause.clone().unwrap()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_works_under_every_transport() {
    let network = network();
    let (node, _events, addrs) = named_node(&network, "relay.example").await;
    // The first address answers nobody; the race does not wait for it to say so.
    let (system, _) = name_server(zone(&[("relay.example", &["127.9.9.9", "127.0.0.2"])])).await;
    for addr in addrs {
        let (client, mut events) = start(client_config(&network, system, None)).await;
        assert_eq!(dial(&client, &addr).await.unwrap(), node.node_id(), "{addr}");
        let attempt = until(&mut events, |event| match event {
            MeshEvent::DialAttempt(attempt) => Some(attempt),
            _ => None,
        });
        assert_eq!(attempt.await.transport, wc_mesh::address::transport_of(&addr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn name_servers_that_break_or_lie_are_backed_by_https() {
    let network = network();
    let authority = Authority::new("Test Authority");
    let (node, _events, addrs) = named_node(&network, "relay.example").await;
    let (https, asked) = https_server(&authority, zone(&[("relay.example", &["127.0.0.2"])])).await;
    let broken = [
        ("silent", Server::Silent),
        ("fails", Server::Fails(ResponseCode::ServFail)),
        ("denies", Server::Fails(ResponseCode::NXDomain)),
        ("refuses", Server::Fails(ResponseCode::Refused)),
        ("filters", zone(&[("relay.example", &["0.0.0.0"])])),
        ("filters", zone(&[("relay.example", &["127.0.0.1", "::1"])])),
        ("leads to a page that says no", zone(&[("relay.example", &["127.9.9.9"])])),
        ("knows nothing of it", zone(&[("relay.example", &[])])),
    ];
    for (what, server) in broken {
        asked.lock().unwrap().clear();
        let (system, _) = name_server(server).await;
        let (client, _events) = start(client_config(&network, system, Some((https, &authority)))).await;
        assert_eq!(dial(&client, &addrs[0]).await, Ok(node.node_id()), "{what}");
        assert!(!asked.lock().unwrap().is_empty(), "{what}");
    }
    let (system, _) = name_server(Server::Silent).await;
    let (client, _events) = start(client_config(&network, system, Some((https, &authority)))).await;
    let cause = dial(&client, &"/dns4/nobody.example/tcp/1".parse().unwrap()).await.unwrap_err();
    assert!(
        cause.contains("nobody.example") && cause.contains("timed out") && cause.contains("no such name"),
        "{cause}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_local_network_are_not_told_to_others() {
    let network = network();
    let authority = Authority::new("Test Authority");
    let (https, asked) = https_server(&authority, zone(&[("nas.internal", &["127.0.0.2"])])).await;
    let (system, _) = name_server(Server::Fails(ResponseCode::NXDomain)).await;
    let (client, _events) = start(client_config(&network, system, Some((https, &authority)))).await;
    let cause = dial(&client, &"/dns4/nas.internal/tcp/1".parse().unwrap()).await.unwrap_err();
    assert!(cause.contains("no such name"), "{cause}");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_doh_only_the_system_is_not_asked() {
    let network = network();
    let authority = Authority::new("Test Authority");
    let (node, _events, addrs) = named_node(&network, "relay.example").await;
    let (https, _) = https_server(&authority, zone(&[("relay.example", &["127.0.0.2"])])).await;
    let (system, asked) = name_server(Server::Silent).await;
    let mut config = client_config(&network, system, Some((https, &authority)));
    config.transport.dns.https_only = true;
    // One server that is not there costs a head start, not the answer.
    let dead = DohUpstream::parse("https://dead.example:1/dns-query@127.0.0.3").unwrap();
    config.transport.dns.upstreams.insert(0, dead);
    let (client, _events) = start(config).await;
    assert_eq!(dial(&client, &addrs[0]).await, Ok(node.node_id()));
    assert!(asked.lock().unwrap().is_empty());

    let stranger = Authority::new("Somebody Else");
    let mut config = client_config(&network, system, Some((https, &stranger)));
    config.transport.dns.https_only = true;
    let (client, _events) = start(config).await;
    let cause = dial(&client, &addrs[0]).await.unwrap_err();
    assert!(cause.contains("doh.example") && cause.contains("CN=Test Authority"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_lists_of_seeds_are_looked_up_through_it() {
    let network = network();
    let authority = Authority::new("Test Authority");
    let (node, _events, addrs) = named_node(&network, "relay.example").await;
    let wss = addrs.iter().find(|addr| wc_mesh::address::transport_of(addr) == Some(Transport::Wss)).unwrap();
    let record = format!("dnsaddr={wss}");
    let records = zone(&[("_dnsaddr.seeds.example", &[&record])]);
    let (https, _) = https_server(&authority, records).await;
    let (system, _) = name_server(Server::Fails(ResponseCode::ServFail)).await;
    let (proxy, asked) = proxy(Manner::Open).await;
    let mut config = client_config(&network, system, Some((https, &authority)));
    config.transport.proxies.proxy = Some(Proxy::parse(&proxy.to_string()).unwrap());
    config.seeds = vec!["/dnsaddr/seeds.example".parse().unwrap()];
    let (_client, mut events) = start(config).await;
    let connected = until(&mut events, |event| match event {
        MeshEvent::Connected { node, transport, .. } => Some((node, transport)),
        _ => None,
    });
    assert_eq!(connected.await, (node.node_id(), Transport::Wss));
    let asked = asked.lock().unwrap().join("\n");
    assert!(asked.contains("CONNECT doh.example:") && asked.contains("CONNECT relay.example:"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_seeds_leads_to_all_of_them_and_to_no_end() {
    let network = network();
    let (one, _one_events, one_addrs) = named_node(&network, "one.example").await;
    let (two, _two_events, two_addrs) = named_node(&network, "two.example").await;
    let record = |addr: &Multiaddr| format!("dnsaddr={addr}");
    let unnamed = "dnsaddr=/ip4/127.0.0.2/tcp/1".to_owned();
    let records = zone(&[
        ("one.example", &["127.0.0.2"]),
        ("two.example", &["127.0.0.2"]),
        (
            "_dnsaddr.seeds.example",
            &[
                "v=spf1 -all",
                "dnsaddr=nonsense",
                &unnamed,
                &record(&one_addrs[0]),
                "dnsaddr=/dnsaddr/more.example",
            ],
        ),
        (
            "_dnsaddr.more.example",
            // Lists that name each other must come to an end.
            &["dnsaddr=/dnsaddr/seeds.example", "dnsaddr=/dnsaddr/more.example", &record(&two_addrs[1])],
        ),
    ]);
    let (system, asked) = name_server(records).await;
    let mut config = client_config(&network, system, None);
    config.seeds = vec!["/dnsaddr/seeds.example".parse().unwrap()];
    let (_client, mut events) = start(config).await;
    let mut waiting = vec![one.node_id(), two.node_id()];
    until(&mut events, |event| {
        if let MeshEvent::Connected { node, .. } = event {
            waiting.retain(|other| *other != node);
        }
        waiting.is_empty().then_some(())
    })
    .await;
    assert!(asked.lock().unwrap().len() < 40, "{:?}", asked.lock().unwrap());

    // With a node named, only its records count.
    let (client, _events) = start(client_config(&network, system, None)).await;
    let peer = one_addrs[0].iter().last().unwrap();
    let addr = "/dnsaddr/seeds.example".parse::<Multiaddr>().unwrap().with(peer);
    assert_eq!(dial(&client, &addr).await, Ok(one.node_id()));
}

//! Real sockets: one node, many callers, some of them rude.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use wc_api::{ApiError, CONNECTIONS_MAX, Client, SOCKET_NAME, Server};
use wc_proto::api::{Request, Response};
use wc_proto::limit::FRAME_BYTES_MAX;

/// Answers `Read` of any blob with nothing, `Stop` with too much, and everything else with `Done`.
async fn node(request: Request) -> Response {
    match request {
        Request::PutBytes { bytes, .. } => Response::Bytes(bytes),
        Request::Stop => Response::Bytes(vec![0; FRAME_BYTES_MAX]),
        Request::Pause => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Response::Done
        }
        _ => Response::Done,
    }
}

fn start(dir: &Path) -> JoinHandle<()> {
    let server = Server::bind(dir).expect("binds");
    tokio::spawn(async move { server.serve(node).await })
}

fn refusal_code(response: Response) -> String {
    match response {
        Response::Refused(refusals) => refusals[0].code.clone(),
        other => panic!("not a refusal: {other:?}"),
    }
}

/// Sends raw bytes and returns the code of the refusal that comes back.
async fn rude(dir: &Path, bytes: Vec<u8>) -> Option<String> {
    let path = dir.join(SOCKET_NAME);
    tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        stream.write_all(&bytes).expect("writes");
        stream.shutdown(std::net::Shutdown::Write).expect("half-closes");
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut body).ok()?;
        Some(refusal_code(wc_proto::frame::decode(&body).expect("decodes")))
    })
    .await
    .expect("joins")
}

#[tokio::test]
async fn one_connection_carries_many_requests_in_order() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let mut client = Client::connect(dir.path()).await.expect("connects");
    for turn in 0..100u8 {
        let bytes = vec![turn; usize::from(turn) * 1000];
        let answer =
            client.ask(Request::PutBytes { codec: 0x55, bytes: bytes.clone() }).await.expect("answers");
        assert_eq!(answer, Response::Bytes(bytes));
    }
}

#[tokio::test]
async fn directory_and_socket_are_for_the_owner_only() {
    let parent = tempfile::tempdir().expect("tempdir");
    let dir = parent.path().join("deep/data");
    let node = start(&dir);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(SOCKET_NAME)), 0o600);
    node.abort();
    let _ = node.await;
    assert!(!dir.join(SOCKET_NAME).exists(), "a stopped server removes its socket");
}

#[tokio::test]
async fn a_directory_that_others_can_write_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("opens");
    assert!(matches!(Server::bind(dir.path()), Err(ApiError::OpenToOthers { .. })));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("closes");
    fs::write(dir.path().join("letter"), "").expect("writes");
    let _node = start(dir.path());
    let mode = fs::metadata(dir.path()).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o755, "somebody else's directory keeps its mode");
}

#[tokio::test]
async fn no_node_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("tempdir");
    for dir in [dir.path().to_owned(), dir.path().join("missing")] {
        let error = Client::connect(&dir).await.expect_err("nobody there");
        assert_eq!(error.to_string(), format!("not connected: no node is running in {}", dir.display()));
        assert_eq!(error.to_refusal().hint.as_deref(), Some("run 'worldcompute node run' first"));
    }
}

#[tokio::test]
async fn a_second_node_in_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let error = Server::bind(dir.path()).expect_err("taken");
    assert_eq!(error.to_string(), format!("another node is already running in {}", dir.path().display()));
    let mut client = Client::connect(dir.path()).await.expect("the first still answers");
    assert_eq!(client.ask(Request::Resume).await.expect("answers"), Response::Done);
}

#[tokio::test]
async fn the_socket_of_a_dead_node_is_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    drop(UnixListener::bind(dir.path().join(SOCKET_NAME)).expect("binds"));
    assert!(dir.path().join(SOCKET_NAME).exists());
    assert!(matches!(Client::connect(dir.path()).await, Err(ApiError::NotConnected { .. })));
    let _node = start(dir.path());
    assert!(Client::connect(dir.path()).await.is_ok());
}

#[tokio::test]
async fn a_directory_with_a_very_long_name_works() {
    let parent = tempfile::tempdir().expect("tempdir");
    let dir = parent.path().join("d".repeat(200)).join("e".repeat(200));
    let _node = start(&dir);
    let mut client = Client::connect(&dir).await.expect("connects");
    assert_eq!(client.ask(Request::Resume).await.expect("answers"), Response::Done);
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_caller_served() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let garbage = [&8u32.to_be_bytes()[..], b"\xff\xff\xff\xff\xff\xff\xff\xff"].concat();
    assert_eq!(rude(dir.path(), garbage).await.as_deref(), Some("WC-API-008"));
    assert_eq!(rude(dir.path(), u32::MAX.to_be_bytes().to_vec()).await.as_deref(), Some("WC-API-009"));
    assert_eq!(rude(dir.path(), b"GET ".to_vec()).await.as_deref(), Some("WC-API-009"));
    assert_eq!(rude(dir.path(), vec![0, 0]).await, None, "half a prefix has no answer");
    assert_eq!(rude(dir.path(), [&9u32.to_be_bytes()[..], b"half"].concat()).await, None);
    let mut client = Client::connect(dir.path()).await.expect("connects");
    assert_eq!(client.ask(Request::Resume).await.expect("answers"), Response::Done);
}

#[tokio::test]
async fn an_oversized_request_never_leaves_and_an_oversized_answer_is_a_refusal() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let mut client = Client::connect(dir.path()).await.expect("connects");
    let error = client.ask(Request::PutBytes { codec: 0x55, bytes: vec![0; FRAME_BYTES_MAX] }).await;
    assert!(matches!(error, Err(ApiError::Frame(_))));
    assert_eq!(refusal_code(client.ask(Request::Stop).await.expect("answers")), "WC-API-011");
    assert_eq!(client.ask(Request::Resume).await.expect("goes on"), Response::Done);
}

#[tokio::test]
async fn many_clients_at_once_all_get_their_own_answer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let mut callers = Vec::new();
    for caller in 0..48u8 {
        let dir = dir.path().to_owned();
        callers.push(tokio::spawn(async move {
            let mut client = Client::connect(&dir).await.expect("connects");
            for _ in 0..20 {
                assert_eq!(client.ask(Request::Pause).await.expect("answers"), Response::Done);
                let bytes = vec![caller; 100];
                let answer = client.ask(Request::PutBytes { codec: 0x55, bytes: bytes.clone() }).await;
                assert_eq!(answer.expect("answers"), Response::Bytes(bytes));
            }
        }));
    }
    for caller in callers {
        caller.await.expect("finishes");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _node = start(dir.path());
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = Client::connect(dir.path()).await.expect("connects");
        client.ask(Request::Resume).await.expect("answers");
        held.push(client);
    }
    let mut late = Client::connect(dir.path()).await.expect("connects");
    assert_eq!(refusal_code(late.ask(Request::Resume).await.expect("answers")), "WC-API-010");
    held.pop();
    tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let mut client = Client::connect(dir.path()).await.expect("connects");
            if client.ask(Request::Resume).await.expect("answers") == Response::Done {
                return;
            }
        }
    })
    .await
    .expect("the freed place is used");
}

#[tokio::test]
async fn a_node_that_stops_mid_request_is_reported() {
    let dir = tempfile::tempdir().expect("tempdir");
    let node = start(dir.path());
    let mut client = Client::connect(dir.path()).await.expect("connects");
    client.ask(Request::Resume).await.expect("answers");
    node.abort();
    let _ = node.await;
    assert!(matches!(client.ask(Request::Resume).await, Err(ApiError::Closed)));
}

//! A log that answers from a script: what the client asks for, and what it makes of the answers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use wc_anchor::{ANSWER_BYTES_MAX, ClientConfig, ClientError, LogClient, Taken};
use wc_types::Millis;

const ID: &str = "108e9186e8c5677aac3650aee1c1b3821211cf07067c1a118d0a7f86867bbb1df340cb8fc9c221af";

/// Reads one request: its head, and its body by its length.
fn request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("the body");
    head + &String::from_utf8_lossy(&body)
}

/// Serves one answer per connection, and tells the requests.
fn serve(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (told, requests) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = told.send(request(&mut stream));
            let _ = stream.write_all(&answer);
        }
    });
    (url, requests)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn config(url: &str) -> ClientConfig {
    ClientConfig { url: url.to_owned(), authorities_pem: None, proxy: None, timeout: Duration::from_secs(20) }
}

fn client(url: &str) -> LogClient {
    LogClient::new(&config(url)).expect("an address of this machine")
}

#[test]
fn an_entry_is_posted_as_json_and_the_answer_is_returned_as_it_is() {
    let (url, requests) = serve(vec![answer("201 Created", "", b"{\"x\":1}")]);
    assert_eq!(client(&url).submit_v1(b"{\"a\":2}").expect("taken"), b"{\"x\":1}");
    let request = requests.recv().expect("a request");
    assert!(request.starts_with("POST /api/v1/log/entries HTTP/1.1\r\n"), "{request}");
    assert!(request.to_ascii_lowercase().contains("content-type: application/json"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"a\":2}"), "{request}");
}

#[test]
fn an_entry_that_v1_has_already_is_fetched_by_its_id_and_from_nowhere_else() {
    for location in
        [format!("/api/v1/log/entries/{ID}"), format!("https://elsewhere.example/api/v1/log/entries/{ID}")]
    {
        let conflict = answer("409 Conflict", &format!("location: {location}\r\n"), b"{}");
        let (url, requests) = serve(vec![conflict, answer("200 OK", "", b"the entry")]);
        assert_eq!(client(&url).submit_v1(b"{}").expect("fetched"), b"the entry");
        assert!(requests.recv().expect("a request").starts_with("POST "));
        let second = requests.recv().expect("a second request");
        assert!(second.starts_with(&format!("GET /api/v1/log/entries/{ID} HTTP/1.1\r\n")), "{second}");
    }
    for location in ["", "location: /\r\n", "location: /api/v1/log/entries/../../../etc/passwd\r\n"] {
        let (url, _requests) = serve(vec![answer("409 Conflict", location, b"{}")]);
        let error = client(&url).submit_v1(b"{}").expect_err("no id");
        assert!(matches!(error, ClientError::Incomplete { .. }), "{error}");
    }
}

#[test]
fn an_entry_that_v2_has_already_is_named_by_its_number() {
    let (url, _requests) = serve(vec![answer("409 Conflict", "x-log-index: 77\r\n", b"{}")]);
    assert_eq!(client(&url).submit_v2(b"{}").expect("there"), Taken::Before(77));
    let (url, _requests) = serve(vec![answer("409 Conflict", "", b"{}")]);
    assert!(matches!(client(&url).submit_v2(b"{}"), Err(ClientError::Incomplete { .. })));
}

#[test]
fn tiles_and_checkpoints_are_asked_for_by_their_names() {
    let (url, requests) = serve(vec![answer("200 OK", "", b"x"); 4]);
    let client = client(&url);
    client.checkpoint_v2().expect("answered");
    client.tile_v2(1, 0, 3).expect("answered");
    client.bundle_v2(1234, 256).expect("answered");
    client.entry_v1(ID).expect("answered");
    for path in ["checkpoint", "tile/1/000.p/3", "tile/entries/x001/234"] {
        let request = requests.recv().expect("a request");
        assert!(request.starts_with(&format!("GET /api/v2/{path} HTTP/1.1\r\n")), "{request}");
    }
}

#[test]
fn a_log_that_is_busy_says_how_long_to_wait() {
    for (status, headers, wait) in [
        ("429 Too Many Requests", "retry-after: 7\r\n", Some(Millis(7000))),
        ("503 Service Unavailable", "", None),
        ("500 Oops", "retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n", None),
    ] {
        let (url, _requests) = serve(vec![answer(status, headers, b"later")]);
        let error = client(&url).submit_v2(b"{}").expect_err("busy");
        assert!(matches!(error, ClientError::Busy { .. }), "{error}");
        assert_eq!(error.wait(), wait);
    }
}

#[test]
fn a_refusal_is_told_in_the_logs_own_words_without_its_control_characters() {
    let (url, _requests) = serve(vec![answer("400 Bad Request", "", b"bad\x1b[2J\nkey")]);
    let error = client(&url).submit_v1(b"{}").expect_err("refused");
    assert_eq!(error.to_string(), "the log refuses (status 400): bad [2J key");
    assert_eq!(error.to_refusal().code, "WC-ANCHOR-005");
}

#[test]
fn redirects_are_not_followed() {
    let moved = answer("302 Found", "location: http://127.0.0.1:9/\r\n", b"");
    let (url, _requests) = serve(vec![moved]);
    assert!(matches!(client(&url).submit_v1(b"{}"), Err(ClientError::Refused { status: 302, .. })));
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let large = vec![b'x'; usize::try_from(ANSWER_BYTES_MAX).expect("small") + 1];
    let (url, _requests) = serve(vec![answer("201 Created", "", &large)]);
    let error = client(&url).submit_v1(b"{}").expect_err("too large");
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    // The same without a length.
    let endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), &large].concat();
    let (url, _requests) = serve(vec![endless]);
    let error = client(&url).submit_v1(b"{}").expect_err("too large");
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
}

#[test]
fn garbage_and_silence_are_no_answers() {
    let (url, _requests) = serve(vec![b"\x16\x03\x01 no http at all\r\n\r\n".to_vec()]);
    assert!(matches!(client(&url).submit_v1(b"{}"), Err(ClientError::Unreachable { .. })));
    let (url, _requests) = serve(vec![Vec::new()]);
    assert!(matches!(client(&url).submit_v1(b"{}"), Err(ClientError::Unreachable { .. })));
    // Half an answer.
    let (url, _requests) = serve(vec![b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\nhalf".to_vec()]);
    assert!(matches!(client(&url).submit_v1(b"{}"), Err(ClientError::Unreachable { .. })));
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("address").port();
    let error = client(&format!("http://127.0.0.1:{port}")).submit_v1(b"{}").expect_err("nobody");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[test]
fn a_log_that_is_too_slow_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
        }
    });
    let mut config = config(&url);
    config.timeout = Duration::from_millis(300);
    let started = Instant::now();
    let error = LogClient::new(&config).expect("an address").submit_v2(b"{}").expect_err("too slow");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn only_https_leaves_this_machine() {
    for url in [
        "https://log.example",
        "https://log.example/path/",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "http://localhost",
    ] {
        assert!(LogClient::new(&config(url)).is_ok(), "{url}");
    }
    for url in [
        "http://log.example",
        "http://192.168.1.1",
        "http://localhost.example",
        "ftp://log.example",
        "log.example",
        "",
        "https://",
        "https://user:secret@log.example",
        "https://log.example/?a=b",
        "file:///etc/passwd",
    ] {
        assert!(matches!(LogClient::new(&config(url)), Err(ClientError::Address { .. })), "{url}");
    }
}

#[test]
fn a_log_is_who_its_certificate_says_or_is_not_spoken_to() {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("a server");
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut connection = rustls::ServerConnection::new(tls.clone()).expect("a connection");
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            if tls.flush().is_ok() {
                let _ = request(&mut tls);
                let _ = tls.write_all(&answer("200 OK", "", b"over TLS"));
                connection.send_close_notify();
                let _ = connection.complete_io(&mut stream);
            }
        }
    });
    let url = format!("https://localhost:{port}");
    let stranger =
        LogClient::new(&config(&url)).expect("an address").checkpoint_v2().expect_err("unknown issuer");
    assert!(matches!(stranger, ClientError::Unreachable { .. }), "{stranger}");
    let mut known = config(&url);
    known.authorities_pem = Some(certificate.pem().into_bytes());
    assert_eq!(LogClient::new(&known).expect("an address").checkpoint_v2().expect("trusted"), b"over TLS");
    known.authorities_pem = Some(b"not pem".to_vec());
    assert!(matches!(LogClient::new(&known), Err(ClientError::Certificates { .. })));
}

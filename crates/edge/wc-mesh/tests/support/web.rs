//! What stands between nodes and the network, on 127.0.0.1: authorities, proxies, and somebody who reads along.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Issues certificates.
pub struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.pem().into_bytes()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.certificate, &self.key).unwrap(), key)
    }

    /// Writes a certificate for `name` and its key, in PEM.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue(name);
        let (chain_path, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&chain_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (chain_path, key_path)
    }

    /// Returns a TLS server for `name`.
    pub fn server(&self, name: &str) -> tokio_rustls::TlsAcceptor {
        let (certificate, key) = self.issue(name);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }
}

/// Starts somebody who opens the TLS of everyone who comes, shows a certificate of `authority` for 127.0.0.1, and passes
/// everything on to `relay`. Returns where, and what was seen inside so far.
pub async fn interceptor(authority: &Authority, relay: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = authority.server("127.0.0.1");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_inside = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen_inside.clone());
            tokio::spawn(async move {
                let Ok(client) = acceptor.accept(socket).await else { return };
                let server = tls_to(relay).await;
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (tokio::io::split(client), tokio::io::split(server));
                let outward = async {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                        seen.lock().unwrap().extend_from_slice(&bytes[..count]);
                        if to_server.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(outward, async {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
            });
        }
    });
    (addr, seen)
}

/// Connects to a TLS server as a web browser would that believes everything.
pub async fn tls_to(addr: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::from(addr.ip());
    connector.connect(name, TcpStream::connect(addr).await.unwrap()).await.unwrap()
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How a proxy behaves.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Connects everyone to the wanted port of 127.0.0.2.
    Open,
    /// The same, for those who know `ann` and her password.
    Password,
    /// Says this and nothing more.
    Says(&'static [u8]),
    /// Accepts and stays silent.
    Silent,
    /// Never ends its answer.
    Endless,
}

/// Starts a proxy. Returns where, and the first lines of what it was asked.
pub async fn proxy(manner: Manner) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asked_here = asked.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let asked = asked_here.clone();
            tokio::spawn(async move { serve_proxy(socket, manner, &asked).await });
        }
    });
    (addr, asked)
}

async fn serve_proxy(mut socket: TcpStream, manner: Manner, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let port: u16 = line.split(' ').nth(1)?.rsplit_once(':')?.1.parse().ok()?;
    asked.lock().unwrap().push(line);
    match manner {
        Manner::Password if !head.contains("Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n") => {
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n";
            socket.write_all(answer).await.ok()?;
        }
        Manner::Open | Manner::Password => {
            let mut server = TcpStream::connect(("127.0.0.2", port)).await.ok()?;
            socket.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.ok()?;
            let _ = copy_bidirectional(&mut socket, &mut server).await;
        }
        Manner::Says(answer) => socket.write_all(answer).await.ok()?,
        Manner::Silent => std::future::pending().await,
        Manner::Endless => loop {
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nA: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
                .await
                .ok()?;
        },
    }
    Some(())
}

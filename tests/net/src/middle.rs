//! What stands in the middle: a proxy that wants a password, and somebody who opens TLS and reads along.
//!
//! Both run inside a namespace, as a process of `netbox`, and print a line for each connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

/// Who signs the certificates that the reader shows, as their victims see it.
pub const READER: &str = "Lab Security Appliance";
/// Longest request that a proxy reads.
const REQUEST_BYTES_MAX: usize = 8192;

/// Serves CONNECT to port 443 to those who know `credentials` (`user:password`), until the process ends.
///
/// # Errors
/// When the address is taken.
pub async fn proxy(listen: SocketAddr, credentials: String, reader: Option<Arc<Reader>>) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let expected = format!("Basic {}", BASE64.encode(credentials.as_bytes()));
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let (expected, reader) = (expected.clone(), reader.clone());
            tokio::spawn(async move {
                if let Err(error) = connect(stream, &expected, reader).await {
                    println!("from {from}: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn connect(mut client: TcpStream, expected: &str, reader: Option<Arc<Reader>>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.push(client.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut lines = request.lines();
    let target = lines.next().and_then(|line| line.strip_prefix("CONNECT ")).unwrap_or_default();
    let target = target.split(' ').next().unwrap_or_default().to_owned();
    let known = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization") && value.trim() == expected);
    if !known {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\
            Proxy-Authenticate: Basic realm=\"lab\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        client.write_all(refusal.as_bytes()).await?;
        println!("407 {target}");
        return Ok(());
    }
    // As most companies have it: CONNECT is for the web.
    if !target.ends_with(":443") {
        client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await?;
        println!("403 {target}");
        return Ok(());
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await?;
        println!("502 {target}");
        return Ok(());
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    println!("200 {target}");
    match reader {
        Some(reader) => reader.read_along(client, server).await,
        None => copy_bidirectional(&mut client, &mut server).await.map(|_| ()),
    }
}

/// Issues certificates.
pub struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// Makes an authority and writes its certificate, in PEM, where those who are to believe it can have it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(name: &str, pem: &Path) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        std::fs::write(pem, certificate.pem())?;
        Ok(Self { certificate, key })
    }

    /// Returns what a server needs that is to be taken for `name`.
    ///
    /// # Errors
    /// When there can be no certificate for such a name.
    pub fn server(&self, name: &str, protocols: Vec<Vec<u8>>) -> io::Result<Arc<ServerConfig>> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let params = CertificateParams::new(vec![name.to_owned()]).map_err(io::Error::other)?;
        let shown = params.signed_by(&key, &self.certificate, &self.key).map_err(io::Error::other)?;
        let chain = vec![shown.der().clone(), self.certificate.der().clone()];
        let mut server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(io::Error::other)?;
        server.alpn_protocols = protocols;
        Ok(Arc::new(server))
    }
}

/// Somebody who opens TLS: shows everyone a certificate of its own authority.
pub struct Reader(Authority);

impl Reader {
    /// Makes the reader's authority and writes its certificate, in PEM, where the victims' store can have it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(pem: &Path) -> io::Result<Self> {
        Authority::new(READER, pem).map(Self)
    }

    /// Reads along with every connection that a router redirects here, until the process ends.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn serve(self: Arc<Self>, listen: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(listen).await?;
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let reader = self.clone();
                tokio::spawn(async move {
                    let meant = socket2::SockRef::from(&client).original_dst_v4();
                    let Some(meant) = meant.ok().and_then(|address| address.as_socket()) else { return };
                    println!("redirected {meant}");
                    let Ok(server) = TcpStream::connect(meant).await else { return };
                    if let Err(error) = reader.read_along(client, server).await {
                        println!("{meant}: {error}");
                    }
                });
            }
        });
        Ok(())
    }

    /// Ends the client's TLS here and begins another to the server, in which it believes everything.
    async fn read_along(&self, client: TcpStream, server: TcpStream) -> io::Result<()> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), client).await?;
        let wanted = hello.client_hello();
        let name = wanted.server_name().map_or_else(
            || server.peer_addr().map(|address| address.ip().to_string()),
            |name| Ok(name.to_owned()),
        )?;
        let protocols: Vec<Vec<u8>> = wanted.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();

        let mut outward = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        outward.alpn_protocols.clone_from(&protocols);
        let server_name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
        let mut server = TlsConnector::from(Arc::new(outward)).connect(server_name, server).await?;

        let chosen = server.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let inward = self.0.server(&name, chosen.into_iter().collect())?;
        let mut client = hello.into_stream(inward).await?;
        println!("reading along with {name}");
        copy_bidirectional(&mut client, &mut server).await.map(|_| ())
    }
}

/// Believes every certificate, as the appliance does that nobody checks.
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
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

/// Runs one of the above on a runtime of its own and says that it is ready; ends with the standard input.
///
/// # Errors
/// When it could not start.
pub fn block(serving: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serving)?;
    println!("ready");
    io::Read::read_to_end(&mut io::stdin(), &mut Vec::new())?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}

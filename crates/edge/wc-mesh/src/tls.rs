//! TLS 1.3 between two nodes, as libp2p specifies it (`/tls/1.0.0`), with AES-GCM proposed first.
//!
//! Certificates, and the check that ties them to a node's key, are `libp2p-tls`'s own. Its handshake prefers
//! ChaCha20-Poly1305, which costs several times more than AES-GCM on every processor with AES instructions; the order of
//! the suites is the one thing that cannot be set there. The wire is the same, so both sides may be either.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

/// Name of this handshake in the negotiation.
pub(crate) const PROTOCOL: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";
/// Ciphertext read from the socket in one go. rustls asks for 4 KiB at a time, which is a system call each.
const READ_BYTES: usize = 128 << 10;

/// Encrypts a connection and learns the peer's id.
#[derive(Clone)]
pub(crate) struct Upgrade {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// A handshake failed or could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("generating the certificate failed")]
    Certificate(#[from] certificate::GenError),
    #[error("the TLS configuration is impossible")]
    Config(#[from] Error),
    #[error("the handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the peer's certificate names no node")]
    Peer,
}

impl Upgrade {
    pub(crate) fn new(key: &Keypair) -> Result<Self, TlsError> {
        let (certificate, private_key) = certificate::generate(key)?;
        // The default order of the provider is AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let signer = provider.key_provider.load_private_key(private_key)?;
        // Not `with_single_cert`: that looks into the certificate, and libp2p's extension is critical and unknown.
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer)));
        let verifier = Arc::new(Verifier(provider.clone()));
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(own.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        // All nodes share one server name here, so remembered sessions would be those of somebody else.
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(own);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// Returns what QUIC, which shakes hands by itself, does so with: as a client and as a server.
    pub(crate) fn configs(&self) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        (self.client.clone(), self.server.clone())
    }
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

type Output<C> = (PeerId, TlsStream<BufReader<C>>);

impl<C> InboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Output<C>;
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            let stream = TlsAcceptor::from(self.server).accept(socket).await.map_err(TlsError::Handshake)?;
            let peer = peer_of(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Upgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Output<C>;
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            // The name is not sent: the specification forbids it, and nodes are known by keys.
            let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let connected = TlsConnector::from(self.client).connect(nobody, socket).await;
            let stream = connected.map_err(TlsError::Handshake)?;
            let peer = peer_of(stream.get_ref().1)?;
            Ok((peer, stream.into()))
        }
        .boxed()
    }
}

/// Returns the peer that a finished handshake has proven.
fn peer_of(state: &CommonState) -> Result<PeerId, TlsError> {
    peer_of_chain(state.peer_certificates().unwrap_or_default())
}

/// Returns the peer whose certificates were proven in a handshake.
pub(crate) fn peer_of_chain(certificates: &[CertificateDer<'_>]) -> Result<PeerId, TlsError> {
    let [only] = certificates else { return Err(TlsError::Peer) };
    Ok(certificate::parse(only).map_err(|_| TlsError::Peer)?.peer_id())
}

/// Accepts exactly one self-signed certificate whose libp2p extension signs its key with the node's. Which node that
/// must be, the swarm compares afterwards.
#[derive(Debug)]
struct Verifier(Arc<CryptoProvider>);

impl Verifier {
    fn check(end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("more than one certificate".to_owned()));
        }
        // Checks validity, the self-signature and the extension's signature.
        certificate::parse(end_entity)?;
        Ok(())
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

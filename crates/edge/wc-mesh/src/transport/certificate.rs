//! Whose certificate: the one that our own WebSocket listener shows, and whether to believe the one that we are shown.
//!
//! The session inside the WebSocket proves the peer's key in any case. What the certificate adds is that nobody between
//! the two reads along and that the network sees an ordinary web site; a certificate that is neither the relay's own nor
//! issued by a public authority for its name means that somebody does sit in between (NET-22).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::channel::mpsc;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use wc_types::cid::sha256;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::acme::AcmeConfig;
use super::http::quote;

/// What a middlebox sees as the protocol inside: ordinary HTTPS.
const ALPN: &[u8] = b"http/1.1";
/// The protocol of an authority that looks whether a name is ours (RFC 8737).
const ALPN_PROOF: &[u8] = b"acme-tls/1";
/// How often the files of a certificate are looked at for a newer one.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// Largest file that is read as certificates or as a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where the certificate of our WebSocket listener comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WssCertificate {
    /// Made at every start: the address changes with it.
    #[default]
    Fresh,
    /// Self-signed, made once and kept in this directory.
    Kept(PathBuf),
    /// Issued by somebody else, in PEM; read again when the files change.
    Files {
        /// The certificate, followed by those of its issuers.
        chain: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Issued by an authority that is asked for it, and renewed in time; self-signed until then.
    Issued {
        /// Which one.
        wanted: AcmeConfig,
        /// Where the self-signed one is kept.
        before: PathBuf,
    },
}

/// The certificate of our listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("wss certificate: {path} cannot be read: {cause}")]
    Read { path: String, cause: String },
    #[error("wss certificate: {path} cannot be written: {cause}")]
    Write { path: String, cause: String },
    #[error("wss certificate: it does not fit its key, or is none: {0}")]
    Unusable(String),
    #[error("wss certificate: it could not be made: {0}")]
    Make(String),
}

/// The certificate that our listener shows.
#[derive(Debug)]
pub(crate) struct Identity {
    source: WssCertificate,
    shown: Mutex<Shown>,
    /// What an authority is shown that looks whether the name is ours.
    proof: Mutex<Option<Arc<CertifiedKey>>>,
    changed: Mutex<mpsc::Sender<()>>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// When the files were last looked at, and how old they were then.
    looked: Instant,
    modified: Option<SystemTime>,
}

/// What clients must know about the certificate to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its first name, if an authority issued it.
    pub(crate) name: Option<String>,
    /// Its fingerprint, if it is self-signed.
    pub(crate) pin: Option<[u8; 32]>,
}

impl Identity {
    /// Returns the identity, and what says that it has become another: its addresses then are others, too.
    pub(crate) fn new(source: WssCertificate) -> Result<(Arc<Self>, mpsc::Receiver<()>), IdentityError> {
        let (chain, key) = match &source {
            WssCertificate::Fresh => make()?,
            WssCertificate::Kept(dir) => kept(dir)?,
            WssCertificate::Files { chain, key } => files(chain, key)?,
            WssCertificate::Issued { wanted, before } => match wanted.issued() {
                Some(issued) => issued.pair,
                None => kept(before)?,
            },
        };
        let shown =
            Shown { key: certified(chain, key)?, looked: Instant::now(), modified: modified(&source) };
        let (changed, changes) = mpsc::channel(1);
        let (shown, proof, changed) = (Mutex::new(shown), Mutex::default(), Mutex::new(changed));
        Ok((Arc::new(Self { source, shown, proof, changed }), changes))
    }

    /// Shows another certificate from now on.
    pub(super) fn show(&self, (chain, key): Pair) -> Result<(), IdentityError> {
        let key = certified(chain, key)?;
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).key = key;
        // A full channel says it already.
        let _ = self.changed.lock().unwrap_or_else(PoisonError::into_inner).try_send(());
        Ok(())
    }

    /// Shows this to an authority that looks whether the name is ours; nothing if there is none.
    pub(super) fn prove(&self, proof: Option<Pair>) -> Result<(), IdentityError> {
        let load = |(chain, key)| {
            // Not `certified`, which reads the certificate: what makes it a proof is an extension that no client knows.
            let key = aws_lc_rs::default_provider().key_provider.load_private_key(key);
            let key = key.map_err(|error| IdentityError::Unusable(error.to_string()))?;
            Ok(Arc::new(CertifiedKey::new(chain, key)))
        };
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = proof.map(load).transpose()?;
        Ok(())
    }

    /// Returns the TLS configuration of a listener that shows this certificate.
    pub(crate) fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        if matches!(self.source, WssCertificate::Issued { .. }) {
            config.alpn_protocols.push(ALPN_PROOF.to_vec());
        }
        Ok(Arc::new(config))
    }

    pub(crate) fn claim(&self) -> Claim {
        let key = self.current();
        let Some(leaf) = key.cert.first() else { return Claim { name: None, pin: None } };
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            return Claim { name: None, pin: Some(sha256(leaf)) };
        };
        if parsed.issuer() == parsed.subject() {
            return Claim { name: None, pin: Some(sha256(leaf)) };
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let name = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(name) => crate::address::host_name(name),
                _ => None,
            })
        });
        Claim { name, pin: None }
    }

    /// Returns the certificate to show now, read again if its files have changed.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let WssCertificate::Files { chain, key } = &self.source
            && shown.looked.elapsed() >= RELOAD_INTERVAL
        {
            shown.looked = Instant::now();
            let changed = modified(&self.source);
            if changed != shown.modified {
                match files(chain, key).and_then(|(chain, key)| certified(chain, key)) {
                    Ok(newer) => {
                        tracing::info!(path = %chain.display(), "the wss certificate has changed");
                        shown.key = newer;
                        shown.modified = changed;
                    }
                    // The two files may be halfway replaced: the next look decides.
                    Err(error) => {
                        tracing::warn!(%error, "the new wss certificate is not usable; the old one stays")
                    }
                }
            }
        }
        shown.key.clone()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Nobody else asks for this protocol, and those who do ask for nothing else.
        if hello.alpn().is_some_and(|mut wanted| wanted.any(|one| one == ALPN_PROOF)) {
            return self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        Some(self.current())
    }
}

/// A chain of certificates, and the key of the first.
pub(super) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let provider = aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider);
    Ok(Arc::new(key.map_err(|error| IdentityError::Unusable(error.to_string()))?))
}

/// Makes a self-signed ECDSA certificate (E-84: browsers and middleboxes know no Ed25519).
fn make() -> Result<Pair, IdentityError> {
    let failed = |error: rcgen::Error| IdentityError::Make(error.to_string());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, "self-signed");
    params.distinguished_name = name;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

fn kept(dir: &Path) -> Result<Pair, IdentityError> {
    let (chain_path, key_path) = (dir.join("certificate.der"), dir.join("key.der"));
    match (read(&chain_path), read(&key_path)) {
        (Ok(chain), Ok(key)) => Ok((vec![chain.into()], PrivatePkcs8KeyDer::from(key).into())),
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            Err(IdentityError::Read { path: dir.display().to_string(), cause: error.to_string() })
        }
        _ => {
            let (chain, key) = make()?;
            let failed = |path: &Path| {
                let path = path.display().to_string();
                move |error: io::Error| IdentityError::Write { path, cause: error.to_string() }
            };
            fs::create_dir_all(dir).map_err(failed(dir))?;
            write(&key_path, key.secret_der()).map_err(failed(&key_path))?;
            write(&chain_path, &chain[0]).map_err(failed(&chain_path))?;
            Ok((chain, key))
        }
    }
}

fn files(chain: &Path, key: &Path) -> Result<Pair, IdentityError> {
    let failed = |path: &Path, cause: String| IdentityError::Read { path: path.display().to_string(), cause };
    let certificates = read(chain).map_err(|error| failed(chain, error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
    let certificates = certificates.map_err(|error| failed(chain, error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed(chain, "it holds no certificate in PEM".to_owned()));
    }
    let secret = read(key).map_err(|error| failed(key, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&secret);
    Ok((certificates, secret.map_err(|error| failed(key, error.to_string()))?))
}

fn modified(source: &WssCertificate) -> Option<SystemTime> {
    let WssCertificate::Files { chain, key } = source else { return None };
    let of = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    of(chain).max(of(key))
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(PEM_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file that only its owner may read.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

/// What to do about certificates that somebody in between has made (NET-22).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Inspection {
    /// Refuse the connection.
    #[default]
    Refuse,
    /// Accept those of the authorities in this file, or of the machine's own store if there is none, and mark the
    /// connection.
    Allow {
        /// The authorities, in PEM.
        authorities: Option<PathBuf>,
    },
}

/// Whom we believe, as a client.
#[derive(Debug)]
pub(crate) struct Trust {
    provider: Arc<CryptoProvider>,
    /// PEM of authorities that count like the public ones.
    authorities: Option<Vec<u8>>,
    inspection: Inspection,
    // Both are made at the first handshake: most nodes never need them.
    public: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
    machine: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
}

/// Why a certificate was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Belief {
    /// It is one of those that the address names, or of a public authority for the right name.
    Genuine,
    /// The machine's owner allows whoever issued it to read along.
    Inspected { issuer: String },
}

/// A certificate was not believed: somebody between us and the peer shows its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{place} shows a certificate that is not the peer's, issued by {issuer:?} (sha256 {fingerprint}; {why}): {}",
    if *.self_signed {
        "refused; if it is the peer's own, its address lacks /certhash"
    } else {
        "somebody reads along; refused. If you trust them, start with --allow-ssl-inspection"
    }
)]
pub(crate) struct Disbelief {
    /// Name and port that were dialled.
    pub(crate) place: String,
    pub(crate) issuer: String,
    fingerprint: String,
    self_signed: bool,
    why: String,
}

impl Trust {
    pub(crate) fn new(authorities: Option<Vec<u8>>, inspection: Inspection) -> Arc<Self> {
        Arc::new(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            authorities,
            inspection,
            public: OnceLock::new(),
            machine: OnceLock::new(),
        })
    }

    /// Returns the TLS configuration of one handshake, and where its verdict will be.
    ///
    /// - `place`: what is dialled, for messages
    /// - `pins`: SHA-256 of certificates that are believed whoever issued them
    pub(crate) fn client(
        self: &Arc<Self>,
        place: &str,
        pins: Vec<[u8; 32]>,
    ) -> Result<(Arc<ClientConfig>, Arc<Judge>), Error> {
        let place = place.to_owned();
        let judge = Arc::new(Judge { trust: self.clone(), place, pins, verdict: Mutex::new(None) });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok((Arc::new(config), judge))
    }

    fn public(&self) -> Result<&Arc<WebPkiServerVerifier>, Error> {
        let made = self.public.get_or_init(|| {
            let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            for authority in self.authorities.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)) {
                let added = authority.map_err(|error| error.to_string());
                added.and_then(|authority| roots.add(authority).map_err(|error| error.to_string()))?;
            }
            self.verifier(roots)
        });
        made.as_ref().map_err(|error| Error::General(error.clone()))
    }

    /// Returns the verifier that believes the machine's authorities, if we may ask it.
    fn machine(&self) -> Option<Result<&Arc<WebPkiServerVerifier>, String>> {
        let Inspection::Allow { authorities } = &self.inspection else { return None };
        let made = self.machine.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = match authorities {
                Some(path) => {
                    let pem = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                    CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect()
                }
                None => rustls_native_certs::load_native_certs().certs,
            };
            roots.add_parsable_certificates(found);
            if roots.is_empty() {
                return Err("this machine's certificate store is empty".to_owned());
            }
            self.verifier(roots)
        });
        Some(made.as_ref().map_err(Clone::clone))
    }

    fn verifier(&self, roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| error.to_string())
    }
}

/// Judges the certificate of one handshake.
#[derive(Debug)]
pub(crate) struct Judge {
    trust: Arc<Trust>,
    place: String,
    pins: Vec<[u8; 32]>,
    verdict: Mutex<Option<Result<Belief, Disbelief>>>,
}

impl Judge {
    /// Returns what was found, once there was a certificate.
    pub(crate) fn verdict(&self) -> Option<Result<Belief, Disbelief>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<Belief, Disbelief> {
        let fingerprint = sha256(leaf);
        if self.pins.contains(&fingerprint) {
            return Ok(Belief::Genuine);
        }
        let public =
            self.trust.public().and_then(|public| public.verify_server_cert(leaf, others, name, ocsp, now));
        let Err(public) = public else { return Ok(Belief::Genuine) };
        let (issuer, self_signed) = match X509Certificate::from_der(leaf) {
            Ok((_, parsed)) => (quote(&parsed.issuer().to_string()), parsed.issuer() == parsed.subject()),
            Err(_) => ("nobody: it is no certificate".to_owned(), false),
        };
        let mut why = public.to_string();
        match self.trust.machine() {
            None => {}
            Some(Ok(machine)) => match machine.verify_server_cert(leaf, others, name, ocsp, now) {
                Ok(_) => return Ok(Belief::Inspected { issuer }),
                Err(error) => why = format!("this machine does not trust it either: {error}"),
            },
            Some(Err(error)) => why = error,
        }
        let fingerprint = data_encoding::HEXLOWER.encode(&fingerprint);
        Err(Disbelief { place: self.place.clone(), issuer, fingerprint, self_signed, why: quote(&why) })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.judge(leaf, others, name, ocsp, now);
        let result = match &verdict {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(disbelief) => Err(Error::General(disbelief.why.clone())),
        };
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.trust.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.trust.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_certificate_is_the_same_at_the_next_start_and_a_fresh_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Identity::new(WssCertificate::Kept(dir.path().join("wss"))).unwrap().0.claim();
        let claim = kept();
        assert!(claim.pin.is_some() && claim.name.is_none());
        assert_eq!(kept(), claim);
        let fresh = || Identity::new(WssCertificate::Fresh).unwrap().0.claim();
        assert_ne!(fresh(), fresh());
    }

    #[test]
    fn an_issued_certificate_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test Authority");
        let authority = params.self_signed(&authority_key).unwrap();
        let own = rcgen::KeyPair::generate().unwrap();
        let issued = rcgen::CertificateParams::new(vec!["Relay.Example".to_owned()]).unwrap();
        let issued = issued.signed_by(&own, &authority, &authority_key).unwrap();
        fs::write(&chain, issued.pem()).unwrap();
        fs::write(&key, own.serialize_pem()).unwrap();
        let source = WssCertificate::Files { chain: chain.clone(), key };
        let claim = Identity::new(source.clone()).unwrap().0.claim();
        assert_eq!(claim, Claim { name: Some("relay.example".to_owned()), pin: None });
        fs::write(&chain, authority.pem()).unwrap();
        let error = Identity::new(source).unwrap_err();
        assert!(matches!(error, IdentityError::Unusable(_)), "the key must fit: {error}");
    }
}

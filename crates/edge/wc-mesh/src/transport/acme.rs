//! A certificate that an authority issues for our listener's name, by ACME (RFC 8555), and its renewal.
//!
//! The name is proved on the listener's own port (TLS-ALPN-01, RFC 8737), so nothing else need be open; the authority looks
//! for it on port 443. Until the first certificate is there, the listener shows a self-signed one.
//!
//! ```text
//! <dir>/<name>/<authority>/account.json      the account and its key
//! <dir>/<name>/<authority>/certificate.pem   key and chain in one file, so that they are replaced as one
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use wc_types::cid::sha256;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::certificate::{Identity, Pair, read, write};
use super::{Outward, authority};
use crate::address::{Endpoint, Family, Host, host_name};
use crate::resolve::Resolver;

/// The authority that is asked unless another is named.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// How often it is looked whether the certificate wants renewing: also a machine that slept does it in time.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// First and longest pause after a failure. Public authorities allow five failures an hour.
const RETRY: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(6 * 3600));
/// One attempt, the authority's look at our port included.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(300);
/// One request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of an authority; a chain of certificates has some KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How the order is watched.
const WATCHED: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(90));

/// Which certificate is wanted, from whom, and where it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The name that leads to this machine.
    pub domain: String,
    /// Where the authority may write to, as a mail address.
    pub contact: Option<String>,
    /// The authority's directory, an `https` address.
    pub directory: String,
    /// Where accounts and certificates are kept.
    pub dir: PathBuf,
}

/// No certificate was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    #[error("{0}")]
    Protocol(#[from] instant_acme::Error),
    #[error("the authority did not issue it: {0}")]
    Refused(String),
    #[error("what it sent cannot be used: {0}")]
    Unusable(String),
    #[error("{path} cannot be used: {cause}")]
    Kept { path: String, cause: String },
    #[error("it took too long")]
    Timeout,
}

/// A certificate that was issued.
pub(crate) struct Issued {
    pub(crate) pair: Pair,
    /// From when on it is renewed: two thirds of its life.
    renew_at: SystemTime,
}

impl AcmeConfig {
    /// Another authority is another account, and its certificates are not the same to those who believe them.
    fn home(&self) -> PathBuf {
        let authority = HEXLOWER.encode(&sha256(self.directory.as_bytes())[..8]);
        self.dir.join(&self.domain).join(authority)
    }

    fn kept(&self, path: PathBuf) -> impl Fn(&dyn std::fmt::Display) -> AcmeError {
        move |cause| AcmeError::Kept { path: path.display().to_string(), cause: cause.to_string() }
    }

    /// Returns the certificate that is kept, if it is for this name and not over.
    pub(crate) fn issued(&self) -> Option<Issued> {
        let pem = read(&self.home().join("certificate.pem")).ok()?;
        match self.check(&pem) {
            Ok(issued) => Some(issued),
            Err(error) => {
                tracing::warn!(%error, "the kept certificate is of no use; a new one is asked for");
                None
            }
        }
    }

    /// Reads key and chain, and sees that they are what was wanted.
    fn check(&self, pem: &[u8]) -> Result<Issued, AcmeError> {
        let unusable = |what: &str| AcmeError::Unusable(what.to_owned());
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| unusable("it has no key"))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|_| unusable("its chain does not read"))?;
        let leaf = chain.first().ok_or_else(|| unusable("it has no certificate"))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| unusable("its first certificate"))?;
        let names = leaf.subject_alternative_name().ok().flatten();
        let is_ours = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if host_name(name).as_ref() == Some(&self.domain));
        if !names.is_some_and(|names| names.value.general_names.iter().any(is_ours)) {
            return Err(unusable("it is for another name"));
        }
        let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = leaf.validity();
        let (from, until) = (moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp()));
        if until <= SystemTime::now() {
            return Err(unusable("its time is over"));
        }
        let life = until.duration_since(from).unwrap_or_default();
        Ok(Issued { pair: (chain, key), renew_at: from + life / 3 * 2 })
    }

    /// Replaces a file that only its owner may read, whole or not at all.
    fn keep(&self, name: &str, content: &[u8]) -> Result<(), AcmeError> {
        let home = self.home();
        let kept = (|| -> io::Result<()> {
            fs::create_dir_all(&home)?;
            let draft = home.join(format!(".{name}.new"));
            write(&draft, content)?;
            fs::File::open(&draft)?.sync_all()?;
            fs::rename(&draft, home.join(name))?;
            fs::File::open(&home)?.sync_all()
        })();
        kept.map_err(|error| self.kept(home.join(name))(&error))
    }
}

/// Keeps the certificate of `identity` in time until nobody has it any more.
pub(crate) async fn run(identity: Weak<Identity>, config: AcmeConfig, web: Web) {
    let mut pause = RETRY.0;
    loop {
        let due = config.issued().map_or(Duration::ZERO, |issued| {
            issued.renew_at.duration_since(SystemTime::now()).unwrap_or_default()
        });
        if !due.is_zero() {
            tokio::time::sleep(due.min(LOOK_EVERY)).await;
            if identity.strong_count() == 0 {
                return;
            }
            continue;
        }
        let Some(shown) = identity.upgrade() else { return };
        let domain = &config.domain;
        tracing::info!(domain, directory = config.directory, "asking for a certificate");
        let issued = tokio::time::timeout(ISSUE_TIMEOUT, issue(&shown, &config, &web)).await;
        // Nothing can be wrong with no proof.
        let _ = shown.prove(None);
        drop(shown);
        match issued.unwrap_or(Err(AcmeError::Timeout)) {
            Ok(()) => {
                tracing::info!(domain, "a certificate was issued, and is shown from now on");
                pause = RETRY.0;
            }
            Err(error) => {
                let again_s = pause.as_secs();
                tracing::warn!(domain, %error, again_s, "no certificate was issued; what is shown stays");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(RETRY.1);
            }
        }
    }
}

async fn issue(identity: &Identity, config: &AcmeConfig, web: &Web) -> Result<(), AcmeError> {
    let account = account(config, web).await?;
    let names = [Identifier::Dns(config.domain.clone())];
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(AcmeError::Refused(format!("its check of the name is {status:?}"))),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or_else(|| AcmeError::Refused("it cannot check a name by TLS-ALPN-01".to_owned()))?;
        let digest = challenge.key_authorization().digest().as_ref().to_vec();
        let proof = proof(&config.domain, &digest)?;
        identity.prove(Some(proof)).map_err(|error| AcmeError::Unusable(error.to_string()))?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&WATCHED).await? {
        OrderStatus::Ready | OrderStatus::Valid => {}
        status => return Err(AcmeError::Refused(reason(&mut order, status).await)),
    }
    let made = |error: rcgen::Error| AcmeError::Unusable(error.to_string());
    // ECDSA: what every browser and middlebox knows (E-84). A new key with every certificate.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let mut params = rcgen::CertificateParams::new(vec![config.domain.clone()]).map_err(made)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let wish = params.serialize_request(&key).map_err(made)?;
    order.finalize_csr(wish.der()).await?;
    let chain = order.poll_certificate(&WATCHED).await?;
    let pem = format!("{}{chain}", key.serialize_pem());
    // Checked before it is kept: what is kept is shown at the next start.
    let issued = config.check(pem.as_bytes())?;
    config.keep("certificate.pem", pem.as_bytes())?;
    identity.show(issued.pair).map_err(|error| AcmeError::Unusable(error.to_string()))
}

/// Returns why the authority could not check the name, in its own words.
async fn reason(order: &mut Order, status: OrderStatus) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // As it was before the check, unless it is asked for again.
        let Ok(state) = authorization.refresh().await else { continue };
        let said = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(said.map(|problem| super::http::quote(&problem.to_string())));
    }
    if reasons.is_empty() { format!("the order is {status:?}") } else { reasons.join("; ") }
}

/// Returns the account at the authority that is kept, or makes one.
async fn account(config: &AcmeConfig, web: &Web) -> Result<Account, AcmeError> {
    let path = config.home().join("account.json");
    let builder = Account::builder_with_http(Box::new(web.clone()));
    match read(&path) {
        Ok(kept) => {
            let credentials = serde_json::from_slice(&kept).map_err(|error| config.kept(path)(&error))?;
            Ok(builder.from_credentials(credentials).await?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let contact = config.contact.as_ref().map(|mail| format!("mailto:{mail}"));
            let contact: Vec<&str> = contact.as_deref().into_iter().collect();
            let wish = NewAccount {
                contact: &contact,
                // Whoever names a domain agrees: the help and the documentation say so.
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let (account, credentials) = builder.create(&wish, config.directory.clone(), None).await?;
            let json = serde_json::to_vec(&credentials).map_err(|error| config.kept(path)(&error))?;
            config.keep("account.json", &json)?;
            Ok(account)
        }
        Err(error) => Err(config.kept(path)(&error)),
    }
}

/// Makes the certificate that proves the name to the authority (RFC 8737 §3).
fn proof(domain: &str, digest: &[u8]) -> Result<Pair, AcmeError> {
    let made = |error: rcgen::Error| AcmeError::Unusable(error.to_string());
    if digest.len() != 32 {
        return Err(AcmeError::Unusable("the digest of the challenge has another length".to_owned()));
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let mut params = rcgen::CertificateParams::new(vec![domain.to_owned()]).map_err(made)?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(made)?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

/// How the authority is asked: over HTTPS, its certificate judged and a proxy used as everywhere.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) outward: Arc<Outward>,
    pub(crate) resolver: Resolver,
}

impl Web {
    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.scheme_str() != Some("https") {
            return Err("the authority's address must begin with https://".to_owned());
        }
        let name = parts.uri.host().ok_or("the authority's address has no host")?.to_owned();
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = parts.uri.port_u16().unwrap_or(443);
        let place = authority(&bare, port);
        let socket = self.outward.connect_first(&self.hosts(&bare, port).await?, port).await?;
        let stream =
            self.outward.tls(socket, &bare, &place, Vec::new()).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(TokioIo::new(stream.compat()))
            .await
            .map_err(|error| error.to_string())?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().map_err(|_| "the authority's address does not read".to_owned())?;
        let host = if port == 443 { name } else { place };
        parts.headers.insert(HOST, host.parse().map_err(|_| "the authority's name".to_owned())?);
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let asking = async move {
            let request = Request::from_parts(parts, Full::new(body));
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Response::from_parts(parts, Full::new(body)))
        };
        tokio::select! {
            answer = asking => answer,
            // Its end shows in the answer that is missing.
            _ = connection => Err("the authority closed the connection".to_owned()),
        }
    }

    /// Returns where to connect: by name where a proxy looks it up.
    async fn hosts(&self, name: &str, port: u16) -> Result<Vec<Host>, String> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![Host::Ip(ip)]);
        }
        let named = Host::Name(name.to_owned(), Family::Any);
        if self.outward.is_proxied(&named) {
            return Ok(vec![named]);
        }
        let addr = Multiaddr::empty().with(Protocol::Dns(name.into())).with(Protocol::Tcp(port));
        let found = self.resolver.endpoints(&addr).await.map_err(|error| error.to_string())?;
        Ok(found.iter().filter_map(|addr| Some(Endpoint::parse(addr)?.host)).collect())
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let asked = self.clone().send(request);
        Box::pin(async move {
            match tokio::time::timeout(REQUEST_TIMEOUT, asked).await {
                Ok(Ok(answer)) => Ok(answer.into()),
                Ok(Err(cause)) => Err(instant_acme::Error::Other(cause.into())),
                Err(_) => Err(instant_acme::Error::Other("the authority did not answer in time".into())),
            }
        })
    }
}

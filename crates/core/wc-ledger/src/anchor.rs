//! Anchors: a checkpoint of ours in somebody else's log, so that we cannot rewrite what we said.
//!
//! ```text
//! checkpoint note ──SHA-256──┐
//! anchor key ──signs the note┴──► request ──log──► LogEntry ──► AnchorFile      anybody checks it offline
//! ```
//!
//! What is signed and logged is the whole note of the checkpoint, with the signatures on it. The anchor key is an ECDSA
//! key on P-256 (E-03): logs take no plain Ed25519 signature over a hash. It vouches for nothing but that the note came
//! from us; the note's own signatures vouch for the cell.

use data_encoding::BASE64;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde::Deserialize;
use wc_types::Timestamp;
use wc_types::cid::sha256;
use zeroize::Zeroizing;

use crate::checkpoint::Checkpoint;
use crate::note::{Note, VerifierKey};
use crate::rekor::{
    Api, HashedRekord, LogEntry, LogKey, LogProof, RekorError, Signer, TrustedRoot, read_base64, read_json,
    request_json, verify_entry,
};

mod schedule;

pub use schedule::{Alarm, AnchorPolicy, Schedule, Standing, Step};

/// What the file form says of itself.
const FORMAT: &str = "worldcompute.org/anchor/v1";
const WHAT: &str = "the anchor";
/// What makes the scalar of an anchor key different from every other use of its seed.
const KEY_DOMAIN: &[u8] = b"worldcompute.org/anchor-key/p256/v1";

/// The key that signs what is anchored. Prints nothing of itself.
#[derive(Clone)]
pub struct AnchorKey {
    key: SigningKey,
    public: LogKey,
}

impl std::fmt::Debug for AnchorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AnchorKey({})", BASE64.encode(self.public.spki()))
    }
}

impl AnchorKey {
    /// Returns the key of a seed: the first hash of domain, seed and a counter that is a scalar of the curve.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        for counter in 0u8..=u8::MAX {
            let mut preimage = Zeroizing::new(KEY_DOMAIN.to_vec());
            preimage.extend_from_slice(seed);
            preimage.push(counter);
            let scalar = Zeroizing::new(sha256(&preimage));
            if let Ok(key) = SigningKey::from_slice(scalar.as_slice()) {
                let point = key.verifying_key().to_sec1_point(false);
                let spki = [crate::rekor::P256_PREFIX.as_slice(), point.as_bytes()].concat();
                let public = LogKey::from_spki(&spki).expect("the key of a scalar is on the curve");
                return Self { key, public };
            }
        }
        unreachable!("that 256 hashes in a row are no scalars has a probability of 2^-8192")
    }

    /// Returns the public key.
    pub fn public(&self) -> &LogKey {
        &self.public
    }

    /// Signs the note of a checkpoint; the same note always gives the same signature (RFC 6979).
    pub fn sign(&self, checkpoint: &str) -> Vec<u8> {
        let signature: Signature = self.key.sign(checkpoint.as_bytes());
        signature.to_der().as_bytes().to_vec()
    }

    /// Returns the request that asks a log to take the checkpoint.
    pub fn request(&self, api: Api, checkpoint: &str) -> Vec<u8> {
        request_json(api, &sha256(checkpoint.as_bytes()), &self.sign(checkpoint), &self.public)
    }
}

/// An anchor as a file: everything that a stranger needs to check it, but the trusted root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorFile {
    /// The anchored note.
    pub checkpoint: String,
    /// The anchor key.
    pub key: LogKey,
    /// The anchor key's signature over the note.
    pub signature: Vec<u8>,
    /// The log's entry.
    pub entry: LogEntry,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct AnchorOut<'a> {
    format: &'static str,
    checkpoint: &'a str,
    anchor_key: String,
    signature: String,
    entry: crate::rekor::EntryOut,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AnchorJson {
    format: String,
    checkpoint: String,
    anchor_key: String,
    signature: String,
    entry: serde_json::Value,
}

impl AnchorFile {
    /// Writes the one form that an anchor has: JSON, its fields in this order, two spaces for each depth.
    pub fn to_json(&self) -> Vec<u8> {
        let out = AnchorOut {
            format: FORMAT,
            checkpoint: &self.checkpoint,
            anchor_key: BASE64.encode(self.key.spki()),
            signature: BASE64.encode(&self.signature),
            entry: self.entry.to_out(),
        };
        let mut bytes = serde_json::to_vec_pretty(&out).expect("strings always become JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads an anchor, without believing it: see [`verify_anchor`].
    ///
    /// # Errors
    /// [`RekorError`] unless the bytes are exactly what [`to_json`](Self::to_json) would write.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RekorError> {
        let json: AnchorJson = read_json(WHAT, bytes)?;
        if json.format != FORMAT {
            return Err(RekorError::malformed(WHAT, format!("its format is not {FORMAT}")));
        }
        let entry = serde_json::to_vec(&json.entry).expect("a value that was read can be written");
        let anchor = Self {
            checkpoint: json.checkpoint,
            key: LogKey::from_spki(&read_base64(WHAT, &json.anchor_key)?)?,
            signature: read_base64(WHAT, &json.signature)?,
            entry: LogEntry::from_json(&entry)?,
        };
        if anchor.to_json() != bytes {
            return Err(RekorError::malformed(WHAT, "it is not in the one form that an anchor has"));
        }
        Ok(anchor)
    }
}

/// What was proved about an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorReport {
    /// The checkpoint that was anchored.
    pub checkpoint: Checkpoint,
    /// Whether its signature was checked against a key of the cell.
    pub signer_checked: bool,
    /// What the log proves.
    pub log: LogProof,
}

/// Checks an anchor from end to end: the log's entry, that the entry is about this note, key and signature, that the
/// signature is the anchor key's, and, when it is given, that the cell's key signed the note.
///
/// - `at`: now, or, for an entry of v2, the moment at which the caller knows that it existed
///
/// # Errors
/// [`RekorError`].
pub fn verify_anchor(
    anchor: &AnchorFile,
    root: &TrustedRoot,
    at: Timestamp,
    signer: Option<&VerifierKey>,
) -> Result<AnchorReport, RekorError> {
    let log = verify_entry(&anchor.entry, root, at)?;
    check_body(&anchor.entry, &anchor.checkpoint, &anchor.key, &anchor.signature)?;
    if !anchor.key.verifies(anchor.checkpoint.as_bytes(), &anchor.signature) {
        return Err(RekorError::Signature);
    }
    let note = Note::parse(&anchor.checkpoint).map_err(|error| RekorError::Anchored(error.into()))?;
    let checkpoint = match signer {
        Some(signer) => Checkpoint::open(&note, signer),
        None => Checkpoint::parse_text(note.text()),
    };
    let checkpoint = checkpoint.map_err(RekorError::Anchored)?;
    Ok(AnchorReport { checkpoint, signer_checked: signer.is_some(), log })
}

/// Checks that the entry is about this artifact, signature and key.
///
/// # Errors
/// [`RekorError::NotOurs`], [`RekorError::Contradiction`], or that the body cannot be read.
pub fn check_body(
    entry: &LogEntry,
    artifact: &str,
    key: &LogKey,
    signature: &[u8],
) -> Result<(), RekorError> {
    let body = HashedRekord::parse(&entry.body)?;
    if entry.api()? != body.api {
        return Err(RekorError::Contradiction { what: "the kind of the entry and that of its body" });
    }
    let differs = |what| Err(RekorError::NotOurs { what });
    if body.digest != sha256(artifact.as_bytes()) {
        return differs("the digest of this checkpoint");
    }
    if body.signer != Signer::Key(key.spki().to_vec()) {
        return differs("the anchor key");
    }
    if body.signature != signature {
        return differs("the anchor's signature");
    }
    Ok(())
}

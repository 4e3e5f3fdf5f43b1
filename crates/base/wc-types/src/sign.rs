//! Signed records: there is no way to hold one whose signature was not checked.
//!
//! The signature is Ed25519 over the 36 bytes of the record's CID (JOB-04, JOB-08), so whoever knows the CID can check
//! the signature without the record. Record types share no encoding (each has its own required fields and refuses
//! unknown ones), so a signature over one kind cannot pass as another.

use std::fmt;
use std::ops::Deref;

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::canonical::{CanonicalError, from_canonical, to_canonical};
use crate::cid::{CODEC_DAG_CBOR, Cid, cid_of};
use crate::id::{AccountId, NodeId};

/// A signed record could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signature does not belong to this record and signer.
    #[error("signature does not match the record and its signer")]
    BadSignature,
    /// The signer's thirty-two bytes are not an Ed25519 public key.
    #[error("signer is not an Ed25519 public key")]
    BadKey,
    /// The record inside is not canonical.
    #[error("signed record is malformed")]
    Record(#[source] CanonicalError),
    /// Signed by somebody else than the record's own field says.
    #[error("record names {expected} as its author but is signed by {actual}")]
    WrongSigner {
        /// Key the record names.
        expected: NodeId,
        /// Key that signed.
        actual: NodeId,
    },
}

/// An Ed25519 signing key. Prints nothing of itself and is wiped when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Returns the key of a thirty-two byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Returns the seed, to be written to the key file and nowhere else.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Returns the public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Returns this key as the identity of a machine.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.public())
    }

    /// Returns this key as the identity of a person.
    pub fn account_id(&self) -> AccountId {
        AccountId(self.public())
    }

    /// Signs raw bytes; only for formats that others define (C2SP notes).
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.node_id())
    }
}

/// Checks an Ed25519 signature strictly: no small-order keys, no malleable encodings.
///
/// # Errors
/// [`SignError::BadKey`] or [`SignError::BadSignature`].
pub fn verify_bytes(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), SignError> {
    let key = VerifyingKey::from_bytes(public).map_err(|_| SignError::BadKey)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| SignError::BadSignature)
}

/// The bytes of a signed record as they travel, not yet believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Canonical bytes of the record.
    #[serde(with = "serde_bytes")]
    pub record: Vec<u8>,
    /// Public key of the signer.
    #[serde(with = "serde_bytes")]
    pub signer: [u8; 32],
    /// Ed25519 signature over the record's CID.
    #[serde(with = "serde_bytes")]
    pub signature: [u8; 64],
}

impl Sealed {
    /// Returns the CID of the record inside.
    pub fn cid(&self) -> Cid {
        cid_of(CODEC_DAG_CBOR, &self.record)
    }

    /// Checks signature and encoding and returns the record.
    ///
    /// # Errors
    /// [`SignError`] when the signature, the key or the encoding is wrong.
    pub fn open<T: Serialize + DeserializeOwned>(self) -> Result<Signed<T>, SignError> {
        let cid = self.cid();
        verify_bytes(&self.signer, &cid.to_bytes(), &self.signature)?;
        let value = from_canonical(&self.record).map_err(SignError::Record)?;
        Ok(Signed { value, cid, sealed: self })
    }
}

/// A record together with a signature that was checked, or made, in this process.
///
/// Deserializing checks: a `Signed` inside a message is believable as soon as the message has decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    cid: Cid,
    sealed: Sealed,
}

impl<T: Serialize> Signed<T> {
    /// Signs `value`.
    pub fn seal(value: T, key: &SigningKey) -> Self {
        let record = to_canonical(&value);
        let cid = cid_of(CODEC_DAG_CBOR, &record);
        let signature = key.sign_bytes(&cid.to_bytes());
        Self { value, cid, sealed: Sealed { record, signer: key.public(), signature } }
    }
}

impl<T> Signed<T> {
    /// Returns the CID of the record.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Returns the public key that signed.
    pub fn signer(&self) -> [u8; 32] {
        self.sealed.signer
    }

    /// Returns the travelling form.
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    /// Demands that the record's own author field names the key that signed.
    ///
    /// # Errors
    /// [`SignError::WrongSigner`] if it does not.
    pub fn signed_by(&self, author: &[u8; 32]) -> Result<(), SignError> {
        if self.sealed.signer == *author {
            return Ok(());
        }
        Err(SignError::WrongSigner { expected: NodeId(*author), actual: NodeId(self.sealed.signer) })
    }

    /// Turns the record into the form that journaled facts keep.
    pub fn witnessed(self) -> Witnessed<T> {
        Witnessed(self)
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.sealed.serialize(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Sealed::deserialize(deserializer)?.open().map_err(D::Error::custom)
    }
}

/// A signed record inside the journal: its signature was checked before the fact was committed, and is not checked
/// again on replay (the journal is checksummed and replay must be fast). Never decode one from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed<T>(Signed<T>);

impl<T> Deref for Witnessed<T> {
    type Target = Signed<T>;

    fn deref(&self) -> &Signed<T> {
        &self.0
    }
}

impl<T> Serialize for Witnessed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.sealed.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Witnessed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sealed = Sealed::deserialize(deserializer)?;
        let value = serde_ipld_dagcbor::from_slice(&sealed.record)
            .map_err(|error| D::Error::custom(crate::canonical::decode_reason(error)))?;
        Ok(Self(Signed { value, cid: sealed.cid(), sealed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_signed_record_survives_the_wire() {
        let signed = Signed::seal("hello".to_owned(), &key(1));
        let bytes = to_canonical(&signed);
        let opened: Signed<String> = from_canonical(&bytes).expect("opens");
        assert_eq!(opened, signed);
        assert!(opened.signed_by(&key(1).public()).is_ok());
        assert!(opened.signed_by(&key(2).public()).is_err());
    }

    #[test]
    fn any_flipped_byte_is_refused() {
        let bytes = to_canonical(&Signed::seal("hello".to_owned(), &key(1)));
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut copy = bytes.clone();
                copy[position] ^= 1 << bit;
                assert!(from_canonical::<Signed<String>>(&copy).is_err(), "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn a_key_prints_its_public_half_only() {
        let text = format!("{:?}", key(3));
        assert!(text.contains(&key(3).node_id().to_string()));
        assert!(!text.contains("[3, 3"));
    }
}

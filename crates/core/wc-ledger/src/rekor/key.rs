//! Public keys as logs publish them: SPKI in DER, with the algorithm that goes with them (E-01).

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use wc_types::sign::verify_bytes;

use super::RekorError;

/// What comes before the 65 bytes of an uncompressed point: SEQUENCE, id-ecPublicKey, prime256v1, BIT STRING.
pub(crate) const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What comes before the 32 bytes of an Ed25519 key: SEQUENCE, id-Ed25519, BIT STRING.
pub(super) const ED25519_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Length of a P-256 key as SPKI.
pub(super) const P256_SPKI_BYTES: usize = P256_PREFIX.len() + 65;
/// Length of an Ed25519 key as SPKI.
pub(super) const ED25519_SPKI_BYTES: usize = ED25519_PREFIX.len() + 32;

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 over SHA-256; signatures in DER.
    EcdsaP256Sha256,
    /// Ed25519; signatures of 64 bytes.
    Ed25519,
}

impl KeyAlgorithm {
    /// Returns the name in trusted roots and entries of v2.
    pub fn key_details(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "PKIX_ECDSA_P256_SHA_256",
            Self::Ed25519 => "PKIX_ED25519",
        }
    }
}

/// A public key that is on its curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    algorithm: KeyAlgorithm,
    spki: Vec<u8>,
}

impl LogKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`RekorError::Key`] unless it is an uncompressed point of P-256 or an Ed25519 key.
    pub fn from_spki(spki: &[u8]) -> Result<Self, RekorError> {
        let algorithm = if let Some(point) = spki.strip_prefix(&P256_PREFIX)
            && point.len() == P256_SPKI_BYTES - P256_PREFIX.len()
            && VerifyingKey::from_sec1_bytes(point).is_ok()
        {
            KeyAlgorithm::EcdsaP256Sha256
        } else if let Some(key) = spki.strip_prefix(&ED25519_PREFIX)
            && key.len() == ED25519_SPKI_BYTES - ED25519_PREFIX.len()
            && key.iter().any(|byte| *byte != 0)
        {
            KeyAlgorithm::Ed25519
        } else {
            return Err(RekorError::Key);
        };
        Ok(Self { algorithm, spki: spki.to_vec() })
    }

    /// Returns how it signs.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Returns the key as SPKI in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Returns the bytes that a C2SP key id of type Ed25519 hashes.
    pub(super) fn ed25519(&self) -> Option<[u8; 32]> {
        self.spki.strip_prefix(&ED25519_PREFIX).and_then(|key| key.try_into().ok())
    }

    /// Returns whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            KeyAlgorithm::EcdsaP256Sha256 => {
                let key = VerifyingKey::from_sec1_bytes(&self.spki[P256_PREFIX.len()..]);
                let signature = Signature::from_der(signature);
                matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
            }
            KeyAlgorithm::Ed25519 => match (self.ed25519(), signature.try_into()) {
                (Some(key), Ok(signature)) => verify_bytes(&key, message, signature).is_ok(),
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_of_the_two_kinds_are_keys() {
        let p256 = [P256_PREFIX.as_slice(), &[4; 65]].concat();
        assert_eq!(LogKey::from_spki(&p256), Err(RekorError::Key), "not a point of the curve");
        let ed25519 = [ED25519_PREFIX.as_slice(), &[0; 32]].concat();
        assert_eq!(LogKey::from_spki(&ed25519), Err(RekorError::Key), "all zero");
        assert_eq!(LogKey::from_spki(&[]), Err(RekorError::Key));
        let ed25519 = [ED25519_PREFIX.as_slice(), &[7; 32]].concat();
        assert!(LogKey::from_spki(&ed25519).is_ok());
        assert_eq!(LogKey::from_spki(&ed25519[..43]), Err(RekorError::Key), "cut off");
        assert_eq!(LogKey::from_spki(&[ed25519, vec![0]].concat()), Err(RekorError::Key), "too long");
    }
}

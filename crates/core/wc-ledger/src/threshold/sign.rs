//! Signing one message together: two rounds, then one ordinary Ed25519 signature.
//!
//! ```text
//! member:    commit(seed) ──NonceCommitment──►
//! assembler:                 begin(t commitments) ──SigningRequest──►
//! member:    sign(nonces) ──SignatureShare──►
//! assembler:                 finish(shares) ──► 64 bytes, or the names of those whose shares are wrong
//! ```

use std::collections::BTreeMap;
use std::fmt;

use frost_ed25519::keys::{KeyPackage, PublicKeyPackage, VerifyingShare};
use frost_ed25519::round1::{self, SigningCommitments};
use frost_ed25519::{CheaterDetection, SigningPackage, VerifyingKey, round2};
use serde_bytes::ByteBuf;
use wc_types::sign::verify_bytes;
use wc_types::signers::{MESSAGE_BYTES_MAX, NonceCommitment, SignatureShare, SigningRequest};
use wc_types::{NodeId, SigningKey};

use super::generate::KeyShare;
use super::{Seed, SignerKeys, ThresholdFault, identifier};

/// A member that can sign: with its share, or alone with its key.
pub struct Member {
    keys: SignerKeys,
    node: NodeId,
    secret: Secret,
}

enum Secret {
    Alone(Box<SigningKey>),
    Share(Box<KeyPackage>),
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("keys", &self.keys.id)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Two secret numbers behind a commitment. Made for one signature, used up by it, forgotten with the process.
pub struct Nonces(Option<Box<round1::SigningNonces>>);

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(..)")
    }
}

impl Member {
    /// The only member of its set, with its whole key.
    ///
    /// # Errors
    /// [`ThresholdFault::NotMember`] if the set is of several, or of another.
    pub fn alone(keys: SignerKeys, key: &SigningKey) -> Result<Self, ThresholdFault> {
        let node = key.node_id();
        if !keys.is_alone() || !keys.is_member(&node) || keys.group != key.public() {
            return Err(ThresholdFault::NotMember { node });
        }
        Ok(Self { keys, node, secret: Secret::Alone(Box::new(key.clone())) })
    }

    /// One of several, with its share.
    ///
    /// # Errors
    /// [`ThresholdFault::Damaged`] if the share is of another set.
    pub fn with_share(keys: SignerKeys, share: &KeyShare) -> Result<Self, ThresholdFault> {
        if !share.belongs_to(&keys) {
            return Err(ThresholdFault::Damaged { reason: "it is a share of another set" });
        }
        let package = share.package()?;
        Ok(Self { keys, node: share.node(), secret: Secret::Share(Box::new(package)) })
    }

    /// Returns the set.
    pub fn keys(&self) -> &SignerKeys {
        &self.keys
    }

    /// Takes part in one signature: keeps the nonces, returns what binds this member to them.
    pub fn commit(&self, seed: Seed) -> (Nonces, NonceCommitment) {
        match &self.secret {
            Secret::Alone(_) => {
                (Nonces(None), NonceCommitment { node: self.node, hiding: [0; 32], binding: [0; 32] })
            }
            Secret::Share(package) => {
                let (nonces, commitments) = round1::commit(package.signing_share(), &mut seed.randomness().0);
                let bytes = |commitment: &round1::NonceCommitment| {
                    let bytes = commitment.serialize().ok().and_then(|bytes| bytes.try_into().ok());
                    // Nonces are hashes: to be zero, and unwritable, they would have to be found first.
                    bytes.unwrap_or_default()
                };
                let message = NonceCommitment {
                    node: self.node,
                    hiding: bytes(commitments.hiding()),
                    binding: bytes(commitments.binding()),
                };
                (Nonces(Some(Box::new(nonces))), message)
            }
        }
    }

    /// Returns this member's part of the signature. What the message says is for the caller to have judged.
    ///
    /// # Errors
    /// [`ThresholdFault`] if the request is of another set, of too few, or does not hold this member's commitment.
    pub fn sign(&self, nonces: Nonces, request: &SigningRequest) -> Result<SignatureShare, ThresholdFault> {
        let package = check(&self.keys, request)?;
        let share = match (&self.secret, nonces.0) {
            (Secret::Alone(key), None) => key.sign_bytes(&request.message).to_vec(),
            (Secret::Share(own), Some(nonces)) => round2::sign(&package, &nonces, own)
                .map_err(|_| ThresholdFault::Declined {
                    reason: "the request does not hold the commitment that it made",
                })?
                .serialize(),
            (Secret::Alone(_), Some(_)) | (Secret::Share(_), None) => {
                return Err(ThresholdFault::Declined { reason: "the nonces are of another set" });
            }
        };
        Ok(SignatureShare { node: self.node, share: ByteBuf::from(share) })
    }
}

/// Checks a request and returns it in the library's form; without commitments for a set of one.
fn check(keys: &SignerKeys, request: &SigningRequest) -> Result<SigningPackage, ThresholdFault> {
    if request.set != keys.id {
        return Err(ThresholdFault::Declined { reason: "the request is of another set" });
    }
    if request.message.len() > MESSAGE_BYTES_MAX {
        return Err(ThresholdFault::Declined { reason: "the message is too long" });
    }
    let (have, need) = (request.commitments.len(), usize::from(keys.threshold));
    if have < need {
        return Err(ThresholdFault::TooFew { have, need });
    }
    if have > keys.members.len() || request.commitments.windows(2).any(|pair| pair[0].node >= pair[1].node) {
        return Err(ThresholdFault::Declined { reason: "commitments are repeated or out of order" });
    }
    let mut commitments = BTreeMap::new();
    for NonceCommitment { node, hiding, binding } in &request.commitments {
        let place = keys.place(node).ok_or(ThresholdFault::NotMember { node: *node })?;
        if keys.is_alone() {
            continue;
        }
        let point = |bytes: &[u8; 32]| {
            round1::NonceCommitment::deserialize(bytes)
                .map_err(|_| ThresholdFault::culprit(*node, "nonce commitment"))
        };
        commitments.insert(identifier(place), SigningCommitments::new(point(hiding)?, point(binding)?));
    }
    Ok(SigningPackage::new(commitments, &request.message))
}

/// Puts a signature together out of shares. Holds no secret, so anybody may.
#[derive(Debug)]
pub struct Assembly {
    keys: SignerKeys,
    request: SigningRequest,
    package: SigningPackage,
}

impl Assembly {
    /// Begins with the commitments of those who will sign: at least the threshold, in any order.
    ///
    /// # Errors
    /// [`ThresholdFault`] naming the member whose commitment is wrong.
    pub fn begin(
        keys: &SignerKeys,
        message: &[u8],
        mut commitments: Vec<NonceCommitment>,
    ) -> Result<Self, ThresholdFault> {
        commitments.sort_by_key(|commitment| commitment.node);
        let request = SigningRequest { set: keys.id, message: message.to_vec(), commitments };
        let package = check(keys, &request)?;
        Ok(Self { keys: keys.clone(), request, package })
    }

    /// Returns what each of them is asked.
    pub fn request(&self) -> &SigningRequest {
        &self.request
    }

    /// Returns the signature, checked as a stranger would.
    ///
    /// # Errors
    /// [`ThresholdFault::Missing`], or [`ThresholdFault::Culprits`] naming everybody whose share is wrong.
    pub fn finish(self, shares: &[SignatureShare]) -> Result<[u8; 64], ThresholdFault> {
        let what = "part of the signature";
        let Self { keys, request, package } = self;
        for share in shares {
            if !request.commitments.iter().any(|commitment| commitment.node == share.node) {
                return Err(ThresholdFault::NotMember { node: share.node });
            }
        }
        let mut parts = BTreeMap::new();
        let mut wrong = Vec::new();
        for NonceCommitment { node, .. } in &request.commitments {
            let mut own = shares.iter().filter(|share| share.node == *node);
            let share = own.next().ok_or(ThresholdFault::Missing { node: *node, what })?;
            if own.any(|other| other != share) {
                wrong.push(*node);
            }
            if keys.is_alone() {
                let signature = <[u8; 64]>::try_from(share.share.as_slice()).ok();
                let signature =
                    signature.filter(|bytes| verify_bytes(&keys.group, &request.message, bytes).is_ok());
                return signature.ok_or(ThresholdFault::culprit(*node, what));
            }
            let place = keys.place(node).ok_or(ThresholdFault::NotMember { node: *node })?;
            match round2::SignatureShare::deserialize(&share.share) {
                Ok(part) => drop(parts.insert(identifier(place), part)),
                Err(_) => wrong.push(*node),
            }
        }
        if !wrong.is_empty() {
            return Err(ThresholdFault::Culprits { nodes: wrong, what });
        }
        let public = public(&keys)?;
        let signature =
            frost_ed25519::aggregate_custom(&package, &parts, &public, CheaterDetection::AllCheaters)
                .map_err(|fault| {
                    let guilty = fault.culprits();
                    let nodes = (0..keys.members.len()).filter(|place| guilty.contains(&identifier(*place)));
                    let nodes: Vec<NodeId> = nodes.map(|place| keys.members[place].node).collect();
                    if nodes.is_empty() {
                        ThresholdFault::Terms { reason: "the shares are right and the signature is not" }
                    } else {
                        ThresholdFault::Culprits { nodes, what }
                    }
                })?;
        let unusable = ThresholdFault::Terms { reason: "the group key cannot be verified under" };
        let bytes: [u8; 64] =
            signature.serialize().ok().and_then(|bytes| bytes.try_into().ok()).ok_or(unusable.clone())?;
        verify_bytes(&keys.group, &request.message, &bytes).map_err(|_| unusable)?;
        Ok(bytes)
    }
}

/// Returns the set in the library's form.
fn public(keys: &SignerKeys) -> Result<PublicKeyPackage, ThresholdFault> {
    let unusable = |_| ThresholdFault::Terms { reason: "a public share or the group key is not a point" };
    let mut shares = BTreeMap::new();
    for (place, member) in keys.members.iter().enumerate() {
        shares.insert(identifier(place), VerifyingShare::deserialize(&member.share).map_err(unusable)?);
    }
    let group = VerifyingKey::deserialize(&keys.group).map_err(unusable)?;
    Ok(PublicKeyPackage::new(shares, group, Some(keys.threshold)))
}

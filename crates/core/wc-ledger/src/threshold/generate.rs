//! Making a key that nobody ever holds: three steps, each member for itself.
//!
//! ```text
//! each:  KeyGeneration::begin ──KeyCommitment──► all
//! each:  deal(all commitments) ──SealedShare──► each other     refuses a false proof, names whose
//! each:  collect(own shares) ──► KeyShare                      refuses a share that its commitment denies, names whose
//! ```
//!
//! Messages are signed by their members and may go through anybody's hands. A relay that shows two members different
//! commitments is noticed, since every sealed share carries the digest of what its sender was shown.

use std::collections::BTreeMap;
use std::fmt;

use frost_ed25519::keys::dkg::{self, round1, round2};
use frost_ed25519::keys::{
    KeyPackage, PublicKeyPackage, SigningShare, VerifiableSecretSharingCommitment, VerifyingShare,
};
use frost_ed25519::{Identifier, Signature, VerifyingKey};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use sha2::{Digest, Sha256};
use wc_types::signers::{KeyCommitment, SealedShare, Signer, SignerOrder, SignerSet};
use wc_types::{Cid, NodeId, Signed, SigningKey, from_canonical, to_canonical};
use zeroize::Zeroizing;

use super::{Randomness, Seed, SignerKeys, ThresholdFault, identifier};

/// What shares are sealed for, so that a sealed share means nothing elsewhere.
const SEALED_FOR: &[u8] = b"worldcompute.org/signers/share/1";

type SealingKey = <X25519HkdfSha256 as Kem>::PrivateKey;
pub(super) type SealingPublic = <X25519HkdfSha256 as Kem>::PublicKey;

/// Returns who a number of the arithmetic belongs to.
fn node_of(members: &[NodeId], number: &Identifier) -> Option<NodeId> {
    (0..members.len()).find(|place| identifier(*place) == *number).map(|place| members[place])
}

/// Turns the library's fault into ours, with names.
fn named(members: &[NodeId], fault: &frost_ed25519::Error, what: &'static str) -> ThresholdFault {
    let nodes: Vec<NodeId> = fault.culprits().iter().filter_map(|number| node_of(members, number)).collect();
    if nodes.is_empty() {
        ThresholdFault::Terms { reason: "the key generation does not come to a key" }
    } else {
        ThresholdFault::Culprits { nodes, what }
    }
}

pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the library's encodings have a fixed length")
}

/// One member's part in a key generation, before it knows the others' commitments. Lives in memory only.
pub struct KeyGeneration {
    order: Cid,
    threshold: u16,
    members: Vec<NodeId>,
    key: SigningKey,
    secret: round1::SecretPackage,
    sealing: SealingKey,
    commitment: Signed<KeyCommitment>,
    randomness: Randomness,
}

impl fmt::Debug for KeyGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGeneration").field("order", &self.order).finish_non_exhaustive()
    }
}

impl KeyGeneration {
    /// Begins the part of the member whose machine key is `key`, and returns its message to all.
    ///
    /// # Errors
    /// [`ThresholdFault`] if the order is of a set of one, which needs no shares, of no possible set, or of others.
    pub fn begin(
        order: &Signed<SignerOrder>,
        key: &SigningKey,
        seed: Seed,
    ) -> Result<(Self, Signed<KeyCommitment>), ThresholdFault> {
        order.check().map_err(|reason| ThresholdFault::Terms { reason })?;
        let SignerOrder { threshold, members, .. } = &**order;
        if members.len() < 2 {
            return Err(ThresholdFault::Terms { reason: "a set of one has a key of its own and no shares" });
        }
        let node = key.node_id();
        let place =
            members.iter().position(|member| *member == node).ok_or(ThresholdFault::NotMember { node })?;
        let mut randomness = seed.randomness();
        let count = u16::try_from(members.len()).expect("at most sixteen members");
        let (secret, package) = dkg::part1(identifier(place), count, *threshold, &mut randomness.0)
            .map_err(|fault| named(members, &fault, "terms"))?;
        let mut material = Zeroizing::new([0; 32]);
        rand_chacha::rand_core::RngCore::fill_bytes(&mut randomness.0, material.as_mut_slice());
        let (sealing, public) = X25519HkdfSha256::derive_keypair(material.as_slice());
        let unwritable = |_| ThresholdFault::Terms { reason: "a commitment cannot be written" };
        let coefficients = package.commitment().serialize().map_err(unwritable)?;
        let message = KeyCommitment {
            order: order.cid(),
            node,
            coefficients: coefficients.iter().map(|bytes| ByteArray::new(array(bytes))).collect(),
            proof: array(&package.proof_of_knowledge().serialize().map_err(unwritable)?),
            sealing: array(&public.to_bytes()),
        };
        let commitment = Signed::seal(message, key);
        let generation = Self {
            order: order.cid(),
            threshold: *threshold,
            members: members.clone(),
            key: key.clone(),
            secret,
            sealing,
            commitment: commitment.clone(),
            randomness,
        };
        Ok((generation, commitment))
    }

    /// Takes the commitments of all members, one each, and returns a sealed share for each other member.
    ///
    /// # Errors
    /// [`ThresholdFault`] naming the member whose message is missing or wrong. The part is over then.
    pub fn deal(
        self,
        commitments: &[Signed<KeyCommitment>],
    ) -> Result<(Dealing, Vec<Signed<SealedShare>>), ThresholdFault> {
        let Self { order, threshold, members, key, secret, sealing, commitment, mut randomness } = self;
        let me = key.node_id();
        let mut by_node = BTreeMap::new();
        for message in commitments {
            let node = NodeId(message.signer());
            let wrong = |what| ThresholdFault::culprit(node, what);
            if !members.contains(&node) {
                return Err(ThresholdFault::NotMember { node });
            }
            if message.node != node || message.order != order {
                return Err(wrong("commitment"));
            }
            if by_node.insert(node, message).is_some_and(|before| before.cid() != message.cid()) {
                return Err(wrong("commitment, of which there are two,"));
            }
        }
        let mut packages = BTreeMap::new();
        let mut sealing_keys = BTreeMap::new();
        let mut transcript = Sha256::new();
        transcript.update(SEALED_FOR);
        transcript.update(order.to_bytes());
        for (place, node) in members.iter().enumerate() {
            let message =
                by_node.get(node).ok_or(ThresholdFault::Missing { node: *node, what: "commitment" })?;
            transcript.update(message.cid().to_bytes());
            if *node == me {
                if message.cid() != commitment.cid() {
                    // Only a message of an earlier part of ours carries our signature: somebody replays it.
                    return Err(ThresholdFault::Declined {
                        reason: "it was shown an older message of its own",
                    });
                }
                continue;
            }
            let wrong = |what| ThresholdFault::culprit(*node, what);
            if message.coefficients.len() != usize::from(threshold) {
                return Err(wrong("number of coefficients"));
            }
            let coefficients = message.coefficients.iter().map(|bytes| bytes.as_slice());
            let polynomial = VerifiableSecretSharingCommitment::deserialize(coefficients)
                .map_err(|_| wrong("commitment"))?;
            let proof = Signature::deserialize(&message.proof).map_err(|_| wrong("proof of knowledge"))?;
            let sealing_key =
                SealingPublic::from_bytes(&message.sealing).map_err(|_| wrong("sealing key"))?;
            packages.insert(identifier(place), round1::Package::new(polynomial, proof));
            sealing_keys.insert(place, sealing_key);
        }
        let transcript: [u8; 32] = transcript.finalize().into();
        let (secret, shares) =
            dkg::part2(secret, &packages).map_err(|fault| named(&members, &fault, "proof of knowledge"))?;
        let mut sealed = Vec::with_capacity(shares.len());
        for (place, public) in &sealing_keys {
            let to = members[*place];
            let Some(share) = shares.get(&identifier(*place)) else { continue };
            let plain = Zeroizing::new(share.signing_share().serialize());
            let (encapsulated, ciphertext) =
                hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                    &OpModeS::Base,
                    public,
                    &info(&transcript),
                    &plain,
                    &way(&me, &to),
                    &mut randomness,
                )
                .map_err(|_| ThresholdFault::culprit(to, "sealing key"))?;
            let message = SealedShare {
                transcript,
                from: me,
                to,
                encapsulated: array(&encapsulated.to_bytes()),
                ciphertext: array(&ciphertext),
            };
            sealed.push(Signed::seal(message, &key));
        }
        let dealing = Dealing { order, threshold, members, me, secret, sealing, packages, transcript };
        Ok((dealing, sealed))
    }
}

pub(super) fn info(transcript: &[u8; 32]) -> Vec<u8> {
    [SEALED_FOR, transcript].concat()
}

pub(super) fn way(from: &NodeId, to: &NodeId) -> [u8; 64] {
    let mut way = [0; 64];
    way[..32].copy_from_slice(&from.0);
    way[32..].copy_from_slice(&to.0);
    way
}

/// One member's part in a key generation, before it has its shares. Lives in memory only.
pub struct Dealing {
    order: Cid,
    threshold: u16,
    members: Vec<NodeId>,
    me: NodeId,
    secret: round2::SecretPackage,
    sealing: SealingKey,
    packages: BTreeMap<Identifier, round1::Package>,
    transcript: [u8; 32],
}

impl fmt::Debug for Dealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dealing").field("order", &self.order).finish_non_exhaustive()
    }
}

impl Dealing {
    /// Takes the shares that the other members sealed for this one, and returns this member's share of the group's key.
    ///
    /// # Errors
    /// [`ThresholdFault`] naming the member whose share is missing or wrong. The part is over then.
    pub fn collect(self, sealed: &[Signed<SealedShare>]) -> Result<KeyShare, ThresholdFault> {
        let Self { order, threshold, members, me, secret, sealing, packages, transcript } = self;
        let mut shares = BTreeMap::new();
        for message in sealed {
            let from = NodeId(message.signer());
            let wrong = |what| ThresholdFault::culprit(from, what);
            let place = members.iter().position(|member| *member == from);
            let place = place.filter(|_| from != me).ok_or(ThresholdFault::NotMember { node: from })?;
            if message.from != from || message.to != me {
                return Err(wrong("share"));
            }
            if message.transcript != transcript {
                return Err(wrong("view of the commitments"));
            }
            let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&message.encapsulated)
                .map_err(|_| wrong("share"))?;
            let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &sealing,
                &encapsulated,
                &info(&transcript),
                &message.ciphertext,
                &way(&from, &me),
            )
            .map_err(|_| wrong("sealed share"))?;
            let plain = Zeroizing::new(plain);
            let share = SigningShare::deserialize(&plain).map_err(|_| wrong("share"))?;
            if shares.insert(identifier(place), round2::Package::new(share)).is_some() {
                return Err(wrong("share, of which there are two,"));
            }
        }
        for (place, node) in members.iter().enumerate() {
            if *node != me && !shares.contains_key(&identifier(place)) {
                return Err(ThresholdFault::Missing { node: *node, what: "share" });
            }
        }
        let (own, public) = dkg::part3(&secret, &packages, &shares)
            .map_err(|fault| named(&members, &fault, "share, which its commitment denies,"))?;
        KeyShare::of(order, threshold, &members, me, &own, &public)
    }
}

/// One member's share of a group's key, with everything that is public about the group. Secret: whoever has `threshold`
/// of them has the key.
pub struct KeyShare {
    order: Cid,
    threshold: u16,
    members: Vec<Signer>,
    group: [u8; 32],
    me: NodeId,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyShare").field("order", &self.order).field("me", &self.me).finish_non_exhaustive()
    }
}

/// How a share lies on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptShare {
    order: Cid,
    threshold: u16,
    members: Vec<Signer>,
    #[serde(with = "serde_bytes")]
    group: [u8; 32],
    me: NodeId,
    #[serde(with = "serde_bytes")]
    secret: [u8; 32],
}

impl KeyShare {
    fn of(
        order: Cid,
        threshold: u16,
        members: &[NodeId],
        me: NodeId,
        own: &KeyPackage,
        public: &PublicKeyPackage,
    ) -> Result<Self, ThresholdFault> {
        let unwritable = |_| ThresholdFault::Terms { reason: "the key cannot be written" };
        let mut signers = Vec::with_capacity(members.len());
        for (place, node) in members.iter().enumerate() {
            let share = public
                .verifying_shares()
                .get(&identifier(place))
                .ok_or(ThresholdFault::Missing { node: *node, what: "public share" })?;
            signers.push(Signer { node: *node, share: array(&share.serialize().map_err(unwritable)?) });
        }
        Ok(Self {
            order,
            threshold,
            members: signers,
            group: array(&public.verifying_key().serialize().map_err(unwritable)?),
            me,
            secret: Zeroizing::new(array(&Zeroizing::new(own.signing_share().serialize()))),
        })
    }

    /// Returns the record of the set that this share belongs to: the same for every member.
    ///
    /// # Errors
    /// [`ThresholdFault::Declined`] if the share was not made under this order.
    pub fn set(&self, order: &Signed<SignerOrder>) -> Result<SignerSet, ThresholdFault> {
        if order.cid() != self.order {
            return Err(ThresholdFault::Declined { reason: "its share was made under another order" });
        }
        Ok(SignerSet {
            cell: order.cell,
            epoch: order.epoch,
            previous: order.previous,
            order: self.order,
            threshold: self.threshold,
            members: self.members.clone(),
            group: self.group,
        })
    }

    /// Returns the CID of the order under which the share was made.
    pub fn order(&self) -> Cid {
        self.order
    }

    /// Returns the group's key.
    pub fn group(&self) -> [u8; 32] {
        self.group
    }

    /// Returns the bytes to keep: secret, for a file that only its owner reads.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let kept = Zeroizing::new(*self.secret);
        Zeroizing::new(to_canonical(&KeptShare {
            order: self.order,
            threshold: self.threshold,
            members: self.members.clone(),
            group: self.group,
            me: self.me,
            secret: *kept,
        }))
    }

    /// Reads what was kept, and checks that the share is the one that its group knows.
    ///
    /// # Errors
    /// [`ThresholdFault::Damaged`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ThresholdFault> {
        let damaged = |reason| ThresholdFault::Damaged { reason };
        let kept: KeptShare = from_canonical(bytes).map_err(|_| damaged("it does not decode"))?;
        let KeptShare { order, threshold, members, group, me, secret } = kept;
        let share = Self { order, threshold, members, group, me, secret: Zeroizing::new(secret) };
        wc_types::signers::check_members(threshold, share.members.iter().map(|signer| &signer.node))
            .map_err(damaged)?;
        share.package().map(|_| share)
    }

    /// Returns the share in the library's form.
    pub(super) fn package(&self) -> Result<KeyPackage, ThresholdFault> {
        let damaged = |reason| ThresholdFault::Damaged { reason };
        let place = self.members.iter().position(|signer| signer.node == self.me);
        let place = place.ok_or(damaged("it belongs to nobody in its set"))?;
        let secret = SigningShare::deserialize(self.secret.as_slice()).map_err(|_| damaged("no share"))?;
        let public = VerifyingShare::from(secret);
        if public.serialize().map_or(true, |bytes| bytes != self.members[place].share) {
            return Err(damaged("it is not the share that the set knows"));
        }
        let group = VerifyingKey::deserialize(&self.group).map_err(|_| damaged("no group key"))?;
        Ok(KeyPackage::new(identifier(place), secret, public, group, self.threshold))
    }

    /// Returns whether this is a share of that set.
    pub(super) fn belongs_to(&self, keys: &SignerKeys) -> bool {
        self.group == keys.group && self.threshold == keys.threshold && self.members == keys.members
    }

    /// Returns whose share it is.
    pub fn node(&self) -> NodeId {
        self.me
    }
}

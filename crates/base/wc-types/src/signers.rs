//! Who signs a cell's checkpoints together, and how one set of signers hands over to the next.
//!
//! ```text
//! Founding ──coordinator's key──► SignerSet 1 ──its group key──► SignerSet 2 ──its group key──► … ──► checkpoints
//! ```
//!
//! A set of `threshold` of `members` has one Ed25519 key, the *group key*, which nobody holds: each member keeps a share.
//! Each set is signed by the key before it, so whoever knows the founding record can walk to the key of today.
//!
//! # Source
//! FROST, RFC 9591 (Ed25519, SHA-512); key generation as in Komlo and Goldberg, "FROST", SAC 2020, figure 1.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use crate::cid::Cid;
use crate::id::{AccountId, CellId, NodeId};
use crate::sign::Signed;
use crate::time::Timestamp;

/// Most members of a set. More would make every checkpoint wait for more machines and gain nothing.
pub const MEMBERS_MAX: usize = 16;
/// Most hand-overs between the founding and today. Each is below 2 KiB, so a receipt with all of them fits a record.
pub const HANDOVERS_MAX: usize = 256;
/// Longest message that a set signs. A checkpoint has about two hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// The owner's order to change the signers. Signed with the owner's key, which the founding record names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerOrder {
    /// The cell.
    pub cell: CellId,
    /// Number of the set to be: one more than that of the present one, which is 0 for the founding coordinator.
    pub epoch: u64,
    /// CID of the present set's record, or of the founding record.
    pub previous: Cid,
    /// Members that have to sign together.
    pub threshold: u16,
    /// Who holds a share, in ascending order.
    pub members: Vec<NodeId>,
    /// Who orders it.
    pub owner: AccountId,
    /// When.
    pub at: Timestamp,
}

/// Checks that `threshold` of these members can be a set: 1 of 1, or a true majority of several different nodes in
/// ascending order. Two majorities always share a member, so two histories cannot both be signed by honest sets.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn check_members<'a>(
    threshold: u16,
    members: impl ExactSizeIterator<Item = &'a NodeId> + Clone,
) -> Result<(), &'static str> {
    let (threshold, count) = (usize::from(threshold), members.len());
    if count == 0 || count > MEMBERS_MAX {
        return Err("a set has 1 to 16 members");
    }
    if members.clone().zip(members.skip(1)).any(|(before, after)| before >= after) {
        return Err("members are not in ascending order, or one is there twice");
    }
    if threshold > count {
        return Err("the threshold is more than there are members");
    }
    if threshold * 2 <= count {
        return Err("the threshold is not a majority of the members, so two halves could sign two histories");
    }
    Ok(())
}

impl SignerOrder {
    /// Checks what the decoder cannot.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn check(&self) -> Result<(), &'static str> {
        check_members(self.threshold, self.members.iter())
    }
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// The machine.
    pub node: NodeId,
    /// Public half of its share, against which its part of a signature is checked; its own key in a set of one.
    #[serde(with = "serde_bytes")]
    pub share: [u8; 32],
}

/// A set of signers. Signed with the group key of the set before it, or with the coordinator's key if it is the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerSet {
    /// The cell.
    pub cell: CellId,
    /// Number of the set, from 1.
    pub epoch: u64,
    /// CID of the record of the set before, or of the founding record.
    pub previous: Cid,
    /// CID of the owner's order.
    pub order: Cid,
    /// Members that have to sign together.
    pub threshold: u16,
    /// Members, in ascending order of their ids.
    pub members: Vec<Signer>,
    /// The key that checkpoints verify under from now on.
    #[serde(with = "serde_bytes")]
    pub group: [u8; 32],
}

/// One link of the key chain: a set, signed by the set before it, and the new set's own signature, which shows that
/// enough of its members hold shares that work before the old ones stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The set.
    pub set: Signed<SignerSet>,
    /// Ed25519 signature of the set's group key over the CID of its record.
    #[serde(with = "serde_bytes")]
    pub accepted: [u8; 64],
}

/// First message of a key generation, from each member to all: commitments to its secret polynomial, the proof that it
/// knows the polynomial, and the key under which shares for it are sealed. Signed by the member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCommitment {
    /// CID of the owner's order.
    pub order: Cid,
    /// The member.
    pub node: NodeId,
    /// One commitment per coefficient: as many as the threshold.
    pub coefficients: Vec<ByteArray<32>>,
    /// Proof of knowledge of the first coefficient.
    #[serde(with = "serde_bytes")]
    pub proof: [u8; 64],
    /// X25519 key of this key generation only.
    #[serde(with = "serde_bytes")]
    pub sealing: [u8; 32],
}

/// Second message of a key generation, from each member to each other one: a share that only the receiver can open.
/// Signed by the member that sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedShare {
    /// Digest of all first messages: two members that were shown different ones do not go on.
    #[serde(with = "serde_bytes")]
    pub transcript: [u8; 32],
    /// Who sends it.
    pub from: NodeId,
    /// Who can open it.
    pub to: NodeId,
    /// HPKE encapsulated key (RFC 9180, base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305).
    #[serde(with = "serde_bytes")]
    pub encapsulated: [u8; 32],
    /// Thirty-two bytes of share and a tag of sixteen.
    #[serde(with = "serde_bytes")]
    pub ciphertext: [u8; 48],
}

/// First message of a signing: commitments to two nonces that are used once. All zero in a set of one, which needs none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceCommitment {
    /// The member.
    pub node: NodeId,
    /// Commitment to the hiding nonce.
    #[serde(with = "serde_bytes")]
    pub hiding: [u8; 32],
    /// Commitment to the binding nonce.
    #[serde(with = "serde_bytes")]
    pub binding: [u8; 32],
}

/// What a chosen group of members is asked to sign together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningRequest {
    /// CID of the set's record, or of the founding record.
    pub set: Cid,
    /// What is signed; at most [`MESSAGE_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub message: Vec<u8>,
    /// Commitments of those who take part, in ascending order of their ids.
    pub commitments: Vec<NonceCommitment>,
}

/// Second message of a signing: one member's part of the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureShare {
    /// The member.
    pub node: NodeId,
    /// Thirty-two bytes; the whole signature of sixty-four in a set of one.
    pub share: ByteBuf,
}

/// Size and root of a log that a member has signed. It signs nothing that does not continue it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    #[serde(with = "serde_bytes")]
    pub root: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::{from_canonical, to_canonical};
    use crate::cid::{CODEC_DAG_CBOR, cid_from_digest};
    use crate::sign::SigningKey;
    use expect_test::expect;

    fn nodes(count: u8) -> Vec<NodeId> {
        (0..count).map(|name| NodeId([name; 32])).collect()
    }

    #[test]
    fn a_set_is_one_node_or_a_majority_of_several() {
        for (threshold, count) in [(1, 1), (2, 2), (2, 3), (3, 3), (3, 4), (3, 5), (4, 7), (9, 16)] {
            assert_eq!(check_members(threshold, nodes(count).iter()), Ok(()), "{threshold} of {count}");
        }
        for (threshold, count) in [(0, 0), (0, 1), (2, 1), (1, 2), (2, 4), (3, 7), (17, 17)] {
            assert!(check_members(threshold, nodes(count).iter()).is_err(), "{threshold} of {count}");
        }
        let mut twice = nodes(3);
        twice[2] = twice[1];
        assert!(check_members(2, twice.iter()).is_err());
        twice.reverse();
        assert!(check_members(2, twice.iter()).is_err());
    }

    /// The bytes of a stable record: they are signed, so they never change.
    #[test]
    fn the_record_of_a_set_has_these_bytes() {
        let set = SignerSet {
            cell: CellId([1; 32]),
            epoch: 1,
            previous: cid_from_digest(CODEC_DAG_CBOR, [2; 32]),
            order: cid_from_digest(CODEC_DAG_CBOR, [3; 32]),
            threshold: 2,
            members: (4..6).map(|name| Signer { node: NodeId([name; 32]), share: [name + 10; 32] }).collect(),
            group: [9; 32],
        };
        let bytes = to_canonical(&set);
        expect!["a76463656c6c582001010101010101010101010101010101010101010101010101010101010101016565706f6368016567726f757058200909090909090909090909090909090909090909090909090909090909090909656f72646572d82a582500017112200303030303030303030303030303030303030303030303030303030303030303676d656d6265727382a2646e6f64655820040404040404040404040404040404040404040404040404040404040404040465736861726558200e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0ea2646e6f64655820050505050505050505050505050505050505050505050505050505050505050565736861726558200f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f6870726576696f7573d82a582500017112200202020202020202020202020202020202020202020202020202020202020202697468726573686f6c6402"].assert_eq(&data_encoding::HEXLOWER.encode(&bytes));
        assert_eq!(from_canonical::<SignerSet>(&bytes).expect("decodes"), set);
        let handover =
            Handover { set: Signed::seal(set, &SigningKey::from_seed(&[7; 32])), accepted: [8; 64] };
        assert_eq!(from_canonical::<Handover>(&to_canonical(&handover)).expect("decodes"), handover);
    }

    #[test]
    fn the_messages_of_the_protocol_have_these_bytes() {
        let order = SignerOrder {
            cell: CellId([1; 32]),
            epoch: 1,
            previous: cid_from_digest(CODEC_DAG_CBOR, [2; 32]),
            threshold: 1,
            members: nodes(1),
            owner: AccountId([3; 32]),
            at: Timestamp(4),
        };
        let commitment = KeyCommitment {
            order: cid_from_digest(CODEC_DAG_CBOR, [3; 32]),
            node: NodeId([4; 32]),
            coefficients: vec![ByteArray::new([5; 32])],
            proof: [6; 64],
            sealing: [7; 32],
        };
        let sealed = SealedShare {
            transcript: [1; 32],
            from: NodeId([2; 32]),
            to: NodeId([3; 32]),
            encapsulated: [4; 32],
            ciphertext: [5; 48],
        };
        let request = SigningRequest {
            set: cid_from_digest(CODEC_DAG_CBOR, [3; 32]),
            message: b"text\n".to_vec(),
            commitments: vec![NonceCommitment { node: NodeId([4; 32]), hiding: [5; 32], binding: [6; 32] }],
        };
        let share = SignatureShare { node: NodeId([4; 32]), share: ByteBuf::from(vec![5; 32]) };
        let digests = [
            to_canonical(&order),
            to_canonical(&commitment),
            to_canonical(&sealed),
            to_canonical(&request),
            to_canonical(&share),
            to_canonical(&SignedHead { size: 1, root: [2; 32] }),
        ]
        .map(|bytes| format!("{} {}\n", bytes.len(), crate::cid::cid_of(CODEC_DAG_CBOR, &bytes)));
        expect![[r#"
            195 bafyreigge5v25q3a57usys4lv6vph2oect3g3o3hdszectz57itguloh3m
            249 bafyreidqpqalr44uwfwemmu5yiwf7baxg6cljrwt3oz6a6vepshb3tncni
            230 bafyreif2wfti44tjfuu3y467e2mm52spg3v6c7ukmglk7khwow6qih5gm4
            196 bafyreih4jdikewdptwzmuj2posesk43mnw4sptydphwr2mxk3mb7isemlm
            80 bafyreibpi5j44lldv53fdxy32p7eti5xe33dgzf27phj3w3chcii5wj7ym
            46 bafyreiack5gh2o5bzo2i6rnacys2nit7o3iix5zs6v7lkqxkn7k2264kay
        "#]]
        .assert_eq(&digests.concat());
        assert_eq!(from_canonical::<KeyCommitment>(&to_canonical(&commitment)).expect("decodes"), commitment);
        assert_eq!(from_canonical::<SigningRequest>(&to_canonical(&request)).expect("decodes"), request);
    }
}

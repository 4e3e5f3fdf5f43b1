//! Cosignatures: a witness's word that it saw a checkpoint, at a moment, and that it continued all it saw before.
//!
//! ```text
//! cosignature/v1                          ┐
//! time 1700000000                         ├ what a witness signs
//! <the text of the checkpoint's note>     ┘
//! — worldcompute.org/node/node_… base64(key id ‖ time in 8 bytes ‖ signature)      its line on the note
//! ```
//!
//! A witness of ours is named by its public key. So whoever holds a cosigned checkpoint can check each line of ours with
//! nothing else in hand; what such a line is worth depends on whether that witness is independent of the cell, which no
//! file can prove.
//!
//! # Source
//! C2SP `tlog-cosignature` v1, Ed25519 (type byte 0x04).

use data_encoding::{BASE64, HEXLOWER};
use wc_types::cid::sha256;
use wc_types::sign::verify_bytes;
use wc_types::{Class, Code, NodeId, SigningKey};

use crate::note::{Note, NoteSignature};

/// What the name of every witness of ours begins with.
const NAME_PREFIX: &str = "worldcompute.org/node/";
/// The signature type of timestamped Ed25519 cosignatures.
const TYPE_COSIGNATURE: u8 = 0x04;

/// A line claims to be the cosignature of a witness of ours and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cosignature of {name:?} is not one: {reason}")]
pub struct CosignatureError {
    /// Name that the line claims.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl CosignatureError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        Code::new("WC-LEDGER-120", Class::Peer)
    }
}

/// A cosignature that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cosignature {
    /// Who cosigned.
    pub witness: NodeId,
    /// When, in seconds since 1970 by the witness's clock.
    pub at_s: u64,
}

/// Returns the name under which `witness` cosigns.
pub fn witness_name(witness: &NodeId) -> String {
    format!("{NAME_PREFIX}{witness}")
}

/// Returns the witness's verifier key as text: `name+hex(key id)+base64(type ‖ key)`.
pub fn witness_key_text(witness: &NodeId) -> String {
    let name = witness_name(witness);
    let id = HEXLOWER.encode(&key_id(&name, witness));
    let mut key = [TYPE_COSIGNATURE; 33];
    key[1..].copy_from_slice(&witness.0);
    format!("{name}+{id}+{}", BASE64.encode(&key))
}

/// Cosigns the text of a checkpoint's note. Whether it may be cosigned is for [`consider`](crate::witness::consider).
pub fn cosign(text: &str, key: &SigningKey, at_s: u64) -> NoteSignature {
    let witness = key.node_id();
    let name = witness_name(&witness);
    let mut signature = at_s.to_be_bytes().to_vec();
    signature.extend_from_slice(&key.sign_bytes(message(text, at_s).as_bytes()));
    NoteSignature { key_id: key_id(&name, &witness), name, signature }
}

/// Checks a line under the text of a checkpoint: `None` if it is not of a witness of ours, whose key is in its name.
///
/// # Errors
/// [`CosignatureError`] if it says that it is and is not.
pub fn check_cosignature(text: &str, line: &NoteSignature) -> Result<Option<Cosignature>, CosignatureError> {
    let Some(witness) = line.name.strip_prefix(NAME_PREFIX) else { return Ok(None) };
    let fault = |reason| CosignatureError { name: line.name.clone(), reason };
    let witness: NodeId = witness.parse().map_err(|_| fault("the name holds no node id"))?;
    if witness_name(&witness) != line.name {
        return Err(fault("the name is not written the one way"));
    }
    if key_id(&line.name, &witness) != line.key_id {
        return Err(fault("the key id is not that of the name's key"));
    }
    let Some((at, signature)) = line.signature.split_first_chunk::<8>() else {
        return Err(fault("it is shorter than a time and a signature"));
    };
    let signature = signature.try_into().map_err(|_| fault("it is not a time and a signature"))?;
    let at_s = u64::from_be_bytes(*at);
    verify_bytes(&witness.0, message(text, at_s).as_bytes(), signature)
        .map_err(|_| fault("the signature does not belong to this checkpoint"))?;
    Ok(Some(Cosignature { witness, at_s }))
}

/// Returns the cosignatures of witnesses of ours on a note, and the lines that are of neither them nor `signer`.
///
/// # Errors
/// [`CosignatureError`] for a line of ours that does not verify, or a witness that occurs twice.
pub fn cosignatures<'a>(
    note: &'a Note,
    signer: &str,
) -> Result<(Vec<Cosignature>, Vec<&'a NoteSignature>), CosignatureError> {
    let (mut found, mut others) = (Vec::<Cosignature>::new(), Vec::new());
    for line in note.signatures().iter().filter(|line| line.name != signer) {
        match check_cosignature(note.text(), line)? {
            Some(one) if found.iter().any(|other| other.witness == one.witness) => {
                return Err(CosignatureError {
                    name: line.name.clone(),
                    reason: "this witness has cosigned already",
                });
            }
            Some(one) => found.push(one),
            None => others.push(line),
        }
    }
    Ok((found, others))
}

fn message(text: &str, at_s: u64) -> String {
    format!("cosignature/v1\ntime {at_s}\n{text}")
}

fn key_id(name: &str, witness: &NodeId) -> [u8; 4] {
    let mut preimage = name.as_bytes().to_vec();
    preimage.extend_from_slice(&[b'\n', TYPE_COSIGNATURE]);
    preimage.extend_from_slice(&witness.0);
    let [a, b, c, d, ..] = sha256(&preimage);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "example.org/log\n7\nAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n";

    fn key(name: u8) -> SigningKey {
        SigningKey::from_seed(&[name; 32])
    }

    fn note() -> Note {
        Note::sign(TEXT, "example.org/log", &key(1)).expect("signs")
    }

    #[test]
    fn a_cosignature_is_checked_with_nothing_but_its_name() {
        let line = cosign(TEXT, &key(2), 1_700_000_000);
        let found = check_cosignature(TEXT, &line).expect("right");
        assert_eq!(found, Some(Cosignature { witness: key(2).node_id(), at_s: 1_700_000_000 }));
        let note = note().with(line.clone()).expect("fits").with(cosign(TEXT, &key(3), 5)).expect("fits");
        let note = Note::parse(&note.to_string()).expect("parses");
        let (found, others) = cosignatures(&note, "example.org/log").expect("right");
        assert_eq!((found.len(), others.len()), (2, 0));
        assert!(cosignatures(&note.with(line).expect("fits"), "example.org/log").is_err(), "twice the same");
    }

    #[test]
    fn a_line_of_a_stranger_is_nobodys_word() {
        let stranger = Note::sign(TEXT, "witness.example", &key(3)).expect("signs");
        let note = note().with(stranger.signatures()[0].clone()).expect("fits");
        let (found, others) = cosignatures(&note, "example.org/log").expect("ignored");
        assert_eq!((found.len(), others.len()), (0, 1));
    }

    #[test]
    fn a_witness_cannot_lend_its_name_to_another_key() {
        let mut line = cosign(TEXT, &key(2), 5);
        line.name = witness_name(&key(3).node_id());
        assert!(check_cosignature(TEXT, &line).is_err());
        line.name = format!("{NAME_PREFIX}nobody");
        assert!(check_cosignature(TEXT, &line).is_err());
        // A plain signature of the same key is not a cosignature.
        let plain = Note::sign(TEXT, witness_name(&key(2).node_id()), &key(2)).expect("signs");
        assert!(check_cosignature(TEXT, &plain.signatures()[0]).is_err());
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_a_cosignature_or_its_checkpoint_is_accepted(
            at in any::<prop::sample::Index>(), bit in 0..8u8, of_text in any::<bool>(),
        ) {
            let mut line = cosign(TEXT, &key(2), 1_700_000_000);
            let mut text = TEXT.to_owned().into_bytes();
            if of_text {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
            } else {
                let at = at.index(line.signature.len() + 4);
                if at < 4 { line.key_id[at] ^= 1 << bit } else { line.signature[at - 4] ^= 1 << bit }
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            prop_assert!(check_cosignature(&text, &line).is_err());
        }
    }
}

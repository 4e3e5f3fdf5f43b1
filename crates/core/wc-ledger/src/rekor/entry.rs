//! An entry as a log hands it out, in one form for both protocols.
//!
//! Its file form is the JSON of Sigstore's `TransparencyLogEntry`, which v2 answers with and which bundles hold, so that
//! other tools read it. The answers of v1 are read too. Numbers of 64 bits are strings there and numbers here (E-73).

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Api, RekorError, read_base64, read_hash, read_json};
use crate::merkle::{Hash, hash_leaf};

const WHAT: &str = "the entry of the log";
/// Hashes in a proof: a log of 2^64 entries has no longer path.
const HASHES_MAX: usize = 64;

/// Where an entry is in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryProof {
    /// Number of the entry in its shard; in v2 the only number there is.
    pub log_index: u64,
    /// Size of the tree that the path leads through.
    pub tree_size: u64,
    /// Root of that tree.
    pub root: Hash,
    /// The path, nearest first.
    pub hashes: Vec<Hash>,
    /// The log's signed word on that tree.
    pub checkpoint: String,
}

/// An entry of a log, not yet believed: see [`verify_entry`](super::verify_entry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What was logged; its bytes are the leaf.
    pub body: Vec<u8>,
    /// Its kind, such as `hashedrekord`.
    pub kind: String,
    /// Version of its kind.
    pub version: String,
    /// Number of the entry over all shards.
    pub log_index: u64,
    /// Id of the log.
    pub log_id: [u8; 32],
    /// When the log took it in, in seconds since 1970; v1 only.
    pub integrated_time_s: Option<u64>,
    /// The log's signature over body, time, id and number; v1 only.
    pub promise: Option<Vec<u8>>,
    /// Where it is.
    pub proof: EntryProof,
}

/// A number that was written as one or as a string.
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of 64 bits that is not negative, or the same as a string")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
                number.map(Number).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryJson {
    // What is zero may be left out of protobuf's JSON.
    log_index: Option<Number>,
    log_id: IdJson,
    kind_version: KindJson,
    integrated_time: Option<Number>,
    inclusion_promise: Option<PromiseJson>,
    inclusion_proof: Option<ProofJson>,
    canonicalized_body: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdJson {
    key_id: String,
}

#[derive(Serialize, Deserialize)]
struct KindJson {
    kind: String,
    version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromiseJson {
    signed_entry_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProofJson {
    log_index: Option<Number>,
    root_hash: String,
    tree_size: Option<Number>,
    #[serde(default)]
    hashes: Vec<String>,
    checkpoint: Option<CheckpointJson>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointJson {
    envelope: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryOut {
    log_index: String,
    log_id: IdJson,
    kind_version: KindJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    integrated_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inclusion_promise: Option<PromiseJson>,
    inclusion_proof: ProofOut,
    canonicalized_body: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProofOut {
    log_index: String,
    root_hash: String,
    tree_size: String,
    hashes: Vec<String>,
    checkpoint: CheckpointJson,
}

#[derive(Deserialize)]
struct AnswerV1 {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: u64,
    #[serde(rename = "logID")]
    log_id: String,
    #[serde(rename = "logIndex")]
    log_index: u64,
    verification: Option<VerificationV1>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerificationV1 {
    inclusion_proof: Option<ProofV1>,
    signed_entry_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProofV1 {
    checkpoint: String,
    #[serde(default)]
    hashes: Vec<String>,
    log_index: u64,
    root_hash: String,
    tree_size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KindOfBody {
    api_version: String,
    kind: String,
}

impl LogEntry {
    /// Reads a `TransparencyLogEntry`. Fields that it does not have are passed over.
    ///
    /// # Errors
    /// [`RekorError::Malformed`], also when there is no proof in it: a promise alone is not enough.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RekorError> {
        let fault = |reason: &str| RekorError::malformed(WHAT, reason);
        let entry: EntryJson = read_json(WHAT, bytes)?;
        let proof = entry.inclusion_proof.ok_or_else(|| fault("there is no inclusion proof in it"))?;
        let checkpoint = proof.checkpoint.ok_or_else(|| fault("there is no checkpoint in it"))?;
        let zero = Number(0);
        Ok(Self {
            body: read_base64(WHAT, &entry.canonicalized_body)?,
            kind: entry.kind_version.kind,
            version: entry.kind_version.version,
            log_index: entry.log_index.unwrap_or(Number(0)).0,
            log_id: read_hash(WHAT, &entry.log_id.key_id)?,
            integrated_time_s: entry.integrated_time.map(|time| time.0).filter(|time| *time != 0),
            promise: entry
                .inclusion_promise
                .map(|promise| read_base64(WHAT, &promise.signed_entry_timestamp))
                .transpose()?,
            proof: EntryProof {
                log_index: proof.log_index.as_ref().unwrap_or(&zero).0,
                tree_size: proof.tree_size.as_ref().unwrap_or(&zero).0,
                root: read_hash(WHAT, &proof.root_hash)?,
                hashes: hashes(&proof.hashes, |text| read_hash(WHAT, text))?,
                checkpoint: checkpoint.envelope,
            },
        })
    }

    /// Reads an answer of v1: one entry under its id.
    ///
    /// `None` if the entry is there and its proof is not: then the entry has to be asked for by its id.
    ///
    /// # Errors
    /// [`RekorError::Malformed`], [`RekorError::Contradiction`] when the id is not that of the entry.
    pub fn from_v1_answer(bytes: &[u8]) -> Result<(String, Option<Self>), RekorError> {
        let fault = |reason: &str| RekorError::malformed(WHAT, reason);
        let entries: std::collections::BTreeMap<String, AnswerV1> = read_json(WHAT, bytes)?;
        let mut entries = entries.into_iter();
        let (Some((uuid, answer)), None) = (entries.next(), entries.next()) else {
            return Err(fault("the answer is not one entry"));
        };
        let is_id = [64, 80].contains(&uuid.len())
            && uuid.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return Err(fault("its id is not 64 or 80 hexadecimal digits"));
        }
        let body = read_base64(WHAT, &answer.body)?;
        // The id of an entry ends with the hash of its leaf; what may come before it is the id of the tree.
        if !uuid.ends_with(&HEXLOWER.encode(&hash_leaf(&body))) {
            return Err(RekorError::Contradiction { what: "the id and the body of the entry" });
        }
        let hex = |text: &str| -> Result<Hash, RekorError> {
            let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| fault("a hash in it is not 64 hexadecimal digits"))
        };
        let Some(VerificationV1 { inclusion_proof: Some(proof), signed_entry_timestamp: Some(promise) }) =
            answer.verification
        else {
            return Ok((uuid, None));
        };
        let kind: KindOfBody = read_json("the body of the entry", &body)?;
        let entry = Self {
            kind: kind.kind,
            version: kind.api_version,
            body,
            log_index: answer.log_index,
            log_id: hex(&answer.log_id)?,
            integrated_time_s: Some(answer.integrated_time),
            promise: Some(read_base64(WHAT, &promise)?),
            proof: EntryProof {
                log_index: proof.log_index,
                tree_size: proof.tree_size,
                root: hex(&proof.root_hash)?,
                hashes: hashes(&proof.hashes, hex)?,
                checkpoint: proof.checkpoint,
            },
        };
        Ok((uuid, Some(entry)))
    }

    /// Writes the entry as a `TransparencyLogEntry`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.to_out()).expect("strings always become JSON")
    }

    pub(crate) fn to_out(&self) -> EntryOut {
        EntryOut {
            log_index: self.log_index.to_string(),
            log_id: IdJson { key_id: BASE64.encode(&self.log_id) },
            kind_version: KindJson { kind: self.kind.clone(), version: self.version.clone() },
            integrated_time: self.integrated_time_s.map(|time| time.to_string()),
            inclusion_promise: self
                .promise
                .as_ref()
                .map(|promise| PromiseJson { signed_entry_timestamp: BASE64.encode(promise) }),
            inclusion_proof: ProofOut {
                log_index: self.proof.log_index.to_string(),
                root_hash: BASE64.encode(&self.proof.root),
                tree_size: self.proof.tree_size.to_string(),
                hashes: self.proof.hashes.iter().map(|hash| BASE64.encode(hash)).collect(),
                checkpoint: CheckpointJson { envelope: self.proof.checkpoint.clone() },
            },
            canonicalized_body: BASE64.encode(&self.body),
        }
    }

    /// Returns the protocol that the entry's kind belongs to.
    ///
    /// # Errors
    /// [`RekorError::OtherKind`].
    pub fn api(&self) -> Result<Api, RekorError> {
        Api::of(&self.kind, &self.version)
    }

    /// Returns the hash of the entry's leaf.
    pub fn leaf(&self) -> Hash {
        hash_leaf(&self.body)
    }
}

fn hashes(
    texts: &[String],
    read: impl Fn(&str) -> Result<Hash, RekorError>,
) -> Result<Vec<Hash>, RekorError> {
    if texts.len() > HASHES_MAX {
        return Err(RekorError::malformed(WHAT, format!("its proof has more than {HASHES_MAX} hashes")));
    }
    texts.iter().map(|text| read(text)).collect()
}

//! Is the entry in the log, by the log's own signed word?

use wc_types::cid::sha256;
use wc_types::{Millis, Timestamp};

use data_encoding::{BASE64, HEXLOWER};

use super::{Api, LogEntry, LogKey, RekorError, TrustedLog, TrustedRoot};
use crate::checkpoint::Checkpoint;
use crate::note::Note;
use crate::proof::verify_inclusion;

/// How far the log's clock may be before ours.
pub const CLOCK_SKEW_MAX: Millis = Millis(10 * 60 * 1000);
/// The type byte of Ed25519 in a C2SP key id.
const TYPE_ED25519: u8 = 0x01;

/// What was proved about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    /// Where the log is, as the trusted root says.
    pub log: String,
    /// The protocol.
    pub api: Api,
    /// Number of the entry.
    pub log_index: u64,
    /// Size of the tree that it was proved to be in.
    pub tree_size: u64,
    /// Hashes on the way to its root.
    pub proof_hashes: usize,
    /// When the log took it in, by the log's signature; v1 only.
    pub integrated_at: Option<Timestamp>,
}

/// Checks that `entry` is in a log that `root` trusts: the signed promise (v1), the key's time, the checkpoint's
/// signature, the path from the entry to the checkpoint's root, and that what is said twice is the same.
///
/// What the entry is *about* is not asked here.
///
/// - `at`: now, or, for an entry of v2, which holds no moment, the moment at which the caller knows it existed
///
/// # Errors
/// [`RekorError`].
pub fn verify_entry(entry: &LogEntry, root: &TrustedRoot, at: Timestamp) -> Result<LogProof, RekorError> {
    let api = entry.api()?;
    let (log, integrated_at) = match api {
        Api::V1 => {
            let (log, integrated_at) = check_promise(entry, root, at)?;
            (log, Some(integrated_at))
        }
        Api::V2 => {
            if entry.promise.is_some() || entry.integrated_time_s.is_some() {
                return Err(RekorError::Promise { fault: "does not exist in this protocol" });
            }
            if entry.log_index != entry.proof.log_index {
                return Err(RekorError::Contradiction { what: "the two numbers of the entry" });
            }
            (root.find(&entry.log_id, at)?, None)
        }
    };
    let checkpoint = check_checkpoint(&entry.proof.checkpoint, log)?;
    if checkpoint.size != entry.proof.tree_size || checkpoint.root != entry.proof.root {
        return Err(RekorError::Contradiction { what: "the proof and the checkpoint" });
    }
    let proof = &entry.proof;
    verify_inclusion(&entry.leaf(), proof.log_index, checkpoint.size, &proof.hashes, &checkpoint.root)
        .map_err(RekorError::Inclusion)?;
    Ok(LogProof {
        log: log.base_url.clone(),
        api,
        log_index: entry.log_index,
        tree_size: checkpoint.size,
        proof_hashes: proof.hashes.len(),
        integrated_at,
    })
}

/// Checks the signed entry timestamp of v1, and returns the log and the moment that it promises.
fn check_promise<'a>(
    entry: &LogEntry,
    root: &'a TrustedRoot,
    now: Timestamp,
) -> Result<(&'a TrustedLog, Timestamp), RekorError> {
    let (Some(promise), Some(time_s)) = (&entry.promise, entry.integrated_time_s) else {
        return Err(RekorError::Promise { fault: "is missing" });
    };
    let micros = i64::try_from(time_s).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
    let at = Timestamp(micros.ok_or(RekorError::Promise { fault: "is of no moment" })?);
    let log = root.find(&entry.log_id, at)?;
    // Canonical JSON (RFC 8785): keys in order, no spaces. Neither base64 nor hexadecimal needs an escape.
    let signed = format!(
        r#"{{"body":"{}","integratedTime":{time_s},"logID":"{}","logIndex":{}}}"#,
        BASE64.encode(&entry.body),
        HEXLOWER.encode(&entry.log_id),
        entry.log_index,
    );
    if !log.key.verifies(signed.as_bytes(), promise) {
        return Err(RekorError::Promise { fault: "is not the log's over this entry" });
    }
    if at > now.plus(CLOCK_SKEW_MAX) {
        return Err(RekorError::Future { integrated: at.to_string(), now: now.to_string() });
    }
    Ok((log, at))
}

/// Checks that a line of the note is the log's, and returns what the note says.
///
/// Lines of others (witnesses, a second key of the log) are passed over. A line that claims the log's key and is not
/// signed by it condemns the note.
fn check_checkpoint(envelope: &str, log: &TrustedLog) -> Result<Checkpoint, RekorError> {
    let fault = |fault| RekorError::CheckpointSignature { fault };
    let note = Note::parse(envelope).map_err(RekorError::Note)?;
    let checkpoint = Checkpoint::parse_text(note.text()).map_err(RekorError::Checkpoint)?;
    let hint = &log.key_id[..4];
    let mut signed = false;
    for line in note.signatures().iter().filter(|line| line.key_id == *hint) {
        if !is_name_of(&line.name, log) || !is_origin_of(&checkpoint.origin, &line.name) {
            return Err(fault("is signed in another log's name"));
        }
        if !log.key.verifies(note.text().as_bytes(), &line.signature) {
            return Err(fault("has a signature that is not the log's"));
        }
        signed = true;
    }
    if signed { Ok(checkpoint) } else { Err(fault("is not signed by the log")) }
}

/// Returns whether a key of this name has the log's id: the hash of the key alone (ECDSA; every key of v1) or, as C2SP
/// has it for Ed25519, of name and key.
fn is_name_of(name: &str, log: &TrustedLog) -> bool {
    log.key_id == sha256(log.key.spki()) || c2sp_id(name, &log.key).is_some_and(|id| id == log.key_id)
}

fn c2sp_id(name: &str, key: &LogKey) -> Option<[u8; 32]> {
    let key = key.ed25519()?;
    Some(sha256(&[name.as_bytes(), &[b'\n', TYPE_ED25519], &key].concat()))
}

/// Returns whether a log of this name writes this origin: the name itself, or in v1 the name, a dash and the shard.
fn is_origin_of(origin: &str, name: &str) -> bool {
    origin.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" - "))
}

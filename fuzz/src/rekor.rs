//! Entries, anchors, bodies and trusted roots: what a transparency log, or whoever pretends to be one, hands us.

use wc_ledger::rekor::{HashedRekord, checkpoint_size, entry_from_tiles};
use wc_ledger::{AnchorFile, LogEntry, TrustedRoot, verify_anchor, verify_entry};
use wc_types::Timestamp;

/// A real entry of each protocol, a real answer of v1 and a real trusted root; `tests/data/rekor/README.md` of
/// `wc-ledger` says where they are from.
const V1: &[u8] = include_bytes!("../../crates/core/wc-ledger/tests/data/rekor/v1-production-own-key.json");
const V2: &[u8] = include_bytes!("../../crates/core/wc-ledger/tests/data/rekor/v2-production.json");
const ANSWER: &[u8] = include_bytes!("../../crates/core/wc-ledger/tests/data/rekor/v1-staging-api.json");
const ROOT: &[u8] =
    include_bytes!("../../crates/core/wc-ledger/tests/data/rekor/trusted-root-production.json");
const NOW: Timestamp = Timestamp(1_787_184_000_000_000);

/// Reads the bytes as every document of a log. What is believed under the pinned keys is one of the real entries, whatever
/// was done to its text; an anchor file has one form; a trusted root that reads has a log.
pub fn target(data: &[u8]) {
    let root = TrustedRoot::pinned();
    if let Ok(entry) = LogEntry::from_json(data) {
        let again = LogEntry::from_json(&entry.to_json());
        assert_eq!(again.as_ref(), Ok(&entry), "an entry survives its own form");
        if verify_entry(&entry, &root, NOW).is_ok() {
            let real = [V1, V2].map(|bytes| LogEntry::from_json(bytes).expect("a real entry"));
            // Lines of witnesses that nobody here knows may differ: they are carried and not checked.
            assert!(real.iter().any(|real| real.body == entry.body && real.log_index == entry.log_index));
        }
        let _ = HashedRekord::parse(&entry.body);
    }
    if let Ok((id, Some(entry))) = LogEntry::from_v1_answer(data) {
        assert!(id.len() == 64 || id.len() == 80);
        assert!(verify_entry(&entry, &root, NOW).is_err(), "no sample is an answer of a pinned log");
    }
    if let Ok(anchor) = AnchorFile::from_json(data) {
        assert_eq!(anchor.to_json(), data, "an anchor file has one form");
        assert!(verify_anchor(&anchor, &root, NOW, None).is_err(), "no sample is an anchor");
    }
    if let Ok(root) = TrustedRoot::from_json(data) {
        assert!(!root.logs().is_empty());
    }
    let _ = HashedRekord::parse(data);
    if let Ok(text) = std::str::from_utf8(data)
        && checkpoint_size(text).is_ok()
    {
        let _ =
            entry_from_tiles([1; 32], 7, text, data, |_, _, width| Some(vec![0; 32 * usize::from(width)]));
    }
}

/// Real documents, a body, a checkpoint, and an anchor file around a real entry.
pub fn seeds() -> Vec<Vec<u8>> {
    let entry = LogEntry::from_json(V1).expect("a real entry");
    let key = wc_ledger::AnchorKey::from_seed(&[1; 32]);
    let checkpoint = entry.proof.checkpoint.clone();
    let anchor = AnchorFile {
        signature: key.sign(&checkpoint),
        key: key.public().clone(),
        entry: entry.clone(),
        checkpoint: checkpoint.clone(),
    };
    let own = [anchor.to_json(), entry.body, checkpoint.into_bytes()];
    [V1, V2, ANSWER, ROOT].into_iter().map(<[u8]>::to_vec).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted_by_its_reader() {
        let seeds = seeds();
        assert!(LogEntry::from_json(&seeds[0]).is_ok() && LogEntry::from_json(&seeds[1]).is_ok());
        assert!(LogEntry::from_v1_answer(&seeds[2]).is_ok());
        assert!(TrustedRoot::from_json(&seeds[3]).is_ok());
        assert!(AnchorFile::from_json(&seeds[4]).is_ok());
        assert!(HashedRekord::parse(&seeds[5]).is_ok());
        seeds.iter().for_each(|seed| target(seed));
    }
}

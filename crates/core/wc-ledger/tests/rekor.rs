//! Real entries of real logs are believed, and nothing that was changed in them is. `tests/data/rekor/README.md` says
//! where each of them comes from.
#![allow(clippy::disallowed_methods, reason = "the recorded material lies in files")]

mod fixture {
    pub mod log;
}

use std::fs;
use std::path::PathBuf;

use data_encoding::{BASE64, HEXLOWER};
use fixture::log::TestLog;
use serde_json::Value;
use wc_ledger::anchor::check_body;
use wc_ledger::rekor::{Api, HashedRekord, Signer, bundle_of, checkpoint_size, entry_from_tiles};
use wc_ledger::{
    AnchorFile, AnchorKey, Checkpoint, LogEntry, RekorError, TrustedRoot, cell_key, verify_anchor,
    verify_entry,
};
use wc_types::{CellId, SigningKey, Timestamp};

/// 2026-08-20, when the material was collected.
const NOW: Timestamp = Timestamp(1_787_184_000_000_000);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/rekor").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root(name: &str) -> TrustedRoot {
    TrustedRoot::from_json(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn production() -> TrustedRoot {
    root("trusted-root-production.json")
}

fn staging() -> TrustedRoot {
    root("trusted-root-staging.json")
}

fn moment(text: &str) -> Timestamp {
    let days: [(&str, i64); 2] = [("2025-06-10", 1_749_513_600), ("2025-08-20", 1_755_648_000)];
    let found = days.iter().find(|(day, _)| *day == text).expect("a day of the table");
    Timestamp(found.1 * 1_000_000)
}

/// Every recorded entry, with the logs that it is of and the moment to ask for.
fn recorded() -> Vec<(&'static str, LogEntry, TrustedRoot, Timestamp)> {
    let table = [
        ("v1-production-own-key.json", production(), NOW),
        ("v1-production-certificate.json", production(), NOW),
        ("v1-production-2023.json", production(), NOW),
        ("v1-staging.json", staging(), NOW),
        ("v2-production.json", production(), NOW),
        ("v2-staging.json", staging(), moment("2025-06-10")),
        ("v2-staging-multiple-cosigs.json", staging(), moment("2025-08-20")),
        ("v2-staging-origin-not-first.json", staging(), moment("2025-08-20")),
        ("v2-staging-two-sigs-cosigned.json", staging(), moment("2025-08-20")),
    ];
    let mut rows: Vec<_> = table
        .into_iter()
        .map(|(name, root, at)| {
            let entry = LogEntry::from_json(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, entry, root, at)
        })
        .collect();
    let (_, entry) = LogEntry::from_v1_answer(&read("v1-staging-api.json")).expect("an answer of the API");
    rows.push(("v1-staging-api.json", entry.expect("with its proof"), staging(), NOW));
    rows
}

#[test]
fn every_recorded_entry_is_in_its_log() {
    for (name, entry, root, at) in recorded() {
        let proof = verify_entry(&entry, &root, at).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(proof.log_index, entry.log_index, "{name}");
        assert_eq!(proof.integrated_at.is_some(), name.starts_with("v1"), "{name}");
        let again = LogEntry::from_json(&entry.to_json()).expect("its own form");
        assert_eq!(again, entry, "{name} survives its own form");
    }
}

#[cfg(not(feature = "unpinned"))]
#[test]
fn the_pinned_keys_are_those_of_the_published_trusted_root() {
    assert_eq!(TrustedRoot::pinned(), production());
    for (name, entry, _, at) in recorded().into_iter().filter(|row| row.0.contains("production")) {
        verify_entry(&entry, &TrustedRoot::pinned(), at).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

#[test]
fn a_recorded_entry_of_a_key_is_about_its_artifact_signature_and_key() {
    let entry = LogEntry::from_json(&read("v1-production-own-key.json")).expect("reads");
    let body = HashedRekord::parse(&entry.body).expect("reads");
    let artifact = String::from_utf8(read("v1-production-own-key.artifact")).expect("text");
    let Signer::Key(spki) = &body.signer else { panic!("it was made with a key") };
    let key = wc_ledger::rekor::LogKey::from_spki(spki).expect("a key of P-256");
    assert!(key.verifies(artifact.as_bytes(), &body.signature), "the signature that was logged is right");
    check_body(&entry, &artifact, &key, &body.signature).expect("about this artifact");

    let other = AnchorKey::from_seed(&[1; 32]);
    let wrong = |result: Result<(), RekorError>| result.expect_err("about something else").to_string();
    assert_eq!(
        wrong(check_body(&entry, "another artifact", &key, &body.signature)),
        "the entry does not hold the digest of this checkpoint"
    );
    assert_eq!(
        wrong(check_body(&entry, &artifact, other.public(), &body.signature)),
        "the entry does not hold the anchor key"
    );
    assert_eq!(
        wrong(check_body(&entry, &artifact, &key, &other.sign(&artifact))),
        "the entry does not hold the anchor's signature"
    );
}

#[test]
fn recorded_entries_that_others_refuse_are_refused() {
    let mut refused = 0;
    for file in fs::read_dir(path("refused")).expect("the directory") {
        let file = file.expect("a file").path();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = fs::read(&file).expect("reads");
        if name.starts_with("trusted-root") {
            let error = TrustedRoot::from_json(&bytes).expect_err("a key without a beginning");
            assert!(error.to_string().contains("does not say from when"), "{error}");
            continue;
        }
        let root = if name.starts_with("rekor2") { staging() } else { production() };
        let outcome =
            LogEntry::from_json(&bytes).and_then(|entry| verify_entry(&entry, &root, moment("2025-08-20")));
        let error = outcome.expect_err(&name);
        println!("{name}: {error}");
        refused += 1;
    }
    assert_eq!(refused, 14);
}

#[test]
fn the_time_of_a_key_has_both_ends_and_is_that_of_the_entry() {
    let entry = LogEntry::from_json(&read("v1-production-2023.json")).expect("reads");
    verify_entry(&entry, &root("trusted-root-ends-with-the-entry.json"), NOW)
        .expect("the last second counts");
    let text = String::from_utf8(read("trusted-root-ends-with-the-entry.json")).expect("text");
    let earlier =
        TrustedRoot::from_json(text.replace("2023-07-12T15:56:36Z", "2023-07-12T15:56:35Z").as_bytes());
    let error = verify_entry(&entry, &earlier.expect("reads"), NOW).expect_err("a second too late");
    assert!(matches!(error, RekorError::KeyNotValid { .. }), "{error}");
    // An entry of v2 has no moment of its own: the caller's counts.
    let entry = LogEntry::from_json(&read("v2-staging.json")).expect("reads");
    let error = verify_entry(&entry, &staging(), NOW).expect_err("that log has ended");
    assert!(matches!(error, RekorError::KeyNotValid { .. }), "{error}");
    // A promise from the future is none.
    let entry = LogEntry::from_json(&read("v1-production-own-key.json")).expect("reads");
    let error = verify_entry(&entry, &production(), moment("2025-08-20")).expect_err("made later");
    assert!(matches!(error, RekorError::Future { .. }), "{error}");
}

/// Calls `check` with the document after each change of one value in it.
fn each_change(document: &Value, check: &mut impl FnMut(&str, &Value)) {
    fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    pointers(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            Value::Array(items) => {
                for (number, value) in items.iter().enumerate() {
                    pointers(value, format!("{at}/{number}"), found);
                }
            }
            _ => found.push(at),
        }
    }
    let mut found = Vec::new();
    pointers(document, String::new(), &mut found);
    for pointer in found {
        let original = document.pointer(&pointer).expect("it was found").clone();
        let mut replacements = match &original {
            Value::String(text) if BASE64.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() > 8) => {
                let bytes = BASE64.decode(text.as_bytes()).expect("base64");
                let mut copies = vec![Value::String(String::new())];
                for position in 0..bytes.len() {
                    let mut copy = bytes.clone();
                    copy[position] ^= 1 << (position % 8);
                    copies.push(Value::String(BASE64.encode(&copy)));
                }
                copies
            }
            Value::String(text) => {
                let letters: Vec<char> = text.chars().collect();
                (0..letters.len())
                    .map(|position| {
                        let mut copy = letters.clone();
                        copy[position] = if copy[position] == '7' { '8' } else { '7' };
                        Value::String(copy.into_iter().collect())
                    })
                    .collect()
            }
            Value::Number(number) => {
                vec![(number.as_u64().expect("whole") ^ 1).into(), 0.into(), (-1).into()]
            }
            _ => Vec::new(),
        };
        replacements.push(Value::Null);
        for replacement in replacements.into_iter().filter(|new| *new != original) {
            let mut copy = document.clone();
            *copy.pointer_mut(&pointer).expect("it was found") = replacement;
            check(&pointer, &copy);
        }
    }
}

#[test]
fn every_change_of_a_value_in_a_recorded_entry_is_refused() {
    let mut tampered = 0u32;
    for (name, root, at) in [
        ("v1-production-own-key.json", production(), NOW),
        ("v1-staging.json", staging(), NOW),
        ("v2-production.json", production(), NOW),
        ("v2-staging.json", staging(), moment("2025-06-10")),
    ] {
        let document: Value = serde_json::from_slice(&read(name)).expect("JSON");
        each_change(&document, &mut |pointer, copy| {
            let bytes = serde_json::to_vec(copy).expect("JSON");
            let outcome = LogEntry::from_json(&bytes).and_then(|entry| verify_entry(&entry, &root, at));
            assert!(outcome.is_err(), "{name}: a change of {pointer} is believed");
            tampered += 1;
        });
    }
    let answer: Value = serde_json::from_slice(&read("v1-staging-api.json")).expect("JSON");
    each_change(&answer, &mut |pointer, copy| {
        let bytes = serde_json::to_vec(copy).expect("JSON");
        let outcome = LogEntry::from_v1_answer(&bytes).map(|(_, entry)| entry);
        let believed = outcome
            .is_ok_and(|entry| entry.is_some_and(|entry| verify_entry(&entry, &staging(), NOW).is_ok()));
        assert!(!believed, "a change of {pointer} is believed");
        tampered += 1;
    });
    println!("{tampered} changed entries were refused");
    assert!(tampered > 5_000, "{tampered}");
}

#[test]
fn an_entry_of_one_log_is_not_believed_as_one_of_another() {
    for (name, entry, root, at) in recorded() {
        let other = if root == staging() { production() } else { staging() };
        let error = verify_entry(&entry, &other, at).expect_err(name);
        assert!(matches!(error, RekorError::UnknownLog { .. }), "{name}: {error}");
    }
}

fn anchored(api: Api) -> (AnchorFile, TrustedRoot) {
    let cell = CellId([3; 32]);
    let checkpoint = Checkpoint::new(&cell, 77, [9; 32]);
    let note = checkpoint.sign(&SigningKey::from_seed(&[4; 32])).expect("signs").to_string();
    let key = AnchorKey::from_seed(&[5; 32]);
    let mut log = TestLog::new(api, 11);
    let body = log.body_of_request(&key.request(api, &note)).expect("a request of this log");
    let index = log.append(body, 1_787_000_000);
    log.append(b"somebody else".to_vec(), 1_787_000_001);
    let entry = match api {
        Api::V1 => {
            let answer = serde_json::to_vec(&log.answer_v1(index)).expect("JSON");
            LogEntry::from_v1_answer(&answer).expect("reads").1.expect("with its proof")
        }
        Api::V2 => {
            LogEntry::from_json(&serde_json::to_vec(&log.answer_v2(index)).expect("JSON")).expect("reads")
        }
    };
    let signature = key.sign(&note);
    let root = TrustedRoot::from_json(&log.trusted_root("2020-01-01T00:00:00Z", None)).expect("reads");
    (AnchorFile { checkpoint: note, key: key.public().clone(), signature, entry }, root)
}

#[test]
fn an_anchor_of_ours_is_proved_from_its_file_alone() {
    for api in [Api::V1, Api::V2] {
        let (anchor, root) = anchored(api);
        let read = AnchorFile::from_json(&anchor.to_json()).expect("its own form");
        assert_eq!(read, anchor);
        let signer = cell_key(&CellId([3; 32]), SigningKey::from_seed(&[4; 32]).public());
        let report = verify_anchor(&read, &root, NOW, Some(&signer)).expect("proved");
        assert_eq!((report.checkpoint.size, report.checkpoint.root), (77, [9; 32]));
        assert!(report.signer_checked);
        assert_eq!(report.log.api, api);
        let stranger = cell_key(&CellId([3; 32]), SigningKey::from_seed(&[6; 32]).public());
        let error = verify_anchor(&read, &root, NOW, Some(&stranger)).expect_err("another cell's key");
        assert!(matches!(error, RekorError::Anchored(_)), "{error}");
    }
}

#[test]
fn every_flipped_byte_of_an_anchor_file_is_refused() {
    for api in [Api::V1, Api::V2] {
        let (anchor, root) = anchored(api);
        let bytes = anchor.to_json();
        for position in 0..bytes.len() {
            for change in [1u8, 2, 0x20, 0x80, 0xff] {
                let mut copy = bytes.clone();
                copy[position] ^= change;
                let outcome =
                    AnchorFile::from_json(&copy).and_then(|anchor| verify_anchor(&anchor, &root, NOW, None));
                assert!(outcome.is_err(), "{api:?}: byte {position} changed by {change:#x} is believed");
            }
        }
        for length in 0..bytes.len() {
            assert!(AnchorFile::from_json(&bytes[..length]).is_err(), "{length} bytes of {}", bytes.len());
        }
        let longer = [bytes.as_slice(), b" "].concat();
        assert!(AnchorFile::from_json(&longer).is_err(), "a byte more");
    }
}

#[test]
fn an_anchor_is_not_moved_to_another_checkpoint_key_or_log() {
    let (anchor, root) = anchored(Api::V2);
    let other = AnchorKey::from_seed(&[8; 32]);
    let moved = AnchorFile { checkpoint: anchor.checkpoint.replace("77", "78"), ..anchor.clone() };
    assert!(matches!(verify_anchor(&moved, &root, NOW, None), Err(RekorError::NotOurs { .. })));
    let moved = AnchorFile { key: other.public().clone(), ..anchor.clone() };
    assert!(matches!(verify_anchor(&moved, &root, NOW, None), Err(RekorError::NotOurs { .. })));
    let moved = AnchorFile { signature: other.sign(&anchor.checkpoint), ..anchor.clone() };
    assert!(matches!(verify_anchor(&moved, &root, NOW, None), Err(RekorError::NotOurs { .. })));
    assert!(matches!(verify_anchor(&anchor, &production(), NOW, None), Err(RekorError::UnknownLog { .. })));
}

#[test]
fn a_log_cannot_take_a_signature_that_the_anchor_key_did_not_make() {
    // The log takes what it is given, here the signature of a stranger, in the name of our key.
    let cell = CellId([3; 32]);
    let note =
        Checkpoint::new(&cell, 1, [1; 32]).sign(&SigningKey::from_seed(&[4; 32])).expect("signs").to_string();
    let (key, stranger) = (AnchorKey::from_seed(&[5; 32]), AnchorKey::from_seed(&[6; 32]));
    let mut log = TestLog::new(Api::V2, 11);
    let signature = stranger.sign(&note);
    let digest = wc_types::cid::sha256(note.as_bytes());
    let request = wc_ledger::rekor::request_json(Api::V2, &digest, &signature, key.public());
    let body = log.body_of_request(&request).expect("a request");
    let index = log.append(body, 0);
    let entry =
        LogEntry::from_json(&serde_json::to_vec(&log.answer_v2(index)).expect("JSON")).expect("reads");
    let anchor = AnchorFile { checkpoint: note, key: key.public().clone(), signature, entry };
    let root = TrustedRoot::from_json(&log.trusted_root("2020-01-01T00:00:00Z", None)).expect("reads");
    assert_eq!(verify_anchor(&anchor, &root, NOW, None), Err(RekorError::Signature));
}

#[test]
fn an_anchor_key_is_that_of_its_seed_and_signs_the_same_each_time() {
    let (one, two) = (AnchorKey::from_seed(&[1; 32]), AnchorKey::from_seed(&[2; 32]));
    assert_eq!(one.public(), AnchorKey::from_seed(&[1; 32]).public());
    assert_ne!(one.public(), two.public());
    assert_eq!(one.sign("text"), one.sign("text"));
    assert!(one.public().verifies(b"text", &one.sign("text")));
    assert!(!one.public().verifies(b"text", &two.sign("text")));
    let shown = format!("{one:?}");
    assert!(shown.contains(&BASE64.encode(one.public().spki())), "{shown}");
    assert!(!shown.contains(&HEXLOWER.encode(&[1; 32])), "a key prints its public half only");
}

#[test]
fn a_trusted_root_takes_what_it_knows_and_says_what_it_passed_over() {
    let text = String::from_utf8(read("trusted-root-production.json")).expect("text");
    let rsa = text.replace("PKIX_ED25519", "PKIX_RSA_PKCS1V15_2048_SHA256");
    let root = TrustedRoot::from_json(rsa.as_bytes()).expect("one log is left");
    assert_eq!(root.logs().len(), 1);
    assert_eq!(root.passed_over(), ["https://log2025-1.rekor.sigstore.dev: PKIX_RSA_PKCS1V15_2048_SHA256"]);
    assert_eq!(TrustedRoot::from_json(b"{}"), Err(RekorError::EmptyRoot));
    assert_eq!(TrustedRoot::from_json(br#"{"tlogs":[]}"#), Err(RekorError::EmptyRoot));
    for (from, to) in [
        ("SHA2_256", "SHA2_512"),
        ("PKIX_ED25519", "PKIX_ECDSA_P256_SHA_256"),
        ("wNI9atQGlz+VWfO6LRygH4QUfY/8W4RFwiT5i5WRgB0=", "wNI9atQGlz+VWfO6LRygH4QUfY/8W4RFwiT5i5WRgB4="),
        ("2021-01-12T11:53:27Z", "yesterday"),
        ("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcE"),
        ("MCowBQYDK2VwAyEA", "MCowBQYDK2VwAyEB"),
        ("\"keyId\"", "\"keyIdentity\""),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(TrustedRoot::from_json(text.replace(from, to).as_bytes()).is_err(), "{from} as {to}");
    }
}

#[test]
fn an_entry_is_put_together_from_tiles_wherever_it_is() {
    let key = AnchorKey::from_seed(&[5; 32]);
    for size in [1u64, 2, 200, 256, 257, 700, 66_000] {
        let mut log = TestLog::new(Api::V2, 11);
        let ours = size / 3;
        let mut index = 0;
        for number in 0..size {
            if number == ours {
                let note = Checkpoint::new(&CellId([3; 32]), 1, [1; 32])
                    .sign(&SigningKey::from_seed(&[4; 32]))
                    .expect("signs")
                    .to_string();
                let body = log.body_of_request(&key.request(Api::V2, &note)).expect("a request");
                index = log.append(body, 0);
            } else {
                log.append(number.to_be_bytes().to_vec(), 0);
            }
        }
        let root = TrustedRoot::from_json(&log.trusted_root("2020-01-01T00:00:00Z", None)).expect("reads");
        let checkpoint = log.checkpoint();
        assert_eq!(checkpoint_size(&checkpoint), Ok(log.size()));
        let (number, width) = bundle_of(index, log.size()).expect("it is there");
        let bundle = log.bundle(number, width).expect("it is there");
        let tile = |level, index, width| log.tile(level, index, width);
        let entry = entry_from_tiles(log.key_id(), index, &checkpoint, &bundle, tile).expect("put together");
        let proof = verify_entry(&entry, &root, NOW).unwrap_or_else(|error| panic!("size {size}: {error:?}"));
        assert_eq!((proof.log_index, proof.tree_size), (index, log.size()));

        let answer = serde_json::to_vec(&log.answer_v2(index)).expect("JSON");
        assert_eq!(LogEntry::from_json(&answer).expect("reads"), entry, "the same as the log's own answer");
        if size > 2 {
            let missing = entry_from_tiles(log.key_id(), index, &checkpoint, &bundle, |_, _, _| None);
            assert!(matches!(missing, Err(RekorError::Inclusion(_))));
        }
        let cut = entry_from_tiles(log.key_id(), index, &checkpoint, &bundle[..bundle.len() - 1], tile);
        assert!(matches!(cut, Err(RekorError::Malformed { .. })));
        assert!(bundle_of(log.size(), log.size()).is_err());
    }
}

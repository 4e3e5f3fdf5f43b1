use proptest::prelude::*;

use super::*;

/// Key, seed and note of the reference implementation's own tests.
///
/// # Source
/// `golang.org/x/mod/sumdb/note/note_test.go`.
const PETER_VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_SIGNER: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const PETER_TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const PETER_NOTE: &str = "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";

fn peter() -> VerifierKey {
    PETER_VERIFIER.parse().expect("published key")
}

fn peter_signer() -> SigningKey {
    let bytes = BASE64.decode(PETER_SIGNER.as_bytes()).expect("base64");
    SigningKey::from_seed(bytes[1..].try_into().expect("32 bytes"))
}

/// The text of a note whose signature lines are `lines`.
fn with_lines(lines: &str) -> String {
    format!("{PETER_TEXT}\n{lines}")
}

fn line(name: &str, blob: &[u8]) -> String {
    format!("{SIGNATURE_PREFIX}{name} {}\n", BASE64.encode(blob))
}

#[test]
fn the_published_note_verifies_under_the_published_key() {
    let note = Note::parse(PETER_NOTE).expect("parses");
    assert_eq!(note.verify(&peter()), Ok(()));
    assert_eq!(note.text(), PETER_TEXT);
    assert_eq!(note.to_string(), PETER_NOTE);
    assert_eq!(peter().to_string(), PETER_VERIFIER);
    assert_eq!(peter().name(), "PeterNeumann");
}

#[test]
fn signing_with_the_published_seed_gives_the_published_note() {
    let note = Note::sign(PETER_TEXT, "PeterNeumann", &peter_signer()).expect("signs");
    assert_eq!(note.to_string(), PETER_NOTE);
}

#[test]
fn a_mangled_verifier_key_is_refused() {
    for start in 0..PETER_VERIFIER.len() {
        for end in start..=PETER_VERIFIER.len() {
            let whole = start == 0 && end == PETER_VERIFIER.len();
            assert_eq!(PETER_VERIFIER[start..end].parse::<VerifierKey>().is_ok(), whole, "{start}..{end}");
        }
    }
    for place in 0..PETER_VERIFIER.len() {
        let mut bytes = PETER_VERIFIER.as_bytes().to_vec();
        bytes[place] += 1;
        let text = String::from_utf8(bytes).expect("ASCII");
        assert!(text.parse::<VerifierKey>().is_err(), "{text}");
    }
    // Both published by the reference tests: a key of the wrong length and one of an unknown type, with fitting ids.
    for text in [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(matches!(text.parse::<VerifierKey>(), Err(NoteError::Key { .. })), "{text}");
    }
}

#[test]
fn lines_of_unknown_keys_are_ignored_and_those_of_known_keys_must_be_right() {
    let [_, good] = PETER_NOTE.split("\n\n").collect::<Vec<_>>()[..] else { panic!("two parts") };
    let wrong = line("PeterNeumann", &[&peter().id()[..], &[7; 64]].concat());
    let short = line("PeterNeumann", &[&peter().id()[..], &[7; 3]].concat());
    let other_name = line("PeterGabriel", &[&peter().id()[..], &[7; 64]].concat());
    let other_id = line("PeterNeumann", &[9; 68]);
    let table = [
        (format!("{good}{other_name}{other_id}"), Ok(())),
        (format!("{other_name}{other_id}{good}{good}"), Ok(())),
        (other_name.clone(), Err("WC-LEDGER-035")),
        (other_id, Err("WC-LEDGER-035")),
        (wrong.clone(), Err("WC-LEDGER-036")),
        (format!("{good}{wrong}"), Err("WC-LEDGER-036")),
        (format!("{good}{short}"), Err("WC-LEDGER-036")),
    ];
    for (lines, expected) in table {
        let note = Note::parse(&with_lines(&lines)).expect("parses");
        let verdict = note.verify(&peter()).map_err(|error| error.code().name);
        assert_eq!(verdict, expected, "{lines}");
        assert_eq!(note.to_string(), with_lines(&lines));
    }
}

#[test]
fn malformed_notes_are_refused() {
    let good = line("k", &[1; 68]);
    let table = [
        ("no blank line", "text\n\u{2014} k AAAAAAA=\n".to_owned()),
        ("no signature", "text\n\n".to_owned()),
        ("empty", String::new()),
        ("only newlines", "\n\n\n".to_owned()),
        ("unfinished last line", with_lines(good.trim_end())),
        ("hyphen for a dash", with_lines(&good.replace('\u{2014}', "-"))),
        ("no space after the dash", with_lines(&good.replace("\u{2014} ", "\u{2014}"))),
        ("two spaces", with_lines(&good.replace(" k ", " k  "))),
        ("no name", with_lines(&line("", &[1; 68]))),
        ("a plus in the name", with_lines(&line("a+b", &[1; 68]))),
        ("a no-break space in the name", with_lines(&line("a\u{a0}b", &[1; 68]))),
        ("no signature bytes", with_lines(&line("k", &[1; 4]))),
        ("bad base64", with_lines("\u{2014} k A*==\n")),
        ("loose bits in base64", with_lines("\u{2014} k AAAAAAB=\n")),
        ("unpadded base64", with_lines("\u{2014} k AAAAAAA\n")),
        ("a carriage return", with_lines(&good).replace('\n', "\r\n")),
        ("a tab in the text", format!("a\tb\n\n{good}")),
        ("a zero byte in the text", format!("a\0b\n\n{good}")),
        ("text after the signatures", format!("{}tail\n", with_lines(&good))),
    ];
    for (what, note) in table {
        assert!(Note::parse(&note).is_err(), "{what}: {note:?}");
    }
}

#[test]
fn limits_hold() {
    let good = line("k", &[1; 68]);
    assert!(Note::parse(&with_lines(&good.repeat(SIGNATURES_MAX))).is_ok());
    assert_eq!(Note::parse(&with_lines(&good.repeat(SIGNATURES_MAX + 1))), Err(NoteError::TooManySignatures));
    let long = format!("{}\n\n{good}", "x".repeat(NOTE_BYTES_MAX));
    assert!(matches!(Note::parse(&long), Err(NoteError::TooLarge { .. })));
    let key = peter_signer();
    assert!(matches!(
        Note::sign("x".repeat(NOTE_BYTES_MAX) + "\n", "k", &key),
        Err(NoteError::TooLarge { .. })
    ));
    assert!(matches!(Note::sign("no newline", "k", &key), Err(NoteError::Malformed { .. })));
    assert!(matches!(Note::sign("text\n", "two words", &key), Err(NoteError::KeyName { .. })));
}

#[test]
fn a_text_may_hold_blank_lines() {
    let key = peter_signer();
    let note = Note::sign("one\n\ntwo\n\n\n", "PeterNeumann", &key).expect("signs");
    let copy = Note::parse(&note.to_string()).expect("parses");
    assert_eq!(copy, note);
    assert_eq!(copy.verify(&peter()), Ok(()));
}

#[test]
fn every_single_bit_of_a_note_matters() {
    for place in 0..PETER_NOTE.len() {
        for bit in 0..8 {
            let mut bytes = PETER_NOTE.as_bytes().to_vec();
            bytes[place] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let accepted = Note::parse(&text).is_ok_and(|note| note.verify(&peter()).is_ok());
            assert!(!accepted, "byte {place} bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_read_is_written_back_byte_for_byte(text in "([a-z \u{2014}]{0,9}\n){0,6}(\u{2014} [a-z+]{0,3} [A-Za-z0-9+/=]{0,12}\n){0,3}") {
        if let Ok(note) = Note::parse(&text) {
            prop_assert_eq!(note.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = Note::parse(&text);
        let _ = text.parse::<VerifierKey>();
    }
}

/// Found by fuzzing: the base64 library reads padded texts behind one another as one.
#[test]
fn a_signature_written_in_two_padded_pieces_is_refused() {
    let blob: Vec<u8> = (0..68).collect();
    let pieces = format!("{}{}", BASE64.encode(&blob[..34]), BASE64.encode(&blob[34..]));
    assert_eq!(BASE64.decode(pieces.as_bytes()), Ok(blob.clone()), "the library reads it");
    assert!(Note::parse(&with_lines(&line("PeterNeumann", &blob))).is_ok());
    assert!(Note::parse(&with_lines(&format!("{SIGNATURE_PREFIX}PeterNeumann {pieces}\n"))).is_err());
}

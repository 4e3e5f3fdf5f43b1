//! Notes, checkpoints and receipts: what a stranger hands us of a ledger.

use wc_ledger::{Anchors, Checkpoint, Note, VerifierKey, cell_key, decode_receipt, origin, verify_receipt};
use wc_types::{CellId, to_canonical};

use crate::sample;

const CELL: CellId = CellId([1; 32]);

/// Reads the bytes as every text of a ledger. A note prints as it was read and opens only with the signature of its cell;
/// no changed receipt verifies.
pub fn target(data: &[u8]) {
    if let Ok(file) = decode_receipt(data) {
        assert_eq!(to_canonical(&file), data, "a receipt file has one encoding");
        // No sample is complete, so nothing that grows from one may be believed.
        assert!(verify_receipt(&file, &Anchors::default()).is_err());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        if let Ok(checkpoint) = Checkpoint::open(&note, &cell_key(&CELL, sample::key().public())) {
            assert_eq!(checkpoint.to_text(), note.text());
        }
    }
    if let Ok(checkpoint) = Checkpoint::parse_text(text) {
        assert_eq!(Checkpoint::parse_text(&checkpoint.to_text()), Ok(checkpoint));
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string().parse::<VerifierKey>(), Ok(key));
    }
}

/// A signed checkpoint, a key, a receipt file.
pub fn seeds() -> Vec<Vec<u8>> {
    let checkpoint = Checkpoint::new(&CELL, 20_852_163, [5; 32]);
    let note = checkpoint.sign(&sample::key()).expect("the origin is a key name");
    let key = cell_key(&CELL, sample::key().public());
    let texts = [note.to_string(), checkpoint.to_text(), key.to_string(), origin(&CELL)];
    texts.into_iter().map(String::into_bytes).chain([to_canonical(&sample::receipt_file())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted_by_its_reader() {
        let seeds = seeds();
        let text = |number: usize| std::str::from_utf8(&seeds[number]).expect("samples are text");
        let note = Note::parse(text(0)).expect("a note");
        assert!(Checkpoint::open(&note, &cell_key(&CELL, sample::key().public())).is_ok());
        assert!(Checkpoint::parse_text(text(1)).is_ok());
        assert!(text(2).parse::<VerifierKey>().is_ok());
        assert!(decode_receipt(&seeds[4]).is_ok());
        seeds.iter().for_each(|seed| target(seed));
    }
}

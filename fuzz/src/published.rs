//! The published ledger: tiles, bundles, cosignatures and evidence, as a stranger serves them.

use wc_ledger::{
    Bundle, Checkpoint, Evidence, Finding, HashTile, Note, NoteSignature, Tile, check_cosignature, cosign,
    cosignatures, origin,
};
use wc_types::charter::cell_id;
use wc_types::{Signed, to_canonical};

use crate::sample;

/// Text that the sample witness cosigns.
const TEXT: &str = "worldcompute.org/cell/x\n7\nAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n";

/// Reads the bytes as every file of a published ledger. A path is written one way; a bundle is what was put into it; a
/// cosignature is the sample witness's own; an honest cell is never convicted.
pub fn target(data: &[u8]) {
    for index in [0, 255] {
        let Some(bundle) = Bundle::of_log(index, 65_400) else { continue };
        if let Ok(leaves) = bundle.read(data) {
            let mut bytes = Vec::new();
            for leaf in leaves {
                Bundle::write_leaf(&mut bytes, leaf).expect("it was in a bundle");
            }
            assert_eq!(bytes, data);
        }
        if let Ok(tile) = HashTile::read(bundle.tile(), data) {
            assert_eq!(tile.hashes().concat(), data);
        }
    }
    if let Ok(evidence) = Evidence::decode(data)
        && let Ok((_, finding)) = evidence.check()
    {
        assert!(matches!(finding, Finding::Inconclusive { .. }), "the sample cell signed one history only");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(tile) = text.parse::<Tile>() {
        assert_eq!(tile.to_string(), text);
    }
    if let Ok(bundle) = text.parse::<Bundle>() {
        assert_eq!(bundle.to_string(), text);
    }
    if let Ok(line) = text.parse::<NoteSignature>() {
        assert_eq!(line.to_string(), text);
        if let Ok(Some(found)) = check_cosignature(TEXT, &line) {
            assert_eq!(found.witness, sample::key().node_id());
        }
    }
    if let Ok(note) = Note::parse(text) {
        let _ = cosignatures(&note, "worldcompute.org/cell/x");
    }
}

/// Paths, a bundle, a tile, a cosignature, evidence of nothing.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut bundle = Vec::new();
    for index in 0..120u8 {
        Bundle::write_leaf(&mut bundle, &vec![index; usize::from(index)]).expect("short");
    }
    let founding = Signed::seal(sample::founding(), &sample::key());
    let checkpoint = |size, root| {
        let checkpoint =
            Checkpoint { origin: origin(&cell_id(&founding)), size, root, extensions: Vec::new() };
        checkpoint.sign(&sample::key()).expect("the origin is a key name").to_string()
    };
    let evidence = Evidence {
        seen: checkpoint(3, [3; 32]),
        offered: checkpoint(8, [8; 32]),
        prefix_root: vec![3; 32].into(),
        path: vec![vec![1; 32].into(), vec![2; 32].into()],
        founding: founding.clone(),
        seen_signers: Vec::new(),
        offered_signers: Vec::new(),
    };
    let texts = ["tile/0/x001/x234/067", "tile/2/000.p/1", "tile/entries/x001/067.p/9"];
    texts
        .into_iter()
        .map(|text| text.as_bytes().to_vec())
        .chain([cosign(TEXT, &sample::key(), 1_700_000_000).to_string().into_bytes()])
        .chain([bundle, vec![7; 120 * 32], to_canonical(&evidence)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted_by_its_reader() {
        let seeds = seeds();
        let line = std::str::from_utf8(&seeds[3]).expect("text").parse().expect("a line");
        assert!(check_cosignature(TEXT, &line).is_ok_and(|found| found.is_some()));
        let last = Bundle::of_log(255, 65_400).expect("in the log");
        assert!(last.read(&seeds[4]).is_ok() && HashTile::read(last.tile(), &seeds[5]).is_ok());
        let evidence = Evidence::decode(&seeds[6]).expect("evidence");
        assert!(evidence.check().is_ok());
        seeds.iter().for_each(|seed| target(seed));
    }
}

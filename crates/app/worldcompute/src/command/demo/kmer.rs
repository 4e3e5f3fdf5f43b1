//! The second job: how often each word of eleven bases stands in the genome of a virus, counted in parts and merged.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use wc_types::Bytes;
use wc_types::manifest::Output;

use super::CLASS;
use crate::client::Node;
use crate::manifest::{Draft, InputDraft, InputFrom, Source, StageDraft};

/// The guest; `guests/README.md` says what it expects.
const MODULE: &[u8] = include_bytes!("../../../../../../guests/built/kmer.wasm");
/// The genome of Escherichia phage lambda; `guests/data/README.md` says where it is from.
const GENOME: &str = include_str!("../../../../../../guests/data/lambda_phage.fa");
/// Length of a word.
const K: usize = 11;
/// Parts that are counted separately.
const CHUNKS: usize = 16;
/// Result of counting a part.
const COUNTS: &str = "counts";
/// Result of merging.
const TABLE: &str = "counts.tsv";
/// Rows of the table that are kept in memory.
const TOP: usize = 15;

/// What came out.
pub struct Census {
    /// The most frequent words.
    pub top: Vec<(String, u64)>,
    /// How many different words there are.
    pub distinct: usize,
}

/// Returns the job: `count` over the parts, then `merge`.
pub fn draft() -> anyhow::Result<Draft> {
    let chunks = chunks(&bases(GENOME), CHUNKS);
    let mut count = StageDraft::new("count", Source::Bytes(MODULE.to_vec()));
    count.tasks = u32::try_from(chunks.len())?;
    count.command = vec!["count".to_owned(), "--k".to_owned(), K.to_string()];
    let parts =
        chunks.into_iter().enumerate().map(|(index, chunk)| (format!("{index:08}"), Source::Bytes(chunk)));
    count.inputs = vec![InputDraft { name: "chunk".to_owned(), from: InputFrom::Each(parts.collect()) }];
    count.outputs = vec![Output { name: COUNTS.to_owned(), bytes_max: Bytes(16 << 20) }];
    count.resources.memory = Bytes(64 << 20);

    let mut merge = StageDraft::new("merge", Source::Bytes(MODULE.to_vec()));
    merge.command = vec!["merge".to_owned()];
    merge.inputs = vec![InputDraft { name: "parts".to_owned(), from: InputFrom::Stage(0) }];
    merge.outputs = vec![Output { name: TABLE.to_owned(), bytes_max: Bytes(64 << 20) }];
    merge.resources.memory = Bytes(128 << 20);

    let mut draft = Draft::single("kmer-census", count);
    draft.stages.push(merge);
    draft.class = CLASS;
    Ok(draft)
}

/// Returns the letters of a FASTA text.
fn bases(fasta: &str) -> Vec<u8> {
    let lines = fasta.lines().filter(|line| !line.starts_with('>'));
    lines.flat_map(|line| line.trim().bytes()).map(|base| base.to_ascii_uppercase()).collect()
}

/// Cuts a sequence so that every word of `K` letters lies in exactly one part: each part carries the first `K - 1`
/// letters of the next.
fn chunks(bases: &[u8], count: usize) -> Vec<Vec<u8>> {
    let length = bases.len().div_ceil(count).max(1);
    (0..bases.len())
        .step_by(length)
        .map(|start| bases[start..(start + length + K - 1).min(bases.len())].to_vec())
        .collect()
}

/// Fetches the table and reads its first rows.
pub async fn fetch(node: &mut Node, job: &str, path: &Path) -> anyhow::Result<Census> {
    let (rows, _) = node.results(job, Some(1), 0).await?;
    let row = rows.first().context("the merged table is missing")?;
    let blob = row.record.outputs.get(TABLE).context("the merged table is missing")?;
    node.export(blob.cid, path).await?;
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    census(&text)
}

fn census(text: &str) -> anyhow::Result<Census> {
    let mut top = Vec::new();
    for line in text.lines().take(TOP) {
        let row =
            line.split_once('\t').and_then(|(word, count)| Some((word.to_owned(), count.parse().ok()?)));
        let Some(row) = row else { bail!("the merged table has a row `{}`", line.escape_debug()) };
        top.push(row);
    }
    Ok(Census { top, distinct: text.lines().count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_genome_is_whole() {
        let bases = bases(GENOME);
        assert_eq!(bases.len(), 48_502);
        let count = |letter: u8| bases.iter().filter(|base| **base == letter).count();
        assert_eq!([b'A', b'C', b'G', b'T'].map(count), [12_334, 11_362, 12_820, 11_986]);
    }

    #[test]
    fn every_word_lies_in_exactly_one_chunk() {
        let bases = bases(GENOME);
        for count in [1, 2, 16, 17] {
            let chunks = chunks(&bases, count);
            assert_eq!(chunks.len(), count);
            let words: Vec<&[u8]> = chunks.iter().flat_map(|chunk| chunk.windows(K)).collect();
            assert!(words.into_iter().eq(bases.windows(K)), "{count} chunks");
        }
    }

    #[test]
    fn the_job_is_sound() {
        assert_eq!(crate::manifest::check(&draft().expect("drafts"), "census"), []);
    }

    #[test]
    fn a_table_is_read_or_refused() {
        let read = census("AAA\t3\nCCC\t1\n").expect("reads");
        assert_eq!((read.distinct, read.top[0].clone()), (2, ("AAA".to_owned(), 3)));
        assert!(census("AAA 3\n").is_err() && census("AAA\tmany\n").is_err());
    }
}

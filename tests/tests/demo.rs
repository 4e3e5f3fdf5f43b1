//! The README's first command, as a stranger runs it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use wc_tests::federation::binary;

#[test]
fn the_demo_shows_a_picture_and_a_table_and_checks_every_receipt() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let out = dir.path().join("out");
    let output = Command::new(binary())
        .args(["--json", "demo", "--donors", "3", "--out"])
        .arg(&out)
        .env("HOME", dir.path())
        .output()
        .expect("the demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report.to_string().contains("81"), "81 receipts are verified: {report}");

    let picture = std::fs::read(out.join("fractal.png")).expect("picture");
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((side(16), side(20)), (2048, 2048));

    assert_eq!(counted(&out.join("kmers.tsv")), census());
    let receipts = std::fs::read_dir(out.join("receipts")).expect("receipts").flatten();
    let files: usize = receipts
        .map(|job| std::fs::read_dir(job.path()).expect("one folder per job"))
        .map(|files| {
            files
                .flatten()
                .filter(|file| file.path().extension().is_some_and(|kind| kind == "receipt"))
                .count()
        })
        .sum();
    assert_eq!(files, 81, "64 tiles, 16 chunks and the merge");
}

/// The table that the federation made.
fn counted(table: &Path) -> HashMap<String, u32> {
    let text = std::fs::read_to_string(table).expect("table");
    text.lines()
        .map(|line| line.split_once('\t').expect("two columns"))
        .map(|(word, count)| (word.to_owned(), count.parse().expect("a count")))
        .collect()
}

/// The same counts, made here in the plainest way.
fn census() -> HashMap<String, u32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/data/lambda_phage.fa");
    let text = std::fs::read_to_string(path).expect("genome");
    let genome: String = text.lines().filter(|line| !line.starts_with('>')).collect();
    assert_eq!(genome.len(), 48_502);
    let mut counts = HashMap::new();
    for start in 0..=genome.len() - 11 {
        *counts.entry(genome[start..start + 11].to_ascii_uppercase()).or_insert(0) += 1;
    }
    counts
}

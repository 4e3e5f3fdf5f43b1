//! Accepted results, written to files under names that cannot leave their directory.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;
use wc_types::Cid;
use wc_types::outcome::Exit;

use crate::client::Node;
use crate::exit::Usage;
use crate::progress::Bar;

/// Where one task's results go.
pub struct Place {
    /// Directory of its files.
    pub dir: PathBuf,
    /// File of its standard output.
    pub stdout: PathBuf,
}

/// One task's results on disk.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// Index of the task.
    pub index: u32,
    /// How the guest ended.
    pub exit: Exit,
    /// CID of the result record.
    pub result: Cid,
    /// Files that were written.
    pub files: Vec<PathBuf>,
}

/// Fetches every accepted result of a stage.
pub async fn fetch(
    node: &mut Node,
    job: &str,
    stage: u16,
    place: &dyn Fn(u32) -> Place,
    bar: &Bar,
) -> anyhow::Result<Vec<Fetched>> {
    let mut fetched = Vec::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let (rows, next) = node.results(job, Some(stage), first).await?;
        for row in rows {
            let place = place(row.index);
            let mut files = Vec::new();
            for (name, blob) in &row.record.outputs {
                let path = place.dir.join(safe(name)?);
                write(node, blob.cid, &path).await?;
                files.push(path);
            }
            if row.record.stdout.bytes.0 > 0 {
                write(node, row.record.stdout.cid, &place.stdout).await?;
                files.push(place.stdout);
            }
            fetched.push(Fetched { index: row.index, exit: row.record.exit, result: row.cid, files });
            bar.step();
        }
        from = next;
    }
    Ok(fetched)
}

/// File that says whose results, or receipts, a directory holds.
const HOLDS: &str = ".worldcompute-job";

/// Makes a directory for the results, or the receipts, of one job. Files of another job have the same names: the two
/// would be mixed without a word.
///
/// # Errors
/// When the directory holds what another job left, or cannot be made.
pub fn directory(dir: &Path, holds: &str) -> anyhow::Result<()> {
    let mark = dir.join(HOLDS);
    if let Ok(held) = fs::read_to_string(&mark)
        && held.trim_end() != holds
    {
        let message = format!("{} already holds {}", dir.display(), crate::say::harmless(held.trim_end()));
        let hint = "name another directory with --output, or remove that one".to_owned();
        return Err(Usage { message, hint }.into());
    }
    fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    fs::write(&mark, format!("{holds}\n")).with_context(|| format!("could not write {}", mark.display()))
}

async fn write(node: &mut Node, cid: Cid, path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    }
    node.export(cid, path).await.with_context(|| format!("could not fetch {}", path.display()))
}

/// Returns the path of an output, which a stranger chose, if it stays inside the directory that it is joined to.
///
/// # Errors
/// When it does not.
pub fn safe(name: &str) -> anyhow::Result<&Path> {
    let path = Path::new(name);
    let stays = !name.is_empty()
        && !name.contains('\0')
        && path.components().all(|part| matches!(part, Component::Normal(_)));
    if !stays {
        bail!(
            "a result names its file `{}`, which is no plain path; nothing was written",
            name.escape_debug()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_holds_the_results_of_one_job() {
        let dir = tempfile::tempdir().expect("room for a directory");
        let results = dir.path().join("results");
        directory(&results, "results of job a").expect("fresh");
        directory(&results, "results of job a").expect("the same again");
        let error = directory(&results, "results of job b").expect_err("mixed");
        assert!(error.to_string().ends_with("already holds results of job a"), "{error}");
        assert!(error.downcast_ref::<Usage>().is_some(), "{error:?}");
    }

    #[test]
    fn a_result_cannot_write_outside_its_directory() {
        for name in ["a", "a/b.txt", "..a", "a..b"] {
            assert!(safe(name).is_ok(), "{name}");
        }
        for name in ["", "/etc/passwd", "../a", "a/../../b", ".", "a/..", "a\0b"] {
            assert!(safe(name).is_err(), "{name}");
        }
    }
}

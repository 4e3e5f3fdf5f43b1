//! Gives the blobs of a draft to the node's store.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use wc_proto::api::{Request, Response};
use wc_types::canonical::{RECORD_BYTES_MAX, to_canonical};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW};
use wc_types::manifest::{BlobRef, InputItem, InputList, InputSource};
use wc_types::{Bytes, Cid};

use super::draft::{Blobs, Draft, InputFrom, Source, StageBlobs};
use crate::client::Node;
use crate::progress::Progress;
use crate::scratch::Scratch;

/// Puts every file and byte string of `draft` into the node's store, each once.
///
/// # Errors
/// When the node refuses one, or a list of files is longer than a record.
pub async fn upload(draft: &Draft, node: &mut Node, progress: &Progress) -> anyhow::Result<Blobs> {
    let mut files = BTreeMap::new();
    let mut stages = Vec::with_capacity(draft.stages.len());
    for stage in &draft.stages {
        let module = put(&stage.module, node, &mut files)
            .await
            .with_context(|| format!("could not store the module of stage `{}`", stage.name))?;
        let mut inputs = Vec::with_capacity(stage.inputs.len());
        for input in &stage.inputs {
            inputs.push(match &input.from {
                InputFrom::Stage(stage) => InputSource::Stage(*stage),
                InputFrom::All(source) => InputSource::Blob(put(source, node, &mut files).await?),
                InputFrom::Each(items) => {
                    InputSource::Each(put_each(&input.name, items, node, &mut files, progress).await?)
                }
            });
        }
        stages.push(StageBlobs { module, inputs });
    }
    Ok(Blobs(stages))
}

async fn put_each(
    name: &str,
    items: &[(String, Source)],
    node: &mut Node,
    files: &mut BTreeMap<PathBuf, BlobRef>,
    progress: &Progress,
) -> anyhow::Result<Cid> {
    let bar = progress.count("storing inputs", items.len() as u64);
    let mut list = InputList { items: Vec::with_capacity(items.len()) };
    for (file, source) in items {
        let blob = put(source, node, files).await.with_context(|| format!("could not store input {file}"))?;
        list.items.push(InputItem { name: file.clone(), blob });
        bar.step();
    }
    bar.finish();
    let bytes = to_canonical(&list);
    if bytes.len() > RECORD_BYTES_MAX {
        bail!(
            "the list of the {} files of input `{name}` has {} bytes, more than a record's {RECORD_BYTES_MAX}; \
             use several jobs, or fewer files",
            items.len(),
            bytes.len()
        );
    }
    Ok(node.put_bytes(CODEC_DAG_CBOR, bytes).await?.cid)
}

async fn put(
    source: &Source,
    node: &mut Node,
    files: &mut BTreeMap<PathBuf, BlobRef>,
) -> anyhow::Result<BlobRef> {
    match source {
        Source::Bytes(bytes) => node.put_bytes(CODEC_RAW, bytes.clone()).await,
        Source::Blob { cid, bytes: Some(bytes) } => Ok(BlobRef { cid: *cid, bytes: *bytes }),
        Source::Blob { cid, bytes: None } => Ok(BlobRef { cid: *cid, bytes: size_of(*cid, node).await? }),
        Source::File(path) => {
            if let Some(blob) = files.get(path) {
                return Ok(*blob);
            }
            let blob = match node.ask(Request::PutFile { path: wc_api::path_text(path)? }).await? {
                Response::Blob(blob) => blob,
                other => return Err(crate::client::unexpected("PutFile", &other)),
            };
            files.insert(path.clone(), blob);
            Ok(blob)
        }
    }
}

/// A manifest says how big its blobs are. The author named only the content, so the node fetches it and we look.
async fn size_of(cid: Cid, node: &mut Node) -> anyhow::Result<Bytes> {
    let scratch = Scratch::new(&std::env::temp_dir(), "worldcompute-blob")?;
    let path = scratch.path().join("blob");
    node.export(cid, &path).await.with_context(|| format!("could not look up the size of {cid}"))?;
    let metadata = std::fs::metadata(&path).with_context(|| format!("the node did not write {cid}"))?;
    Ok(Bytes(metadata.len()))
}

//! Blob transfer: wants, answers, and the nodes of files as holders send them.

use wc_proto::frame::decode;
use wc_proto::limit::{BLOCK_BYTES_MAX, WANT_CIDS_MAX};
use wc_proto::peer::blob::{ANSWER_HEADER_BYTES, AnswerHeader, AnswerKind, Want};
use wc_store::unixfs::{Layout, decode_root};

use crate::sample;

/// Reads a want, an answer's header and a file's root; what is accepted keeps its bounds and encodes to itself.
pub fn target(data: &[u8]) {
    if let Ok(want) = decode::<Want>(data)
        && want.check().is_ok()
    {
        assert!((1..=WANT_CIDS_MAX).contains(&want.cids.len()));
    }
    if let Some(header) = data.first_chunk::<ANSWER_HEADER_BYTES>()
        && let Ok(answer) = AnswerHeader::decode(*header)
    {
        assert!(answer.payload_bytes <= BLOCK_BYTES_MAX);
        assert_eq!(answer.encode().as_ref(), Ok(header));
    }
    if let Ok((layout, children)) = decode_root(data) {
        assert_eq!(layout.encode(layout.root(), &children), data);
    }
}

/// A want, both kinds of answer, roots of files of two chunks and of two levels.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |kind, payload_bytes| {
        AnswerHeader { kind, number: 7, payload_bytes }.encode().expect("small").to_vec()
    };
    let root = |file_bytes: u64| {
        let layout = Layout::of(file_bytes).expect("more than one chunk");
        let root = layout.root();
        let children = vec![[3; 32]; layout.children(root).len()];
        layout.encode(root, &children)
    };
    let want = Want { cids: vec![sample::cid("a"), sample::cid("b")] };
    let mut want = wc_proto::frame::encode(&want, 1 << 16).expect("small");
    want.drain(..wc_proto::frame::PREFIX_BYTES);
    vec![
        want,
        header(AnswerKind::Block, 300),
        header(AnswerKind::NotFound, 0),
        root(400_000),
        root(60_000_000),
    ]
}

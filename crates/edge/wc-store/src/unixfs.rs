//! UnixFS files in dag-pb, exactly as `ipfs add --cid-version 1 --raw-leaves` lays them out.
//!
//! A file larger than one chunk is a balanced tree: leaves are raw blocks of 256 KiB (the last may be shorter), every
//! inner node links to at most 174 children, and all leaves have the same depth. Nothing about that tree is free but
//! the hashes, so [`Layout`] derives sizes, offsets and even the encoded length of each node from the file's length
//! alone; a node that a stranger sends is decoded, encoded again and must give the same bytes.
//!
//! ```text
//! PBNode (dag-pb)                        UnixFS Data (inside PBNode.Data)
//!   2: repeated PBLink   (comes first)     1: Type       = 2 (File)
//!        1: Hash   CIDv1, 36 bytes         3: filesize   bytes below this node
//!        2: Name   empty, but present      4: blocksizes one per link, not packed
//!        3: Tsize  encoded bytes below
//!   1: Data
//! ```
//!
//! # Source
//! The dag-pb and UnixFS specifications of IPFS; 174 links and 256 KiB are the defaults of `ipfs add`.

use wc_types::cid::{CODEC_DAG_PB, CODEC_RAW, Cid, cid_from_digest, sha256};

/// Bytes of every leaf but the last.
pub const CHUNK_BYTES: u64 = 262_144;

/// Links of one inner node at most.
pub const LINKS_MAX: u64 = 174;

/// Largest file we lay out: its leaf digests take 32 MiB of memory while it is being fetched.
pub const FILE_BYTES_MAX: u64 = 256 << 30;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Why bytes are not a node of a file in our layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnixfsError {
    /// The protobuf ends early, or has a field that dag-pb or UnixFS do not have.
    #[error("not a dag-pb UnixFS node: {why} at byte {at}")]
    Malformed {
        /// What is wrong.
        why: &'static str,
        /// Where.
        at: usize,
    },
    /// Valid elsewhere, but not what `ipfs add --cid-version 1 --raw-leaves` makes with 256 KiB chunks.
    #[error("unsupported UnixFS layout: {why}")]
    UnsupportedLayout {
        /// What differs.
        why: &'static str,
    },
    /// The file has one chunk or fewer (then it is a raw block), or is larger than [`FILE_BYTES_MAX`].
    #[error("a UnixFS file of {file_bytes} bytes is outside {}..={FILE_BYTES_MAX}", CHUNK_BYTES + 1)]
    FileBytes {
        /// The length that was declared.
        file_bytes: u64,
    },
}

/// One place in the tree: level 0 are the leaves, ordinals count from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Distance from the leaves.
    pub level: u8,
    /// Position within the level.
    pub ordinal: u32,
}

/// The shape of a file's tree, known from its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    file_bytes: u64,
    leaves: u64,
    height: u8,
}

impl Layout {
    /// Returns the layout of a file of `file_bytes`, which must be more than one chunk.
    ///
    /// # Errors
    /// [`UnixfsError::FileBytes`] when the length is outside what we lay out.
    pub fn of(file_bytes: u64) -> Result<Self, UnixfsError> {
        if file_bytes <= CHUNK_BYTES || file_bytes > FILE_BYTES_MAX {
            return Err(UnixfsError::FileBytes { file_bytes });
        }
        let leaves = file_bytes.div_ceil(CHUNK_BYTES);
        let mut height = 1;
        while LINKS_MAX.pow(u32::from(height)) < leaves {
            height += 1;
        }
        Ok(Self { file_bytes, leaves, height })
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Number of leaves.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Level of the root.
    pub fn height(&self) -> u8 {
        self.height
    }

    /// The root's place.
    pub fn root(&self) -> Place {
        Place { level: self.height, ordinal: 0 }
    }

    /// Number of nodes on `level`.
    pub fn width(&self, level: u8) -> u64 {
        self.leaves.div_ceil(LINKS_MAX.pow(u32::from(level)))
    }

    /// Offset of leaf `index` in the file.
    pub fn leaf_offset(&self, index: u64) -> u64 {
        index * CHUNK_BYTES
    }

    /// Length of leaf `index`.
    pub fn leaf_bytes(&self, index: u64) -> u64 {
        CHUNK_BYTES.min(self.file_bytes.saturating_sub(self.leaf_offset(index)))
    }

    /// Bytes of the file below `place`.
    pub fn bytes_below(&self, place: Place) -> u64 {
        let span = span_bytes(place.level);
        span.min(self.file_bytes.saturating_sub(u64::from(place.ordinal) * span))
    }

    /// Ordinals, one level down, of the children of `place`.
    pub fn children(&self, place: Place) -> std::ops::Range<u32> {
        let first = u64::from(place.ordinal) * LINKS_MAX;
        let last = (first + LINKS_MAX).min(self.width(place.level - 1));
        // FILE_BYTES_MAX keeps every ordinal below 2^20.
        first as u32..last as u32
    }

    /// Encodes the node at `place` over its children's digests, in order.
    pub fn encode(&self, place: Place, children: &[Digest]) -> Vec<u8> {
        let below = self.bytes_below(place);
        let mut node = Vec::with_capacity(node_bytes(place.level, below) as usize);
        let codec = if place.level == 1 { CODEC_RAW } else { CODEC_DAG_PB };
        for (digest, child_bytes) in children.iter().zip(child_sizes(place.level, below)) {
            put_link(&mut node, codec, digest, tree_bytes(place.level - 1, child_bytes));
        }
        let mut data = vec![0x08, 0x02, 0x18];
        put_varint(&mut data, below);
        for child_bytes in child_sizes(place.level, below) {
            data.push(0x20);
            put_varint(&mut data, child_bytes);
        }
        node.push(0x0a);
        put_varint(&mut node, data.len() as u64);
        node.extend_from_slice(&data);
        node
    }

    /// Checks that `bytes` are the node at `place` and returns its children's digests.
    ///
    /// # Errors
    /// [`UnixfsError`] when the bytes are not a node, or not the one that this layout has there.
    pub fn decode(&self, place: Place, bytes: &[u8]) -> Result<Vec<Digest>, UnixfsError> {
        let node = decode(bytes)?;
        let children = self.children(place);
        if node.children.len() != children.len() {
            return Err(UnixfsError::UnsupportedLayout { why: "the number of links differs" });
        }
        if self.encode(place, &node.children) != bytes {
            return Err(UnixfsError::UnsupportedLayout { why: "sizes, codecs or encoding differ" });
        }
        Ok(node.children)
    }
}

/// Decodes a root node and derives its layout.
///
/// # Errors
/// [`UnixfsError`] when the bytes are not the root of a file in our layout.
pub fn decode_root(bytes: &[u8]) -> Result<(Layout, Vec<Digest>), UnixfsError> {
    let node = decode(bytes)?;
    let layout = Layout::of(node.file_bytes)?;
    let children = layout.decode(layout.root(), bytes)?;
    Ok((layout, children))
}

/// All digests of a file's tree, built from its leaves.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The layout.
    pub layout: Layout,
    /// Digests per level, leaves first, the root alone in the last.
    pub levels: Vec<Vec<Digest>>,
    /// Encoded root node.
    pub root_block: Vec<u8>,
}

impl Tree {
    /// Builds the tree over `leaves`; the caller has hashed exactly `layout.leaves()` of them.
    pub fn build(layout: Layout, leaves: Vec<Digest>) -> Self {
        debug_assert_eq!(leaves.len() as u64, layout.leaves());
        let mut levels = vec![leaves];
        let mut root_block = Vec::new();
        for level in 1..=layout.height() {
            let below = &levels[usize::from(level) - 1];
            let mut digests = Vec::with_capacity(below.len() / LINKS_MAX as usize + 1);
            for (ordinal, children) in below.chunks(LINKS_MAX as usize).enumerate() {
                let block = layout.encode(Place { level, ordinal: ordinal as u32 }, children);
                digests.push(sha256(&block));
                root_block = block;
            }
            levels.push(digests);
        }
        Self { layout, levels, root_block }
    }

    /// The root's CID.
    pub fn cid(&self) -> Cid {
        cid_from_digest(CODEC_DAG_PB, sha256(&self.root_block))
    }
}

/// Returns the CID that `ipfs add --cid-version 1 --raw-leaves` prints for `bytes`.
pub fn cid_of_file(bytes: &[u8]) -> Cid {
    match Layout::of(bytes.len() as u64) {
        Ok(layout) => Tree::build(layout, bytes.chunks(CHUNK_BYTES as usize).map(sha256).collect()).cid(),
        Err(_) => cid_from_digest(CODEC_RAW, sha256(bytes)),
    }
}

/// Bytes of file below a full node of `level`.
fn span_bytes(level: u8) -> u64 {
    CHUNK_BYTES * LINKS_MAX.pow(u32::from(level))
}

/// File bytes below each child of a node of `level` with `below` bytes below it.
fn child_sizes(level: u8, below: u64) -> impl Iterator<Item = u64> {
    let span = span_bytes(level - 1);
    (0..below.div_ceil(span)).map(move |index| span.min(below - index * span))
}

/// Encoded length of a node of `level` with `below` bytes below it.
fn node_bytes(level: u8, below: u64) -> u64 {
    let span = span_bytes(level - 1);
    let (full, rest) = (below / span, below % span);
    let mut links = full * link_bytes(tree_bytes(level - 1, span));
    let mut data = 3 + varint_bytes(below) + full * (1 + varint_bytes(span));
    if rest > 0 {
        links += link_bytes(tree_bytes(level - 1, rest));
        data += 1 + varint_bytes(rest);
    }
    links + 1 + varint_bytes(data) + data
}

/// Encoded length of a node and everything below it (`Tsize`).
fn tree_bytes(level: u8, below: u64) -> u64 {
    if level == 0 {
        return below;
    }
    let span = span_bytes(level - 1);
    let (full, rest) = (below / span, below % span);
    let mut total = node_bytes(level, below) + full * tree_bytes(level - 1, span);
    if rest > 0 {
        total += tree_bytes(level - 1, rest);
    }
    total
}

/// Bytes of one encoded link, with its tag and length: hash 2 + 36, empty name 2, size 1 + varint.
fn link_bytes(tsize: u64) -> u64 {
    let body = 2 + 36 + 2 + 1 + varint_bytes(tsize);
    1 + varint_bytes(body) + body
}

fn varint_bytes(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_link(out: &mut Vec<u8>, codec: u64, digest: &Digest, tsize: u64) {
    out.push(0x12);
    put_varint(out, 2 + 36 + 2 + 1 + varint_bytes(tsize));
    out.extend_from_slice(&[0x0a, 36, 0x01, codec as u8, 0x12, 0x20]);
    out.extend_from_slice(digest);
    out.extend_from_slice(&[0x12, 0x00, 0x18]);
    put_varint(out, tsize);
}

/// What a node says, before it is compared with a layout.
struct Node {
    children: Vec<Digest>,
    file_bytes: u64,
}

fn decode(bytes: &[u8]) -> Result<Node, UnixfsError> {
    let mut fields = Fields { bytes, at: 0 };
    let mut children = Vec::new();
    let mut data = None;
    while let Some((tag, at)) = fields.tag()? {
        match tag {
            0x12 if data.is_none() => {
                if children.len() as u64 == LINKS_MAX {
                    return Err(UnixfsError::UnsupportedLayout { why: "more than 174 links" });
                }
                children.push(decode_link(fields.bytes()?)?);
            }
            0x0a if data.is_none() => data = Some(fields.bytes()?),
            _ => return Err(UnixfsError::Malformed { why: "unexpected field of PBNode", at }),
        }
    }
    let Some(data) = data else {
        return Err(UnixfsError::Malformed { why: "no UnixFS data", at: bytes.len() });
    };
    Ok(Node { children, file_bytes: decode_file_bytes(data)? })
}

fn decode_link(bytes: &[u8]) -> Result<Digest, UnixfsError> {
    let mut fields = Fields { bytes, at: 0 };
    let mut digest = None;
    while let Some((tag, at)) = fields.tag()? {
        match tag {
            0x0a => {
                let cid = fields.bytes()?;
                let (head, tail) = cid.split_at_checked(4).unwrap_or((cid, &[]));
                if !matches!(head, [0x01, 0x55 | 0x70, 0x12, 0x20]) {
                    return Err(UnixfsError::UnsupportedLayout { why: "a link that is no CIDv1 of SHA-256" });
                }
                digest = Digest::try_from(tail).ok();
            }
            0x12 => {
                fields.bytes()?;
            }
            0x18 => {
                fields.varint()?;
            }
            _ => return Err(UnixfsError::Malformed { why: "unexpected field of PBLink", at }),
        }
    }
    digest.ok_or(UnixfsError::Malformed { why: "a link without a hash", at: 0 })
}

fn decode_file_bytes(bytes: &[u8]) -> Result<u64, UnixfsError> {
    let mut fields = Fields { bytes, at: 0 };
    let (mut kind, mut file_bytes) = (None, None);
    while let Some((tag, _)) = fields.tag()? {
        match tag {
            0x08 => kind = Some(fields.varint()?),
            0x18 => file_bytes = Some(fields.varint()?),
            0x20 => {
                fields.varint()?;
            }
            _ => return Err(UnixfsError::UnsupportedLayout { why: "not a plain file" }),
        }
    }
    match (kind, file_bytes) {
        (Some(2), Some(file_bytes)) => Ok(file_bytes),
        _ => Err(UnixfsError::UnsupportedLayout { why: "not a plain file" }),
    }
}

/// A cursor over protobuf fields; every read is bounded by the slice.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn tag(&mut self) -> Result<Option<(u64, usize)>, UnixfsError> {
        let at = self.at;
        if at == self.bytes.len() { Ok(None) } else { Ok(Some((self.varint()?, at))) }
    }

    fn varint(&mut self) -> Result<u64, UnixfsError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(UnixfsError::Malformed { why: "cut varint", at: self.at });
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(UnixfsError::Malformed { why: "varint of more than ten bytes", at: self.at })
    }

    fn bytes(&mut self) -> Result<&'a [u8], UnixfsError> {
        let count = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(UnixfsError::Malformed { why: "length beyond the end", at: self.at });
        };
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }
}

#[cfg(test)]
mod tests;

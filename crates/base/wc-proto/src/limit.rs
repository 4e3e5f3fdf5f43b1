//! Every maximum of the wire, and why it has that value.

/// Largest frame of a session, control or local connection. Holds a full grant, a batch of reports with their inline
/// results, or a page of a listing.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Largest frame that a stranger may send before it has said who it is. A hello is a kilobyte or two for each cell that
/// it names, with the longest addresses up to seven.
pub const HELLO_BYTES_MAX: usize = 32 << 10;
/// Cells of one network that a node knows at a time, its own included: enough for an island in the midst of merging, few
/// enough that nobody can make a node talk with hundreds of coordinators.
pub const CELLS_MAX: usize = 4;
/// Most bytes of results that one report carries inline. Larger results are fetched as blobs.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Most reports in one message; equal to the leases of one grant.
pub const REPORTS_MAX: usize = wc_types::grant::LEASES_MAX;
/// Bytes of standard error that are kept of each replica: its tail.
pub const STDERR_BYTES_MAX: usize = 16 << 10;
/// Largest module or input that a direct dispatch carries. Larger ones go through a job, whose blobs stream.
pub const DISPATCH_BYTES_MAX: usize = 4 << 20;
/// Largest block that travels. Chunks have 256 KiB; a UnixFS node with all its links is well below this.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Most blocks that one message asks for. With full chunks that is 16 MiB, a tenth of a second on a fast link.
pub const WANT_CIDS_MAX: usize = 64;
/// Largest message that asks for blocks: a CID of ours takes 41 bytes in DAG-CBOR, and 64-byte digests still fit.
pub const WANT_BYTES_MAX: usize = 8 << 10;
/// Largest message between a coordinator and a signer. The longest chain of hand-overs, of the largest sets, fits.
pub const SIGNERS_BYTES_MAX: usize = 1 << 20;
/// Most rows in one page of a listing.
pub const PAGE_ROWS_MAX: usize = 10_000;
/// Most addresses in a hello.
pub const ADDRESSES_MAX: usize = 16;
/// Most bytes of one address in text form.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Most bytes of a network's name.
pub const NETWORK_BYTES_MAX: usize = 64;
/// Most announcements in one exchange of peers: enough to meet a network by, few enough to check in two milliseconds.
pub const ANNOUNCEMENTS_MAX: usize = 32;
/// Largest half of an exchange of peers: every announcement of the largest size. A usual one takes 400 bytes.
pub const EXCHANGE_BYTES_MAX: usize = 192 << 10;
/// Largest announcement by itself: sixteen addresses of the largest size.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 5 << 10;
/// Largest word on a node's presence: a network's name, a key, a signature and a moment.
pub const PRESENCE_BYTES_MAX: usize = 512;
/// Largest directives of a cell, with its founding record: a halt and every ban that may stand.
pub const DIRECTIVES_BYTES_MAX: usize = 8 << 10;

const _: () = assert!(INLINE_BYTES_MAX * 4 < FRAME_BYTES_MAX, "a report with inline results fits a frame");
const _: () = assert!(DISPATCH_BYTES_MAX + (1 << 20) < FRAME_BYTES_MAX, "a dispatch fits a frame");
const _: () = assert!(PAGE_ROWS_MAX * 256 < FRAME_BYTES_MAX, "a page fits a frame");
const _: () = assert!(WANT_CIDS_MAX * 80 + 64 < WANT_BYTES_MAX, "a full want fits its frame");
const _: () = assert!(
    ANNOUNCEMENTS_MAX * (ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 4) + 640) < EXCHANGE_BYTES_MAX,
    "a full exchange fits its frame"
);

//! What agent and worker say to each other: length-prefixed DAG-CBOR frames on one socket pair.
//!
//! ```text
//! agent                           worker
//!   Setup ───────────────────────►  locks itself up
//!         ◄─────────────── Launched, Hello(defences)
//!   Bind, Run, of our own no-op ──►                         as exercise; a spare from here on
//!   Bind + compiled module (fd) ──►
//!         ◄─────────────────── Bound
//!   Run, Run, Run … ─────────────►  strictly one after the other
//!         ◄───────── Done, Done, …                          after Done{files: true} the worker waits for Next
//! ```
//!
//! The worker is hostile from the moment a guest broke out of WebAssembly, so the agent side bounds every frame before it
//! allocates and treats a frame that does not parse as misbehaviour of the worker.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::defence::Defence;
use crate::profile::Profile;

/// Bytes of the length prefix.
pub(crate) const HEADER_BYTES: usize = 4;
/// Largest frame to a worker: 32 MiB of standard input plus arguments and environment.
pub(crate) const TO_WORKER_BYTES_MAX: usize = 33 << 20;
/// Largest standard input of one task; larger inputs are files.
pub(crate) const STDIN_BYTES_MAX: usize = 32 << 20;
/// What a worker's frame may carry beside the two captured streams: messages, the defence report, framing.
pub(crate) const FROM_WORKER_OVERHEAD_BYTES: usize = 64 << 10;
/// Bytes of an error message inside a frame; more is cut by the sender and refused by the frame bound.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// A frame from the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// First frame: how to lock up.
    Setup(Setup),
    /// Take the compiled module in the attached file descriptor as the guest. A worker gets one stranger's module in its
    /// life; before it, a module of ours.
    Bind(Bind),
    /// Run one task.
    Run(Run),
    /// The agent has collected the files of the task before; go on.
    Next,
    /// Compile the module in the first attached descriptor into the second.
    Compile(Compile),
    /// Try to break out by system call and say what happened.
    #[cfg(feature = "attack")]
    Attack(crate::attack::Attack),
}

/// How a worker is to lock itself up; everything that cannot change once it is locked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub profile: Profile,
    /// Size of the memory file system under `/scratch`.
    pub scratch_bytes: u64,
    /// Upper bound of private memory, whatever is bound later.
    pub data_bytes_max: u64,
    /// Upper bound of one file, whatever is bound later.
    pub file_bytes_max: u64,
    /// Processor time after which the kernel ends the worker, whoever forgot it.
    pub cpu_secs_max: u64,
    /// User that the worker becomes, where the agent may change users.
    pub user_id: Option<u32>,
}

/// The guest of this worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub component: bool,
    pub memory_bytes_max: u64,
    pub file_bytes_max: u64,
}

/// One task.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub seq: u64,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: ByteBuf,
    pub seed: serde_bytes::ByteArray<32>,
    pub fuel_max: u64,
    pub stdout_bytes_max: u64,
    pub stderr_bytes_max: u64,
}

/// A module to compile.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Compile {
    pub memory_bytes_max: u64,
    pub artifact_bytes_max: u64,
}

/// A frame from a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// The process that will run guests; sent by the process that started it.
    Launched { pid: i32 },
    /// Locked up and ready.
    Hello(Hello),
    /// The guest is loaded and linked.
    Bound { uses_files: bool },
    /// The compiled artifact is in the descriptor.
    Compiled { component: bool },
    /// The module cannot be compiled or linked; the worker still lives.
    Refused { reason: String },
    /// One task ended.
    Done(Done),
    /// The worker cannot go on and exits.
    Fatal { reason: String },
    /// What the attempts to break out gave.
    #[cfg(feature = "attack")]
    Attacked(Vec<crate::attack::Attempt>),
}

/// A locked worker introduces itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub engine_fingerprint: String,
    pub defences: Vec<Defence>,
}

/// How one task ended, as the worker tells it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub seq: u64,
    pub end: End,
    pub fuel: u64,
    pub cpu_micros: u64,
    pub wall_micros: u64,
    pub memory_bytes_peak: u64,
    pub stdout: ByteBuf,
    pub stderr: ByteBuf,
    pub stderr_bytes_cut: u64,
    /// `/out` or `/checkpoint` is not empty: the worker waits for [`ToWorker::Next`].
    pub files: bool,
}

/// Why the guest stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Exited { code: i32 },
    Trapped { kind: String, message: String },
    FuelExhausted,
    OutOfMemory,
    StdoutFull,
}

/// Bytes that are not a frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    /// The length prefix is above the bound of this connection.
    #[error("frame of {bytes} bytes where at most {bytes_max} are allowed")]
    TooLong { bytes: usize, bytes_max: usize },
    /// The body is not the CBOR of a known frame.
    #[error("frame does not parse: {reason}")]
    Malformed { reason: String },
}

/// Returns the bytes of `frame` with its length prefix.
pub(crate) fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_ipld_dagcbor::to_writer(&mut bytes, frame)
        .map_err(|e| FrameError::Malformed { reason: e.to_string() })?;
    let body = bytes.len() - HEADER_BYTES;
    let length =
        u32::try_from(body).map_err(|_| FrameError::TooLong { bytes: body, bytes_max: u32::MAX as usize })?;
    bytes[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Bytes that arrived and are not yet whole frames.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > 64 << 10 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next whole frame, or `None` until more bytes arrive.
    pub fn next<T: for<'de> Deserialize<'de>>(&mut self, bytes_max: usize) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > bytes_max {
            return Err(FrameError::TooLong { bytes: length, bytes_max });
        }
        if body.len() < length {
            return Ok(None);
        }
        let frame = serde_ipld_dagcbor::from_slice(&body[..length])
            .map_err(|e| FrameError::Malformed { reason: cut_text(e.to_string(), 256) })?;
        self.start += HEADER_BYTES + length;
        Ok(Some(frame))
    }
}

/// Returns `text` cut to at most `bytes_max` bytes at a character boundary.
pub(crate) fn cut_text(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

/// Returns `duration` in whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_whole_or_not_at_all() {
        let bytes = encode(&FromWorker::Launched { pid: 7 }).expect("small");
        let mut inbox = Inbox::default();
        for byte in &bytes[..bytes.len() - 1] {
            inbox.push(&[*byte]);
            assert!(inbox.next::<FromWorker>(1024).expect("no error").is_none());
        }
        inbox.push(&bytes[bytes.len() - 1..]);
        assert!(matches!(inbox.next::<FromWorker>(1024), Ok(Some(FromWorker::Launched { pid: 7 }))));
        assert!(inbox.next::<FromWorker>(1024).expect("empty").is_none());
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_its_bytes_arrive() {
        let mut inbox = Inbox::default();
        inbox.push(&u32::MAX.to_le_bytes());
        let error = inbox.next::<FromWorker>(1 << 20).expect_err("too long");
        assert_eq!(error, FrameError::TooLong { bytes: u32::MAX as usize, bytes_max: 1 << 20 });
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        for seed in 0u8..=255 {
            let body: Vec<u8> =
                (0..64).map(|i| seed.wrapping_mul(31).wrapping_add(i).rotate_left(3)).collect();
            let mut inbox = Inbox::default();
            inbox.push(&(body.len() as u32).to_le_bytes());
            inbox.push(&body);
            assert!(inbox.next::<FromWorker>(1024).is_err());
        }
    }

    #[test]
    fn cutting_text_keeps_characters_whole() {
        assert_eq!(cut_text("añb".into(), 2), "a");
        assert_eq!(cut_text("añb".into(), 3), "añ");
    }

    /// Numbers that look random and are the same in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound.max(1) as u64) as usize
        }
    }

    /// Changes, cuts, doubles or inserts a few bytes.
    fn mangle(bytes: &mut Vec<u8>, dice: &mut Dice) {
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            match dice.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, dice.below(256) as u8),
                2 => {
                    let part = bytes[at..(at + dice.below(16)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                _ if bytes.is_empty() => {}
                _ => bytes[at] = dice.below(256) as u8,
            }
        }
    }

    fn read_all<T: for<'de> Deserialize<'de>>(bytes: &[u8], dice: &mut Dice) -> bool {
        let (mut inbox, mut rest) = (Inbox::default(), bytes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at((1 + dice.below(64)).min(rest.len()));
            inbox.push(now);
            rest = later;
            loop {
                match inbox.next::<T>(4096) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return false,
                }
            }
        }
        true
    }

    #[test]
    fn mangled_frames_in_either_direction_are_read_or_refused() {
        let done = Done {
            seq: 3,
            end: End::Trapped { kind: "unreachable".into(), message: "wasm trap".into() },
            fuel: 17,
            cpu_micros: 20,
            wall_micros: 30,
            memory_bytes_peak: 1 << 20,
            stdout: ByteBuf::from(vec![7; 40]),
            stderr: ByteBuf::from(b"oh".to_vec()),
            stderr_bytes_cut: 0,
            files: true,
        };
        let hello = Hello { engine_fingerprint: "engine".into(), defences: Vec::new() };
        let from = [
            FromWorker::Launched { pid: 7 },
            FromWorker::Hello(hello),
            FromWorker::Bound { uses_files: true },
            FromWorker::Refused { reason: "no `_start`".into() },
            FromWorker::Done(done),
            FromWorker::Fatal { reason: "disk".into() },
        ];
        let run = Run { args: vec!["a".into()], env: vec![("K".into(), "v".into())], ..Run::default() };
        let to = [
            ToWorker::Run(run),
            ToWorker::Next,
            ToWorker::Bind(Bind { component: false, memory_bytes_max: 1 << 20, file_bytes_max: 9 }),
            ToWorker::Compile(Compile { memory_bytes_max: 1, artifact_bytes_max: 2 }),
        ];
        let from: Vec<u8> = from.iter().flat_map(|frame| encode(frame).expect("small")).collect();
        let to: Vec<u8> = to.iter().flat_map(|frame| encode(frame).expect("small")).collect();
        let mut dice = Dice(0x5eed);
        assert!(read_all::<FromWorker>(&from, &mut dice) && read_all::<ToWorker>(&to, &mut dice));
        let mut refused = 0;
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 { from.clone() } else { to.clone() };
            mangle(&mut bytes, &mut dice);
            // Each side may be sent what belongs to the other.
            refused += usize::from(!read_all::<FromWorker>(&bytes, &mut dice));
            refused += usize::from(!read_all::<ToWorker>(&bytes, &mut dice));
        }
        assert!(refused > 20_000, "what is read wrongly or from the wrong side is refused: {refused}");
    }
}

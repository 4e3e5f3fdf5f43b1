//! Fetching blocks: wants go one way, answers come back in the same order.
//!
//! ```text
//! client ── frame(Want) ─────────────────────────────► holder
//! client ◄── length 4 · kind 1 · number 4 · payload ── holder     one answer per wanted CID
//! ```
//!
//! A want is a [`frame`](crate::frame) of DAG-CBOR. An answer is not: a chunk is copied once less when its bytes follow a
//! header of fixed size. Numbers count the CIDs wanted on this stream from zero, so an answer names its request.

use serde::{Deserialize, Serialize};
use wc_types::cid::Cid;

use crate::frame::FrameError;
use crate::limit::{BLOCK_BYTES_MAX, WANT_CIDS_MAX};

/// Asks for blocks, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// At least one, at most [`WANT_CIDS_MAX`].
    pub cids: Vec<Cid>,
}

impl Want {
    /// Checks what the decoder cannot.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for a want of nothing or of too much.
    pub fn check(&self) -> Result<(), FrameError> {
        if self.cids.is_empty() || self.cids.len() > WANT_CIDS_MAX {
            let reason = format!("a want names 1 to {WANT_CIDS_MAX} blocks, not {}", self.cids.len());
            return Err(FrameError::Malformed { reason });
        }
        Ok(())
    }
}

/// Bytes of an answer before its payload.
pub const ANSWER_HEADER_BYTES: usize = 9;

/// What an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// The block's bytes.
    Block,
    /// Nothing: the holder does not have the block.
    NotFound,
}

/// The fixed part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerHeader {
    /// What follows.
    pub kind: AnswerKind,
    /// Which wanted CID of this stream it answers.
    pub number: u32,
    /// Bytes of payload that follow.
    pub payload_bytes: usize,
}

impl AnswerHeader {
    /// Returns the header's bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] for a payload beyond [`BLOCK_BYTES_MAX`].
    pub fn encode(self) -> Result<[u8; ANSWER_HEADER_BYTES], FrameError> {
        let too_large = FrameError::TooLarge { bytes: self.payload_bytes, bytes_max: BLOCK_BYTES_MAX };
        if self.payload_bytes > BLOCK_BYTES_MAX {
            return Err(too_large);
        }
        let length = u32::try_from(self.payload_bytes).map_err(|_| too_large)?;
        let mut bytes = [0; ANSWER_HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4] = match self.kind {
            AnswerKind::Block => 0,
            AnswerKind::NotFound => 1,
        };
        bytes[5..].copy_from_slice(&self.number.to_be_bytes());
        Ok(bytes)
    }

    /// Returns the header in `bytes`; nothing has been allocated for its payload by then.
    ///
    /// # Errors
    /// [`FrameError`] for a payload that is too large, or that does not belong to its kind.
    pub fn decode(bytes: [u8; ANSWER_HEADER_BYTES]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, n0, n1, n2, n3] = bytes;
        let payload_bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if payload_bytes > BLOCK_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: payload_bytes, bytes_max: BLOCK_BYTES_MAX });
        }
        let kind = match kind {
            0 => AnswerKind::Block,
            1 if payload_bytes == 0 => AnswerKind::NotFound,
            1 => return Err(FrameError::Malformed { reason: "a missing block has bytes".to_owned() }),
            other => return Err(FrameError::Malformed { reason: format!("no answer is of kind {other}") }),
        };
        Ok(Self { kind, number: u32::from_be_bytes([n0, n1, n2, n3]), payload_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{PREFIX_BYTES, decode, encode};
    use crate::limit::WANT_BYTES_MAX;
    use wc_types::cid::{CODEC_RAW, cid_of};

    #[test]
    fn an_answer_header_survives_its_bytes() {
        for header in [
            AnswerHeader { kind: AnswerKind::Block, number: 7, payload_bytes: BLOCK_BYTES_MAX },
            AnswerHeader { kind: AnswerKind::Block, number: u32::MAX, payload_bytes: 0 },
            AnswerHeader { kind: AnswerKind::NotFound, number: 0, payload_bytes: 0 },
        ] {
            assert_eq!(AnswerHeader::decode(header.encode().unwrap()), Ok(header));
        }
    }

    #[test]
    fn an_answer_that_cannot_be_is_refused_before_its_payload() {
        assert!(matches!(AnswerHeader::decode([0xff; 9]), Err(FrameError::TooLarge { .. })));
        assert!(matches!(
            AnswerHeader::decode([0, 0, 0, 1, 1, 0, 0, 0, 0]),
            Err(FrameError::Malformed { .. })
        ));
        assert!(matches!(
            AnswerHeader::decode([0, 0, 0, 0, 2, 0, 0, 0, 0]),
            Err(FrameError::Malformed { .. })
        ));
        let header = AnswerHeader { kind: AnswerKind::Block, number: 0, payload_bytes: BLOCK_BYTES_MAX + 1 };
        assert!(header.encode().is_err());
    }

    #[test]
    fn a_full_want_fits_its_frame_and_an_odd_one_is_refused() {
        let cids: Vec<Cid> = (0..WANT_CIDS_MAX as u32).map(|i| cid_of(CODEC_RAW, &i.to_be_bytes())).collect();
        let want = Want { cids };
        assert_eq!(want.check(), Ok(()));
        let frame = encode(&want, WANT_BYTES_MAX).unwrap();
        assert_eq!(decode::<Want>(&frame[PREFIX_BYTES..]), Ok(want.clone()));
        assert!(Want { cids: Vec::new() }.check().is_err());
        let twice = [want.cids.clone(), want.cids].concat();
        assert!(Want { cids: twice }.check().is_err());
    }
}

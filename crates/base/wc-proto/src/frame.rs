//! Frames: four bytes of length, big-endian, then DAG-CBOR.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// A frame that cannot be sent or believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than this conversation allows.
    #[error("frame of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Announced or actual length.
        bytes: usize,
        /// Most that is allowed.
        bytes_max: usize,
    },
    /// Not the message that belongs here.
    #[error("frame is not a valid message: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
}

/// Returns prefix and body of `message`.
///
/// # Errors
/// [`FrameError::TooLarge`] when the body is longer than `bytes_max`.
pub fn encode<T: Serialize>(message: &T, bytes_max: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX_BYTES];
    serde_ipld_dagcbor::to_writer(&mut frame, message)
        .map_err(|error| FrameError::Malformed { reason: error.to_string() })?;
    let bytes = frame.len() - PREFIX_BYTES;
    if bytes > bytes_max {
        return Err(FrameError::TooLarge { bytes, bytes_max });
    }
    let prefix = u32::try_from(bytes).map_err(|_| FrameError::TooLarge { bytes, bytes_max })?;
    frame[..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Returns the length of the body that follows `prefix`.
///
/// # Errors
/// [`FrameError::TooLarge`] when it is longer than `bytes_max`; nothing has been allocated by then.
pub fn body_bytes(prefix: [u8; PREFIX_BYTES], bytes_max: usize) -> Result<usize, FrameError> {
    let bytes = u32::from_be_bytes(prefix) as usize;
    if bytes > bytes_max {
        return Err(FrameError::TooLarge { bytes, bytes_max });
    }
    Ok(bytes)
}

/// Returns the message in `body`.
///
/// # Errors
/// [`FrameError::Malformed`] when it is not one, or a signature inside it is wrong.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_ipld_dagcbor::from_slice(body)
        .map_err(|error| FrameError::Malformed { reason: wc_types::canonical::decode_reason(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_its_length_first() {
        let frame = encode(&"hi", 16).expect("small");
        let (prefix, body) = frame.split_at(PREFIX_BYTES);
        assert_eq!(body_bytes(prefix.try_into().expect("four"), 16), Ok(body.len()));
        assert_eq!(decode::<String>(body), Ok("hi".to_owned()));
    }

    #[test]
    fn an_oversized_frame_is_refused_by_both_sides() {
        assert!(matches!(encode(&vec![0u8; 64], 16), Err(FrameError::TooLarge { .. })));
        assert!(matches!(body_bytes([0xff; 4], 16), Err(FrameError::TooLarge { .. })));
        assert!(matches!(decode::<String>(&[0xff]), Err(FrameError::Malformed { .. })));
    }
}

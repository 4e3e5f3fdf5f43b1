//! Frames over byte streams.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wc_proto::frame::{self, FrameError, PREFIX_BYTES};

/// A conversation broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The stream ended or failed.
    #[error("connection lost")]
    Io(#[from] io::Error),
    /// The other side sent something that does not belong here.
    #[error("peer sent an unacceptable frame")]
    Frame(#[from] FrameError),
    /// The other side closed between frames.
    #[error("peer closed the conversation")]
    Closed,
}

impl LinkError {
    /// Returns whether the peer, rather than the network, is to blame.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Frame(_))
    }
}

/// Reads one frame. May not be dropped midway: what was read of a frame would be lost.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<T, LinkError> {
    let mut prefix = [0; PREFIX_BYTES];
    match stream.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
        Err(error) => return Err(error.into()),
    }
    let mut body = vec![0; frame::body_bytes(prefix, bytes_max)?];
    stream.read_exact(&mut body).await?;
    Ok(frame::decode(&body)?)
}

/// Writes one frame and flushes it.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    bytes_max: usize,
) -> Result<(), LinkError> {
    let frame = frame::encode(message, bytes_max)?;
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

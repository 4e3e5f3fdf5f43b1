//! Frames on an asynchronous stream.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use wc_proto::frame::{self, FrameError, PREFIX_BYTES};
use wc_proto::limit::FRAME_BYTES_MAX;

/// What arrived.
pub(crate) enum Arrival {
    /// The body of a frame.
    Body(Vec<u8>),
    /// The other side closed, between two frames.
    End,
    /// A frame that is larger than allowed; nothing after it can be read.
    TooLarge(FrameError),
}

/// Reads one frame. The first byte may take `idle`, the rest `rest`.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    idle: Option<Duration>,
    rest: Duration,
) -> io::Result<Arrival> {
    let mut prefix = [0; PREFIX_BYTES];
    let first = async { stream.read(&mut prefix[..1]).await };
    let count = match idle {
        Some(idle) => timeout(idle, first).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
        None => first.await?,
    };
    if count == 0 {
        return Ok(Arrival::End);
    }
    let others = async {
        stream.read_exact(&mut prefix[1..]).await?;
        let bytes = match frame::body_bytes(prefix, FRAME_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Arrival::TooLarge(error)),
        };
        // Grows as bytes arrive: an announced length alone reserves nothing.
        let mut body = Vec::new();
        let read = stream.take(bytes as u64).read_to_end(&mut body).await?;
        if read < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Arrival::Body(body))
    };
    timeout(rest, others).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Writes one encoded frame.
pub(crate) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frame: &[u8],
    limit: Duration,
) -> io::Result<()> {
    timeout(limit, async {
        stream.write_all(frame).await?;
        stream.flush().await
    })
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

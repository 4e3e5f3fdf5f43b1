//! The asking side: what every command of the binary uses, and nothing else can reach the node by.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use wc_proto::api::{Request, Response};
use wc_proto::frame;
use wc_proto::limit::FRAME_BYTES_MAX;

use crate::error::ApiError;
use crate::socket::SocketName;
use crate::wire::{self, Arrival};

/// A node on the same machine accepts at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Time to send a request, and to receive an answer once it has begun.
const FRAME_WITHIN: Duration = Duration::from_secs(30);

/// A connection to the node of one data directory.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    dir: PathBuf,
}

impl Client {
    /// Connects to the node that runs in `dir`.
    ///
    /// # Errors
    /// [`ApiError::NotConnected`] when none does, [`ApiError::NotOurs`] when it is somebody else's.
    pub async fn connect(dir: &Path) -> Result<Self, ApiError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                ApiError::NotConnected { dir: dir.to_owned() }
            }
            io::ErrorKind::PermissionDenied => ApiError::NotOurs { dir: dir.to_owned() },
            _ => ApiError::Io { doing: format!("connect to the node in {}", dir.display()), source },
        };
        let name = SocketName::new(dir).map_err(failed)?;
        let stream = timeout(CONNECT_WITHIN, UnixStream::connect(&name.path))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        Ok(Self { stream, dir: dir.to_owned() })
    }

    /// Returns the data directory of the node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends one request and waits for its answer, however long the node works on it.
    ///
    /// Dropping the future mid-way leaves the connection unusable; the node finishes the request all the same.
    ///
    /// # Errors
    /// [`ApiError::Closed`] when the node hangs up, [`ApiError::Frame`] when request or answer is no frame.
    pub async fn ask(&mut self, request: Request) -> Result<Response, ApiError> {
        let frame = frame::encode(&request, FRAME_BYTES_MAX)?;
        let sent = wire::write(&mut self.stream, &frame, FRAME_WITHIN).await;
        // A server that refuses a connection answers before it hangs up, so look for that answer even then.
        match wire::read(&mut self.stream, None, FRAME_WITHIN).await {
            Ok(Arrival::Body(body)) => Ok(frame::decode(&body)?),
            Ok(Arrival::TooLarge(error)) => Err(error.into()),
            Ok(Arrival::End) => Err(ApiError::Closed),
            Err(error) if hung_up(&error) => Err(ApiError::Closed),
            Err(source) => Err(ApiError::Io {
                doing: "talk to the node".to_owned(),
                source: sent.err().unwrap_or(source),
            }),
        }
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

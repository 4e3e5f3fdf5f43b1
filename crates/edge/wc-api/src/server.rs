//! The answering side: one socket per data directory, bounded in every direction.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wc_proto::api::{Request, Response};
use wc_proto::frame;
use wc_proto::limit::FRAME_BYTES_MAX;
use wc_types::Refusal;

use crate::error::{ANSWER_TOO_LARGE, ApiError, BUSY, MALFORMED, TOO_LARGE};
use crate::socket::{SOCKET_NAME, SocketName};
use crate::wire::{self, Arrival};

/// Connections that are served at once. A person has a few terminals, a script a few workers.
pub const CONNECTIONS_MAX: usize = 64;
/// Whoever holds a lock on this file owns the directory.
const LOCK_NAME: &str = "control.lock";
/// Connections beyond that which are told so; more wait in the kernel's queue.
const REFUSALS_MAX: usize = 16;
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Time for the rest of a request once it has begun, and for a client to take its answer.
const FRAME_WITHIN: Duration = Duration::from_secs(30);
/// Time that a refused connection gets to say what it wanted.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// Pause after the kernel refused an accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound control socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the server lives; the kernel lets go of it when the process dies, however it dies.
    _lock: File,
}

impl Server {
    /// Makes `dir` if needed, takes it for this process, and listens on its socket. What a dead node left is replaced.
    ///
    /// # Errors
    /// [`ApiError::AlreadyRunning`] when a live node has the directory, [`ApiError::Io`] when the disk refuses.
    pub fn bind(dir: &Path) -> Result<Self, ApiError> {
        let io = |doing: &'static str| {
            move |source: io::Error| ApiError::Io { doing: format!("{doing} {}", dir.display()), source }
        };
        prepare(dir)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join(LOCK_NAME))
            .map_err(io("open the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ApiError::AlreadyRunning { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        // The lock is ours, so whatever socket lies here has no owner.
        let path = dir.join(SOCKET_NAME);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io("remove the old socket in")(source));
            }
            _ => {}
        }
        let name = SocketName::new(dir).map_err(io("open"))?;
        let listener = UnixListener::bind(&name.path).map_err(io("listen in"))?;
        // Nobody can have connected before this: the directory is closed to others.
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(io("close the socket to others in"))?;
        Ok(Self { listener, path, _lock: lock })
    }

    /// Answers requests with `handler` until the returned future is dropped; then every connection closes.
    pub async fn serve<H, F>(&self, handler: H)
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send,
    {
        let handler = Arc::new(handler);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS_MAX + REFUSALS_MAX {
                connections.join_next().await;
                continue;
            }
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "control socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !is_ours(&stream) {
                tracing::warn!("control connection of another user closed");
                continue;
            }
            let permit = permits.clone().try_acquire_owned();
            let handler = handler.clone();
            connections.spawn(async move {
                let ended = match permit {
                    Ok(_permit) => converse(stream, &*handler).await,
                    Err(_) => refuse(stream).await,
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "control connection ended");
                }
            });
        }
    }
}

/// Makes `dir` for its owner only. A directory that was there before is closed to others if it is ours or empty, and
/// left as it is otherwise: nobody wants `--data-dir /var/lib` to lock everybody out of it.
fn prepare(dir: &Path) -> Result<(), ApiError> {
    let io = |doing: &'static str| {
        move |source: io::Error| ApiError::Io { doing: format!("{doing} {}", dir.display()), source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make the directory"))?;
    let mode = fs::metadata(dir).map_err(io("look at"))?.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(ApiError::OpenToOthers { dir: dir.to_owned() });
    }
    let mut names = fs::read_dir(dir).map_err(io("look into"))?.map_while(Result::ok);
    let is_ours = dir.join(LOCK_NAME).exists() || dir.join("keys").exists() || names.next().is_none();
    if mode != 0o700 && is_ours {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io("close to others"))?;
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that cannot be removed now is replaced at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the kernel says that the caller is this process's user, or root.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
}

async fn converse<H, F>(mut stream: UnixStream, handler: &H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    loop {
        match wire::read(&mut stream, Some(IDLE), FRAME_WITHIN).await? {
            Arrival::End => return Ok(()),
            Arrival::TooLarge(error) => {
                return answer(&mut stream, &refused(Refusal::new(TOO_LARGE, error.to_string()))).await;
            }
            Arrival::Body(body) => {
                let response = match frame::decode::<Request>(&body) {
                    Ok(request) => handler(request).await,
                    Err(error) => refused(
                        Refusal::new(MALFORMED, error.to_string())
                            .hint("do the command and the node have the same version?"),
                    ),
                };
                answer(&mut stream, &response).await?;
            }
        }
    }
}

async fn refuse(mut stream: UnixStream) -> io::Result<()> {
    let _ = wire::read(&mut stream, Some(REFUSED_WITHIN), REFUSED_WITHIN).await?;
    let message = format!("the node already serves {CONNECTIONS_MAX} local connections");
    answer(&mut stream, &refused(Refusal::new(BUSY, message).hint("try again in a moment"))).await
}

async fn answer(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let frame = match frame::encode(response, FRAME_BYTES_MAX) {
        Ok(frame) => frame,
        Err(error) => {
            let refusal = Refusal::new(ANSWER_TOO_LARGE, format!("the answer does not fit: {error}"));
            frame::encode(&refused(refusal), FRAME_BYTES_MAX).map_err(io::Error::other)?
        }
    };
    wire::write(stream, &frame, FRAME_WITHIN).await
}

fn refused(refusal: Refusal) -> Response {
    Response::Refused(vec![refusal])
}

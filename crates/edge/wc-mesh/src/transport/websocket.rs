//! A byte stream inside a WebSocket (RFC 6455): binary frames, whose borders mean nothing.
//!
//! ```text
//! reading: Head ──► Payload ──► Head …       a ping is answered, a pong dropped
//!            └────► Control ──► Head | Ended (close)
//! ```
//!
//! Payload goes straight into the reader's buffer, so a frame may be of any length and costs no memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::http::{Head, HeadError};

/// Payload of one frame that we send: that of one TLS record.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// Longest head of a frame.
const HEAD_BYTES_MAX: usize = 14;
/// Frames without payload that one reading takes before others get their turn.
const EMPTY_FRAMES_MAX: u32 = 32;
/// What the server appends to the client's key (RFC 6455 §1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebSocketError {
    #[error("{0}")]
    Head(#[from] HeadError),
    #[error("the server does not speak WebSocket: it answered {status} {reason}")]
    Status { status: u16, reason: String },
    #[error("the server's answer to the WebSocket handshake lacks {what}")]
    Answer { what: &'static str },
    #[error("the client did not ask for a WebSocket: {what}")]
    Request { what: &'static str },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Which side of the connection we are. Clients mask what they send, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Where the reader is.
#[derive(Debug)]
enum Reading {
    Head { bytes: [u8; HEAD_BYTES_MAX], have: usize },
    Payload { left: u64, mask: Mask },
    Control { opcode: u8, bytes: Vec<u8>, length: usize, mask: Mask },
    Ended,
}

/// Four bytes that a payload is combined with, turned to where it stands.
#[derive(Debug, Clone, Copy)]
struct Mask([u8; 4]);

impl Mask {
    /// Combines `bytes` with the mask and turns it on.
    fn apply(&mut self, bytes: &mut [u8]) {
        if self.0 == [0; 4] {
            return;
        }
        let count = bytes.len();
        let [a, b, c, d] = self.0;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (chunks, rest) = bytes.as_chunks_mut::<8>();
        for chunk in chunks {
            *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= mask;
        }
        self.0.rotate_left(count % 4);
    }
}

/// A WebSocket that carries a stream of bytes.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    socket: S,
    side: Side,
    reading: Reading,
    /// Frames on their way out; `sent` of them are.
    out: Vec<u8>,
    sent: usize,
    /// Control frames to send next. At most one pong waits: only the newest ping needs an answer.
    pong: Option<Vec<u8>>,
    closing: bool,
}

/// Asks the server at the other end of `socket` for a WebSocket.
///
/// - `authority`: name and port of the server, as in the `Host` header
pub(crate) async fn connect<S>(socket: S, authority: &str) -> Result<WebSocket<S>, WebSocketError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect_with(socket, authority, random()?).await
}

/// As `connect`, with this key, which a server repeats to show that it understood.
pub(crate) async fn connect_with<S>(
    mut socket: S,
    authority: &str,
    key: [u8; 16],
) -> Result<WebSocket<S>, WebSocketError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = BASE64.encode(&key);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let head = Head::read(&mut socket).await?;
    let (status, reason) = head.status()?;
    if status != 101 {
        return Err(WebSocketError::Status { status, reason });
    }
    if !head.has("upgrade", "websocket") || !head.has("connection", "upgrade") {
        return Err(WebSocketError::Answer { what: "the upgrade" });
    }
    if head.header("sec-websocket-accept") != Some(accept_of(&key).as_str()) {
        return Err(WebSocketError::Answer { what: "the right key" });
    }
    Ok(WebSocket::new(socket, Side::Client))
}

/// Waits for the client at the other end of `socket` to ask for a WebSocket. Whoever asks for something else learns that
/// there is nothing else here.
pub(crate) async fn accept<S>(mut socket: S) -> Result<WebSocket<S>, WebSocketError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = Head::read(&mut socket).await?;
    let key = match wanted_key(&head) {
        Ok(key) => key,
        Err(what) => {
            let answer = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: close\r\n\
                          Content-Length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await?;
            socket.close().await?;
            return Err(WebSocketError::Request { what });
        }
    };
    let accept = accept_of(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.flush().await?;
    Ok(WebSocket::new(socket, Side::Server))
}

fn wanted_key(head: &Head) -> Result<&str, &'static str> {
    if !head.is_request("GET") {
        return Err("not a GET request of HTTP/1.1");
    }
    if !head.has("upgrade", "websocket") || !head.has("connection", "upgrade") {
        return Err("no upgrade");
    }
    if head.header("sec-websocket-version") != Some("13") {
        return Err("another version");
    }
    let key = head.header("sec-websocket-key").filter(|key| key.len() == 24);
    key.ok_or("no key")
}

fn accept_of(key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{KEY_SUFFIX}").as_bytes());
    BASE64.encode(hash.as_ref())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {what}"))
}

impl Reading {
    const START: Self = Self::Head { bytes: [0; HEAD_BYTES_MAX], have: 0 };
}

/// Returns how long the head is that begins with `bytes`, as far as they say.
fn head_length(bytes: &[u8]) -> usize {
    let Some(second) = bytes.get(1) else { return 2 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & MASKED != 0 { 4 } else { 0 }
}

/// Reads a whole head that `side` has received.
fn parse_head(bytes: &[u8], side: Side) -> io::Result<Reading> {
    let (first, second) = (bytes[0], bytes[1]);
    if first & 0x70 != 0 {
        return Err(invalid("a reserved bit is set"));
    }
    let masked = second & MASKED != 0;
    if masked != (side == Side::Server) {
        return Err(invalid(if masked { "the server masks" } else { "the client does not mask" }));
    }
    let (length, rest) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes([bytes[2], bytes[3]])), &bytes[4..]),
        127 => {
            let length = bytes[2..10].try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
            (length, &bytes[10..])
        }
        short => (u64::from(short), &bytes[2..]),
    };
    if length > i64::MAX as u64 {
        return Err(invalid("the length of a frame has its highest bit set"));
    }
    let mask = Mask(rest.try_into().unwrap_or_default());
    match first & 0x0f {
        BINARY | CONTINUATION if length == 0 => Ok(Reading::START),
        BINARY | CONTINUATION => Ok(Reading::Payload { left: length, mask }),
        opcode @ (CLOSE | PING | PONG) => {
            if length > CONTROL_BYTES_MAX as u64 || first & FIN == 0 {
                return Err(invalid("a control frame is too long or in pieces"));
            }
            Ok(Reading::Control { opcode, bytes: Vec::new(), length: length as usize, mask })
        }
        opcode => Err(invalid(&format!("a frame of kind {opcode} carries no stream"))),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    fn new(socket: S, side: Side) -> Self {
        let reading = Reading::START;
        Self { socket, side, reading, out: Vec::new(), sent: 0, pong: None, closing: false }
    }

    /// Appends one frame to what goes out.
    fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.out.push(FIN | opcode);
        let masked = if self.side == Side::Client { MASKED } else { 0 };
        match payload.len() {
            length @ ..126 => self.out.push(masked | length as u8),
            length @ ..=0xffff => {
                self.out.push(masked | 126);
                self.out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.out.push(masked | 127);
                self.out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if self.side == Side::Client {
            let mut mask = Mask(random()?);
            self.out.extend_from_slice(&mask.0);
            let begin = self.out.len();
            self.out.extend_from_slice(payload);
            mask.apply(&mut self.out[begin..]);
        } else {
            self.out.extend_from_slice(payload);
        }
        Ok(())
    }

    /// Writes the frames that wait, and a pong after them.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.out.len() {
                match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.sent += count,
                }
            }
            self.out.clear();
            self.sent = 0;
            match self.pong.take() {
                Some(payload) => self.frame(PONG, &payload)?,
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Fills `bytes` up to `length`; false if the connection has ended.
    fn poll_fill(
        socket: &mut S,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
        have: &mut usize,
    ) -> Poll<io::Result<bool>> {
        while *have < bytes.len() {
            match ready!(Pin::new(&mut *socket).poll_read(cx, &mut bytes[*have..]))? {
                0 => return Poll::Ready(Ok(false)),
                count => *have += count,
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.sent < this.out.len() || this.pong.is_some() {
            // A pong that did not fit when its ping came: nobody may be writing.
            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        let mut empty_frames = 0;
        loop {
            match &mut this.reading {
                Reading::Ended => return Poll::Ready(Ok(0)),
                Reading::Head { bytes, have } => {
                    let wanted = head_length(&bytes[..*have]);
                    if !ready!(Self::poll_fill(&mut this.socket, cx, &mut bytes[..wanted], have))? {
                        let ended_between = *have == 0;
                        this.reading = Reading::Ended;
                        if ended_between {
                            continue;
                        }
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    if head_length(&bytes[..wanted]) > wanted {
                        continue;
                    }
                    this.reading = parse_head(&bytes[..wanted], this.side)?;
                    empty_frames += 1;
                    if empty_frames > EMPTY_FRAMES_MAX {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Reading::Payload { left, mask } => {
                    let room = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if room == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    let count = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buf[..room]))?;
                    if count == 0 {
                        this.reading = Reading::Ended;
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    mask.apply(&mut buf[..count]);
                    *left -= count as u64;
                    if *left == 0 {
                        this.reading = Reading::START;
                    }
                    return Poll::Ready(Ok(count));
                }
                Reading::Control { opcode, bytes, length, mask } => {
                    while bytes.len() < *length {
                        let mut piece = [0; CONTROL_BYTES_MAX];
                        let room = *length - bytes.len();
                        match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut piece[..room]))? {
                            0 => {
                                this.reading = Reading::Ended;
                                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                            }
                            count => {
                                mask.apply(&mut piece[..count]);
                                bytes.extend_from_slice(&piece[..count]);
                            }
                        }
                    }
                    let (opcode, bytes) = (*opcode, std::mem::take(bytes));
                    this.reading = Reading::START;
                    match opcode {
                        CLOSE => this.reading = Reading::Ended,
                        PING => {
                            this.pong = Some(bytes);
                            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                                return Poll::Ready(Err(error));
                            }
                            let _ = Pin::new(&mut this.socket).poll_flush(cx)?;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let count = buf.len().min(FRAME_BYTES_MAX);
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        self.frame(BINARY, &buf[..count])?;
        // What the socket does not take now, the next call or the flush offers again.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(self.poll_drain(cx))?;
            self.closing = true;
            // 1000: the purpose is fulfilled.
            self.frame(CLOSE, &1000_u16.to_be_bytes())?;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::AsyncReadExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    async fn pair() -> (WebSocket<impl AsyncRead + AsyncWrite>, WebSocket<impl AsyncRead + AsyncWrite>) {
        let (a, b) = tokio::io::duplex(1 << 10);
        let (client, server) = tokio::join!(connect(a.compat(), "relay.example:443"), accept(b.compat()));
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_were_sent_whatever_the_frames() {
        let (mut client, mut server) = pair().await;
        for (from_client, length) in
            [(true, 1), (false, 125), (true, 126), (false, 70_000), (true, 300_001), (false, 65_536)]
        {
            let bytes: Vec<u8> = (0..length).map(|i: u32| (i * 31 % 251) as u8).collect();
            let mut seen = vec![0; bytes.len()];
            if from_client {
                let (sent, read) = tokio::join!(
                    async {
                        client.write_all(&bytes).await?;
                        client.flush().await
                    },
                    server.read_exact(&mut seen)
                );
                sent.unwrap();
                read.unwrap();
            } else {
                let (sent, read) = tokio::join!(
                    async {
                        server.write_all(&bytes).await?;
                        server.flush().await
                    },
                    client.read_exact(&mut seen)
                );
                sent.unwrap();
                read.unwrap();
            }
            assert!(seen == bytes, "{length} bytes");
        }
        client.close().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "a close frame ends the stream");
    }

    #[tokio::test]
    async fn whatever_a_stranger_sends_is_read_or_refused() {
        let mut state = 7_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000_u32 {
            let side = if round % 2 == 0 { Side::Server } else { Side::Client };
            let mut bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
            // Most random heads fail in their first byte; those that do not are the interesting ones.
            if let [first, second, ..] = &mut bytes[..] {
                *first = [0x82, 0x02, 0x00, 0x89, 0x8a, 0x88][(random() % 6) as usize];
                *second = if side == Side::Server { *second | MASKED } else { *second & !MASKED };
            }
            let mut socket = WebSocket::new(futures::io::Cursor::new(bytes.clone()), side);
            let mut seen = Vec::new();
            let _ = socket.read_to_end(&mut seen).await;
            assert!(seen.len() <= bytes.len());
            let _ = Head::read(&mut &bytes[..]).await.map(|head| head.status().is_ok());
        }
    }

    #[tokio::test]
    async fn a_ping_is_answered_while_the_stream_is_only_read() {
        let (raw, other) = tokio::io::duplex(1 << 10);
        let (mut raw, mut server) = (raw.compat(), WebSocket::new(other.compat(), Side::Server));
        // A masked ping that says "hi", then one byte of data.
        raw.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i', 0x82, 0x81, 1, 1, 1, 1, 2]).await.unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [3]);
        let mut pong = [0; 4];
        raw.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8a, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn frames_that_may_not_be_are_errors() {
        let long = [0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let table: [(&[u8], &str); 6] = [
            (&[0x82, 0x01, 7], "client does not mask"),
            (&[0xc2, 0x81, 0, 0, 0, 0, 7], "reserved bit"),
            (&[0x81, 0x81, 0, 0, 0, 0, 7], "kind 1"),
            (&[0x09, 0x80, 0, 0, 0, 0], "too long or in pieces"),
            (&[0x89, 0xfe, 1, 0, 0, 0, 0, 0], "too long or in pieces"),
            (&long, "highest bit"),
        ];
        for (bytes, says) in table {
            let (raw, other) = tokio::io::duplex(1 << 10);
            let (mut raw, mut server) = (raw.compat(), WebSocket::new(other.compat(), Side::Server));
            raw.write_all(bytes).await.unwrap();
            let error = server.read(&mut [0; 8]).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let (raw, other) = tokio::io::duplex(1 << 10);
        let (mut raw, mut server) = (raw.compat(), WebSocket::new(other.compat(), Side::Server));
        raw.write_all(&[0x82, 0x85, 0, 0]).await.unwrap();
        raw.close().await.unwrap();
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "an end inside a frame is no end");
    }

    #[tokio::test]
    async fn a_visitor_with_a_browser_is_told_that_there_is_no_site() {
        let (browser, server) = tokio::io::duplex(1 << 10);
        let mut browser = browser.compat();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let error = accept(server.compat()).await.unwrap_err();
        assert!(matches!(error, WebSocketError::Request { .. }), "{error}");
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    }

    #[tokio::test]
    async fn a_server_that_is_something_else_is_named() {
        let (client, server) = tokio::io::duplex(1 << 10);
        let mut server = server.compat();
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let error = connect(client.compat(), "x:443").await.unwrap_err();
        assert!(matches!(error, WebSocketError::Status { status: 200, .. }), "{error}");
    }
}

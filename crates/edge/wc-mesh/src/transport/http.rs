//! The first lines of an HTTP/1.1 message, which is all that WebSocket and CONNECT need of HTTP.

use std::io;

use futures::{AsyncRead, AsyncReadExt};

/// Longest head of a message: request or status line and headers together. Proxies add headers of their own; servers
/// commonly refuse 8 KiB.
pub(crate) const HEAD_BYTES_MAX: usize = 8 << 10;
/// Longest part of a foreign message that goes into an error.
const QUOTE_CHARS_MAX: usize = 80;

/// A head could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the connection was closed before the answer was complete")]
    Closed,
    #[error("the answer's head has more than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer is not HTTP/1.1: {quote:?}")]
    Malformed { quote: String },
    #[error("{0}")]
    Io(io::Error),
}

/// The head of a request or of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    start: String,
    /// Names in small letters.
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads exactly one head: what follows it belongs to somebody else, so bytes are taken one at a time. A head has a
    /// few hundred of them, once per connection.
    pub(crate) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> Result<Self, HeadError> {
        let mut bytes = Vec::with_capacity(512);
        while !bytes.ends_with(b"\r\n\r\n") {
            if bytes.len() == HEAD_BYTES_MAX {
                return Err(HeadError::TooLong);
            }
            let mut byte = [0];
            match socket.read(&mut byte).await {
                Ok(0) => return Err(HeadError::Closed),
                Ok(_) => bytes.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(HeadError::Closed),
                Err(error) => return Err(HeadError::Io(error)),
            }
            // Whatever does not begin with a line of text in its first bytes is another protocol.
            if bytes.len() == 1 && !bytes[0].is_ascii_alphabetic() {
                return Err(HeadError::Malformed { quote: quote(&String::from_utf8_lossy(&bytes)) });
            }
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let text = String::from_utf8_lossy(bytes);
        let malformed = || HeadError::Malformed { quote: quote(&text) };
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { start, headers })
    }

    /// Returns the status and its reason, if this is an answer.
    pub(crate) fn status(&self) -> Result<(u16, String), HeadError> {
        let malformed = || HeadError::Malformed { quote: quote(&self.start) };
        let mut words = self.start.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        if !version.starts_with("HTTP/1.") {
            return Err(malformed());
        }
        let status = words.next().and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
        Ok((status, quote(words.next().unwrap_or_default())))
    }

    /// Returns whether this is a request of `method`.
    pub(crate) fn is_request(&self, method: &str) -> bool {
        let mut words = self.start.split(' ');
        words.next() == Some(method) && words.nth(1) == Some("HTTP/1.1")
    }

    /// Returns the first value of a header; `name` is in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns whether one of the header's comma-separated words is `word`.
    pub(crate) fn has(&self, name: &str, word: &str) -> bool {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        values.into_iter().any(|(_, value)| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
    }
}

/// Returns the beginning of a stranger's text, fit for a log.
pub(crate) fn quote(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Head, usize), HeadError> {
        let mut rest = bytes;
        let head = futures::executor::block_on(Head::read(&mut rest))?;
        Ok((head, rest.len()))
    }

    #[test]
    fn a_head_ends_at_its_empty_line_and_leaves_the_rest_alone() {
        let (head, left) =
            read(b"HTTP/1.1 407 Proxy Authentication\r\nVia: a\r\nConnection: close, Upgrade\r\n\r\nrest")
                .unwrap();
        assert_eq!(head.status().unwrap(), (407, "Proxy Authentication".to_owned()));
        assert_eq!(head.header("via"), Some("a"));
        assert!(head.has("connection", "upgrade") && !head.has("via", "upgrade"));
        assert_eq!(left, 4);
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\nA: b\r\n"), Err(HeadError::Closed)));
        assert!(matches!(read(&vec![b'a'; HEAD_BYTES_MAX + 1]), Err(HeadError::TooLong)));
        assert!(matches!(read(b"\x16\x03\x01 tls\r\n\r\n"), Err(HeadError::Malformed { .. })));
        let (head, _) = read(b"SSH-2.0-x\r\n\r\n").unwrap();
        assert!(matches!(head.status(), Err(HeadError::Malformed { .. })));
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(HeadError::Malformed { .. })));
    }
}

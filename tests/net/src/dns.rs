//! A name server that may be told to fail or to lie.
//!
//! It knows addresses (A) and texts (TXT) of a few names; RFC 1035 gives the format. Only what the cells need is here:
//! one question a datagram, no compression but a pointer to the question.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::middle::Authority;

/// Longest head of a request over HTTPS.
const REQUEST_BYTES_MAX: usize = 8192;

/// What the server does with every question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Answers, and says of other names that they do not exist.
    Honest,
    /// Says of every name that it does not exist.
    Denies,
    /// Says that it cannot answer.
    Fails,
    /// Gives everybody this address, as the sign-in page of a hotel does.
    Lies(Ipv4Addr),
    /// Says nothing.
    Silent,
}

impl std::str::FromStr for Manner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "honest" => Ok(Self::Honest),
            "denies" => Ok(Self::Denies),
            "fails" => Ok(Self::Fails),
            "silent" => Ok(Self::Silent),
            _ => text.parse().map(Self::Lies).map_err(|_| format!("{text} is no manner")),
        }
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(Ipv4Addr),
    /// A text of at most 255 bytes.
    Text(String),
}

const TYPE_A: u16 = 1;
const TYPE_TXT: u16 = 16;

/// Serves until the process ends.
///
/// # Errors
/// When the address is taken.
pub fn serve(listen: SocketAddr, manner: Manner, records: HashMap<String, Vec<Record>>) -> io::Result<()> {
    let socket = UdpSocket::bind(listen)?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..length], &manner, &records) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

/// Serves the same over HTTPS (RFC 8484, POST over HTTP/1.1), as `name` of `authority`, until the process ends.
///
/// # Errors
/// When the address is taken.
pub async fn serve_https(
    listen: SocketAddr,
    authority: &Authority,
    name: &str,
    records: HashMap<String, Vec<Record>>,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let acceptor = TlsAcceptor::from(authority.server(name, vec![b"http/1.1".to_vec()])?);
    let records = Arc::new(records);
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let (acceptor, records) = (acceptor.clone(), records.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                if let Err(error) = converse(stream, &records).await {
                    println!("from {from}: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn converse(
    mut stream: TlsStream<TcpStream>,
    records: &HashMap<String, Vec<Record>>,
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > REQUEST_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut question = vec![0; length.filter(|length| *length <= 512).ok_or(io::ErrorKind::InvalidData)?];
        stream.read_exact(&mut question).await?;
        let answer = answer(&question, &Manner::Honest, records).ok_or(io::ErrorKind::InvalidData)?;
        println!("asked for {}", name_of(&question).map(|(name, _)| name).unwrap_or_default());
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(&[head.as_bytes(), &answer].concat()).await?;
    }
}

/// Returns the answer to a datagram, if there is to be one.
fn answer(question: &[u8], manner: &Manner, records: &HashMap<String, Vec<Record>>) -> Option<Vec<u8>> {
    let (name, end) = name_of(question)?;
    let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
    let asked = question.get(12..end + 4)?;
    let lie;
    let (code, found): (u8, &[Record]) = match manner {
        Manner::Silent => return None,
        Manner::Fails => (2, &[]),
        Manner::Denies => (3, &[]),
        Manner::Lies(address) => {
            lie = [Record::Address(*address)];
            (0, &lie)
        }
        Manner::Honest => records.get(&name).map_or((3, &[]), |found| (0, found)),
    };
    let data: Vec<Vec<u8>> = found
        .iter()
        .filter_map(|record| match record {
            Record::Address(address) if kind == TYPE_A => Some(address.octets().to_vec()),
            Record::Text(text) if kind == TYPE_TXT => {
                Some([&[u8::try_from(text.len()).ok()?], text.as_bytes()].concat())
            }
            _ => None,
        })
        .collect();
    let mut answer = question[..2].to_vec();
    // An answer, recursion asked for and available; one question, so many answers.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(data.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(asked);
    for data in data {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 30]);
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

/// Returns the name that is asked about, in small letters, and where it ends.
fn name_of(question: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(manner: &Manner, kind: u8) -> Option<Vec<u8>> {
        let mut question = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x05Relay\x03lab\0");
        question.extend([0, kind, 0, 1]);
        let records = [Record::Address([5, 0, 1, 2].into()), Record::Text("dnsaddr=/ip4/5.0.1.2".into())];
        answer(&question, manner, &HashMap::from([("relay.lab".to_owned(), records.to_vec())]))
    }

    #[test]
    fn an_honest_server_knows_addresses_and_texts() {
        let address = ask(&Manner::Honest, 1).expect("an answer");
        assert_eq!(address[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(address[address.len() - 4..], [5, 0, 1, 2]);
        let text = ask(&Manner::Honest, 16).expect("an answer");
        assert!(text.ends_with(b"\x14dnsaddr=/ip4/5.0.1.2"), "{text:?}");
    }

    #[test]
    fn a_bad_one_fails_denies_lies_or_says_nothing() {
        let code = |manner| ask(&manner, 1).map(|answer| answer[3] & 15);
        assert_eq!(code(Manner::Fails), Some(2));
        assert_eq!(code(Manner::Denies), Some(3));
        assert_eq!(code(Manner::Silent), None);
        let lie = ask(&Manner::Lies([10, 0, 0, 1].into()), 1).expect("an answer");
        assert_eq!(lie[lie.len() - 4..], [10, 0, 0, 1]);
    }
}

//! What stands before a connection on port 443: answers of proxies, and both sides of a WebSocket.
//!
//! The first byte says which reader gets the rest, as three different strangers would.

use wc_mesh::decode::{proxy_answer, web_client, web_server};

const KEY: [u8; 16] = *b"the sample nonce";

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: relay.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Reads as proxy's answer, as client or as server. A payload is never more than what carried it, and neither is what
/// goes back beside our own first words.
pub fn target(data: &[u8]) {
    let Some((reader, rest)) = data.split_first() else { return };
    match reader % 3 {
        0 => {
            if let Ok(left) = proxy_answer(rest) {
                assert!(left < rest.len());
            }
        }
        1 => {
            if let Ok(payload) = web_client(rest) {
                assert!(payload.bytes.len() < rest.len() && payload.answered <= rest.len() + 256);
            }
        }
        _ => {
            if let Ok(payload) = web_server(rest, KEY) {
                // Our request, and pongs, each four bytes longer than its ping for the mask.
                assert!(payload.bytes.len() < rest.len() && payload.answered <= 3 * rest.len() + 512);
            }
        }
    }
}

/// Answers and requests with frames of each kind behind them.
pub fn seeds() -> Vec<Vec<u8>> {
    let talk = |reader: u8, head: &str, rest: &[u8]| [&[reader], head.as_bytes(), rest].concat();
    let masked = |frame: &[u8], payload: &[u8]| {
        let mask = [7, 1, 9, 3];
        let bytes = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [frame, &mask, &bytes.collect::<Vec<u8>>()].concat()
    };
    vec![
        talk(0, "HTTP/1.1 200 Connection established\r\n\r\n", b"\x13/multistream/1.3.0\n"),
        talk(
            0,
            "HTTP/1.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
            b"",
        ),
        talk(0, "HTTP/1.1 502 Bad Gateway\r\nVia: a\r\nVia: b\r\n\r\n", b"<html>"),
        talk(1, REQUEST, &masked(&[0x82, 0x85], b"bytes")),
        talk(1, REQUEST, &[masked(&[0x89, 0x84], b"ping"), masked(&[0x88, 0x82], &[3, 232])].concat()),
        talk(1, REQUEST, &[masked(&[0x02, 0xfe, 0, 200], &[1; 200]), masked(&[0x80, 0x81], b"x")].concat()),
        talk(1, "GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        talk(2, ANSWER, b"\x82\x05bytes"),
        talk(2, ANSWER, &[&b"\x82\x7f\0\0\0\0\0\0\x01\0"[..], &[5; 256], b"\x8a\0\x89\x01p\x88\0"].concat()),
        talk(2, "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\n", b"no\n"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_read_as_it_is_meant() {
        let read: Vec<bool> = seeds()
            .iter()
            .map(|seed| {
                target(seed);
                match seed[0] {
                    0 => proxy_answer(&seed[1..]).is_ok(),
                    1 => web_client(&seed[1..]).is_ok(),
                    _ => web_server(&seed[1..], KEY).is_ok(),
                }
            })
            .collect();
        assert_eq!(read, [true, false, false, true, true, true, false, true, true, false]);
        let payload = web_client(&seeds()[3][1..]).expect("a sample");
        assert_eq!(payload.bytes, b"bytes");
    }
}

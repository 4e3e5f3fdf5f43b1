//! What machines on the LAN say to everybody: multicast DNS, and answers to whoever looks for a router.

use std::net::Ipv4Addr;

use wc_mesh::decode::{neighbour, router};

const SENDER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

/// Reads the bytes as both.
pub fn target(data: &[u8]) {
    if let Some(addresses) = neighbour(data, SENDER) {
        // The shortest string that names an address of the sender's and a node.
        assert!(addresses * "dnsaddr=/ip4/192.168.1.7/tcp/1/p2p/".len() <= data.len());
    }
    let (place, calls) = router(&String::from_utf8_lossy(data), SENDER);
    for path in [place, calls].into_iter().flatten() {
        // It goes into the first line of a request.
        assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    }
}

/// A question, a node that says where it is, and a router.
pub fn seeds() -> Vec<Vec<u8>> {
    let service = b"\x04_p2p\x04_udp\x05local\0";
    let question = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], service, &[0, 12, 0, 1]].concat();
    let strings: [&[u8]; 2] = [
        b"net=0909090909090909",
        b"dnsaddr=/ip4/192.168.1.7/tcp/19999/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    ];
    let text: Vec<u8> = strings
        .iter()
        .flat_map(|string| {
            let length = u8::try_from(string.len()).expect("short");
            std::iter::once(length).chain(string.iter().copied())
        })
        .collect();
    let length = u8::try_from(text.len()).expect("short");
    let here = [
        &[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..],
        b"\x01a",
        service,
        &[0, 16, 0, 1, 0, 0, 0, 60, 0, length],
        &text,
    ]
    .concat();
    let answer = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.7:5000/root.xml\r\n\r\n".to_vec();
    let description = b"<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
        <controlURL>/ctl</controlURL></service>"
        .to_vec();
    vec![question, here, answer, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_read() {
        let [question, here, answer, description] = <[Vec<u8>; 4]>::try_from(seeds()).expect("four");
        assert_eq!((neighbour(&question, SENDER), neighbour(&here, SENDER)), (Some(0), Some(1)));
        let read = |bytes: &[u8]| router(std::str::from_utf8(bytes).expect("text"), SENDER);
        assert_eq!(read(&answer), (Some("/root.xml".to_owned()), None));
        assert_eq!(read(&description), (None, Some("/ctl".to_owned())));
    }
}

//! Answers of DNS servers over HTTPS, which may be anybody's.

use wc_mesh::decode::dns_answer;

/// Reads an answer. Addresses that cannot be true, and entries of lists that are too long, are left out.
pub fn target(data: &[u8]) {
    match dns_answer(data) {
        Ok((addresses, listed)) => {
            // The shortest record of an address has 16 bytes, that of a text 13.
            assert!(addresses.len() + listed.len() <= data.len());
            assert!(listed.iter().all(|address| address.to_string().len() <= 4 * data.len()));
        }
        Err(cause) => assert!(!cause.is_empty()),
    }
}

/// Answers with an address of each family, with an entry of a list, and without any.
pub fn seeds() -> Vec<Vec<u8>> {
    let name = b"\x01a\x07example\0";
    let listed =
        b"dnsaddr=/dns4/r.example/tcp/443/tls/ws/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let answer = |kind: u8, data: &[&[u8]], code: u8| {
        let count = u8::try_from(data.len()).expect("few");
        let mut bytes = vec![0, 0, 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        bytes.extend(name);
        bytes.extend([0, kind, 0, 1]);
        for data in data {
            let length = u8::try_from(data.len()).expect("short");
            bytes.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length]);
            bytes.extend(*data);
        }
        bytes
    };
    let text = [&[u8::try_from(listed.len()).expect("short")][..], listed].concat();
    vec![
        answer(1, &[&[192, 0, 2, 1], &[198, 51, 100, 7]], 0),
        answer(28, &[&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]], 0),
        answer(16, &[&text, b"\x03x=y"], 0),
        answer(1, &[], 3),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_read() {
        let counts: Vec<_> = seeds()
            .iter()
            .map(|seed| {
                target(seed);
                dns_answer(seed).map(|(addresses, listed)| (addresses.len(), listed.len())).ok()
            })
            .collect();
        assert_eq!(counts, [Some((2, 0)), Some((1, 0)), Some((0, 1)), None]);
    }
}

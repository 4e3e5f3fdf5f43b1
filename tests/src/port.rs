//! Ports for servers that have to be found at a known address.

use std::sync::atomic::{AtomicU32, Ordering};

/// Returns a port of loopback that is free, and that the system gives to nobody who does not ask for it by number: it is below
/// the ports that it deals out, and no other test that runs now looks among the same thirty-two.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + (32 * std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed)) % 9_900;
    let free = |port: &u16| {
        let here = ("127.0.0.1", *port);
        std::net::TcpListener::bind(here).is_ok() && std::net::UdpSocket::bind(here).is_ok()
    };
    (u16::try_from(first).expect("below 20,000")..19_990).find(free).expect("a free port")
}

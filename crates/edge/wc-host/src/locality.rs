//! Where a machine is, as far as its address tells.

use std::net::IpAddr;

use wc_types::node::Locality;

/// Returns the first 24 bits of an IPv4 address as a number, 0 for an address that says nothing about a network:
/// unspecified, loopback, and every IPv6 address that does not wrap an IPv4 one.
pub fn prefix_24(address: IpAddr) -> u32 {
    match address.to_canonical() {
        IpAddr::V4(v4) if !v4.is_unspecified() && !v4.is_loopback() => u32::from(v4) >> 8,
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    }
}

/// Returns the locality that an address tells; the autonomous system stays unknown.
pub fn locality_of(address: IpAddr) -> Locality {
    Locality { asn: 0, prefix_24: prefix_24(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_machines_of_one_network_share_a_prefix() {
        let prefix = |text: &str| prefix_24(text.parse().expect("address"));
        assert_eq!(prefix("192.168.7.1"), 0xc0_a8_07);
        assert_eq!(prefix("192.168.7.1"), prefix("192.168.7.254"));
        assert_eq!(prefix("::ffff:192.168.7.9"), prefix("192.168.7.1"));
        assert_ne!(prefix("192.168.8.1"), prefix("192.168.7.1"));
        for unknown in ["127.0.0.1", "0.0.0.0", "::1", "fe80::1", "2001:db8::1"] {
            assert_eq!(prefix(unknown), 0, "{unknown}");
        }
    }
}

//! What a router's owner does not let out.

use std::net::Ipv4Addr;

/// Where a reader on a router listens.
pub const READER_PORT: u16 = 8443;

/// What leaves the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Everything.
    Nothing,
    /// Everything but UDP; packets vanish.
    Udp,
    /// TCP to port 443 only; everything else vanishes.
    AllBut443,
    /// TCP to port 443 only, and that goes to a reader on the router itself, at [`READER_PORT`].
    Reads443,
    /// Nothing but what goes to this proxy's TCP port, which has its own way out.
    AllButProxy {
        /// Where the proxy is.
        address: Ipv4Addr,
        /// Its port.
        port: u16,
    },
}

impl Filter {
    /// Returns the rules.
    pub fn rules(&self) -> String {
        let body = match self {
            Self::Nothing => return String::new(),
            Self::Udp => "oifname wan meta l4proto udp drop;".to_owned(),
            Self::Reads443 => {
                return format!(
                    "table ip reader {{
  chain in {{ type nat hook prerouting priority dstnat; iifname lan tcp dport 443 redirect to :{READER_PORT}; }}
}}
{}",
                    Self::AllBut443.rules()
                );
            }
            Self::AllBut443 => "oifname wan tcp dport 443 accept; oifname wan drop;".to_owned(),
            Self::AllButProxy { address, port } => {
                format!(
                    "ip saddr {address} accept; ip daddr {address} tcp dport {port} accept; oifname wan drop;"
                )
            }
        };
        format!(
            "table inet way_out {{
  chain out {{ type filter hook forward priority -10; ct state established,related accept; {body} }}
}}
"
        )
    }
}

//! The kinds of NAT, as nftables rules of a router.
//!
//! nftables masquerades by connection: what comes back is let in by address and port, which is the port-restricted
//! kind. The more open kinds are the same masquerade plus maps that the router fills from what goes out: an inner
//! endpoint that has sent anything is found again by its port. The port outside equals the port inside as long as no
//! two inner hosts use the same one, which is what makes those maps true; [`probe`](crate::probe) checks it.

use std::fmt::Write as _;

use crate::filter::Filter;

/// How a router translates (RFC 4787 in brackets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One port outside for each port inside, open to everybody (endpoint-independent mapping and filtering).
    FullCone,
    /// Open to addresses that were sent to (address-dependent filtering).
    Restricted,
    /// Open to endpoints that were sent to (address- and port-dependent filtering).
    PortRestricted,
    /// Another port outside for each connection (address- and port-dependent mapping and filtering).
    Symmetric,
}

impl Nat {
    /// Every kind, the most open first.
    pub const ALL: [Self; 4] = [Self::FullCone, Self::Restricted, Self::PortRestricted, Self::Symmetric];

    /// Returns the rules of a router whose device `wan` is outside; everything else is inside.
    pub fn rules(self, filter: &Filter) -> String {
        let masquerade = match self {
            Self::Symmetric => "masquerade fully-random",
            _ => "masquerade",
        };
        // Who may come in unasked: the new connection is led to the inner endpoint that owns the port.
        let (learn, lead) = match self {
            Self::FullCone => (OPEN_LEARN, "dnat ip to meta l4proto . th dport map @owner"),
            Self::Restricted => (
                CONTACT_LEARN,
                "ip saddr . meta l4proto . th dport @contacted dnat ip to meta l4proto . th dport map @owner",
            ),
            _ => ("", "return"),
        };
        let mut rules = String::from(
            "flush ruleset
table ip nat {
  map owner { type inet_proto . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 4096; }
  set contacted { type ipv4_addr . inet_proto . inet_service; flags dynamic,timeout; timeout 300s; size 4096; }
",
        );
        let _ = write!(
            rules,
            "  chain out {{ type nat hook postrouting priority srcnat; oifname wan {masquerade}; }}
  chain learn {{ type filter hook forward priority 10; oifname wan meta l4proto {{ tcp, udp }} jump remember; }}
  chain remember {{ {learn} }}
  chain in {{ type nat hook prerouting priority dstnat; iifname wan meta l4proto {{ tcp, udp }} jump lead; }}
  chain lead {{ {lead}; }}
}}
{filter}
{WALL}",
            filter = filter.rules(),
        );
        rules
    }
}

const OPEN_LEARN: &str = "update @owner { meta l4proto . th sport : ip saddr . th sport };";
const CONTACT_LEARN: &str = "update @owner { meta l4proto . th sport : ip saddr . th sport };
    update @contacted { ip daddr . meta l4proto . th sport };";

/// What comes from outside is dropped unless it belongs to something, without an answer: an unasked packet that the
/// router accepted for itself would take the port that a hole is about to be punched through.
const WALL: &str = "table inet wall {
  chain input { type filter hook input priority 0; iifname wan ct state new,invalid drop; }
  chain forward { type filter hook forward priority 0;
    iifname wan ct status dnat accept; iifname wan ct state new,invalid drop; }
}
";

/// The program that forwards ports for whoever asks, by PCP, NAT-PMP and UPnP.
pub const MAPPER: &str = "/usr/sbin/miniupnpd";

/// Tables that [`MAPPER`] fills.
pub const MAPPER_RULES: &str = "table inet mapper {
  chain forward { type filter hook forward priority 0; jump mapped; }
  chain mapped { }
  chain in { type nat hook prerouting priority -101; jump mapped_in; }
  chain mapped_in { }
  chain out { type nat hook postrouting priority 99; jump mapped_out; }
  chain mapped_out { }
}
";

/// Settings of [`MAPPER`] on a router with the devices `wan` and `lan`.
pub const MAPPER_SETTINGS: &str = "ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
uuid=5a4ad5ac-6d6a-4d3b-9d46-9ff1d1f0f6a1
upnp_table_name=mapper
upnp_nat_table_name=mapper
upnp_forward_chain=mapped
upnp_nat_chain=mapped_in
upnp_nat_postrouting_chain=mapped_out
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";

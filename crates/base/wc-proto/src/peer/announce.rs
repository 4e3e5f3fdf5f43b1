//! What nodes tell each other about nodes: where each can be reached, and which of them relay.
//!
//! ```text
//! A ── frame(Exchange) ──► B      A's own announcement first, then some that A believes
//! A ◄── frame(Exchange) ── B      the same from B, if A asks for it
//! ```
//!
//! An announcement is signed by the node that it speaks of, so whoever passes it on can leave it out but not change it.
//! It says what a node claims: an address is believed when somebody at it has shown the node's key.

use serde::{Deserialize, Serialize};
use wc_types::{Millis, NodeId, Signed, Timestamp};

use crate::limit::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, ANNOUNCEMENTS_MAX, NETWORK_BYTES_MAX};

/// Longest life of an announcement. A node that is there renews it well before.
pub const LIFE_MAX: Millis = Millis(24 * 60 * 60 * 1000);
/// How far ahead of ours the clock of an honest node may be.
pub const AHEAD_MAX: Millis = Millis(10 * 60 * 1000);

/// One node's own words about where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// Name of its network.
    pub network: String,
    /// The node, which also signs.
    pub node: NodeId,
    /// Where it can be dialled, as multiaddrs in text without its own id at the end; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// What it does as a relay, if it is one.
    pub relay: Option<RelayOffer>,
    /// When it said so. A later announcement replaces an earlier one.
    pub at: Timestamp,
    /// Until when it stands.
    pub until: Timestamp,
}

/// What a relay gives away. Zero means without a limit of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayOffer {
    /// Nodes that it holds a reservation for at the same time.
    pub reservations_max: u32,
    /// Life of one reservation.
    pub reservation: Millis,
    /// Bytes through one circuit, both directions together.
    pub circuit_bytes_max: u64,
    /// Life of one circuit.
    pub circuit: Millis,
    /// Bytes per second for one peer.
    pub peer_bytes_per_second: u64,
}

/// Why an announcement is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnouncementFlaw {
    /// Signed by another node than it speaks of.
    #[error("it is not signed by the node that it speaks of")]
    Signer,
    /// Of another network.
    #[error("it is of another network")]
    Network,
    /// Too many addresses, or too long ones.
    #[error("its addresses are too many or too long")]
    Addresses,
    /// Lives longer than any may.
    #[error("it claims to stand for too long")]
    Life,
    /// From the future.
    #[error("it is from the future")]
    Ahead,
    /// Over.
    #[error("it is over")]
    Over,
}

impl AnnouncementFlaw {
    /// Returns whether only somebody who ignores the rules passes such an announcement on; the others are a matter of
    /// clocks.
    pub fn is_misbehaviour(self) -> bool {
        match self {
            Self::Signer | Self::Network | Self::Addresses | Self::Life => true,
            Self::Ahead | Self::Over => false,
        }
    }
}

/// Checks what the decoder cannot; the signature was checked when the record was decoded.
///
/// # Errors
/// [`AnnouncementFlaw`] says why it counts for nothing.
pub fn check(
    announcement: &Signed<Announcement>,
    network: &str,
    now: Timestamp,
) -> Result<(), AnnouncementFlaw> {
    if announcement.signed_by(&announcement.node.0).is_err() {
        return Err(AnnouncementFlaw::Signer);
    }
    if announcement.network.len() > NETWORK_BYTES_MAX || announcement.network != network {
        return Err(AnnouncementFlaw::Network);
    }
    if announcement.addresses.len() > ADDRESSES_MAX
        || announcement.addresses.iter().any(|address| address.len() > ADDRESS_BYTES_MAX)
    {
        return Err(AnnouncementFlaw::Addresses);
    }
    if announcement.until > announcement.at.plus(LIFE_MAX) {
        return Err(AnnouncementFlaw::Life);
    }
    if announcement.at > now.plus(AHEAD_MAX) {
        return Err(AnnouncementFlaw::Ahead);
    }
    if announcement.until <= now {
        return Err(AnnouncementFlaw::Over);
    }
    Ok(())
}

/// Both halves of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// At most [`ANNOUNCEMENTS_MAX`].
    pub announcements: Vec<Signed<Announcement>>,
    /// Whether the sender wants to hear of others, too; the answer to one that does not is empty.
    pub asks: bool,
}

impl Exchange {
    /// Returns whether it keeps to the limits.
    pub fn is_within_limits(&self) -> bool {
        self.announcements.len() <= ANNOUNCEMENTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use wc_types::SigningKey;

    use super::*;
    use crate::frame::{PREFIX_BYTES, decode, encode};
    use crate::limit::EXCHANGE_BYTES_MAX;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn announcement() -> Announcement {
        Announcement {
            network: "lab".to_owned(),
            node: key().node_id(),
            addresses: vec!["/ip4/203.0.113.7/tcp/19999".to_owned()],
            relay: None,
            at: NOW,
            until: NOW.plus(Millis(3_600_000)),
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[4; 32])
    }

    #[test]
    fn an_announcement_that_breaks_a_rule_counts_for_nothing() {
        type Change = fn(&mut Announcement);
        let table: [(Change, Result<(), AnnouncementFlaw>); 8] = [
            (|_| {}, Ok(())),
            (|it| it.node = NodeId([9; 32]), Err(AnnouncementFlaw::Signer)),
            (|it| it.network = "other".to_owned(), Err(AnnouncementFlaw::Network)),
            (|it| it.addresses = vec![String::new(); ADDRESSES_MAX + 1], Err(AnnouncementFlaw::Addresses)),
            (|it| it.addresses = vec!["x".repeat(ADDRESS_BYTES_MAX + 1)], Err(AnnouncementFlaw::Addresses)),
            (|it| it.until = NOW.plus(Millis(LIFE_MAX.0 + 1)), Err(AnnouncementFlaw::Life)),
            (
                |it| {
                    it.at = NOW.plus(Millis(AHEAD_MAX.0 + 1));
                    it.until = it.at.plus(Millis(1));
                },
                Err(AnnouncementFlaw::Ahead),
            ),
            (|it| it.until = NOW, Err(AnnouncementFlaw::Over)),
        ];
        for (row, (change, expected)) in table.into_iter().enumerate() {
            let mut announcement = announcement();
            change(&mut announcement);
            assert_eq!(check(&Signed::seal(announcement, &key()), "lab", NOW), expected, "row {row}");
        }
    }

    #[test]
    fn the_largest_exchange_fits_its_frame() {
        let mut largest = announcement();
        largest.network = "n".repeat(NETWORK_BYTES_MAX);
        largest.addresses = vec!["a".repeat(ADDRESS_BYTES_MAX); ADDRESSES_MAX];
        largest.relay = Some(RelayOffer {
            reservations_max: u32::MAX,
            reservation: Millis(u64::MAX),
            circuit_bytes_max: u64::MAX,
            circuit: Millis(u64::MAX),
            peer_bytes_per_second: u64::MAX,
        });
        let exchange =
            Exchange { announcements: vec![Signed::seal(largest, &key()); ANNOUNCEMENTS_MAX], asks: true };
        assert!(exchange.is_within_limits());
        let frame = encode(&exchange, EXCHANGE_BYTES_MAX).expect("fits");
        assert_eq!(decode::<Exchange>(&frame[PREFIX_BYTES..]), Ok(exchange));
    }

    #[test]
    fn a_changed_byte_in_a_passed_on_announcement_is_noticed() {
        let exchange = Exchange { announcements: vec![Signed::seal(announcement(), &key())], asks: false };
        let frame = encode(&exchange, EXCHANGE_BYTES_MAX).expect("small");
        let at = frame.windows(3).position(|window| window == b"203").expect("the address");
        let mut forged = frame[PREFIX_BYTES..].to_vec();
        forged[at - PREFIX_BYTES] = b'1';
        assert!(decode::<Exchange>(&forged).is_err());
    }
}

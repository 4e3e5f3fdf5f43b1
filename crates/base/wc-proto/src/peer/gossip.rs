//! What is passed from peer to peer when something has changed, on one topic for each kind of change.
//!
//! ```text
//! wc/<network>/addresses/1.0.0    an Announcement: a node is somewhere else, or has become a relay
//! wc/<network>/presence/1.0.0     a Presence: a node's owner has withdrawn or paused it, or it is back
//! wc/<network>/directives/1.0.0   CellDirectives: a cell's coordinator orders a halt or a ban, or lifts one
//! ```
//!
//! A message is the record in canonical DAG-CBOR, signed by whom it speaks for, so whoever passes it on can leave it out but
//! not change it. Nothing is said while nothing changes.

use serde::{Deserialize, Serialize};
use wc_types::charter::Founding;
use wc_types::directive::{DirectiveFlaw, Directives};
use wc_types::{NodeId, Signed, Timestamp, from_canonical, to_canonical};

use crate::frame::FrameError;
use crate::limit::{ANNOUNCEMENT_BYTES_MAX, DIRECTIVES_BYTES_MAX, NETWORK_BYTES_MAX, PRESENCE_BYTES_MAX};
use crate::peer::announce::{AHEAD_MAX, Announcement, LIFE_MAX};

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Where nodes are.
    Addresses,
    /// Whether they are there for others.
    Presence,
    /// What cells order.
    Directives,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 3] = [Self::Addresses, Self::Presence, Self::Directives];

    /// Returns its name in a network.
    pub fn name(self, network: &str) -> String {
        let kind = match self {
            Self::Addresses => "addresses",
            Self::Presence => "presence",
            Self::Directives => "directives",
        };
        format!("wc/{network}/{kind}/1.0.0")
    }

    /// Returns the size of its largest message.
    pub fn bytes_max(self) -> usize {
        match self {
            Self::Addresses => ANNOUNCEMENT_BYTES_MAX,
            Self::Presence => PRESENCE_BYTES_MAX,
            Self::Directives => DIRECTIVES_BYTES_MAX,
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    /// Where a node is.
    Addresses(Box<Signed<Announcement>>),
    /// Whether it is there for others.
    Presence(Box<Signed<Presence>>),
    /// What a cell orders.
    Directives(Box<CellDirectives>),
}

impl Gossip {
    /// Returns the topic that it belongs to.
    pub fn topic(&self) -> Topic {
        match self {
            Self::Addresses(_) => Topic::Addresses,
            Self::Presence(_) => Topic::Presence,
            Self::Directives(_) => Topic::Directives,
        }
    }

    /// Returns its bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Addresses(announcement) => to_canonical(announcement.as_ref()),
            Self::Presence(presence) => to_canonical(presence.as_ref()),
            Self::Directives(directives) => to_canonical(directives.as_ref()),
        }
    }

    /// Reads a message of a topic. Signatures are checked; whose they have to be is checked by whoever believes it.
    ///
    /// # Errors
    /// [`FrameError`] when it is too large for its topic or is no such message.
    pub fn decode(topic: Topic, bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > topic.bytes_max() {
            return Err(FrameError::TooLarge { bytes: bytes.len(), bytes_max: topic.bytes_max() });
        }
        let decoded = match topic {
            Topic::Addresses => from_canonical(bytes).map(Box::new).map(Self::Addresses),
            Topic::Presence => from_canonical(bytes).map(Box::new).map(Self::Presence),
            Topic::Directives => from_canonical(bytes).map(Box::new).map(Self::Directives),
        };
        decoded.map_err(|error| FrameError::Malformed { reason: error.to_string() })
    }
}

/// One node's own word on whether it is there for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// Name of its network.
    pub network: String,
    /// The node, which also signs.
    pub node: NodeId,
    /// How it stands.
    pub state: PresenceState,
    /// When it said so. A later word replaces an earlier one.
    pub at: Timestamp,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PresenceState {
    /// It is there, and takes work if it lends anything. What everybody counts as who has not said otherwise.
    Here,
    /// Its owner has paused it: it is there and takes no work.
    Paused,
    /// Its owner has withdrawn it.
    Left,
}

impl PresenceState {
    /// Returns its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Paused => "paused",
            Self::Left => "left",
        }
    }
}

/// Why a presence is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceFlaw {
    /// Signed by another node than it speaks of.
    #[error("it is not signed by the node that it speaks of")]
    Signer,
    /// Of another network.
    #[error("it is of another network")]
    Network,
    /// From the future.
    #[error("it is from the future")]
    Ahead,
    /// Said so long ago that nobody asks any more.
    #[error("it is over")]
    Over,
}

impl PresenceFlaw {
    /// Returns whether only somebody who ignores the rules passes such a word on; the others are a matter of clocks.
    pub fn is_misbehaviour(self) -> bool {
        matches!(self, Self::Signer | Self::Network)
    }
}

impl Presence {
    /// Checks what the decoder cannot.
    ///
    /// # Errors
    /// [`PresenceFlaw`] says why it counts for nothing.
    pub fn check(presence: &Signed<Self>, network: &str, now: Timestamp) -> Result<(), PresenceFlaw> {
        if presence.signed_by(&presence.node.0).is_err() {
            return Err(PresenceFlaw::Signer);
        }
        if presence.network.len() > NETWORK_BYTES_MAX || presence.network != network {
            return Err(PresenceFlaw::Network);
        }
        if presence.at > now.plus(AHEAD_MAX) {
            return Err(PresenceFlaw::Ahead);
        }
        if presence.at.plus(LIFE_MAX) < now {
            return Err(PresenceFlaw::Over);
        }
        Ok(())
    }
}

/// A cell's directives, and the record that shows whose they must be: the cell's id is the digest of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellDirectives {
    /// The cell's founding record.
    pub founding: Signed<Founding>,
    /// What stands.
    pub directives: Signed<Directives>,
}

/// Why a cell's directives are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CellDirectivesFlaw {
    /// The cell is of another network.
    #[error("they are of another network")]
    Network,
    /// From the future.
    #[error("they are from the future")]
    Ahead,
    /// They are not the coordinator's, or break a rule.
    #[error(transparent)]
    Directives(#[from] DirectiveFlaw),
}

impl CellDirectives {
    /// Checks what the decoder cannot. Directives have no end of life.
    ///
    /// # Errors
    /// [`CellDirectivesFlaw`] says why they count for nothing.
    pub fn check(&self, network: &str, now: Timestamp) -> Result<(), CellDirectivesFlaw> {
        if self.founding.network != network {
            return Err(CellDirectivesFlaw::Network);
        }
        if self.directives.at > now.plus(AHEAD_MAX) {
            return Err(CellDirectivesFlaw::Ahead);
        }
        Ok(Directives::check(&self.directives, &self.founding)?)
    }
}

#[cfg(test)]
mod tests {
    use wc_types::charter::{Charter, cell_id};
    use wc_types::directive::{BANS_MAX, Ban, BanReason, Halt, REASON_BYTES_MAX};
    use wc_types::{Millis, SigningKey};

    use super::*;
    use crate::limit::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
    use crate::peer::announce::RelayOffer;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn key() -> SigningKey {
        SigningKey::from_seed(&[4; 32])
    }

    fn presence() -> Presence {
        Presence { network: "lab".to_owned(), node: key().node_id(), state: PresenceState::Left, at: NOW }
    }

    fn directives(network: &str, halt: Option<Halt>, bans: Vec<Ban>) -> CellDirectives {
        let founding = Founding {
            network: network.to_owned(),
            coordinator: key().node_id(),
            owner: key().account_id(),
            charter: Charter { retention: Millis(u64::MAX), ..Charter::default() },
            founded_at: NOW,
        };
        let founding = Signed::seal(founding, &key());
        let directives = Directives { cell: cell_id(&founding), seq: u64::MAX, at: NOW, halt, bans };
        CellDirectives { directives: Signed::seal(directives, &key()), founding }
    }

    #[test]
    fn the_largest_message_of_each_topic_fits() {
        let network = "n".repeat(NETWORK_BYTES_MAX);
        let announcement = Announcement {
            network: network.clone(),
            node: key().node_id(),
            addresses: vec!["a".repeat(ADDRESS_BYTES_MAX); ADDRESSES_MAX],
            relay: Some(RelayOffer {
                reservations_max: u32::MAX,
                reservation: Millis(u64::MAX),
                circuit_bytes_max: u64::MAX,
                circuit: Millis(u64::MAX),
                peer_bytes_per_second: u64::MAX,
            }),
            at: NOW,
            until: NOW,
        };
        let ban = |number: usize| Ban {
            node: NodeId([u8::try_from(number).unwrap(); 32]),
            reason: BanReason::AcceptableUseViolation,
            at: NOW,
        };
        let halt = Halt { reason: "r".repeat(REASON_BYTES_MAX), at: NOW };
        let largest = [
            Gossip::Addresses(Box::new(Signed::seal(announcement, &key()))),
            Gossip::Presence(Box::new(Signed::seal(
                Presence { network: network.clone(), ..presence() },
                &key(),
            ))),
            Gossip::Directives(Box::new(directives(&network, Some(halt), (0..BANS_MAX).map(ban).collect()))),
        ];
        for gossip in largest {
            let bytes = gossip.encode();
            assert!(bytes.len() <= gossip.topic().bytes_max(), "{:?}: {} bytes", gossip.topic(), bytes.len());
            assert_eq!(Gossip::decode(gossip.topic(), &bytes), Ok(gossip.clone()));
            let mut longer = bytes.clone();
            longer.resize(gossip.topic().bytes_max() + 1, 0);
            let decoded = Gossip::decode(gossip.topic(), &longer);
            assert!(matches!(decoded, Err(FrameError::TooLarge { .. })));
            for other in Topic::ALL.into_iter().filter(|other| *other != gossip.topic()) {
                assert!(Gossip::decode(other, &bytes).is_err(), "it is of one topic only");
            }
        }
    }

    #[test]
    fn a_word_on_presence_that_breaks_a_rule_counts_for_nothing() {
        let sealed = |change: fn(&mut Presence)| {
            let mut presence = presence();
            change(&mut presence);
            Presence::check(&Signed::seal(presence, &key()), "lab", NOW)
        };
        assert_eq!(sealed(|_| {}), Ok(()));
        assert_eq!(sealed(|it| it.node = NodeId([9; 32])), Err(PresenceFlaw::Signer));
        assert_eq!(sealed(|it| it.network = "other".to_owned()), Err(PresenceFlaw::Network));
        assert_eq!(sealed(|it| it.at = NOW.plus(Millis(AHEAD_MAX.0 + 1))), Err(PresenceFlaw::Ahead));
        assert_eq!(sealed(|it| it.at = Timestamp(NOW.0 - 90_000_000_000)), Err(PresenceFlaw::Over));
    }

    #[test]
    fn directives_are_believed_of_the_cells_own_coordinator_only() {
        let good = directives("lab", None, Vec::new());
        assert_eq!(good.check("lab", NOW), Ok(()));
        assert_eq!(good.check("other", NOW), Err(CellDirectivesFlaw::Network));
        assert_eq!(good.check("lab", Timestamp(NOW.0 - 700_000_000)), Err(CellDirectivesFlaw::Ahead));
        let stranger = SigningKey::from_seed(&[5; 32]);
        let forged = Signed::seal(Directives::clone(&good.directives), &stranger);
        let forged = CellDirectives { directives: forged, ..good };
        assert_eq!(forged.check("lab", NOW), Err(CellDirectivesFlaw::Directives(DirectiveFlaw::Signer)));
    }
}

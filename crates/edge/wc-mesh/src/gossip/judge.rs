//! Which message is true and new. Pure: the moment and what is known come as arguments.
//!
//! ```text
//!              its author published it ──no──────────────────────────┐
//! message ──►  it decodes, is signed by whom it speaks for ──no──────┤ reject: whoever brought it loses
//!              it is very old, and newer words are known ──yes───────┘
//!              it is new, and was said of late ──no────────────────── ignore: the same again, or a matter of clocks
//!              accept: used, and passed on
//! ```
//!
//! Rejecting costs the peer that brought the message, who may be an honest one that could not know better. So only that is
//! rejected which everybody can tell: what is false at any time and place, and what is so old that nobody who keeps to these
//! rules can have passed it on. Directives stand until the next and are said again after a restart, so none is too old to be
//! passed on, and none is rejected for its age.

use std::collections::HashMap;
use std::time::Instant;

use wc_proto::peer::announce::{AHEAD_MAX, Announcement};
use wc_proto::peer::gossip::{CellDirectives, Gossip, Presence, PresenceState, Topic};
use wc_types::{CellId, Millis, NodeId, Signed, Timestamp};

use crate::exchange::table::{Learned, Table};
use crate::relay::Rates;

/// Messages of one author that are taken up at once, and per minute after that. A node that changes networks announces itself
/// a few times; a coordinator orders something now and then.
const OF_AUTHOR: (u32, u32) = (16, 30);
/// Age from which a message is not passed on: gossip is over within seconds, and clocks may differ by minutes.
const SPREADS_FOR: Millis = Millis(10 * 60 * 1000);
/// Age at which a message that has been superseded is a replay. Whoever passed it on took it for younger than the above, by a
/// clock that may be behind as ours may be ahead, and had not heard the newer words: it must not be to blame.
const REPLAYED_AFTER: Millis = Millis(SPREADS_FOR.0 + 2 * AHEAD_MAX.0);
/// Nodes whose last word on their presence is remembered, and cells whose last directives are.
const REMEMBERED_MAX: usize = 2048;

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// True and new.
    Accept(News),
    /// Of no use, and nobody's fault.
    Ignore,
    /// Whoever brought it ignores the rules.
    Reject(String),
}

/// What is new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Where a node is; it stands in the table of announcements now.
    Addresses(NodeId),
    /// Whether a node is there for others.
    Presence(NodeId, PresenceState),
    /// What a cell orders.
    Directives(Box<CellDirectives>),
}

/// What was heard last of each node and cell.
#[derive(Debug)]
pub(crate) struct Judge {
    network: String,
    local: NodeId,
    presences: HashMap<NodeId, (PresenceState, Timestamp)>,
    directives: HashMap<CellId, (u64, Timestamp)>,
    authors: Rates<NodeId>,
}

impl Judge {
    pub(crate) fn new(network: String, local: NodeId) -> Self {
        let authors = Rates::new(OF_AUTHOR.0, OF_AUTHOR.1);
        Self { network, local, presences: HashMap::new(), directives: HashMap::new(), authors }
    }

    /// Judges a message that came on `topic`.
    ///
    /// - `author`: who published it, by the signature on the message
    /// - `table`: the announcements that are believed; a new one is put into it
    pub(crate) fn judge(
        &mut self,
        topic: Topic,
        author: NodeId,
        bytes: &[u8],
        table: &mut Table,
        (now, instant): (Timestamp, Instant),
    ) -> Verdict {
        let gossip = match Gossip::decode(topic, bytes) {
            Ok(gossip) => gossip,
            Err(error) => return Verdict::Reject(error.to_string()),
        };
        let speaks_for = match &gossip {
            Gossip::Addresses(announcement) => announcement.node,
            Gossip::Presence(presence) => presence.node,
            Gossip::Directives(directives) => directives.founding.coordinator,
        };
        if speaks_for != author {
            return Verdict::Reject("it was not published by whom it speaks for".to_owned());
        }
        if author == self.local || !self.authors.spend(author, instant) {
            return Verdict::Ignore;
        }
        match gossip {
            Gossip::Addresses(announcement) => self.addresses(*announcement, table, now),
            Gossip::Presence(presence) => self.presence(&presence, now),
            Gossip::Directives(directives) => self.directives(directives, now),
        }
    }

    fn addresses(
        &mut self,
        announcement: Signed<Announcement>,
        table: &mut Table,
        now: Timestamp,
    ) -> Verdict {
        let (node, at) = (announcement.node, announcement.at);
        if self.has_left(&announcement) {
            return superseded(at, now);
        }
        let known = table.get(&node).map(|known| known.announcement.at);
        if is_over(at, now) && known.is_none_or(|known| known <= at) {
            // Of use to those who ask, and heard in the exchanges.
            return Verdict::Ignore;
        }
        match table.learn(announcement, now) {
            Ok(Learned::News) => {
                self.met(&node);
                Verdict::Accept(News::Addresses(node))
            }
            Ok(Learned::Nothing) if known.is_some_and(|known| known > at) => superseded(at, now),
            Ok(Learned::Nothing) => Verdict::Ignore,
            Err(flaw) if flaw.is_misbehaviour() => Verdict::Reject(flaw.to_string()),
            Err(_) => Verdict::Ignore,
        }
    }

    fn presence(&mut self, presence: &Signed<Presence>, now: Timestamp) -> Verdict {
        match Presence::check(presence, &self.network, now) {
            Ok(()) => {}
            Err(flaw) if flaw.is_misbehaviour() => return Verdict::Reject(flaw.to_string()),
            Err(_) => return Verdict::Ignore,
        }
        if let Some((_, known)) = self.presences.get(&presence.node)
            && *known >= presence.at
        {
            return if *known == presence.at { Verdict::Ignore } else { superseded(presence.at, now) };
        }
        if is_over(presence.at, now) {
            // Said at its time, and nobody told us; or kept, to be said again. Nothing tells the two apart.
            return Verdict::Ignore;
        }
        make_room(&mut self.presences, &presence.node, |(_, at)| *at);
        self.presences.insert(presence.node, (presence.state, presence.at));
        Verdict::Accept(News::Presence(presence.node, presence.state))
    }

    fn directives(&mut self, directives: Box<CellDirectives>, now: Timestamp) -> Verdict {
        use wc_proto::peer::gossip::CellDirectivesFlaw;
        match directives.check(&self.network, now) {
            Ok(()) => {}
            Err(CellDirectivesFlaw::Ahead) => return Verdict::Ignore,
            Err(flaw) => return Verdict::Reject(flaw.to_string()),
        }
        let (cell, seq, at) =
            (directives.directives.cell, directives.directives.seq, directives.directives.at);
        if let Some((known, _)) = self.directives.get(&cell)
            && *known >= seq
        {
            // The same again is what a coordinator says after a restart.
            return Verdict::Ignore;
        }
        make_room(&mut self.directives, &cell, |(_, at)| *at);
        self.directives.insert(cell, (seq, at));
        Verdict::Accept(News::Directives(directives))
    }

    /// Returns whether a node has withdrawn since it announced itself.
    pub(crate) fn has_left(&self, announcement: &Announcement) -> bool {
        self.presences
            .get(&announcement.node)
            .is_some_and(|(state, at)| *state == PresenceState::Left && *at >= announcement.at)
    }

    /// Returns how a node stands, if it has said so.
    pub(crate) fn presence_of(&self, node: &NodeId) -> Option<PresenceState> {
        self.presences.get(node).map(|(state, _)| *state)
    }

    /// Notes that a node is connected: whoever has withdrawn and comes back is there. When it said so stays known, or anybody
    /// could say it again for it.
    pub(crate) fn met(&mut self, node: &NodeId) {
        if let Some((state @ PresenceState::Left, _)) = self.presences.get_mut(node) {
            *state = PresenceState::Here;
        }
    }
}

/// Returns whether a message is too old to be passed on.
fn is_over(at: Timestamp, now: Timestamp) -> bool {
    at.plus(SPREADS_FOR) < now
}

/// Returns what becomes of a message when newer words of the same author are known.
fn superseded(at: Timestamp, now: Timestamp) -> Verdict {
    if at.plus(REPLAYED_AFTER) < now {
        Verdict::Reject("it was said long ago, and newer words are known".to_owned())
    } else {
        Verdict::Ignore
    }
}

/// Forgets the oldest of too many, unless `key` is among them.
fn make_room<K: Copy + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    key: &K,
    at: impl Fn(&V) -> Timestamp,
) {
    if map.len() >= REMEMBERED_MAX && !map.contains_key(key) {
        let oldest = map.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            map.remove(&oldest);
        }
    }
}

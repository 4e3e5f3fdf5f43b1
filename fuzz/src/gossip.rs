//! Messages of gossip: where nodes are, how they stand, and what cells order, as any peer may pass it on.

use wc_mesh::decode::hear;
use wc_proto::peer::announce::Announcement;
use wc_proto::peer::gossip::{CellDirectives, Gossip, Presence, PresenceState, Topic};
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::directive::{Ban, BanReason, Directives, Halt};
use wc_types::{Millis, NodeId, Signed, SigningKey, Timestamp};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Judges a message on the topic that its first byte chooses, once as its author's own and once as somebody else's. What is
/// accepted fits its topic, has one encoding, and is its author's.
pub fn target(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let topic = Topic::ALL[usize::from(*choice) % Topic::ALL.len()];
    let Ok(gossip) = Gossip::decode(topic, bytes) else {
        assert!(
            hear(topic, NodeId([1; 32]), bytes, NOW).is_err(),
            "what does not decode is blamed on who brought it"
        );
        return;
    };
    assert!(bytes.len() <= topic.bytes_max() && gossip.topic() == topic);
    assert_eq!(gossip.encode(), bytes, "one record, one encoding");
    let author = match &gossip {
        Gossip::Addresses(announcement) => announcement.node,
        Gossip::Presence(presence) => presence.node,
        Gossip::Directives(directives) => directives.founding.coordinator,
    };
    let _ = hear(topic, author, bytes, NOW);
    let mut other = author;
    other.0[0] ^= 1;
    assert!(hear(topic, other, bytes, NOW).is_err(), "nobody speaks for another");
}

/// A message of each kind, and what is not believed.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = |number: u8| SigningKey::from_seed(&[number; 32]);
    let announcement = Announcement {
        network: "lab".to_owned(),
        node: key(1).node_id(),
        addresses: vec!["/ip4/192.0.2.1/tcp/19999".to_owned()],
        relay: None,
        at: NOW,
        until: NOW.plus(Millis(3_600_000)),
    };
    let presence =
        Presence { network: "lab".to_owned(), node: key(2).node_id(), state: PresenceState::Left, at: NOW };
    let founding = Founding {
        network: "lab".to_owned(),
        coordinator: key(3).node_id(),
        owner: key(4).account_id(),
        charter: Charter::default(),
        founded_at: NOW,
    };
    let founding = Signed::seal(founding, &key(3));
    let directives = Directives {
        cell: cell_id(&founding),
        seq: 1,
        at: NOW,
        halt: Some(Halt { reason: "a worm was seen in the lab".to_owned(), at: NOW }),
        bans: vec![Ban { node: key(5).node_id(), reason: BanReason::ByzantineBehavior, at: NOW }],
    };
    let said = |signer: u8, directives: &Directives| {
        let directives = Signed::seal(directives.clone(), &key(signer));
        Gossip::Directives(Box::new(CellDirectives { founding: founding.clone(), directives }))
    };
    let messages = [
        (0, Gossip::Addresses(Box::new(Signed::seal(announcement, &key(1))))),
        (1, Gossip::Presence(Box::new(Signed::seal(presence.clone(), &key(2))))),
        (2, said(3, &directives)),
        (1, Gossip::Presence(Box::new(Signed::seal(presence, &key(6))))),
        (2, said(6, &directives)),
    ];
    messages.into_iter().map(|(choice, gossip)| [&[choice][..], &gossip.encode()].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_samples_are_believed_and_the_others_are_not() {
        let authors = [1, 2, 3, 2, 3].map(|number: u8| SigningKey::from_seed(&[number; 32]).node_id());
        let believed: Vec<bool> = seeds()
            .iter()
            .zip(authors)
            .map(|(seed, author)| {
                target(seed);
                hear(Topic::ALL[usize::from(seed[0])], author, &seed[1..], NOW) == Ok(true)
            })
            .collect();
        assert_eq!(believed, [true, true, true, false, false]);
    }
}

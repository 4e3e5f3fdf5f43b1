//! Which relays we hold reservations on: at least two, on different networks, replaced when one is lost (NET-16).
//!
//! Decides and does nothing: it is told what happened and says what to ask for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId};

use super::reservation::Reservation;
use crate::path::Prefix;

/// Reservations that are held at the same time: one relay may go down.
pub(crate) const WANTED: usize = 2;
/// First and longest rest of a relay that refused us or got lost. The longest first rest leaves room for two more tries
/// within the sixty seconds in which a lost reservation must be replaced, when there is no other relay.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Relays whose rest is remembered.
const RESTING_MAX: usize = 256;
/// Reservations that are over and still told in the status.
const PAST_MAX: usize = 8;

/// A relay that could be asked: one that we are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) relay: PeerId,
    /// An address of it, without its id.
    pub(crate) addr: Multiaddr,
    /// Life of a reservation on it, as far as it says so.
    pub(crate) life: Duration,
}

/// A reservation and what belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) addr: Multiaddr,
    pub(crate) state: Reservation,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) circuits: Vec<Multiaddr>,
    pub(crate) since: Instant,
    life: Duration,
}

/// One reservation that is over.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) relay: PeerId,
    pub(crate) addr: Multiaddr,
    pub(crate) state: Reservation,
    pub(crate) cause: String,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    next: Duration,
}

/// The reservations of this node.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    holds: BTreeMap<PeerId, Hold>,
    resting: HashMap<PeerId, Rest>,
    past: VecDeque<Past>,
}

impl Keeper {
    /// Lets time pass and returns the relays to ask now. Whoever asks them says so with `asked`.
    pub(crate) fn turn(&mut self, now: Instant, candidates: Vec<Candidate>) -> Vec<Candidate> {
        let over: Vec<PeerId> = self
            .holds
            .iter_mut()
            .filter_map(|(relay, hold)| {
                hold.state = hold.state.at(now);
                hold.state.is_over().then_some(*relay)
            })
            .collect();
        for relay in over {
            self.end(relay, now, "no answer in time");
        }
        let mut missing = self.missing();
        let mut prefixes: Vec<Option<Prefix>> =
            self.holds.values().map(|hold| Prefix::of(&hold.addr)).collect();
        let free: Vec<Candidate> =
            candidates.into_iter().filter(|candidate| self.may_ask(&candidate.relay, now)).collect();
        let mut chosen: Vec<Candidate> = Vec::new();
        // Relays of one network fail together: first those elsewhere, then whoever is left.
        for elsewhere in [true, false] {
            for candidate in &free {
                let prefix = Prefix::of(&candidate.addr);
                let taken = chosen.iter().any(|other| other.relay == candidate.relay);
                if missing == 0 || taken || (elsewhere && prefixes.contains(&prefix)) {
                    continue;
                }
                missing -= 1;
                prefixes.push(prefix);
                chosen.push(candidate.clone());
            }
        }
        chosen
    }

    /// Notes that a relay is being asked; `None` if that was not even possible.
    pub(crate) fn asked(&mut self, candidate: Candidate, listener: Option<ListenerId>, now: Instant) {
        let Candidate { relay, addr, life, .. } = candidate;
        let state = Reservation::request(now);
        self.holds.insert(relay, Hold { addr, state, listener, circuits: Vec::new(), since: now, life });
        if listener.is_none() {
            self.end(relay, now, "its address cannot be dialled");
        }
    }

    /// Notes that a relay has consented, for the first time or again. Returns whether it was new.
    pub(crate) fn accepted(&mut self, relay: &PeerId, now: Instant) -> bool {
        let Some(hold) = self.holds.get_mut(relay) else { return false };
        let held = hold.state.is_held();
        hold.state = hold.state.accepted(now, hold.life);
        if !held {
            hold.since = now;
        }
        self.resting.remove(relay);
        !held
    }

    /// Notes an address at which others reach us through a relay of ours.
    pub(crate) fn circuit(&mut self, listener: ListenerId, addr: Multiaddr) {
        let hold = self.holds.values_mut().find(|hold| hold.listener == Some(listener));
        if let Some(hold) = hold.filter(|hold| hold.circuits.len() < super::CIRCUITS_PER_RELAY_MAX)
            && !hold.circuits.contains(&addr)
        {
            hold.circuits.push(addr);
        }
    }

    /// Notes that a relay's listener is closed. Returns the relay, if the listener was one of ours.
    pub(crate) fn closed(&mut self, listener: ListenerId, now: Instant, cause: &str) -> Option<PeerId> {
        let (relay, hold) = self.holds.iter_mut().find(|(_, hold)| hold.listener == Some(listener))?;
        hold.state = hold.state.closed(now);
        let relay = *relay;
        self.end(relay, now, cause);
        Some(relay)
    }

    /// Forgets who refused and who was lost: that was on another network.
    pub(crate) fn forgive(&mut self) {
        self.resting.clear();
    }

    fn end(&mut self, relay: PeerId, now: Instant, cause: &str) {
        let Some(hold) = self.holds.remove(&relay) else { return };
        let past = Past { relay, addr: hold.addr, state: hold.state, cause: cause.to_owned() };
        self.past.push_front(past);
        self.past.truncate(PAST_MAX);
        if self.resting.len() >= RESTING_MAX {
            self.resting.retain(|_, rest| rest.until > now);
        }
        if self.resting.len() >= RESTING_MAX {
            return;
        }
        let rest = self.resting.get(&relay).map_or(REST.0, |rest| rest.next);
        self.resting.insert(relay, Rest { until: now + rest, next: (2 * rest).min(REST.1) });
    }

    /// Returns how many more relays would be asked if they were there.
    pub(crate) fn missing(&self) -> usize {
        let sure = self.holds.values().filter(|hold| !matches!(hold.state, Reservation::Renewing { .. }));
        WANTED.saturating_sub(sure.count())
    }

    /// Returns whether `relay` may be asked again.
    pub(crate) fn may_ask(&self, relay: &PeerId, now: Instant) -> bool {
        !self.holds.contains_key(relay) && self.resting.get(relay).is_none_or(|rest| rest.until <= now)
    }

    /// Returns when to take the next turn at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let states = self.holds.values().filter_map(|hold| hold.state.due());
        let missing = self.missing() > 0;
        states.chain(self.resting.values().filter(|_| missing).map(|rest| rest.until)).min()
    }

    /// Returns every reservation that is asked for or held.
    pub(crate) fn holds(&self) -> impl Iterator<Item = (&PeerId, &Hold)> {
        self.holds.iter()
    }

    /// Returns those that ended last.
    pub(crate) fn past(&self) -> impl Iterator<Item = &Past> {
        self.past.iter()
    }

    /// Returns the addresses at which others reach us through relays now.
    pub(crate) fn circuits(&self) -> Vec<Multiaddr> {
        let held = self.holds.values().filter(|hold| hold.state.is_held());
        held.flat_map(|hold| hold.circuits.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn candidate(relay: PeerId, ip: &str) -> Candidate {
        let addr = format!("/ip4/{ip}/tcp/19999").parse().unwrap();
        Candidate { relay, addr, life: LIFE }
    }

    fn ask(keeper: &mut Keeper, now: Instant, candidates: &[Candidate]) -> Vec<(PeerId, ListenerId)> {
        let chosen = keeper.turn(now, candidates.to_vec());
        let listeners =
            chosen.iter().map(|candidate| (candidate.relay, ListenerId::next())).collect::<Vec<_>>();
        for (candidate, (_, listener)) in chosen.into_iter().zip(&listeners) {
            keeper.asked(candidate, Some(*listener), now);
        }
        listeners
    }

    #[test]
    fn two_relays_of_different_networks_are_held() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let all = [candidate(a, "192.0.2.1"), candidate(b, "192.0.2.2"), candidate(c, "198.51.100.1")];
        let now = Instant::now();
        let mut keeper = Keeper::default();
        let asked: Vec<PeerId> = ask(&mut keeper, now, &all).into_iter().map(|(relay, _)| relay).collect();
        assert_eq!(asked, [a, c]);
        assert!(ask(&mut keeper, now, &all).is_empty(), "two are enough");
        assert!(keeper.circuits().is_empty());
    }

    #[test]
    fn relays_of_one_network_are_better_than_one_relay() {
        let all = [candidate(PeerId::random(), "192.0.2.1"), candidate(PeerId::random(), "192.0.2.2")];
        assert_eq!(ask(&mut Keeper::default(), Instant::now(), &all).len(), 2);
    }

    #[test]
    fn a_lost_relay_is_replaced_at_once_by_another_one() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let two = [candidate(a, "192.0.2.1"), candidate(b, "198.51.100.2")];
        let now = Instant::now();
        let mut keeper = Keeper::default();
        let asked = ask(&mut keeper, now, &two);
        for (relay, listener) in &asked {
            assert!(keeper.accepted(relay, now));
            keeper
                .circuit(*listener, format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap());
        }
        assert_eq!(keeper.circuits().len(), 2);
        assert_eq!(keeper.closed(asked[0].1, now, "connection lost"), Some(asked[0].0));
        assert_eq!(keeper.circuits().len(), 1);
        let three = [two[0].clone(), two[1].clone(), candidate(c, "203.0.113.3")];
        let again = ask(&mut keeper, now, &three);
        assert_eq!(again.iter().map(|(relay, _)| *relay).collect::<Vec<_>>(), [c]);
        assert!(keeper.past().any(|past| past.relay == asked[0].0 && past.state.name() == "lost"));
    }

    #[test]
    fn the_only_relay_there_is_is_asked_again_within_a_minute() {
        let only = [candidate(PeerId::random(), "192.0.2.1")];
        let start = Instant::now();
        let mut keeper = Keeper::default();
        let mut tries = 0;
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            for (_, listener) in ask(&mut keeper, now, &only) {
                tries += 1;
                keeper.closed(listener, now, "refused");
            }
        }
        assert_eq!(tries, 4, "after 0, 5, 15 and 35 s");
        assert!(keeper.due().is_some_and(|due| due > start));
    }

    #[test]
    fn a_late_renewal_makes_us_look_for_a_third_relay() {
        let all: Vec<_> = ["192.0.2.1", "198.51.100.1", "203.0.113.1"]
            .into_iter()
            .map(|ip| candidate(PeerId::random(), ip))
            .collect();
        let now = Instant::now();
        let mut keeper = Keeper::default();
        for (relay, _) in ask(&mut keeper, now, &all) {
            keeper.accepted(&relay, now);
        }
        assert!(ask(&mut keeper, now + LIFE - Duration::from_secs(31), &all).is_empty());
        assert_eq!(ask(&mut keeper, now + LIFE - Duration::from_secs(29), &all).len(), 1);
    }
}

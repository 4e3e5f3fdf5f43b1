//! Relays: nodes that others cannot dial are reached through nodes that everybody can dial.
//!
//! A relay serves under limits sized for jobs ([`RelayLimits`]); [`keeper`] holds reservations on relays of others.

pub(crate) mod keeper;
pub(crate) mod reservation;
pub(crate) mod shape;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, relay};
use wc_proto::peer::announce::RelayOffer;
use wc_types::Millis;

use crate::path::Prefix;

/// Circuit addresses that are believed of one relay: its TCP, QUIC and WebSocket addresses on IPv4 and IPv6.
pub(crate) const CIRCUITS_PER_RELAY_MAX: usize = 6;
/// Life of a reservation on a relay that does not say.
pub(crate) const RESERVATION_DEFAULT: Duration = Duration::from_secs(3600);
/// Prefixes and peers whose rates a relay remembers, each.
const RATES_MAX: usize = 4096;

/// What a relay gives away (E-29: the library's limits of 128 KiB and two minutes cannot carry a job).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLimits {
    /// Nodes that may hold a reservation. One costs a connection, about 100 KiB.
    pub reservations_max: u32,
    /// Reservations of one node: one for each of its connections, of which a changed address leaves an old one behind.
    pub reservations_per_peer_max: u32,
    /// Life of a reservation. Renewed after three quarters; long enough that ten thousand nodes renew four times a second.
    pub reservation: Duration,
    /// Circuits at the same time.
    pub circuits_max: u32,
    /// Circuits that one node may have opened at the same time. A coordinator behind a NAT opens none: its donors do.
    pub circuits_per_peer_max: u32,
    /// Life of a circuit. A donor's session lasts for days; twelve hours keep it from breaking within a night's work, and
    /// a session that is cut goes on over the next circuit.
    pub circuit: Duration,
    /// Bytes through one circuit, both directions together; 0 for no limit. A job's inputs are GiB, not TiB.
    pub circuit_bytes_max: u64,
    /// Bytes per second that one peer may send through us, over all its circuits; 0 for no limit.
    pub peer_bytes_per_second: u64,
    /// Bytes per second that all peers together may send through us; 0 for no limit.
    pub total_bytes_per_second: u64,
    /// New reservations, and new circuits, that one address prefix (/24, or /48 of IPv6) may ask for at once. A campus
    /// sits behind one address, and all of it comes back at the same time after a power cut.
    pub prefix_burst: u32,
    /// New reservations, and new circuits, of one prefix per minute after that.
    pub prefix_per_minute: u32,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            reservations_max: 1024,
            reservations_per_peer_max: 4,
            reservation: RESERVATION_DEFAULT,
            circuits_max: 1024,
            circuits_per_peer_max: 32,
            circuit: Duration::from_secs(12 * 3600),
            circuit_bytes_max: 64 << 30,
            peer_bytes_per_second: 32 << 20,
            total_bytes_per_second: 128 << 20,
            prefix_burst: 256,
            prefix_per_minute: 120,
        }
    }
}

impl RelayLimits {
    /// Returns what a relay says of itself.
    pub(crate) fn offer(&self) -> RelayOffer {
        let millis = |duration: Duration| Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        RelayOffer {
            reservations_max: self.reservations_max,
            reservation: millis(self.reservation),
            circuit_bytes_max: self.circuit_bytes_max,
            circuit: millis(self.circuit),
            peer_bytes_per_second: self.peer_bytes_per_second,
        }
    }

    /// Returns the same limits in the library's words.
    pub(crate) fn to_config(&self) -> relay::Config {
        let rate = |limits: &Self| {
            let mut rates = Rates::new(limits.prefix_burst, limits.prefix_per_minute);
            Box::new(move |_: PeerId, addr: &Multiaddr, now: Instant| {
                Prefix::of(addr).is_none_or(|prefix| rates.spend(prefix, now))
            })
        };
        relay::Config {
            max_reservations: self.reservations_max as usize,
            max_reservations_per_peer: self.reservations_per_peer_max as usize,
            reservation_duration: self.reservation,
            reservation_rate_limiters: vec![rate(self)],
            max_circuits: self.circuits_max as usize,
            max_circuits_per_peer: self.circuits_per_peer_max as usize,
            // The library stores the seconds in 32 bits and panics beyond.
            max_circuit_duration: self.circuit.min(Duration::from_secs(u64::from(u32::MAX))),
            max_circuit_bytes: self.circuit_bytes_max,
            circuit_src_rate_limiters: vec![rate(self)],
        }
    }
}

/// How often each prefix, or whatever else it is counted by, may do something.
#[derive(Debug)]
pub(crate) struct Rates<K = Prefix> {
    burst: f64,
    per_second: f64,
    buckets: HashMap<K, (f64, Instant)>,
}

impl<K: Copy + Eq + Hash> Rates<K> {
    pub(crate) fn new(burst: u32, per_minute: u32) -> Self {
        Self { burst: f64::from(burst), per_second: f64::from(per_minute) / 60.0, buckets: HashMap::new() }
    }

    fn filled(&self, tokens: f64, at: Instant, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        (tokens + gained).min(self.burst)
    }

    /// Returns whether `who` may do it now, and counts that it does.
    pub(crate) fn spend(&mut self, who: K, now: Instant) -> bool {
        if self.buckets.len() >= RATES_MAX && !self.buckets.contains_key(&who) {
            let full = |(tokens, at): (f64, Instant)| self.filled(tokens, at, now) >= self.burst;
            let over: Vec<K> =
                self.buckets.iter().filter(|(_, bucket)| full(**bucket)).map(|(who, _)| *who).collect();
            for who in over {
                self.buckets.remove(&who);
            }
            if self.buckets.len() >= RATES_MAX {
                // So many networks at once are a flood, whoever they are.
                return false;
            }
        }
        let (tokens, at) = self.buckets.get(&who).copied().unwrap_or((self.burst, now));
        let tokens = self.filled(tokens, at, now);
        let may = tokens >= 1.0;
        self.buckets.insert(who, (if may { tokens - 1.0 } else { tokens }, now));
        may
    }
}

/// The places that a relay has granted, by who holds them. The library says that a reservation timed out without saying on
/// which of the peer's connections, so what counts is how old the newest one is.
#[derive(Debug, Default)]
pub(crate) struct Granted(HashMap<PeerId, Instant>);

impl Granted {
    /// Notes that `peer` got a place, or has renewed its own.
    pub(crate) fn grant(&mut self, peer: PeerId, now: Instant) {
        self.0.insert(peer, now);
    }

    /// Notes that `peer` is gone.
    pub(crate) fn leave(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Notes that a reservation of `peer` timed out, where one lasts for `life`.
    pub(crate) fn time_out(&mut self, peer: &PeerId, now: Instant, life: Duration) {
        // The library counts whole seconds.
        let over =
            |granted: &Instant| now.saturating_duration_since(*granted) + Duration::from_secs(1) >= life;
        if self.0.get(peer).is_some_and(over) {
            self.0.remove(peer);
        }
    }

    /// Returns whether `peer` has a place.
    pub(crate) fn has(&self, peer: &PeerId) -> bool {
        self.0.contains_key(peer)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// What a relay has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounters {
    /// Nodes that hold a reservation now.
    pub reservations: u64,
    /// Reservations that were made, renewals not counted.
    pub reservations_accepted: u64,
    /// Reservations that were refused.
    pub reservations_denied: u64,
    /// Circuits that are open now.
    pub circuits: u64,
    /// Circuits that were opened.
    pub circuits_accepted: u64,
    /// Circuits that were refused.
    pub circuits_denied: u64,
    /// Bytes read from peers.
    pub carried_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_burst_and_then_its_rate() {
        let mut rates = Rates::new(3, 60);
        let [crowd, other] = ["/ip4/192.0.2.1/tcp/1", "/ip4/198.51.100.1/tcp/1"]
            .map(|text| Prefix::of(&text.parse().unwrap()).unwrap());
        let now = Instant::now();
        assert_eq!((0..10).filter(|_| rates.spend(crowd, now)).count(), 3);
        assert!(rates.spend(other, now));
        assert!(rates.spend(crowd, now + Duration::from_secs(1)));
        assert!(!rates.spend(crowd, now + Duration::from_secs(1)));
    }

    #[test]
    fn a_flood_of_prefixes_does_not_grow_the_table() {
        let mut rates = Rates::new(2, 60);
        let now = Instant::now();
        let addr = |n: u32| format!("/ip4/{}.{}.{}.1/tcp/1", 20 + (n >> 16), (n >> 8) & 255, n & 255);
        for n in 0..2 * RATES_MAX as u32 {
            rates.spend(Prefix::of(&addr(n).parse().unwrap()).unwrap(), now);
        }
        assert_eq!(rates.buckets.len(), RATES_MAX);
        let later = now + Duration::from_secs(5);
        assert!(rates.spend(Prefix::of(&addr(99_999).parse().unwrap()).unwrap(), later));
        assert_eq!(rates.buckets.len(), 1, "what is full again is forgotten");
    }

    #[test]
    fn a_place_that_timed_out_is_counted_no_longer_unless_it_was_taken_anew() {
        let life = Duration::from_secs(60);
        let start = Instant::now();
        let [gone, moved] = [PeerId::random(), PeerId::random()];
        let mut granted = Granted::default();
        granted.grant(gone, start);
        granted.grant(moved, start);
        // On another connection, while the old one is still there.
        granted.grant(moved, start + life / 2);
        granted.time_out(&gone, start + life, life);
        granted.time_out(&moved, start + life, life);
        assert_eq!(granted.count(), 1);
        granted.leave(&moved);
        assert_eq!(granted.count(), 0);
    }

    #[test]
    fn the_limits_carry_a_job() {
        let config = RelayLimits::default().to_config();
        assert!(
            config.max_circuit_bytes >= 1 << 30 && config.max_circuit_duration >= Duration::from_secs(3600)
        );
    }
}

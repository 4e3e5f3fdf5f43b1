//! A wire that is slow, narrow, lossy or disorderly: what `netem` does elsewhere, for kernels without it.
//!
//! Two TUN devices and a process between them. What happens to each packet is decided by [`Pipe`], a function of time,
//! length and a seed; [`run`] reads packets, asks it, and writes them at the right moment.

use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Most packets on their way in one direction, whatever the profile says.
const PACKETS_MAX: usize = 65_536;
/// Longest packet of a device with the usual MTU.
const PACKET_BYTES_MAX: usize = 2048;

/// One direction of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Time from one end to the other, in microseconds.
    pub delay_us: u64,
    /// Most time on top of it, evenly spread, in microseconds. Packets stay in order.
    pub jitter_us: u64,
    /// Packets lost of a million.
    pub loss_ppm: u32,
    /// Packets of a million that take only a quarter of the delay, so that they overtake others.
    pub reorder_ppm: u32,
    /// Bits a second; 0 is without limit.
    pub rate_bps: u64,
    /// Bytes that wait for their turn before the next packet is dropped; means nothing without a rate.
    pub queue_bytes: u64,
}

impl Profile {
    /// Returns a wire of which only the delay shows.
    pub fn delay(one_way: Duration) -> Self {
        Self {
            delay_us: u64::try_from(one_way.as_micros()).unwrap_or(u64::MAX),
            jitter_us: 0,
            loss_ppm: 0,
            reorder_ppm: 0,
            rate_bps: 0,
            queue_bytes: 0,
        }
    }

    /// Returns the same with so many lost of a hundred.
    pub fn lossy(self, percent: u32) -> Self {
        Self { loss_ppm: percent * 10_000, ..self }
    }

    /// Returns the same with so many bits a second, and a queue of 200 ms, but at least ten packets.
    pub fn rate(self, rate_bps: u64) -> Self {
        Self { rate_bps, queue_bytes: (rate_bps / 8 / 5).max(15_000), ..self }
    }
}

/// A wire: what goes from the first end to the second, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From the machine to the network.
    pub up: Profile,
    /// From the network to the machine.
    pub down: Profile,
}

impl Link {
    /// Returns a wire that does the same both ways.
    pub fn both(profile: Profile) -> Self {
        Self { up: profile, down: profile }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this moment, in microseconds.
    Arrives(u64),
    /// It is lost on the way.
    Lost,
    /// It finds the queue full.
    Dropped,
}

/// One direction at work.
#[derive(Debug)]
pub struct Pipe {
    profile: Profile,
    random: u64,
    /// When the last byte that was accepted has left the queue.
    busy_until_us: u64,
    /// When the last packet that kept its place arrives.
    last_us: u64,
}

impl Pipe {
    /// Returns an empty pipe.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self { profile, random: seed, busy_until_us: 0, last_us: 0 }
    }

    /// Decides about a packet that comes now. Moments must not go back.
    pub fn admit(&mut self, now_us: u64, bytes: usize) -> Fate {
        let Profile { delay_us, jitter_us, loss_ppm, reorder_ppm, rate_bps, queue_bytes } = self.profile;
        let bytes = bytes as u64;
        let start = self.busy_until_us.max(now_us);
        let left = if rate_bps == 0 {
            now_us
        } else {
            let waiting = (start - now_us).saturating_mul(rate_bps) / 8_000_000;
            if waiting + bytes > queue_bytes {
                return Fate::Dropped;
            }
            self.busy_until_us = start + bytes * 8_000_000 / rate_bps;
            self.busy_until_us
        };
        // The sender has paid for the wire when the packet is lost on it.
        if self.of_a_million() < u64::from(loss_ppm) {
            return Fate::Lost;
        }
        if self.of_a_million() < u64::from(reorder_ppm) {
            return Fate::Arrives(left + delay_us / 4);
        }
        let extra = if jitter_us == 0 { 0 } else { self.next() % (jitter_us + 1) };
        self.last_us = self.last_us.max(left + delay_us + extra);
        Fate::Arrives(self.last_us)
    }

    fn of_a_million(&mut self) -> u64 {
        self.next() % 1_000_000
    }

    /// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A packet on its way; the one that arrives first is the greatest.
#[derive(Debug, PartialEq, Eq)]
struct Flying {
    at_us: u64,
    number: u64,
    packet: Vec<u8>,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at_us, other.number).cmp(&(self.at_us, self.number))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Packets on their way in one direction.
#[derive(Default)]
struct Air {
    flying: Mutex<BinaryHeap<Flying>>,
    changed: Condvar,
}

/// Makes two devices of these names in the namespace of this process and carries packets between them until the process
/// ends. They may be moved to other namespaces and renamed meanwhile.
///
/// # Errors
/// When the devices cannot be made.
pub fn run(near: &str, far: &str, link: Link, seed: u64) -> io::Result<()> {
    let make = |name: &str| -> io::Result<Arc<SyncDevice>> {
        Ok(Arc::new(DeviceBuilder::new().name(name).mtu(1500).inherit_enable_state().build_sync()?))
    };
    let (near, far) = (make(near)?, make(far)?);
    let begun = Instant::now();
    for (from, to, profile, seed) in
        [(near.clone(), far.clone(), link.up, seed), (far, near, link.down, seed.wrapping_add(1))]
    {
        let air = Arc::new(Air::default());
        let landing = air.clone();
        std::thread::spawn(move || take_off(&from, &air, Pipe::new(profile, seed), begun));
        std::thread::spawn(move || land(&to, &landing, begun));
    }
    Ok(())
}

fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn take_off(from: &SyncDevice, air: &Air, mut pipe: Pipe, begun: Instant) {
    let mut packet = [0; PACKET_BYTES_MAX];
    let mut number = 0;
    loop {
        // Reading fails while the device is down, as it is at first and while it moves.
        let Ok(length) = from.recv(&mut packet) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Fate::Arrives(at_us) = pipe.admit(micros_since(begun), length) else { continue };
        let mut flying = air.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if flying.len() < PACKETS_MAX {
            number += 1;
            flying.push(Flying { at_us, number, packet: packet[..length].to_vec() });
            air.changed.notify_one();
        }
    }
}

fn land(to: &SyncDevice, air: &Air, begun: Instant) {
    let mut flying = air.flying.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let now_us = micros_since(begun);
        match flying.peek().map(|first| first.at_us) {
            None => flying = air.changed.wait(flying).unwrap_or_else(PoisonError::into_inner),
            Some(at_us) if at_us > now_us => {
                let wait = Duration::from_micros(at_us - now_us);
                let (guard, _) =
                    air.changed.wait_timeout(flying, wait).unwrap_or_else(PoisonError::into_inner);
                flying = guard;
            }
            Some(_) => {
                let first = flying.pop().expect("just seen");
                drop(flying);
                // A device that is down loses packets, as a wire that is cut does.
                let _ = to.send(&first.packet);
                flying = air.flying.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Profile =
        Profile { delay_us: 50_000, jitter_us: 0, loss_ppm: 0, reorder_ppm: 0, rate_bps: 0, queue_bytes: 0 };

    fn arrivals(profile: Profile, packets: u64, every_us: u64) -> Vec<Fate> {
        let mut pipe = Pipe::new(profile, 7);
        (0..packets).map(|number| pipe.admit(number * every_us, 1500)).collect()
    }

    #[test]
    fn a_packet_takes_the_delay_and_no_more() {
        assert_eq!(arrivals(QUIET, 2, 10), [Fate::Arrives(50_000), Fate::Arrives(50_010)]);
    }

    #[test]
    fn one_in_twenty_is_lost() {
        let fates = arrivals(QUIET.lossy(5), 100_000, 1);
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((4_800..5_200).contains(&lost), "{lost}");
    }

    #[test]
    fn jitter_spreads_arrivals_and_keeps_their_order() {
        let fates = arrivals(Profile { jitter_us: 10_000, ..QUIET }, 1000, 100_000);
        let extra: Vec<u64> = (0u64..)
            .zip(&fates)
            .map(|(number, fate)| match fate {
                Fate::Arrives(at) => at - number * 100_000 - 50_000,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(extra.iter().all(|extra| *extra <= 10_000));
        assert!(extra.iter().any(|extra| *extra > 9_000) && extra.iter().any(|extra| *extra < 1_000));
        let close = arrivals(Profile { jitter_us: 10_000, ..QUIET }, 1000, 10);
        assert!(close.windows(2).all(|pair| matches!(pair, [Fate::Arrives(a), Fate::Arrives(b)] if a <= b)));
    }

    #[test]
    fn some_packets_overtake_others() {
        let fates = arrivals(Profile { reorder_ppm: 100_000, ..QUIET }, 10_000, 100);
        let overtakers =
            fates.windows(2).filter(|pair| matches!(pair, [Fate::Arrives(a), Fate::Arrives(b)] if a > b));
        let count = overtakers.count();
        assert!((700..1100).contains(&count), "{count}");
    }

    #[test]
    fn a_megabit_takes_its_time_and_its_queue_is_bounded() {
        let narrow = QUIET.rate(1_000_000);
        assert_eq!(narrow.queue_bytes, 25_000);
        // 1500 bytes are 12 ms of wire. All at once: sixteen fit, the others find the queue full.
        let fates = arrivals(narrow, 20, 0);
        let there: Vec<u64> = fates
            .iter()
            .filter_map(|fate| if let Fate::Arrives(at) = fate { Some(*at) } else { None })
            .collect();
        assert_eq!(there.len(), 16);
        assert_eq!(there[0], 62_000);
        assert_eq!(there[15], 50_000 + 16 * 12_000);
        assert_eq!(fates[19], Fate::Dropped);
    }

    #[test]
    fn the_same_seed_gives_the_same_wire() {
        let rough = Profile { jitter_us: 900, reorder_ppm: 9_000, ..QUIET.lossy(1) };
        assert_eq!(arrivals(rough, 500, 50), arrivals(rough, 500, 50));
    }
}

//! Congestion control for paths that lose packets without being full: Cubic, and a judgement of each loss before it.
//!
//! Cubic takes every loss for a queue that has run over, and slows down: where radio or a far link loses 1 % at 100 ms,
//! nothing is carried faster than 0.2 MB/s. A queue that runs over has shown before in the round trip. So a loss while
//! the round trip is hardly longer than the shortest one is not held against the path, as long as few bytes are lost:
//! where the queue is too short to be seen, the share that is lost tells that the path is full.
//!
//! The idea is that of TCP Veno (Fu and Liew, "TCP Veno: TCP Enhancement for Transmission Over Wireless Access Networks",
//! 2003), which tells the two kinds of loss apart by the packets that wait in the queue.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// A round trip that is longer than the shortest by more than one part in so many has met a queue.
const QUEUE_PARTS: u32 = 8;
/// And one that is longer by more than this, however far the other end: there are queues that hold no more.
const QUEUE_MAX: Duration = Duration::from_millis(15);
/// More than one byte lost of so many says that the path is full, queue or not.
const LOST_PARTS: u64 = 12;
/// Packets that may be lost beside that share: of a few packets no share can be told.
const LOST_PACKETS_FREE: u64 = 3;
/// Round trips after which half of what was seen is forgotten.
const MEMORY_ROUND_TRIPS: u32 = 8;

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(super) struct PatientConfig;

impl ControllerFactory for PatientConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::new(CubicConfig::default()).build(now, current_mtu);
        Box::new(Patient { cubic, judge: Judge::new(now, current_mtu) })
    }
}

struct Patient {
    cubic: Box<dyn Controller>,
    judge: Judge,
}

impl Controller for Patient {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.judge.delivered(now, bytes, rtt.get(), rtt.min());
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        // Nothing lost: a router has marked a packet (ECN), which is no accident.
        let by_accident = lost_bytes > 0 && !is_persistent && self.judge.is_accident(now, lost_bytes);
        if !by_accident {
            self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.judge.packet_bytes = u64::from(new_mtu);
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), judge: self.judge.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Tells losses by accident from those of a full path.
#[derive(Debug, Clone)]
struct Judge {
    round_trip: Duration,
    shortest: Duration,
    delivered_bytes: u64,
    lost_bytes: u64,
    packet_bytes: u64,
    halved_at: Instant,
}

impl Judge {
    fn new(now: Instant, packet_bytes: u16) -> Self {
        Self {
            round_trip: Duration::ZERO,
            shortest: Duration::ZERO,
            delivered_bytes: 0,
            lost_bytes: 0,
            packet_bytes: u64::from(packet_bytes),
            halved_at: now,
        }
    }

    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.halved_at) > MEMORY_ROUND_TRIPS * self.shortest {
            self.delivered_bytes /= 2;
            self.lost_bytes /= 2;
            self.halved_at = now;
        }
    }

    fn delivered(&mut self, now: Instant, bytes: u64, round_trip: Duration, shortest: Duration) {
        self.round_trip = round_trip;
        self.shortest = shortest;
        self.forget(now);
        self.delivered_bytes = self.delivered_bytes.saturating_add(bytes);
    }

    /// Takes in a loss; returns whether it says nothing of how full the path is.
    fn is_accident(&mut self, now: Instant, lost_bytes: u64) -> bool {
        self.forget(now);
        self.lost_bytes = self.lost_bytes.saturating_add(lost_bytes);
        let sent = self.delivered_bytes.saturating_add(self.lost_bytes);
        let few = self.lost_bytes <= sent / LOST_PARTS + LOST_PACKETS_FREE * self.packet_bytes;
        let queue = self.round_trip.saturating_sub(self.shortest);
        few && queue <= (self.shortest / QUEUE_PARTS).min(QUEUE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u16 = 1_200;
    const SHORTEST: Duration = Duration::from_millis(100);

    /// Returns how many of `losses` single packets count as accidents, each after `between` that were delivered.
    fn accidents(losses: u32, between: u32, round_trip: Duration) -> u32 {
        let begun = Instant::now();
        let mut judge = Judge::new(begun, PACKET);
        let mut counted = 0;
        for loss in 0..losses {
            let now = begun + loss * Duration::from_millis(10);
            judge.delivered(now, u64::from(between) * u64::from(PACKET), round_trip, SHORTEST);
            counted += u32::from(judge.is_accident(now, u64::from(PACKET)));
        }
        counted
    }

    #[test]
    fn losses_without_a_queue_are_accidents_while_they_are_few() {
        assert_eq!(accidents(1_000, 99, SHORTEST), 1_000, "1 %");
        assert_eq!(accidents(1_000, 19, SHORTEST), 1_000, "5 %");
        assert!(accidents(1_000, 4, SHORTEST) < 10, "20 %");
    }

    #[test]
    fn losses_in_a_queue_are_congestion() {
        assert_eq!(accidents(1_000, 99, Duration::from_millis(113)), 0);
        assert_eq!(accidents(1_000, 99, Duration::from_millis(112)), 1_000);
    }

    #[test]
    fn the_first_losses_of_a_path_are_not_a_share_of_it() {
        let now = Instant::now();
        let mut judge = Judge::new(now, PACKET);
        let packet = u64::from(PACKET);
        judge.delivered(now, 10 * packet, SHORTEST, SHORTEST);
        assert!((0..3).all(|_| judge.is_accident(now, packet)));
        assert!(!judge.is_accident(now, 2 * packet), "five of fifteen");
    }

    #[test]
    fn what_a_router_marks_and_what_is_lost_for_long_is_congestion() {
        let now = Instant::now();
        let mut controller = Arc::new(PatientConfig).build(now, PACKET);
        let initial = controller.window();
        controller.on_congestion_event(now, now, false, 0);
        let marked = controller.window();
        assert!(marked < initial);
        let later = now + Duration::from_secs(1);
        controller.on_congestion_event(later, later, true, u64::from(PACKET));
        assert!(controller.window() < marked);
    }
}

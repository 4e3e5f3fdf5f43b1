//! How the signers do: what came of asking each of them, whom to ask last, and what people are told of it.
//!
//! ```text
//! signed · ready · slow          can sign
//! absent                         cannot be reached, or does not answer
//! refuses                        says no, with its reason; an alarm if it has signed another history
//! wrong                          sent what an honest signer does not send
//! ```
//!
//! Whoever was slow, wrong or unwilling is asked last for a while, and for longer each time: a signature does not wait
//! for it as long as there are enough others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wc_types::{NodeId, Refusal};

/// First and longest time for which a signer is asked last.
const LAST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Refusals that say: the log that I signed before is not the beginning of this one, or not under these signers. A
/// coordinator that was restored from an old copy causes them, and so does a forger.
const ALARMS: [&str; 3] = ["WC-LEDGER-149", "WC-LEDGER-150", "WC-NODE-061"];

/// Why a signer is left out of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// It cannot be reached, or does not answer.
    Absent(String),
    /// It says no.
    Refuses {
        /// Why, in its words.
        reason: String,
        /// Whether because of what it has signed before.
        alarm: bool,
    },
    /// It sent what an honest signer does not send.
    Wrong(String),
}

impl Failing {
    /// A signer's own refusal.
    pub fn refused(refusal: &Refusal, culprits: &[NodeId]) -> Self {
        let mut reason = refusal.to_string();
        if !culprits.is_empty() {
            let names: Vec<String> = culprits.iter().map(NodeId::to_string).collect();
            reason.push_str(&format!(" (it blames {})", names.join(", ")));
        }
        Self::Refuses { reason, alarm: ALARMS.contains(&refusal.code.as_str()) }
    }

    /// Returns whether somebody shows, or has shown, two histories.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::Refuses { alarm: true, .. })
    }

    /// Returns the word for it.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Absent(_) => "unreachable",
            Self::Refuses { .. } => "refuses",
            Self::Wrong(_) => "wrong",
        }
    }

    /// Returns why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Absent(reason) | Self::Refuses { reason, .. } | Self::Wrong(reason) => reason,
        }
    }
}

/// How a signer did when it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Conduct {
    Signed,
    Ready,
    Failing(Failing),
}

#[derive(Clone, Debug)]
struct Record {
    conduct: Conduct,
    /// Until when it is asked last, and for how long it was that time.
    last: Option<(Instant, Duration)>,
    slow: bool,
}

/// How the signers of a set did.
#[derive(Debug, Default)]
pub(crate) struct Conducts(BTreeMap<NodeId, Record>);

impl Conducts {
    fn record(&mut self, node: NodeId) -> &mut Record {
        self.0.entry(node).or_insert(Record { conduct: Conduct::Ready, last: None, slow: false })
    }

    /// Returns whether the others are to be preferred.
    pub fn is_last(&self, node: &NodeId, now: Instant) -> bool {
        let until = self.0.get(node).and_then(|record| record.last);
        until.is_some_and(|(until, _)| now < until)
    }

    /// Takes note of a signer that did not do its part.
    pub fn failed(&mut self, node: NodeId, failing: Failing, now: Instant) {
        let record = self.record(node);
        // Whoever was wrong, or raised an alarm, and is now away is still that.
        let grave = matches!(
            record.conduct,
            Conduct::Failing(Failing::Wrong(_) | Failing::Refuses { alarm: true, .. })
        );
        if matches!(failing, Failing::Absent(_)) {
            if !grave {
                record.conduct = Conduct::Failing(failing);
            }
            return;
        }
        record.conduct = Conduct::Failing(failing);
        record.postpone(now);
    }

    /// Takes note of a signer that is not connected: it is asked at once when it is back.
    pub fn away(&mut self, node: &NodeId) {
        if let Some(record) = self.0.get_mut(node)
            && !matches!(record.conduct, Conduct::Failing(Failing::Wrong(_)))
        {
            (record.last, record.slow) = (None, false);
        }
    }

    /// Takes note of a signer that did not sign as fast as the others could have.
    pub fn late(&mut self, node: NodeId, now: Instant) {
        let record = self.record(node);
        record.slow = true;
        record.postpone(now);
    }

    /// Takes note of a signer that signed.
    pub fn signed(&mut self, node: NodeId, prompt: bool) {
        let record = self.record(node);
        record.conduct = Conduct::Signed;
        if prompt {
            (record.last, record.slow) = (None, false);
        }
    }

    /// Takes note of a signer that would sign and was not needed. Once wrong, it has to sign rightly first.
    pub fn ready(&mut self, node: NodeId) {
        let record = self.record(node);
        if !matches!(record.conduct, Conduct::Failing(Failing::Wrong(_))) {
            record.conduct = Conduct::Ready;
        }
    }

    /// Forgets all but these.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| is_member(node));
    }

    /// Returns the state of a signer and its reason.
    pub fn tell(&self, node: &NodeId, connected: bool) -> (&'static str, Option<String>) {
        let record = self.0.get(node);
        let failing = record.and_then(|record| match &record.conduct {
            Conduct::Failing(failing) => Some(failing),
            Conduct::Signed | Conduct::Ready => None,
        });
        match (failing, connected) {
            (Some(failing @ (Failing::Wrong(_) | Failing::Refuses { alarm: true, .. })), _) => {
                (failing.state(), Some(failing.reason().to_owned()))
            }
            (_, false) => ("unreachable", Some("not connected".to_owned())),
            (Some(failing), true) => (failing.state(), Some(failing.reason().to_owned())),
            (None, true) => match record {
                Some(Record { slow: true, .. }) => {
                    ("slow", Some("it takes long to sign, so it is asked last".to_owned()))
                }
                Some(Record { conduct: Conduct::Signed, .. }) => ("signing", None),
                _ => ("connected", None),
            },
        }
    }

    /// Returns who was wrong, a sentence each.
    pub fn alarms(&self) -> Vec<String> {
        let alarm = |(node, record): (&NodeId, &Record)| match &record.conduct {
            Conduct::Failing(Failing::Wrong(reason)) => Some(format!("SIGNER IS WRONG: {node}: {reason}")),
            _ => None,
        };
        self.0.iter().filter_map(alarm).collect()
    }
}

impl Record {
    fn postpone(&mut self, now: Instant) {
        let wait = match self.last {
            // Twice within one signature is once.
            Some((until, _)) if now < until => return,
            Some((_, wait)) => (wait * 2).min(LAST.1),
            None => LAST.0,
        };
        self.last = Some((now + wait, wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_types::{Class, Code};

    const NODE: NodeId = NodeId([7; 32]);

    fn refusal(code: &'static str) -> Failing {
        Failing::refused(&Refusal::new(Code::new(code, Class::Peer), "no"), &[])
    }

    #[test]
    fn a_signer_that_saw_another_history_is_an_alarm_and_never_merely_unreachable() {
        let (mut conducts, now) = (Conducts::default(), Instant::now());
        conducts.failed(NODE, refusal("WC-LEDGER-150"), now);
        assert_eq!(conducts.tell(&NODE, true).0, "refuses");
        // Not even when it is away afterwards.
        conducts.failed(NODE, Failing::Absent("gone".to_owned()), now);
        assert_eq!(conducts.tell(&NODE, false).0, "refuses");
        conducts.ready(NODE);
        assert_eq!(conducts.tell(&NODE, true).0, "connected");
        // One that was never asked to sign for others refuses, too, and that is no alarm.
        conducts.failed(NODE, refusal("WC-NODE-060"), now);
        assert!(!refusal("WC-NODE-060").is_alarm());
        assert_eq!(conducts.tell(&NODE, true).0, "refuses");
    }

    #[test]
    fn a_slow_signer_is_asked_last_for_longer_each_time_until_it_is_prompt() {
        let (mut conducts, mut now) = (Conducts::default(), Instant::now());
        for seconds in [30, 60, 120, 240, 480, 600, 600] {
            conducts.late(NODE, now);
            conducts.late(NODE, now);
            assert!(conducts.is_last(&NODE, now + Duration::from_secs(seconds - 1)), "{seconds}");
            now += Duration::from_secs(seconds);
            assert!(!conducts.is_last(&NODE, now), "{seconds}");
        }
        conducts.signed(NODE, false);
        assert_eq!(conducts.tell(&NODE, true).0, "slow");
        conducts.signed(NODE, true);
        assert_eq!(conducts.tell(&NODE, true).0, "signing");
    }

    #[test]
    fn a_wrong_signer_stays_wrong_until_it_signs_rightly() {
        let (mut conducts, now) = (Conducts::default(), Instant::now());
        conducts.failed(NODE, Failing::Wrong("a bad part".to_owned()), now);
        conducts.ready(NODE);
        assert_eq!(conducts.tell(&NODE, true).0, "wrong");
        assert!(conducts.is_last(&NODE, now));
        conducts.signed(NODE, true);
        assert_eq!(conducts.tell(&NODE, true).0, "signing");
    }
}

//! Settings of how others reach a node: its addresses, relays, and what it gives away as one.

use std::collections::BTreeMap;
use std::time::Duration;

use wc_types::{Bytes, Millis, Refusal};

use super::{ENVIRONMENT, flag, list};
use crate::amount;
use crate::cli::{ReachArgs, RelayLimitArgs};
use crate::exit::Usage;
use crate::fields::{Faults, Fields};
use crate::node::{ReachSettings, RelayLimits, Reservations};

const RESERVATIONS: [(&str, Reservations); 3] = [
    ("auto", Reservations::WhenUnreachable),
    ("always", Reservations::Always),
    ("never", Reservations::Never),
];
/// Most reservations, and most circuits, of one relay.
const RELAY_MAX: u32 = 100_000;
/// Shortest and longest life of a circuit.
const CIRCUIT: (Millis, Millis) = (Millis(60_000), Millis(7 * 24 * 3_600_000));

/// What one source of settings says about how others reach this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReachLayer {
    external_addresses: Option<Vec<String>>,
    reservations: Option<Reservations>,
    port_mapping: Option<bool>,
    lan: Option<bool>,
    relay: Option<bool>,
    relay_reservations: Option<u32>,
    relay_circuits: Option<u32>,
    relay_circuit_time: Option<Millis>,
    relay_circuit_size: Option<Bytes>,
    relay_rate: Option<Bytes>,
    relay_peer_rate: Option<Bytes>,
}

impl ReachLayer {
    /// Returns what `self` says, and what `below` says where it says nothing.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            external_addresses: self.external_addresses.or(below.external_addresses),
            reservations: self.reservations.or(below.reservations),
            port_mapping: self.port_mapping.or(below.port_mapping),
            lan: self.lan.or(below.lan),
            relay: self.relay.or(below.relay),
            relay_reservations: self.relay_reservations.or(below.relay_reservations),
            relay_circuits: self.relay_circuits.or(below.relay_circuits),
            relay_circuit_time: self.relay_circuit_time.or(below.relay_circuit_time),
            relay_circuit_size: self.relay_circuit_size.or(below.relay_circuit_size),
            relay_rate: self.relay_rate.or(below.relay_rate),
            relay_peer_rate: self.relay_peer_rate.or(below.relay_peer_rate),
        }
    }

    /// Returns the settings, with the mesh's own limits where nobody said anything.
    pub(super) fn settings(&self) -> ReachSettings {
        let mut limits = RelayLimits::default();
        limits.reservations_max = self.relay_reservations.unwrap_or(limits.reservations_max);
        limits.circuits_max = self.relay_circuits.unwrap_or(limits.circuits_max);
        limits.circuit = self.relay_circuit_time.map_or(limits.circuit, |time| Duration::from_millis(time.0));
        limits.circuit_bytes_max = self.relay_circuit_size.map_or(limits.circuit_bytes_max, |size| size.0);
        limits.total_bytes_per_second = self.relay_rate.map_or(limits.total_bytes_per_second, |rate| rate.0);
        limits.peer_bytes_per_second =
            self.relay_peer_rate.map_or(limits.peer_bytes_per_second, |rate| rate.0);
        ReachSettings {
            external: self.external_addresses.clone().unwrap_or_default(),
            relay: (self.relay == Some(true)).then_some(limits),
            reservations: self.reservations.unwrap_or(Reservations::WhenUnreachable),
            port_mapping: self.port_mapping.unwrap_or(true),
            lan: self.lan.unwrap_or(true),
        }
    }
}

fn reservations(text: &str) -> Result<Reservations, String> {
    let found = RESERVATIONS.iter().find(|(name, _)| *name == text);
    found.map(|(_, when)| *when).ok_or_else(|| "must be auto, always or never".to_owned())
}

fn places(text: &str) -> Result<u32, String> {
    let places = text.trim().parse::<u32>().ok().filter(|places| *places <= RELAY_MAX);
    places.ok_or_else(|| format!("must be 0 to {RELAY_MAX}"))
}

fn circuit_time(text: &str) -> Result<Millis, String> {
    let time = amount::duration(text)?;
    let rule = || "must be from 1m to 7d".to_owned();
    if (CIRCUIT.0..=CIRCUIT.1).contains(&time) { Ok(time) } else { Err(rule()) }
}

pub(super) fn flags(args: &ReachArgs, limits: &RelayLimitArgs, relay: bool) -> Result<ReachLayer, Usage> {
    fn read<T>(
        name: &str,
        value: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Usage> {
        let Some(text) = value else { return Ok(None) };
        parse(text).map(Some).map_err(|rule| Usage {
            message: format!("--{name} {rule}, but is `{text}`"),
            hint: "see --help".to_owned(),
        })
    }
    Ok(ReachLayer {
        external_addresses: (!args.external_address.is_empty()).then(|| args.external_address.clone()),
        reservations: read("reservations", args.reservations.as_ref(), reservations)?,
        port_mapping: args.no_port_mapping.then_some(false),
        lan: args.no_lan.then_some(false),
        relay: relay.then_some(true),
        relay_reservations: read("relay-reservations", limits.relay_reservations.as_ref(), places)?,
        relay_circuits: read("relay-circuits", limits.relay_circuits.as_ref(), places)?,
        relay_circuit_time: read("relay-circuit-time", limits.relay_circuit_time.as_ref(), circuit_time)?,
        relay_circuit_size: read("relay-circuit-size", limits.relay_circuit_size.as_ref(), amount::size)?,
        relay_rate: read("relay-rate", limits.relay_rate.as_ref(), amount::size)?,
        relay_peer_rate: read("relay-peer-rate", limits.relay_peer_rate.as_ref(), amount::size)?,
    })
}

pub(super) fn environment(variables: &BTreeMap<String, String>, wrong: &mut Vec<Refusal>) -> ReachLayer {
    fn read<T>(
        variables: &BTreeMap<String, String>,
        name: &str,
        wrong: &mut Vec<Refusal>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = variables.get(name).filter(|text| !text.is_empty())?;
        let refuse = |rule| {
            let message = format!("the environment variable {name} {rule}, but is `{text}`");
            wrong.push(Refusal::new(ENVIRONMENT, message));
        };
        parse(text).map_err(refuse).ok()
    }
    let addresses = variables.get("WORLDCOMPUTE_EXTERNAL_ADDRESSES").filter(|text| !text.is_empty());
    ReachLayer {
        external_addresses: addresses.map(|text| list(text)),
        reservations: read(variables, "WORLDCOMPUTE_RESERVATIONS", wrong, reservations),
        port_mapping: read(variables, "WORLDCOMPUTE_PORT_MAPPING", wrong, flag),
        lan: read(variables, "WORLDCOMPUTE_LAN", wrong, flag),
        relay: read(variables, "WORLDCOMPUTE_RELAY", wrong, flag),
        relay_reservations: read(variables, "WORLDCOMPUTE_RELAY_RESERVATIONS", wrong, places),
        relay_circuits: read(variables, "WORLDCOMPUTE_RELAY_CIRCUITS", wrong, places),
        relay_circuit_time: read(variables, "WORLDCOMPUTE_RELAY_CIRCUIT_TIME", wrong, circuit_time),
        relay_circuit_size: read(variables, "WORLDCOMPUTE_RELAY_CIRCUIT_SIZE", wrong, amount::size),
        relay_rate: read(variables, "WORLDCOMPUTE_RELAY_RATE", wrong, amount::size),
        relay_peer_rate: read(variables, "WORLDCOMPUTE_RELAY_PEER_RATE", wrong, amount::size),
    }
}

pub(super) fn file(fields: &Fields<'_>, faults: &mut Faults) -> ReachLayer {
    let addresses = fields.words("external_addresses", faults);
    ReachLayer {
        external_addresses: fields.find("external_addresses").map(|_| addresses),
        reservations: fields.choice("reservations", &RESERVATIONS, faults),
        port_mapping: fields.flag("port_mapping", faults),
        lan: fields.flag("lan", faults),
        relay: fields.flag("relay", faults),
        relay_reservations: fields.whole("relay_reservations", 0..=RELAY_MAX, faults),
        relay_circuits: fields.whole("relay_circuits", 0..=RELAY_MAX, faults),
        relay_circuit_time: fields.amount("relay_circuit_time", circuit_time, faults),
        relay_circuit_size: fields.amount("relay_circuit_size", amount::size, faults),
        relay_rate: fields.amount("relay_rate", amount::size, faults),
        relay_peer_rate: fields.amount("relay_peer_rate", amount::size, faults),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Context;
    use super::*;
    use crate::cli::{Global, NodeArgs};

    #[test]
    fn a_relay_gives_what_its_operator_says_and_a_node_is_none_by_itself() {
        let dir = tempfile::tempdir().expect("tempdir");
        let reach = |config: &str, args: NodeArgs| {
            std::fs::write(dir.path().join("config.toml"), config).expect("writes");
            let global = Global { data_dir: Some(dir.path().to_owned()), json: false, log: None };
            let context = Context::resolve(&global, &BTreeMap::new()).expect("resolves");
            context.settings(&args).expect("resolves").reach()
        };
        let plain = reach("", NodeArgs::default());
        assert!(plain.relay.is_none() && plain.lan && plain.port_mapping);
        assert_eq!(plain.reservations, Reservations::WhenUnreachable);
        let config =
            "relay_rate = \"1MiB\"\nrelay_reservations = 5\nrelay_circuit_time = \"1h\"\nlan = false\n";
        let mut args = NodeArgs { relay: true, ..NodeArgs::default() };
        args.limits.relay_reservations = Some("7".to_owned());
        let relay = reach(config, args);
        let limits = relay.relay.expect("a relay");
        assert_eq!((limits.reservations_max, limits.total_bytes_per_second), (7, 1 << 20));
        assert_eq!(limits.circuit, Duration::from_secs(3600));
        assert_eq!(limits.circuits_max, RelayLimits::default().circuits_max);
        assert!(!relay.lan);
        let args = NodeArgs {
            reach: ReachArgs { reservations: Some("sometimes".to_owned()), ..ReachArgs::default() },
            ..NodeArgs::default()
        };
        let global = Global { data_dir: Some(dir.path().to_owned()), json: false, log: None };
        let context = Context::resolve(&global, &BTreeMap::new()).expect("resolves");
        assert!(context.settings(&args).expect_err("wrong").is::<Usage>());
    }
}

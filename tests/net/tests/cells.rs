//! The cells of the network matrix that every change has to pass; `cargo run -p wc-tests-net --bin matrix` runs all.

use std::time::Duration;

use wc_tests_net::matrix;

/// Less than QUIC waits for a peer that is gone, which is what a job took when nobody noticed before that.
const NOTICED: Duration = Duration::from_secs(25);

/// Runs a cell and checks how its nodes were connected.
fn check(name: &str, path: &str) {
    check_within(name, path, Duration::MAX);
}

/// Runs a cell and checks that no relay is between its nodes at the end. Holes are punched for every transport at once, and
/// whichever comes through first is used.
fn check_direct(name: &str) {
    let cells = matrix::cells();
    let cell = cells.iter().find(|cell| cell.name == name).expect("a cell of that name");
    match cell.run(false) {
        Ok(Some(row)) => {
            assert!(row.direct.is_some() && !row.path.contains("relay"), "{name}: {row:?}");
        }
        Ok(None) => {}
        Err(error) => panic!("{error}"),
    }
}

/// As `check`, and that the job took no longer than `limit`.
fn check_within(name: &str, path: &str, limit: Duration) {
    let cells = matrix::cells();
    let cell = cells.iter().find(|cell| cell.name == name).expect("a cell of that name");
    match cell.run(false) {
        Ok(Some(row)) => assert!(row.path.contains(path) && row.job < limit, "{name}: {row:?}"),
        Ok(None) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn donors_behind_a_symmetric_nat_are_given_work() {
    check("symmetric", "");
}

#[test]
fn donors_behind_two_layers_of_nat_are_given_work() {
    check("carrier-grade NAT", "");
}

#[test]
fn donors_without_udp_are_given_work_over_tcp() {
    check("UDP blocked", "");
}

#[test]
fn three_hundred_milliseconds_are_no_obstacle() {
    check("300 ms round trip", "");
}

#[test]
fn an_uplink_of_a_megabit_brings_its_result_home() {
    check("1 Mbit/s up, 20 down, 40 ms", "");
}

#[test]
fn the_same_address_on_every_node_misleads_nobody() {
    check("the same docker0 on every node", "");
}

#[test]
fn ipv6_alone_is_enough() {
    check("IPv6 only", "");
}

#[test]
fn port_443_alone_is_enough() {
    check("only TCP 443", "wss");
}

#[test]
fn a_proxy_with_a_password_is_no_wall() {
    check("only a proxy with a password", "wss");
}

#[test]
fn whoever_reads_along_is_named_and_refused() {
    check("443 read along, refused", "refused: Lab Security Appliance");
}

#[test]
fn whoever_may_read_along_does_not_stop_work() {
    check("443 read along, allowed", "wss");
}

#[test]
fn a_name_server_that_lies_is_asked_past() {
    check("DNS lies, DoH works", "");
}

#[test]
fn a_coordinator_behind_a_home_router_has_donors_behind_others() {
    check_direct("port-restricted to port-restricted");
}

#[test]
fn port_443_on_both_sides_is_enough_with_a_relay() {
    check("only TCP 443 on both sides", "relay");
}

#[test]
fn routers_that_forward_ports_are_asked_to() {
    check_direct("symmetric to symmetric, routers forward ports");
}

#[test]
fn a_relay_that_dies_delays_the_next_job_by_seconds() {
    check_within("a relay dies", "relay", NOTICED);
}

#[test]
fn a_relay_that_dies_amid_a_job_delays_it_by_seconds() {
    check_within("a relay dies amid a job, 100 ms round trip", "relay", NOTICED);
}

#[test]
fn a_donor_that_goes_from_wifi_to_mobile_works_on_within_seconds() {
    check_within("from Wi-Fi to mobile", "", NOTICED);
}

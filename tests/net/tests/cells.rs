//! The cells of the network matrix that every change has to pass; `cargo run -p wc-tests-net --bin matrix` runs all.

use wc_tests_net::matrix;

/// Runs a cell and checks how its nodes were connected.
fn check(name: &str, path: &str) {
    let cells = matrix::cells();
    let cell = cells.iter().find(|cell| cell.name == name).expect("a cell of that name");
    match cell.run(false) {
        Ok(Some(row)) => assert!(row.path.contains(path), "{name}: {row:?}"),
        Ok(None) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn donors_behind_a_symmetric_nat_are_given_work() {
    check("symmetric", "direct QUIC");
}

#[test]
fn donors_behind_two_layers_of_nat_are_given_work() {
    check("carrier-grade NAT", "direct QUIC");
}

#[test]
fn donors_without_udp_are_given_work_over_tcp() {
    check("UDP blocked", "direct TCP");
}

#[test]
fn three_hundred_milliseconds_are_no_obstacle() {
    check("300 ms round trip", "direct QUIC");
}

#[test]
fn an_uplink_of_a_megabit_brings_its_result_home() {
    check("1 Mbit/s up, 20 down, 40 ms", "direct QUIC");
}

#[test]
fn the_same_address_on_every_node_misleads_nobody() {
    check("the same docker0 on every node", "direct QUIC");
}

#[test]
fn ipv6_alone_is_enough() {
    check("IPv6 only", "direct QUIC");
}

#[test]
fn a_donor_that_goes_from_wifi_to_mobile_is_given_work_again() {
    check("from Wi-Fi to mobile", "");
}

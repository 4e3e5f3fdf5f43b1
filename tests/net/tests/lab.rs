//! Is the lab what it says? Kinds of NAT, filters, wires, and that nothing of it stays.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wc_tests_net::filter::{Filter, READER_PORT};
use wc_tests_net::lab::{Family, Lab};
use wc_tests_net::link::{Link, Profile};
use wc_tests_net::middle::READER;
use wc_tests_net::nat::Nat;
use wc_tests_net::{Machine, space::Service};

#[test]
fn a_machine_on_the_internet_is_not_translated() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let prober = lab.prober();
    let host = lab.host("host", lab.internet(), None);
    prober.check(&host.machine, None);
}

#[test]
fn each_kind_of_nat_maps_and_filters_as_its_name_says() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let prober = lab.prober();
    for (number, nat) in Nat::ALL.into_iter().enumerate() {
        let home = lab.router(&format!("home{number}"), nat, &Filter::Nothing, lab.internet(), None);
        let host = lab.host(&format!("host{number}"), &home, None);
        let report = prober.check(&host.machine, Some(nat));
        assert!(report.udp.iter().all(|seen| seen.ip() == home.address), "{report:?}");
    }
}

#[test]
fn two_layers_of_nat_look_like_one_with_the_carriers_address() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let prober = lab.prober();
    let carrier = lab.carrier("carrier", Nat::PortRestricted);
    let home = lab.router("home", Nat::PortRestricted, &Filter::Nothing, &carrier, None);
    let host = lab.host("host", &home, None);
    let report = prober.check(&host.machine, Some(Nat::PortRestricted));
    assert_eq!(report.udp[0].ip(), carrier.address);
    assert!(home.address.octets().starts_with(&[100, 64]));
}

#[test]
fn filters_let_out_what_they_say_and_nothing_else() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let prober = lab.prober();
    let server = lab.host("server", lab.internet(), None);
    let _servers = [443, 5000].map(|port| iperf(&server.machine, port));
    let proxy = lab.host("proxy", lab.internet(), None);
    let cases = [
        (Filter::Nothing, [true, true, true]),
        (Filter::Udp, [true, true, false]),
        (Filter::AllBut443, [true, false, false]),
        (Filter::AllButProxy { address: proxy.v4, port: 3128 }, [false, false, false]),
    ];
    for (number, (filter, expected)) in cases.into_iter().enumerate() {
        let home = lab.router(&format!("home{number}"), Nat::PortRestricted, &filter, lab.internet(), None);
        let host = lab.host(&format!("host{number}"), &home, None);
        let tcp = |port| throughput(&host.machine, server.v4, port).is_some();
        let udp = prober.echoes(&host.machine, 5, Duration::from_millis(1)).lost < 1.0;
        assert_eq!([tcp(443), tcp(5000), udp], expected, "{filter:?}");
    }
}

#[test]
fn a_wire_delays_loses_reorders_and_narrows_as_told() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let prober = lab.prober();
    let host = |name: &str, up: Profile, down: Profile| {
        lab.host(name, lab.internet(), Some(Link { up, down })).machine
    };

    let half = Profile::delay(Duration::from_millis(50));
    let slow = prober.echoes(&host("slow", half, half), 50, Duration::from_millis(20));
    assert!((100.0..140.0).contains(&slow.mean_ms) && slow.lost == 0.0 && slow.late == 0.0, "{slow:?}");

    let short = Profile::delay(Duration::from_millis(1));
    let rough =
        prober.echoes(&host("rough", short.lossy(20), short.lossy(20)), 1000, Duration::from_millis(1));
    // Two ways of 20 % are 36 %; four standard deviations of a thousand are 6 %.
    assert!((0.30..0.42).contains(&rough.lost), "{rough:?}");

    let mixed = host("mixed", Profile { reorder_ppm: 100_000, ..half }, half);
    let mixed = prober.echoes(&mixed, 500, Duration::from_millis(2));
    assert!(mixed.late > 0.3 && mixed.lost == 0.0, "one packet that overtakes makes many late: {mixed:?}");

    let jittery = host("jittery", Profile { jitter_us: 40_000, ..half }, half);
    let jittery = prober.echoes(&jittery, 50, Duration::from_millis(60));
    assert!((105.0..150.0).contains(&jittery.mean_ms) && jittery.max_ms > 125.0, "{jittery:?}");

    let far = lab.host("far", lab.internet(), None);
    let _server = iperf(&far.machine, 5201);
    let narrow = host("narrow", short.rate(4_000_000), short);
    let rate = throughput(&narrow, far.v4, 5201).expect("the way is open");
    assert!((3.0e6..4.1e6).contains(&rate), "{rate} bits a second");
}

/// Starts a server that measures.
fn iperf(machine: &Machine, port: u16) -> Service {
    let words = ["keep", "iperf3", "--server", "--port"].map(str::to_owned);
    machine.serve(&[&words[..], &[port.to_string()]].concat())
}

/// Returns how many bits a second of TCP arrive, or nothing when none can.
fn throughput(machine: &Machine, to: Ipv4Addr, port: u16) -> Option<f64> {
    let (to, port) = (to.to_string(), port.to_string());
    let words =
        ["iperf3", "--json", "--connect-timeout", "1500", "--time", "3", "--client", &to, "--port", &port];
    for _ in 0..5 {
        let output = machine.try_run(&words, "");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let error = value["error"].as_str().unwrap_or_default();
        // The server was started a moment ago.
        if !error.contains("refused") {
            return value["end"]["sum_received"]["bits_per_second"].as_f64();
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    None
}

#[test]
fn a_machine_that_moves_has_another_address_and_still_gets_out() {
    let Some(lab) = Lab::open(Family::Both) else { return };
    let prober = lab.prober();
    let wifi = lab.router("wifi", Nat::PortRestricted, &Filter::Nothing, lab.internet(), None);
    let mobile = lab.carrier("mobile", Nat::Symmetric);
    let mut host = lab.host("host", &wifi, None);
    let before = prober.check(&host.machine, Some(Nat::PortRestricted));
    lab.move_to(&mut host, &mobile, None);
    let after = prober.check(&host.machine, Some(Nat::Symmetric));
    assert_ne!(before.local.ip(), after.local.ip());
    assert_eq!(after.udp[0].ip(), mobile.address);
}

#[test]
fn two_hosts_find_each_other_over_ipv6_alone() {
    let Some(lab) = Lab::open(Family::V6) else { return };
    let hosts = ["a", "b"].map(|name| lab.host(name, lab.internet(), None));
    let server = ["probe-server".to_owned(), hosts[1].v6.to_string(), "::1".to_owned()];
    let _server = hosts[1].machine.serve(&server);
    let said = hosts[0].machine.run_netbox(&["echoes", &hosts[1].v6.to_string(), "10", "5"]);
    assert!(said.contains("\"lost\":0.0"), "{said}");
}

#[test]
fn a_proxy_wants_a_password_and_a_reader_shows_its_own_certificate() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let server = lab.host("server", lab.internet(), None);
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| lab.dir().join(name));
    let path = |path: &Path| path.to_str().expect("utf-8 path").to_owned();
    let (key, certificate) = (path(&key), path(&certificate));
    let make =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=relay.lab";
    let mut make: Vec<&str> = make.split(' ').collect();
    make.extend(["-keyout", &key, "-out", &certificate]);
    server.machine.run(&make);
    let words =
        ["keep", "openssl", "s_server", "-quiet", "-accept", "443", "-key", &key, "-cert", &certificate];
    let _server = server.machine.serve(&words.map(str::to_owned));
    let target = format!("{}:443", server.v4);
    let issuer = |machine: &Machine, more: &[&str]| {
        let words = ["timeout", "10", "openssl", "s_client", "-connect", &target, "-servername", "relay.lab"];
        let begun = Instant::now();
        loop {
            let output = machine.try_run(&[&words[..], more].concat(), "");
            let said = String::from_utf8_lossy(&output.stdout);
            let issuer = said
                .lines()
                .find_map(|line| line.strip_prefix("issuer=").map(|name| name.replace(" = ", "=")));
            // The server was started a moment ago.
            if issuer.is_some() || !more.is_empty() || begun.elapsed() > Duration::from_secs(20) {
                return issuer;
            }
        }
    };

    let office = lab.router("office", Nat::PortRestricted, &Filter::AllBut443, lab.internet(), None);
    let clerk = lab.host("clerk", &office, None);
    assert_eq!(issuer(&clerk.machine, &[]).as_deref(), Some("CN=relay.lab"), "443 is open");

    let proxy = lab.host("proxy", lab.internet(), None);
    let authority = path(&lab.dir().join("authority.pem"));
    let plain = ["proxy".to_owned(), format!("{}:3128", proxy.v4), "ann:secret".to_owned()];
    let plain = proxy.machine.serve(&plain);
    let reading =
        ["reading-proxy".to_owned(), format!("{}:3129", proxy.v4), "ann:secret".to_owned(), authority];
    let reading = proxy.machine.serve(&reading);
    let filter = Filter::AllButProxy { address: proxy.v4, port: 3128 };
    let bank = lab.router("bank", Nat::PortRestricted, &filter, lab.internet(), None);
    let teller = lab.host("teller", &bank, None);
    let at = |port: u16| format!("{}:{port}", proxy.v4);
    let known = ["-proxy_user", "ann", "-proxy_pass", "pass:secret"];
    assert_eq!(issuer(&teller.machine, &["-proxy", &at(3128)]), None, "no password, no way out");
    assert_eq!(
        issuer(&teller.machine, &[&["-proxy", &at(3129)], &known[..]].concat()),
        None,
        "not that port"
    );
    let shown = issuer(&teller.machine, &[&["-proxy", &at(3128)], &known[..]].concat());
    assert_eq!(shown.as_deref(), Some("CN=relay.lab"));
    let shown = issuer(&server.machine, &[&["-proxy", &at(3129)], &known[..]].concat());
    assert!(shown.as_deref().is_some_and(|issuer| issuer.contains(READER)), "{shown:?}");
    assert_eq!(plain.stop(), [format!("407 {target}"), format!("200 {target}")]);
    assert!(reading.stop().contains(&"reading along with relay.lab".to_owned()));

    let school = lab.router("school", Nat::PortRestricted, &Filter::Reads443, lab.internet(), None);
    let pupil = lab.host("pupil", &school, None);
    let authority = path(&lab.dir().join("school.pem"));
    let words = ["reader".to_owned(), format!("0.0.0.0:{READER_PORT}"), authority];
    let reader = school.machine.serve(&words);
    let shown = issuer(&pupil.machine, &[]);
    assert!(shown.as_deref().is_some_and(|issuer| issuer.contains(READER)), "{shown:?}");
    assert_eq!(reader.stop()[0], format!("redirected {target}"));
}

#[test]
fn a_machine_looks_names_up_where_the_test_says() {
    let Some(lab) = Lab::open(Family::V4) else { return };
    let server = lab.host("server", lab.internet(), None);
    let host = lab.host("host", lab.internet(), None);
    host.machine.resolv(&format!("nameserver {}\noptions timeout:1 attempts:1\n", server.v4));
    let look = || {
        let output = host.machine.try_run(&["getent", "ahostsv4", "relay.lab"], "");
        String::from_utf8_lossy(&output.stdout).split_whitespace().next().map(str::to_owned)
    };
    let cases = [
        ("honest", Some("5.0.9.9")),
        ("denies", None),
        ("fails", None),
        ("silent", None),
        ("10.11.12.13", Some("10.11.12.13")),
    ];
    for (manner, expected) in cases {
        let words = [
            "dns".to_owned(),
            format!("{}:53", server.v4),
            manner.to_owned(),
            "relay.lab=5.0.9.9".to_owned(),
        ];
        let _dns = server.machine.serve(&words);
        assert_eq!(look().as_deref(), expected, "{manner}");
    }
}

/// Not a test of its own: the next one starts it and kills it.
#[test]
fn a_lab_that_waits_to_be_killed() {
    if std::env::var_os("WC_NET_WAIT").is_none() {
        return;
    }
    let Some(lab) = Lab::open(Family::V4) else { return };
    let wire = Link::both(Profile::delay(Duration::from_millis(1)));
    let host = lab.host("host", lab.internet(), Some(wire));
    let server = iperf(&host.machine, 5201);
    println!("pids {} {} {}", host.machine.pid(), lab.internet().machine.pid(), server.pid());
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    let mut child = Command::new(std::env::current_exe().expect("a test knows its own file"))
        .args(["--exact", "a_lab_that_waits_to_be_killed", "--nocapture"])
        .env("WC_NET_WAIT", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("pids ") || line.contains("SKIP: ")).expect("a line");
    let pids: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    if line.contains("SKIP: ") {
        println!("{line}");
        return;
    }
    assert_eq!(pids.len(), 3, "{line}");
    let alive = || pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}/fd/0")).exists()).count();
    let begun = Instant::now();
    while alive() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} of {line} live on", alive());
        std::thread::sleep(Duration::from_millis(20));
    }
}

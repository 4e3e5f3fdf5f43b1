//! The published ledger of real nodes: audited by strangers, witnessed by donors, and whole after every kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::Phase;
use wc_tests::federation::{Federation, SOON, binary, guest};
use wc_tests::reference::LogCheck;

fn run(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().expect("the command runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8 path")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("directory").flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory").flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found.sort();
    found
}

/// A coordinator that serves its ledger, and `witnesses` donors that witness it.
async fn witnessed(witnesses: usize) -> Federation {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--trusted", "--slots", "0", "--log-listen", "127.0.0.1:0"]);
    for _ in 0..witnesses {
        federation.add(&["--coordinate", "never", "--consent", "all", "--slots", "2", "--witness"]);
    }
    federation.joined(witnesses).await;
    federation
}

/// Runs a job of `tasks` tasks with one replica each.
async fn work(federation: &Federation, tasks: u32) {
    let job = federation
        .submit(&guest("hello"), |stage| {
            stage.tasks = tasks;
            stage.replicas = 1;
        })
        .await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
}

/// Waits until the newest checkpoint covers the ledger and `witnesses` donors have cosigned it; returns its size.
async fn settled(federation: &Federation, witnesses: usize) -> u64 {
    federation
        .until("the ledger is published and cosigned", async || {
            let cluster = federation.cluster().await;
            cluster.published_size == cluster.ledger_size && cluster.witnesses.len() >= witnesses
        })
        .await;
    federation.cluster().await.ledger_size
}

fn url(federation: &Federation) -> String {
    let log = federation.coordinator().logged();
    let line = log.lines().rev().find(|line| line.contains("the ledger is served over http"));
    let line = line.unwrap_or_else(|| panic!("no address in {log}"));
    let address = line.split("127.0.0.1:").nth(1).expect("an address");
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    format!("http://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_stranger_audits_the_published_ledger_and_ties_receipts_to_it() {
    let federation = witnessed(2).await;
    work(&federation, 3).await;
    let early = settled(&federation, 2).await;
    let here = federation.dir.path();
    let seen = here.join("seen.checkpoint");
    let head = federation.coordinator().json(&["ledger", "head", "--save", text(&seen)]);
    assert_eq!(head["size"], early);
    assert_eq!(head["witnesses"].as_array().map(Vec::len), Some(2));

    work(&federation, 300).await;
    let size = settled(&federation, 2).await;
    assert!(size > 300, "{size} entries");
    let log = federation.coordinator().dir.join("log");
    for place in [text(&log), &url(&federation)] {
        let output = run(&["ledger", "verify", place, "--checkpoint", text(&seen), "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        let value: Value = serde_json::from_slice(&output.stdout).expect("json");
        assert_eq!((&value["size"], &value["sound"]), (&size.into(), &true.into()));
        assert_eq!(value["continues_size"], early);
    }
    assert!(log.join("tile/0/000").exists() && !log.join("tile/0/000.p").exists());

    // Receipts: cosigned, and tied to the checkpoint that was seen before they existed.
    let jobs = federation.coordinator().json(&["job", "list"]);
    let job = jobs[0]["job"].as_str().expect("a job").to_owned();
    let receipts = here.join("receipts");
    federation.coordinator().json(&["job", "receipts", &job, "--output", text(&receipts)]);
    let receipt =
        files(&receipts).into_iter().find(|path| path.extension().is_some_and(|end| end == "receipt"));
    let receipt = receipt.expect("receipts were written");
    let alone = run(&["--json", "receipt", "verify", text(&receipt)]);
    let value: Value = serde_json::from_slice(&alone.stdout).expect("json");
    assert_eq!(value[0]["witnesses"].as_array().map(Vec::len), Some(2), "{}", said(&alone));
    let bare = run(&["receipt", "verify", text(&receipt), "--checkpoint", text(&seen)]);
    assert_eq!(bare.status.code(), Some(3), "{}", said(&bare));
    let full =
        run(&["receipt", "verify", text(&receipt), "--checkpoint", text(&seen), "--ledger", text(&log)]);
    assert!(full.status.success(), "{}", said(&full));

    // A copy with a damaged tile is a damaged copy, and no word about the history.
    let mirror = here.join("mirror");
    copy(&log, &mirror);
    let seen_arg = ["--checkpoint", text(&seen), "--ledger", text(&mirror)];
    let proved = run(&[["receipt", "verify", text(&receipt)].as_slice(), &seen_arg].concat());
    assert!(proved.status.success() && !said(&proved).contains("no earlier checkpoint"), "{}", said(&proved));
    let mut named = Vec::new();
    for name in ["tile/0/000".to_owned(), format!("tile/0/001.p/{}", size % 256)] {
        let Ok(bytes) = fs::read(mirror.join(&name)) else { continue };
        // Each hash in turn: a proof uses some of them and not others.
        for place in (0..bytes.len()).step_by(32) {
            let mut changed = bytes.clone();
            changed[place] ^= 4;
            fs::write(mirror.join(&name), changed).expect("writes");
            let output = run(&[["receipt", "verify", text(&receipt)].as_slice(), &seen_arg].concat());
            if !output.status.success() {
                assert_eq!(output.status.code(), Some(4), "{}", said(&output));
                assert!(!said(&output).contains("rewritten"), "{}", said(&output));
                let told = said(&output);
                assert!(told.contains(&name) && told.contains("nothing about the history"), "{name}: {told}");
                named.push(name.clone());
                break;
            }
        }
        fs::write(mirror.join(&name), bytes).expect("writes");
    }
    assert!(named.iter().any(|name| name == "tile/0/000"), "the proof goes through it: {named:?}");
    let bare = run(&["receipt", "verify", text(&receipt), "--checkpoint", text(&seen)]);
    assert!(!said(&bare).contains("no earlier checkpoint"), "{}", said(&bare));

    // A published ledger that is behind the receipt says so, and by how much.
    let behind = here.join("behind");
    copy(&log, &behind);
    fs::copy(&seen, behind.join("checkpoint")).expect("an older one");
    let output = run(&["receipt", "verify", text(&receipt), "--ledger", text(&behind)]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let fewer = format!("{early} entries, {} fewer", size - early);
    assert!(said(&output).contains(&fewer) && !said(&output).contains("give --ledger"), "{}", said(&output));
    // Where there is none, one line says so.
    let nowhere = run(&["--json", "ledger", "verify", text(&here.join("nowhere"))]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", said(&nowhere));
    let value: Value = serde_json::from_slice(&nowhere.stdout).expect("json");
    assert_eq!((&value["ok"], &value["code"]), (&false.into(), &"WC-CLI-012".into()), "{value}");
    assert!(value["failed"].as_str().is_some_and(|failed| failed.contains("is not a published ledger")));
    // Another cell's ledger is another cell's, not a rewritten one.
    let mut stranger = Federation::empty(binary());
    stranger.add(&["--coordinate", "always", "--trusted", "--slots", "0"]);
    stranger.joined(0).await;
    let theirs = stranger.coordinator().dir.join("log");
    stranger.until("it is published", async || theirs.join("checkpoint").exists()).await;
    let kept = theirs.join("checkpoint");
    for args in [["--ledger", text(&theirs)], ["--checkpoint", text(&kept)]] {
        let output = run(&["receipt", "verify", text(&receipt), args[0], args[1]]);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(
            said(&output).contains("of another") && !said(&output).contains("rewritten"),
            "{}",
            said(&output)
        );
    }
    drop(stranger);

    // Whoever changes a byte of what is published is found out.
    let forged = here.join("forged");
    copy(&log, &forged);
    for path in files(&forged) {
        let bytes = fs::read(&path).expect("reads");
        let mut changed = bytes.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 4;
        fs::write(&path, changed).expect("writes");
        let output = run(&["ledger", "verify", text(&forged)]);
        // A partial tile of an earlier checkpoint is nothing that anybody reads any more.
        let stale = text(&path).contains(".p/") && !text(&path).ends_with(&format!(".p/{}", size % 256));
        let stale = stale && !text(&path).contains("tile/1/000.p/1");
        assert!(stale || output.status.code() == Some(4), "{}: {}", path.display(), said(&output));
        fs::write(&path, bytes).expect("writes");
    }
    assert!(run(&["ledger", "verify", text(&forged)]).status.success());

    if let Some(go) = LogCheck::build(here) {
        let key = head["key"].as_str().expect("a key").to_owned();
        let witness = federation.nodes[1].json(&["donor", "status"]);
        let witness = witness["witness"]["key"].as_str().expect("a key").to_owned();
        let printed = go.accepts(&["read", text(&log), &key, &witness], "");
        assert!(printed.starts_with(&format!("{size} entries")), "{printed}");
    }
}

#[tokio::test]
async fn publication_goes_on_after_every_kill_and_from_a_tree_that_was_half_written() {
    let mut federation = witnessed(1).await;
    let log = federation.coordinator().dir.join("log");
    for round in 0u32..4 {
        let job = federation
            .submit(&guest("hello"), |stage| {
                stage.tasks = 120;
                stage.replicas = 1;
            })
            .await;
        // Somewhere in the middle: between deciding, publishing tiles and publishing the checkpoint.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(350 * u64::from(round)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        federation.nodes[0].kill();
        if log.join("checkpoint").exists() {
            let output = run(&["ledger", "verify", text(&log)]);
            assert!(output.status.success(), "after kill {round}: {}", said(&output));
        }
        match round {
            // What an interrupted write leaves: drafts, and tiles that no checkpoint covers.
            1 => {
                fs::create_dir_all(log.join("tile/0/001.p")).expect("creates");
                fs::write(log.join("tile/0/001.p/200.tmp"), [1; 77]).expect("writes");
                fs::write(log.join("tile/0/001.p/200"), [1; 77]).expect("writes");
                fs::write(log.join("checkpoint.tmp"), "half a checkp").expect("writes");
            }
            // The checkpoint itself is lost, or is not one.
            2 => fs::remove_file(log.join("checkpoint")).expect("was there"),
            3 => fs::write(log.join("checkpoint"), "not a checkpoint\n").expect("writes"),
            _ => {}
        }
        federation.nodes[0].start();
        federation.joined(1).await;
        federation.finished(job).await;
        let size = settled(&federation, 1).await;
        let output = run(&["--json", "ledger", "verify", text(&log)]);
        assert!(output.status.success(), "round {round}: {}", said(&output));
        let value: Value = serde_json::from_slice(&output.stdout).expect("json");
        assert_eq!(value["size"], size);
    }
    let status = federation.nodes[1].json(&["donor", "status"]);
    assert_eq!(status["witness"]["alarms"].as_array().map(Vec::len), Some(0), "{status}");
}

#[tokio::test]
async fn witnesses_cosign_what_several_sign_through_every_change_of_the_signers() {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--trusted", "--slots", "0"]);
    for _ in 0..2 {
        let args = ["--coordinate", "never", "--consent", "all", "--slots", "2", "--witness", "--cosigner"];
        federation.add(&args);
    }
    federation.joined(2).await;
    work(&federation, 3).await;
    settled(&federation, 2).await;
    let id = |node: usize| {
        let key = DataDir::new(&federation.nodes[node].dir).expect("directory").node_key();
        KeyFile::load(&key).expect("a key").node_id().to_string()
    };
    let (one, two) = (id(1), id(2));
    let log = federation.coordinator().dir.join("log");
    let sets = [
        (vec!["2", &one, &two], 3),
        // The same again makes a new key.
        (vec!["2", &one, &two], 3),
        (vec!["3", &one, &two], 3),
        (vec!["1"], 1),
    ];
    for (number, (args, members)) in sets.into_iter().enumerate() {
        let args = [vec!["cluster", "signers", "set", "--threshold"], args].concat();
        let set = federation.coordinator().command(&args);
        assert!(set.status.success(), "{number}: {}", said(&set));
        if number == 1 {
            // A witness that was away meanwhile knows the signers before them only.
            federation.nodes[2].kill();
            work(&federation, 3).await;
            federation.nodes[2].start();
            federation.joined(2).await;
        }
        work(&federation, 3).await;
        let size = settled(&federation, 2).await;
        let head = run(&["--json", "ledger", "verify", text(&log)]);
        assert!(head.status.success(), "{number}: {}", said(&head));
        let head: Value = serde_json::from_slice(&head.stdout).expect("json");
        assert_eq!((&head["size"], &head["signers"]["of"]), (&size.into(), &members.into()), "{head}");
        assert_eq!(head["witnesses"].as_array().map(Vec::len), Some(2), "{head}");
    }
    for node in &federation.nodes[1..] {
        let status = node.json(&["donor", "status"]);
        assert_eq!(status["witness"]["alarms"].as_array().map(Vec::len), Some(0), "{status}");
    }
}

#[tokio::test]
async fn a_coordinator_that_forks_its_ledger_raises_the_alarm_at_the_witness() {
    let mut federation = witnessed(1).await;
    work(&federation, 3).await;
    settled(&federation, 1).await;
    // The copy of this moment is what the other history begins with.
    federation.nodes[0].kill();
    let home = federation.nodes[0].dir.clone();
    let fork = home.with_extension("fork");
    copy(&home, &fork);
    fs::set_permissions(&fork, fs::metadata(&home).expect("there").permissions()).expect("closes");
    fs::set_permissions(fork.join("keys"), fs::metadata(home.join("keys")).expect("there").permissions())
        .expect("closes");
    federation.nodes[0].start();
    federation.joined(1).await;
    work(&federation, 6).await;
    let honest = settled(&federation, 1).await;
    let witness = |federation: &Federation| federation.nodes[1].json(&["donor", "status"])["witness"].clone();
    federation
        .until("the witness knows the longer ledger", async || witness(&federation)["size"] == honest)
        .await;

    federation.nodes[0].kill();
    fs::rename(&home, home.with_extension("honest")).expect("moves");
    fs::rename(&fork, &home).expect("moves");
    federation.nodes[0].start();
    federation.joined(1).await;
    work(&federation, 20).await;
    federation
        .until("the witness raises the alarm", async || {
            let alarms = witness(&federation)["alarms"].clone();
            alarms
                .as_array()
                .is_some_and(|alarms| alarms.iter().any(|alarm| alarm["code"] == "WC-LEDGER-123"))
        })
        .await;
    let seen = witness(&federation);
    assert_eq!(seen["size"], honest, "nothing of the fork is cosigned: {seen}");
    let cluster = federation.cluster().await;
    assert!(cluster.published_size > honest && cluster.witnesses.is_empty(), "{cluster:?}");
    let shown = federation.nodes[1].json(&["cluster", "status"]);
    assert_eq!(shown["witness"]["alarms"], seen["alarms"]);
    assert!(federation.nodes[1].logged().contains("WITNESS ALARM"));

    // The evidence convinces somebody who has nothing but the file.
    let alarms = seen["alarms"].as_array().expect("alarms").clone();
    let proof = alarms.iter().find(|alarm| alarm["code"] == "WC-LEDGER-123").expect("found above");
    let proof = PathBuf::from(proof["evidence"].as_str().expect("a file"));
    let output = run(&["--json", "ledger", "evidence", text(&proof)]);
    assert!(output.status.success(), "{}", said(&output));
    let value: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(value["finding"], "rewritten");

    // The alarm survives a restart of the witness, which still cosigns nothing.
    federation.nodes[1].kill();
    federation.nodes[1].start();
    federation.joined(1).await;
    federation
        .until("the alarm is there again", async || {
            let alarms = witness(&federation)["alarms"].clone();
            alarms
                .as_array()
                .is_some_and(|alarms| alarms.iter().any(|alarm| alarm["code"] == "WC-LEDGER-123"))
        })
        .await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5).min(SOON) {
        assert!(federation.cluster().await.witnesses.is_empty());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_coordinator_restored_from_an_old_copy_publishes_no_second_history() {
    let mut federation = witnessed(1).await;
    work(&federation, 2).await;
    settled(&federation, 1).await;
    federation.nodes[0].kill();
    let home = federation.nodes[0].dir.clone();
    let old = home.with_extension("old");
    copy(&home.join("store"), &old);
    federation.nodes[0].start();
    federation.joined(1).await;
    work(&federation, 4).await;
    settled(&federation, 1).await;
    federation.nodes[0].kill();
    let checkpoint = fs::read(home.join("log/checkpoint")).expect("published");

    // Only the journal is put back; what was published says that there was more.
    fs::rename(home.join("store"), home.with_extension("lost")).expect("moves");
    fs::rename(&old, home.join("store")).expect("moves");
    federation.nodes[0].start();
    federation.joined(1).await;
    work(&federation, 8).await;
    federation
        .until("the coordinator says what is wrong", async || {
            !federation.cluster().await.log_alarms.is_empty()
        })
        .await;
    assert!(federation.cluster().await.log_alarms[0].contains("an old copy"));
    assert_eq!(fs::read(home.join("log/checkpoint")).expect("still there"), checkpoint);
}

//! The real binary, one process per node, on loopback: jobs, commands, crashes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_tests::federation::{Federation, SOON, binary, guest};

/// A guest that computes for about this argument's share of a second or two.
fn kernel() -> std::path::PathBuf {
    guest("kernels/integer")
}

#[tokio::test]
async fn an_array_job_runs_on_three_donors_and_its_receipts_verify_offline() {
    let federation = Federation::start(3).await;
    let job = federation.submit(&guest("hello"), |stage| stage.tasks = 8).await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    assert_eq!(view.stages[0].accepted, 8);
    let id = job.to_string();
    let node = federation.coordinator();

    let out = federation.dir.path().join("results");
    let out = out.to_str().expect("utf-8 path");
    node.json(&["job", "results", &id, "--output", out]);
    let texts: String =
        walk(out.as_ref()).iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    for index in 0..8 {
        assert!(texts.contains(&format!("hello from task {index} of 8")), "{texts}");
    }

    let receipts = federation.dir.path().join("receipts");
    node.json(&["job", "receipts", &id, "--output", receipts.to_str().expect("utf-8 path")]);
    let files: Vec<_> = walk(&receipts)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "receipt"))
        .collect();
    assert_eq!(files.len(), 8);
    let verify = |path: &std::path::Path| {
        Command::new(binary()).args(["receipt", "verify"]).arg(path).output().expect("the command runs")
    };
    for file in &files {
        let output = verify(file);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut bytes = std::fs::read(&files[0]).expect("receipt");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let forged = federation.dir.path().join("forged.receipt");
    std::fs::write(&forged, bytes).expect("write");
    assert_eq!(verify(&forged).status.code(), Some(4), "a flipped bit must not verify");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("directory").flatten() {
        if entry.path().is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn every_command_answers_in_json_and_refuses_in_words() {
    let federation = Federation::start(1).await;
    let job = federation.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    federation.finished(job).await;
    let id = job.to_string();
    let node = federation.coordinator();
    for args in [
        vec!["cluster", "status"],
        vec!["cluster", "peers"],
        vec!["donor", "status"],
        vec!["job", "list"],
        vec!["job", "status", &id],
        vec!["job", "status", &id[..12], "--watch"],
        vec!["job", "logs", &id],
        vec!["job", "explain", &id],
    ] {
        let value = node.json(&args);
        assert!(!value.is_null(), "{args:?}");
    }
    let refused = node.command(&["job", "status", "job_nosuchjob"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("no job") && text.contains("WC-NODE-030"), "{text}");
    let donor = &federation.nodes[1];
    let status = donor.json(&["donor", "status"]);
    assert!(status.to_string().contains("seccomp"), "the defences are listed: {status}");
}

#[tokio::test]
async fn map_needs_no_manifest() {
    let federation = Federation::start(3).await;
    let inputs = federation.dir.path().join("inputs");
    std::fs::create_dir(&inputs).expect("directory");
    for name in ["a.txt", "b.txt", "c.txt"] {
        std::fs::write(inputs.join(name), name).expect("write");
    }
    let out = federation.dir.path().join("out");
    let arg = |path: &std::path::Path| path.to_str().expect("utf-8 path").to_owned();
    let output = federation.coordinator().command(&[
        "map",
        &arg(&guest("hello")),
        &arg(&inputs),
        "--output",
        &arg(&out),
    ]);
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), federation.logs());
    let texts: String = walk(&out).iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    for index in 0..3 {
        assert!(texts.contains(&format!("hello from task {index} of 3")), "{texts}");
    }
}

#[tokio::test]
async fn three_strangers_on_a_lan_become_one_cell() {
    let federation = Federation::strangers(3);
    federation
        .until("the strangers become one cell", async || {
            let mut cells = Vec::new();
            for node in &federation.nodes {
                let Response::Cluster(view) = node.cell(CellRequest::Cluster).await else { return false };
                cells.push((view.cell, view.online));
            }
            cells.iter().all(|(cell, online)| *cell == cells[0].0 && *online == 3)
        })
        .await;
}

#[tokio::test]
async fn a_word_that_counts_only_where_the_cell_is_founded_is_answered_in_words_elsewhere() {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--slots", "0"]);
    federation.joined(0).await;
    federation.add(&["--coordinate", "auto", "--trusted", "--slots", "0"]);
    federation
        .until("the second node says that its word does not count", async || {
            let log = federation.nodes[1].logged();
            log.contains("WARN") && log.contains("--trusted has no effect here")
        })
        .await;
    assert!(!federation.cluster().await.nodes_trusted);
}

#[tokio::test]
async fn a_module_can_be_sent_straight_to_one_peer() {
    let federation = Federation::start_with(1, |_| vec!["--accept-direct".into()]).await;
    let donor = &federation.nodes[1];
    let status = donor.json(&["donor", "status"]);
    let address = find_text(&status, &|text| text.starts_with("/ip4/127.0.0.1/tcp/")).expect("a TCP address");
    let executor = if address.contains("/p2p/") {
        address
    } else {
        let node = find_text(&status, &|text| text.starts_with("12D3KooW")).expect("a node id");
        format!("{address}/p2p/{node}")
    };
    let module = guest("hello");
    let network = federation.network().to_owned();
    let args = ["job", "submit", "--network", &network, "--executor", &executor, "--workload"];
    let run = |node: &wc_tests::federation::Node| {
        node.command(&[&args[..], &[module.to_str().expect("utf-8 path")]].concat())
    };
    let output = run(federation.coordinator());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("hello from task"), "{text}");
}

#[tokio::test]
async fn a_module_goes_over_a_websocket_and_no_way_at_all_is_exit_code_65() {
    let federation = Federation::start_with(1, |_| {
        ["--accept-direct", "--wss-listen", "127.0.0.1:0"].map(str::to_owned).to_vec()
    })
    .await;
    let status = federation.nodes[1].json(&["donor", "status"]);
    let address =
        find_text(&status, &|text| text.contains("/tls/ws/certhash/")).expect("a WebSocket address");
    let module = guest("hello");
    let network = federation.network().to_owned();
    let run = |executor: &str, more: &[&str]| {
        let args = ["job", "submit", "--network", &network, "--executor", executor, "--workload"];
        federation.coordinator().command(&[&args[..], &[module.to_str().expect("utf-8 path")], more].concat())
    };
    let output = run(&address, &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("hello from task"));

    // The same place with another certificate: somebody in between, as far as the submitter can tell.
    let unpinned = address.split("/certhash/").next().expect("the address before its fingerprint");
    let output = run(unpinned, &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{error}");
    assert!(error.contains("CN=self-signed") && error.contains("field: executor"), "{error}");

    let closed = "/ip4/127.0.0.1/tcp/1";
    let output = run(closed, &[]);
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run("/dns4/nobody.invalid/tcp/443/wss", &["--proxy", "http://ann:secret@127.0.0.1:1"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{error}");
    assert!(
        error.contains("the proxy 127.0.0.1:1 cannot be reached") && !error.contains("secret"),
        "{error}"
    );

    let doctor = |targets: [&str; 2]| {
        let args = ["doctor", "--json", "--doh", "https://127.0.0.1:1/dns-query"];
        federation
            .coordinator()
            .command(&[&args[..], &["--target", targets[0], "--target", targets[1]]].concat())
    };
    let output = doctor([closed, &address]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(seen["best"], "wss");
    assert!(seen["verdict"].as_str().is_some_and(|text| text.contains("tcp would be better")), "{seen}");
    assert_eq!(doctor([closed, unpinned]).status.code(), Some(65));
}

fn find_text(value: &Value, wanted: &dyn Fn(&str) -> bool) -> Option<String> {
    match value {
        Value::String(text) if wanted(text) => Some(text.clone()),
        Value::Array(items) => items.iter().find_map(|item| find_text(item, wanted)),
        Value::Object(fields) => fields.values().find_map(|item| find_text(item, wanted)),
        _ => None,
    }
}

#[tokio::test]
async fn a_donor_that_dies_mid_task_costs_nothing_but_time() {
    let mut federation = Federation::start(4).await;
    let job = federation
        .submit(&kernel(), |stage| {
            stage.tasks = 4;
            // A third of a second of work, so that a busy machine is not what the time below measures.
            stage.command = vec!["1300".into()];
            stage.env.insert("ROUND".into(), "1".into());
        })
        .await;
    federation.until("a donor works", async || federation.job(job).await.stages[0].leases > 0).await;
    // Whoever holds a lease: the first donor does, with four donors and twelve replicas.
    federation.nodes[1].kill();
    let killed = Instant::now();
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    assert!(killed.elapsed() < Duration::from_secs(40), "took {:?} after the kill", killed.elapsed());
    assert_eq!(view.stages[0].accepted, 4);
    federation.credited_once().await;
}

#[tokio::test]
async fn a_coordinator_that_dies_mid_array_loses_and_doubles_nothing() {
    let mut federation = Federation::start(3).await;
    let job = federation.submit(&guest("hello"), |stage| stage.tasks = 600).await;
    federation
        .until("some tasks are accepted", async || federation.job(job).await.stages[0].accepted >= 20)
        .await;
    for _ in 0..2 {
        let before = federation.job(job).await.stages[0].accepted;
        federation.nodes[0].kill();
        federation.nodes[0].start();
        federation
            .until("the coordinator is back", async || {
                matches!(
                    federation.coordinator().cell(CellRequest::Job { job: job.to_string() }).await,
                    Response::Job(_)
                )
            })
            .await;
        let after = federation.job(job).await.stages[0].accepted;
        assert!(after >= before, "{before} tasks were accepted before the crash, {after} after it");
    }
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
    assert_eq!(view.stages[0].accepted, 600);
    federation.credited_once().await;

    // Replay gives the same state, bit for bit, once nothing moves any more.
    for node in &mut federation.nodes[1..] {
        node.kill();
    }
    federation
        .until("the donors are known to be gone", async || {
            federation.members().await.values().all(|node| node.state == "offline")
        })
        .await;
    // A timer that was set before may still tick in between; then look again.
    for _ in 0..8 {
        let before = federation.cluster().await;
        federation.nodes[0].kill();
        federation.nodes[0].start();
        federation
            .until("the coordinator is back", async || {
                matches!(federation.coordinator().cell(CellRequest::Cluster).await, Response::Cluster(_))
            })
            .await;
        let after = federation.cluster().await;
        if after.facts == before.facts {
            assert_eq!(after.state_hash, before.state_hash);
            assert_eq!(after.ledger_root, before.ledger_root);
            return;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    panic!("the cell never came to rest\n{}", federation.logs());
}

#[tokio::test]
async fn a_task_with_three_replicas_needs_three_commits_of_the_journal() {
    let federation = Federation::start(3).await;
    // The submission, the last commitment and the deciding report. On a busy machine a commitment or the report of the
    // slowest replica may come after the others were written, and then makes one more that nobody waits for: so it is
    // tried until all come in time.
    let mut commits = Vec::new();
    while commits.len() < 60 && commits.last() != Some(&3) {
        let before = federation.cluster().await.commits;
        let job = federation.submit(&guest("noop"), |stage| stage.replicas = 3).await;
        assert_eq!(federation.finished(job).await.phase, Phase::Verified, "{}", federation.logs());
        commits.push(federation.cluster().await.commits - before);
    }
    assert_eq!(commits.iter().min(), Some(&3), "{commits:?}");
}

#[tokio::test]
async fn a_job_outlives_the_command_that_submitted_it() {
    let federation = Federation::start(3).await;
    let manifest = federation.dir.path().join("job.yaml");
    let text = format!(
        "apiVersion: worldcompute/v1\nkind: Job\nmetadata:\n  name: outlives\nspec:\n  module: {}\n  count: 3\n  \
         max_wall_time: 2m\n",
        kernel().display()
    );
    std::fs::write(&manifest, text).expect("write");
    let mut command = Command::new(binary())
        .arg("--data-dir")
        .arg(&federation.coordinator().dir)
        .args(["job", "submit", "--watch"])
        .arg(&manifest)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    federation
        .until("the job is there", async || {
            matches!(federation.coordinator().cell(CellRequest::Jobs { limit: 1 }).await,
                Response::Jobs(jobs) if !jobs.is_empty())
        })
        .await;
    command.kill().expect("our own child");
    command.wait().expect("our own child");
    let Response::Jobs(jobs) = federation.coordinator().cell(CellRequest::Jobs { limit: 1 }).await else {
        panic!("jobs are listed")
    };
    let view = federation.finished(jobs[0].job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
}

#[tokio::test]
async fn a_paused_donor_gets_no_work_and_a_leaving_one_leaves_nothing() {
    let mut federation = Federation::start(1).await;
    let donor = &federation.nodes[1];
    assert!(donor.command(&["donor", "pause"]).status.success());
    federation
        .until("the cell knows", async || {
            federation.members().await.values().any(|node| node.state == "paused")
        })
        .await;
    let job = federation.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    let explained = federation.coordinator().command(&["job", "explain", &job.to_string()]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("paused"), "{text}");
    assert!(donor.command(&["donor", "resume"]).status.success());
    assert_eq!(federation.finished(job).await.phase, Phase::Verified, "{}", federation.logs());
    assert!(federation.nodes[1].command(&["donor", "leave"]).status.success());
    assert!(federation.nodes[1].ended(SOON), "the node stops by itself");
    let left: Vec<_> = walk(&federation.nodes[1].dir);
    assert!(
        left.iter().all(|path| path.starts_with(federation.nodes[1].dir.join("keys"))
            || path.file_name().is_some_and(|name| name == "control.lock" || name == "config.toml")),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_blob_of_many_blocks_travels_under_the_name_that_ipfs_gives_it() {
    let federation = Federation::start(3).await;
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|word| word.to_le_bytes()).collect();
    let path = federation.dir.path().join("content");
    std::fs::write(&path, &content).expect("write");
    let mut client = federation.coordinator().client().await;
    let put = Request::PutFile { path: path.display().to_string() };
    let Response::Blob(blob) = client.ask(put).await.expect("answer") else {
        panic!("the file cannot be put")
    };
    assert_eq!(blob.cid, wc_store::unixfs::cid_of_file(&content));
    // A donor that has never seen it fetches it, block by block, from the coordinator.
    let copy = federation.dir.path().join("copy");
    let export = Request::Export { cid: blob.cid, path: copy.display().to_string() };
    let answer = federation.nodes[1].client().await.ask(export).await.expect("answer");
    assert_eq!(answer, Response::Done);
    assert_eq!(std::fs::read(&copy).expect("copy"), content);
}

/// More small blobs at once than a peer may open streams in a second.
#[tokio::test]
async fn a_stage_that_reads_hundreds_of_results_gets_them_all() {
    let federation = Federation::start(1).await;
    let mut client = federation.coordinator().client().await;
    let put = Request::PutFile { path: guest("hello").display().to_string() };
    let Response::Blob(workload) = client.ask(put).await.expect("answer") else { panic!("no module") };
    let mut first = wc_tests::federation::stage(workload);
    (first.name, first.tasks, first.replicas) = ("first".into(), 300, 1);
    let mut second = wc_tests::federation::stage(workload);
    (second.name, second.replicas) = ("second".into(), 1);
    let source = wc_types::manifest::InputSource::Stage(0);
    second.inputs.push(wc_types::manifest::Input { name: "parts".into(), source });
    let manifest = Box::new(federation.manifest(vec![first, second]));
    let submit = CellRequest::Submit { manifest, holders: Vec::new(), dry_run: false };
    let Response::Submitted { job, .. } = client.ask(Request::Cell(submit)).await.expect("answer") else {
        panic!("the job is admitted")
    };
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{view:?}\n{}", federation.logs());
}

#[tokio::test]
async fn results_and_logs_go_when_their_time_is_over_and_what_was_fetched_stays_good() {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--trusted", "--slots", "0", "--keep-results", "20s"]);
    federation.add(&["--coordinate", "never", "--consent", "all", "--slots", "2"]);
    federation.joined(1).await;
    let job = federation.submit(&guest("hello"), |stage| (stage.tasks, stage.replicas) = (8, 1)).await;
    assert_eq!(federation.finished(job).await.phase, Phase::Verified, "{}", federation.logs());
    let id = job.to_string();
    let node = federation.coordinator();
    let receipts = federation.dir.path().join("receipts");
    node.json(&["job", "receipts", &id, "--output", receipts.to_str().expect("utf-8 path")]);
    let refused = async || {
        let results = CellRequest::Results { job: id.clone(), stage: None, from: 0 };
        matches!(node.cell(results).await, Response::Refused(refusals) if refusals[0].code == "WC-NODE-038")
    };
    assert!(!refused().await, "they are kept for a while");
    federation.until("the results are let go", refused).await;
    federation
        .until("the store has let go too", async || {
            node.logged().contains("for which its results are kept is over")
        })
        .await;
    for request in [
        CellRequest::Logs { job: id.clone(), from: 0 },
        CellRequest::Receipts { job: id.clone(), stage: 0, from: 0 },
    ] {
        let Response::Refused(refusals) = node.cell(request).await else { panic!("still there") };
        assert_eq!(refusals[0].code, "WC-NODE-038");
    }
    assert_eq!(federation.job(job).await.stages[0].accepted, 8, "that it ran, and how, is still known");
    federation.credited_once().await;
    for file in walk(&receipts).iter().filter(|path| path.extension().is_some_and(|kind| kind == "receipt")) {
        let verified = Command::new(binary()).args(["receipt", "verify"]).arg(file).output().expect("runs");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }

    // After a restart it is still forgotten, and the coordinator still knows what it knew.
    let before = federation.cluster().await;
    federation.nodes[0].kill();
    federation.nodes[0].start();
    federation
        .until("the coordinator is back", async || {
            matches!(federation.coordinator().cell(CellRequest::Cluster).await, Response::Cluster(_))
        })
        .await;
    assert_eq!(federation.cluster().await.ledger_root, before.ledger_root);
    let results = CellRequest::Results { job: id, stage: None, from: 0 };
    let Response::Refused(refusals) = federation.coordinator().cell(results).await else {
        panic!("back again")
    };
    assert_eq!(refusals[0].code, "WC-NODE-038");
}

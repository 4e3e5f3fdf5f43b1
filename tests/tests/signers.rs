//! Real processes that sign checkpoints together: with all of them, with one killed, with too few, and again.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::SignersView;
use wc_proto::api::{CellRequest, Response};
use wc_tests::federation::{Federation, Node, guest};
use wc_types::{JobId, NodeId};

fn id(node: &Node) -> NodeId {
    let dir = DataDir::new(&node.dir).expect("data directory");
    KeyFile::load(&dir.node_key()).expect("a node has a key").node_id()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn signers(federation: &Federation) -> SignersView {
    federation.cluster().await.signers
}

async fn run_job(federation: &Federation) -> JobId {
    let job = federation.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    federation.finished(job).await;
    job
}

fn fetch(federation: &Federation, job: JobId, out: &Path) -> Output {
    let out = out.to_str().expect("utf-8");
    federation.coordinator().command(&["job", "receipts", &job.to_string(), "--output", out])
}

/// Fetches a job's receipts and verifies them offline; returns what was proved.
fn verified(federation: &Federation, job: JobId, name: &str) -> Vec<Value> {
    let out = federation.dir.path().join(name);
    let fetched = fetch(federation, job, &out);
    assert!(fetched.status.success(), "{}\n{}", text(&fetched), federation.logs());
    let mut files: Vec<String> = std::fs::read_dir(&out)
        .expect("receipts")
        .filter_map(|entry| entry.ok()?.path().to_str().map(str::to_owned))
        .filter(|path| path.ends_with(".receipt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there is a receipt");
    let args: Vec<&str> = ["receipt", "verify"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let Value::Array(reports) = federation.coordinator().json(&args) else { panic!("a list of reports") };
    assert!(reports.iter().all(|report| report["valid"] == true), "{reports:?}");
    reports
}

/// A coordinator and two donors that also hold shares, two of three.
async fn two_of_three() -> Federation {
    let federation = Federation::start_with(2, |_| vec!["--cosigner".into()]).await;
    let (one, two) = (id(&federation.nodes[1]).to_string(), id(&federation.nodes[2]).to_string());
    let set =
        federation.coordinator().command(&["cluster", "signers", "set", "--threshold", "2", &one, &two]);
    assert!(set.status.success(), "{}\n{}", text(&set), federation.logs());
    federation
}

#[tokio::test]
async fn two_of_three_sign_with_one_dead_and_wait_with_two_dead_and_nothing_is_lost() {
    let mut federation = two_of_three().await;
    let view = signers(&federation).await;
    assert_eq!((view.epoch, view.threshold, view.members.len()), (1, 2, 3));

    let first = run_job(&federation).await;
    let reports = verified(&federation, first, "first");
    assert!(
        reports[0].to_string().contains("2 of 3 signers"),
        "the chain is part of the proof: {}",
        reports[0]
    );

    // What is published is what they signed, and a stranger verifies it along the chain.
    federation
        .until("their checkpoint is published", async || {
            let cluster = federation.cluster().await;
            cluster.published_size > 4 && cluster.signers.signed_size == Some(cluster.published_size)
        })
        .await;
    let log = federation.coordinator().dir.join("log").display().to_string();
    let head = federation.coordinator().json(&["ledger", "verify", &log]);
    assert!(head.to_string().contains("\"of\":3"), "{head}");

    // One co-signer dies as in a power cut: the other two sign on.
    federation.nodes[2].kill();
    let second = run_job(&federation).await;
    verified(&federation, second, "second");

    // Work goes on without any co-signer, on a donor that is none; its receipt waits.
    federation.add(&["--coordinate", "never", "--consent", "all", "--slots", "2"]);
    federation.joined(2).await;
    federation.nodes[1].kill();
    let third = run_job(&federation).await;
    let signed = signers(&federation).await.signed_size.expect("some were signed");
    let refused = fetch(&federation, third, &federation.dir.path().join("refused"));
    assert!(!refused.status.success(), "no receipt without a checkpoint: {}", text(&refused));
    assert!(text(&refused).contains("WC-NODE-070"), "{}", text(&refused));
    let view = signers(&federation).await;
    assert_eq!(view.signed_size, Some(signed), "nothing new is published");
    assert!(view.problem.is_some(), "the status says so: {view:?}");
    assert!(federation.cluster().await.published_size <= signed, "nor in the published ledger");
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(status.contains("NO NEW CHECKPOINT CAN BE SIGNED"), "{status}");
    // What is covered by the last checkpoint is served all the same.
    verified(&federation, second, "second-again");

    // The coordinator dies, too, and comes back alone: what was signed is still served.
    federation.nodes[0].kill();
    federation.nodes[0].start();
    federation
        .until("the coordinator is back", async || {
            let request = CellRequest::Job { job: third.to_string() };
            matches!(federation.coordinator().cell(request).await, Response::Job(job) if job.phase.is_final())
        })
        .await;
    verified(&federation, first, "first-again");

    // Both co-signers come back with their shares: everything that waited is signed.
    federation.nodes[1].start();
    federation.nodes[2].start();
    federation
        .until("the signers sign again", async || {
            let view = signers(&federation).await;
            view.problem.is_none() && view.signed_size.is_some_and(|size| size > signed)
        })
        .await;
    for (job, name) in [(first, "1"), (second, "2"), (third, "3")] {
        verified(&federation, job, name);
    }
}

#[tokio::test]
async fn signers_change_and_the_old_ones_destroy_their_shares() {
    let mut federation = two_of_three().await;
    let before = run_job(&federation).await;
    verified(&federation, before, "before");
    federation.add(&["--coordinate", "never", "--slots", "0", "--cosigner"]);
    let (leaving, staying, coming) =
        (id(&federation.nodes[1]), id(&federation.nodes[2]), federation.nodes[3].dir.clone());
    federation
        .until("the new signer has a key and is connected", async || {
            let Ok(key) = KeyFile::load(&DataDir::new(&coming).expect("directory").node_key()) else {
                return false;
            };
            let peers = federation.coordinator().json(&["cluster", "peers"]).to_string();
            peers.contains(&key.node_id().to_string())
        })
        .await;
    let coming = id(&federation.nodes[3]);
    let shares = |node: &Node| -> usize {
        let dir = DataDir::new(&node.dir).expect("directory").signers();
        let Ok(cells) = std::fs::read_dir(dir) else { return 0 };
        cells
            .filter_map(|cell| std::fs::read_dir(cell.ok()?.path()).ok())
            .flatten()
            .filter(|file| {
                file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().starts_with("share-"))
            })
            .count()
    };
    assert_eq!(shares(&federation.nodes[1]), 1);
    // Somebody who is not the owner orders nothing, and the nodes that were not asked for consent do not sign.
    let stranger =
        federation.nodes[1].command(&["cluster", "signers", "set", "--threshold", "2", &leaving.to_string()]);
    assert!(!stranger.status.success() && text(&stranger).contains("owner"), "{}", text(&stranger));

    let (staying, coming) = (staying.to_string(), coming.to_string());
    federation
        .until("the change is made", async || {
            let args = ["cluster", "signers", "set", "--threshold", "2", &staying, &coming];
            federation.coordinator().command(&args).status.success()
        })
        .await;
    let view = signers(&federation).await;
    assert_eq!((view.epoch, view.members.len()), (2, 3));
    assert!(view.members.iter().all(|member| member.node != leaving));
    federation
        .until("old shares are gone", async || {
            shares(&federation.nodes[1]) == 0
                && shares(&federation.nodes[2]) == 1
                && shares(&federation.nodes[3]) == 1
        })
        .await;
    let after = run_job(&federation).await;
    let reports = verified(&federation, after, "after");
    assert!(reports[0].to_string().contains("2 hand-overs"), "{}", reports[0]);
    an_old_receipt_is_tied_to_a_checkpoint_of_new_signers(&federation).await;
    // And back to the coordinator alone.
    let alone = federation.coordinator().command(&["cluster", "signers", "set", "--threshold", "1"]);
    assert!(alone.status.success(), "{}", text(&alone));
    let last = run_job(&federation).await;
    let reports = verified(&federation, last, "last");
    assert!(reports[0].to_string().contains("1 of 1 signers"), "{}", reports[0]);
    an_old_key_cannot_present_the_log(&federation).await;
}

async fn published(federation: &Federation) -> String {
    federation
        .until("everything is published", async || {
            let cluster = federation.cluster().await;
            cluster.published_size == cluster.ledger_size
        })
        .await;
    federation.coordinator().dir.join("log").display().to_string()
}

/// Copies the published ledger without its hand-overs.
fn stripped(federation: &Federation, log: &str, name: &str) -> String {
    let copy = federation.dir.path().join(name);
    let copied = std::process::Command::new("cp").args(["-r", log]).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    std::fs::remove_file(copy.join("signers")).expect("was there");
    copy.display().to_string()
}

/// The receipt knows the signers of its day. Who signs now follows from the published ledger, and from nothing else.
async fn an_old_receipt_is_tied_to_a_checkpoint_of_new_signers(federation: &Federation) {
    let log = published(federation).await;
    let here = federation.dir.path();
    let old = std::fs::read_dir(here.join("before")).expect("fetched").flatten();
    let old = old.map(|entry| entry.path().display().to_string()).find(|path| path.ends_with(".receipt"));
    let old = old.expect("a receipt");
    let node = federation.coordinator();
    let seen = here.join("seen.checkpoint").display().to_string();
    node.json(&["ledger", "head", "--ledger", &log, "--save", &seen]);
    let alone = node.command(&["receipt", "verify", &old, "--checkpoint", &seen]);
    assert_eq!(alone.status.code(), Some(3), "{}", text(&alone));
    assert!(text(&alone).contains("set of signers that is not known here"), "{}", text(&alone));
    assert!(text(&alone).contains("--ledger"), "{}", text(&alone));
    let both = node.command(&["receipt", "verify", &old, "--checkpoint", &seen, "--ledger", &log]);
    assert!(both.status.success(), "{}", text(&both));
    let ledger = node.command(&["receipt", "verify", &old, "--ledger", &log]);
    assert!(ledger.status.success(), "{}", text(&ledger));
    let audited = node.json(&["ledger", "verify", &log, "--checkpoint", &seen]);
    assert_eq!((&audited["ok"], &audited["handovers"]), (&true.into(), &2.into()), "{audited}");
    // A copy whose checkpoint and hand-overs are not of one moment says just that.
    let output = node.command(&["ledger", "verify", &stripped(federation, &log, "mirror")]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("not of one moment"), "{}", text(&output));
}

/// The founding key signs again, and the hand-overs are hidden: the log itself says that it was given away.
async fn an_old_key_cannot_present_the_log(federation: &Federation) {
    let log = published(federation).await;
    let node = federation.coordinator();
    let output = node.command(&["ledger", "verify", &stripped(federation, &log, "hidden"), "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("WC-LEDGER-138"), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["ok"], &report["undecided"]), (&false.into(), &false.into()), "{report}");
}

#[tokio::test]
async fn a_node_that_did_not_consent_is_not_made_a_signer() {
    let federation = Federation::start(2).await;
    let (one, two) = (id(&federation.nodes[1]).to_string(), id(&federation.nodes[2]).to_string());
    let set =
        federation.coordinator().command(&["cluster", "signers", "set", "--threshold", "2", &one, &two]);
    assert!(!set.status.success(), "{}", text(&set));
    assert!(text(&set).contains("WC-NODE-071"), "{}", text(&set));
    assert_eq!(signers(&federation).await.epoch, 0, "nothing has changed");
    let job = run_job(&federation).await;
    verified(&federation, job, "alone");
}

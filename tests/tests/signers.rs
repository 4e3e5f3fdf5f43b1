//! Real processes that sign checkpoints together: with all of them, with one killed, with too few, and again.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use wc_host::{DataDir, KeyFile};
use wc_proto::api::view::SignersView;
use wc_proto::api::{CellRequest, Response};
use wc_tests::cosigner::{Cosigner, Manner};
use wc_tests::federation::{Federation, Node, guest};
use wc_tests::peer::Peer;
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
    of_three("2").await
}

async fn of_three(threshold: &str) -> Federation {
    let federation = Federation::start_with(2, |_| vec!["--cosigner".into()]).await;
    let (one, two) = (id(&federation.nodes[1]).to_string(), id(&federation.nodes[2]).to_string());
    let args = ["cluster", "signers", "set", "--threshold", threshold, &one, &two];
    let set = federation.coordinator().command(&args);
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
    // And so are accounts: as far as the signers have come, and the words say how far that is.
    let donor = &federation.nodes[3];
    let checked = donor.json(&["donor", "credits", "--verify"]);
    assert_eq!(
        (&checked["verification"], &checked["ledger_size"]),
        (&"PASS".into(), &signed.into()),
        "{checked}"
    );
    assert!(checked["entries_unsigned"].as_u64() > Some(0), "{checked}");
    assert!(checked.to_string().contains("wait for the cell's signers"), "{checked}");

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

/// Returns how many shares lie on a node's disk.
fn shares(node: &Node) -> usize {
    let dir = DataDir::new(&node.dir).expect("directory").signers();
    let Ok(cells) = std::fs::read_dir(dir) else { return 0 };
    let files = cells.filter_map(|cell| std::fs::read_dir(cell.ok()?.path()).ok()).flatten();
    let is_share = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().starts_with("share-");
    files.filter(|file| file.as_ref().is_ok_and(is_share)).count()
}

#[tokio::test]
async fn a_change_that_waits_is_shown_and_not_replaced_and_its_end_ends_the_alarm() {
    let mut federation = two_of_three().await;
    let (one, two) = (id(&federation.nodes[1]), id(&federation.nodes[2]));
    assert_eq!([0, 1, 2].map(|node| shares(&federation.nodes[node])), [1, 1, 1]);
    federation.add(&["--coordinate", "never", "--consent", "all", "--slots", "2"]);
    federation.joined(3).await;
    federation.nodes[1].kill();
    federation.nodes[2].kill();
    let job = run_job(&federation).await;
    let refused = fetch(&federation, job, &federation.dir.path().join("refused"));
    assert!(text(&refused).contains("WC-NODE-070"), "{}", text(&refused));

    // The owner wants the coordinator to sign alone; those who have to hand over are away.
    let alone = ["cluster", "signers", "set", "--threshold", "1"];
    let waits = federation.coordinator().command(&alone);
    assert!(!waits.status.success() && text(&waits).contains("WC-NODE-072"), "{}", text(&waits));
    let view = signers(&federation).await;
    let pending = view.pending.expect("it is shown");
    assert_eq!((pending.epoch, pending.threshold, pending.members.len()), (2, 1, 1));
    assert!(pending.reason.is_some_and(|reason| reason.contains(&one.to_string())));
    let shown = text(&federation.coordinator().command(&["cluster", "signers"]));
    assert!(shown.contains("pending") && shown.contains("set 2, 1 of 1"), "{shown}");
    // Another one is neither taken nor dropped without a word; the same one goes on waiting.
    let other = ["cluster", "signers", "set", "--threshold", "2", &one.to_string(), &two.to_string()];
    let other = federation.coordinator().command(&other);
    assert!(!other.status.success() && text(&other).contains("WC-NODE-075"), "{}", text(&other));
    assert!(text(&other).contains("1 of 1"), "it names the one that waits: {}", text(&other));
    let again = federation.coordinator().command(&alone);
    assert!(text(&again).contains("WC-NODE-072"), "{}", text(&again));

    // One comes back: two of three hand over. The problem is over, and with it the alarm.
    federation.nodes[1].start();
    federation
        .until("the coordinator signs alone", async || {
            let view = signers(&federation).await;
            view.epoch == 2 && view.pending.is_none()
        })
        .await;
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(!status.contains("NO NEW CHECKPOINT"), "{status}");
    assert_eq!(signers(&federation).await.problem, None);
    verified(&federation, job, "at-last");

    // Who was there has destroyed its share, the coordinator, too; who was not is named until it has.
    federation
        .until("shares of those who are there are gone", async || {
            shares(&federation.nodes[0]) == 0 && shares(&federation.nodes[1]) == 0
        })
        .await;
    federation
        .until("only the one that is away is waited for", async || signers(&federation).await.untold == [two])
        .await;
    assert_eq!(shares(&federation.nodes[2]), 1);
    let shown = text(&federation.coordinator().command(&["cluster", "signers"]));
    assert!(shown.contains("former") && shown.contains(&two.to_string()), "{shown}");
    // The coordinator remembers whom it has to tell, over its own death, too.
    federation.nodes[0].kill();
    federation.nodes[0].start();
    federation.nodes[2].start();
    federation.until("the last share is gone", async || shares(&federation.nodes[2]) == 0).await;
    federation.until("everybody has confirmed", async || signers(&federation).await.untold.is_empty()).await;
}

#[tokio::test]
async fn a_list_of_signers_that_does_not_mean_what_it_says_is_refused() {
    let federation = Federation::start_with(1, |_| vec!["--cosigner".into()]).await;
    let (own, one) = (id(&federation.nodes[0]).to_string(), id(&federation.nodes[1]).to_string());
    for (nodes, says) in [([&one, &one], "named twice"), ([&one, &own], "one of the signers anyway")] {
        let args = ["cluster", "signers", "set", "--threshold", "2", nodes[0], nodes[1]];
        let set = federation.coordinator().command(&args);
        assert_eq!(set.status.code(), Some(2), "{}", text(&set));
        assert!(text(&set).contains(says), "{}", text(&set));
    }
    assert_eq!(signers(&federation).await.epoch, 0, "nothing has changed");
    let set = federation.coordinator().command(&["cluster", "signers", "set", "--threshold", "2", &one]);
    assert!(set.status.success() && text(&set).contains("all 2 signers have to sign"), "{}", text(&set));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("creates");
    for entry in std::fs::read_dir(from).expect("reads") {
        let entry = entry.expect("reads");
        let (kind, to) = (entry.file_type().expect("a kind"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[tokio::test]
async fn a_coordinator_that_was_restored_from_an_old_copy_is_told_that_its_signers_refuse() {
    // With three of three every one of them has signed what the copy does not know.
    let mut federation = of_three("3").await;
    federation.nodes[0].kill();
    let (dir, copy) = (federation.nodes[0].dir.clone(), federation.dir.path().join("copy"));
    copy_dir(&dir, &copy);
    federation.nodes[0].start();
    federation.joined(2).await;
    let job = run_job(&federation).await;
    verified(&federation, job, "before");
    federation.nodes[0].kill();
    std::fs::remove_dir_all(&dir).expect("removes");
    copy_dir(&copy, &dir);
    federation.nodes[0].start();
    federation.joined(2).await;
    // Enough entries to be longer than what was signed: a rewritten history, not only a shorter one.
    let mut job = run_job(&federation).await;
    for _ in 0..2 {
        job = run_job(&federation).await;
    }
    federation
        .until("a signer refuses and says why", async || {
            let view = signers(&federation).await;
            let refuses = |member: &wc_proto::api::view::SignerView| {
                member.state == "refuses"
                    && member
                        .reason
                        .as_ref()
                        .is_some_and(|why| why.contains("WC-LEDGER-1") || why.contains("entries"))
            };
            view.problem.is_some() && view.members.iter().any(refuses)
        })
        .await;
    let shown = text(&federation.coordinator().command(&["cluster", "signers"]));
    assert!(shown.contains("REFUSES TO SIGN"), "{shown}");
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(status.contains("SIGNER REFUSES") && status.contains("another history"), "{status}");
    let refused = fetch(&federation, job, &federation.dir.path().join("refused"));
    assert!(text(&refused).contains("waiting does not help"), "{}", text(&refused));
    assert!(!text(&refused).contains("the results are safe"), "{}", text(&refused));
    // It goes on being asked, and does not fill its log with it.
    tokio::time::sleep(Duration::from_secs(8)).await;
    for node in &federation.nodes[1..] {
        let said = node.logged().matches("refusal=").count();
        assert!(said <= 4, "said {said} times:\n{}", node.logged());
    }
    let said =
        federation.nodes.iter().map(|node| node.logged().matches("SIGNER ALARM").count()).sum::<usize>();
    assert!(said > 0, "the co-signer raises the alarm itself\n{}", federation.logs());
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
    // One whose hand-overs are damaged says that: copied at another moment they would be right.
    let copy = stripped(federation, &log, "damaged");
    let signers = std::fs::read(Path::new(&log).join("signers")).expect("reads");
    for place in (40..signers.len()).step_by(97) {
        let mut changed = signers.clone();
        changed[place] ^= 4;
        std::fs::write(Path::new(&copy).join("signers"), changed).expect("writes");
        let output = node.command(&["ledger", "verify", &copy]);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(4), "byte {place}: {told}");
        assert!(!told.contains("not of one moment") && told.contains("signers"), "byte {place}: {told}");
    }
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

/// A coordinator, a donor without a share, a real co-signer (node 2) and a played one, two of three.
async fn with_played() -> (Federation, Cosigner) {
    let mut federation = Federation::start(1).await;
    federation.add(&["--coordinate", "never", "--consent", "none", "--slots", "1", "--cosigner"]);
    federation.joined(2).await;
    let played = Cosigner::start(Peer::connect(&federation, 9).await);
    let (one, two) = (id(&federation.nodes[2]).to_string(), played.node().to_string());
    let args = ["cluster", "signers", "set", "--threshold", "2", &one, &two];
    // The played one answers from this process, so it must not be held up here.
    let set = tokio::task::block_in_place(|| federation.coordinator().command(&args));
    assert!(set.status.success(), "{}\n{}", text(&set), federation.logs());
    (federation, played)
}

/// Makes the ledger grow while the real co-signer is away, so that the played one is asked, until that one is in a state.
async fn asked_alone(federation: &mut Federation, played: &Cosigner, wanted: &str) {
    federation.nodes[2].kill();
    run_job(federation).await;
    federation
        .until(wanted, async || {
            let view = signers(federation).await;
            view.members.iter().any(|member| member.node == played.node() && member.state == wanted)
        })
        .await;
}

/// Returns the state of a signer.
async fn state(federation: &Federation, node: NodeId) -> String {
    let view = signers(federation).await;
    view.members.into_iter().find(|member| member.node == node).expect("a member").state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_sends_a_bad_part_is_named_and_the_others_sign_on() {
    let (mut federation, played) = with_played().await;
    played.behave(Manner::BadShare);
    asked_alone(&mut federation, &played, "wrong").await;
    // With it there are too few who can sign, and it is named as the reason.
    let name = played.node().to_string();
    federation
        .until("the false one is the reason", async || {
            signers(&federation).await.problem.is_some_and(|problem| problem.contains(&name))
        })
        .await;
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(status.contains("SIGNER IS WRONG") && status.contains("NO NEW CHECKPOINT"), "{status}");
    // The other one is back: these two sign on, and it stays named.
    federation.nodes[2].start();
    federation.until("the others sign", async || signers(&federation).await.problem.is_none()).await;
    let asked = played.asked();
    for number in 0..3 {
        let job = run_job(&federation).await;
        tokio::task::block_in_place(|| verified(&federation, job, &format!("on-{number}")));
    }
    assert!(played.asked() <= asked + 1, "it is not asked each time");
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(status.contains("SIGNER IS WRONG") && status.contains(&name), "{status}");
    assert!(!status.contains("NO NEW CHECKPOINT"), "{status}");
    assert_eq!(state(&federation, played.node()).await, "wrong");
    federation.nodes[2].kill();
    run_job(&federation).await;
    // Once it signs rightly it is one of them again.
    played.behave(Manner::Honest);
    federation.until("all is well", async || signers(&federation).await.problem.is_none()).await;
    assert_eq!(state(&federation, played.node()).await, "signing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_stalls_delays_one_checkpoint_and_not_each() {
    let (federation, played) = with_played().await;
    played.behave(Manner::Stalls);
    let asked = played.asked();
    let mut waits = Vec::new();
    for number in 0..10 {
        let job = run_job(&federation).await;
        let begun = Instant::now();
        tokio::task::block_in_place(|| verified(&federation, job, &format!("stall-{number}")));
        waits.push(begun.elapsed().as_millis());
    }
    println!(
        "receipts beside a stalled signer took {waits:?} ms; it was asked {} times",
        played.asked() - asked
    );
    assert!(played.asked() <= asked + 3, "it is asked last: {waits:?}");
    let slow = waits.iter().filter(|wait| **wait >= 4_000).count();
    assert!(slow <= 1, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_says_it_saw_another_history_stops_signing_until_the_owner_names_signers_without_it() {
    let (mut federation, played) = with_played().await;
    let job = run_job(&federation).await;
    tokio::task::block_in_place(|| verified(&federation, job, "before"));
    played.behave(Manner::Refuses);
    run_job(&federation).await;
    federation.until("nothing is signed", async || signers(&federation).await.problem.is_some()).await;
    let signed = signers(&federation).await.signed_size;
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(status.contains("SIGNER REFUSES") && status.contains("WC-LEDGER-150"), "{status}");
    assert!(status.contains("NO NEW CHECKPOINT") && status.contains("cluster signers set"), "{status}");
    // Neither a restart of the coordinator nor the liar's absence ends it.
    let dead = played.node();
    federation.nodes[0].kill();
    drop(played);
    federation.nodes[0].start();
    federation.joined(2).await;
    let job = run_job(&federation).await;
    let refused =
        tokio::task::block_in_place(|| fetch(&federation, job, &federation.dir.path().join("refused")));
    assert!(text(&refused).contains("waiting does not help"), "{}", text(&refused));
    assert_eq!(signers(&federation).await.signed_size, signed, "nothing was signed");
    assert_eq!(state(&federation, dead).await, "refuses");
    // The others hand over without it.
    let one = id(&federation.nodes[2]).to_string();
    let set = federation.coordinator().command(&["cluster", "signers", "set", "--threshold", "2", &one]);
    assert!(set.status.success(), "{}\n{}", text(&set), federation.logs());
    tokio::task::block_in_place(|| verified(&federation, job, "after"));
    let status = text(&federation.coordinator().command(&["cluster", "status"]));
    assert!(!status.contains("SIGNER REFUSES") && !status.contains("NO NEW CHECKPOINT"), "{status}");
}

/// Puts a copy of a data directory in its place.
fn put_back(copy: &Path, dir: &Path) {
    std::fs::remove_dir_all(dir).expect("removes");
    copy_dir(copy, dir);
}

#[tokio::test]
async fn a_coordinator_restored_from_an_old_copy_finds_nobody_to_sign_a_second_history_with() {
    let mut federation = two_of_three().await;
    let first = run_job(&federation).await;
    verified(&federation, first, "first");
    federation.nodes[0].kill();
    let (dir, at) = (federation.nodes[0].dir.clone(), federation.dir.path().to_owned());
    copy_dir(&dir, &at.join("old"));
    federation.nodes[0].start();
    federation.joined(2).await;
    let second = run_job(&federation).await;
    verified(&federation, second, "second");
    let signed = signers(&federation).await.signed_size;
    federation.nodes[0].kill();
    copy_dir(&dir, &at.join("new"));
    put_back(&at.join("old"), &dir);
    federation.nodes[0].start();
    federation.joined(2).await;
    let old = signers(&federation).await.signed_size;
    assert!(old < signed, "the copy is older: {old:?} and {signed:?}");
    for round in 0..3 {
        // Its ledger becomes longer than the one that was signed, and either of the two others is asked alone.
        let job = run_job(&federation).await;
        let refused = fetch(&federation, job, &at.join(format!("refused-{round}")));
        assert!(!refused.status.success(), "round {round}: {}", text(&refused));
        assert!(text(&refused).contains("waiting does not help"), "round {round}: {}", text(&refused));
        let view = signers(&federation).await;
        assert_eq!(view.signed_size, old, "round {round}: {view:?}");
        let reason = view.members.iter().find(|member| member.state == "refuses").expect("one refuses");
        assert!(reason.reason.as_ref().is_some_and(|why| why.contains("WC-LEDGER-1")), "{view:?}");
        let status = text(&federation.coordinator().command(&["cluster", "status"]));
        assert!(status.contains("SIGNER REFUSES"), "round {round}: {status}");
        federation.nodes[0].kill();
        federation.nodes[1 + round % 2].kill();
        federation.nodes[0].start();
        federation.joined(1).await;
        federation
            .until("the alarm is there again", async || {
                federation.cluster().await.log_alarms.iter().any(|alarm| alarm.contains("SIGNER REFUSES"))
            })
            .await;
        federation.nodes[1 + round % 2].start();
        federation.joined(2).await;
    }
    for node in &federation.nodes[1..] {
        let logged = node.logged();
        assert!(logged.contains("SIGNER ALARM") && logged.contains("WC-LEDGER-1"), "{logged}");
    }
    // With the newest data they agree again, and everything goes on where it was.
    federation.nodes[0].kill();
    put_back(&at.join("new"), &dir);
    federation.nodes[0].start();
    federation.joined(2).await;
    let last = run_job(&federation).await;
    for (job, name) in [(first, "1"), (second, "2"), (last, "3")] {
        verified(&federation, job, name);
    }
    assert!(federation.cluster().await.log_alarms.is_empty());
}

/// What a signer keeps on disk of what was signed.
fn memory(node: &Node) -> Vec<u8> {
    let cells = DataDir::new(&node.dir).expect("data directory").signers();
    let cell = std::fs::read_dir(cells).expect("a signer").flatten().next().expect("a cell");
    std::fs::read(cell.path().join("memory")).expect("it remembers")
}

#[tokio::test]
async fn a_signer_that_was_away_is_told_what_was_signed_without_it_and_does_not_sign_anything_else() {
    let mut federation = two_of_three().await;
    let first = run_job(&federation).await;
    verified(&federation, first, "first");
    federation.nodes[0].kill();
    let (dir, old) = (federation.nodes[0].dir.clone(), federation.dir.path().join("old"));
    copy_dir(&dir, &old);
    federation.nodes[0].start();
    federation.joined(2).await;
    // The coordinator and node 1 sign what node 2 does not see; then it comes back, and nothing new is signed with it.
    federation.nodes[2].kill();
    let second = run_job(&federation).await;
    verified(&federation, second, "second");
    let heard = id(&federation.nodes[2]);
    let before = memory(&federation.nodes[2]);
    federation.nodes[2].start();
    federation.until("it was told", async || memory(&federation.nodes[2]) != before).await;
    federation.nodes[0].kill();
    federation.nodes[1].kill();
    put_back(&old, &dir);
    federation.nodes[0].start();
    federation.joined(1).await;
    run_job(&federation).await;
    federation
        .until("it refuses what it has not signed itself", async || {
            state(&federation, heard).await == "refuses"
        })
        .await;
}

/// A job of so many short tasks that the ledger grows for a while.
async fn growing(federation: &Federation, tasks: u32) -> JobId {
    let many = |stage: &mut wc_types::manifest::Stage| (stage.tasks, stage.replicas) = (tasks, 1);
    federation.submit(&guest("hello"), many).await
}

#[tokio::test]
async fn receipts_of_a_job_that_still_runs_leave_out_what_is_not_signed_yet() {
    let federation = two_of_three().await;
    let job = growing(&federation, 4000).await;
    let (mut pages, mut partial) = (0, 0);
    while partial < 5 && !federation.job(job).await.phase.is_final() {
        let request = CellRequest::Receipts { job: job.to_string(), stage: 0, from: 0 };
        match federation.coordinator().cell(request).await {
            Response::Receipts { receipts, .. } => partial += usize::from(!receipts.is_empty()),
            other => panic!("page {pages}: {other:?}"),
        }
        pages += 1;
    }
    println!("{pages} pages of a growing ledger, {partial} of them with receipts");
    assert!(partial >= 1, "the job was too short to see anything: {pages} pages");
    let out = federation.dir.path().join("some");
    let args = ["job", "receipts", &job.to_string(), "--output", out.to_str().expect("utf-8")];
    let some = federation.coordinator().json(&args);
    let files = some["files"].as_array().map(Vec::len).and_then(|files| u64::try_from(files).ok());
    assert!(files > Some(0) && some["verified"].as_u64() == files, "{}", some["verified"]);
    assert!(some["not_yet_signed"].is_u64(), "it says how many there will be");
}

#[tokio::test]
async fn accounts_are_told_while_the_ledger_grows_and_several_sign() {
    let federation = two_of_three().await;
    // Long enough for whoever looks ten times in a row for a moment in which nothing is added.
    let job = growing(&federation, 40_000).await;
    let account = federation.nodes[1].owner().account_id();
    let (mut sizes, mut exact) = (Vec::new(), 0);
    while sizes.len() < 8 && !federation.job(job).await.phase.is_final() {
        match federation.coordinator().cell(CellRequest::Account { account, since: 0 }).await {
            Response::Account(told) => {
                let size = told.view.ledger_size;
                let signed = told.checkpoint.lines().nth(1).and_then(|size| size.parse().ok());
                assert!(signed <= Some(size), "a checkpoint of what is not there yet");
                exact += usize::from(signed == Some(size));
                sizes.push(size);
            }
            other => panic!("after {sizes:?}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    println!("an account was told at {sizes:?} entries");
    assert!(sizes.is_sorted() && exact > 0, "numbers and checkpoint belong together: {exact} of {sizes:?}");
    let checked = federation.nodes[1].command(&["donor", "credits", "--verify"]);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[tokio::test]
async fn a_coordinator_that_is_killed_at_any_moment_goes_on_signing_one_history() {
    let mut federation = two_of_three().await;
    let log = federation.coordinator().dir.join("log");
    // Moments between deciding, asking, signing, keeping and publishing, a beat of a second apart.
    for (round, wait) in [0u64, 130, 420, 770, 990, 1010, 1230, 1640].into_iter().enumerate() {
        let job = federation
            .submit(&guest("hello"), |stage| {
                stage.tasks = 40;
                stage.replicas = 1;
            })
            .await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        federation.nodes[0].kill();
        if log.join("checkpoint").exists() {
            let output = federation.nodes[1].command(&["ledger", "verify", log.to_str().expect("utf-8")]);
            assert!(output.status.success(), "after kill {round}: {}", text(&output));
        }
        federation.nodes[0].start();
        federation.joined(2).await;
        federation.finished(job).await;
        verified(&federation, job, &format!("round-{round}"));
        federation
            .until("all is signed and published", async || {
                let cluster = federation.cluster().await;
                cluster.published_size == cluster.ledger_size
                    && cluster.signers.signed_size == Some(cluster.ledger_size)
            })
            .await;
    }
    let view = signers(&federation).await;
    assert_eq!(view.problem, None);
    for node in &federation.nodes {
        let refused = node.logged().matches("refusal=").count();
        assert_eq!(refused, 0, "nobody has anything to refuse:\n{}", federation.logs());
    }
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

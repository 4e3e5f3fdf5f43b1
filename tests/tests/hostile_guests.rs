//! Programs and submissions that mean harm, given to real nodes: each ends as it must, and the machine works on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wc_proto::api::view::{JobView, Phase};
use wc_proto::api::{Cancel, CellRequest, Request, Response};
use wc_tests::federation::{Federation, guest, now, stage};
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::manifest::{BlobRef, Input, InputSource, Manifest, Output, Stage};
use wc_types::{Bytes, JobId, Millis, Signed, SigningKey};

/// What a hostile guest must come to.
enum Must {
    /// Its job fails, and the reason that its submitter reads says one of these.
    Fail(&'static [&'static str]),
    /// It runs, and every line that it prints begins like this.
    Print(&'static str),
    /// It runs, or fails for one of these reasons.
    Either(&'static [&'static str]),
}

use Must::{Either, Fail, Print};

const TOO_LONG: &[&str] = &["ran longer than allowed"];
const INVALID: &[&str] = &["module invalid"];
const MEMORY: &[&str] = &["out of memory: it asked for more than the manifest allows"];
/// A slow disk may meet the clock before the limit.
const OUTPUT: &[&str] = &["output refused: more than ", "exit code 28", "ran longer than allowed"];
const FILES: &[&str] = &["output refused: more than 4096 files", "ran longer than allowed"];

/// Guest, arguments, right end.
const GUESTS: &[(&str, &[&str], Must)] = &[
    ("loop_forever", &[], Fail(TOO_LONG)),
    ("sleep_forever", &[], Fail(TOO_LONG)),
    ("work_the_host", &[], Fail(TOO_LONG)),
    ("recurse_forever", &[], Fail(&["trap: call stack exhausted"])),
    ("trap", &[], Fail(&["trap: wasm `unreachable` instruction executed"])),
    ("trap", &["divide"], Fail(&["trap: integer divide by zero"])),
    ("trap", &["memory"], Fail(&["trap: out of bounds memory access"])),
    ("trap", &["call"], Fail(&["trap: "])),
    ("exit_three", &[], Fail(&["exit code 3"])),
    ("allocate_forever", &[], Fail(&["exit code 12", MEMORY[0]])),
    ("declare_memory", &[], Fail(MEMORY)),
    ("print_forever", &[], Fail(&["output refused: standard output", "exit code 5"])),
    ("print_forever", &["stderr"], Either(&["exit code 5", "output refused: ", "ran longer than allowed"])),
    ("write_forever", &[], Fail(OUTPUT)),
    ("write_forever", &["/out", "sparse"], Fail(OUTPUT)),
    ("write_forever", &["/scratch"], Fail(OUTPUT)),
    ("many_files", &[], Fail(FILES)),
    ("many_handles", &[], Fail(&["exit code 24"])),
    ("deep_directories", &[], Either(OUTPUT)),
    ("deep_directories", &["/out"], Either(OUTPUT)),
    ("open_outside", &[], Print("refused ")),
    ("write_input", &[], Print("refused ")),
    ("link_out", &[], Either(&["output refused: "])),
    ("sockets", &[], Print("refused ")),
    ("import_fork", &[], Fail(INVALID)),
    ("import_threads", &[], Fail(INVALID)),
];

fn hostile(name: &str) -> PathBuf {
    guest(&format!("hostile/{name}"))
}

/// Returns why a job ended, as its submitter reads it in one line; prints the log of each replica.
async fn told(federation: &Federation, job: &JobView) -> String {
    let words = job.reason.clone().unwrap_or_default();
    let request = CellRequest::Logs { job: job.job.to_string(), from: 0 };
    if let Response::Logs(rows) = federation.coordinator().cell(request).await {
        for row in rows {
            println!("    log: {}: {}", row.ending, row.stderr);
        }
    }
    words
}

async fn put(federation: &Federation, bytes: &[u8]) -> BlobRef {
    let mut client = federation.coordinator().client().await;
    let put = Request::PutBytes { codec: CODEC_RAW, bytes: bytes.to_vec() };
    match client.ask(put).await.expect("the node answers") {
        Response::Blob(blob) => blob,
        other => panic!("{other:?}"),
    }
}

fn input(name: &str, blob: BlobRef) -> Input {
    Input { name: name.to_owned(), source: InputSource::Blob(blob) }
}

/// One replica, one try, two seconds.
fn once(stage: &mut Stage) {
    stage.replicas = 1;
    stage.retries_max = 0;
    stage.resources.wall_clock = Millis(2_000);
}

async fn run(federation: &Federation, module: &Path, change: impl FnOnce(&mut Stage)) -> JobView {
    let job = federation
        .submit(module, |stage| {
            once(stage);
            change(stage);
        })
        .await;
    federation.finished(job).await
}

async fn good_job_on_every_donor(federation: &Federation, after: &str) {
    // Two donors, and two must agree: so both have run it.
    let job = federation.submit(&guest("hello"), |_| ()).await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "after {after}: {:?}\n{}", view.reason, federation.logs());
    assert_eq!(federation.printed(job).await[&0], "hello from task 0 of 1\n", "after {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_guest_ends_as_it_must_and_its_donor_works_on() {
    let federation = Federation::start(2).await;
    let data = put(&federation, b"not yours\n").await;
    good_job_on_every_donor(&federation, "nothing").await;
    for (name, arguments, must) in GUESTS {
        let begun = Instant::now();
        let view = run(&federation, &hostile(name), |stage| {
            stage.command = arguments.iter().map(|&argument| argument.to_owned()).collect();
            stage.inputs = vec![input("data", data)];
        })
        .await;
        let told = told(&federation, &view).await;
        println!("{name} {arguments:?}: {:?} after {:?}: {told}", view.phase, begun.elapsed());
        match must {
            Fail(words) | Either(words) if view.phase == Phase::Failed => {
                assert!(words.iter().any(|word| told.contains(word)), "{name} {arguments:?}: {told}");
            }
            Fail(_) => panic!("{name} {arguments:?} got away with it: {view:?}"),
            Either(_) => assert_eq!(view.phase, Phase::Verified, "{name} {arguments:?}: {told}"),
            Print(start) => {
                assert_eq!(view.phase, Phase::Verified, "{name} {arguments:?}: {told}");
                let printed = federation.printed(view.job).await.remove(&0).expect("one task");
                assert!(!printed.is_empty(), "{name} tried nothing");
                assert!(printed.lines().all(|line| line.starts_with(start)), "{name}: {printed}");
            }
        }
        good_job_on_every_donor(&federation, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_learns_nothing_of_its_machine_and_all_machines_look_alike() {
    let federation = Federation::start(2).await;
    for name in ["clock_and_random", "look_around"] {
        // Two donors must agree to the byte.
        let job = federation.submit(&hostile(name), |_| ()).await;
        let view = federation.finished(job).await;
        assert_eq!(view.phase, Phase::Verified, "{name}: {:?}\n{}", view.reason, federation.logs());
        let printed = federation.printed(job).await.remove(&0).expect("one task");
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let dir = federation.dir.path().display().to_string();
        for secret in [host.trim(), &dir, "/home", "PATH"] {
            assert!(secret.is_empty() || !printed.contains(secret), "{name} prints {secret}: {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_modules_and_false_promises_fail_their_job_and_say_why() {
    let federation = Federation::start(1).await;
    let whole = std::fs::read(guest("hello")).expect("built guests are in the repository");
    let mut corrupt = whole.clone();
    corrupt[whole.len() / 2..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let file = federation.dir.path().join("module.wasm");
    for (what, bytes) in [
        ("truncated", &whole[..whole.len() / 2]),
        ("corrupt", &corrupt),
        ("only a header", &whole[..8]),
        ("text", b"#!/bin/sh\necho hello\n"),
    ] {
        std::fs::write(&file, bytes).expect("a temporary file");
        let view = run(&federation, &file, |_| ()).await;
        let told = told(&federation, &view).await;
        assert_eq!(view.phase, Phase::Failed, "{what}: {told}");
        assert!(told.contains(INVALID[0]), "{what}: {told}");
    }

    let tile = |bytes_max| Output { name: "tile.rgb".into(), bytes_max: Bytes(bytes_max) };
    let draw = ["--size", "64", "--tiles", "1", "--max-iter", "10"].map(str::to_owned).to_vec();
    for (what, outputs, word) in [
        ("larger than declared", vec![tile(100)], "output refused: more than 100 bytes"),
        (
            "not there",
            vec![tile(1 << 20), Output { name: "more".into(), bytes_max: Bytes(1) }],
            "`more` is missing",
        ),
    ] {
        let view = run(&federation, &guest("fractal"), |stage| {
            stage.command.clone_from(&draw);
            stage.outputs = outputs;
        })
        .await;
        let told = told(&federation, &view).await;
        assert_eq!(view.phase, Phase::Failed, "{what}: {told}");
        assert!(told.contains(word), "{what}: {told}");
    }
    let view = run(&federation, &guest("fractal"), |stage| {
        stage.command.clone_from(&draw);
        stage.outputs = vec![tile(1 << 20)];
    })
    .await;
    assert_eq!(view.phase, Phase::Verified, "{}", told(&federation, &view).await);

    let mut wrong_size = put(&federation, b"four").await;
    wrong_size.bytes = Bytes(5);
    let view =
        run(&federation, &guest("hello"), |stage| stage.inputs = vec![input("data", wrong_size)]).await;
    let words = told(&federation, &view).await;
    assert_eq!(view.phase, Phase::Failed, "{words}");
    assert!(words.contains("has 4 bytes, the manifest says 5"), "{words}");

    let nobodys = BlobRef { cid: cid_of(CODEC_RAW, b"nobody has this"), bytes: Bytes(15) };
    let begun = Instant::now();
    let view = run(&federation, &guest("hello"), |stage| stage.inputs = vec![input("data", nobodys)]).await;
    let reason = view.reason.unwrap_or_default();
    assert_eq!(view.phase, Phase::Failed, "{reason}");
    assert!(reason.contains(&nobodys.cid.to_string()), "the reason names no blob: {reason}");
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());

    let view = run(&federation, &guest("hello"), |_| ()).await;
    assert_eq!(view.phase, Phase::Verified, "{}", told(&federation, &view).await);
}

fn refused_with(response: &Response, code: &str) {
    let Response::Refused(refusals) = response else { panic!("not refused: {response:?}") };
    assert!(refusals.iter().any(|refusal| refusal.code == code), "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_submitted_before_or_by_another_or_never_is_refused() {
    let federation = Federation::start(0).await;
    let node = federation.coordinator();
    let workload = put(&federation, b"some module").await;
    let manifest = federation.manifest(vec![stage(workload)]);
    let submit = |manifest: &Signed<Manifest>| CellRequest::Submit {
        manifest: Box::new(manifest.clone()),
        holders: Vec::new(),
        dry_run: false,
    };
    let Response::Submitted { job, .. } = node.cell(submit(&manifest)).await else { panic!("accepted once") };
    refused_with(&node.cell(submit(&manifest)).await, "WC-POLICY-003");
    assert!(!federation.job(job).await.phase.is_final(), "the first submission goes on");

    let stranger = SigningKey::from_seed(&[77; 32]);
    let stolen = Signed::seal((*manifest).clone(), &stranger);
    refused_with(&node.cell(submit(&stolen)).await, "WC-NODE-010");
    let cancel = |job, submitter, by: &SigningKey| {
        CellRequest::Cancel(Box::new(Signed::seal(Cancel { job, submitter, at: now() }, by)))
    };
    let owner = node.owner();
    refused_with(&node.cell(cancel(job, owner.account_id(), &stranger)).await, "WC-NODE-010");
    refused_with(&node.cell(cancel(job, stranger.account_id(), &stranger)).await, "WC-POLICY-015");
    let nobodys = JobId([3; 32]);
    refused_with(&node.cell(cancel(nobodys, owner.account_id(), &owner)).await, "WC-POLICY-014");

    let unknown = nobodys.to_string();
    let (stage, index) = (0, 0);
    for request in [
        CellRequest::Job { job: unknown.clone() },
        CellRequest::WatchJob { job: unknown.clone(), seen: 0 },
        CellRequest::Explain { job: unknown.clone() },
        CellRequest::Results { job: unknown.clone(), stage: None, from: 0 },
        CellRequest::Task { job: unknown.clone(), stage, index },
        CellRequest::Logs { job: unknown.clone(), from: 0 },
        CellRequest::Receipts { job: unknown, stage, from: 0 },
    ] {
        refused_with(&node.cell(request).await, "WC-NODE-030");
    }
    for request in [
        CellRequest::Results { job: job.to_string(), stage: Some(9), from: 0 },
        CellRequest::Task { job: job.to_string(), stage: 9, index },
        CellRequest::Task { job: job.to_string(), stage, index: u32::MAX },
        CellRequest::Receipts { job: job.to_string(), stage: 9, from: 0 },
    ] {
        refused_with(&node.cell(request).await, "WC-NODE-032");
    }
    assert!(matches!(node.cell(cancel(job, owner.account_id(), &owner)).await, Response::Done));
    refused_with(&node.cell(cancel(job, owner.account_id(), &owner)).await, "WC-POLICY-016");
}

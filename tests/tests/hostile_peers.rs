//! Machines that mean harm, connected to a real coordinator: none earns anything by it, and no job suffers.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use wc_mesh::MeshStream;
use wc_proto::api::view::Phase;
use wc_proto::api::{CellRequest, Request, Response};
use wc_proto::frame::{self, PREFIX_BYTES};
use wc_proto::limit::{FRAME_BYTES_MAX, WANT_BYTES_MAX};
use wc_proto::peer::blob::{AnswerHeader, AnswerKind, Want};
use wc_proto::peer::session::{AgentMessage, Report};
use wc_proto::version;
use wc_tests::federation::{Federation, SOON, guest, stage};
use wc_tests::peer::{Donor, Found, Peer};
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::manifest::BlobRef;
use wc_types::node::Delegation;
use wc_types::outcome::{Commitment, Outcome};
use wc_types::{Bytes, CellId, JobId, LeaseId, NodeId, Signed, SigningKey};

/// Messages of a flood.
const FLOOD_MESSAGES: u32 = 5_000;
/// A flood that is held back longer than this has made its point.
const FLOOD_TIME: Duration = Duration::from_secs(4);

/// Leases that a donor holds while its coordinator restarts; a node may cause 1,000 rows without having been granted anything.
const BROUGHT: u32 = 1_500;

/// Returns how much address space a process has ever had, in KiB.
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("our own child");
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Returns how much memory a process has now, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("our own child");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Waits until the other side has closed or reset a stream.
async fn hung_up(stream: &mut MeshStream) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the coordinator keeps the stream open");
    assert!(rest.is_empty(), "the coordinator answers what it cannot understand");
}

async fn a_job_still_completes(federation: &Federation) {
    let job = federation.submit(&guest("hello"), |stage| stage.replicas = 1).await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}\n{}", view.reason, federation.logs());
    assert_eq!(federation.printed(job).await[&0], "hello from task 0 of 1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_an_enrolment_ends_the_session_and_nothing_else() {
    let federation = Federation::start(1).await;
    let peer = Peer::connect(&federation, 1).await;
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let framed = |body: &[u8]| [&u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat();
    let early = frame::encode(&AgentMessage::Want { replicas: 9 }, FRAME_BYTES_MAX).expect("small");
    for (what, bytes) in [
        ("an empty frame", framed(&[])),
        ("a frame of noise", framed(&noise)),
        ("a frame of deeply nested lists", framed(&[0x81; 200_000])),
        ("a text of another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let mut stream = peer.open(version::SESSION).await;
        stream.write_all(&bytes).await.expect(what);
        stream.flush().await.expect(what);
        hung_up(&mut stream).await;
    }
    let mut stream = peer.open(version::SESSION).await;
    stream.write_all(&early).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("ends").expect("ends cleanly");
    assert!(String::from_utf8_lossy(&answer).contains("WC-NODE-001"), "work before enrolment is refused");
    assert_eq!(federation.member(peer.node()).await, None);
    a_job_still_completes(&federation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_is_refused_before_room_is_made_for_it() {
    let federation = Federation::start(0).await;
    let peer = Peer::connect(&federation, 1).await;
    let process = federation.coordinator().process();
    drop(peer.open(version::SESSION).await);
    let before = peak_kib(process);
    let just_too_large = u32::try_from(FRAME_BYTES_MAX + 1).expect("fits").to_be_bytes();
    for protocol in [version::SESSION, version::CONTROL] {
        for prefix in [[0xff; PREFIX_BYTES], just_too_large] {
            let mut stream = peer.open(protocol).await;
            stream.write_all(&prefix).await.expect("sent");
            stream.flush().await.expect("sent");
            hung_up(&mut stream).await;
        }
    }
    let grown = peak_kib(process) - before;
    assert!(grown < 1 << 20, "the coordinator made room for {grown} KiB");
    federation.cluster().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_begin_and_never_end_hold_no_more_memory_than_the_longest_manifest_each() {
    let federation = Federation::start(0).await;
    let peer = Peer::connect(&federation, 1).await;
    let process = federation.coordinator().process();
    drop(peer.open(version::CONTROL).await);
    let before = resident_kib(process);
    // As long as any request may be, on as many streams as one peer may hold, each but for its last byte.
    let mut held = Vec::new();
    for size in [FRAME_BYTES_MAX, (1 << 20) + (64 << 10)] {
        for _ in 0..60 {
            let mut stream = peer.open(version::CONTROL).await;
            let bytes = [&u32::try_from(size).expect("fits").to_be_bytes()[..], &vec![7; size - 1]].concat();
            let sent = async {
                stream.write_all(&bytes).await?;
                stream.flush().await
            };
            if matches!(tokio::time::timeout(Duration::from_secs(5), sent).await, Ok(Ok(()))) {
                held.push(stream);
            }
        }
    }
    federation.cluster().await;
    let grown = resident_kib(process).saturating_sub(before);
    println!("{} streams hold {} MiB", held.len(), grown >> 10);
    assert!(grown < 160 << 10, "the coordinator holds {grown} KiB of one stranger's requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrolment_that_is_not_the_senders_or_not_its_owners_is_refused() {
    let federation = Federation::start(0).await;
    let peer = Peer::connect(&federation, 1).await;
    let stranger = SigningKey::from_seed(&[77; 32]);
    let delegated = |delegation: Delegation, by: &SigningKey| Signed::seal(delegation, by);
    let own = delegated(peer.delegation(), &peer.owner);
    let not_owners = delegated(peer.delegation(), &stranger);
    let self_made = delegated(peer.delegation(), &peer.key);
    let other_machine = delegated(Delegation { node: stranger.node_id(), ..peer.delegation() }, &peer.owner);
    for (what, enrolment) in [
        ("signed by another key", Signed::seal(peer.enrolment(own.clone()), &stranger)),
        ("signed by the owner", Signed::seal(peer.enrolment(own), &peer.owner)),
        ("owner's word by a stranger", Signed::seal(peer.enrolment(not_owners), &peer.key)),
        ("owner's word by the machine", Signed::seal(peer.enrolment(self_made), &peer.key)),
        ("another machine", Signed::seal(peer.enrolment(other_machine.clone()), &peer.key)),
        ("replayed from another machine", Signed::seal(peer.enrolment(other_machine), &stranger)),
    ] {
        let refusal = peer.enrol_with(enrolment).await.err().unwrap_or_else(|| panic!("{what}: welcome"));
        assert_eq!(refusal.code, "WC-NODE-001", "{what}: {refusal}");
    }
    assert_eq!(federation.member(peer.node()).await, None);
    assert_eq!(federation.member(stranger.node_id()).await, None);
    peer.enrol().await;
    assert!(federation.member(peer.node()).await.is_some());
}

/// Returns whether the coordinator still lets a peer speak.
async fn is_talked_to(peer: &Peer) -> bool {
    let Ok(mut stream) = peer.mesh.open(peer.coordinator, version::CONTROL).await else { return false };
    let request = frame::encode(&CellRequest::Cluster, FRAME_BYTES_MAX).expect("small");
    let _ = stream.write_all(&request).await;
    let _ = stream.flush().await;
    stream.read_exact(&mut [0; PREFIX_BYTES]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_or_stale_outcome_earns_nothing_and_harms_no_job() {
    let federation = Federation::start(0).await;
    let stranger = SigningKey::from_seed(&[77; 32]);
    let found = Found::printed(b"forged\n");
    let mut swapped = found.clone();
    swapped.blobs[0].bytes = b"other bytes under the same CID\n".to_vec();
    let job = federation
        .submit(&guest("noop"), |stage| {
            stage.replicas = 1;
            stage.tasks = 4;
        })
        .await;

    let mut others = Vec::new();
    for number in 1..=3 {
        let forger = Peer::connect(&federation, number).await;
        let mut session = forger.enrol().await;
        let lease = session.lease().await;
        others.push(lease.term.lease);
        let own = session.outcome(&lease, &found);
        let (outcome, blobs) = match number {
            1 => (Signed::seal(own, &stranger), &found),
            2 => (session.sign(Outcome { cell: CellId([9; 32]), ..own }), &found),
            _ => (session.sign(own), &swapped),
        };
        session.report(outcome, blobs).await;
        session.ended().await;
        let begun = Instant::now();
        while is_talked_to(&forger).await {
            assert!(begun.elapsed() < SOON, "forger {number} is still talked to");
        }
        assert_eq!(federation.balance(forger.owner.account_id()).await, 0);
    }

    let forger = Peer::connect(&federation, 4).await;
    let mut session = forger.enrol().await;
    let first = session.lease().await;
    session.say(AgentMessage::Return { leases: vec![first.term.lease] }).await;
    let second = session.lease().await;
    assert_ne!(second.term.lease, first.term.lease, "a lost lease is not granted again under its number");
    assert!(second.has_manifest, "who gave a lease back may have done so because it never got the manifest");
    // One that it gave back, those of others, and one that nobody ever had: heard, and forgotten.
    for lease in others.into_iter().chain([first.term.lease, LeaseId(1 << 40)]) {
        let stale = Outcome { lease, ..session.outcome(&second, &found) };
        let outcome = session.sign(stale);
        let report = Report { outcome, blobs: found.blobs.clone(), stderr: b"planted".to_vec() };
        session.say(AgentMessage::Report { reports: vec![report] }).await;
        session.settled(lease).await;
    }
    let logs = CellRequest::Logs { job: job.to_string(), from: 0 };
    let Response::Logs(rows) = federation.coordinator().cell(logs).await else { panic!("a log is a log") };
    assert!(rows.is_empty(), "who holds no lease writes into the job's log: {rows:?}");
    assert!(!federation.job(job).await.phase.is_final(), "a stale lease decides nothing");
    let other_task = Outcome { index: second.term.index ^ 1, ..session.outcome(&second, &found) };
    let outcome = session.sign(other_task);
    session.report(outcome, &found).await;
    session.settled(second.term.lease).await;
    assert!(!federation.job(job).await.phase.is_final(), "a report about another task decides nothing");

    let honest = Donor::start(Peer::connect(&federation, 5).await, 4, |_| b"true\n".to_vec()).await;
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}", view.reason);
    let printed = federation.printed(job).await;
    assert_eq!(printed.len(), 4);
    assert!(printed.values().all(|text| text == "true\n"), "{printed:?}");
    assert_eq!(federation.balance(forger.owner.account_id()).await, 0);
    assert!(federation.balance(honest.peer.owner.account_id()).await > 0);
    let forger = federation.member(forger.node()).await.expect("it has joined");
    assert_eq!((forger.agreed, forger.dissented), (0, 1));
}

/// Plays one task on three machines of which the first cheats: `cheat` gets what an honest machine committed to and
/// says what the cheater commits to and what it reveals.
async fn one_of_three_cheats(
    cheat: impl Fn(&Outcome, Outcome) -> (Commitment, Outcome),
    shows: &Found,
) -> (Federation, JobId, Peer) {
    let federation = Federation::start(0).await;
    let mut peers = Vec::new();
    let mut sessions = Vec::new();
    for number in 1..=3 {
        let peer = Peer::connect(&federation, number).await;
        sessions.push(peer.enrol().await);
        peers.push(peer);
    }
    let job = federation.submit(&guest("noop"), |_| ()).await;
    let truth = Found::printed(b"true\n");
    let mut leases = Vec::new();
    for session in &mut sessions {
        leases.push(session.lease().await);
    }
    let honest = sessions[1].outcome(&leases[1], &truth);
    let (commitment, revealed) = cheat(&honest, sessions[0].outcome(&leases[0], shows));
    for (number, (session, lease)) in sessions.iter_mut().zip(&leases).enumerate() {
        let outcome = session.outcome(lease, &truth);
        let own = Commitment::new(&truth.record, &outcome.salt, &outcome.node);
        session.commit(lease, if number == 0 { commitment } else { own }).await;
    }
    // The cheater reveals first, and is told that this is settled before anybody else has spoken.
    sessions[0].asked(&leases[0]).await;
    let revealed = sessions[0].sign(revealed);
    sessions[0].report(revealed, shows).await;
    sessions[0].settled(leases[0].term.lease).await;
    for (session, lease) in sessions.iter_mut().zip(&leases).skip(1) {
        session.asked(lease).await;
        let outcome = session.sign(session.outcome(lease, &truth));
        session.report(outcome, &truth).await;
    }
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}", view.reason);
    assert_eq!(federation.printed(job).await[&0], "true\n");
    for peer in &peers[1..] {
        assert!(federation.balance(peer.owner.account_id()).await > 0, "honest machines earn");
    }
    let cheater = peers.swap_remove(0);
    assert_eq!(federation.balance(cheater.owner.account_id()).await, 0, "a cheater earns nothing");
    let member = federation.member(cheater.node()).await.expect("it has joined");
    assert_eq!((member.agreed, member.dissented), (0, 1), "and is marked");
    (federation, job, cheater)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_commitment_does_not_open_for_the_copier() {
    let truth = Found::printed(b"true\n");
    let copy = |honest: &Outcome, own: Outcome| {
        let commitment = Commitment::new(&truth.record, &honest.salt, &honest.node);
        // By now the copier has learned result and salt; only the name in the commitment is not its own.
        (commitment, Outcome { salt: honest.salt, ..own })
    };
    one_of_three_cheats(copy, &truth).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_commits_to_one_result_and_reveals_another_earns_nothing_and_is_marked() {
    let truth = Found::printed(b"true\n");
    let guess = Found::printed(b"a guess\n");
    // Bound to a guess, it reveals what it has seen others find.
    let change_its_mind =
        |_: &Outcome, own: Outcome| (Commitment::new(&guess.record, &own.salt, &own.node), own);
    one_of_three_cheats(change_its_mind, &truth).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_always_lies_is_outvoted_earns_nothing_and_is_quarantined() {
    let federation = Federation::start(3).await;
    let module = guest("kernels/integer");
    let command = vec!["50".to_owned()];
    let first = federation.submit(&module, |stage| stage.command.clone_from(&command)).await;
    assert_eq!(federation.finished(first).await.phase, Phase::Verified, "{}", federation.logs());
    let truth = federation.printed(first).await.remove(&0).expect("one task");

    let mut liar = Peer::connect(&federation, 1).await;
    liar.engine = federation.engine();
    let liar = Donor::start(liar, 64, |index| format!("a lie about {index}\n").into_bytes()).await;
    let node = liar.peer.node();
    let standing = async || federation.member(node).await.expect("it has joined");
    let mut tasks = 0;
    while tasks < 12 || (standing().await.state != "quarantined" && tasks < 96) {
        let job = federation
            .submit(&module, |stage| {
                stage.command.clone_from(&command);
                stage.tasks = 6;
            })
            .await;
        let view = federation.finished(job).await;
        assert_eq!(view.phase, Phase::Verified, "{:?}\n{}", view.reason, federation.logs());
        let printed = federation.printed(job).await;
        assert_eq!(printed.len(), 6);
        assert!(printed.values().all(|text| *text == truth), "a lie was accepted: {printed:?}");
        tasks += 6;
    }
    let liar_now = standing().await;
    assert_eq!((liar_now.state.as_str(), liar_now.agreed), ("quarantined", 0), "after {tasks} tasks");
    assert!(liar_now.dissented >= 2);
    assert_eq!(federation.balance(liar.peer.owner.account_id()).await, 0);
    let members = federation.members().await;
    let honest: Vec<_> = members.values().filter(|member| member.node != node).collect();
    assert!(honest.iter().all(|member| member.dissented == 0 && member.state == "online"), "{honest:?}");
    assert!(honest.iter().map(|member| member.owner_balance).sum::<i64>() > 0);
    let status = federation.coordinator().command(&["cluster", "status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("quarantined"), "{status}");

    // It asked for far more than it got; from now on it gets nothing.
    let last = federation.submit(&module, |stage| stage.command.clone_from(&command)).await;
    assert_eq!(federation.finished(last).await.phase, Phase::Verified);
    let after = standing().await;
    assert_eq!((after.leases, after.dissented), (0, liar_now.dissented));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_malformed_requests_does_not_disturb_a_running_job() {
    let federation = Federation::start(1).await;
    let peer = Peer::connect(&federation, 1).await;
    let job = federation
        .submit(&guest("kernels/integer"), |stage| {
            stage.command = vec!["100".into()];
            stage.replicas = 1;
            stage.tasks = 40;
        })
        .await;
    let nonsense = [&4u32.to_be_bytes()[..], &[0xff, 0x00, 0xff, 0x00]].concat();
    let unknown = CellRequest::Explain { job: "wcjob-of-nobody".into() };
    let unknown = frame::encode(&unknown, FRAME_BYTES_MAX).expect("small");
    let begun = Instant::now();
    let mut sent = 0;
    let mut slowest = Duration::ZERO;
    while sent < FLOOD_MESSAGES && begun.elapsed() < FLOOD_TIME {
        // Well-formed and pointless on one stream, then one malformed, which ends it.
        let Ok(mut stream) = peer.mesh.open(peer.coordinator, version::CONTROL).await else { continue };
        let burst = [&unknown.repeat(20)[..], &nonsense].concat();
        let _ = stream.write_all(&burst).await;
        let _ = stream.flush().await;
        sent += 21;
        if sent % 420 == 0 {
            let asked = Instant::now();
            federation.cluster().await;
            slowest = slowest.max(asked.elapsed());
        }
    }
    println!("{sent} requests in {:?}; the slowest answer to the owner took {slowest:?}", begun.elapsed());
    assert!(sent >= 420, "only {sent} requests could be sent");
    assert!(slowest < Duration::from_secs(5), "the coordinator took {slowest:?} to answer");
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}\n{}", view.reason, federation.logs());
    let donor = federation.members().await.into_values().next().expect("one donor");
    assert_eq!((donor.state.as_str(), donor.agreed), ("online", 40), "{donor:?}");
    a_job_still_completes(&federation).await;
}

/// Answers every want of a block with `bytes`, right or wrong, until it is dropped.
fn holds(peer: &Peer, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut incoming = peer.mesh.accept(version::BLOB).expect("nobody else serves blobs here");
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.recv().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut number = 0;
                let mut prefix = [0; PREFIX_BYTES];
                while stream.read_exact(&mut prefix).await.is_ok() {
                    let Ok(length) = frame::body_bytes(prefix, WANT_BYTES_MAX) else { return };
                    let mut body = vec![0; length];
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let Ok(want) = frame::decode::<Want>(&body) else { return };
                    for _ in want.cids {
                        let kind = AnswerKind::Block;
                        let header = AnswerHeader { kind, number, payload_bytes: bytes.len() };
                        number += 1;
                        let header = header.encode().expect("a small block");
                        let _ = stream.write_all(&[&header[..], &bytes].concat()).await;
                    }
                    let _ = stream.flush().await;
                }
            });
        }
    })
}

/// Submits a module that only `holders` are said to have.
async fn submit_from(federation: &Federation, module: &[u8], holders: Vec<NodeId>) -> JobId {
    let workload = BlobRef { cid: cid_of(CODEC_RAW, module), bytes: Bytes(module.len() as u64) };
    let mut stage = stage(workload);
    stage.replicas = 1;
    let manifest = Box::new(federation.manifest(vec![stage]));
    let mut client = federation.coordinator().client().await;
    let submit = Request::Cell(CellRequest::Submit { manifest, holders, dry_run: false });
    match client.ask(submit).await.expect("answer") {
        Response::Submitted { job, .. } => job,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_serves_wrong_bytes_is_believed_by_nobody() {
    let federation = Federation::start(1).await;
    let liar = Peer::connect(&federation, 1).await;
    let honest = Peer::connect(&federation, 2).await;
    let module = std::fs::read(guest("noop")).expect("built guests are in the repository");
    let mut wrong = module.clone();
    *wrong.last_mut().expect("not empty") ^= 1;
    let _lying = holds(&liar, wrong);
    let _serving = holds(&honest, module.clone());

    let alone = submit_from(&federation, &module, vec![liar.node()]).await;
    let view = federation.finished(alone).await;
    assert_eq!(view.phase, Phase::Failed);
    let reason = view.reason.unwrap_or_default();
    let cid = cid_of(CODEC_RAW, &module);
    assert!(reason.contains(&cid.to_string()), "the reason names no blob: {reason}");

    let both = submit_from(&federation, &module, vec![liar.node(), honest.node()]).await;
    let view = federation.finished(both).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}\n{}", view.reason, federation.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_only_talks_fills_neither_journal_nor_ledger() {
    let federation = Federation::start(1).await;
    let peer = Peer::connect(&federation, 1).await;
    let mut session = peer.enrol().await;
    let before = federation.cluster().await;
    // An enrolment that differs each time is an entry each time; a pause, a row each time.
    let mut flood = Vec::new();
    let mut put = |message: AgentMessage| {
        flood.extend(frame::encode(&message, FRAME_BYTES_MAX).expect("small"));
    };
    let delegation = Signed::seal(peer.delegation(), &peer.owner);
    for number in 0..500 {
        let mut enrolment = peer.enrolment(delegation.clone());
        enrolment.agent_version = format!("worldcompute/{number}");
        put(AgentMessage::Enrol {
            enrolment: Box::new(Signed::seal(enrolment, &peer.key)),
            held: Vec::new(),
        });
    }
    for number in 0..20_000 {
        put(AgentMessage::Paused { paused: number % 2 == 0 });
        put(AgentMessage::Want { replicas: 1 });
    }
    let _ = tokio::time::timeout(FLOOD_TIME, session.send(&flood)).await;
    a_job_still_completes(&federation).await;
    let after = federation.cluster().await;
    let (facts, entries) = (after.facts - before.facts, after.ledger_size - before.ledger_size);
    println!("{} bytes of talk became {facts} facts and {entries} entries", flood.len());
    assert!(entries >= 2, "the talk was not heard at all");
    assert!(facts < 500 && entries < 40, "talk became {facts} facts and {entries} entries");
    assert!(
        federation.member(peer.node()).await.is_some_and(|node| node.state == "online"),
        "held back, not cut off"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cell_refuses_is_answered_and_not_recorded() {
    let federation = Federation::start(1).await;
    a_job_still_completes(&federation).await;
    let before = federation.cluster().await;
    for _ in 0..20 {
        let refused = federation.try_submit(&guest("hello"), |stage| stage.replicas = 0).await;
        assert!(matches!(refused, Response::Refused(_)), "{refused:?}");
    }
    let after = federation.cluster().await;
    assert_eq!((after.facts, after.ledger_size), (before.facts, before.ledger_size));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_brings_back_much_to_a_restarted_coordinator_is_not_held_back_for_it() {
    let mut federation = Federation::start(0).await;
    let peer = Peer::connect(&federation, 1).await;
    let mut session = peer.enrol().await;
    let job = federation
        .submit(&guest("hello"), |stage| {
            stage.replicas = 1;
            stage.tasks = BROUGHT;
        })
        .await;
    let leases = session.leases(BROUGHT).await;
    federation.nodes[0].kill();
    drop((session, peer));
    federation.nodes[0].start();
    federation
        .until("the coordinator is back", async || federation.nodes[0].logged().contains("resumed=true"))
        .await;

    // More rows than a node may cause that was granted nothing: what was granted before still pays for them.
    let peer = Peer::connect(&federation, 1).await;
    let held: Vec<LeaseId> = leases.iter().map(|lease| lease.term.lease).collect();
    let mut session = peer.come_back(&held).await;
    let found = Found::printed(b"hello");
    for lease in &leases {
        let outcome = session.sign(session.outcome(lease, &found));
        session.report(outcome, &found).await;
    }
    let view = federation.finished(job).await;
    assert_eq!(view.phase, Phase::Verified, "{:?}\n{}", view.reason, federation.logs());
    assert_eq!(u64::from(view.stages[0].accepted), u64::from(BROUGHT));
    assert!(!federation.nodes[0].logged().contains("it is read slowly"), "{}", federation.logs());
}

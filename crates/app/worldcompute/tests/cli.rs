//! The built binary against exit codes, error texts, and a scripted node behind a real socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wc_api::Server;
use wc_proto::api::view::{JobView, Phase, StageView};
use wc_proto::api::{CellRequest, Request, Response, ResultRow};
use wc_types::cid::{CODEC_RAW, Cid, cid_of};
use wc_types::manifest::{BlobRef, InputList, InputSource, Manifest};
use wc_types::outcome::{Exit, ResultRecord};
use wc_types::{Bytes, Class, Code, JobId, Refusal, Signed, Timestamp, from_canonical, record_cid};

fn worldcompute(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worldcompute"));
    command.env_clear().arg("--data-dir").arg(dir).args(args);
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("exits by itself")
}

/// A store and a coordinator in a few lines: every job is verified at once, and each task's result is its input in
/// capitals, printed and as the file `shout`.
#[derive(Default)]
struct Script {
    blobs: BTreeMap<Vec<u8>, Vec<u8>>,
    jobs: Vec<Signed<Manifest>>,
    refuse: bool,
}

impl Script {
    fn keep(&mut self, codec: u64, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef { cid: cid_of(codec, &bytes), bytes: Bytes(bytes.len() as u64) };
        self.blobs.insert(blob.cid.to_bytes(), bytes);
        blob
    }

    fn bytes(&self, cid: &Cid) -> Vec<u8> {
        self.blobs.get(&cid.to_bytes()).expect("the blob was put").clone()
    }

    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::PutFile { path } => Response::Blob(self.keep(CODEC_RAW, fs::read(path).expect("reads"))),
            Request::PutBytes { codec, bytes } => Response::Blob(self.keep(codec, bytes)),
            Request::Export { cid, path } => {
                fs::write(path, self.bytes(&cid)).expect("writes");
                Response::Done
            }
            Request::Cell(CellRequest::Submit { manifest, dry_run, .. }) => {
                if self.refuse {
                    let code = Code::new("WC-POLICY-003", Class::Caller);
                    let refusal =
                        Refusal::new(code, "five replicas are the least on nodes that nobody vouches for");
                    return Response::Refused(vec![refusal.field("stages[0].replicas").hint("ask for 5")]);
                }
                assert_eq!(manifest.check(), []);
                manifest.signed_by(&manifest.submitter.0).expect("signed by its submitter");
                let (job, cid) = (manifest.job_id(&manifest.cid()), manifest.cid());
                if !dry_run {
                    self.jobs.push(*manifest);
                }
                Response::Submitted { job, manifest: cid }
            }
            Request::Cell(CellRequest::Job { .. } | CellRequest::WatchJob { .. }) => {
                Response::Job(Box::new(self.view()))
            }
            Request::Cell(CellRequest::Results { from, .. }) => {
                let rows = self.rows();
                // One row a page, so that paging is used.
                let next = (from as usize + 1 < rows.len()).then_some(from + 1);
                Response::Results { rows: rows.into_iter().skip(from as usize).take(1).collect(), next }
            }
            Request::Cell(CellRequest::Jobs { .. }) => Response::Jobs(vec![self.view()]),
            other => panic!("not in the script: {other:?}"),
        }
    }

    fn view(&self) -> JobView {
        let manifest = self.jobs.last().expect("a job");
        let stages = manifest.stages.iter().map(|stage| StageView {
            name: stage.name.clone(),
            replicas: stage.replicas,
            tasks: stage.tasks,
            pending: 0,
            active: 0,
            accepted: stage.tasks,
            leases: 0,
            failed: 0,
        });
        JobView {
            job: manifest.job_id(&manifest.cid()),
            name: manifest.name.clone(),
            manifest: manifest.cid(),
            submitter: manifest.submitter,
            phase: Phase::Verified,
            revision: 1,
            stages: stages.collect(),
            submitted_at: manifest.submitted_at,
            ended_at: Some(Timestamp(manifest.submitted_at.0 + 1_500_000)),
            reason: None,
            charged: 0,
            awarded: 2_500_000,
        }
    }

    fn rows(&mut self) -> Vec<ResultRow> {
        let stage = self.jobs.last().expect("a job").stages[0].clone();
        let list = match stage.inputs.first().map(|input| &input.source) {
            Some(InputSource::Each(list)) => from_canonical::<InputList>(&self.bytes(list)).expect("decodes"),
            _ => InputList { items: Vec::new() },
        };
        let mut rows = Vec::new();
        for (index, item) in list.items.iter().enumerate() {
            let shouted = self.bytes(&item.blob.cid).to_ascii_uppercase();
            let blob = self.keep(CODEC_RAW, shouted);
            let record = ResultRecord {
                exit: Exit::Success,
                stdout: blob,
                outputs: [("shout".to_owned(), blob)].into(),
            };
            rows.push(ResultRow { index: index as u32, cid: record_cid(&record), record });
        }
        rows
    }
}

/// Runs `script` behind the socket of a fresh directory for as long as the returned runtime lives.
fn node(script: Script) -> (tempfile::TempDir, tokio::runtime::Runtime, Arc<Mutex<Script>>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let script = Arc::new(Mutex::new(script));
    let server = runtime.block_on(async { Server::bind(dir.path()) }).expect("binds");
    let shared = script.clone();
    runtime.spawn(async move {
        server
            .serve(move |request| {
                let response = shared.lock().expect("script").answer(request);
                async move { response }
            })
            .await;
    });
    (dir, runtime, script)
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples")
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_begun_or_said() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        &["relay", "run", "--external-address", "relay.example"][..],
        &["relay", "run", "--listen", "here"],
        &["donor", "join", "--join", "192.0.2.1:19999"],
        &["doctor", "--target", "192.0.2.1:443"],
        &["admin", "firewall-diagnose", "--target", "192.0.2.1:443", "--output", "unused"],
    ] {
        let output = worldcompute(dir.path(), args);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 2, "{args:?}: {said}");
        assert!(said.starts_with("Error: `") && said.contains("hint: --"), "{args:?}: {said}");
    }
    let output = worldcompute(
        dir.path(),
        &["relay", "run", "--wss-listen", "--wss-cert", "missing.pem", "--wss-key", "missing.key"],
    );
    let said = text(&output.stderr);
    assert_eq!(code(&output), 1, "{said}");
    assert!(said.starts_with("Error: missing.pem cannot be read"), "{said}");
}

#[test]
fn exit_codes_are_those_that_are_documented() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (args, expected) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["job", "submit", "--help"], 0),
        (&[], 2),
        (&["jobs"], 2),
        (&["job", "submit"], 2),
        (&["job", "submit", "a.yaml", "--executor", "/ip4/1.2.3.4/tcp/5"], 2),
        (&["job", "submit", "--executor", "/ip4/1.2.3.4/tcp/5"], 2),
        (&["demo", "--donors", "1"], 2),
        (&["node", "run", "--slots", "99999999"], 2),
        (&["node", "run", "--coordinate", "perhaps"], 2),
        (&["node", "run", "--listen", "127.0.0.1:9999"], 2),
        (&["node", "run", "--join", "example.org"], 2),
        (&["node", "run", "--consent", "mining"], 2),
        (&["map", "missing.wasm", "missing/", "--output", "x"], 1),
        (&["--log", "=[", "job", "list"], 2),
        (&["job", "list"], 1),
        (&["receipt", "verify", "/does/not/exist"], 1),
    ] {
        let output = worldcompute(dir.path(), args);
        assert_eq!(code(&output), expected, "{args:?}: {}", text(&output.stderr));
        if expected != 0 {
            assert_eq!(text(&output.stdout), "", "{args:?}: errors are not data");
        }
    }
}

#[test]
fn without_a_node_every_command_says_what_to_do() {
    let dir = tempfile::tempdir().expect("tempdir");
    let job = "job_aaaaaaaaaaaaaaaa";
    for args in [
        &["job", "list"][..],
        &["job", "status", job],
        &["job", "logs", job],
        &["job", "explain", job],
        &["job", "cancel", job],
        &["job", "results", job, "--output", "never"],
        &["job", "receipts", job, "--output", "never"],
        &["donor", "status"],
        &["donor", "pause"],
        &["donor", "credits"],
        &["cluster", "status"],
        &["cluster", "peers"],
        &["node", "stop"],
    ] {
        let output = worldcompute(dir.path(), args);
        let expected = format!(
            "Error: not connected: no node is running in {} [WC-API-001]\n  hint: run 'worldcompute node run' first\n",
            dir.path().display()
        );
        assert_eq!((code(&output), text(&output.stderr)), (1, expected), "{args:?}");
    }
    assert!(!Path::new("never").exists());
}

#[test]
fn a_wrong_job_file_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("job.yaml");
    fs::write(&file, "apiVersion: worldcompute/v1\nkind: Job\nmetadata: {name: x}\nspec:\n  replicsa: 3\n")
        .expect("writes");
    let output = worldcompute(dir.path(), &["job", "submit", &file.display().to_string()]);
    let message = text(&output.stderr);
    assert_eq!(code(&output), 1);
    assert!(message.contains("line 5, column 3: `replicsa` is not a known key [WC-FORM-002]"), "{message}");
    assert!(message.contains("  field: spec.replicsa\n  hint: did you mean `replicas`?\n"), "{message}");
    assert!(message.contains("  field: spec.module\n"), "every fault is told: {message}");
    assert!(!dir.path().join("keys").exists(), "no key was made for a job that is none");
}

#[test]
fn a_key_that_others_can_read_stops_a_submission() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, _runtime, _script) = node(Script::default());
    let file = examples().join("hello.yaml").display().to_string();
    assert_eq!(code(&worldcompute(dir.path(), &["job", "submit", &file])), 0);
    let key = dir.path().join("keys/owner.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("sets");
    let output = worldcompute(dir.path(), &["job", "submit", &file]);
    assert_eq!(code(&output), 1);
    assert!(
        text(&output.stderr).contains(&format!("hint: chmod 600 {}", key.display())),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_examples_can_be_submitted_and_a_dry_run_leaves_nothing() {
    let (dir, _runtime, script) = node(Script::default());
    for name in ["hello.yaml", "array.toml", "two-stage.json"] {
        let file = examples().join(name).display().to_string();
        let jobs = script.lock().expect("script").jobs.len();
        let dry = worldcompute(dir.path(), &["job", "submit", &file, "--dry-run", "--json"]);
        assert_eq!(code(&dry), 0, "{}", text(&dry.stderr));
        assert_eq!(script.lock().expect("script").jobs.len(), jobs);
        let output = worldcompute(dir.path(), &["job", "submit", &file]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let job: JobId =
            text(&output.stdout).trim().parse().expect("standard output is the id and nothing else");
        assert_eq!(script.lock().expect("script").view().job, job);
    }
}

#[test]
fn watching_ends_with_the_job() {
    let (dir, _runtime, _script) = node(Script::default());
    let file = examples().join("hello.yaml").display().to_string();
    let output = worldcompute(dir.path(), &["job", "submit", &file, "--watch"]);
    let data = text(&output.stdout);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(data.contains("phase      verified") && data.contains("awarded    2.5 NCU"), "{data}");
    let output = worldcompute(dir.path(), &["job", "submit", &file, "--watch", "--json"]);
    let view: Value = serde_json::from_slice(&output.stdout).expect("is one JSON document");
    assert_eq!(view["phase"].as_str(), Some("verified"));
    let id = view["job"].as_str().expect("its id");
    assert!(text(&output.stderr).contains(id), "whoever does not wait for the end has the id");
    let output = worldcompute(dir.path(), &["job", "status", "job_", "--json"]);
    let view: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((view["phase"].as_str(), view["name"].as_str()), (Some("verified"), Some("hello")));
    assert!(view["submitted_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    let output = worldcompute(dir.path(), &["job", "list"]);
    assert!(text(&output.stdout).contains("hello"), "{}", text(&output.stdout));
}

#[test]
fn map_names_results_after_its_inputs() {
    let (dir, _runtime, script) = node(Script::default());
    let work = tempfile::tempdir().expect("tempdir");
    let inputs = work.path().join("in");
    fs::create_dir(&inputs).expect("makes");
    for name in ["one.txt", "two.txt", "three.txt"] {
        fs::write(inputs.join(name), name).expect("writes");
    }
    fs::write(work.path().join("shout.wasm"), b"\0asm").expect("writes");
    let (module, inputs, out) = (work.path().join("shout.wasm"), inputs, work.path().join("out"));
    let [module, inputs, out_text] = [&module, &inputs, &out].map(|path| path.display().to_string());
    let args = ["map", &module, &inputs, "--output", &out_text, "--arg", "--loud", "--replicas", "5"];
    let output = worldcompute(dir.path(), &args);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    for name in ["one.txt", "two.txt", "three.txt"] {
        assert_eq!(fs::read_to_string(out.join(name).join("shout")).expect("there"), name.to_uppercase());
        assert_eq!(fs::read_to_string(out.join(format!("{name}.out"))).expect("there"), name.to_uppercase());
    }
    {
        let script = script.lock().expect("script");
        let stage = &script.jobs[0].stages[0];
        assert_eq!((stage.tasks, stage.replicas, &*stage.command), (3, 5, &["--loud".to_owned()][..]));
        assert_eq!((&*script.jobs[0].name, &*stage.inputs[0].name), ("shout", "input"));
    }
    // A place that cannot hold the results is found out before there is a job.
    let file = work.path().join("file").display().to_string();
    fs::write(&file, "mine").expect("writes");
    let output = worldcompute(dir.path(), &["map", &module, &inputs, "--output", &file]);
    assert!(code(&output) == 1 && text(&output.stderr).contains("--output"), "{}", text(&output.stderr));
    assert_eq!(script.lock().expect("script").jobs.len(), 1, "nothing was submitted");
    let detached = worldcompute(dir.path(), &["map", &module, &inputs, "--output", &out_text, "--detach"]);
    assert!(text(&detached.stdout).starts_with("job_"), "{}", text(&detached.stderr));
    let fetched = work.path().join("fetched");
    let fetch = ["job", "results", "job_", "--output", &fetched.display().to_string()];
    assert_eq!(code(&worldcompute(dir.path(), &fetch)), 0);
    assert_eq!(fs::read_to_string(fetched.join("00000001/shout")).expect("there"), "THREE.TXT");
}

#[test]
fn a_refusal_of_the_cell_is_shown_with_its_code() {
    let (dir, _runtime, _script) = node(Script { refuse: true, ..Script::default() });
    let file = examples().join("hello.yaml").display().to_string();
    let output = worldcompute(dir.path(), &["job", "submit", &file]);
    assert_eq!(code(&output), 1);
    let expected = "Error: five replicas are the least on nodes that nobody vouches for [WC-POLICY-003]\n  \
                    field: stages[0].replicas\n  hint: ask for 5\n";
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn a_receipt_that_is_none_is_refused_offline() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("x.receipt");
    fs::write(&file, b"not a receipt").expect("writes");
    let output = worldcompute(dir.path(), &["receipt", "verify", &file.display().to_string()]);
    assert_eq!(code(&output), 4);
    assert!(text(&output.stderr).contains("is not a valid receipt"), "{}", text(&output.stderr));
    let output = worldcompute(dir.path(), &["receipt", "verify", &file.display().to_string(), "--json"]);
    let reports: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((code(&output), reports[0]["valid"].as_bool()), (4, Some(false)));
}

#[test]
fn settings_of_the_environment_and_the_file_are_checked() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("config.toml"), "slotz = 3\n").expect("writes");
    let output = worldcompute(dir.path(), &["job", "list"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("did you mean `slots`?"), "{}", text(&output.stderr));
}

//! The real binary anchors its checkpoints in a log that speaks as Rekor does, whatever that log does.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use wc_host::{DataDir, KeyFile};
use wc_ledger::rekor::Api;
use wc_proto::api::view::AnchoringView;
use wc_proto::api::{CellRequest, Response};
use wc_tests::federation::{Federation, binary, guest};
use wc_tests::rekor::{Mood, RekorServer};

/// A coordinator that anchors every second, and the log that it anchors in.
struct Scene {
    federation: Federation,
    log: RekorServer,
    root: PathBuf,
}

impl Scene {
    async fn start(api: Api) -> Self {
        let log = RekorServer::start(api);
        let mut federation = Federation::empty(binary());
        let root = federation.dir.path().join("trusted_root.json");
        fs::write(&root, log.trusted_root()).expect("writes");
        let args = ["--coordinate", "always", "--trusted", "--slots", "0", "--anchor", api.name()];
        let settings = ["--anchor-url", &log.url, "--anchor-interval", "1s", "--trusted-root"];
        federation.add(&[args.as_slice(), &settings, &[root.to_str().expect("text")]].concat());
        let scene = Self { federation, log, root };
        scene.until("a cell", |_| true).await;
        scene
    }

    async fn anchoring(&self) -> AnchoringView {
        self.federation.cluster().await.anchoring.expect("this cell anchors")
    }

    /// Waits until anchoring stands as asked; a node that has just started has no cell yet.
    async fn until(&self, what: &str, holds: impl Fn(&AnchoringView) -> bool) {
        self.federation
            .until(what, async || match self.federation.coordinator().cell(CellRequest::Cluster).await {
                Response::Cluster(view) => view.anchoring.as_ref().is_some_and(&holds),
                _ => false,
            })
            .await;
    }

    /// Makes the ledger grow by admitting a job that nobody will run.
    async fn grow(&self) -> u64 {
        let before = self.federation.cluster().await.ledger_size;
        self.federation.submit(&guest("hello"), |_| {}).await;
        self.federation
            .until("the ledger grows", async || self.federation.cluster().await.ledger_size > before)
            .await;
        self.federation.cluster().await.ledger_size
    }

    /// Makes the ledger grow and waits until that is anchored.
    async fn grow_and_anchor(&self) -> u64 {
        let size = self.grow().await;
        self.until("the newest entry is anchored", |view| view.anchored_size >= size).await;
        size
    }

    fn anchors(&self) -> Vec<Value> {
        let listed = self.federation.coordinator().json(&["ledger", "anchors", "--limit", "1000"]);
        listed["anchors"].as_array().expect("a list").clone()
    }

    /// Exports an anchor and checks the file as a stranger does, with another process and no node.
    fn check_as_a_stranger(&self, id: u64) -> Value {
        let node = self.federation.coordinator();
        let file = self.federation.dir.path().join(format!("anchor-{id}.json"));
        let path = file.to_str().expect("text");
        node.json(&["ledger", "anchors", "export", &id.to_string(), "--output", path]);
        let root = self.root.to_str().expect("text");
        let verify = |path: &str| {
            node.command(&["--json", "ledger", "anchors", "verify", path, "--trusted-root", root])
        };
        let output = verify(path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");

        let mut bytes = fs::read(&file).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let forged = self.federation.dir.path().join("forged.json");
        fs::write(&forged, bytes).expect("writes");
        let output = verify(forged.to_str().expect("text"));
        assert_eq!(output.status.code(), Some(4), "a flipped bit must not verify");
        let output = node.command(&["ledger", "anchors", "verify", path]);
        assert_eq!(output.status.code(), Some(3), "the pinned root does not know this log");
        report[0].clone()
    }
}

#[tokio::test]
async fn checkpoints_are_anchored_in_v1_through_an_outage_and_a_crash() {
    let mut scene = Scene::start(Api::V1).await;
    let size = scene.grow_and_anchor().await;
    let rows = scene.anchors();
    assert_eq!(rows[0]["state"], "anchored", "{rows:?}");
    assert!(rows[0]["checkpoint_size"].as_u64() >= Some(size), "{rows:?}");
    assert!(rows[0]["entry_id"].as_str().is_some_and(|id| id.len() == 80), "{rows:?}");
    let id = rows[0]["id"].as_u64().expect("a number");
    let report = scene.check_as_a_stranger(id);
    assert_eq!(report["log_index"], rows[0]["log_index"]);
    assert!(report["integrated_at"].is_string(), "{report}");

    // An owner's check of its own history takes the anchor in, if it trusts the log.
    scene.grow_and_anchor().await;
    let node = scene.federation.coordinator();
    let root = scene.root.to_str().expect("text");
    let checked = node.json(&["donor", "credits", "--verify", "--trusted-root", root]);
    let checks = checked["checks"].as_array().expect("a list");
    let anchor = checks.iter().find(|check| check["check"] == "anchor").expect("it is checked");
    assert_eq!(anchor["outcome"], "pass", "{checked}");
    assert!(
        anchor["detail"].as_str().is_some_and(|detail| detail.contains("this log continues")),
        "{checked}"
    );
    let output = node.command(&["donor", "credits", "--verify"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "the pinned logs are others: {told}");
    assert!(told.contains("open  anchor") && told.contains("--trusted-root"), "{told}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Verification: UNDECIDED"));

    // Nothing new, nothing anchored.
    let entries = scene.log.size();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(scene.log.size(), entries, "a ledger that does not grow is not anchored again");

    // An outage: the ledger goes on, the alarm comes, one anchor covers all.
    scene.log.be(Mood::Away);
    scene.grow().await;
    scene.until("the alarm", |view| view.state == "overdue" || view.state == "missed").await;
    let newest = scene.grow().await;
    scene.until("the urgent alarm", |view| view.state == "missed" && view.failures > 2).await;
    let status = scene.federation.coordinator().command(&["cluster", "status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("MISSED (P1)"), "{text}");
    assert!(scene.federation.coordinator().logged().contains("P1"));

    // A crash in the middle of it: the alarm does not go away by a restart.
    scene.federation.nodes[0].kill();
    scene.federation.nodes[0].start();
    scene.until("the alarm after a restart", |view| view.state == "missed").await;
    let before = scene.anchors().len();
    scene.log.be(Mood::Well);
    scene.until("all is caught up", |view| view.state == "level" && view.anchored_size >= newest).await;
    assert_eq!(scene.anchors().len(), before + 1, "one anchor covers everything that waited");
    assert_eq!(scene.check_as_a_stranger(id)["valid"], true, "an anchor survives a crash");

    // An answer that is lost: the log has the entry already, and it is fetched by its id.
    scene.log.be(Mood::LosesAnswers);
    scene.grow_and_anchor().await;
    let requests = scene.log.requests();
    assert!(
        requests.iter().any(|line| line.starts_with("GET /api/v1/log/entries/108e9186e8c5677a")),
        "{requests:?}"
    );
    scene.log.be(Mood::LateProof);
    scene.grow_and_anchor().await;
}

#[tokio::test]
async fn anchors_go_on_when_the_signers_change_and_change_back() {
    let mut scene = Scene::start(Api::V1).await;
    scene.grow_and_anchor().await;
    scene.federation.add(&["--coordinate", "never", "--consent", "none", "--slots", "1", "--cosigner"]);
    scene.federation.joined(1).await;
    let key = DataDir::new(&scene.federation.nodes[1].dir).expect("directory").node_key();
    let other = KeyFile::load(&key).expect("a key").node_id().to_string();
    let mut keys: Vec<String> = Vec::new();
    for args in [["2", other.as_str()].as_slice(), &["1"]] {
        let set = [&["cluster", "signers", "set", "--threshold"], args].concat();
        let set = scene.federation.coordinator().command(&set);
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        scene.grow_and_anchor().await;
        let view = scene.anchoring().await;
        assert!(view.flagged.is_empty() && view.failures == 0, "{view:?}");
        let id = scene.anchors()[0]["id"].as_u64().expect("a number");
        scene.check_as_a_stranger(id);
        // What is anchored is signed by the signers in force, whose key the published head tells.
        let log = scene.federation.coordinator().dir.join("log");
        let head = scene.federation.coordinator().json(&["ledger", "verify", log.to_str().expect("text")]);
        let key = head["key"].as_str().expect("a key").to_owned();
        let file = scene.federation.dir.path().join(format!("anchor-{id}.json"));
        let (file, root) = (file.to_str().expect("text"), scene.root.to_str().expect("text"));
        let verify = ["ledger", "anchors", "verify", file, "--trusted-root", root, "--cell-key"];
        let output = scene.federation.coordinator().command(&[verify.as_slice(), &[&key]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if let Some(earlier) = keys.last() {
            let output = scene.federation.coordinator().command(&[verify.as_slice(), &[earlier]].concat());
            assert_eq!(output.status.code(), Some(4), "the signers before them did not sign this");
        }
        keys.push(key);
    }
}

#[tokio::test]
async fn checkpoints_are_anchored_in_v2_and_a_lost_answer_is_made_good_from_tiles() {
    let scene = Scene::start(Api::V2).await;
    scene.grow_and_anchor().await;
    let rows = scene.anchors();
    let report = scene.check_as_a_stranger(rows[0]["id"].as_u64().expect("a number"));
    assert_eq!(report["api"], "rekor-v2");
    assert!(report["integrated_at"].is_null(), "v2 holds no moment: {report}");
    let listed = scene.federation.coordinator().command(&["ledger", "anchors"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("by the coordinator's clock"), "whose moment it is stands beside it: {listed}");

    scene.log.be(Mood::LosesAnswers);
    scene.grow_and_anchor().await;
    let requests = scene.log.requests();
    for path in ["checkpoint", "tile/entries/000.p/", "tile/0/000.p/"] {
        let asked = requests.iter().any(|line| line.starts_with(&format!("GET /api/v2/{path}")));
        assert!(asked, "{path} was never asked for: {requests:?}");
    }
    let rows = scene.anchors();
    scene.check_as_a_stranger(rows[0]["id"].as_u64().expect("a number"));

    for mood in [Mood::Busy(429), Mood::Busy(503), Mood::Endless] {
        scene.log.be(mood);
        scene.grow().await;
        scene.until("a try comes to nothing", |view| view.failures > 0 && view.last_failure.is_some()).await;
        let view = scene.anchoring().await;
        assert!(view.flagged.is_empty(), "an outage is no reason to call an operator: {view:?}");
        scene.log.be(Mood::Well);
        scene.until("all is caught up", |view| view.state == "level").await;
    }
    scene.log.be(Mood::Slow(std::time::Duration::from_secs(2)));
    scene.grow_and_anchor().await;
}

#[tokio::test]
async fn answers_that_do_not_verify_are_flagged_until_the_operator_has_looked() {
    let scene = Scene::start(Api::V1).await;
    scene.grow_and_anchor().await;
    for (mood, why) in [
        (Mood::WrongKey, "which the trusted root does not name"),
        (Mood::WrongEntry, "is malformed"),
        (Mood::Garbage, "is malformed"),
    ] {
        scene.log.be(mood);
        scene.grow().await;
        scene.until("the anchor is flagged", |view| !view.flagged.is_empty()).await;
        let view = scene.anchoring().await;
        let rows = scene.anchors();
        let row = rows.iter().find(|row| row["state"] == "flagged").expect("it is listed");
        let id = row["id"].as_u64().expect("a number");
        assert_eq!(view.flagged, [id]);
        assert!(row["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{mood:?}: {row}");
        let node = scene.federation.coordinator();
        let file = scene.federation.dir.path().join("never.json");
        let export = node.command(&[
            "ledger",
            "anchors",
            "export",
            &id.to_string(),
            "--output",
            file.to_str().expect("text"),
        ]);
        assert_eq!(export.status.code(), Some(1), "what was never proved is not handed out");

        // It stays flagged when the log is well again, until an operator says so.
        scene.log.be(Mood::Well);
        scene.until("all is caught up", |view| view.state == "level").await;
        assert_eq!(scene.anchoring().await.flagged, [id]);
        let clear = |id: u64| node.command(&["ledger", "anchors", "clear", &id.to_string()]);
        assert_eq!(clear(id + 1_000).status.code(), Some(1), "there is no such anchor");
        assert!(clear(id).status.success());
        assert!(scene.anchoring().await.flagged.is_empty());
        assert_eq!(clear(id).status.code(), Some(1), "it is not flagged any more");
    }
}

#[tokio::test]
async fn a_cell_that_was_not_told_to_anchors_nothing_and_does_not_nag() {
    let mut federation = Federation::empty(binary());
    federation.add(&["--coordinate", "always", "--slots", "0"]);
    federation
        .until("a cell", async || federation.coordinator().command(&["cluster", "status"]).status.success())
        .await;
    assert_eq!(federation.cluster().await.anchoring, None);
    let listed = federation.coordinator().command(&["ledger", "anchors"]);
    assert!(listed.status.success());
    assert!(String::from_utf8_lossy(&listed.stderr).contains("this cell has no anchors"));
    assert!(!federation.coordinator().logged().contains("anchor"), "{}", federation.logs());
}

//! Entries per second onto the ledger: durable, hashed into the tree, published as tiles; and etcd beside us.
//!
//! `cargo bench -p wc-benches --bench append`. `WC_ENTRIES` (200000), `WC_CLIENTS` (1000), `WC_DIR` (a temporary
//! directory: name one on the disk that is meant), `WC_ETCD_LOAD` (xl; one of s, m, l, xl, or `none`).
//!
//! Each client hands in one entry and waits for its acknowledgement before the next. An acknowledgement follows the
//! commit of the journal (one fdatasync for all that waited) and the entry's place in tree and tables, as in a
//! coordinator. Beside it, as there, tiles and a signed checkpoint are published every second; the time ends with the
//! publication that covers the last entry. etcd is measured with its own `etcdctl check perf`, whose clients do the
//! same with values of 1 KiB, at the rate that the load names.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wc_benches::setting;
use wc_ledger::merkle::hash_leaf;
use wc_ledger::{Book, Checkpoint, Hash, Tree, check_link};
use wc_node::{ArchiveError, LogSource, LogTree};
use wc_store::{Change, Store, StoreConfig, Table};
use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::{AccountId, CellId, JobId, SigningKey, Timestamp, record_cid, to_canonical};

/// Entries that share one commit at most, as in a coordinator.
const BATCH_MAX: usize = 4096;

/// The tables of a coordinator's archive.
#[derive(Clone)]
struct Shelf {
    entries: Table,
    hashes: Table,
}

fn hash_key(level: u8, index: u64) -> Vec<u8> {
    [&[level], index.to_be_bytes().as_slice()].concat()
}

impl LogSource for Shelf {
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        Ok(self.entries.get(&index.to_be_bytes())?)
    }

    fn hash(&self, level: u8, index: u64) -> Result<Option<Hash>, ArchiveError> {
        Ok(self.hashes.get(&hash_key(level, index))?.and_then(|bytes| bytes.as_slice().try_into().ok()))
    }
}

type Handed = (AccountId, oneshot::Sender<u64>);

/// Numbers, links, posts, hashes, keeps and commits entries until nobody hands any in.
fn append(handed: &mpsc::Receiver<Handed>, store: &Store, shelf: &Shelf, state: &Mutex<(u64, Hash)>) {
    let cell = CellId([5; 32]);
    let founding = wc_types::cid::cid_from_digest(wc_types::cid::CODEC_DAG_CBOR, cell.0);
    let (mut tree, mut book, mut last) = (Tree::new(), Book::new(None), None::<Entry>);
    let mut batches = 0u64;
    while let Ok(first) = handed.recv() {
        let batch: Vec<Handed> =
            std::iter::once(first).chain(handed.try_iter().take(BATCH_MAX - 1)).collect();
        let (mut rows, mut leaves, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        let begin = tree.size();
        for (account, _) in &batch {
            let postings = vec![
                Posting { holder: Holder::Issuance, amount: -1 },
                Posting { holder: Holder::Account(*account), amount: 1 },
            ];
            let entry = Entry {
                cell,
                index: tree.size(),
                previous: last.as_ref().map(record_cid),
                at: Timestamp(0),
                kind: match tree.size() {
                    0 => EntryKind::CellFounded { founding },
                    1 => EntryKind::JobAdmitted { job: JobId([1; 32]), manifest: founding },
                    index => {
                        let index = index as u32;
                        EntryKind::TaskAccepted { job: JobId([1; 32]), stage: 0, index, verdict: founding }
                    }
                },
                postings: if tree.size() < 2 { Vec::new() } else { postings },
            };
            check_link(last.as_ref(), &entry).expect("links");
            book.apply(&entry).expect("posts");
            let leaf = to_canonical(&entry);
            tree.push_with(hash_leaf(&leaf), |level, index, hash| {
                hashes.push(Change::Put { key: hash_key(level, index), value: hash.to_vec() });
            });
            leaves.push(Change::Put { key: entry.index.to_be_bytes().to_vec(), value: leaf.clone() });
            rows.push(leaf);
            last = Some(entry);
        }
        store.journal().append(begin, &rows).expect("appends");
        shelf.entries.apply(leaves).expect("keeps");
        shelf.hashes.apply(hashes).expect("keeps");
        store.journal().commit().expect("commits");
        *state.lock().expect("nobody panics") = (tree.size(), tree.root());
        batches += 1;
        for (index, (_, answer)) in (begin..).zip(batch) {
            let _ = answer.send(index);
        }
    }
    println!("  {} commits, {:.0} entries each", batches, tree.size() as f64 / batches.max(1) as f64);
}

/// Publishes what is there; returns its size.
fn publish(tree: &LogTree, from: u64, shelf: &Shelf, state: &Mutex<(u64, Hash)>, key: &SigningKey) -> u64 {
    let (size, root) = *state.lock().expect("nobody panics");
    if size > from {
        tree.extend(from, size, shelf).expect("writes tiles");
        let note = Checkpoint::new(&CellId([5; 32]), size, root).sign(key).expect("signs");
        tree.publish(&note.to_string()).expect("publishes");
        tree.prune(from, size).expect("prunes");
    }
    size
}

async fn ours(entries: u64, clients: u64, dir: &std::path::Path) {
    let store = Store::open(StoreConfig::new(dir.join("store"), 1 << 30, Arc::new(|| 0))).expect("opens");
    let shelf = Shelf {
        entries: store.table("entries").expect("opens"),
        hashes: store.table("tree").expect("opens"),
    };
    let state = Arc::new(Mutex::new((0, [0; 32])));
    let (hand, handed) = mpsc::sync_channel::<Handed>(4096);
    let appending = {
        let (shelf, state) = (shelf.clone(), state.clone());
        std::thread::spawn(move || append(&handed, &store, &shelf, &state))
    };
    let publishing = {
        let (tree, state) = (LogTree::open(dir.join("log")).expect("opens"), state.clone());
        std::thread::spawn(move || {
            let key = SigningKey::from_seed(&[1; 32]);
            let (mut from, mut longest) = (0, Duration::ZERO);
            while from < entries {
                std::thread::sleep(if from == 0 { Duration::ZERO } else { Duration::from_millis(250) });
                let begun = Instant::now();
                from = publish(&tree, from, &shelf, &state, &key);
                longest = longest.max(begun.elapsed());
            }
            longest
        })
    };
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let hand = hand.clone();
        let share = entries / clients + u64::from(client < entries % clients);
        tasks.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for _ in 0..share {
                let begun = Instant::now();
                let (answer, answered) = oneshot::channel();
                let mut account = [0; 32];
                account[..8].copy_from_slice(&client.to_be_bytes());
                let mut item = (AccountId(account), answer);
                while let Err(mpsc::TrySendError::Full(back)) = hand.try_send(item) {
                    item = back;
                    tokio::task::yield_now().await;
                }
                answered.await.expect("acknowledged");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        }));
    }
    drop(hand);
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("a client ends"));
    }
    let durable = begun.elapsed();
    let longest = publishing.join().expect("publishes");
    let published = begun.elapsed();
    appending.join().expect("appends");
    let rate = |took: Duration| entries as f64 / took.as_secs_f64();
    println!("ours: {entries} entries of {clients} clients");
    println!(
        "  durable and integrated: {:.0} entries/s, slowest {:.1} ms",
        rate(durable),
        slowest.as_secs_f64() * 1e3
    );
    println!(
        "  published in tiles under a signed checkpoint: {:.0} entries/s, longest round {:.0} ms",
        rate(published),
        longest.as_secs_f64() * 1e3
    );
}

fn etcd(load: &str, dir: &std::path::Path) {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    let (client, peer) = (free(), free());
    let started = Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--name", "one", "--initial-cluster", &format!("one={peer}")])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut server) = started else {
        println!("SKIP etcd: there is none (Debian: etcd-server etcd-client)");
        return;
    };
    std::thread::sleep(Duration::from_secs(3));
    let measured = Command::new("etcdctl")
        .args(["--endpoints", &client, "check", "perf", "--load", load])
        .env("ETCDCTL_API", "3")
        .output();
    server.kill().expect("our own child");
    server.wait().expect("our own child");
    match measured {
        Ok(output) => {
            println!("etcd: etcdctl check perf --load {load}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            for line in text.split(['\n', '\r']).filter(|line| line.contains("PASS") || line.contains("FAIL"))
            {
                println!("  {}", line.trim());
            }
        }
        Err(error) => println!("SKIP etcd: etcdctl does not run: {error}"),
    }
}

#[tokio::main]
async fn main() {
    let entries = setting("WC_ENTRIES", 200_000) as u64;
    let clients = (setting("WC_CLIENTS", 1000) as u64).max(1);
    // This program is what it measures: no other binary has to be there.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before the run {}", load.split(' ').next().unwrap_or("?"));
    let dir = match std::env::var_os("WC_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a directory");
    ours(entries, clients, dir.path()).await;
    match std::env::var("WC_ETCD_LOAD").as_deref().unwrap_or("xl") {
        "none" => {}
        load => etcd(load, dir.path()),
    }
}

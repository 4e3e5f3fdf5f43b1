//! A transparency log on loopback that speaks as Rekor does, v1 or v2, over a real Merkle tree and a real key, and that
//! can be away, slow, busy, confused or dishonest.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wc_ledger::rekor::Api;

#[path = "../../crates/core/wc-ledger/tests/fixture/log.rs"]
pub mod log;

use log::TestLog;

/// How the log behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Well,
    /// Hangs up on everybody.
    Away,
    /// Answers, after this long.
    Slow(Duration),
    /// Has no time: status 503, or 429 with a wait of a second.
    Busy(u16),
    /// Takes the entry and hangs up before it has answered.
    LosesAnswers,
    /// Answers yes, and then nonsense.
    Garbage,
    /// Answers without end.
    Endless,
    /// Signs with another key than the trusted root names.
    WrongKey,
    /// Answers with the entry of somebody else, which is really there.
    WrongEntry,
    /// Takes the entry, and shows it without its proof at first (v1).
    LateProof,
}

struct Inner {
    log: TestLog,
    forger: TestLog,
    mood: Mood,
    requests: Vec<String>,
}

/// A running log. It serves until the process ends.
#[derive(Clone)]
pub struct RekorServer {
    inner: Arc<Mutex<Inner>>,
    /// Where it is.
    pub url: String,
}

impl RekorServer {
    /// Starts a log.
    pub fn start(api: Api) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let inner = Inner {
            log: TestLog::new(api, 21),
            forger: TestLog::new(api, 22),
            mood: Mood::Well,
            requests: Vec::new(),
        };
        let server = Self { inner: Arc::new(Mutex::new(inner)), url };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how it behaves from the next request on.
    pub fn be(&self, mood: Mood) {
        self.inner().mood = mood;
    }

    /// Returns the first lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }

    /// Returns how many entries the log has.
    pub fn size(&self) -> u64 {
        self.inner().log.size()
    }

    /// Returns a trusted root that names this log.
    pub fn trusted_root(&self) -> Vec<u8> {
        self.inner().log.trusted_root("2020-01-01T00:00:00Z", None)
    }

    /// One connection, one request.
    fn serve(&self, stream: TcpStream) {
        let Some((line, body)) = read_request(&stream) else { return };
        let mood = {
            let mut inner = self.inner();
            inner.requests.push(line.clone());
            inner.mood
        };
        let mut stream = stream;
        let mut say = |status: &str, headers: &str, body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        };
        match mood {
            Mood::Away => return,
            Mood::Slow(time) => std::thread::sleep(time),
            Mood::Busy(429) => return say("429 Too Many Requests", "retry-after: 1\r\n", b"later"),
            Mood::Busy(status) => return say(&format!("{status} Busy"), "", b"later"),
            Mood::Garbage => return say("201 Created", "", b"<html>please log in</html>"),
            Mood::Endless => return say("201 Created", "", &vec![b'['; 4 << 20]),
            _ => {}
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let answer = self.inner().answer(method, path, &body);
        if mood == Mood::LosesAnswers && method == "POST" && answer.0.starts_with("201") {
            return;
        }
        say(answer.0, &answer.1, &answer.2);
    }
}

type Answer = (&'static str, String, Vec<u8>);

impl Inner {
    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let api = self.log.api;
        let missing = ("404 Not Found", String::new(), b"no such thing".to_vec());
        let post = match api {
            Api::V1 => "/api/v1/log/entries",
            Api::V2 => "/api/v2/log/entries",
        };
        if method == "POST" && path == post {
            return self.take(body);
        }
        let found = match api {
            Api::V1 => path.strip_prefix("/api/v1/log/entries/").and_then(|id| {
                let index = (0..self.log.size()).find(|index| id.ends_with(&self.log.uuid(*index)))?;
                serde_json::to_vec(&self.log.answer_v1(index)).ok()
            }),
            Api::V2 => path.strip_prefix("/api/v2/").and_then(|path| self.tile(path)),
        };
        match found {
            Some(body) if method == "GET" => ("200 OK", String::new(), body),
            _ => missing,
        }
    }

    fn take(&mut self, request: &[u8]) -> Answer {
        let body = match self.log.body_of_request(request) {
            Ok(body) => body,
            Err(reason) => return ("400 Bad Request", String::new(), reason.into_bytes()),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.mood == Mood::WrongKey {
            let index = self.forger.append(body, now);
            return created(self.forger_answer(index));
        }
        if self.mood == Mood::WrongEntry {
            return created(self.entry(0));
        }
        let index = (0..self.log.size()).find(|index| self.log.body(*index) == body);
        if let Some(index) = index {
            let headers = match self.log.api {
                Api::V1 => format!("location: /api/v1/log/entries/{}\r\n", self.log.uuid(index)),
                Api::V2 => format!("x-log-index: {index}\r\n"),
            };
            return ("409 Conflict", headers, b"{\"code\":409}".to_vec());
        }
        let index = self.log.append(body, now);
        let mut answer = self.entry(index);
        if self.mood == Mood::LateProof
            && let Some(entry) = answer.as_object_mut().and_then(|entries| entries.values_mut().next())
        {
            entry["verification"] = json!({});
        }
        created(answer)
    }

    fn entry(&self, index: u64) -> Value {
        match self.log.api {
            Api::V1 => self.log.answer_v1(index),
            Api::V2 => self.log.answer_v2(index),
        }
    }

    fn forger_answer(&self, index: u64) -> Value {
        match self.forger.api {
            Api::V1 => self.forger.answer_v1(index),
            Api::V2 => self.forger.answer_v2(index),
        }
    }

    fn tile(&self, path: &str) -> Option<Vec<u8>> {
        if path == "checkpoint" {
            return Some(self.log.checkpoint().into_bytes());
        }
        let (level, name) = path.strip_prefix("tile/")?.split_once('/')?;
        // A log of a test never has more than 999 tiles.
        let (index, width) = match name.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok()?),
            None => (name, 256),
        };
        let index = index.parse().ok()?;
        match level {
            "entries" => self.log.bundle(index, width),
            level => self.log.tile(level.parse().ok()?, index, width),
        }
    }
}

fn created(answer: Value) -> Answer {
    ("201 Created", String::new(), answer.to_string().into_bytes())
}

/// Reads the first line and the body of a request.
fn read_request(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first.trim_end().to_owned(), body))
}

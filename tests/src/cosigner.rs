//! A co-signer that a test plays itself: it takes part in making keys as it should, and signs as it is told to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use wc_ledger::threshold::generate::{Dealing, KeyGeneration, KeyShare};
use wc_ledger::threshold::handover::{next_keys, verify_chain};
use wc_ledger::threshold::sign::{Member, Nonces};
use wc_ledger::threshold::{Seed, SignerKeys};
use wc_mesh::MeshStream;
use wc_proto::frame::{self, PREFIX_BYTES};
use wc_proto::limit::SIGNERS_BYTES_MAX;
use wc_proto::peer::signers::{Purpose, SignerAnswer, SignerRequest};
use wc_proto::version;
use wc_types::charter::cell_id;
use wc_types::cid::sha256;
use wc_types::signers::SignerOrder;
use wc_types::{Cid, Class, Code, NodeId, Refusal, Signed};

use crate::peer::Peer;

/// How it behaves when a checkpoint is to be signed. Whatever it is, it makes keys and hands over as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Honest,
    /// It sends a part that is not one.
    BadShare,
    /// It promises to take part, and then is silent.
    Stalls,
    /// It says that it has signed another history.
    Refuses,
}

/// A machine with a share that exists only in the test.
pub struct Cosigner {
    /// Who it is.
    pub peer: Arc<Peer>,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    peer: Arc<Peer>,
    manner: Mutex<Manner>,
    shares: Mutex<HashMap<Cid, Vec<u8>>>,
    asked: AtomicU32,
    seeds: AtomicU32,
}

impl Drop for Cosigner {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Cosigner {
    /// Begins to answer a coordinator.
    pub fn start(peer: Peer) -> Self {
        let peer = Arc::new(peer);
        let state = Arc::new(State {
            peer: peer.clone(),
            manner: Mutex::new(Manner::Honest),
            shares: Mutex::default(),
            asked: AtomicU32::new(0),
            seeds: AtomicU32::new(0),
        });
        let mut incoming = peer.mesh.accept(version::SIGNERS).expect("nobody else accepts");
        let serving = {
            let state = state.clone();
            tokio::spawn(async move {
                while let Some((_, stream)) = incoming.recv().await {
                    tokio::spawn(state.clone().converse(stream));
                }
            })
        };
        Self { peer, state, serving }
    }

    /// Returns who it is.
    pub fn node(&self) -> NodeId {
        self.peer.node()
    }

    /// Behaves otherwise from now on.
    pub fn behave(&self, manner: Manner) {
        *self.state.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Returns how often it was asked for its part of a checkpoint.
    pub fn asked(&self) -> u32 {
        self.state.asked.load(Ordering::Relaxed)
    }
}

enum Step {
    Fresh,
    Generating(Box<KeyGeneration>, Box<Signed<SignerOrder>>),
    Dealing(Box<Dealing>, Box<Signed<SignerOrder>>),
    Committed(Box<Member>, Nonces, bool),
}

fn other_history() -> SignerAnswer {
    let code = Code::new("WC-LEDGER-150", Class::Peer);
    let refusal = Refusal::new(code, "the log does not continue the one that was signed");
    SignerAnswer::Refused { refusal, culprits: Vec::new() }
}

impl State {
    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(self: Arc<Self>, mut stream: MeshStream) {
        let mut step = Step::Fresh;
        while let Some(request) = read(&mut stream).await {
            let Some((next, answer)) = self.answer(step, request) else {
                // Stalls: the stream stays open.
                std::future::pending::<()>().await;
                return;
            };
            step = next;
            if write(&mut stream, &answer).await.is_none() {
                return;
            }
        }
    }

    fn share(&self, keys: SignerKeys, order: &Cid) -> Member {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = KeyShare::from_bytes(shares.get(order).expect("it took part")).expect("its own share");
        Member::with_share(keys, &share).expect("of this set")
    }

    fn answer(&self, step: Step, request: SignerRequest) -> Option<(Step, SignerAnswer)> {
        let seed = || {
            // Never the same twice, which is all that a test needs.
            let number = self.seeds.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            Seed::new(sha256(&[self.peer.key.to_seed().as_slice(), &number].concat()))
        };
        Some(match (step, request) {
            (Step::Fresh, SignerRequest::Begin { order, .. }) => {
                let (part, commitment) =
                    KeyGeneration::begin(&order, &self.peer.key, seed()).expect("a member");
                let answer = SignerAnswer::Commitment { commitment: Box::new(commitment) };
                (Step::Generating(Box::new(part), order), answer)
            }
            (Step::Generating(part, order), SignerRequest::Commitments { commitments }) => {
                let (part, shares) = part.deal(&commitments).expect("all are honest here");
                (Step::Dealing(Box::new(part), order), SignerAnswer::Shares { shares })
            }
            (Step::Dealing(part, order), SignerRequest::Shares { shares }) => {
                let share = part.collect(&shares).expect("all are honest here");
                let set = Box::new(share.set(&order).expect("its own order"));
                let mut kept = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
                kept.insert(share.order(), share.to_bytes().to_vec());
                (Step::Fresh, SignerAnswer::Ready { set })
            }
            (Step::Fresh, SignerRequest::Commit { founding, chain, purpose }) => {
                let keys = verify_chain(&founding, &chain).expect("a true chain");
                let member = match &purpose {
                    Purpose::Accept { set, order } => {
                        let next = next_keys(&keys, &cell_id(&founding), set).expect("the next set");
                        self.share(next, &order.cid())
                    }
                    _ => self.share(keys, &chain.last().expect("several").set.order),
                };
                let (nonces, commitment) = member.commit(seed());
                let ordinary = matches!(purpose, Purpose::Checkpoint);
                let step = Step::Committed(Box::new(member), nonces, ordinary);
                (step, SignerAnswer::Committed { commitment, head: None })
            }
            (step @ Step::Committed(..), SignerRequest::Agree { .. }) => match self.manner() {
                Manner::Stalls => return None,
                Manner::Refuses => (Step::Fresh, other_history()),
                Manner::Honest | Manner::BadShare => (step, SignerAnswer::Agreed),
            },
            (Step::Committed(..), SignerRequest::Remember { .. }) => match self.manner() {
                Manner::Stalls => return None,
                Manner::Refuses => (Step::Fresh, other_history()),
                Manner::Honest | Manner::BadShare => (Step::Fresh, SignerAnswer::Remembered),
            },
            (Step::Committed(member, nonces, ordinary), SignerRequest::Sign { request, .. }) => {
                let manner = if ordinary { self.manner() } else { Manner::Honest };
                if ordinary {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                }
                let mut share = member.sign(nonces, &request).expect("it was asked rightly");
                match manner {
                    Manner::Honest => {}
                    Manner::BadShare => share.share[0] ^= 1,
                    Manner::Stalls => return None,
                    Manner::Refuses => return Some((Step::Fresh, other_history())),
                }
                (Step::Fresh, SignerAnswer::Signed { share })
            }
            (_, SignerRequest::Learn { .. }) => (Step::Fresh, SignerAnswer::Learned { destroyed: 0 }),
            _ => panic!("the coordinator asks in another order"),
        })
    }
}

async fn read(stream: &mut MeshStream) -> Option<SignerRequest> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame::body_bytes(prefix, SIGNERS_BYTES_MAX).ok()?];
    stream.read_exact(&mut body).await.ok()?;
    frame::decode(&body).ok()
}

async fn write(stream: &mut MeshStream, message: &SignerAnswer) -> Option<()> {
    let frame = frame::encode(message, SIGNERS_BYTES_MAX).expect("small");
    stream.write_all(&frame).await.ok()?;
    stream.flush().await.ok()
}

//! The coordinator's conversations with signers: a part in a signature, a part in making a key, news of a hand-over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_bytes::ByteArray;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wc_proto::limit::SIGNERS_BYTES_MAX;
use wc_proto::peer::signers::{SignerAnswer, SignerRequest};
use wc_proto::version;
use wc_types::signers::{
    Handover, KeyCommitment, NonceCommitment, SealedShare, SignatureShare, SignedHead, SignerOrder, SignerSet,
};
use wc_types::{NodeId, Signed};

use super::conduct::Failing;
use crate::coordinator::Coordinator;
use crate::link;

/// Longest that one question to one signer takes. After it the others are asked without it.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a member that is needed for a key is sought.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// Room in the pipe between the coordinator and its own signer.
const LOCAL_BYTES: usize = 64 << 10;

/// A stream to a signer, whether it is in this process or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One signer's part in a signature, between its two messages.
pub(super) struct Taking {
    wire: Box<dyn Wire>,
    /// To its nonces.
    pub commitment: NonceCommitment,
    /// What it remembers as signed last.
    pub head: Option<SignedHead>,
}

async fn open(coordinator: &Arc<Coordinator>, node: NodeId) -> Result<Box<dyn Wire>, String> {
    if node == coordinator.node() {
        let (ours, theirs) = tokio::io::duplex(LOCAL_BYTES);
        tokio::spawn(coordinator.notary.signer().serve(node, theirs));
        return Ok(Box::new(ours));
    }
    match tokio::time::timeout(ANSWER_MAX, coordinator.mesh.open(node, version::SIGNERS)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it cannot be reached".to_owned()),
    }
}

/// Opens a stream to a member that may be on its way back: making a key needs every one of them, and can wait a little.
async fn open_again(coordinator: &Arc<Coordinator>, node: NodeId) -> Result<Box<dyn Wire>, String> {
    let until = Instant::now() + BACK_WITHIN;
    loop {
        match open(coordinator, node).await {
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(250)).await,
            opened => return opened,
        }
    }
}

/// Asks one question and returns the answer; a refusal is an error.
async fn ask(wire: &mut Box<dyn Wire>, request: &SignerRequest) -> Result<SignerAnswer, Failing> {
    let asked = async {
        link::write(wire, request, SIGNERS_BYTES_MAX).await?;
        link::read(wire, SIGNERS_BYTES_MAX).await
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(SignerAnswer::Refused { refusal, culprits })) => Err(Failing::refused(&refusal, &culprits)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error.is_misbehaviour() => Err(Failing::Wrong(error.to_string())),
        Ok(Err(error)) => Err(Failing::Absent(error.to_string())),
        Err(_) => Err(Failing::Absent(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
    }
}

const UNEXPECTED: &str = "it answered something else";

/// Asks one signer to take part.
pub(super) async fn take(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    commit: &SignerRequest,
) -> Result<Taking, Failing> {
    let mut wire = open(coordinator, node).await.map_err(Failing::Absent)?;
    match ask(&mut wire, commit).await? {
        SignerAnswer::Committed { commitment, head } if commitment.node == node => {
            Ok(Taking { wire, commitment, head })
        }
        _ => Err(Failing::Wrong(UNEXPECTED.to_owned())),
    }
}

/// Asks all of `nodes` at once to take part in one signature. Their answers come as they come; it ends with the last.
pub(super) fn begin(
    coordinator: &Arc<Coordinator>,
    nodes: &[NodeId],
    commit: &SignerRequest,
) -> mpsc::Receiver<(NodeId, Result<Taking, Failing>)> {
    let (answers, receiver) = mpsc::channel(nodes.len().max(1));
    for node in nodes.iter().copied() {
        let (coordinator, commit, answers) = (coordinator.clone(), commit.clone(), answers.clone());
        tokio::spawn(async move {
            tokio::select! {
                answer = take(&coordinator, node, &commit) => drop(answers.send((node, answer)).await),
                // Whoever asked has heard enough.
                () = answers.closed() => {}
            }
        });
    }
    receiver
}

/// Asks for the second half of a signer's part.
pub(super) async fn finish(mut part: Taking, sign: &SignerRequest) -> Result<SignatureShare, Failing> {
    match ask(&mut part.wire, sign).await? {
        SignerAnswer::Signed { share } if share.node == part.commitment.node => Ok(share),
        _ => Err(Failing::Wrong(UNEXPECTED.to_owned())),
    }
}

/// Asks a signer whether it would sign the log as it stands. Its part is still open then, for it to [`remember`].
pub(super) async fn agree(
    part: &mut Taking,
    checkpoint: String,
    consistency: Vec<ByteArray<32>>,
) -> Result<(), Failing> {
    match ask(&mut part.wire, &SignerRequest::Agree { checkpoint, consistency }).await? {
        SignerAnswer::Agreed => Ok(()),
        _ => Err(Failing::Wrong(UNEXPECTED.to_owned())),
    }
}

/// Has a signer remember what others signed, instead of signing.
pub(super) async fn remember(
    mut part: Taking,
    note: String,
    consistency: Vec<ByteArray<32>>,
) -> Result<(), Failing> {
    match ask(&mut part.wire, &SignerRequest::Remember { note, consistency }).await? {
        SignerAnswer::Remembered => Ok(()),
        _ => Err(Failing::Wrong(UNEXPECTED.to_owned())),
    }
}

/// Tells a machine the chain of signers. Returns how many shares it still had to destroy.
pub(super) async fn tell(
    coordinator: &Arc<Coordinator>,
    node: NodeId,
    chain: &[Handover],
) -> Result<u32, String> {
    let mut wire = open(coordinator, node).await?;
    let founding = Box::new(coordinator.founding.clone());
    let learn = SignerRequest::Learn { founding, chain: chain.to_vec() };
    match ask(&mut wire, &learn).await {
        Ok(SignerAnswer::Learned { destroyed }) => Ok(destroyed),
        Ok(_) => Err(UNEXPECTED.to_owned()),
        Err(failing) => Err(failing.reason().to_owned()),
    }
}

/// Asks every one of `wires` its own question at once. The first failure, by name, is the whole answer.
async fn ask_all(
    wires: Vec<(NodeId, Box<dyn Wire>, SignerRequest)>,
) -> Result<Vec<(NodeId, Box<dyn Wire>, SignerAnswer)>, String> {
    let mut asked = JoinSet::new();
    for (node, mut wire, request) in wires {
        asked.spawn(async move {
            let answer = ask(&mut wire, &request).await;
            (node, wire, answer)
        });
    }
    let mut answers = Vec::new();
    while let Some(answered) = asked.join_next().await {
        let (node, wire, answer) = answered.map_err(|error| error.to_string())?;
        let answer = answer.map_err(|failing| format!("{node} does not take part: {}", failing.reason()))?;
        answers.push((node, wire, answer));
    }
    answers.sort_by_key(|(node, ..)| *node);
    Ok(answers)
}

/// Lets the members of an order make a key, and returns the record of their set, on which they all agree.
pub(super) async fn generate(
    coordinator: &Arc<Coordinator>,
    chain: &Arc<Vec<Handover>>,
    order: &Signed<SignerOrder>,
) -> Result<SignerSet, String> {
    let unexpected = |node: NodeId| format!("{node} does not take part: {UNEXPECTED}");
    let mut wires = Vec::new();
    for node in order.members.iter().copied() {
        let wire = open_again(coordinator, node)
            .await
            .map_err(|reason| format!("{node} cannot be asked: {reason}"))?;
        let begin = SignerRequest::Begin {
            founding: Box::new(coordinator.founding.clone()),
            chain: chain.to_vec(),
            order: Box::new(order.clone()),
        };
        wires.push((node, wire, begin));
    }
    let mut commitments: Vec<Signed<KeyCommitment>> = Vec::new();
    let mut next = Vec::new();
    for (node, wire, answer) in ask_all(wires).await? {
        let SignerAnswer::Commitment { commitment } = answer else { return Err(unexpected(node)) };
        commitments.push(*commitment);
        next.push((node, wire));
    }
    let all = next
        .into_iter()
        .map(|(node, wire)| (node, wire, SignerRequest::Commitments { commitments: commitments.clone() }))
        .collect();
    let mut shares: Vec<Signed<SealedShare>> = Vec::new();
    let mut next = Vec::new();
    for (node, wire, answer) in ask_all(all).await? {
        let SignerAnswer::Shares { shares: own } = answer else { return Err(unexpected(node)) };
        shares.extend(own);
        next.push((node, wire));
    }
    let all = next
        .into_iter()
        .map(|(node, wire)| {
            let own = shares.iter().filter(|share| share.to == node).cloned().collect();
            (node, wire, SignerRequest::Shares { shares: own })
        })
        .collect();
    let mut agreed: Option<SignerSet> = None;
    for (node, _, answer) in ask_all(all).await? {
        let SignerAnswer::Ready { set } = answer else { return Err(unexpected(node)) };
        if agreed.as_ref().is_some_and(|agreed| *agreed != *set) {
            return Err(format!("{node} has made another key than the others"));
        }
        agreed = Some(*set);
    }
    agreed.ok_or_else(|| "the order names nobody".to_owned())
}

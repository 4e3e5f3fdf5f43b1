//! Frames as peers and local programs send them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wc_proto::api::{CellRequest, Request, Response};
use wc_proto::frame::{PREFIX_BYTES, body_bytes, decode, encode};
use wc_proto::limit::FRAME_BYTES_MAX;
use wc_proto::peer::dispatch::{Dispatch, DispatchAnswer, DispatchRequest};
use wc_proto::peer::hello::{CellBrief, Hello};
use wc_proto::peer::session::{AgentMessage, CoordinatorMessage, InlineBlob, Report};
use wc_proto::peer::signers::{Purpose, SignerAnswer, SignerRequest};
use wc_types::manifest::{Resources, WorkClass};
use wc_types::outcome::{Commitment, Exit};
use wc_types::{CellId, LeaseId, Signed, Timestamp};

use crate::sample;

/// Reads length and body of every kind of message; what is accepted survives being sent again.
pub fn target(data: &[u8]) {
    let Some((prefix, body)) = data.split_first_chunk::<PREFIX_BYTES>() else { return };
    if let Ok(length) = body_bytes(*prefix, FRAME_BYTES_MAX) {
        assert!(length <= FRAME_BYTES_MAX);
    }
    survives::<Hello>(body);
    survives::<AgentMessage>(body);
    survives::<CoordinatorMessage>(body);
    survives::<Dispatch>(body);
    survives::<DispatchAnswer>(body);
    survives::<SignerRequest>(body);
    survives::<SignerAnswer>(body);
    survives::<Request>(body);
    survives::<CellRequest>(body);
    survives::<Response>(body);
}

/// Messages of each conversation.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = sample::key();
    let outcome = Signed::seal(sample::outcome(), &key);
    let dispatch = DispatchRequest {
        submitter: key.account_id(),
        at: Timestamp(1_790_000_000_000),
        class: WorkClass::ALL[0],
        command: vec!["a".to_owned()],
        env: [("K".to_owned(), "v".to_owned())].into(),
        resources: Resources::default(),
        module: sample::cid("module"),
    };
    let report = Report {
        outcome: outcome.clone(),
        blobs: vec![InlineBlob { cid: sample::cid("x"), bytes: b"x".to_vec() }],
        stderr: b"note".to_vec(),
    };
    vec![
        frame(&Hello {
            network: "lan".to_owned(),
            cell: Some(CellBrief {
                cell: CellId([1; 32]),
                founding: Signed::seal(sample::founding(), &key),
                coordinator: key.node_id(),
                addresses: vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned()],
                has_jobs: false,
            }),
            coordinates: true,
            others: Vec::new(),
        }),
        frame(&AgentMessage::Enrol {
            enrolment: Box::new(Signed::seal(sample::enrolment(), &key)),
            held: vec![LeaseId(1), LeaseId(900)],
        }),
        frame(&AgentMessage::Commit { items: vec![(LeaseId(1), Commitment([9; 32]))] }),
        frame(&AgentMessage::Report { reports: vec![report] }),
        frame(&AgentMessage::Beat { held: vec![LeaseId(1)], load_ppm: 5 }),
        frame(&AgentMessage::Leave),
        frame(&CoordinatorMessage::Welcome { founding: Box::new(Signed::seal(sample::founding(), &key)) }),
        frame(&CoordinatorMessage::Grant {
            grant: Box::new(Signed::seal(sample::grant(), &key)),
            manifest: Some(Box::new(Signed::seal(sample::manifest(), &key))),
        }),
        frame(&CoordinatorMessage::Settled { leases: vec![LeaseId(1)] }),
        frame(&Dispatch { request: Signed::seal(dispatch, &key), module: b"\0asm".to_vec() }),
        frame(&DispatchAnswer::Ran {
            outcome: Box::new(outcome),
            exit: Exit::Code(3),
            stdout: b"out".to_vec(),
            stderr: Vec::new(),
            record: b"record".to_vec(),
        }),
        frame(&SignerRequest::Commit {
            founding: Box::new(Signed::seal(sample::founding(), &key)),
            chain: vec![sample::handover()],
            purpose: Purpose::Checkpoint,
        }),
        frame(&SignerRequest::Sign { request: sample::signing_request(), consistency: Vec::new() }),
        frame(&SignerAnswer::Committed { commitment: sample::nonce_commitment(), head: None }),
        frame(&Request::Export { cid: sample::cid("x"), path: "/tmp/x".to_owned() }),
        frame(&Request::Cell(CellRequest::Submit {
            manifest: Box::new(Signed::seal(sample::manifest(), &key)),
            holders: vec![key.node_id()],
            dry_run: true,
        })),
        frame(&Response::Done),
    ]
}

fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    encode(message, FRAME_BYTES_MAX).expect("a sample is small")
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
    match decode::<T>(body) {
        Ok(message) => {
            let again = encode(&message, FRAME_BYTES_MAX).expect("what fits in a frame fits again");
            assert_eq!(decode::<T>(&again[PREFIX_BYTES..]).as_ref(), Ok(&message));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_accepted_by_one_reader() {
        fn reads<T: DeserializeOwned>(body: &[u8]) -> usize {
            usize::from(decode::<T>(body).is_ok())
        }
        for (number, seed) in seeds().iter().enumerate() {
            let body = &seed[PREFIX_BYTES..];
            let readers = reads::<Hello>(body)
                + reads::<AgentMessage>(body)
                + reads::<CoordinatorMessage>(body)
                + reads::<Dispatch>(body)
                + reads::<DispatchAnswer>(body)
                + reads::<SignerRequest>(body)
                + reads::<SignerAnswer>(body)
                + reads::<Request>(body)
                + reads::<Response>(body);
            assert!(readers > 0, "sample {number}");
            target(seed);
        }
    }
}

//! One valid value of each kind, for the targets to start from.

use std::collections::BTreeMap;

use wc_types::charter::{Charter, Founding};
use wc_types::cid::{CODEC_RAW, cid_of};
use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::grant::{Gather, Grant, LeaseTerm};
use wc_types::manifest::{
    BlobRef, Comparison, Confidentiality, Input, InputItem, InputList, InputSource, Manifest, Output,
    Placement, PreemptClass, PriorityClass, Resources, SCHEMA_VERSION, Stage, WorkClass, WorkloadType,
};
use wc_types::node::{CaliberClass, Capabilities, Delegation, Enrolment, Locality, SandboxKind};
use wc_types::outcome::{Ending, Exit, Outcome, ResultRecord, Usage};
use wc_types::receipt::{Inclusion, Receipt, ReceiptFile, Spread, Verdict, Vote};
use wc_types::signers::{Handover, NonceCommitment, Signer, SignerSet, SigningRequest};
use wc_types::{
    Bytes, CellId, Cid, Fuel, JobId, LeaseId, MicroNcu, Millis, NodeId, Signed, SigningKey, Timestamp,
};

const AT: Timestamp = Timestamp(1_790_000_000_000);

/// The key that signs everything here.
pub fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// Some content id.
pub fn cid(text: &str) -> Cid {
    cid_of(CODEC_RAW, text.as_bytes())
}

fn blob(text: &str) -> BlobRef {
    BlobRef { cid: cid(text), bytes: Bytes(text.len() as u64) }
}

/// Two stages, the second of which reads the first.
pub fn manifest() -> Manifest {
    let stage = |name: &str, source| Stage {
        name: name.to_owned(),
        workload: blob("module"),
        workload_type: WorkloadType::WasmModule,
        command: vec!["--width".to_owned(), "64".to_owned()],
        env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
        tasks: 64,
        inputs: vec![Input { name: "genome".to_owned(), source }],
        outputs: vec![Output { name: "tile.raw".to_owned(), bytes_max: Bytes(1 << 20) }],
        resources: Resources { fuel: Some(Fuel(1 << 40)), ..Resources::default() },
        replicas: 3,
        comparison: Comparison::BitExact,
        preempt: PreemptClass::Yieldable,
        retries_max: 3,
    };
    Manifest {
        schema_version: SCHEMA_VERSION,
        name: "census".to_owned(),
        submitter: key().account_id(),
        submitted_at: AT,
        priority_class: PriorityClass::PublicGood,
        confidentiality: Confidentiality::Public,
        class: WorkClass::ALL[0],
        deadline: Some(AT),
        max_total: Some(MicroNcu(5)),
        placement: Placement::Lan,
        allowed_endpoints: Vec::new(),
        stages: vec![
            stage("count", InputSource::Each(cid("list"))),
            stage("merge", InputSource::Stage(0)),
            stage("again", InputSource::Blob(blob("blob"))),
        ],
    }
}

/// The blobs of an array.
pub fn input_list() -> InputList {
    InputList { items: vec![InputItem { name: "a.fa".to_owned(), blob: blob("a") }] }
}

/// The founding record of a cell.
pub fn founding() -> Founding {
    Founding {
        network: "lan".to_owned(),
        coordinator: key().node_id(),
        owner: key().account_id(),
        charter: Charter::default(),
        founded_at: AT,
    }
}

/// A node's terms.
pub fn enrolment() -> Enrolment {
    let delegation = Delegation { owner: key().account_id(), node: key().node_id(), issued_at: AT };
    Enrolment {
        delegation: Signed::seal(delegation, &key()),
        capabilities: Capabilities {
            cpu_cores: 4,
            memory: Bytes(8 << 30),
            slots: 4,
            guest_memory_max: Bytes(1 << 30),
            storage_cap: Bytes(10 << 30),
            sandbox: SandboxKind::WasmHost,
            engine: "wasmtime".to_owned(),
            caliber: CaliberClass::C1,
        },
        locality: Locality { asn: 64_512, prefix_24: 0x0a00_0000 },
        consents: WorkClass::ALL.to_vec(),
        agent_version: "0.1.0".to_owned(),
        at: AT,
    }
}

/// Permission to run two replicas.
pub fn grant() -> Grant {
    Grant {
        cell: CellId([1; 32]),
        job: JobId([2; 32]),
        manifest: cid("manifest"),
        stage: 1,
        node: key().node_id(),
        leases: vec![LeaseTerm { lease: LeaseId(1), index: 0 }, LeaseTerm { lease: LeaseId(900), index: 63 }],
        commit_first: true,
        gathers: vec![Gather { stage: 0, list: cid("gather") }],
        issued_at: AT,
        ttl: Millis(300_000),
    }
}

/// What a guest left.
pub fn result_record() -> ResultRecord {
    ResultRecord {
        exit: Exit::Success,
        stdout: blob("out"),
        outputs: BTreeMap::from([("tile.raw".to_owned(), blob("tile"))]),
    }
}

/// A node's word about one replica.
pub fn outcome() -> Outcome {
    Outcome {
        cell: CellId([1; 32]),
        job: JobId([2; 32]),
        stage: 1,
        index: 63,
        lease: LeaseId(900),
        node: key().node_id(),
        ending: Ending::Result { record: cid("result"), success: true },
        usage: Usage { fuel: Fuel(77), cpu_micros: 1_000, ..Usage::default() },
        salt: [3; 16],
        ended_at: AT,
    }
}

/// A leaf of the ledger.
pub fn entry() -> Entry {
    Entry {
        cell: CellId([1; 32]),
        index: 12,
        previous: Some(cid("previous")),
        at: AT,
        kind: EntryKind::TaskAccepted { job: JobId([2; 32]), stage: 1, index: 63, verdict: cid("verdict") },
        postings: vec![
            Posting { holder: Holder::Account(key().account_id()), amount: 5 },
            Posting { holder: Holder::Issuance, amount: -5 },
        ],
    }
}

/// What a submitter keeps.
pub fn receipt_file() -> ReceiptFile {
    let signed = Signed::seal(outcome(), &key());
    let vote = Vote {
        node: key().node_id(),
        owner: key().account_id(),
        lease: LeaseId(900),
        outcome: signed.cid(),
        awarded: MicroNcu(5),
    };
    let verdict = Verdict {
        job: JobId([2; 32]),
        stage: 1,
        index: 63,
        result: cid("result"),
        replicas: 1,
        required: 1,
        agreeing: vec![vote],
        dissenting: Vec::new(),
        spread: Spread { owners: 1, networks: 1, systems: 1 },
        charged: MicroNcu(0),
    };
    let receipt = Receipt {
        cell: CellId([1; 32]),
        manifest: cid("manifest"),
        verdict,
        entry: cid("entry"),
        issued_at: AT,
    };
    ReceiptFile {
        founding: Signed::seal(founding(), &key()),
        signers: Vec::new(),
        receipt: Signed::seal(receipt, &key()),
        outcomes: vec![signed],
        entry: entry(),
        inclusion: Inclusion {
            tree_size: 13,
            path: Vec::new(),
            checkpoint: "worldcompute\n13\nAAAA\n".to_owned(),
        },
    }
}

/// A set of two signers.
pub fn signer_set() -> SignerSet {
    SignerSet {
        cell: CellId([1; 32]),
        epoch: 1,
        previous: cid("founding"),
        order: cid("order"),
        threshold: 2,
        members: (2..4).map(|name| Signer { node: NodeId([name; 32]), share: [name; 32] }).collect(),
        group: [9; 32],
    }
}

/// A hand-over to them.
pub fn handover() -> Handover {
    Handover { set: Signed::seal(signer_set(), &key()), accepted: [7; 64] }
}

/// One member's promise.
pub fn nonce_commitment() -> NonceCommitment {
    NonceCommitment { node: NodeId([2; 32]), hiding: [3; 32], binding: [4; 32] }
}

/// What members are asked to sign.
pub fn signing_request() -> SigningRequest {
    SigningRequest { set: cid("set"), message: b"text\n".to_vec(), commitments: vec![nonce_commitment()] }
}

//! The checks that a manifest passes before it becomes a job.

use wc_types::charter::Charter;
use wc_types::manifest::{Confidentiality, InputSource, Manifest, Placement, WorkClass, WorkloadType};
use wc_types::{Code, Millis, Refusal, Timestamp};

use crate::code;

/// Most that a manifest may be dated ahead of the cell's clock.
pub const AHEAD_MAX: Millis = Millis(5 * 60_000);
/// Most that a manifest may be dated before the cell's clock.
pub const BEHIND_MAX: Millis = Millis(24 * 3_600_000);
/// Most tasks of a stage that another stage reads. The record that lists their results is a CID of 41 bytes per task
/// and must stay below the largest record, 1 MiB.
pub const GATHER_TASKS_MAX: u32 = 25_000;

/// What the cell knows when a manifest arrives.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionContext<'a> {
    /// The numbers in force.
    pub charter: &'a Charter,
    /// Now.
    pub now: Timestamp,
    /// The key that signed the manifest.
    pub signer: [u8; 32],
    /// Whether a job of the same id exists.
    pub known: bool,
    /// Unfinished jobs of the submitter.
    pub jobs_open: u32,
    /// Unfinished tasks of the submitter.
    pub tasks_open: u64,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, such as `replicas`.
    pub name: &'static str,
    /// What was found, in words.
    pub outcome: String,
}

/// A manifest that may become a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Every check, in order; all passed.
    pub checks: Vec<Check>,
}

/// Collects what was found.
#[derive(Default)]
struct Findings {
    checks: Vec<Check>,
    refusals: Vec<Refusal>,
}

impl Findings {
    /// Notes a check and the refusals it led to.
    fn note(&mut self, name: &'static str, passed: impl Into<String>, refusals: Vec<Refusal>) {
        if refusals.is_empty() {
            self.checks.push(Check { name, outcome: passed.into() });
        }
        self.refusals.extend(refusals);
    }

    fn require(&mut self, name: &'static str, holds: bool, passed: impl Into<String>, refusal: Refusal) {
        self.note(name, passed, if holds { Vec::new() } else { vec![refusal] });
    }
}

/// Returns what was checked, or everything that stands against the manifest.
///
/// # Errors
/// One [`Refusal`] per broken rule, each with a code of [`code`], the field, and a hint where one is known.
pub fn admit(manifest: &Manifest, context: &AdmissionContext<'_>) -> Result<Admission, Vec<Refusal>> {
    let charter = context.charter;
    let mut findings = Findings::default();

    let malformed = manifest.check().into_iter().map(|error| {
        let message = format!("{} {}", error.field, error.constraint);
        Refusal::new(code::MALFORMED, message).field(error.field)
    });
    findings.note("structure", "every field is in its range", malformed.collect());
    findings.require(
        "signature",
        context.signer == manifest.submitter.0,
        "signed by the submitter",
        Refusal::new(code::WRONG_SIGNER, "the manifest is signed by another key than its submitter's")
            .field("submitter"),
    );
    findings.require(
        "identity",
        !context.known,
        "not submitted before",
        Refusal::new(code::DUPLICATE, "this very manifest was submitted before and its job exists")
            .hint("look at that job, or submit again with a new submission time"),
    );
    check_dates(manifest, context, &mut findings);
    check_kind(manifest, &mut findings);
    check_stages(manifest, charter, &mut findings);

    findings.require(
        "jobs_open",
        context.jobs_open < charter.jobs_open_max,
        format!("{} of {} unfinished jobs", context.jobs_open, charter.jobs_open_max),
        Refusal::new(code::JOBS_OPEN, format!("{} jobs of yours are unfinished", context.jobs_open))
            .hint("wait for some of them to end, or cancel some"),
    );
    let tasks = context.tasks_open.saturating_add(manifest.tasks());
    findings.require(
        "tasks_open",
        tasks <= charter.tasks_open_max,
        format!("{tasks} of {} unfinished tasks", charter.tasks_open_max),
        Refusal::new(
            code::TASKS_OPEN,
            format!("you would have {tasks} unfinished tasks, the cell allows {}", charter.tasks_open_max),
        )
        .field("stages")
        .hint("wait for other jobs to end, or split this one"),
    );

    if findings.refusals.is_empty() {
        Ok(Admission { checks: findings.checks })
    } else {
        Err(findings.refusals)
    }
}

fn check_dates(manifest: &Manifest, context: &AdmissionContext<'_>, findings: &mut Findings) {
    let (at, now) = (manifest.submitted_at, context.now);
    findings.require(
        "submitted_at",
        at.since(now) <= AHEAD_MAX && now.since(at) <= BEHIND_MAX,
        "dated within the last day",
        Refusal::new(code::STALE, format!("submitted_at is {at}, the cell's clock says {now}"))
            .field("submitted_at")
            .hint("set this machine's clock, or submit again"),
    );
    findings.require(
        "deadline",
        manifest.deadline.is_none_or(|deadline| deadline > now),
        "not over yet",
        Refusal::new(code::DEADLINE, "the deadline is over").field("deadline"),
    );
}

fn check_kind(manifest: &Manifest, findings: &mut Findings) {
    // Every class that the schema knows is allowed; whether a donor takes it is the donor's consent.
    let class = manifest.class;
    findings.note(
        "class",
        format!("{} is allowed", class.name()),
        match class {
            WorkClass::Scientific
            | WorkClass::PublicGoodMl
            | WorkClass::Rendering
            | WorkClass::Indexing
            | WorkClass::SelfImprovement
            | WorkClass::General => Vec::new(),
        },
    );
    findings.require(
        "confidentiality",
        manifest.confidentiality == Confidentiality::Public,
        "public",
        Refusal::new(
            code::CONFIDENTIAL,
            "confidential data needs nodes of tier T3 or better, and this cell has none",
        )
        .field("confidentiality")
        .hint("submit public data only: confidentiality: public"),
    );
    findings.require(
        "egress",
        manifest.allowed_endpoints.is_empty(),
        "none asked for",
        Refusal::new(code::EGRESS, "this cell grants no guest access to the network")
            .field("allowed_endpoints")
            .hint("bring what the guest needs as inputs"),
    );
}

fn check_stages(manifest: &Manifest, charter: &Charter, findings: &mut Findings) {
    let refuse = |code: Code, stage: usize, field: &str, message: String| {
        Refusal::new(code, message).field(format!("stages[{stage}].{field}"))
    };
    let stages = || manifest.stages.iter().enumerate();

    let oci =
        stages().filter(|(_, stage)| stage.workload_type == WorkloadType::OciContainer).map(|(index, _)| {
            let message = "OCI images run in microVMs only, and this cell has no node with one".to_owned();
            refuse(code::WORKLOAD_TYPE, index, "workload_type", message)
                .hint("compile the program to WebAssembly: workload_type: wasm-module")
        });
    findings.note("workload_type", "WebAssembly", oci.collect());

    let slow = stages().filter(|(_, stage)| stage.resources.wall_clock > charter.wall_clock_max).map(
        |(index, stage)| {
            let (asked, most) = (stage.resources.wall_clock.0 / 1000, charter.wall_clock_max.0 / 1000);
            refuse(
                code::WALL_CLOCK,
                index,
                "resources.wall_clock",
                format!("asks for {asked} s, the cell allows {most} s"),
            )
            .hint("split the work into smaller tasks")
        },
    );
    findings.note("wall_clock", "within the cell's limit", slow.collect());

    // Every node of this release runs WebAssembly on the bare host, so every node is T0 (E-83).
    let few = stages()
        .filter(|(_, stage)| !charter.nodes_trusted && stage.replicas < charter.t0_replicas_min)
        .map(|(index, stage)| {
            let least = charter.t0_replicas_min;
            let message = format!(
                "{} replicas are too few: the cell's nodes have no hardware evidence (tier T0), so each task \
                 needs at least {least}",
                stage.replicas
            );
            refuse(code::REPLICAS, index, "replicas", message).hint(format!(
                "say `replicas: {least}`, or found the cell with `--trusted` if its nodes are all your own"
            ))
        });
    findings.note("replicas", "enough for the evidence that the cell's nodes have", few.collect());

    let wide = stages().flat_map(|(index, stage)| {
        stage.inputs.iter().enumerate().filter_map(move |(position, input)| match input.source {
            InputSource::Stage(producer) => Some((index, position, producer)),
            InputSource::Blob(_) | InputSource::Each(_) => None,
        })
    });
    let wide = wide.filter_map(|(index, position, producer)| {
        let tasks = manifest.stages.get(usize::from(producer))?.tasks;
        (tasks > GATHER_TASKS_MAX).then(|| {
            let message =
                format!("reads the results of {tasks} tasks, at most {GATHER_TASKS_MAX} can be gathered");
            refuse(code::GATHER, index, &format!("inputs[{position}].source"), message)
                .hint("let fewer, larger tasks produce what is gathered")
        })
    });
    findings.note("gather", "every gathered stage is small enough", wide.collect());

    findings.note(
        "placement",
        match manifest.placement {
            Placement::Disjoint => "replicas on different owners, networks and autonomous systems",
            Placement::Lan => "replicas on machines of different owners",
            Placement::Machines => "replicas on different machines, possibly of one owner",
        },
        Vec::new(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use wc_types::cid::{CODEC_RAW, cid_of};
    use wc_types::manifest::{
        BlobRef, Comparison, Input, PreemptClass, PriorityClass, Resources, SCHEMA_VERSION, Stage,
    };
    use wc_types::{AccountId, Bytes};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn stage(name: &str) -> Stage {
        Stage {
            name: name.into(),
            workload: BlobRef { cid: cid_of(CODEC_RAW, b"wasm"), bytes: Bytes(4) },
            workload_type: WorkloadType::WasmModule,
            command: vec![],
            env: BTreeMap::new(),
            tasks: 1,
            inputs: vec![],
            outputs: vec![],
            resources: Resources::default(),
            replicas: 3,
            comparison: Comparison::BitExact,
            preempt: PreemptClass::Restartable,
            retries_max: 3,
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            name: "job".into(),
            submitter: AccountId([1; 32]),
            submitted_at: NOW,
            priority_class: PriorityClass::PublicGood,
            confidentiality: Confidentiality::Public,
            class: WorkClass::General,
            deadline: None,
            max_total: None,
            placement: Placement::Lan,
            allowed_endpoints: vec![],
            stages: vec![stage("map"), stage("reduce")],
        }
    }

    fn trusted() -> Charter {
        Charter { nodes_trusted: true, ..Charter::default() }
    }

    fn context(charter: &Charter) -> AdmissionContext<'_> {
        AdmissionContext { charter, now: NOW, signer: [1; 32], known: false, jobs_open: 0, tasks_open: 0 }
    }

    /// Returns `code field` of every refusal.
    fn codes(manifest: &Manifest, context: &AdmissionContext<'_>) -> Vec<String> {
        match admit(manifest, context) {
            Ok(admission) => {
                assert_eq!(admission.checks.len(), 15);
                vec![]
            }
            Err(refusals) => refusals
                .iter()
                .map(|refusal| format!("{} {}", refusal.code, refusal.field.as_deref().unwrap_or("-")))
                .collect(),
        }
    }

    #[test]
    fn a_sound_manifest_is_admitted_with_every_check_named() {
        let charter = trusted();
        assert_eq!(codes(&manifest(), &context(&charter)), Vec::<String>::new());
    }

    #[test]
    fn every_rule_has_its_own_code_and_field() {
        let change = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            codes(&manifest, &context(&trusted()))
        };
        type Rule = fn(&mut Manifest);
        let table: [(&str, Rule); 10] = [
            ("WC-POLICY-001 stages[0].tasks", |m| m.stages[0].tasks = 0),
            ("WC-POLICY-002 submitter", |m| m.submitter = AccountId([2; 32])),
            ("WC-POLICY-004 submitted_at", |m| m.submitted_at = NOW.plus(Millis(5 * 60_000 + 1))),
            ("WC-POLICY-004 submitted_at", |m| m.submitted_at = Timestamp(NOW.0 - 86_400_001_000)),
            ("WC-POLICY-005 confidentiality", |m| m.confidentiality = Confidentiality::ConfidentialHigh),
            ("WC-POLICY-006 stages[1].workload_type", |m| {
                m.stages[1].workload_type = WorkloadType::OciContainer;
            }),
            ("WC-POLICY-007 allowed_endpoints", |m| m.allowed_endpoints.push("a:1".into())),
            ("WC-POLICY-008 stages[0].resources.wall_clock", |m| {
                m.stages[0].resources.wall_clock = Millis(48 * 3_600_000);
            }),
            ("WC-POLICY-012 deadline", |m| m.deadline = Some(NOW)),
            ("WC-POLICY-013 stages[1].inputs[0].source", |m| {
                m.stages[0].tasks = GATHER_TASKS_MAX + 1;
                m.stages[1].inputs.push(Input { name: "x".into(), source: InputSource::Stage(0) });
            }),
        ];
        for (expected, rule) in table {
            assert_eq!(change(rule), [expected], "{expected}");
        }
    }

    #[test]
    fn quotas_and_duplicates_depend_on_the_cell() {
        let charter = Charter { jobs_open_max: 2, tasks_open_max: 10, ..trusted() };
        let at = context(&charter);
        assert_eq!(codes(&manifest(), &AdmissionContext { known: true, ..at }), ["WC-POLICY-003 -"]);
        assert_eq!(codes(&manifest(), &AdmissionContext { jobs_open: 2, ..at }), ["WC-POLICY-010 -"]);
        assert_eq!(codes(&manifest(), &AdmissionContext { tasks_open: 9, ..at }), ["WC-POLICY-011 stages"]);
        assert_eq!(codes(&manifest(), &AdmissionContext { tasks_open: 8, ..at }), Vec::<String>::new());
    }

    #[test]
    fn three_replicas_need_a_cell_whose_nodes_are_trusted() {
        let refusals = admit(&manifest(), &context(&Charter::default())).expect_err("three of five");
        assert_eq!(refusals.len(), 2, "one per stage");
        let hint = refusals[0].hint.as_deref().expect("hint");
        assert!(hint.contains("`--trusted`") && hint.contains("`replicas: 5`"), "{hint}");
    }

    proptest! {
        #[test]
        fn any_manifest_gets_an_answer(
            tasks in any::<u32>(), replicas in any::<u8>(), submitted_at in any::<i64>(), now in any::<i64>(),
            source in any::<u16>(), jobs_open in any::<u32>(), tasks_open in any::<u64>(),
        ) {
            let mut manifest = manifest();
            manifest.stages[1].tasks = tasks;
            manifest.stages[1].replicas = replicas;
            manifest.stages[1].inputs.push(Input { name: "x".into(), source: InputSource::Stage(source) });
            manifest.submitted_at = Timestamp(submitted_at);
            let charter = trusted();
            let context = AdmissionContext { now: Timestamp(now), jobs_open, tasks_open, ..context(&charter) };
            if let Err(refusals) = admit(&manifest, &context) {
                prop_assert!(!refusals.is_empty());
            }
        }
    }
}

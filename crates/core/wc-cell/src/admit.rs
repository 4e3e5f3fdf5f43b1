//! From a manifest to a job, and a job's way out before its results.

use wc_ledger::Work;
use wc_policy::{AdmissionContext, admit, code};
use wc_types::entry::{EntryKind, Holder, JobEnd, Posting};
use wc_types::manifest::Manifest;
use wc_types::{AccountId, Bytes, Fuel, JobId, MicroNcu, Refusal, Timestamp, Witnessed};

use crate::cell::Cell;
use crate::command::Command;
use crate::job::{Job, JobNo, JobState};
use crate::stage::{StagePhase, StageTasks};
use crate::timer::Due;
use crate::turn::Turn;

/// Fuel that a fast core burns in a millisecond: bounds what a task without a fuel limit may cost.
const FUEL_PER_MS_MAX: u64 = 5_000_000;

impl Cell {
    pub(crate) fn job_submitted(&mut self, manifest: &Witnessed<Manifest>, turn: &mut Turn) {
        let id = manifest.job_id(&manifest.cid());
        let known = self.job_numbers.contains_key(&id);
        let refusals = self.submission_refusals(manifest, turn.at);
        if !refusals.is_empty() {
            turn.answers.push(Command::Answer { refusals, job: known.then_some(id) });
            return;
        }
        let Ok(number) = u32::try_from(self.jobs.len()) else { return };
        let no = JobNo(number);
        let estimate = self.estimate(manifest);
        let job = Job {
            no,
            id,
            manifest: Manifest::clone(manifest),
            manifest_cid: manifest.cid(),
            admitted_at: turn.at,
            state: JobState::Staging,
            stages: manifest.stages.iter().map(|_| StageTasks::new()).collect(),
            estimate,
            charged: MicroNcu(0),
            awarded: MicroNcu(0),
            rank: None,
            failed: None,
            forgotten: false,
            listed: Vec::new(),
        };
        self.jobs.push(job);
        self.job_numbers.insert(id, no);
        let account = self.accounts.entry(manifest.submitter).or_default();
        account.jobs_open += 1;
        account.tasks_open += manifest.tasks();
        if let Some(deadline) = manifest.deadline {
            self.timers.set(deadline, Due::Job(no));
        }
        let postings = self.reserve(id, manifest.submitter, estimate);
        self.post(EntryKind::JobAdmitted { job: id, manifest: manifest.cid() }, postings, turn);
        turn.answers.push(Command::Answer { refusals: Vec::new(), job: Some(id) });
        turn.events.push(Command::Stage { job: id });
    }

    /// Returns why the cell would refuse a job now; nothing when it would admit it.
    ///
    /// - `at`: when it would be submitted
    pub fn submission_refusals(&self, manifest: &Witnessed<Manifest>, at: Timestamp) -> Vec<Refusal> {
        let Some(charter) = self.charter() else { return Vec::new() };
        let known = self.job_numbers.contains_key(&manifest.job_id(&manifest.cid()));
        let account = self.accounts.get(&manifest.submitter);
        let context = AdmissionContext {
            charter,
            now: at,
            signer: manifest.signer(),
            known,
            jobs_open: account.map_or(0, |account| account.jobs_open),
            tasks_open: account.map_or(0, |account| account.tasks_open),
        };
        let mut refusals = admit(manifest, &context).err().unwrap_or_default();
        refusals.extend(self.caliber_refusal(manifest, at));
        refusals
    }

    /// Refuses a job that redeems a class of hardware beyond what its submitter donated. Nothing else is ever refused
    /// for want of credit (E-41).
    fn caliber_refusal(&self, manifest: &Manifest, at: Timestamp) -> Option<Refusal> {
        let wished = manifest.stages.iter().filter_map(|stage| stage.resources.caliber);
        let wished = wished.map(|wish| wish.class).max()?;
        let balance = self.ledger.book.balance(&Holder::Account(manifest.submitter));
        let donated = self.donated_class(&manifest.submitter, at).filter(|_| balance > 0);
        if donated.is_some_and(|donated| donated >= wished) {
            return None;
        }
        let has = donated.map_or_else(
            || "has no credit that was earned of late".to_owned(),
            |donated| format!("has credit of class {donated:?}"),
        );
        let message = format!("the job redeems hardware of class {wished:?}, its submitter {has}");
        let hint = "leave the class out: without it any machine runs the job, with or without credit";
        Some(Refusal::new(code::CALIBER, message).field("resources.caliber").hint(hint))
    }

    /// Returns the most that a job is expected to cost: the submitter's own limit if there is one, else what its tasks
    /// could use up in the time or fuel that they may take.
    fn estimate(&self, manifest: &Manifest) -> MicroNcu {
        let Some(charter) = self.charter() else { return MicroNcu(0) };
        let tasks = manifest.stages.iter().map(|stage| {
            let time = Fuel(stage.resources.wall_clock.0.saturating_mul(FUEL_PER_MS_MAX));
            let fuel = stage.resources.fuel.map_or(time, |fuel| fuel.min(time));
            let replicas = u64::from(stage.tasks) * u64::from(stage.replicas);
            wc_ledger::price(&Work::wasm(fuel, 0), charter).0.saturating_mul(replicas)
        });
        let most = MicroNcu(tasks.fold(0, u64::saturating_add));
        manifest.max_total.map_or(most, |limit| limit.min(most))
    }

    /// Returns the postings that set aside what the submitter has, up to the estimate (JOB-11, E-41).
    fn reserve(&self, job: JobId, submitter: AccountId, estimate: MicroNcu) -> Vec<Posting> {
        let balance = self.ledger.book.balance(&Holder::Account(submitter));
        let amount = balance.min(i64::try_from(estimate.0).unwrap_or(i64::MAX));
        if amount <= 0 {
            return Vec::new();
        }
        vec![
            Posting { holder: Holder::Account(submitter), amount: -amount },
            Posting { holder: Holder::Reserve(job), amount },
        ]
    }

    pub(crate) fn job_staged(&mut self, id: JobId, listed: &[Bytes], turn: &mut Turn) {
        let Some(&no) = self.job_numbers.get(&id) else { return };
        let Some(job) = self.job_at_mut(no) else { return };
        if job.state != JobState::Staging {
            return;
        }
        job.state = JobState::Open;
        job.listed = listed.iter().copied().take(job.stages.len()).collect();
        self.open_stages(no, turn);
    }

    /// Opens every stage whose producers are complete.
    pub(crate) fn open_stages(&mut self, no: JobNo, turn: &mut Turn) {
        let Some(job) = self.job_at_mut(no) else { return };
        for stage in 0u16.. {
            let Some(spec) = job.spec(stage) else { break };
            let complete = |earlier: &u16| {
                job.tasks(*earlier).is_some_and(|tasks| matches!(tasks.phase, StagePhase::Complete { .. }))
            };
            let ready = spec.dependencies().iter().all(complete);
            let Some(tasks) = job.tasks_mut(stage) else { break };
            if ready && tasks.phase == StagePhase::Waiting {
                tasks.phase = StagePhase::Open;
                turn.opened.insert((no, stage));
            }
        }
    }

    pub(crate) fn staging_failed(&mut self, id: JobId, reason: &str, turn: &mut Turn) {
        let Some(&no) = self.job_numbers.get(&id) else { return };
        if self.job_at(no).is_some_and(|job| job.state == JobState::Staging) {
            self.end_job(no, JobEnd::Failed, Some(format!("staging failed: {reason}")), turn);
        }
    }

    /// Returns why the cell would not let an account cancel a job now.
    pub fn cancellation_refusal(&self, id: &JobId, by: AccountId) -> Option<Refusal> {
        match self.job_by_id(id) {
            None => Some(Refusal::new(code::UNKNOWN_JOB, format!("there is no job {id}"))),
            Some(job) if job.submitter() != by => {
                Some(Refusal::new(code::NOT_SUBMITTER, "only its submitter may cancel a job"))
            }
            Some(job) if job.has_ended() => Some(Refusal::new(code::ENDED, "the job has ended already")),
            Some(_) => None,
        }
    }

    pub(crate) fn job_cancelled(&mut self, id: JobId, by: AccountId, turn: &mut Turn) {
        let refusal = self.cancellation_refusal(&id, by);
        let job = self.job_numbers.get(&id).copied();
        if let (None, Some(no)) = (&refusal, job) {
            self.end_job(no, JobEnd::Cancelled, Some("cancelled by its submitter".into()), turn);
        }
        let refusals = refusal.into_iter().collect();
        turn.answers.push(Command::Answer { refusals, job: job.map(|_| id) });
    }

    pub(crate) fn deadline_passed(&mut self, no: JobNo, turn: &mut Turn) {
        if self.job_at(no).is_some_and(|job| !job.has_ended()) {
            self.end_job(no, JobEnd::Failed, Some("its deadline passed".into()), turn);
        }
    }
}

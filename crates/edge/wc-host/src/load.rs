//! How busy the machine is, in parts per million (AGT-18).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wc_types::PartsPerMillion;

/// How long a sample stays good.
const SAMPLE_TTL: Duration = Duration::from_millis(500);

/// Load at one moment. A part that could not be read counts as idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadSample {
    /// Share of processor time that was used since the sample before.
    pub cpu: PartsPerMillion,
    /// Share of memory that is in use.
    pub memory: PartsPerMillion,
}

impl LoadSample {
    /// Returns the larger of the two.
    pub fn overall(&self) -> PartsPerMillion {
        self.cpu.max(self.memory)
    }
}

/// Processor time since boot, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

/// Reads the load at most twice a second and remembers it in between.
#[derive(Debug)]
pub struct LoadSampler {
    proc: PathBuf,
    ticks: Ticks,
    last: Option<(Instant, LoadSample)>,
}

impl Default for LoadSampler {
    fn default() -> Self {
        Self::new(Path::new("/proc"))
    }
}

impl LoadSampler {
    /// Begins to watch the machine described by `proc`.
    pub fn new(proc: &Path) -> Self {
        let ticks = read_ticks(proc).unwrap_or_default();
        Self { proc: proc.to_owned(), ticks, last: None }
    }

    /// Returns the load; a sample that is younger than half a second at `now` is returned again.
    pub fn sample(&mut self, now: Instant) -> LoadSample {
        if let Some((at, sample)) = self.last
            && now.saturating_duration_since(at) < SAMPLE_TTL
        {
            return sample;
        }
        let ticks = read_ticks(&self.proc).unwrap_or(self.ticks);
        let total = ticks.total.saturating_sub(self.ticks.total);
        let busy = ticks.busy.saturating_sub(self.ticks.busy);
        let cpu = match self.last {
            // No tick has passed since: what was true then is the best that is known.
            Some((_, sample)) if total == 0 => sample.cpu,
            _ => share(busy, total),
        };
        let sample = LoadSample { cpu, memory: read_memory(&self.proc).unwrap_or_default() };
        self.ticks = ticks;
        self.last = Some((now, sample));
        sample
    }
}

fn share(part: u64, whole: u64) -> PartsPerMillion {
    if whole == 0 {
        return PartsPerMillion(0);
    }
    let ppm = u128::from(part) * 1_000_000 / u128::from(whole);
    PartsPerMillion(u32::try_from(ppm).unwrap_or(u32::MAX)).min(PartsPerMillion::ONE)
}

/// First line of `stat`: user nice system idle iowait irq softirq steal; guest time is part of user time.
fn read_ticks(proc: &Path) -> Option<Ticks> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    let fields = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)?.saturating_add(ticks.get(4).copied().unwrap_or(0));
    let total = ticks.iter().fold(0u64, |sum, part| sum.saturating_add(*part));
    Some(Ticks { busy: total.saturating_sub(idle), total })
}

fn read_memory(proc: &Path) -> Option<PartsPerMillion> {
    let text = fs::read_to_string(proc.join("meminfo")).ok()?;
    let total = meminfo_kib(&text, "MemTotal")?;
    let available = meminfo_kib(&text, "MemAvailable")?;
    Some(share(total.saturating_sub(available), total))
}

/// Returns one row of `meminfo`, in KiB.
pub(crate) fn meminfo_kib(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, stat: &str, meminfo: &str) {
        fs::write(dir.join("stat"), stat).expect("writes");
        fs::write(dir.join("meminfo"), meminfo).expect("writes");
    }

    const QUARTER: &str = "MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  750 kB\n";

    #[test]
    fn load_is_the_time_used_between_two_samples() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\n", QUARTER);
        let mut sampler = LoadSampler::new(dir.path());
        let start = Instant::now();
        // 30 busy ticks, 70 idle ones (60 idle, 10 waiting for a disk).
        write(dir.path(), "cpu  120 0 110 860 10 0 0 0 0 0\n", QUARTER);
        let sample = sampler.sample(start);
        let expected = LoadSample { cpu: PartsPerMillion(300_000), memory: PartsPerMillion(250_000) };
        assert_eq!(sample, expected);
        assert_eq!(sample.overall(), PartsPerMillion(300_000));

        write(dir.path(), "cpu  220 0 110 860 10 0 0 0 0 0\n", QUARTER);
        assert_eq!(sampler.sample(start + Duration::from_millis(499)), expected, "remembered");
        assert_eq!(sampler.sample(start + Duration::from_millis(500)).cpu, PartsPerMillion::ONE);
        let again = sampler.sample(start + Duration::from_secs(2));
        assert_eq!(again.cpu, PartsPerMillion::ONE, "no tick has passed");
    }

    #[test]
    fn what_cannot_be_read_counts_as_idle() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(LoadSampler::new(dir.path()).sample(Instant::now()), LoadSample::default());
        for (stat, meminfo) in
            [("", ""), ("cpu ", "MemTotal:"), ("cpu  x y", "MemTotal: 0 kB\nMemAvailable: 9 kB")]
        {
            write(dir.path(), stat, meminfo);
            assert_eq!(LoadSampler::new(dir.path()).sample(Instant::now()), LoadSample::default());
        }
    }

    #[test]
    fn this_machine_has_a_load() {
        let mut sampler = LoadSampler::default();
        let sample = sampler.sample(Instant::now());
        assert!(sample.memory > PartsPerMillion(0) && sample.overall() <= PartsPerMillion::ONE, "{sample:?}");
    }
}

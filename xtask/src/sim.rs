//! The simulation from a seed, with a row for each: the same worlds that the tests run.

use anyhow::{Context, Result, bail};

use crate::process::{program, run_watched};
use crate::workspace;

const USAGE: &str = "usage: cargo xtask sim [--seed N] [--seeds COUNT]";

/// `cargo xtask sim [--seed N] [--seeds COUNT]`: the worlds of COUNT seeds (1) from N (0) on.
pub fn command(arguments: &[String]) -> Result<()> {
    let (first, count) = seeds(arguments)?;
    let root = workspace::root()?;
    let test =
        ["test", "--locked", "--quiet", "-p", "wc-tests", "--test", "sim", "--", "--nocapture", "--exact"];
    let mut command = program(&root, "cargo", &[&test[..], &[TEST]].concat());
    command.env("WC_SIM_SEED", first.to_string()).env("WC_SIM_SEEDS", count.to_string());
    let mut worlds = 0;
    let good = run_watched(command, |line| {
        if let Some(row) = line.strip_prefix(ROW) {
            worlds += 1;
            println!("{row}");
        }
    })?;
    if !good {
        bail!("at least one world is not sound; the command that repeats it stands above");
    }
    // One row is the heading.
    if worlds != count + 1 {
        bail!("{count} worlds were asked for, {} were shown", worlds.max(1) - 1);
    }
    Ok(())
}

/// The test that runs them.
const TEST: &str = "every_world_stays_sound_and_every_job_ends_once_it_heals";
/// How the test begins each row.
const ROW: &str = "sim| ";

fn seeds(arguments: &[String]) -> Result<(u64, u64)> {
    let (mut first, mut count) = (0u64, 1u64);
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words.next().context(USAGE)?;
        let number = value.parse().with_context(|| format!("{flag} {value}: not a number; {USAGE}"))?;
        match flag.as_str() {
            "--seed" => first = number,
            "--seeds" => count = number,
            _ => bail!("there is no option {flag}; {USAGE}"),
        }
    }
    if count == 0 || first.checked_add(count).is_none() {
        bail!("{count} worlds from seed {first} on are none; {USAGE}");
    }
    Ok((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(u64, u64)> {
        seeds(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn seeds_are_read_in_any_order_and_nonsense_is_refused() {
        assert_eq!(read(""), Some((0, 1)));
        assert_eq!(read("--seed 7"), Some((7, 1)));
        assert_eq!(read("--seeds 20 --seed 3"), Some((3, 20)));
        for wrong in
            ["--seed", "--seed x", "--sed 1", "--seeds 0", "--seed 18446744073709551615 --seeds 2", "7"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

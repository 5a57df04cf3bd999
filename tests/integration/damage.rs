//! Damage to the files of an engine that crashed: flipped bits, cut, prolonged and missing files, and lost sectors. What opens after it
//! gives the right answer or an error: no live key is taken for absent, whether a verification would notice or not.
//!
//! 150 cases in `cargo test`, 10,000 with `ONCEWARD_FULL=1`. Seeds that once failed are kept in `damage.seeds`
//! beside this file and tried first. The cases run in processes of their own, so that one that aborts is noticed.

mod harm;
mod sample;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onceward::{Engine, Error, ErrorKind, Fingerprint, Outcome};

use crate::support::{is_full_run, key, request};
use harm::Harm;
use sample::{Expected, Sample, TAIL};

const CASES_PER_PROCESS: usize = 250;
/// How long one case may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is wrong, and how the case went if nothing is.
struct Findings {
    wrong: Vec<String>,
    /// Live keys that were taken for absent.
    missing: Vec<String>,
    errors: Vec<String>,
}

impl Findings {
    fn error(&mut self, what: &str, error: &Error) {
        self.errors.push(format!("{what}: {error}"));
        let is_clear = matches!(
            error.kind(),
            ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Unavailable
        );
        if !is_clear {
            self.wrong
                .push(format!("{what}: {:?}: {error}", error.kind()));
        }
    }

    fn look_up(&mut self, engine: &Engine, name: &str, expected: &Expected) {
        let entry = match engine.lookup(&key(name)) {
            Ok(entry) => entry,
            Err(error) => return self.error(name, &error),
        };
        let is_right = match (&entry, expected) {
            (None, Expected::Free) => true,
            (None, _) => return self.missing.push(name.to_owned()),
            (Some(entry), _) => expected.is(entry),
        };
        if !is_right {
            self.wrong.push(format!("{name} is {entry:?}"));
        }
    }

    fn begin(&mut self, engine: &Engine, name: &str, expected: &Expected) {
        match engine.begin(&key(name), &Fingerprint::of("another request")) {
            Ok(Outcome::Conflict(_)) if *expected != Expected::Free => {}
            Ok(Outcome::Proceed(guard)) => {
                let released = guard.release();
                if *expected != Expected::Free {
                    self.missing
                        .push(format!("{name}, granted to another request"));
                }
                if let Err(error) = released {
                    self.error(name, error.error());
                }
            }
            Ok(other) => self
                .wrong
                .push(format!("another request under {name} found {other:?}")),
            Err(error) => self.error(name, &error),
        }
        match (engine.begin(&key(name), &request()), expected) {
            (Ok(Outcome::Replay(found)), Expected::Completed { reply, .. }) if found == *reply => {}
            (Ok(Outcome::InFlight(found)), Expected::InFlight { attempt })
                if found.attempt() == *attempt => {}
            (Ok(Outcome::Proceed(guard)), Expected::Free) if guard.attempt() == 1 => {}
            (Ok(Outcome::Proceed(_)), _) => self.missing.push(format!("{name}, granted")),
            (Ok(other), _) => self.wrong.push(format!("{name} found {other:?}")),
            (Err(error), _) => self.error(name, &error),
        }
    }

    fn export(&mut self, engine: &Engine, sample: &Sample) {
        for entry in engine.export() {
            match entry {
                Err(error) => self.error("export", &error),
                Ok(entry) => {
                    let name = entry.key.as_ref().map(|key| key.key().to_owned());
                    if name.as_deref() == Some(TAIL) {
                        continue;
                    }
                    let expected = name.as_deref().and_then(|name| sample.expected(name));
                    if !expected.is_some_and(|expected| expected.is(&entry)) {
                        self.wrong.push(format!("exported {name:?}: {entry:?}"));
                    }
                }
            }
        }
    }
}

/// How one damaged store behaves: the way in which it is all right, or what is wrong.
fn judge(sample: &Sample) -> Result<&'static str, String> {
    let engine = match sample.builder().open(sample.path()) {
        Ok(engine) => engine,
        Err(error) => {
            let is_clear = matches!(
                error.kind(),
                ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::UnsupportedFormat
            );
            let what = format!("{:?}: {error}", error.kind());
            return if is_clear {
                Ok("refused by open")
            } else {
                Err(what)
            };
        }
    };
    let mut findings = Findings {
        wrong: Vec::new(),
        missing: Vec::new(),
        errors: Vec::new(),
    };
    for (name, expected) in &sample.keys {
        findings.look_up(&engine, name, expected);
    }
    findings.export(&engine, sample);
    let verified = engine.verify(|_| ());
    let is_reported = verified.as_ref().map_or(true, |found| !found.is_sound());
    for (name, expected) in &sample.keys {
        findings.begin(&engine, name, expected);
    }
    drop(engine.close());
    let Findings {
        wrong,
        missing,
        errors,
    } = findings;
    // A live key that is taken for absent would be no better for being reported by a verification.
    if !wrong.is_empty() || !missing.is_empty() {
        return Err(format!(
            "wrong: {wrong:?}, missing: {missing:?}, verify: {verified:?}"
        ));
    }
    if !errors.is_empty() && !is_reported {
        println!("note: {errors:?}, and verify finds nothing");
    }
    Ok(match (errors.len(), is_reported) {
        (0, false) => "all answers right, nothing reported",
        (0, true) => "all answers right, damage reported",
        (_, true) => "errors, and reported",
        (_, false) => "errors, not reported",
    })
}

/// Damages the sample, looks, and restores it; says how it went in one line.
fn try_case(sample: &Sample, seed: u64) -> String {
    sample.restore();
    let harm = Harm::of(seed, &sample.files);
    harm.inflict(&sample.path());
    let result = catch_unwind(AssertUnwindSafe(|| judge(sample)));
    match result {
        Ok(Ok(way)) => format!("went {way}"),
        Ok(Err(what)) => format!("violation by {harm:?} with seed {seed}: {what}"),
        Err(_) => format!("violation by {harm:?} with seed {seed}: a panic"),
    }
}

#[test]
#[ignore = "the child process of the test below"]
fn tries_the_cases_that_it_is_told() {
    let Ok(seeds) = std::env::var("ONCEWARD_TEST_SEEDS") else {
        return;
    };
    // redb's panics are caught by the engine. One of the engine's own would be a mistake in it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        if place.starts_with("src/") || place.starts_with("tests/") {
            println!("violation: a panic at {place}: {panic}");
        }
    }));
    let beat = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&beat);
    std::thread::spawn(move || {
        loop {
            let before = watched.load(Ordering::Relaxed);
            std::thread::sleep(PATIENCE);
            if watched.load(Ordering::Relaxed) == before {
                println!("violation: a case took longer than {PATIENCE:?}");
                std::process::abort();
            }
        }
    });
    let sample = Sample::new();
    for seed in seeds.split(',') {
        println!("case {seed}");
        println!("{}", try_case(&sample, seed.parse().unwrap()));
        beat.fetch_add(1, Ordering::Relaxed);
    }
    println!("whole");
}

/// Runs the cases in a process; notes how often they went how, and gives what was wrong.
fn in_process(seeds: &[u64], ways: &mut BTreeMap<String, usize>) -> Vec<String> {
    let seeds: Vec<_> = seeds.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "damage::tries_the_cases_that_it_is_told",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("ONCEWARD_TEST_SEEDS", seeds.join(","))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut wrong, mut last, mut is_whole) = (Vec::new(), String::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(way) = line.strip_prefix("went ") {
            *ways.entry(way.to_owned()).or_default() += 1;
        }
        if line.starts_with("note") {
            println!("{last}: {line}");
        }
        if line.starts_with("violation") {
            wrong.push(format!("{last}: {line}"));
        }
        if line.starts_with("case ") {
            last.clone_from(&line);
        }
        is_whole |= line == "whole";
    }
    let status = child.wait().unwrap();
    if !is_whole || !status.success() {
        wrong.push(format!("the process ended in {last}: {status}"));
    }
    wrong
}

fn kept_seeds() -> Vec<u64> {
    let lines = include_str!("damage.seeds").lines();
    let seeds = lines.filter(|line| !line.starts_with('#'));
    seeds.map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_damaged_store_gives_the_right_answer_or_an_error() {
    let cases = if is_full_run() { 10_000 } else { 150 };
    let mut seeds = kept_seeds();
    seeds.extend(0..cases);
    let (mut ways, mut wrong) = (BTreeMap::new(), Vec::new());
    for seeds in seeds.chunks(CASES_PER_PROCESS) {
        wrong.extend(in_process(seeds, &mut ways));
    }
    for (way, times) in &ways {
        println!("{times:6} {way}");
    }
    for wrong in &wrong {
        println!("{wrong}");
    }
    println!(
        "{} cases of damage, {} against the promises",
        seeds.len(),
        wrong.len()
    );
    assert!(wrong.is_empty());
    assert_eq!(ways.values().sum::<usize>(), seeds.len());
}

#[test]
fn the_sample_is_right_before_it_is_damaged() {
    let sample = Sample::new();
    assert_eq!(judge(&sample), Ok("all answers right, nothing reported"));
}

#[test]
fn a_missing_file_is_noticed_whichever_it_is() {
    let sample = Sample::new();
    let names = sample.files.keys().filter(|name| *name != "LOCK");
    for name in names {
        sample.restore();
        std::fs::remove_file(sample.path().join(name)).unwrap();
        let error = sample.builder().open(sample.path()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
}

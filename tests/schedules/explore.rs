//! Runs a scenario under many schedules.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onceward::{Builder, Engine, Fingerprint, Guard, Key, ManualClock, Outcome, Reply};
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler,
    UncontrolledNondeterminismCheckScheduler as Twice,
};
use shuttle::{Config, MaxSteps, Runner};

pub(crate) const LEASE: Duration = Duration::from_secs(120);
pub(crate) const RETENTION: Duration = Duration::from_secs(3_600);
/// Longer than anything here takes.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// How many schedules, half of them random and half by PCT, are a round.
const ROUND: usize = 300;
/// How many rounds of each scenario: there are fifteen of these, which makes more than 100,000 schedules in full.
const IN_SHORT: usize = 2;
const IN_FULL: usize = 23;
/// With a defect switched on, which should be found long before.
const WITH_MUTANT: usize = 40;
/// PCT takes the turn from a thread that could go on once less.
const DEPTH: usize = 3;
/// No schedule takes so many steps, unless somebody waits in vain.
const MOST_STEPS: usize = 100_000;

/// A folder of a scenario's own, on a clock that it moves.
pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    path: PathBuf,
}

impl Bench {
    /// Segments of a single request, so that they roll and are sealed all the time.
    pub(crate) fn builder(&self) -> Builder {
        Engine::builder()
            .clock(self.clock.clone())
            .lease(LEASE)
            .retention(RETENTION)
            .segment_entries(2)
            .cache_bytes(1 << 20)
            .replay_cache_bytes(0)
            // So that the same schedule does the same again.
            .pepper("the same in every schedule")
    }

    pub(crate) fn open(&self) -> Engine {
        self.builder().open(&self.path).unwrap()
    }

    pub(crate) fn open_with(&self, set: impl FnOnce(Builder) -> Builder) -> Engine {
        set(self.builder()).open(&self.path).unwrap()
    }
}

pub(crate) fn key(name: impl ToString) -> Key {
    Key::new("tenant", name.to_string()).unwrap()
}

pub(crate) fn request() -> Fingerprint {
    Fingerprint::of("request")
}

pub(crate) fn reply(body: impl ToString) -> Reply {
    Reply::new(200, body.to_string())
}

pub(crate) fn granted(outcome: Outcome) -> Guard {
    match outcome {
        Outcome::Proceed(guard) => guard,
        other => panic!("not granted: {other:?}"),
    }
}

/// In memory where the system has such a folder.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn rounds() -> usize {
    if std::env::var_os("ONCEWARD_MUTANT").is_some() {
        return WITH_MUTANT;
    }
    let is_full = std::env::var_os("ONCEWARD_FULL").is_some_and(|value| value != "0");
    if is_full { IN_FULL } else { IN_SHORT }
}

/// Runs a scenario under random schedules and under those of PCT: each finds defects that the other hardly ever does.
/// `shuttle` prints the schedule that fails; with the name of a file that holds one in `ONCEWARD_SCHEDULE`, only that
/// is run.
pub(crate) fn explore(name: &str, scenario: fn(Bench)) {
    if let Some(file) = std::env::var_os("ONCEWARD_SCHEDULE") {
        run(ReplayScheduler::new_from_file(file).unwrap(), scenario);
        return;
    }
    // Each of these is run twice, and has to do the same.
    let some = RandomScheduler::new(5);
    run(Twice::new(some), scenario);
    let begun = Instant::now();
    let mut done = 0;
    for _ in 0..rounds() {
        done += run(RandomScheduler::new(ROUND / 2), scenario);
        done += run(PctScheduler::new(DEPTH, ROUND / 2), scenario);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{name}: {done} schedules in {seconds:.1} s");
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn(Bench)) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.silence_warnings = true;
    // What a failure leaves isn't brought to an end: nobody could follow it.
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let folder = folder();
    let path = folder.path().join("engine");
    Runner::new(scheduler, config).run(move || {
        // What the schedule before has left.
        let _is_there = fs::remove_dir_all(&path);
        scenario(Bench {
            clock: ManualClock::new(),
            path: path.clone(),
        });
    })
}

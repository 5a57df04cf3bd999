//! What onceward promises, shown: `cargo run --release --example demo`.
//!
//! Takes under a minute, needs nothing but the crate, and exits with 1 if a promise is broken.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onceward::{Engine, Fingerprint, Key, Outcome, Reply};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The lease of the killed processes' attempts; 2 minutes would be a long demo.
const SHORT_LEASE: Duration = Duration::from_secs(2);
const CALLERS: u64 = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, folder] = &arguments[..] {
        return as_child(role, Path::new(folder)).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    let folder = demo_folder();
    let result = std::fs::create_dir_all(&folder)
        .map_err(Into::into)
        .and_then(|()| show(&folder, &mut report));
    // The folder is the demo's own; what is left of it does no harm.
    drop(std::fs::remove_dir_all(&folder));
    if let Err(error) = result {
        println!("\nThe demo could not go on: {error}");
        return ExitCode::FAILURE;
    }
    report.print()
}

fn show(folder: &Path, report: &mut Report) -> Result<()> {
    println!("onceward keeps the answers of requests, so that a retry gets the first answer.");
    println!("This demo uses the folder {}\n", folder.display());
    let engine = Engine::open(folder.join("engine"))?;
    one_key_many_callers(&engine, report)?;
    another_amount(&engine, report)?;
    while_it_runs(&engine, report)?;
    engine.close()?;
    killed_in_the_handler(&folder.join("killed-in-handler"), report)?;
    killed_after_complete(&folder.join("killed-after-complete"), report)?;
    throughput(&folder.join("throughput"), report)
}

fn payment(amount: u32) -> (Key, Fingerprint) {
    let key = Key::new("acct_42", "order-17").expect("a valid key");
    (
        key,
        Fingerprint::of(format!("POST /payments amount={amount}")),
    )
}

fn one_key_many_callers(engine: &Engine, report: &mut Report) -> Result<()> {
    step("1,000 callers send the same payment with one key, all at once");
    let (key, fingerprint) = payment(100);
    let charges = AtomicU64::new(0);
    // Nobody starts before all are there.
    let gate = RwLock::new(());
    let closed = gate.write();
    let start = Instant::now();
    let answers = std::thread::scope(|scope| -> Result<Vec<(bool, Reply)>> {
        let call = || -> onceward::Result<(bool, Reply)> {
            drop(gate.read());
            match engine.begin_or_wait(&key, &fingerprint, Duration::from_secs(30))? {
                Outcome::Proceed(guard) => {
                    let number = charges.fetch_add(1, Ordering::SeqCst) + 1;
                    // Charging a card takes its time.
                    std::thread::sleep(Duration::from_millis(300));
                    let reply = Reply::new(201, format!("{{\"charge\":{number}}}"));
                    guard.complete(reply.clone())?;
                    Ok((true, reply))
                }
                Outcome::Replay(reply) => Ok((false, reply)),
                other => panic!("the callers wait for the one that runs, but: {other:?}"),
            }
        };
        let threads: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        drop(closed);
        let answers = threads.into_iter().map(|thread| {
            let answer = thread.join().map_err(|_| "a caller panicked")?;
            Ok(answer?)
        });
        answers.collect()
    })?;
    let charges = charges.into_inner();
    let replays = answers.iter().filter(|(ran, _)| !ran).count();
    let same = answers.iter().all(|(_, reply)| *reply == answers[0].1);
    told(&format!(
        "the card was charged {charges} time(s); {replays} callers got a replay; all answers are {}; {} ms",
        if same {
            "the same bytes"
        } else {
            "NOT the same"
        },
        start.elapsed().as_millis()
    ));
    report.note(
        "1,000 callers, one key: one execution, 999 replays",
        charges == 1 && replays == 999 && same,
    );
    Ok(())
}

fn another_amount(engine: &Engine, report: &mut Report) -> Result<()> {
    step("The same key comes with another amount");
    let (key, fingerprint) = payment(999);
    let outcome = engine.begin(&key, &fingerprint)?;
    let is_conflict = matches!(outcome, Outcome::Conflict(_));
    told(if is_conflict {
        "refused as a conflict: the key belongs to the first request"
    } else {
        "NOT refused"
    });
    report.note("same key, another request: conflict", is_conflict);
    Ok(())
}

fn while_it_runs(engine: &Engine, report: &mut Report) -> Result<()> {
    step("A retry comes while the first attempt still runs");
    let key = Key::new("acct_42", "order-18")?;
    let fingerprint = Fingerprint::of("POST /payments amount=5");
    let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? else {
        return Err("a fresh key was not granted".into());
    };
    let retry = engine.begin(&key, &fingerprint)?;
    let is_in_flight = match &retry {
        Outcome::InFlight(in_flight) => {
            told(&format!(
                "in flight: Retry-After {} s, the lease runs for {} s more",
                in_flight.retry_after().as_secs(),
                in_flight.lease_left().as_secs()
            ));
            true
        }
        other => {
            told(&format!("NOT in flight: {other:?}"));
            false
        }
    };
    guard.complete(Reply::new(201, "charged"))?;
    report.note("a retry while the first runs: in flight", is_in_flight);
    Ok(())
}

fn killed_in_the_handler(folder: &Path, report: &mut Report) -> Result<()> {
    step("A process begins a payment and is killed (SIGKILL) inside its handler");
    kill_once_it_says("in the handler", "begin", folder)?;
    let engine = open_after_kill(folder)?;
    let (key, fingerprint) = payment(100);
    let held = match engine.begin(&key, &fingerprint)? {
        Outcome::InFlight(in_flight) => {
            told(&format!(
                "after the restart: in flight, since the effect may have happened; {} ms of its lease are left",
                in_flight.lease_left().as_millis()
            ));
            true
        }
        other => {
            told(&format!("after the restart NOT in flight: {other:?}"));
            false
        }
    };
    report.note("killed in the handler: the key stays taken", held);
    told("waiting for the lease's end …");
    let outcome = engine.begin_or_wait(&key, &fingerprint, 3 * SHORT_LEASE)?;
    let attempt = match outcome {
        Outcome::Proceed(guard) => {
            let attempt = guard.attempt();
            guard.complete(Reply::new(201, "charged at the second attempt"))?;
            attempt
        }
        _ => 0,
    };
    told(&format!("the retry was granted as attempt {attempt}"));
    report.note(
        "… and is granted as attempt 2 at its lease's end",
        attempt == 2,
    );
    engine.close()?;
    Ok(())
}

fn killed_after_complete(folder: &Path, report: &mut Report) -> Result<()> {
    step("A process completes a payment and is killed right after `complete` returned");
    kill_once_it_says("completed", "complete", folder)?;
    let engine = open_after_kill(folder)?;
    let (key, fingerprint) = payment(100);
    let outcome = engine.begin(&key, &fingerprint)?;
    let is_kept =
        matches!(&outcome, Outcome::Replay(reply) if reply.body() == "charged, then killed");
    told(if is_kept {
        "after the restart its answer is replayed, to the byte"
    } else {
        "after the restart its answer is LOST"
    });
    report.note("killed after complete: the answer is replayed", is_kept);
    engine.close()?;
    Ok(())
}

fn throughput(folder: &Path, report: &mut Report) -> Result<()> {
    const SECONDS: u64 = 1;
    step(
        "How fast is this disk? begin + complete, each durable before it returns, 512-byte replies",
    );
    let engine = Engine::open(folder)?;
    let (next, fingerprint) = (AtomicU64::new(0), Fingerprint::of("request"));
    for callers in [1, 8, 64] {
        let start = Instant::now();
        let cycles = AtomicU64::new(0);
        std::thread::scope(|scope| -> Result<()> {
            let work = || -> onceward::Result<()> {
                while start.elapsed() < Duration::from_secs(SECONDS) {
                    let key = Key::new("load", next.fetch_add(1, Ordering::Relaxed).to_string())?;
                    if let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? {
                        guard.complete(Reply::new(200, vec![b'x'; 512]))?;
                        cycles.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            };
            let threads: Vec<_> = (0..callers).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().map_err(|_| "a caller panicked")??;
            }
            Ok(())
        })?;
        let per_second = cycles.into_inner() / SECONDS;
        told(&format!(
            "{callers:>3} caller(s): {per_second:>7} requests per second"
        ));
        if callers == 64 {
            report
                .facts
                .push(("requests per second, 64 callers, on this disk", per_second));
        }
    }
    let (key, start, mut replays) = (Key::new("load", "0")?, Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..1_000 {
            drop(engine.begin(&key, &fingerprint)?);
        }
        replays += 1_000;
    }
    told(&format!("replays on one thread: {replays} per second"));
    report
        .facts
        .push(("replays per second on one thread", replays));
    engine.close()?;
    Ok(())
}

/// The child's part: work, say so, and wait to be killed.
fn as_child(role: &str, folder: &Path) -> Result<()> {
    let engine = Engine::builder().lease(SHORT_LEASE).open(folder)?;
    let (key, fingerprint) = payment(100);
    let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? else {
        return Err("a fresh key was not granted".into());
    };
    if role == "complete" {
        guard.complete(Reply::new(201, "charged, then killed"))?;
        say("completed")?;
    } else {
        say("in the handler")?;
    }
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn kill_once_it_says(word: &str, role: &str, folder: &Path) -> Result<()> {
    let mut child: Child = Command::new(std::env::current_exe()?)
        .args([role.as_ref(), folder.as_os_str()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let said = child.stdout.take().ok_or("the child has no output")?;
    BufReader::new(said).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    if line.trim_end() != word {
        return Err(format!("the child said {line:?} instead of {word:?}").into());
    }
    told(&format!("it said '{word}' and was killed"));
    Ok(())
}

fn open_after_kill(folder: &Path) -> Result<Engine> {
    let start = Instant::now();
    let engine = Engine::builder().lease(SHORT_LEASE).open(folder)?;
    told(&format!("reopened in {} ms", start.elapsed().as_millis()));
    Ok(engine)
}

/// A folder on the disk where the build is, because the system's temporary one may be memory.
fn demo_folder() -> PathBuf {
    let target = Path::new("target");
    let parent = if target.is_dir() {
        target.to_owned()
    } else {
        std::env::temp_dir()
    };
    parent.join(format!("onceward-demo-{}", std::process::id()))
}

fn step(title: &str) {
    println!("• {title}");
}

fn told(line: &str) {
    println!("    {line}");
}

/// What was promised and what happened.
#[derive(Default)]
struct Report {
    rows: Vec<(&'static str, bool)>,
    facts: Vec<(&'static str, u64)>,
}

impl Report {
    fn note(&mut self, promise: &'static str, is_kept: bool) {
        self.rows.push((promise, is_kept));
    }

    fn print(&self) -> ExitCode {
        println!("\n{:<58} result", "promise");
        println!("{}", "─".repeat(66));
        for (promise, is_kept) in &self.rows {
            println!("{promise:<58} {}", if *is_kept { "kept" } else { "BROKEN" });
        }
        for (fact, number) in &self.facts {
            println!("{fact:<58} {number}");
        }
        if self.rows.iter().all(|(_, is_kept)| *is_kept) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

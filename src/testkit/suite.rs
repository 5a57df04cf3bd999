//! All scenarios, one after the other.

use std::any::Any;
use std::fmt;
use std::thread;

use super::{contract, nodes, table};
use crate::store::register::Register;

/// What [`conformance`] has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Passed {
    /// The scenarios that passed, in their order.
    pub scenarios: Vec<&'static str>,
    /// Whether one handle heard what another one announced. It needn't: who waits for a key looks after a while.
    pub announces: bool,
}

/// Runs every scenario on a register. `make` gives a handle to one server, the same each time.
///
/// The handles are made in the calling thread or in others, and used in several runtimes of tokio's. Waits for the server;
/// async code calls it in a thread of its own, such as tokio's `spawn_blocking`.
///
/// # Panics
///
/// If a scenario fails: with the names of all that did and what each has seen.
pub fn conformance<R: Register>(make: impl Fn() -> R + Sync) -> Passed {
    let mut run = Run::default();
    let ground = contract::Ground::new(&make);
    for (name, scenario) in contract::scenarios() {
        run.one(name, || scenario(&ground));
    }
    run.stop_if_failed("the register doesn't keep the contract");
    for scenario in table::scenarios() {
        run.one(scenario.name, || table::run(scenario, &make));
    }
    for (name, scenario) in nodes::scenarios() {
        run.one(name, || scenario(&nodes::Nodes::new(&make)));
    }
    run.stop_if_failed("engines on the register don't keep their promises");
    Passed {
        scenarios: run.passed,
        announces: ground.announces(),
    }
}

/// What has become of the scenarios so far.
#[derive(Default)]
struct Run {
    passed: Vec<&'static str>,
    failed: Vec<String>,
}

impl Run {
    /// Runs a scenario in a thread that bears its name.
    fn one(&mut self, name: &'static str, scenario: impl FnOnce() + Send) {
        let result = thread::scope(|scope| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, scenario).unwrap().join()
        });
        match result {
            Ok(()) => self.passed.push(name),
            Err(panic) => self.failed.push(format!("{name}: {}", message(&*panic))),
        }
    }

    fn stop_if_failed(&self, what: &str) {
        let failed = self.failed.join("\n");
        assert!(failed.is_empty(), "{what}:\n{failed}");
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(message) = panic.downcast_ref::<String>() {
        return message;
    }
    panic
        .downcast_ref::<&str>()
        .copied()
        .unwrap_or("it panicked")
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.scenarios {
            writeln!(f, "{name}: passed")?;
        }
        f.write_str(if self.announces {
            "the register announces what has changed"
        } else {
            "the register announces nothing: who waits for a key looks after a while"
        })
    }
}

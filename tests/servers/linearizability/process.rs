//! One of the processes: its threads, and what it is told to do.

use std::sync::RwLock;
use std::time::Duration;

use onceward::Engine;
use onceward::testkit::Shifted;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::reference::{LEASE, RETENTION, Time};
use super::worker::{Round, Scale, Worker};
use super::{THREADS_PER_PROCESS, UNIT};
use crate::node::{Told, say};
use crate::shared::Shared;

const STEPS_PER_ROUND: usize = 4;
/// What a process says when it has done what it was told.
pub(super) const DONE: &str = "done";

#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    /// A history with this number, on keys of its own; its times count from a moment.
    Begin {
        number: usize,
        zero_ms: u64,
    },
    /// A round of all threads. The answer is how many operations it had.
    Work,
    /// Moves time on.
    Move {
        units: Time,
    },
    /// Tells all operations since the last report.
    Report,
    End,
}

struct Process {
    engine: Engine,
    time: Shifted<()>,
    workers: Vec<Worker>,
    scope: String,
    scale: Scale,
    /// Units since the history's beginning.
    now: Time,
}

impl Process {
    fn new(told: &Told) -> Self {
        const TIMEOUT: Duration = Duration::from_secs(60);
        let time = Shifted::new(());
        let units = |number: Time| UNIT * u32::try_from(number).unwrap() - UNIT / 4;
        let engine = Engine::builder()
            .clock(time.clock())
            .lease(units(LEASE))
            .retention(units(RETENTION))
            .sweep_interval(Duration::from_millis(50))
            // Other nodes may replay what was forgotten for as long.
            .replay_cache_time(Duration::ZERO)
            .open_on(time.beside(Shared::within(&told.store, TIMEOUT)));
        let first = told.number * THREADS_PER_PROCESS;
        Self {
            engine: engine.unwrap(),
            time,
            workers: (first..first + THREADS_PER_PROCESS)
                .map(Worker::new)
                .collect(),
            scope: String::new(),
            scale: Scale::MS,
            now: 0,
        }
    }

    fn obey(&mut self, order: &Order) {
        match *order {
            Order::Begin { number, zero_ms } => {
                self.scope = format!("history {number}");
                let unit_ms = u64::try_from(UNIT.as_millis()).unwrap();
                self.scale = Scale { zero_ms, unit_ms };
                self.now = 0;
                for worker in &mut self.workers {
                    worker.guards.clear();
                }
            }
            Order::Work => self.work(),
            Order::End => (),
            Order::Move { units } => {
                self.now += units;
                self.time.advance(UNIT * u32::try_from(units).unwrap());
            }
            Order::Report => {
                let workers = self.workers.iter_mut();
                for event in workers.flat_map(|worker| worker.events.drain(..)) {
                    say(&serde_json::to_string(&event).unwrap());
                }
            }
        }
    }

    fn work(&mut self) {
        let round = Round {
            engine: &self.engine,
            scope: &self.scope,
            scale: self.scale,
            moment: &monotonic_ns,
            is_clock_moving: false,
            moving: &RwLock::new(()),
        };
        std::thread::scope(|scope| {
            for worker in &mut self.workers {
                let round = &round;
                scope.spawn(move || (0..STEPS_PER_ROUND).for_each(|_| worker.step(round)));
            }
        });
        let mut done = 0;
        for worker in &mut self.workers {
            let events = worker.events.iter_mut().rev();
            for (_, event) in events.take_while(|(_, event)| event.times.is_empty()) {
                event.times.push(self.now);
                done += 1;
            }
        }
        say(&done.to_string());
    }
}

/// The same for all processes of the machine, and never earlier than what another one has seen before.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, ns) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap() * 1_000_000_000 + ns.unwrap()
}

#[test]
#[ignore = "a child process of the tests above"]
fn works_by_order() {
    let Some(told) = Told::here() else {
        return;
    };
    let mut process = Process::new(&told);
    say("");
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line.unwrap()).unwrap();
        process.obey(&order);
        say(DONE);
        if matches!(order, Order::End) {
            break;
        }
    }
}

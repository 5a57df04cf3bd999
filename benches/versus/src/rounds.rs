//! The order of the run: rounds outermost, then counts of callers, then the rivals in turn, so that
//! whatever the machine does meanwhile meets all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use crate::figures::rounded;
use crate::load::{self, Load, Numbers, Window};
use crate::progress::Progress;
use crate::replay::{self, Replays};
use crate::results::{Callers, Results};
use crate::rival::{Caller, Reader, Rival, Task};
use crate::rivals::{Caches, Kind};
use crate::{check, folder, interrupt};

const REPLAY_TIME_MOST: Duration = Duration::from_secs(2);

pub(crate) struct Plan {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) threads: Vec<usize>,
    pub(crate) tasks: Vec<usize>,
    pub(crate) replays: Vec<Replays>,
    pub(crate) window: Window,
    pub(crate) rounds: usize,
}

impl Plan {
    fn columns(&self) -> Vec<Callers> {
        let threads = self.threads.iter().map(|count| Callers::Threads(*count));
        let tasks = self.tasks.iter().map(|count| Callers::Tasks(*count));
        threads.chain(tasks).collect()
    }

    fn measurements(&self) -> usize {
        let in_a_round = self.threads.len() + self.tasks.len() + self.replays.len();
        self.rounds * self.kinds.len() * in_a_round
    }
}

/// A rival in one round, with a store that was fresh at the round's start.
struct Entrant {
    kind: Kind,
    folder: PathBuf,
    rival: Box<dyn Rival>,
    completed: Vec<u64>,
}

pub(crate) struct Run {
    plan: Plan,
    numbers: &'static Numbers,
    runtime: Runtime,
    progress: Progress,
    results: Results,
    round: usize,
}

impl Run {
    pub(crate) fn new(plan: Plan, numbers: &'static Numbers) -> Result<Self> {
        let results = Results {
            kinds: plan.kinds.clone(),
            columns: plan.columns(),
            ..Results::default()
        };
        Ok(Self {
            progress: Progress::new(plan.measurements()),
            plan,
            numbers,
            runtime: Runtime::new()?,
            results,
            round: 0,
        })
    }

    pub(crate) fn go(mut self, folder: &Path) -> Result<Results> {
        while self.round < self.plan.rounds {
            let folder = folder.join(format!("round-{}", self.round + 1));
            let mut entrants = self.open(&folder)?;
            self.threads(&mut entrants)?;
            self.tasks(&mut entrants)?;
            self.replays(&mut entrants)?;
            drop(entrants);
            folder::remove(&folder);
            self.round += 1;
        }
        Ok(self.results)
    }

    /// In another order each round, since whoever comes after another one has its leftovers to bear.
    fn open(&self, folder: &Path) -> Result<Vec<Entrant>> {
        let mut kinds = self.plan.kinds.clone();
        let by = self.round % kinds.len();
        kinds.rotate_left(by);
        let mut entrants = Vec::new();
        for kind in kinds {
            interrupt::check()?;
            let folder = folder.join(kind.name());
            fs::create_dir_all(&folder)?;
            let rival = kind.open(&folder, Caches::Usual)?;
            self.check(rival.as_ref())
                .with_context(|| format!("{} doesn't do the job", kind.name()))?;
            entrants.push(Entrant {
                kind,
                folder,
                rival,
                completed: Vec::new(),
            });
        }
        Ok(entrants)
    }

    fn check(&self, rival: &dyn Rival) -> Result<()> {
        check::in_threads(rival, self.numbers)?;
        if self.plan.tasks.is_empty() {
            return Ok(());
        }
        check::in_tasks(rival, self.numbers, &self.runtime)
    }

    fn threads(&mut self, entrants: &mut [Entrant]) -> Result<()> {
        let most = self.plan.threads.iter().copied().max().unwrap_or(0);
        let mut teams: Vec<Vec<Box<dyn Caller>>> = Vec::new();
        for entrant in &*entrants {
            let team: Result<_> = (0..most).map(|_| entrant.rival.caller()).collect();
            teams.push(team.with_context(|| connecting(entrant))?);
        }
        for count in self.plan.threads.clone() {
            for (entrant, team) in entrants.iter_mut().zip(&mut teams) {
                entrant.rival.make_ready(self.plan.window.total())?;
                let alone = entrant.rival.measure_alone(count, self.plan.window);
                let load = alone.unwrap_or_else(|| {
                    load::in_threads(&mut team[..count], self.numbers, self.plan.window)
                });
                self.note(entrant, Callers::Threads(count), load)?;
            }
        }
        Ok(())
    }

    fn tasks(&mut self, entrants: &mut [Entrant]) -> Result<()> {
        let Some(most) = self.plan.tasks.iter().copied().max() else {
            return Ok(());
        };
        let mut teams: Vec<Vec<Box<dyn Task>>> = Vec::new();
        for entrant in &*entrants {
            let team = self.runtime.block_on(entrant.rival.tasks(most));
            teams.push(team.with_context(|| connecting(entrant))?);
        }
        for count in self.plan.tasks.clone() {
            for (entrant, team) in entrants.iter_mut().zip(&mut teams) {
                entrant.rival.make_ready(self.plan.window.total())?;
                let alone = entrant.rival.measure_alone(count, self.plan.window);
                let load = alone.unwrap_or_else(|| {
                    let load = load::in_tasks(team, count, self.numbers, self.plan.window);
                    self.runtime.block_on(load)
                });
                self.note(entrant, Callers::Tasks(count), load)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, entrant: &mut Entrant, callers: Callers, load: Result<Load>) -> Result<()> {
        let what = self.what(entrant.kind, &format!("{} callers", callers.label()));
        let load = load.with_context(|| what.clone())?;
        self.progress
            .measured(&what, &format!("{} cycles", rounded(load.cycles_per_s)));
        let cell = self
            .results
            .cells
            .entry((entrant.kind, callers))
            .or_default();
        cell.add(&load);
        entrant.completed.extend(load.completed);
        Ok(())
    }

    fn replays(&mut self, entrants: &mut Vec<Entrant>) -> Result<()> {
        for replays in self.plan.replays.clone() {
            if replays == Replays::Cold {
                reopen(entrants)?;
            }
            for entrant in entrants
                .iter()
                .filter(|entrant| entrant.kind.keeps_replies())
            {
                let what = self.what(entrant.kind, &replays.label());
                let rate = self.replay(entrant, replays).context(what.clone())?;
                self.progress
                    .measured(&what, &format!("{} replays", rounded(rate)));
                let rates = self.results.replays.entry((entrant.kind, replays));
                rates.or_default().push(rate);
            }
        }
        Ok(())
    }

    fn replay(&self, entrant: &Entrant, replays: Replays) -> Result<f64> {
        let keys = replays.keys(&entrant.completed)?;
        let mut readers: Vec<Box<dyn Reader>> = (0..replays.threads())
            .map(|_| entrant.rival.reader())
            .collect::<Result<_>>()?;
        let time = self.plan.window.measured.min(REPLAY_TIME_MOST);
        replay::measure(&mut readers, &keys, replays != Replays::Cold, time)
    }

    fn what(&self, kind: Kind, what: &str) -> String {
        let (round, rounds) = (self.round + 1, self.plan.rounds);
        format!("round {round} of {rounds}, {what}, {}", kind.name())
    }
}

/// Opens those that have caches of their own again, with small ones or none.
fn reopen(entrants: &mut Vec<Entrant>) -> Result<()> {
    for mut entrant in std::mem::take(entrants) {
        if !entrant.kind.has_caches() {
            entrant.rival.shrink_caches()?;
            entrants.push(entrant);
            continue;
        }
        // One store has to be closed before it can be opened again.
        drop(entrant.rival);
        let rival = entrant.kind.open(&entrant.folder, Caches::Small)?;
        entrants.push(Entrant { rival, ..entrant });
    }
    Ok(())
}

fn connecting(entrant: &Entrant) -> String {
    format!("{} gives its callers no connection", entrant.kind.name())
}

//! What mustn't have happened, by the server's time, and what excuses it: the faults that the plan
//! has injected.
//!
//! An attempt whose handler hasn't failed keeps its key until it is settled. Whoever is granted the
//! key all the same needs an excuse: from half of the earlier lease to its end, the earlier
//! attempt's node never had the time for one renewal.

use std::collections::{BTreeMap, HashMap};

use onceward::register::Cell;

use super::node::{End, ON_FOLDER, Run};
use super::plan::{LEASE_MS, Plan, Trouble};
use super::server::{Noted, What, keys};

/// Within so much undisturbed time a renewal has to succeed: the longest pause between two tries of
/// it within half of a lease (an eighth and its jitter), and a call.
const SLACK_MS: u64 = LEASE_MS / 5;
/// Between half of a lease and its end nothing disturbed, but for so long that the machine itself
/// stood still.
pub(super) const STALL_MS: u64 = 25;

/// Why a key was granted though an earlier attempt wasn't settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    NodeStopped,
    NodeCutOff,
    ClockStepped,
    DiskFailed,
    RenewForOver,
    DataLost,
    ReplicaBehind,
    MachineStalled,
}

#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) violations: Vec<String>,
    pub(super) excuses: BTreeMap<Excuse, usize>,
    pub(super) grants: usize,
    pub(super) renewals: usize,
}

/// A reply that was acknowledged to be kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) key: String,
    pub(super) body: String,
}

pub(super) struct Evidence<'a> {
    pub(super) plan: &'a Plan,
    pub(super) noted: &'a [Noted],
    pub(super) runs: &'a [Run],
    pub(super) stalls: &'a [(u64, u64)],
    pub(super) kept: &'a [Kept],
    /// What each key is replayed with in the end; `None` if it isn't.
    pub(super) last: &'a HashMap<String, Option<String>>,
}

/// An attempt, as far as the server knows it.
#[derive(Clone, Debug)]
struct Granted {
    node: usize,
    token: u64,
    at_ms: u64,
    is_acknowledged: bool,
    /// The last acknowledged: when it was written, and its end by the server's clock. Earlier, where the
    /// attempt itself has since written an earlier end, because that clock was set back.
    lease: (u64, u64),
    /// One that was written since, and not acknowledged.
    unacknowledged: Option<(u64, u64)>,
    is_settled: bool,
    is_completed: bool,
    lost: Option<Excuse>,
    renewals: u64,
    last_ms: u64,
}

impl Granted {
    /// What was written before is written over itself, and acknowledged now.
    fn acknowledge(&mut self, cell: &Cell, at_ms: u64) {
        match cell {
            Cell::InFlight { token, .. } if *token == self.token => {
                self.is_acknowledged = true;
                self.last_ms = at_ms;
                self.lease = self.unacknowledged.take().unwrap_or(self.lease);
            }
            Cell::Completed { .. } => self.is_completed = true,
            _ => {}
        }
    }
}

/// How long something failed without a break, if these are the times; some may overlap.
fn longest_within(times: &[(u64, u64)], between: &std::ops::Range<u64>) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let (mut longest, mut began, mut ended) = (0, 0, 0);
    for (from, to) in times {
        if from > ended {
            began = from;
        }
        ended = ended.max(to);
        let (from, to) = (began.max(between.start), ended.min(between.end));
        longest = longest.max(to.saturating_sub(from));
    }
    longest
}

impl Evidence<'_> {
    pub(super) fn judge(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let keys = keys(self.noted);
        let mut attempts: HashMap<&str, Granted> = HashMap::new();
        for noted in self.noted {
            let Some(key) = keys.get(&noted.id) else {
                continue;
            };
            match &noted.what {
                What::Lost { is_by_lag } => {
                    if let Some(attempt) = attempts.get_mut(key.as_str()) {
                        attempt.lost = if !is_by_lag {
                            Some(Excuse::DataLost)
                        } else if self.plan.waits_for_replica {
                            attempt.lost
                        } else {
                            Some(Excuse::ReplicaBehind)
                        };
                    }
                }
                What::Made {
                    cell,
                    is_same: true,
                    is_acknowledged: true,
                    ..
                } => {
                    if let Some(attempt) = attempts.get_mut(key.as_str()) {
                        attempt.acknowledge(cell, noted.at_ms);
                    }
                }
                What::Made { is_same: true, .. } => {}
                What::Made {
                    node,
                    cell,
                    is_acknowledged,
                    ..
                } => {
                    let before = attempts.remove(key.as_str());
                    let told = (*node, *is_acknowledged);
                    if let Some(now) = self.took(key, noted, (cell, told), before, &mut verdict) {
                        attempts.insert(key, now);
                    }
                }
            }
        }
        self.judge_folder(&mut verdict);
        let holders = attempts.iter().map(|(key, attempt)| (*key, attempt.token));
        self.judge_kept(&keys, &holders.collect(), &mut verdict);
        verdict
    }

    /// What has become of a key's attempt by a change.
    fn took(
        &self,
        key: &str,
        noted: &Noted,
        (cell, (node, is_acknowledged)): (&Cell, (usize, bool)),
        before: Option<Granted>,
        verdict: &mut Verdict,
    ) -> Option<Granted> {
        match cell {
            Cell::InFlight {
                token,
                lease_until_ms,
                ..
            } => {
                let lease = (noted.at_ms, *lease_until_ms);
                if let Some(mut attempt) = before.clone().filter(|it| it.token == *token) {
                    attempt.last_ms = noted.at_ms;
                    if *lease_until_ms <= noted.server_ms + 1 {
                        attempt.is_settled = true;
                    } else if is_acknowledged {
                        attempt.lease = lease;
                        attempt.unacknowledged = None;
                        attempt.renewals += 1;
                        verdict.renewals += 1;
                        self.count_renewals(key, &attempt, verdict);
                    } else {
                        attempt.lease.1 = attempt.lease.1.min(*lease_until_ms);
                        attempt.unacknowledged = Some(lease);
                    }
                    return Some(attempt);
                }
                verdict.grants += 1;
                if let Some(earlier) = before {
                    self.granted_after(key, &earlier, noted, verdict);
                }
                Some(Granted {
                    node,
                    token: *token,
                    at_ms: noted.at_ms,
                    is_acknowledged,
                    lease,
                    unacknowledged: (!is_acknowledged).then_some(lease),
                    is_settled: false,
                    is_completed: false,
                    lost: None,
                    renewals: 0,
                    last_ms: noted.at_ms,
                })
            }
            Cell::Completed { .. } => before.map(|attempt| Granted {
                is_settled: true,
                is_completed: attempt.is_completed || is_acknowledged,
                ..attempt
            }),
            Cell::Free => before.map(|attempt| Granted {
                is_settled: true,
                ..attempt
            }),
            Cell::Other => before,
        }
    }

    /// At most one for half of a lease, and two more.
    fn count_renewals(&self, key: &str, attempt: &Granted, verdict: &mut Verdict) {
        let most = 2 * (attempt.last_ms - attempt.at_ms) / LEASE_MS + 2;
        if attempt.renewals > most {
            verdict.violations.push(format!(
                "{key}: the lease was renewed {} times within {} ms",
                attempt.renewals,
                attempt.last_ms - attempt.at_ms
            ));
        }
    }

    fn granted_after(&self, key: &str, earlier: &Granted, now: &Noted, verdict: &mut Verdict) {
        if let Some(excuse) = earlier.lost {
            *verdict.excuses.entry(excuse).or_default() += 1;
            return;
        }
        if earlier.is_completed {
            let at = now.at_ms;
            let violation = format!("{key}: granted at {at} ms though a reply was acknowledged");
            return verdict.violations.push(violation);
        }
        if earlier.is_settled || !earlier.is_acknowledged {
            return;
        }
        let until = earlier.lease.1;
        if now.server_ms < until {
            verdict.violations.push(format!(
                "{key}: granted at {} ms, {} ms before the end of the lease",
                now.at_ms,
                until - now.server_ms
            ));
            return;
        }
        let Some(run) = self
            .runs
            .iter()
            .find(|run| run.token == earlier.token && run.key == key)
        else {
            // The grant has reached nobody.
            return;
        };
        let has_failed = matches!(run.end, Some((at, End::Failed)) if at <= now.at_ms);
        if has_failed {
            return;
        }
        match self.excuse(earlier, run, now) {
            Some(excuse) => *verdict.excuses.entry(excuse).or_default() += 1,
            None => verdict.violations.push(format!(
                "{key}: granted at {} ms to another attempt than that of node {} (granted at {} ms, \
                 last renewed at {} ms, its handler {:?})",
                now.at_ms, earlier.node, earlier.at_ms, earlier.lease.0, run.end
            )),
        }
    }

    fn excuse(&self, earlier: &Granted, run: &Run, now: &Noted) -> Option<Excuse> {
        let plan = self.plan;
        let (written_ms, until) = earlier.lease;
        let half_ms = written_ms + LEASE_MS / 2;
        // A node whose clock stood still is late by so much.
        let half_ms = half_ms + plan.lost_time_ms(earlier.node, written_ms, half_ms);
        let ends_ms = (written_ms..now.at_ms).find(|at| plan.server_ms(*at) >= until);
        let ends_ms = ends_ms.unwrap_or(now.at_ms);
        let last_renewal_ms = run.from_ms + plan.renew_for_ms;
        let window = half_ms..ends_ms.min(last_renewal_ms);
        let (mut undisturbed, mut longest, mut found) = (0, 0, None);
        for at_ms in window.clone() {
            let stalls = self.stalls.iter();
            let is_stalled = stalls
                .clone()
                .any(|(from, to)| (*from..*to).contains(&at_ms));
            let disturbed = match plan.trouble(earlier.node, at_ms) {
                Some(Trouble::Asleep { .. }) => Some(Excuse::NodeStopped),
                Some(_) => Some(Excuse::NodeCutOff),
                None if is_stalled => Some(Excuse::MachineStalled),
                None => None,
            };
            found = found.max(disturbed).or(found);
            undisturbed = if disturbed.is_some() {
                0
            } else {
                undisturbed + 1
            };
            longest = longest.max(undisturbed);
        }
        if longest >= SLACK_MS {
            return None;
        }
        if last_renewal_ms < ends_ms && last_renewal_ms < half_ms + SLACK_MS {
            return Some(Excuse::RenewForOver);
        }
        if let Some(excuse) = found {
            return Some(excuse);
        }
        let is_stopped = plan.lost_time_ms(earlier.node, written_ms, ends_ms) > 0;
        let is_stepped = plan.server_ms(ends_ms) - plan.server_ms(written_ms)
            > ends_ms - written_ms + LEASE_MS / 10;
        match (is_stopped, is_stepped) {
            (true, _) => Some(Excuse::NodeStopped),
            (_, true) => Some(Excuse::ClockStepped),
            _ => None,
        }
    }

    /// On the folder nobody notes what is written: the handlers' runs tell.
    fn judge_folder(&self, verdict: &mut Verdict) {
        let mut last: HashMap<&str, &Run> = HashMap::new();
        for run in self.runs.iter().filter(|run| run.node == ON_FOLDER) {
            verdict.grants += 1;
            let Some(earlier) = last.insert(&run.key, run) else {
                continue;
            };
            if matches!(earlier.end, Some((at, End::Failed)) if at <= run.from_ms) {
                continue;
            }
            let between = earlier.from_ms..run.from_ms;
            let fails = |times| longest_within(times, &between) + SLACK_MS >= LEASE_MS / 2;
            let excuse = if fails(&self.plan.disk) {
                Excuse::DiskFailed
            } else if run.from_ms + SLACK_MS
                >= earlier.from_ms + self.plan.renew_for_ms + LEASE_MS / 2
            {
                Excuse::RenewForOver
            } else if fails(self.stalls) {
                Excuse::MachineStalled
            } else {
                verdict.violations.push(format!(
                    "{} on the folder: run at {} ms and again at {} ms (the first {:?})",
                    run.key, earlier.from_ms, run.from_ms, earlier.end
                ));
                continue;
            };
            *verdict.excuses.entry(excuse).or_default() += 1;
        }
    }

    /// What was acknowledged is what everybody gets in the end, and whatever was answered is
    /// settled.
    fn judge_kept(
        &self,
        keys: &HashMap<onceward::register::RecordId, String>,
        holders: &HashMap<&str, u64>,
        verdict: &mut Verdict,
    ) {
        let lost = |key: &str| {
            self.noted.iter().any(|noted| {
                let is_excused = match noted.what {
                    What::Lost { is_by_lag } => !is_by_lag || !self.plan.waits_for_replica,
                    What::Made { .. } => false,
                };
                is_excused && keys.get(&noted.id).is_some_and(|it| it == key)
            })
        };
        for Kept { key, body } in self.kept.iter().filter(|kept| !lost(&kept.key)) {
            let last = self.last.get(key).cloned().flatten();
            if last.as_ref() != Some(body) {
                verdict.violations.push(format!(
                    "{key}: '{body}' was acknowledged, and in the end there is {last:?}"
                ));
            }
        }
        for (key, last) in self.last {
            let mut of_key = self.runs.iter().filter(|run| run.key == *key);
            let Some(newest) = of_key.next_back() else {
                continue;
            };
            // Who has taken the key over since had an excuse, though the grant may have reached nobody.
            let is_holder = holders
                .get(key.as_str())
                .is_none_or(|it| *it == newest.token);
            let is_answered = is_holder && matches!(newest.end, Some((_, End::Answered)));
            if is_answered && last.is_none() && !lost(key) {
                verdict.violations.push(format!(
                    "{key}: its handler has answered, and in the end nothing is kept"
                ));
            }
        }
    }
}

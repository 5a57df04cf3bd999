//! What happens in one life, all of it told by a seed: when which node is cut off, sleeps or has a
//! disk that fails, and what becomes of the server.

use onceward::faults::Random;

pub(super) const LEASE_MS: u64 = 800;
/// How long a node waits for the server.
pub(super) const TIMEOUT_MS: u64 = 80;
/// After this nothing fails any more, and no new request is made a lease later.
pub(super) const FAULTS_END_MS: u64 = 5 * LEASE_MS;
pub(super) const REQUESTS_END_MS: u64 = FAULTS_END_MS + LEASE_MS;
/// Everything that was begun is over by then.
pub(super) const END_MS: u64 = REQUESTS_END_MS + 4 * LEASE_MS;
/// How long a swap waits for the replica, where it does.
pub(super) const REPLICA_WAIT_MS: u64 = 40;

/// What is wrong with a node's way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Each call is refused.
    Refused,
    /// No call arrives.
    RequestLost,
    /// Calls are made, and nobody is told.
    AnswerLost,
    /// The node is stopped. Its clock goes on meanwhile, or doesn't.
    Asleep { clock_goes_on: bool },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// Every node's if `None`.
    pub(super) node: Option<usize>,
    pub(super) trouble: Trouble,
}

impl Interval {
    fn is_of(&self, node: usize) -> bool {
        self.node.is_none_or(|of| of == node)
    }

    fn has(&self, at_ms: u64) -> bool {
        (self.from_ms..self.to_ms).contains(&at_ms)
    }
}

/// What happens to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It loses one of its cells.
    LosesOne(usize),
    /// It loses the cell that isn't a key's.
    LosesFirst,
    LosesAll,
    /// Its replica takes over, with what it has by then.
    IsReplaced,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) keys: usize,
    pub(super) renew_for_ms: u64,
    /// Whether nodes keep replies that they have seen.
    pub(super) caches: bool,
    pub(super) troubles: Vec<Interval>,
    /// When the folder's disk fails.
    pub(super) disk: Vec<(u64, u64)>,
    pub(super) events: Vec<(u64, Event)>,
    /// Of the server's clock, in milliseconds.
    pub(super) steps: Vec<(u64, i64)>,
    /// By how many thousandths the server's clock is faster.
    pub(super) drift: i64,
    /// How far the replica is behind.
    pub(super) lag_ms: u64,
    pub(super) waits_for_replica: bool,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = 2 + random.below(3);
        let mut plan = Self {
            seed,
            nodes,
            keys: 4 + random.below(4),
            renew_for_ms: [0, 2 * LEASE_MS, 60_000, 60_000][random.below(4)],
            caches: random.below(2) == 0,
            troubles: Vec::new(),
            disk: Vec::new(),
            events: Vec::new(),
            steps: Vec::new(),
            drift: [0, 0, 20, -20][random.below(4)],
            lag_ms: [0, 5, 30, 400][random.below(4)],
            waits_for_replica: random.below(2) == 0,
        };
        for _ in 0..random.below(9) {
            plan.troubles.push(trouble(&mut random, nodes));
        }
        for _ in 0..random.below(3) {
            let from_ms = moment(&mut random);
            plan.disk.push((from_ms, from_ms + span(&mut random)));
        }
        if random.below(3) == 0 {
            let lease = i64::try_from(LEASE_MS).unwrap();
            let by = [lease / 4, lease, 12 * lease, -lease, -12 * lease][random.below(5)];
            // Many at the beginning, so that what was carried on from there is wrong for long.
            let at_ms = [20, moment(&mut random)][random.below(2)];
            plan.steps.push((at_ms, by));
        }
        if random.below(3) == 0 {
            let which = random.below(64);
            let event = [
                Event::LosesOne(which),
                Event::LosesFirst,
                Event::LosesFirst,
                Event::LosesAll,
                Event::IsReplaced,
                Event::IsReplaced,
            ][random.below(6)];
            plan.events.push((moment(&mut random), event));
        }
        plan
    }

    /// What is wrong with a node's way to the server at a moment.
    pub(super) fn trouble(&self, node: usize, at_ms: u64) -> Option<Trouble> {
        let mut of_node = self.troubles.iter().filter(|it| it.is_of(node));
        of_node.find(|it| it.has(at_ms)).map(|it| it.trouble)
    }

    /// Until when a node sleeps that does at this moment.
    pub(super) fn sleeps_until(&self, node: usize, at_ms: u64) -> Option<u64> {
        let asleep = |it: &&Interval| matches!(it.trouble, Trouble::Asleep { .. });
        let mut of_node = self.troubles.iter().filter(|it| it.is_of(node));
        of_node
            .find(|it| asleep(it) && it.has(at_ms))
            .map(|it| it.to_ms)
    }

    /// For how long a node's clock has stood still by then; a moment later it may have caught up.
    pub(super) fn stood_still_ms(&self, node: usize, at_ms: u64) -> u64 {
        let of_node = self.troubles.iter().filter(|it| it.is_of(node));
        let stood = of_node.map(|it| match it.trouble {
            Trouble::Asleep { clock_goes_on } if !clock_goes_on || it.has(at_ms) => {
                at_ms.min(it.to_ms).saturating_sub(it.from_ms)
            }
            _ => 0,
        });
        stood.sum()
    }

    /// What is lost for good of a node's time between two moments.
    pub(super) fn lost_time_ms(&self, node: usize, from_ms: u64, to_ms: u64) -> u64 {
        let lost = |at_ms| {
            let of_node = self.troubles.iter().filter(|it| it.is_of(node));
            let lost = of_node.map(|it| match it.trouble {
                Trouble::Asleep {
                    clock_goes_on: false,
                } => it.to_ms.min(at_ms).saturating_sub(it.from_ms),
                _ => 0,
            });
            lost.sum::<u64>()
        };
        lost(to_ms) - lost(from_ms)
    }

    /// The server's clock, in milliseconds since 1970.
    pub(super) fn server_ms(&self, at_ms: u64) -> u64 {
        const BEGAN_MS: i64 = 1_800_000_000_000;
        let passed = i64::try_from(at_ms).unwrap();
        let steps = self.steps.iter().filter(|(at, _)| *at <= at_ms);
        let stepped: i64 = steps.map(|(_, by)| by).sum();
        let now = BEGAN_MS + passed + passed * self.drift / 1_000 + stepped;
        now.cast_unsigned()
    }
}

fn moment(random: &mut Random) -> u64 {
    random.below(FAULTS_END_MS as usize - 200) as u64
}

/// A moment to one and a half leases, in half of the cases much less than half of one.
fn span(random: &mut Random) -> u64 {
    let lease = LEASE_MS as usize;
    let longest = [lease / 4, lease * 3 / 2][random.below(2)];
    80 + random.below(longest) as u64
}

fn trouble(random: &mut Random, nodes: usize) -> Interval {
    let from_ms = moment(random);
    let to_ms = (from_ms + span(random)).min(FAULTS_END_MS);
    let one = Some(random.below(nodes));
    let clock_goes_on = random.below(3) > 0;
    let trouble = [
        Trouble::Refused,
        Trouble::Refused,
        Trouble::RequestLost,
        Trouble::AnswerLost,
        Trouble::Asleep { clock_goes_on },
    ][random.below(5)];
    let is_asleep = matches!(trouble, Trouble::Asleep { .. });
    let node = if is_asleep {
        one
    } else {
        [one, None][random.below(2)]
    };
    Interval {
        from_ms,
        to_ms,
        node,
        trouble,
    }
}

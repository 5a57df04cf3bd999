//! How often each operation on a server waits for it, counted outside of the timed rounds.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::figures::float;
use crate::folder;
use crate::load::Numbers;
use crate::rival::{Answer, Rival, expect_grant, key, reply};
use crate::rivals::{Caches, Kind};

const KEYS: u64 = 100;
/// In which what is announced gets to the server.
const SETTLING: Duration = Duration::from_millis(200);

/// What a server was asked, by whoever is counted.
pub(crate) trait Trips {
    /// Round trips of callers.
    fn operations(&self) -> Result<u64>;

    /// Round trips that tell other nodes of changes; no caller waits for them.
    fn announcements(&self) -> Result<u64>;
}

/// Round trips per operation. Replays are of a node that hasn't seen the reply.
#[derive(Clone, Debug)]
pub(crate) struct RoundTrips {
    pub(crate) kind: Kind,
    pub(crate) each: [(&'static str, f64); 5],
}

/// For those that have a server.
pub(crate) fn count(kinds: &[Kind], folder: &Path, numbers: &Numbers) -> Result<Vec<RoundTrips>> {
    let mut counted = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.has_server()) {
        let folder = folder.join("round-trips");
        fs::create_dir_all(&folder)?;
        let mut rival = kind.open(&folder, Caches::Usual)?;
        if let Some(trips) = rival.count_trips()? {
            let each = of(rival.as_ref(), trips.as_ref(), numbers)?;
            counted.push(RoundTrips { kind: *kind, each });
        }
        drop(rival);
        folder::remove(&folder);
    }
    Ok(counted)
}

fn of(rival: &dyn Rival, trips: &dyn Trips, numbers: &Numbers) -> Result<[(&'static str, f64); 5]> {
    let (mut first, mut second, mut reader) = (rival.caller()?, rival.caller()?, rival.reader()?);
    let mut sums = [0; 4];
    sleep(SETTLING);
    let announced = trips.announcements()?;
    for number in (0..KEYS).map(|_| numbers.next()) {
        let (key, reply) = (key(number)?, reply(number));
        let mut marks = [trips.operations()?; 5];
        expect_grant(&first.begin(&key)?, &key)?;
        marks[1] = trips.operations()?;
        ensure!(second.begin(&key)? == Answer::InFlight, "not in flight");
        marks[2] = trips.operations()?;
        first.complete(&key, reply.clone())?;
        marks[3] = trips.operations()?;
        ensure!(reader.replay(&key)? == Some(reply), "another reply");
        marks[4] = trips.operations()?;
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += marks[at + 1] - marks[at];
        }
    }
    sleep(SETTLING);
    let announced = trips.announcements()? - announced;
    let [begin, in_flight, complete, replay] = sums;
    let each = |sum| float(sum) / float(KEYS);
    Ok([
        ("begin", each(begin)),
        ("complete", each(complete)),
        ("replay", each(replay)),
        ("in-flight", each(in_flight)),
        ("announcement", each(announced)),
    ])
}

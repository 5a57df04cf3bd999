//! Which segments are merged: a pure choice.

use crate::clock::Timestamp;

/// How many segments become one.
pub(super) const MERGED_AT_ONCE: usize = 4;
/// The first of them may wait for the last one's end by this fraction of what it has left, which bounds how
/// much longer it takes up the disk.
const WAITS_AT_MOST: u32 = 8;

/// Beyond what sizes there are too many segments, and a segment is too large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Above so many sealed segments there is something to do.
    pub(super) segments: usize,
    /// No more than this is merged into one.
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// What the choice knows of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// When it will be unlinked.
    pub(super) due: Timestamp,
    /// When the first of those would have been that were merged into it.
    pub(super) first_due: Timestamp,
    pub(super) is_readable: bool,
}

/// Where the segments begin that are to be merged, of all that are there, oldest first: of those that may be,
/// the ones with the least work.
pub(super) fn choose(all: &[Candidate], most: Most, now: Timestamp) -> Option<usize> {
    if all.len() <= most.segments {
        return None;
    }
    let groups = all.windows(MERGED_AT_ONCE).enumerate();
    groups
        .filter(|(_, group)| may_be_merged(group, most, now))
        .min_by_key(|(_, group)| entries(group))
        .map(|(at, _)| at)
}

fn entries(group: &[Candidate]) -> u64 {
    group.iter().map(|one| one.entries).sum()
}

fn may_be_merged(group: &[Candidate], most: Most, now: Timestamp) -> bool {
    let (all, bytes) = (
        entries(group),
        group.iter().map(|one| one.bytes).sum::<u64>(),
    );
    // One that is larger than the others together would be written again and again for their sake.
    let is_even = group.iter().all(|one| one.entries <= all - one.entries);
    let is_readable = group.iter().all(|one| one.is_readable);
    let is_small = all <= most.entries && bytes <= most.bytes;
    let first = group.iter().map(|one| one.first_due).min();
    let last = group.iter().map(|one| one.due).max();
    let waits_little = first.zip(last).is_some_and(|(first, last)| {
        now < first && last.since(first) <= first.since(now) / WAITS_AT_MOST
    });
    is_readable && is_even && is_small && waits_little
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: Most = Most {
        segments: 3,
        entries: u64::MAX,
        bytes: u64::MAX,
    };

    fn due_at(due: u64) -> Candidate {
        Candidate {
            entries: 10,
            bytes: 100,
            due: Timestamp(due),
            first_due: Timestamp(due),
            is_readable: true,
        }
    }

    fn chosen(all: &[Candidate]) -> Option<usize> {
        choose(all, NO_LIMIT, Timestamp(1_000))
    }

    #[test]
    fn segments_end_together_only_if_none_waits_long_for_it() {
        let all = |due: [u64; 4]| due.map(due_at);
        assert_eq!(chosen(&all([1_800, 1_800, 1_850, 1_900])), Some(0));
        assert_eq!(chosen(&all([1_800, 1_800, 1_850, 1_901])), None);
        assert_eq!(chosen(&all([1_900, 1_800, 1_850, 1_800])), Some(0));
        assert_eq!(chosen(&all([1_001; 4])), Some(0));
        assert_eq!(chosen(&all([1_000; 4])), None, "these are about to go");
        assert_eq!(chosen(&all([900, 9_000, 9_000, 9_000])), None);
        let mut merged = all([1_900; 4]);
        merged[2].first_due = Timestamp(1_799);
        assert_eq!(chosen(&merged), None, "what was merged has waited already");
    }

    #[test]
    fn the_least_work_that_is_allowed_is_chosen() {
        let mut all = [due_at(1_900); 12];
        all[4].entries = 9;
        all[8].entries = 8;
        assert_eq!(chosen(&all), Some(5));
        all[7].is_readable = false;
        assert_eq!(chosen(&all), Some(8));
        all[9].entries = 29;
        assert_eq!(chosen(&all), Some(1), "29 are more than 8 and 2 times 10");
        let limited = |entries, bytes| Most {
            segments: 11,
            entries,
            bytes,
        };
        let now = Timestamp(1_000);
        assert_eq!(choose(&all, limited(39, 400), now), Some(1));
        assert_eq!(choose(&all, limited(38, 400), now), None);
        assert_eq!(choose(&all, limited(39, 399), now), None);
        assert_eq!(choose(&all[..11], limited(39, 400), now), None);
        assert_eq!(chosen(&all[..3]), None);
    }

    /// Fills segments of one entry each for three retentions; gives how many there are at most, how often an
    /// entry is written again, and how late one goes, as a part of the retention.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn churn(per_retention: u64, most: usize) -> (usize, f64, f64) {
        const RETENTION: u64 = 1_000_000;
        let mut all: Vec<Candidate> = Vec::new();
        let (mut rewritten, mut latest, mut peak) = (0, 0, 0);
        let made = 3 * per_retention;
        for now in (0..made).map(|number| number * RETENTION / per_retention) {
            while all.first().is_some_and(|oldest| oldest.due.0 <= now) {
                let gone = all.remove(0);
                latest = latest.max(now - gone.first_due.0);
            }
            all.push(Candidate {
                entries: 1,
                ..due_at(now + RETENTION)
            });
            let most = Most {
                segments: most,
                ..NO_LIMIT
            };
            while let Some(at) = choose(&all, most, Timestamp(now)) {
                let group = &all[at..at + MERGED_AT_ONCE];
                rewritten += entries(group);
                let merged = Candidate {
                    entries: entries(group),
                    due: group.iter().map(|one| one.due).max().unwrap(),
                    first_due: group.iter().map(|one| one.first_due).min().unwrap(),
                    ..group[0]
                };
                all.splice(at..at + MERGED_AT_ONCE, [merged]);
            }
            peak = peak.max(all.len());
        }
        (
            peak,
            rewritten as f64 / made as f64,
            latest as f64 / RETENTION as f64,
        )
    }

    #[test]
    fn segments_stay_few_and_entries_are_seldom_written_again_however_many_there_are() {
        for (per_retention, most, peak_at_most, rewritten_at_most) in [
            (60, 64, 64, 0.0),
            (250, 64, 64, 1.1),
            (3_000, 64, 64, 4.0),
            (300, 4, 32, 4.0),
            (3_000, 8, 40, 6.0),
        ] {
            let (peak, rewritten, latest) = churn(per_retention, most);
            println!("{per_retention} {most}: {peak} {rewritten:.2} {latest:.3}");
            assert!(peak <= peak_at_most, "{per_retention} {most}: {peak}");
            assert!(
                rewritten <= rewritten_at_most,
                "{per_retention} {most}: {rewritten}"
            );
            assert!(latest <= 0.13, "{per_retention} {most}: {latest}");
        }
    }
}

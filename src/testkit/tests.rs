//! The suite on registers that are right, and on such as are wrong in one way each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::{Local, Shifted, conformance};
use crate::clock::ManualClock;
use crate::store::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use crate::sync::Mutex;

#[test]
fn a_register_in_this_process_passes() {
    let server = Local::default();
    let passed = conformance(|| server.clone());
    assert!(passed.scenarios.len() > 40);
    assert!(!passed.announces);
    assert!(
        passed
            .to_string()
            .contains("of_swaps_at_once_one_is_made: passed")
    );
}

#[test]
fn a_register_whose_time_is_moved_passes() {
    let server = Shifted::new(Local::default());
    server.advance(Duration::from_secs(3_600));
    conformance(|| server.clone());
}

#[test]
fn a_register_that_announces_is_heard() {
    let server = Announcing::new(Local::default(), usize::MAX);
    assert!(conformance(|| server.clone()).announces);
}

#[test]
fn a_register_that_ends_cells_by_itself_and_pages_in_its_own_way_passes() {
    let server = Local::default();
    conformance(|| Expiring(server.clone()));
}

#[test]
fn the_suite_can_run_in_async_code_and_beside_itself() {
    let server = Local::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let beside = [server.clone(), server].map(|server| {
        runtime.spawn_blocking(move || conformance(|| server.clone()).scenarios.len())
    });
    for one in beside {
        assert!(runtime.block_on(one).unwrap() > 40);
    }
}

/// What is wrong with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    IgnoresTheExpectedVersion,
    ShowsNothingInAMismatch,
    OverwritesWhereNoneIsExpected,
    StandsStill,
    CountsSeconds,
    RunsBackwards,
    LosesTheLastPage,
    RepeatsTheFirstPage,
    EndsWhatNeverEnds,
    KeepsTheFirstEnd,
    TruncatesValues,
    KeepsVersionsIn63Bits,
    KeepsIdsIn16Bytes,
    WritesDespiteAMismatch,
    SwapsInTwoSteps,
    SweepsForEver,
    RefusesEndsBefore1971,
    AnnouncesSome,
}

#[derive(Clone)]
struct Flawed {
    flaw: Flaw,
    server: Announcing,
    asked: Arc<Mutex<u64>>,
}

impl Flawed {
    fn new(flaw: Flaw) -> Self {
        let server = match flaw {
            Flaw::StandsStill => Local::new(ManualClock::new()),
            _ => Local::default(),
        };
        let most = match flaw {
            Flaw::AnnouncesSome => 100,
            _ => usize::MAX,
        };
        Self {
            flaw,
            server: Announcing::new(server, most),
            asked: Arc::default(),
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn time(&self, now_ms: u64) -> u64 {
        match self.flaw {
            Flaw::CountsSeconds => now_ms / 1_000,
            Flaw::RunsBackwards => {
                let mut asked = self.asked.lock();
                *asked += 1;
                now_ms - *asked * 1_500
            }
            _ => now_ms,
        }
    }

    fn cell(&self, id: RecordId) -> RecordId {
        let mut bytes = *id.as_bytes();
        if self.has(Flaw::KeepsIdsIn16Bytes) {
            bytes[16..].fill(0);
        }
        RecordId::from_bytes(bytes)
    }

    fn version(&self, version: Version) -> Version {
        let is_short = self.has(Flaw::KeepsVersionsIn63Bits);
        Version::from_bits(version.to_bits() & if is_short { u64::MAX >> 1 } else { u64::MAX })
    }

    async fn there(&self, id: RecordId) -> Option<Version> {
        let there = self.server.load(id).await.unwrap().value;
        there.map(|value| value.version)
    }
}

impl Register for Flawed {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let loaded = self.server.load(self.cell(id)).await?;
        Ok(Loaded {
            now_ms: self.time(loaded.now_ms),
            ..loaded
        })
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        mut new: Value,
        mut ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let id = self.cell(id);
        new.version = self.version(new.version);
        let mut expected = expected.map(|version| self.version(version));
        let there = self.there(id).await;
        match self.flaw {
            Flaw::IgnoresTheExpectedVersion if expected.is_some() && there.is_some() => {
                expected = there;
            }
            Flaw::OverwritesWhereNoneIsExpected if expected.is_none() => expected = there,
            Flaw::SwapsInTwoSteps if expected == there => {
                tokio::task::yield_now().await;
                expected = self.there(id).await;
            }
            Flaw::EndsWhatNeverEnds if ends_at_ms == u64::MAX => ends_at_ms = 0,
            Flaw::KeepsTheFirstEnd if ends_at_ms == u64::MAX && there.is_some() => ends_at_ms = 1,
            Flaw::RefusesEndsBefore1971 if ends_at_ms < 31_536_000_000 => {
                return Err(Refused::unchanged("the end is invalid"));
            }
            Flaw::TruncatesValues => new.bytes.truncate(65_535),
            _ => (),
        }
        let written = new.clone();
        match self.server.swap(id, expected, new, ends_at_ms).await? {
            Swapped::Done { now_ms } => Ok(Swapped::Done {
                now_ms: self.time(now_ms),
            }),
            Swapped::Mismatch(mut found) => {
                if self.has(Flaw::WritesDespiteAMismatch) {
                    self.server.swap(id, there, written, ends_at_ms).await?;
                }
                if self.has(Flaw::ShowsNothingInAMismatch) {
                    found.value = None;
                }
                found.now_ms = self.time(found.now_ms);
                Ok(Swapped::Mismatch(found))
            }
        }
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        let swept = self.server.sweep().await?;
        Ok(swept.max(u64::from(self.has(Flaw::SweepsForEver))))
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let from = from.filter(|_| !self.has(Flaw::RepeatsTheFirstPage));
        let mut page = self.server.scan(from, most).await?;
        if page.next.is_none() && self.has(Flaw::LosesTheLastPage) {
            page.values.clear();
        }
        page.now_ms = self.time(page.now_ms);
        Ok(page)
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        self.server.announce(changed).await;
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        self.server.listen(changed).await;
    }
}

/// What the suite says of a flaw.
fn found(flaw: Flaw) -> String {
    let register = Flawed::new(flaw);
    let suite = AssertUnwindSafe(|| conformance(|| register.clone()));
    let panic = catch_unwind(suite).expect_err("the suite found nothing");
    panic.downcast_ref::<String>().unwrap().clone()
}

macro_rules! each_flaw_is_found {
    ($($test:ident: $flaw:ident, $scenario:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let found = found(Flaw::$flaw);
                assert!(found.contains($scenario), "{found}");
            }
        )*
    };
}

each_flaw_is_found! {
    a_swap_that_ignores_the_expected_version_is_found:
        IgnoresTheExpectedVersion, "another_version_than_the_expected_one_stays: ";
    a_mismatch_without_the_value_is_found:
        ShowsNothingInAMismatch, "a_cell_that_is_there_is_not_made_again: ";
    a_swap_that_makes_a_cell_twice_is_found:
        OverwritesWhereNoneIsExpected, "a_cell_that_is_there_is_not_made_again: ";
    a_clock_that_stands_still_is_found:
        StandsStill, "the_clock_is_the_servers_and_runs_forwards: now_ms stands still";
    a_clock_of_seconds_is_found:
        CountsSeconds, "the_clock_is_the_servers_and_runs_forwards: now_ms is ";
    a_clock_that_runs_backwards_is_found:
        RunsBackwards, "the_clock_is_the_servers_and_runs_forwards: now_ms runs backwards";
    a_scan_without_its_last_page_is_found:
        LosesTheLastPage, "a_scan_has_each_cell_and_ends: a cell is on none";
    a_scan_that_begins_again_is_found:
        RepeatsTheFirstPage, "a_scan_has_each_cell_and_ends: ";
    a_cell_without_an_end_that_ends_is_found:
        EndsWhatNeverEnds, "a_sweep_leaves_what_has_not_ended: ";
    an_end_that_outlives_its_value_is_found:
        KeepsTheFirstEnd, "a_swap_replaces_the_end: ";
    a_value_that_is_cut_off_is_found:
        TruncatesValues, "a_value_comes_back_as_it_was_written: ";
    a_version_without_its_highest_bit_is_found:
        KeepsVersionsIn63Bits, "a_value_comes_back_as_it_was_written: ";
    an_id_that_is_cut_off_is_found:
        KeepsIdsIn16Bytes, "ids_that_differ_in_one_bit_are_two_cells: ";
    a_mismatch_that_writes_is_found:
        WritesDespiteAMismatch, "a_cell_that_is_there_is_not_made_again: ";
    a_swap_in_two_steps_is_found:
        SwapsInTwoSteps, "of_swaps_at_once_one_is_made: ";
    a_sweep_that_has_no_end_is_found:
        SweepsForEver, "a sweep still finds something";
    a_swap_that_refuses_an_end_long_ago_is_found:
        RefusesEndsBefore1971, "a_cell_that_has_ended_is_gone_or_as_it_was: a swap was refused";
    an_announcement_that_is_cut_off_is_found:
        AnnouncesSome, "what_is_announced_is_heard: of 512 ids";
}

/// Clones that tell each other what has changed, or the first of it.
#[derive(Clone)]
struct Announcing {
    server: Local,
    news: broadcast::Sender<RecordId>,
    most: usize,
}

impl Announcing {
    fn new(server: Local, most: usize) -> Self {
        Self {
            server,
            news: broadcast::channel(1_024).0,
            most,
        }
    }
}

impl Register for Announcing {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.server.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        self.server.swap(id, expected, new, ends_at_ms).await
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.server.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.server.scan(from, most).await
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        for id in changed.into_iter().take(self.most) {
            let _ = self.news.send(id);
        }
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        let mut news = self.news.subscribe();
        loop {
            match news.recv().await {
                Ok(id) => changed(id),
                Err(broadcast::error::RecvError::Lagged(_)) => (),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

/// A register that needs no sweep, takes a while, and has empty pages and cells that are on several.
struct Expiring(Local);

impl Expiring {
    const START: &[u8] = b"start";

    async fn expire(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.0.sweep().await.unwrap();
    }
}

impl Register for Expiring {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.expire().await;
        self.0.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        self.expire().await;
        self.0.swap(id, expected, new, ends_at_ms).await
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        Ok(0)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.expire().await;
        let mut page = self.0.scan(from.clone(), most).await?;
        if from.is_none() {
            page.values.clear();
            page.next = Some(Cursor(Self::START.into()));
        }
        page.values.extend(page.values.last().cloned());
        Ok(page)
    }
}

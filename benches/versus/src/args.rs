//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::load::Window;
use crate::rivals::Kind;

pub(crate) const USAGE: &str = "\
cargo run --release --manifest-path benches/versus/Cargo.toml -- [OPTIONS]

  --quick             1, 8, 64 and 256 threads in short rounds: less than four minutes
  --only NAME,...     these rivals alone, beside onceward; 'encrypted' and 'limited' are onceward with a setting
  --secs N            how long each measurement lasts, 5 by default; fractions are allowed
  --rounds N          how often each is measured, 3 by default
  --slow-sync-ms N    every fsync and fdatasync takes so much longer, the servers' too
  --folder PATH       where the data goes; a disk, and with 25 GB of room for the preloaded keys
  --no-preload        no measurements with 10 million live keys
  --scale             another table: memory, disk, opening and sweeping at 0.1, 1 and 10 million keys
";

const QUICK: Window = Window {
    warm_up: Duration::from_millis(300),
    measured: Duration::from_millis(1_100),
};
const FULL: Window = Window {
    warm_up: Duration::from_secs(1),
    measured: Duration::from_secs(5),
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Quick,
    Full,
    Scale,
    /// A step of the scale table, in a process of its own.
    ScaleStep(Vec<String>),
}

#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) mode: Mode,
    pub(crate) only: Option<Vec<Kind>>,
    pub(crate) window: Window,
    pub(crate) rounds: usize,
    pub(crate) slow_sync_ms: u64,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) has_preload: bool,
}

impl Args {
    /// `None` if help was asked for.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut args = Self {
            mode: Mode::Full,
            only: None,
            window: FULL,
            rounds: 3,
            slow_sync_ms: 0,
            folder: None,
            has_preload: true,
        };
        let mut secs = None;
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--quick" => args.mode = Mode::Quick,
                "--scale" => args.mode = Mode::Scale,
                "--scale-step" => args.mode = Mode::ScaleStep(words.by_ref().collect()),
                "--only" => args.only = Some(kinds(&value()?)?),
                "--secs" => secs = Some(value()?.parse::<f64>().context("--secs")?),
                "--rounds" => args.rounds = value()?.parse().context("--rounds")?,
                "--slow-sync-ms" => {
                    args.slow_sync_ms = value()?.parse().context("--slow-sync-ms")?;
                }
                "--folder" => args.folder = Some(value()?.into()),
                "--no-preload" => args.has_preload = false,
                "--help" | "-h" => return Ok(None),
                _ => bail!("{word} isn't known\n\n{USAGE}"),
            }
        }
        if args.mode == Mode::Quick {
            args.window = QUICK;
            args.has_preload = false;
        }
        if let Some(secs) = secs {
            let measured = Duration::try_from_secs_f64(secs).context("--secs")?;
            args.window.measured = measured.max(Duration::from_millis(100));
        }
        args.rounds = args.rounds.max(1);
        Ok(Some(args))
    }

    /// The rivals that are asked for, onceward first.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let is_wanted = |kind: &Kind| match &self.only {
            Some(only) => *kind == Kind::Onceward || only.contains(kind),
            None => !kind.is_variant(),
        };
        Kind::ALL.into_iter().filter(is_wanted).collect()
    }

    /// Whether the results are those to publish: everything, on the disk as it is.
    pub(crate) fn is_publishable(&self) -> bool {
        self.mode == Mode::Full && self.only.is_none() && self.slow_sync_ms == 0
    }
}

fn kinds(names: &str) -> Result<Vec<Kind>> {
    names
        .split(',')
        .map(|name| Kind::of_name(name).with_context(|| format!("there is no rival {name}")))
        .collect()
}

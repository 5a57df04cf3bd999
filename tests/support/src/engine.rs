//! What the tests share.

use std::path::PathBuf;
use std::time::Duration;

use onceward::{Builder, Engine, Fingerprint, Guard, InFlight, Key, ManualClock, Outcome, Reply};

pub const LEASE: Duration = Duration::from_secs(120);
pub const JUST_UNDER_LEASE: Duration = Duration::from_millis(119_999);
pub const RETENTION: Duration = Duration::from_secs(86_400);
pub const JUST_UNDER_RETENTION: Duration = Duration::from_millis(86_399_999);
pub const MS: Duration = Duration::from_millis(1);

/// Whether the long form of the tests was asked for: `ONCEWARD_FULL=1 cargo test --release`.
pub fn is_full_run() -> bool {
    std::env::var_os("ONCEWARD_FULL").is_some_and(|value| value != "0")
}

/// A folder of a test's own, on a clock that the test moves.
pub struct Bench {
    pub clock: ManualClock,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::within(folder())
    }

    /// The same in memory.
    pub fn in_memory() -> Self {
        Self::within(folder_in_memory())
    }

    fn within(folder: tempfile::TempDir) -> Self {
        Self {
            clock: ManualClock::new(),
            folder,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("engine")
    }

    pub fn builder(&self) -> Builder {
        Engine::builder().clock(self.clock.clone())
    }

    pub fn open(&self) -> Engine {
        self.builder().open(self.path()).unwrap()
    }

    /// What a crash at this moment would leave of an open engine's folder, in another one.
    pub fn crashed(&self) -> Self {
        let crashed = Self {
            clock: self.clock.clone(),
            folder: folder(),
        };
        // What is sealed meanwhile may go before its turn comes.
        while self.copy_to(&crashed.path()).is_err() {
            std::fs::remove_dir_all(crashed.path()).unwrap();
        }
        crashed
    }

    /// Copies the folder, the manifest before what it lists.
    fn copy_to(&self, to: &std::path::Path) -> std::io::Result<()> {
        const MANIFEST: &str = "manifest.redb";
        std::fs::create_dir(to)?;
        std::fs::copy(self.path().join(MANIFEST), to.join(MANIFEST))?;
        for file in std::fs::read_dir(self.path())? {
            let name = file?.file_name();
            if name != "LOCK" && name != MANIFEST {
                std::fs::copy(self.path().join(&name), to.join(&name))?;
            }
        }
        Ok(())
    }
}

/// Waits until something is so. The limit is for a broken engine, not for a slow machine.
pub fn eventually(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "it never came true"
        );
        std::thread::yield_now();
    }
}

/// Waits until every segment but the active one is sealed.
pub fn sealed(engine: &Engine) {
    eventually(|| {
        let stats = engine.stats();
        stats.sealed_segments + 1 == stats.segments
    });
}

/// Runs an ignored test of this binary in a process of its own; gives what it wrote.
pub fn in_child(test: &str, path: &std::path::Path) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("ONCEWARD_TEST_FOLDER", path)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The folder that [`in_child`] was given; `None` where somebody runs the ignored tests by hand.
pub fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os("ONCEWARD_TEST_FOLDER").map(PathBuf::from)
}

/// How large files may get in the child, in blocks of 512 bytes or of 1 KiB, as the shell has it.
const FILE_BLOCKS: u32 = 6_000;

/// Runs an ignored test under a limit on the size of files, which makes writes fail as a full disk does.
pub fn in_limited_child(test: &str, path: &std::path::Path) -> String {
    let command = format!(
        "trap '' XFSZ; ulimit -f {FILE_BLOCKS}; exec \"$0\" {test} --exact --ignored --nocapture"
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &command])
        .arg(std::env::current_exe().unwrap())
        .env("ONCEWARD_TEST_FOLDER", path)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{shown}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    shown
}

/// A temporary folder on the disk that the build is on; `/tmp` may be memory.
pub fn folder() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap(); // target/debug/deps/…
    let folder = program.ancestors().nth(3).unwrap().join("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    tempfile::tempdir_in(folder).unwrap()
}

/// A temporary folder in memory, where there is such a thing: for tests that ask nothing of the disk, and mostly wait for it.
pub fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| folder())
}

pub fn key(text: impl AsRef<str>) -> Key {
    Key::new("tenant", text).unwrap()
}

pub fn request() -> Fingerprint {
    Fingerprint::of("request")
}

pub fn granted(engine: &Engine, name: &str) -> Guard {
    match engine.begin(&key(name), &request()).unwrap() {
        Outcome::Proceed(guard) => guard,
        other => panic!("{name} was not granted: {other:?}"),
    }
}

pub fn replayed(engine: &Engine, name: &str) -> Reply {
    match engine.begin(&key(name), &request()).unwrap() {
        Outcome::Replay(reply) => reply,
        other => panic!("{name} was not replayed: {other:?}"),
    }
}

pub fn in_flight(engine: &Engine, name: &str) -> InFlight {
    match engine.begin(&key(name), &request()).unwrap() {
        Outcome::InFlight(in_flight) => in_flight,
        other => panic!("{name} was not in flight: {other:?}"),
    }
}

pub fn completed(engine: &Engine, name: &str, body: &'static str) {
    granted(engine, name)
        .complete(Reply::new(201, body))
        .unwrap();
}

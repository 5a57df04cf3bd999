//! The server as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

pub(super) struct Demo {
    pub(super) url: String,
    process: Child,
    effects: PathBuf,
}

impl Demo {
    pub(super) fn start(db: &Path, profile: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_server"))
            .args(["--listen", "127.0.0.1:0", "--profile", profile, "--db"])
            .arg(db)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let url = line
            .strip_prefix("listening on ")
            .unwrap()
            .trim_end()
            .to_owned();
        let mut effects = db.as_os_str().to_owned();
        effects.push(".effects");
        Self {
            url,
            process,
            effects: effects.into(),
        }
    }

    pub(super) fn payments(&self) -> String {
        format!("{}/payments", self.url)
    }

    /// What `GET /payments` says.
    pub(super) async fn state(&self) -> Value {
        reqwest::get(self.payments())
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    pub(super) async fn executed(&self) -> u64 {
        self.state().await["executed"].as_u64().unwrap()
    }

    pub(super) fn tell(&self, signal: &str) {
        let id = self.process.id().to_string();
        let told = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(told.success());
    }

    /// Waits for the end; whether the process went well.
    pub(super) fn ended(&mut self) -> bool {
        self.process.wait().unwrap().success()
    }

    /// The lines of the effects log.
    pub(super) fn effects(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.effects).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

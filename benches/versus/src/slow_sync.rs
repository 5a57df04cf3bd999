//! A slower disk: the process starts over with a library preloaded that slows each sync down.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::folder::WorkFolder;

const SOURCE: &str = include_str!("../slow_sync.c");
const MS: &str = "VERSUS_SLOW_SYNC_MS";
/// Also the mark that the process has started over.
const FOLDER: &str = "VERSUS_FOLDER";

/// The work folder, if this process is the one that has started over.
pub(crate) fn folder_of_restart() -> Option<WorkFolder> {
    let path: PathBuf = std::env::var_os(FOLDER)?.into();
    Some(WorkFolder::adopt(path))
}

pub(crate) fn is_on() -> bool {
    std::env::var_os(MS).is_some()
}

/// Compiles the library and replaces this process by itself with it. Returns only if that fails.
pub(crate) fn restart(ms: u64, folder: &WorkFolder) -> Result<Infallible> {
    let source = folder.path().join("slow_sync.c");
    let library = folder.path().join("slow_sync.so");
    fs::write(&source, SOURCE)?;
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .context("--slow-sync-ms needs a C compiler: install the Debian package gcc")?;
    ensure!(status.success(), "slow_sync.c could not be compiled");
    let error = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env("LD_PRELOAD", &library)
        .env(MS, ms.to_string())
        .env(FOLDER, folder.path())
        .exec();
    Err(error).context("the bench could not be started over")
}

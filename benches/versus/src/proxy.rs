//! A way to a PostgreSQL server that counts what clients wait for.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;
use tempfile::TempDir;

use crate::round_trips::Trips;

const SOCKET: &str = ".s.PGSQL.5432";
/// What only the statement of an announcement has.
const ANNOUNCES: &[u8] = b"pg_notify";

/// Passes everything on between a socket of its own and the server's, and counts.
pub(crate) struct Proxy {
    sockets: TempDir,
    counts: Arc<Counts>,
}

/// What clients have waited for, but for connecting and preparing.
#[derive(Default)]
struct Counts {
    statements: AtomicU64,
    announcements: AtomicU64,
}

impl Proxy {
    pub(crate) fn to(server: &Path) -> Result<Self> {
        let sockets = tempfile::Builder::new().prefix("versus-").tempdir()?;
        let listener = UnixListener::bind(sockets.path().join(SOCKET))?;
        let (server, counts) = (server.join(SOCKET), Arc::new(Counts::default()));
        let counted = Arc::clone(&counts);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&server) else {
                    continue;
                };
                drop(connected(client, server, &counted));
            }
        });
        Ok(Self { sockets, counts })
    }

    /// The folder that stands for the server's.
    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

impl Trips for Proxy {
    fn operations(&self) -> Result<u64> {
        Ok(self.counts.statements.load(Ordering::SeqCst))
    }

    fn announcements(&self) -> Result<u64> {
        Ok(self.counts.announcements.load(Ordering::SeqCst))
    }
}

fn connected(client: UnixStream, server: UnixStream, counts: &Arc<Counts>) -> Result<()> {
    let (to_client, from_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pass_on(from_server, to_client, |_| ()));
    let mut asked = Asked::new(Arc::clone(counts));
    thread::spawn(move || pass_on(client, server, |bytes| asked.read(bytes)));
    Ok(())
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        // Counted before it is passed on: whoever is answered finds it counted.
        seen(&buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// What one client asks: messages of a letter, and a length that counts itself. The first has no letter.
struct Asked {
    counts: Arc<Counts>,
    pending: Vec<u8>,
    has_started: bool,
    /// Whether it announces, by the statement's name.
    statements: HashMap<Vec<u8>, bool>,
    /// Whether the statement announces that is carried out next.
    bound: Option<bool>,
}

impl Asked {
    fn new(counts: Arc<Counts>) -> Self {
        Self {
            counts,
            pending: Vec::new(),
            has_started: false,
            statements: HashMap::new(),
            bound: None,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        loop {
            let letter = usize::from(self.has_started);
            let Some(length) = self.pending.get(letter..letter + 4) else {
                return;
            };
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            if self.pending.len() < letter + length {
                return;
            }
            let message: Vec<u8> = self.pending.drain(..letter + length).collect();
            if self.has_started {
                self.message(message[0], &message[5..]);
            }
            self.has_started = true;
        }
    }

    fn message(&mut self, letter: u8, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or(&[]), texts.next().unwrap_or(&[]));
        match letter {
            // Parse: the statement's name and its text.
            b'P' => {
                let announces = second
                    .windows(ANNOUNCES.len())
                    .any(|part| part == ANNOUNCES);
                self.statements.insert(first.to_owned(), announces);
            }
            // Bind: the portal's name and the statement's.
            b'B' => self.bound = Some(self.statements.get(second).copied().unwrap_or(false)),
            // Sync: the client waits for the answer.
            b'S' => {
                let count = match self.bound.take() {
                    Some(false) => &self.counts.statements,
                    Some(true) => &self.counts.announcements,
                    // A statement was prepared.
                    None => return,
                };
                count.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

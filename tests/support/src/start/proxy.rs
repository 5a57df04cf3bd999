//! A way to a server that counts what goes through.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Passes everything on to a server on loopback, and counts how often an answer is asked for with PostgreSQL's `Sync`.
pub struct Proxy {
    pub port: u16,
    trips: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn to_postgres(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let trips = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&trips);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
                let (to, from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || pass_on(server, client, |_| ()));
                let counted = Arc::clone(&counted);
                let mut requests = Requests::default();
                thread::spawn(move || {
                    pass_on(from, to, |bytes| {
                        counted.fetch_add(requests.trips(bytes), Ordering::SeqCst);
                    });
                });
            }
        });
        Self { port, trips }
    }

    /// How many round trips something takes.
    pub fn trips(&self, work: impl FnOnce()) -> usize {
        let before = self.trips.load(Ordering::SeqCst);
        work();
        self.trips.load(Ordering::SeqCst) - before
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        // Counted before it is passed on: whoever has the answer finds it counted.
        seen(&buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// The client's messages: a letter, and a length that counts itself. The very first has no letter.
#[derive(Default)]
struct Requests {
    pending: Vec<u8>,
    has_started: bool,
    /// The prepared statements that announce something.
    announcements: HashSet<Vec<u8>>,
    is_announcement: bool,
    /// Whether this connection is there to hear announcements.
    listens: bool,
}

impl Requests {
    /// How often the client asks for an answer: announcements aren't counted, which nobody waits for.
    fn trips(&mut self, bytes: &[u8]) -> usize {
        self.pending.extend_from_slice(bytes);
        let mut trips = 0;
        while let Some((kind, body)) = self.next() {
            let mut words = body.split(|byte| *byte == 0);
            let (first, second) = (words.next(), words.next());
            match (kind, first, second) {
                (b'P', Some(name), Some(statement)) if is_announcement(statement) => {
                    self.announcements.insert(name.to_vec());
                    self.is_announcement = true;
                }
                (b'B', _, Some(name)) => self.is_announcement |= self.announcements.contains(name),
                (b'S', ..) => trips += usize::from(!std::mem::take(&mut self.is_announcement)),
                (b'Q', ..) => {
                    self.listens |= body.starts_with(b"LISTEN");
                    trips += 1;
                }
                _ => {}
            }
        }
        if self.listens { 0 } else { trips }
    }

    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let letters = usize::from(self.has_started);
        let length = self.pending.get(letters..letters + 4)?;
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let message = self.pending.get(..letters + length)?;
        let kind = if self.has_started { message[0] } else { 0 };
        let body = message[letters + 4..].to_vec();
        self.pending.drain(..letters + length);
        self.has_started = true;
        Some((kind, body))
    }
}

fn is_announcement(statement: &[u8]) -> bool {
    statement.windows(9).any(|word| word == b"pg_notify")
}

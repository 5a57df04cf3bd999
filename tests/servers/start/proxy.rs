//! A way to a server that counts what goes through.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Passes everything on to a server on loopback, and counts its answers to PostgreSQL's `Sync`.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    trips: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) fn to_postgres(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let trips = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&trips);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
                let (to, from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || pass_on(from, to, |_| ()));
                let counted = Arc::clone(&counted);
                let mut answers = Answers::default();
                thread::spawn(move || {
                    pass_on(server, client, |bytes| {
                        counted.fetch_add(answers.ready(bytes), Ordering::SeqCst);
                    });
                });
            }
        });
        Self { port, trips }
    }

    /// How many round trips something takes.
    pub(crate) fn trips(&self, work: impl FnOnce()) -> usize {
        let before = self.trips.load(Ordering::SeqCst);
        work();
        self.trips.load(Ordering::SeqCst) - before
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        // Counted before it is passed on: whoever gets it finds it counted.
        seen(&buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// The server's messages: a letter, and a length that counts itself.
#[derive(Default)]
struct Answers {
    pending: Vec<u8>,
}

impl Answers {
    /// How often the server says that it is ready for the next query.
    fn ready(&mut self, bytes: &[u8]) -> usize {
        self.pending.extend_from_slice(bytes);
        let (mut at, mut ready) = (0, 0);
        while let Some(header) = self.pending.get(at..at + 5) {
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
            let is_ready = header[0] == b'Z';
            if self.pending.len() < at + 1 + length {
                break;
            }
            ready += usize::from(is_ready);
            at += 1 + length;
        }
        self.pending.drain(..at);
        ready
    }
}

//! The two scripts that a server runs, the commands that do for one of them, and what it answers.

use std::sync::LazyLock;

use bytes::Bytes;
use onceward::register::{Loaded, Swapped, Value, Version};
use redis::{Cmd, Script, Value as Answer, cmd};

/// How many bytes of a value are its version; the record follows.
const VERSION_BYTES: usize = 8;

/// A swap that was made already is made again, so that a `WAIT` after it covers it.
const SWAP: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('GET', KEYS[1])
local version = held and string.sub(held, 1, 8) or ''
if version ~= ARGV[1] and version ~= string.sub(ARGV[2], 1, 8) then
  return {0, now, held}
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
end
return {1, now}";

const LOAD: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {0, now, redis.call('GET', KEYS[1])}";

static SWAP_HASH: LazyLock<Script> = LazyLock::new(|| Script::new(SWAP));
static LOAD_HASH: LazyLock<Script> = LazyLock::new(|| Script::new(LOAD));

/// A script to be run on one key.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) key: Vec<u8>,
    is_swap: bool,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn load(key: Vec<u8>) -> Self {
        Self {
            key,
            is_swap: false,
            arguments: Vec::new(),
        }
    }

    pub(super) fn swap(
        key: Vec<u8>,
        expected: Option<Version>,
        new: &Value,
        ends_at_ms: u64,
    ) -> Self {
        let expected = expected.map_or(Vec::new(), |version| written(version).to_vec());
        let mut value = Vec::with_capacity(VERSION_BYTES + new.bytes.len());
        value.extend_from_slice(&written(new.version));
        value.extend_from_slice(&new.bytes);
        let ends_at = match i64::try_from(ends_at_ms) {
            // A server refuses 0.
            Ok(ends_at) => ends_at.max(1).to_string(),
            Err(_) => String::new(),
        };
        Self {
            key,
            is_swap: true,
            arguments: vec![expected, value, ends_at.into_bytes()],
        }
    }

    /// Whether it may change the key.
    pub(super) fn is_swap(&self) -> bool {
        self.is_swap
    }

    /// Whether it expects nothing to be there.
    pub(super) fn is_insert(&self) -> bool {
        self.is_swap && self.arguments[0].is_empty()
    }

    /// The same as the script does for an insert, in plain commands, at a third of the server's time: what gives the time, and what
    /// sets the key and gives what is there already. Redis 7 or newer.
    pub(super) fn insert(&self) -> [Cmd; 2] {
        let [_, value, ends_at] = &self.arguments[..] else {
            unreachable!("an insert is a swap");
        };
        let mut set = cmd("SET");
        set.arg(&self.key).arg(value).arg("NX").arg("GET");
        if !ends_at.is_empty() {
            set.arg("PXAT").arg(ends_at);
        }
        [cmd("TIME"), set]
    }

    /// What the script would have answered.
    pub(super) fn inserted(&self, time: &Answer, held: Answer) -> Option<Answer> {
        let Answer::Array(time) = time else {
            return None;
        };
        let [seconds, microseconds] = &time[..] else {
            return None;
        };
        let now_ms = whole(seconds)? * 1_000 + whole(microseconds)? / 1_000;
        let is_own = |held: &Vec<u8>| {
            let own = self.arguments[1].first_chunk::<VERSION_BYTES>();
            held.first_chunk() == own
        };
        let is_done = match &held {
            Answer::Nil => true,
            // An earlier try was made after all.
            Answer::BulkString(held) => is_own(held),
            _ => return None,
        };
        let done = [Answer::Int(1), Answer::Int(now_ms)];
        let not = [Answer::Int(0), Answer::Int(now_ms), held];
        Some(Answer::Array(if is_done {
            done.to_vec()
        } else {
            not.to_vec()
        }))
    }

    /// The command, by the script's hash or, for a server that hasn't seen the script yet, with its source.
    pub(super) fn command(&self, by_source: bool) -> Cmd {
        let (source, hash) = if self.is_swap {
            (SWAP, &SWAP_HASH)
        } else {
            (LOAD, &LOAD_HASH)
        };
        let mut command = if by_source {
            cmd("EVAL").arg(source).take()
        } else {
            cmd("EVALSHA").arg(hash.get_hash()).take()
        };
        command.arg(1).arg(&self.key);
        for argument in &self.arguments {
            command.arg(argument);
        }
        command
    }
}

/// What became of a swap; `None` if that isn't what a script answers.
pub(super) fn swapped(answer: Answer) -> Option<Swapped> {
    let (is_done, found) = outcome(answer)?;
    Some(if is_done {
        let now_ms = found.now_ms;
        Swapped::Done { now_ms }
    } else {
        Swapped::Mismatch(found)
    })
}

/// Whether an answer to a swap says that it was made.
pub(super) fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Array(parts) if parts.first() == Some(&Answer::Int(1)))
}

/// What was loaded; `None` if that isn't what a script answers.
pub(super) fn loaded(answer: Answer) -> Option<Loaded> {
    outcome(answer).map(|(_, loaded)| loaded)
}

fn outcome(answer: Answer) -> Option<(bool, Loaded)> {
    let Answer::Array(parts) = answer else {
        return None;
    };
    let mut parts = parts.into_iter();
    let (Answer::Int(is_done), Answer::Int(now_ms)) = (parts.next()?, parts.next()?) else {
        return None;
    };
    let value = match parts.next() {
        None | Some(Answer::Nil) => None,
        Some(Answer::BulkString(held)) => Some(value_of(held)),
        Some(_) => return None,
    };
    let now_ms = u64::try_from(now_ms).ok()?;
    Some((is_done == 1, Loaded { value, now_ms }))
}

/// A key's value. One that nobody of this crate wrote gets a version that no swap can expect, and is found damaged when its record is
/// read.
pub(super) fn value_of(held: Vec<u8>) -> Value {
    let held = Bytes::from(held);
    match held.first_chunk() {
        Some(version) => Value {
            version: Version::from_bits(u64::from_be_bytes(*version)),
            bytes: held.slice(VERSION_BYTES..),
        },
        None => Value {
            version: Version::from_bits(0),
            bytes: held,
        },
    }
}

fn whole(text: &Answer) -> Option<i64> {
    match text {
        Answer::BulkString(digits) => str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

fn written(version: Version) -> [u8; VERSION_BYTES] {
    version.to_bits().to_be_bytes()
}

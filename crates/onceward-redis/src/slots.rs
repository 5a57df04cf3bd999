//! Which server has which key, in a cluster.

use redis::Value;

/// How many slots a cluster's keys fall into.
pub(super) const SLOTS: usize = 16_384;

/// A range of slots that one server has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    /// Empty for the server that was asked.
    pub(super) host: String,
    pub(super) port: u16,
}

/// What a server says of its cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// It belongs to none.
    Single,
    Cluster(Vec<Range>),
}

/// The slot of a key.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    const MASK: u16 = 0x3fff;
    crc16(hashed_part(key)) & MASK
}

/// What stands between the first `{` and the next `}`, if there is anything, else all.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    bytes.iter().fold(0, |crc: u16, byte| {
        let mixed = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(mixed, |crc, _| {
            let carried = crc & 0x8000 != 0;
            (crc << 1) ^ if carried { POLYNOMIAL } else { 0 }
        })
    })
}

/// Reads the answer to `CLUSTER SLOTS`; `None` if it is none.
pub(super) fn layout(answer: Value) -> Option<Layout> {
    match answer {
        Value::Array(ranges) => {
            let ranges = ranges.into_iter().map(range).collect::<Option<Vec<_>>>()?;
            Some(Layout::Cluster(ranges))
        }
        // A cluster's commands are disabled, unknown or forbidden here.
        Value::ServerError(error) => {
            matches!(error.code(), "ERR" | "NOPERM").then_some(Layout::Single)
        }
        _ => None,
    }
}

fn range(answer: Value) -> Option<Range> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let mut parts = parts.into_iter();
    let first = number(&parts.next()?)?;
    let last = number(&parts.next()?)?;
    let Value::Array(primary) = parts.next()? else {
        return None;
    };
    let mut primary = primary.into_iter();
    let host = match primary.next()? {
        Value::BulkString(host) => String::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => String::new(),
        _ => return None,
    };
    let port = number(&primary.next()?)?;
    Some(Range {
        first,
        last,
        host: if host == "?" { String::new() } else { host },
        port,
    })
}

fn number(answer: &Value) -> Option<u16> {
    match answer {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slot_that_the_cluster_specification_gives() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"a{foo}b"), slot_of(b"foo"));
        assert_eq!(slot_of(b"{}foo"), crc16(b"{}foo") & 0x3fff);
    }
}

//! Replies on their way to the disk and back: encrypted there, and nowhere else.

use bytes::Bytes;

use super::{CONFIG, ENTRY, corrupt, undecodable, wire};
use crate::encryption::{Cipher, Identity};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{CompletedRecord, Record, Stored};
use crate::reply::Reply;
use crate::secret::Digest;

/// The record with its reply encrypted, as it is written; `None` if there is nothing to encrypt.
pub(crate) fn encrypted(stored: &Stored, cipher: &Cipher) -> Result<Option<Stored>> {
    let Record::Completed(record) = &stored.record else {
        return Ok(None);
    };
    let plain = bincode::serde::encode_to_vec(wire::wire_reply(&record.reply), CONFIG);
    let plain = plain.map_err(|error| {
        Error::with_source(ErrorKind::Encoding, "a record can't be encoded", error)
    })?;
    let sealed = cipher.seal(identity(stored.digest, record), &plain)?;
    let reply = Reply::encrypted(cipher.primary(), Bytes::from(sealed));
    Ok(Some(with_reply(stored, record, reply)))
}

/// The record with its reply as it was before.
pub(crate) fn decrypted(stored: Stored, cipher: Option<&Cipher>) -> Result<Stored> {
    let Record::Completed(record) = &stored.record else {
        return Ok(stored);
    };
    let Some(key) = record.reply.encrypted_with() else {
        return Ok(stored);
    };
    let cipher = cipher.ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidConfig,
            "the reply is encrypted, and the engine was given no keys; give it some with Builder::encryption",
        )
    })?;
    let plain = cipher.open(key, identity(stored.digest, record), record.reply.body())?;
    let (reply, used) = bincode::serde::borrow_decode_from_slice(&plain, CONFIG)
        .map_err(|error| undecodable(ENTRY, error))?;
    if used != plain.len() {
        return Err(corrupt(ENTRY, "has bytes after its end"));
    }
    Ok(with_reply(&stored, record, wire::reply(reply)))
}

fn identity(digest: Digest, record: &CompletedRecord) -> Identity {
    Identity {
        digest,
        token: record.token,
    }
}

fn with_reply(stored: &Stored, record: &CompletedRecord, reply: Reply) -> Stored {
    Stored {
        digest: stored.digest,
        key: stored.key.clone(),
        record: Record::Completed(CompletedRecord {
            reply,
            ..record.clone()
        }),
    }
}

//! The one cell that isn't a key's: the store's secret and format, which all nodes have in common.

use serde::{Deserialize, Serialize};

use super::{RecordId, Refused, Register, Swapped, Value, Version};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{Digest, Pepper, Secret};

/// Where it is. No key's digest is all zeroes, nor comes before this one.
pub(super) const META: RecordId = RecordId(Digest([0; 32]));
const WHAT: &str = "the register's first cell";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    secret_check: [u8; 32],
    /// `None` if the secret is a pepper of the callers'.
    material: Option<[u8; 32]>,
}

/// The secret that all nodes have in common, and the cell that it is in. The first of them makes it.
pub(super) async fn secret<R: Register>(
    register: &R,
    pepper: Option<Pepper>,
    version: Version,
) -> Result<(Secret, Value)> {
    let loaded = register.load(META).await;
    let loaded = loaded.map_err(Refused::into_error)?;
    let value = match loaded.value {
        Some(value) => value,
        None => made(register, pepper.as_ref(), version).await?,
    };
    let meta: Meta = codec::decode_sealed(&value.bytes, WHAT)?;
    if meta.format != FORMAT {
        return Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "the register has the format {}; this version of onceward reads {FORMAT}: use a newer one",
                meta.format
            ),
        ));
    }
    let config = |message: &str| Err(Error::new(ErrorKind::InvalidConfig, message));
    let secret = match (&pepper, &meta.material) {
        (Some(pepper), None) => Secret::derive(pepper.as_bytes()),
        (None, Some(material)) => Secret::derive(material),
        (None, None) => {
            return config("the register was first used with a pepper; use the same one");
        }
        (Some(_), Some(_)) => {
            return config("the register was first used without a pepper; use it without one");
        }
    };
    if secret.check_value() != meta.secret_check {
        return config("the pepper is not the one that the register was first used with");
    }
    Ok((secret, value))
}

/// The value, made here or by another node meanwhile.
async fn made<R: Register>(
    register: &R,
    pepper: Option<&Pepper>,
    version: Version,
) -> Result<Value> {
    let (secret, material) = if let Some(pepper) = pepper {
        (Secret::derive(pepper.as_bytes()), None)
    } else {
        let material = Secret::random_material().map_err(|error| {
            Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
        })?;
        (Secret::derive(&material), Some(material))
    };
    let bytes = codec::encode_sealed(&Meta {
        format: FORMAT,
        secret_check: secret.check_value(),
        material,
    })?;
    let bytes = bytes.into();
    let value = Value { version, bytes };
    let swapped = register.swap(META, None, value.clone(), u64::MAX).await;
    match swapped {
        Ok(Swapped::Done { .. }) => Ok(value),
        Ok(Swapped::Mismatch(found)) => found.value.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                "the register refuses a first cell and has none",
            )
        }),
        Err(refused) => Err(refused.into_error()),
    }
}

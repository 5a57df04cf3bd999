//! What a server's refusal says about what to do next.

use redis::{RedisError, ServerError, ServerErrorKind};

/// What to do after a command was refused. Nothing was changed by it: the scripts write last.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Ask that server, from now on.
    Moved(String),
    /// Ask that server, this time.
    Redirected(String),
    /// Send the script itself.
    SendScript,
    /// Ask again on a new connection, and ask who has the key now.
    Reconnect,
    /// Ask again after a while.
    Retry,
    /// It has no room: ask again after a while, if something would be lost else.
    Full,
    /// It won't get better by itself, or not soon.
    GiveUp,
}

pub(super) fn reaction(error: &ServerError) -> Reaction {
    let Some(kind) = error.kind() else {
        return match error.code() {
            // A script that runs for too long, or too few replicas for min-replicas-to-write.
            "BUSY" | "NOREPLICAS" => Reaction::Retry,
            // The memory, or the disk under its file.
            "OOM" | "MISCONF" => Reaction::Full,
            _ => Reaction::GiveUp,
        };
    };
    match kind {
        ServerErrorKind::Moved => target(error).map_or(Reaction::Retry, Reaction::Moved),
        ServerErrorKind::Ask => target(error).map_or(Reaction::Retry, Reaction::Redirected),
        ServerErrorKind::NoScript => Reaction::SendScript,
        ServerErrorKind::ReadOnly => Reaction::Reconnect,
        ServerErrorKind::BusyLoading
        | ServerErrorKind::TryAgain
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::MasterDown => Reaction::Retry,
        _ => Reaction::GiveUp,
    }
}

/// Whether a connection that couldn't be made may be made later, without anything being set right.
pub(super) fn passes_by_itself(error: &RedisError) -> bool {
    use redis::ErrorKind;
    !matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::RESP3NotSupported
    )
}

/// The server in "<slot> <host>:<port>".
fn target(error: &ServerError) -> Option<String> {
    let target = error.details()?.split_ascii_whitespace().nth(1)?;
    Some(target.to_owned())
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn reaction_to(line: &str) -> Reaction {
        let Ok(Value::ServerError(error)) =
            redis::parse_redis_value(format!("-{line}\r\n").as_bytes())
        else {
            panic!("{line} isn't an error");
        };
        reaction(&error)
    }

    #[test]
    fn what_passes_by_itself_is_asked_again() {
        for line in [
            "LOADING Redis is loading the dataset in memory",
            "CLUSTERDOWN The cluster is down",
            "MASTERDOWN Link with MASTER is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "BUSY Redis is busy running a script",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            assert_eq!(reaction_to(line), Reaction::Retry, "{line}");
        }
        let read_only = "READONLY You can't write against a read only replica.";
        assert_eq!(reaction_to(read_only), Reaction::Reconnect);
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Errors writing to the AOF file: No space left on device",
        ] {
            assert_eq!(reaction_to(line), Reaction::Full, "{line}");
        }
        for line in [
            "ERR unknown command",
            "NOPERM this user has no permissions",
            "WRONGTYPE",
        ] {
            assert_eq!(reaction_to(line), Reaction::GiveUp, "{line}");
        }
    }
}

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
    /// It won't get better by itself, or not soon.
    GiveUp,
}

pub(super) fn reaction(error: &ServerError) -> Reaction {
    let Some(kind) = error.kind() else {
        return match error.code() {
            // A script that runs for too long, or too few replicas for min-replicas-to-write.
            "BUSY" | "NOREPLICAS" => Reaction::Retry,
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

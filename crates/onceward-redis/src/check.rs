//! The first contact: what kind of servers they are, and what their settings leave of the promises.

use std::collections::HashMap;
use std::sync::Arc;

use onceward::register::{Refused, Tries};
use redis::{ErrorKind, RedisError, Value, cmd, from_redis_value};
use tokio::task::JoinSet;

use super::Redis;
use super::failure::passes_by_itself;
use super::node::{Node, Silence};

/// The first version that has all that is used: `SET` with `PXAT`.
const OLDEST: (u32, u32) = (6, 2);
const SETTINGS: [&str; 4] = ["appendonly", "appendfsync", "maxmemory-policy", "maxmemory"];

/// What one server says.
struct Answers {
    address: String,
    answers: Result<Vec<Value>, Silence>,
}

impl Redis {
    /// Finds the servers and reads their settings, once.
    pub(super) async fn contact(&self) -> Result<(), Refused> {
        let contact = self.contact.get_or_try_init(|| self.first_contact());
        contact.await?;
        Ok(())
    }

    async fn first_contact(&self) -> Result<(), Refused> {
        let mut tries = Tries::within(self.config.timeout);
        while let Err(error) = self.found().await {
            if !passes_by_itself(&error) || !tries.pause().await {
                return Err(Refused::unchanged(error));
            }
        }
        if self.nodes.is_single() && self.config.seeds.len() > 1 {
            return Err(Refused::unchanged(
                "several URLs were given, which have to be nodes of one Redis Cluster, and the server is in none",
            ));
        }
        let mut asking = JoinSet::new();
        for node in self.nodes.primaries() {
            asking.spawn(async move { asked(node).await });
        }
        let mut warnings = Vec::new();
        while let Some(Ok(answers)) = asking.join_next().await {
            assess(answers, &mut warnings)?;
        }
        warnings.sort_unstable();
        #[cfg(feature = "tracing")]
        for warning in &warnings {
            tracing::warn!(target: "onceward", "{warning}");
        }
        *self.warnings.lock() = warnings;
        Ok(())
    }

    async fn found(&self) -> Result<(), RedisError> {
        self.nodes.learn().await.map_err(Silence::into_error)?;
        if self.nodes.primaries().is_empty() {
            let nobody = "no server of the cluster has slots yet";
            return Err((ErrorKind::ClusterConnectionNotFound, nobody).into());
        }
        Ok(())
    }
}

async fn asked(node: Arc<Node>) -> Answers {
    let mut commands = redis::pipe();
    commands.add_command(cmd("INFO").arg("server").take());
    for setting in SETTINGS {
        commands.add_command(cmd("CONFIG").arg("GET").arg(setting).take());
    }
    Answers {
        address: node.address(),
        answers: node.ask(0, &commands).await,
    }
}

fn assess(said: Answers, warnings: &mut Vec<String>) -> Result<(), Refused> {
    let Answers { address, answers } = said;
    let Ok(answers) = answers else {
        warnings.push(format!(
            "{address} couldn't be asked for its settings: check them"
        ));
        return Ok(());
    };
    let mut answers = answers.into_iter();
    let info = answers.next().unwrap_or_default();
    let info = info.extract_error().map_err(Refused::unchanged)?;
    let info: String = from_redis_value(info).map_err(|error| {
        let error = RedisError::from(error);
        Refused::unchanged(error)
    })?;
    check_version(&address, &info)?;
    let settings: Option<HashMap<String, String>> = answers.map(setting).collect();
    match settings {
        Some(settings) => warn_of(&address, &settings, warnings),
        None => warnings.push(format!(
            "{address} doesn't tell its settings: make sure that it has appendonly yes, appendfsync always and \
             maxmemory-policy noeviction, or what comes up to it"
        )),
    }
    Ok(())
}

fn check_version(address: &str, info: &str) -> Result<(), Refused> {
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))
        .map_or("", str::trim);
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    let version_number = parts.next().zip(parts.next());
    if version_number.is_some_and(|number| number >= OLDEST) {
        return Ok(());
    }
    Err(Refused::unchanged(format!(
        "{address} is Redis {version}; 6.2 or newer is needed"
    )))
}

/// One setting's name and value.
fn setting(answer: Value) -> Option<(String, String)> {
    let pairs: HashMap<String, String> = from_redis_value(answer).ok()?;
    pairs.into_iter().next()
}

fn warn_of(address: &str, settings: &HashMap<String, String>, warnings: &mut Vec<String>) {
    let value = |name: &str| settings.get(name).map_or("", String::as_str);
    if value("appendonly") != "yes" {
        warnings.push(format!(
            "{address} has appendonly {}: answers that were given are lost when it restarts; set appendonly yes",
            value("appendonly")
        ));
    } else if value("appendfsync") != "always" {
        warnings.push(format!(
            "{address} has appendfsync {}: answers of the last second or more are lost in a power cut; set appendfsync always",
            value("appendfsync")
        ));
    }
    let policy = value("maxmemory-policy");
    if policy != "noeviction" {
        let when = match value("maxmemory") {
            "0" => "once it has a maxmemory",
            _ => "when its memory is full",
        };
        warnings.push(format!(
            "{address} has maxmemory-policy {policy}: {when}, keys that are held and answers that were given are evicted; set \
             maxmemory-policy noeviction"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_6_2_are_refused() {
        let check = |version: &str| {
            let info = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n");
            check_version("host:6379", &info).is_ok()
        };
        assert!(check("6.2.0") && check("7.0.15") && check("10.1"));
        assert!(!check("6.0.20") && !check("5.0") && !check(""));
    }
}

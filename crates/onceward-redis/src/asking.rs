//! Asking the right server, and asking again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use onceward::register::{RecordId, Refused, Tries};
use redis::{Pipeline, RedisError, ServerError, Value, cmd};

use super::Redis;
use super::failure::{Reaction, passes_by_itself, reaction};
use super::node::{Node, Silence};
use super::script::Call;

/// One call, as far as it has got.
struct Attempt<'a> {
    redis: &'a Redis,
    call: &'a Call,
    lane: usize,
    by_source: bool,
    by_script: bool,
    /// Where to ask this once, instead of the server that has the key.
    redirected: Option<Arc<Node>>,
    /// An earlier try may have been carried out.
    may_be_made: bool,
}

/// How a try ended that isn't the call's end.
enum Again {
    AtOnce(RedisError),
    Later(RedisError),
}

impl Redis {
    /// Has the server that has the key run a script; asks again as long as that is safe and the time isn't up.
    pub(super) async fn call(&self, id: RecordId, call: &Call) -> Result<Value, Refused> {
        if !self.contact.initialized() {
            Box::pin(self.contact()).await?;
        }
        let mut tries = Tries::within(self.config.timeout);
        let mut attempt = Attempt {
            redis: self,
            call,
            lane: usize::from(id.as_bytes()[0]),
            by_source: false,
            by_script: !call.is_insert()
                || self.config.replicas.is_some()
                || self.needs_scripts.load(Ordering::Relaxed),
            redirected: None,
            may_be_made: false,
        };
        let mut at_once = 0;
        loop {
            let error = match attempt.once().await {
                Ok(answer) => return answer,
                // Servers may send one back and forth.
                Err(Again::AtOnce(error)) if at_once < 4 => {
                    at_once += 1;
                    drop(error);
                    continue;
                }
                Err(Again::AtOnce(error) | Again::Later(error)) => error,
            };
            if !tries.pause().await {
                return Err(attempt.refused(error));
            }
        }
    }
}

impl Attempt<'_> {
    /// The inner result ends the call. What is rare is boxed, so that each call is no larger than it has to be.
    async fn once(&mut self) -> Result<Result<Value, Refused>, Again> {
        let redirected = self.redirected.take();
        let is_redirected = redirected.is_some();
        let nodes = &self.redis.nodes;
        let Some(node) = redirected.or_else(|| nodes.owner_of(&self.call.key)) else {
            let nobody = (redis::ErrorKind::Client, "no server has the key's slot");
            return Err(Box::pin(self.relearn(nobody.into())).await);
        };
        let commands = self.commands(is_redirected);
        let answers = match node.ask(self.lane, &commands).await {
            Ok(answers) => answers,
            Err(Silence::NotConnected(error)) => {
                if !passes_by_itself(&error) {
                    return Ok(Err(self.refused(error)));
                }
                return Err(Box::pin(self.relearn(error)).await);
            }
            Err(Silence::Broken(error)) => {
                self.may_be_made |= self.call.is_swap();
                return Err(Box::pin(self.relearn(error)).await);
            }
        };
        let mut answers = answers.into_iter();
        let time = (!self.by_script).then(|| answers.next().unwrap_or_default());
        let mut answers = answers.skip(usize::from(is_redirected));
        match (answers.next().unwrap_or_default(), time) {
            (Value::ServerError(error), _) => Box::pin(self.react(&node, error)).await,
            (answer, None) => Ok(self.replicated(answer, answers.next())),
            (held, Some(time)) => {
                let inserted = self.call.inserted(&time, held);
                Ok(
                    inserted
                        .ok_or_else(|| Refused::unknown("the server's answer isn't one to SET")),
                )
            }
        }
    }

    fn commands(&self, is_redirected: bool) -> Pipeline {
        let mut commands = redis::pipe();
        let command = if self.by_script {
            self.call.command(self.by_source)
        } else {
            let [time, set] = self.call.insert();
            commands.add_command(time);
            set
        };
        if is_redirected {
            commands.add_command(cmd("ASKING"));
        }
        commands.add_command(command);
        if let Some(replicas) = self.replicas() {
            let timeout = u64::try_from(replicas.timeout.as_millis()).unwrap_or(u64::MAX);
            commands.add_command(cmd("WAIT").arg(replicas.count).arg(timeout).take());
        }
        commands
    }

    fn replicas(&self) -> Option<super::builder::Replicas> {
        self.redis.config.replicas.filter(|_| self.call.is_swap())
    }

    async fn react(
        &mut self,
        node: &Arc<Node>,
        error: ServerError,
    ) -> Result<Result<Value, Refused>, Again> {
        let reaction = reaction(&error);
        let error = RedisError::from(error);
        let named = |address: &str| self.redis.nodes.named(address);
        match reaction {
            Reaction::Moved(address) => match named(&address) {
                Some(owner) if !self.redis.nodes.is_single() => {
                    self.redis.nodes.moved(&self.call.key, &owner);
                    Err(Again::AtOnce(error))
                }
                _ => Err(self.relearn(error).await),
            },
            Reaction::Redirected(address) => {
                self.redirected = named(&address);
                Err(Again::AtOnce(error))
            }
            Reaction::SendScript => {
                self.by_source = true;
                Err(Again::AtOnce(error))
            }
            Reaction::Reconnect => {
                node.hang_up(self.lane).await;
                Err(self.relearn(error).await)
            }
            Reaction::Retry => {
                // The script reads before it writes: where nothing is to be written, it may be answered all the same.
                self.by_script = true;
                Err(self.relearn(error).await)
            }
            // Before Redis 7, NX and GET don't go together. If it was anything else, the script is refused as well.
            Reaction::GiveUp if !self.by_script => {
                let is_syntax = error.detail().is_some_and(|it| it.contains("syntax"));
                self.redis
                    .needs_scripts
                    .fetch_or(is_syntax, Ordering::Relaxed);
                self.by_script = true;
                Err(Again::AtOnce(error))
            }
            // Where nothing is held yet, nothing is lost by saying so at once.
            Reaction::Full if self.call.is_insert() => Ok(Err(self.refused(error))),
            Reaction::Full => Err(Again::Later(error)),
            Reaction::GiveUp => Ok(Err(self.refused(error))),
        }
    }

    /// Finds out who has the key now.
    async fn relearn(&self, error: RedisError) -> Again {
        // What it comes to is seen at the next try.
        let _ = self.redis.nodes.learn().await;
        Again::Later(error)
    }

    /// Passes an answer on, if enough replicas have what it tells.
    fn replicated(&self, answer: Value, waited: Option<Value>) -> Result<Value, Refused> {
        let Some(replicas) = self.replicas().filter(|_| super::script::is_done(&answer)) else {
            return Ok(answer);
        };
        match waited {
            Some(Value::Int(count)) if count >= i64::from(replicas.count) => Ok(answer),
            Some(Value::ServerError(error)) => Err(Refused::unknown(RedisError::from(error))),
            Some(Value::Int(count)) => Err(Refused::unknown(format!(
                "{count} of {} replicas had the change in time",
                replicas.count
            ))),
            _ => Err(Refused::unknown(
                "the server didn't say how many replicas have the change",
            )),
        }
    }

    fn refused(&self, error: RedisError) -> Refused {
        if self.may_be_made {
            Refused::unknown(error)
        } else {
            Refused::unchanged(error)
        }
    }
}

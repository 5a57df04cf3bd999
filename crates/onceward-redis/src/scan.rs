//! Walking through all keys of all primaries.

use onceward::register::{Cursor, Page, RecordId, Refused, Tries, Value};
use redis::{Pipeline, RedisError, Value as Answer, cmd, from_redis_value};

use super::Redis;
use super::failure::{Reaction, passes_by_itself, reaction};
use super::node::{Node, Silence};
use super::script::{Call, loaded, value_of};

/// How often a walk begins anew because slots have moved meanwhile.
const MOST_RESTARTS: u8 = 16;
const ID_BYTES: usize = 32;

/// Where a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    layout: u64,
    restarts: u8,
    /// By address, among the primaries of that layout.
    node: u16,
    /// Redis' own.
    cursor: u64,
}

impl Place {
    fn written(self) -> Cursor {
        let mut bytes = Vec::with_capacity(19);
        bytes.extend_from_slice(&self.layout.to_be_bytes());
        bytes.push(self.restarts);
        bytes.extend_from_slice(&self.node.to_be_bytes());
        bytes.extend_from_slice(&self.cursor.to_be_bytes());
        Cursor(bytes.into())
    }

    fn read(cursor: &Cursor) -> Option<Self> {
        let (layout, rest) = cursor.0.split_first_chunk()?;
        let (restarts, rest) = rest.split_first()?;
        let (node, rest) = rest.split_first_chunk()?;
        Some(Self {
            layout: u64::from_be_bytes(*layout),
            restarts: *restarts,
            node: u16::from_be_bytes(*node),
            cursor: u64::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

impl Redis {
    pub(super) async fn page(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.contact().await?;
        let mut place = match from {
            Some(cursor) => Place::read(&cursor)
                .ok_or_else(|| Refused::unchanged("the cursor is another register's"))?,
            None => self.beginning(0).await?,
        };
        let mut tries = Tries::within(self.config.timeout);
        loop {
            if place.layout != self.nodes.layout() {
                place = self.beginning(place.restarts + 1).await?;
            }
            let Some(node) = self.nodes.primaries().get(usize::from(place.node)).cloned() else {
                return Err(Refused::unchanged("no server of the cluster has slots"));
            };
            match self.keys(&node, place.cursor, most).await {
                Ok((cursor, now_ms, ids)) => {
                    let values = self.values(&node, ids).await?;
                    let next = self.after(place, cursor).await?;
                    return Ok(Page {
                        values,
                        next: next.map(Place::written),
                        now_ms,
                    });
                }
                Err(error) => {
                    if !passes_by_itself(&error) || !tries.pause().await {
                        return Err(Refused::unchanged(error));
                    }
                    // A replica may have taken over.
                    let _ = self.nodes.learn().await;
                }
            }
        }
    }

    async fn beginning(&self, restarts: u8) -> Result<Place, Refused> {
        if restarts > MOST_RESTARTS {
            return Err(Refused::unchanged(
                "the cluster's slots are being moved; walk through the keys again later",
            ));
        }
        self.relearnt().await?;
        Ok(Place {
            layout: self.nodes.layout(),
            restarts,
            node: 0,
            cursor: 0,
        })
    }

    async fn relearnt(&self) -> Result<(), Refused> {
        let learnt = self.nodes.learn().await;
        learnt.map_err(|silence| Refused::unchanged(silence.into_error()))
    }

    /// Where to go on after a page; `None` at the end. If slots have moved since the beginning, keys may have gone from a server that
    /// wasn't asked yet to one that was: all are asked again.
    async fn after(&self, place: Place, cursor: u64) -> Result<Option<Place>, Refused> {
        if cursor != 0 {
            return Ok(Some(Place { cursor, ..place }));
        }
        self.relearnt().await?;
        if self.nodes.layout() != place.layout {
            return self.beginning(place.restarts + 1).await.map(Some);
        }
        let node = place.node + 1;
        let is_last = usize::from(node) >= self.nodes.primaries().len();
        Ok((!is_last).then_some(Place {
            node,
            cursor: 0,
            ..place
        }))
    }

    /// Some keys of one server, its cursor after them, and its time.
    async fn keys(
        &self,
        node: &Node,
        cursor: u64,
        most: usize,
    ) -> Result<(u64, u64, Vec<RecordId>), RedisError> {
        let mut commands = redis::pipe();
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(pattern(&self.config.prefix));
        commands.add_command(scan.arg("COUNT").arg(most.max(1)).take());
        commands.add_command(cmd("TIME"));
        let mut answers = asked(node, &commands).await?.into_iter();
        let (cursor, keys): (u64, Vec<Vec<u8>>) = read(answers.next())?;
        let (seconds, micros): (u64, u64) = read(answers.next())?;
        let ids = keys.iter().filter_map(|key| {
            let id = key.strip_prefix(&self.config.prefix[..])?;
            let id: [u8; ID_BYTES] = id.try_into().ok()?;
            Some(RecordId::from_bytes(id))
        });
        Ok((cursor, seconds * 1_000 + micros / 1_000, ids.collect()))
    }

    /// What these keys hold that are still there.
    async fn values(
        &self,
        node: &Node,
        ids: Vec<RecordId>,
    ) -> Result<Vec<(RecordId, Value)>, Refused> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        for id in &ids {
            commands.add_command(cmd("GET").arg(self.key(*id)).take());
        }
        let answers = node.ask(0, &commands).await;
        let answers = answers.map_err(|silence| Refused::unchanged(silence.into_error()))?;
        let mut values = Vec::with_capacity(ids.len());
        for (id, answer) in ids.into_iter().zip(answers) {
            let value = match answer {
                Answer::Nil => None,
                Answer::BulkString(held) => Some(value_of(held)),
                Answer::ServerError(error) if reaction(&error) == Reaction::GiveUp => {
                    return Err(Refused::unchanged(RedisError::from(error)));
                }
                // It was moved just now.
                _ => {
                    let answer = self.call(id, &Call::load(self.key(id))).await?;
                    loaded(answer).and_then(|loaded| loaded.value)
                }
            };
            values.extend(value.map(|value| (id, value)));
        }
        Ok(values)
    }
}

async fn asked(node: &Node, commands: &Pipeline) -> Result<Vec<Answer>, RedisError> {
    node.ask(0, commands).await.map_err(Silence::into_error)
}

fn read<T: redis::FromRedisValue>(answer: Option<Answer>) -> Result<T, RedisError> {
    let answer = answer.unwrap_or_default().extract_error()?;
    Ok(from_redis_value(answer)?)
}

/// What matches all that begins so.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place {
            layout: u64::MAX - 1,
            restarts: 3,
            node: 258,
            cursor: 1 << 60,
        };
        assert_eq!(Place::read(&place.written()), Some(place));
        assert_eq!(Place::read(&Cursor(vec![0; 18].into())), None);
        assert_eq!(Place::read(&Cursor(vec![0; 20].into())), None);
    }

    #[test]
    fn a_prefix_is_matched_as_it_stands() {
        assert_eq!(pattern(b"a*[b]:"), b"a\\*\\[b\\]:*");
    }
}

//! What nodes tell one another, through the servers.

use std::sync::Arc;
use std::time::Duration;

use onceward::register::RecordId;
use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value, cmd,
};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Redis;
use super::node::Node;

const ID_BYTES: usize = 32;
const ORIGIN_BYTES: usize = 8;
/// How often a connection that says nothing is asked whether it still is one.
const ASKED_EVERY: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Redis {
    /// Publishes that these have changed. A server that is in a cluster passes it on to all others.
    pub(super) async fn publish(&self, changed: Vec<RecordId>) {
        let Some(first) = changed.first() else {
            return;
        };
        let pick = usize::from(first.as_bytes()[1]);
        let Some(node) = one_of(&self.nodes.primaries(), pick) else {
            return;
        };
        let mut message = Vec::with_capacity(ORIGIN_BYTES + ID_BYTES * changed.len());
        message.extend_from_slice(&self.origin);
        for id in &changed {
            message.extend_from_slice(id.as_bytes());
        }
        let mut commands = redis::pipe();
        commands.add_command(cmd("PUBLISH").arg(self.channel()).arg(message).take());
        // Nobody relies on it.
        let _ = node.ask(pick, &commands).await;
    }

    /// Hears what others publish, for ever.
    pub(super) async fn hear(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        let changed = Arc::new(changed);
        let mut pause = FIRST_PAUSE;
        for pick in usize::from(self.origin[0]).. {
            if self.contact().await.is_ok()
                && let Some(node) = one_of(&self.nodes.primaries(), pick)
                && self.hear_from(&node, Arc::clone(&changed)).await.is_ok()
            {
                pause = FIRST_PAUSE;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Hears what that server passes on, until the connection breaks; an error if there was none.
    async fn hear_from(
        &self,
        node: &Node,
        changed: Arc<impl Fn(RecordId) + Send + Sync + 'static>,
    ) -> Result<(), RedisError> {
        let is_over = Arc::new(Notify::new());
        let (over, origin) = (Arc::clone(&is_over), self.origin);
        let hears = move |push: PushInfo| {
            match push.kind {
                PushKind::Disconnection => over.notify_one(),
                PushKind::Message => pass_on(&push.data, origin, &*changed),
                _ => {}
            }
            Ok::<_, RedisError>(())
        };
        let limits = self.config.limits();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limits.connecting))
            .set_response_timeout(Some(limits.answering))
            .set_push_sender(hears);
        let info = node.info().clone();
        let settings = info.redis_settings().clone();
        let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
        let client = Client::open(info)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await?;
        connection.subscribe(self.channel()).await?;
        while timeout(ASKED_EVERY, is_over.notified()).await.is_err() {
            let ping = cmd("PING");
            if ping.exec_async(&mut connection).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn channel(&self) -> Vec<u8> {
        let mut channel = self.config.prefix.clone();
        channel.extend_from_slice(b"changes");
        channel
    }
}

/// Passes on what a message tells, unless it comes from here.
fn pass_on(data: &[Value], own: [u8; ORIGIN_BYTES], changed: &impl Fn(RecordId)) {
    let [_, Value::BulkString(message), ..] = data else {
        return;
    };
    let Some((origin, ids)) = message.split_first_chunk() else {
        return;
    };
    if *origin != own {
        let (ids, _) = ids.as_chunks();
        for id in ids {
            changed(RecordId::from_bytes(*id));
        }
    }
}

fn one_of(nodes: &[Arc<Node>], pick: usize) -> Option<Arc<Node>> {
    nodes.get(pick.checked_rem(nodes.len())?).cloned()
}

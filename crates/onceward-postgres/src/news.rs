//! Which keys have changed, told with `NOTIFY` and heard with `LISTEN`.

use std::sync::Arc;
use std::time::Duration;

use onceward::register::RecordId;
use tokio::time::{sleep, timeout};
use tokio_postgres::Error;

use super::Shared;
use super::dial::Heard;
use super::link::Parameters;

/// A payload has to be shorter than 8,000 bytes; an id takes 64.
const IDS_PER_PAYLOAD: usize = 120;
/// The pause before a lost connection is opened again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is seen whether the connection still carries anything.
const PROBED_EVERY: Duration = Duration::from_secs(15);

pub(super) async fn announce(shared: &Shared, changed: &[RecordId]) {
    let payload = |ids: &[RecordId]| {
        let mut text = shared.origin.clone();
        for byte in ids.iter().flat_map(RecordId::as_bytes) {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 15));
        }
        text
    };
    let payloads: Vec<String> = changed.chunks(IDS_PER_PAYLOAD).map(payload).collect();
    let parameters: Parameters<'_> = &[&shared.sql.channel, &payloads];
    let (link, sql) = (&shared.link, &shared.sql);
    let told = link.rows(sql, &sql.announce, parameters, link.tries());
    // Who isn't told looks after a while.
    drop(timeout(shared.link.settings.timeout, told).await);
}

/// Hears until it is dropped. What is announced while the connection is lost isn't heard.
pub(super) async fn listen(shared: &Shared, changed: impl Fn(RecordId) + Send + Sync + 'static) {
    let changed = Arc::new(changed);
    let mut pause = FIRST_PAUSE;
    loop {
        let (origin, changed) = (shared.origin.clone(), Arc::clone(&changed));
        let heard: Heard = Box::new(move |notification| {
            let ids = notification.payload().split_at_checked(origin.len());
            if let Some((_, ids)) = ids.filter(|(from, _)| *from != origin) {
                ids.as_bytes()
                    .chunks(64)
                    .filter_map(id_of)
                    .for_each(&*changed);
            }
        });
        if let Ok(()) = listen_once(shared, heard).await {
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

/// The connection was never there.
struct Unheard;

/// Hears until the connection breaks.
async fn listen_once(shared: &Shared, heard: Heard) -> Result<(), Unheard> {
    let config = shared.link.settings.config.clone();
    let listening = async {
        let (client, task) = shared.link.settings.dial.dial(config, heard, None).await?;
        client.batch_execute(&shared.sql.listen).await?;
        Ok::<_, Error>((client, task))
    };
    let listening = timeout(shared.link.settings.timeout, listening).await;
    let Ok(Ok((client, mut task))) = listening else {
        return Err(Unheard);
    };
    while timeout(PROBED_EVERY, &mut task).await.is_err() {
        let probe = timeout(shared.link.settings.timeout, client.check_connection()).await;
        if !matches!(probe, Ok(Ok(()))) {
            // Left alone, it would go on beside the next one.
            task.abort();
            break;
        }
    }
    Ok(())
}

fn hex_digit(value: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(value)])
}

fn id_of(hex: &[u8]) -> Option<RecordId> {
    let mut id = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if hex.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(hex.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(RecordId::from_bytes(id))
}

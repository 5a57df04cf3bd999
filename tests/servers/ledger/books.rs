//! Which transfers there are, and what has to be in the books once each was made exactly once.

use std::collections::HashMap;

use onceward::{Engine, Fingerprint, Key, Outcome, Reply};

pub(super) const ACCOUNTS: u64 = 12;

/// One of the transfers that everybody knows by its number.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    pub(super) number: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) amount: i64,
}

impl Transfer {
    pub(super) fn of(number: u64) -> Self {
        let from = number * 7 % ACCOUNTS;
        Self {
            number,
            from,
            to: (from + 1 + number * 5 % (ACCOUNTS - 1)) % ACCOUNTS,
            amount: 1 + i64::try_from(number % 97).unwrap(),
        }
    }

    /// What it does to the two balances, the lower account first: nobody waits in a circle.
    pub(super) fn entries(self) -> [(u64, i64); 2] {
        let mut entries = [(self.from, -self.amount), (self.to, self.amount)];
        entries.sort_unstable();
        entries
    }

    pub(super) fn key(self) -> Key {
        Key::new("ledger", format!("transfer {}", self.number)).unwrap()
    }

    pub(super) fn fingerprint(self) -> Fingerprint {
        Fingerprint::of(format!("{} from {} to {}", self.amount, self.from, self.to))
    }
}

/// The reply to the transfer that was written in this row of the journal: no two runs give the same.
pub(super) fn reply(row: u64) -> Reply {
    Reply::new(201, format!("row-{row}"))
}

/// What a database has in the end.
pub(super) struct Books {
    pub(super) balances: Vec<i64>,
    /// The journal's rows and whose transfers they are; nothing keeps a transfer from being there twice.
    pub(super) journal: Vec<(u64, u64)>,
}

impl Books {
    /// Holds them against the transfers that all were acknowledged, with these replies; says how many are there twice
    /// and how many are lost.
    pub(super) fn check(&self, acknowledged: &HashMap<u64, String>) {
        let mut rows: HashMap<u64, Vec<u64>> = HashMap::new();
        for (row, number) in &self.journal {
            rows.entry(*number).or_default().push(*row);
        }
        let twice = self.journal.len() - rows.len();
        let is_lost = |number: &&u64| !rows.contains_key(number);
        let lost = acknowledged.keys().filter(is_lost).count();
        println!("{twice} made twice, {lost} lost");
        assert_eq!((twice, lost), (0, 0));
        assert_eq!(
            self.journal.len(),
            acknowledged.len(),
            "nothing else is there"
        );
        let mut balances = vec![0; usize::try_from(ACCOUNTS).unwrap()];
        for (number, body) in acknowledged {
            let row = rows[number][0];
            assert_eq!(reply(row).body(), body.as_str(), "transfer {number}");
            for (account, amount) in Transfer::of(*number).entries() {
                balances[usize::try_from(account).unwrap()] += amount;
            }
        }
        assert_eq!(self.balances, balances);
    }
}

/// Sees that each transfer is replayed as it was acknowledged.
pub(super) fn check_replays(engine: &Engine, acknowledged: &HashMap<u64, String>) {
    for (number, body) in acknowledged {
        let transfer = Transfer::of(*number);
        let outcome = engine.begin(&transfer.key(), &transfer.fingerprint());
        let Outcome::Replay(reply) = outcome.unwrap() else {
            panic!("transfer {number} was not replayed");
        };
        assert_eq!(reply.body(), body.as_str(), "transfer {number}");
    }
}

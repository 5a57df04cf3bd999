//! The statements.

use onceward::Result;

use super::builder::invalid;

/// The server's clock, in milliseconds since 1970.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The same as the statement began, which an index can be searched with.
const BEGAN: &str = "(extract(epoch FROM now()) * 1000)::bigint";

/// All statements on one table.
#[derive(Clone)]
pub(super) struct Sql {
    pub(super) schema: String,
    pub(super) look_for_table: String,
    pub(super) settings: String,
    pub(super) load: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) sweep: String,
    pub(super) sweep_by: String,
    pub(super) complete: String,
    pub(super) write_outcome: String,
    pub(super) put_version: String,
    pub(super) put_outcome: String,
    pub(super) scan: String,
    pub(super) channel: String,
    pub(super) announce: String,
    pub(super) listen: String,
}

impl Sql {
    pub(super) fn on(table: &str) -> Result<Self> {
        let (name, index) = names(table)?;
        Ok(Self {
            schema: schema(&name, index),
            look_for_table: format!("SELECT 1 FROM \"{name}\" LIMIT 0"),
            settings:
                "SELECT current_setting('fsync', true), current_setting('full_page_writes', true)"
                    .to_owned(),
            load: format!(
                "SELECT found.version, found.value, {NOW} FROM (SELECT 1) AS one \
                 LEFT JOIN \"{name}\" AS found ON found.id = $1"
            ),
            insert: insert(&name),
            update: format!(
                "UPDATE \"{name}\" SET version = $2, value = $3, ends_at_ms = $4 \
                 WHERE id = $1 AND version = $5 RETURNING {NOW}"
            ),
            sweep: sweep(&name, BEGAN),
            sweep_by: sweep(&name, &format!("least($1, {BEGAN})")),
            complete: in_transaction(&put_version(&name)),
            write_outcome: in_transaction(&put_outcome(&name)),
            put_version: counted(&put_version(&name)),
            put_outcome: counted(&put_outcome(&name)),
            scan: format!(
                "SELECT found.id, found.version, found.value, {NOW} FROM \"{name}\" AS found \
                 WHERE found.id > $1 ORDER BY found.id LIMIT $2"
            ),
            announce: "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload".to_owned(),
            listen: format!("LISTEN \"{index}\""),
            channel: index.to_owned(),
        })
    }
}

/// A table's name as it is written in a statement, and what is named after it.
fn names(table: &str) -> Result<(String, &str)> {
    let parts: Vec<&str> = table.split('.').collect();
    let is_name = |part: &&str| {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (1..=50).contains(&part.len())
            && part.chars().all(is_fit)
            && !part.starts_with(|c: char| c.is_ascii_digit())
    };
    if parts.len() > 2 || !parts.iter().all(is_name) {
        return Err(invalid(format!(
            "the table's name is {table:?}; it must be a name of letters, digits and underscores, with its schema's before \
             it and a dot if it has one, of 50 characters at most each"
        )));
    }
    let last = parts.last().copied().unwrap_or(table);
    Ok((parts.join("\".\""), last))
}

fn schema(name: &str, index: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{name}\" (\n    id bytea PRIMARY KEY,\n    version bigint NOT NULL,\n    \
         value bytea NOT NULL,\n    ends_at_ms bigint NOT NULL\n);\nCREATE INDEX IF NOT EXISTS \"{index}_ends_at_ms\" \
         ON \"{name}\" (ends_at_ms);\n"
    )
}

/// Gives a row of nulls and the time if it has inserted one, and else what is there. It reads the table as it was before: where somebody
/// else was faster just now, it gives nothing. A row that is there isn't waited for, though somebody is changing it.
fn insert(name: &str) -> String {
    format!(
        "WITH put AS (INSERT INTO \"{name}\" (id, version, value, ends_at_ms) \
         SELECT $1::bytea, $2::bigint, $3::bytea, $4::bigint \
         WHERE NOT EXISTS (SELECT 1 FROM \"{name}\" AS found WHERE found.id = $1) \
         ON CONFLICT (id) DO NOTHING RETURNING 1) \
         SELECT NULL::bigint, NULL::bytea, {NOW} FROM put \
         UNION ALL SELECT found.version, found.value, {NOW} FROM \"{name}\" AS found WHERE found.id = $1"
    )
}

/// Removes some rows whose end isn't after that time. Those that somebody else removes or changes just now are passed over.
fn sweep(name: &str, by: &str) -> String {
    format!(
        "WITH gone AS (DELETE FROM \"{name}\" WHERE id IN (SELECT id FROM \"{name}\" WHERE ends_at_ms <= {by} \
         ORDER BY ends_at_ms LIMIT 1000 FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*) FROM gone"
    )
}

/// Replaces the row of a version.
fn put_version(name: &str) -> String {
    format!(
        "WITH put AS (UPDATE \"{name}\" SET version = $2, value = $3, ends_at_ms = $4 \
         WHERE id = $1 AND version = $5 AND {MARKED} RETURNING 1)",
        MARKED = is_marked(name),
    )
}

/// Writes a row where there is none, or an older one that is over or a fence.
fn put_outcome(name: &str) -> String {
    format!(
        "WITH put AS (INSERT INTO \"{name}\" AS found (id, version, value, ends_at_ms) \
         SELECT $1::bytea, $2::bigint, $3::bytea, $4::bigint WHERE {MARKED} \
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, value = excluded.value, \
         ends_at_ms = excluded.ends_at_ms WHERE found.version < excluded.version \
         AND (found.ends_at_ms <= $5::bigint OR octet_length(found.value) = 0) RETURNING 1)",
        MARKED = is_marked(name),
    )
}

/// Whether this is the table that the engine knows.
fn is_marked(name: &str) -> String {
    format!(
        "($6::bigint IS NULL OR EXISTS (SELECT 1 FROM \"{name}\" AS mark \
         WHERE mark.id = decode(repeat('00', 32), 'hex') AND mark.version = $6::bigint))"
    )
}

/// Gives how many rows were put.
fn counted(put: &str) -> String {
    format!("{put} SELECT count(*) FROM put")
}

/// Fails where nothing was put, and has the commit wait for the disk.
fn in_transaction(put: &str) -> String {
    format!(
        "{put} SELECT 1 / count(*), CASE WHEN current_setting('synchronous_commit', true) IN ('off', 'local') \
         THEN set_config('synchronous_commit', 'on', true) END FROM put"
    )
}

#[cfg(test)]
mod tests {
    use super::Sql;

    #[test]
    fn names_that_could_be_anything_but_a_name_are_refused() {
        for name in ["", "a.b.c", "a\"b", "a b", "a;b", "1a", ".a", "a.", "ä"] {
            assert!(Sql::on(name).is_err(), "{name}");
        }
        assert!(Sql::on("payments.onceward_records").is_ok());
    }
}

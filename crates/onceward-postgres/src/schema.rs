//! The first contact: the table, and what the server's settings are worth.

use std::time::Duration;

use onceward::register::Refused;
use tokio_postgres::error::SqlState;

use super::pool::{Connection, Settings};
use super::sql::Sql;

/// Sees to the table, and gives what is wrong with the settings.
pub(super) async fn first_contact(
    connection: &Connection,
    sql: &Sql,
    settings: &Settings,
) -> Result<Vec<String>, Refused> {
    let found = connection.batch_execute(&sql.look_for_table).await;
    match found {
        Ok(()) => {}
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) && settings.makes_table => {
            make_table(connection, sql, settings.timeout).await?;
        }
        Err(error) => return Err(Refused::unchanged(error)),
    }
    let row = connection
        .query_one(&sql.settings, &[])
        .await
        .map_err(Refused::unchanged)?;
    let value = |column| row.try_get::<_, Option<String>>(column).ok().flatten();
    let mut warnings = Vec::new();
    for (column, setting, hazard) in [
        (
            0,
            "fsync",
            "a crash of the server's machine loses or damages what was acknowledged",
        ),
        (
            1,
            "full_page_writes",
            "a crash of the server's machine can damage the table",
        ),
    ] {
        if value(column).is_some_and(|value| value == "off") {
            let warning = format!("PostgreSQL has {setting} off: {hazard}; turn it on");
            #[cfg(feature = "tracing")]
            tracing::warn!(target: "onceward", "{warning}");
            warnings.push(warning);
        }
    }
    Ok(warnings)
}

async fn make_table(connection: &Connection, sql: &Sql, timeout: Duration) -> Result<(), Refused> {
    // Another node may be making it at the same moment, and is waited for.
    let make = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; {} COMMIT",
        timeout.as_millis() / 2,
        sql.schema
    );
    let Err(error) = connection.batch_execute(&make).await else {
        return Ok(());
    };
    connection
        .batch_execute("ROLLBACK")
        .await
        .map_err(Refused::unchanged)?;
    // PostgreSQL says in one of these ways that it was faster.
    let others = [
        &SqlState::UNIQUE_VIOLATION,
        &SqlState::DUPLICATE_TABLE,
        &SqlState::DUPLICATE_OBJECT,
    ];
    if error.code().is_some_and(|code| others.contains(&code)) {
        let again = connection.batch_execute(&sql.schema).await;
        return again.map_err(Refused::unchanged);
    }
    Err(Refused::unchanged(error))
}

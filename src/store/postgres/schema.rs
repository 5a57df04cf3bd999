//! The first contact: the table, and what the server's settings are worth.

use tokio_postgres::error::SqlState;

use super::link::Connection;
use super::sql::Sql;
use crate::observe;
use crate::store::register::Refused;

/// Sees to the table, and gives what is wrong with the settings.
pub(super) async fn first_contact(
    connection: &Connection,
    sql: &Sql,
    makes_table: bool,
) -> Result<Vec<String>, Refused> {
    let found = connection.batch_execute(&sql.look_for_table).await;
    match found {
        Ok(()) => {}
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) && makes_table => {
            make_table(connection, sql).await?;
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
            observe::warn(&warning);
            warnings.push(warning);
        }
    }
    Ok(warnings)
}

async fn make_table(connection: &Connection, sql: &Sql) -> Result<(), Refused> {
    let made = connection.batch_execute(&sql.schema).await;
    let Err(error) = made else { return Ok(()) };
    // Another node was making it at the same moment: PostgreSQL says so in one of these ways.
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

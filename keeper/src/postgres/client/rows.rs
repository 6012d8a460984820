//! Values of the rows of a query.

use tokio_postgres::SimpleQueryRow;

use crate::postgres::client::sql_error::SqlError;

/// Returns the first row of a query that has one.
pub(super) fn first_row<'a>(action: &'static str, rows: &'a [SimpleQueryRow]) -> Result<&'a SimpleQueryRow, SqlError> {
    rows.first().ok_or_else(|| SqlError::Answer {
        action,
        answer: "no row".to_owned(),
    })
}

/// Returns a value as text; empty for null.
pub(super) fn field(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or_default().to_owned()
}

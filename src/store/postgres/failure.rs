//! What can go wrong with the database, and what that means to a caller of PKCS#11.

use std::borrow::Cow;
use std::io;

use tokio_postgres::error::SqlState;

use super::url::Target;
use crate::error::{Error, ErrorKind};

pub(super) enum Failure {
    /// The write was refused; nothing is wrong with the database.
    Refused(Error),
    Sql(tokio_postgres::Error),
    /// There is no connection, or there is one no longer.
    Lost(Cow<'static, str>),
    /// No answer in time; the connection cannot be used any more.
    Late,
}

impl Failure {
    pub(super) fn io(error: io::Error) -> Self {
        Self::Lost(error.to_string().into())
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Sql(error) => error.code(),
            _ => None,
        }
    }

    /// Another transaction was in the way: nothing has changed, and the next attempt may succeed.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
    }

    /// The connection, or the server, is gone or going. Another may serve.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Lost(_) | Self::Late => true,
            Self::Sql(error) => match error.code() {
                None => true,
                Some(code) => {
                    let class = code.code().get(..2);
                    // Connection exceptions; an operator's intervention; too many connections.
                    class == Some("08")
                        || class == Some("57")
                        || *code == SqlState::TOO_MANY_CONNECTIONS
                        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                        || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
                }
            },
        }
    }

    /// Of a row, a table or a type.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(
            self.code(),
            Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_TABLE | &SqlState::DUPLICATE_OBJECT)
        )
    }

    pub(super) fn is_missing_table(&self) -> bool {
        self.code() == Some(&SqlState::UNDEFINED_TABLE)
    }

    pub(super) fn into_error(self, target: &Target) -> Error {
        let conflict = self.is_conflict();
        match self {
            Self::Refused(error) => error,
            Self::Late => ErrorKind::DeviceError.with(format!("{target}: the database took too long")),
            Self::Lost(why) => ErrorKind::DeviceError.with(format!("{target}: {why}")),
            Self::Sql(error) => {
                let kind = match error.code() {
                    _ if conflict => ErrorKind::FunctionFailed,
                    Some(&SqlState::DISK_FULL | &SqlState::OUT_OF_MEMORY) => ErrorKind::DeviceMemory,
                    Some(&SqlState::READ_ONLY_SQL_TRANSACTION | &SqlState::INSUFFICIENT_PRIVILEGE) => {
                        ErrorKind::TokenWriteProtected
                    }
                    Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => ErrorKind::TokenNotRecognized,
                    _ => ErrorKind::DeviceError,
                };
                kind.with(format!("{target}: {}", told(&error)))
            }
        }
    }
}

/// The server's message without its detail, which may quote rows; or the innermost reason.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} ({})", answer.message(), answer.code().code());
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

//! What an error of the client library means for the request that has it.

use std::error::Error;

use tonic::Code;

use crate::connections::ConnectionGone;
use crate::error::Cause;

/// What an error of the client library means for the request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// It was not sent.
    Unsent,
    /// The server refused it before processing it, and may accept it later.
    NotServed,
    /// It may or may not have been executed.
    Unknown,
    /// It was processed and not executed.
    Refused,
}

/// Returns whether an error is a response of the server, not that of a broken connection.
pub(crate) fn is_server_response(error: &etcd_client::Error) -> bool {
    matches!(classify_error(error).0, ErrorClass::Refused | ErrorClass::NotServed)
}

/// Returns what the error means, and its text.
pub(crate) fn classify_error(error: &etcd_client::Error) -> (ErrorClass, Cause) {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return (ErrorClass::Unknown, Cause::new(error.to_string()));
    };
    if let Some(source) = status.source() {
        // created by the client: the connection broke, or there was none
        let mut cause: Option<&(dyn Error + 'static)> = Some(source);
        while let Some(error) = cause {
            if error.is::<ConnectionGone>() {
                return (ErrorClass::Unsent, Cause::new(error.to_string()));
            }
            cause = error.source();
        }
        return (ErrorClass::Unknown, Cause::deepest(source));
    }
    let class = match status.code() {
        Code::Unavailable if status.message().contains("no leader") => ErrorClass::NotServed,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
            ErrorClass::Unknown
        }
        _ => ErrorClass::Refused,
    };
    (class, Cause::from_server(status.message()))
}

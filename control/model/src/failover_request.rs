//! An operator's request that a keeper becomes the master although it may lack what was acknowledged (synchronous
//! SY-20). It is a key of its own under a lease, so that it never outlives the command that wrote it by long. Go stolon
//! neither writes nor reads it.

use serde::{Deserialize, Serialize};

use crate::{DbUid, KeeperUid, Timestamp};

/// A request to elect the db of a keeper. No field may be absent: nothing is elected on half of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailoverRequest {
    /// Random, so that two requests differ.
    pub id: String,
    /// The keeper whose db is to become the master.
    pub to: KeeperUid,
    /// The master that is to be replaced. The request is void once another one is the master.
    pub master: DbUid,
    /// The operator accepts that what this keeper lacks is lost. Without that the request counts for nothing.
    pub accept_data_loss: bool,
    /// When the command wrote it; informative.
    pub requested_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{from_slice, to_compact};

    const TEXT: &str =
        r#"{"id":"a1","to":"k3","master":"d1","acceptDataLoss":true,"requestedAt":"2024-05-06T07:05:12Z"}"#;

    #[test]
    fn a_request_is_written_as_it_was_read() {
        let request: FailoverRequest = from_slice(TEXT.as_bytes()).unwrap();
        assert_eq!((request.to.as_str(), request.master.as_str()), ("k3", "d1"));
        assert_eq!(to_compact(&request), TEXT);
    }

    #[test]
    fn half_of_a_request_is_none() {
        for field in ["id", "to", "master", "acceptDataLoss", "requestedAt"] {
            let other = TEXT.replace(&format!("\"{field}\""), "\"other\"");
            assert!(from_slice::<FailoverRequest>(other.as_bytes()).is_err(), "{field}");
        }
        for text in ["", "null", "[]", "{}", r#""k3""#] {
            assert!(from_slice::<FailoverRequest>(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! A switchover (extensions X-2): an operator's request, the leading sentinel's order to a keeper, and what that sentinel
//! publishes about its progress. Request and order are keys of their own under leases, so that neither outlives its
//! writer by long. Go stolon neither writes nor reads them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{DbUid, KeeperUid, Timestamp, is_zero, string_enum};

/// A request to make another db the master while the present one is healthy. The switchover is over once it is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverRequest {
    /// Random, so that two requests differ; never empty, since an empty one stands for none in the infos of keepers.
    #[serde(deserialize_with = "not_empty")]
    pub id: String,
    /// The keeper whose db is to become the master; absent: the best candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<KeeperUid>,
    /// When the command wrote it; informative.
    pub requested_at: Timestamp,
}

/// What the leading sentinel orders a keeper to do in a switchover. No field may be absent or empty: nothing is done on
/// half of an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeeperOrder {
    /// The id of the switchover.
    #[serde(deserialize_with = "not_empty")]
    pub switchover: String,
    /// The db that it is about. Another db of the same keeper is not affected.
    #[serde(deserialize_with = "not_empty")]
    pub db: DbUid,
    /// What to do with it.
    pub order: OrderKind,
}

string_enum!(
    /// What a keeper is ordered to do. While an order exists, whatever its kind, the keeper gets no permit to start or
    /// promote a master.
    OrderKind {
        /// Run a `CHECKPOINT`, so that a later shutdown has little to write.
        Checkpoint = "checkpoint",
        /// Stop the instance and keep it stopped while the order exists.
        Stop = "stop",
    }
);

/// How far a switchover is, as the leading sentinel publishes it in its info. It stays there after the end, until
/// another switchover begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SwitchoverReport {
    /// The id of the request.
    pub id: String,
    /// The step that it is at, or how it ended.
    pub state: SwitchoverState,
    /// The keeper whose db is to become the master; absent until it is chosen.
    #[serde(skip_serializing_if = "is_zero")]
    pub to: KeeperUid,
    /// What it waits for, or why it was refused or aborted; absent otherwise.
    #[serde(skip_serializing_if = "is_zero")]
    pub reason: String,
}

string_enum!(
    /// The step that a switchover is at, or how it ended.
    SwitchoverState {
        /// Nothing is begun: what the reason names has to change first.
        Waiting = "waiting",
        /// The master's keeper runs a checkpoint, or standbys have not received it yet.
        Checkpoint = "checkpoint",
        /// No master is announced any more; proxies close their connections.
        ClosingProxies = "closingProxies",
        /// The master's keeper stops the instance.
        Stopping = "stopping",
        /// The master is stopped; the elected one has to receive the rest of its WAL.
        Receiving = "receiving",
        /// The new master is elected; it is promoted and announced next.
        Promoting = "promoting",
        /// The new master is announced.
        Done = "done",
        /// Nothing was changed.
        Refused = "refused",
        /// It was begun and given up; the old master stays the master.
        Aborted = "aborted",
    }
);

impl SwitchoverState {
    /// Returns whether the switchover is over.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Aborted)
    }
}

/// Deserializes a value that names something, and so cannot be empty.
fn not_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let value = T::deserialize(deserializer)?;
    if is_zero(&value) {
        return Err(D::Error::custom("is empty"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SentinelInfo, from_slice, to_compact};

    #[test]
    fn a_request_is_written_as_it_was_read() {
        for text in [
            r#"{"id":"a1","to":"k3","requestedAt":"2024-05-06T07:05:12Z"}"#,
            r#"{"id":"a1","requestedAt":"2024-05-06T07:05:12Z"}"#,
        ] {
            let request: SwitchoverRequest = from_slice(text.as_bytes()).unwrap();
            assert_eq!(request.to.is_some(), text.contains("k3"));
            assert_eq!(to_compact(&request), text);
        }
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"id":"a1"}"#,
            r#"{"requestedAt":"2024-05-06T07:05:12Z"}"#,
        ] {
            assert!(from_slice::<SwitchoverRequest>(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// Keepers publish an empty `stopping` and an empty `checkpointed` while there is none.
    #[test]
    fn what_has_an_empty_name_is_refused_with_the_name_of_the_field() {
        let error = |text: &str| match text.contains("order") {
            true => from_slice::<KeeperOrder>(text.as_bytes()).unwrap_err().to_string(),
            false => from_slice::<SwitchoverRequest>(text.as_bytes())
                .unwrap_err()
                .to_string(),
        };
        let without_id = r#"{"id":"","requestedAt":"2024-05-06T07:05:12Z"}"#;
        assert_eq!(error(without_id), "id: is empty");
        let without_switchover = r#"{"switchover":"","db":"d1","order":"stop"}"#;
        assert_eq!(error(without_switchover), "switchover: is empty");
        let without_db = r#"{"switchover":"a1","db":"","order":"stop"}"#;
        assert_eq!(error(without_db), "db: is empty");
    }

    #[test]
    fn half_of_an_order_is_none() {
        let text = r#"{"switchover":"a1","db":"d1","order":"stop"}"#;
        let order: KeeperOrder = from_slice(text.as_bytes()).unwrap();
        assert_eq!((order.db.as_str(), &order.order), ("d1", &OrderKind::Stop));
        assert_eq!(to_compact(&order), text);
        for field in ["switchover", "db", "order"] {
            let other = text.replace(&format!("\"{field}\""), "\"other\"");
            assert!(from_slice::<KeeperOrder>(other.as_bytes()).is_err(), "{field}");
        }
        let unknown: KeeperOrder = from_slice(text.replace("stop", "restart").as_bytes()).unwrap();
        assert_eq!(unknown.order, OrderKind::Other("restart".to_owned()));
    }

    #[test]
    fn a_sentinel_info_has_the_report_of_a_switchover_only_while_there_is_one() {
        assert_eq!(to_compact(&SentinelInfo::default()), r#"{"UID":""}"#);
        let text = r#"{"UID":"s1","switchover":{"id":"a1","state":"aborted","to":"k2","reason":"why"}}"#;
        let info: SentinelInfo = from_slice(text.as_bytes()).unwrap();
        assert!(info.switchover.as_ref().is_some_and(|report| report.state.is_end()));
        assert_eq!(to_compact(&info), text);
    }
}

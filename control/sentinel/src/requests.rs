//! Decodes what operators request of the leader, and the orders of keepers that follow from it. What is done about them is
//! left to `plan`.

use std::collections::{BTreeMap, BTreeSet};

use model::{JsonError, KeeperUid, from_slice};
use plan::ObservedOrder;
use store::{Entry, LeaseId};
use thiserror::Error;

/// The most orders of unknown keepers that one round deletes. etcd limits the operations of a transaction (128 by default),
/// and what is left is deleted in the next rounds.
const UNKNOWN_ORDERS_MAX: usize = 32;

/// Why a request of an operator counts for nothing.
#[derive(Debug, Error)]
pub(crate) enum UnusableRequest {
    /// It cannot be decoded.
    #[error("cannot be decoded")]
    Undecodable(#[source] JsonError),
    /// Nothing would end it.
    #[error("it has no lease, so it would never expire: delete it with etcdctl")]
    WithoutLease,
}

/// Decodes the request of an operator. Returns it with the revision of its put.
pub(crate) fn decode_request<T>(
    entry: &Entry,
    decode: impl Fn(&[u8]) -> Result<T, JsonError>,
) -> Result<(T, i64), UnusableRequest> {
    let request = decode(&entry.value).map_err(UnusableRequest::Undecodable)?;
    match entry.lease {
        Some(_) => Ok((request, entry.mod_revision.0)),
        None => Err(UnusableRequest::WithoutLease),
    }
}

/// Decodes the orders below `prefix`. Those under `own` are this sentinel's.
///
/// Orders of keepers other than `known` have no effect, and are read to be deleted: some of them at a time. A key that is not
/// text cannot be named in a transaction, so it is left alone.
pub(crate) fn decode_orders(
    entries: Vec<Entry>,
    prefix: &str,
    known: &BTreeSet<KeeperUid>,
    own: Option<LeaseId>,
) -> BTreeMap<KeeperUid, ObservedOrder> {
    let is_text = |entry: &Entry| !entry.key.contains(char::REPLACEMENT_CHARACTER);
    let mut unknown = 0;
    let mut orders = BTreeMap::new();
    for entry in entries.into_iter().filter(is_text) {
        let keeper = KeeperUid::from(entry.name(prefix));
        if !known.contains(&keeper) {
            unknown += 1;
            if unknown > UNKNOWN_ORDERS_MAX {
                continue;
            }
        }
        let order = ObservedOrder {
            revision: entry.mod_revision.0,
            order: from_slice(&entry.value).ok(),
            is_own: entry.lease.is_some() && entry.lease == own,
        };
        orders.insert(keeper, order);
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::SwitchoverRequest;
    use store::Revision;

    const ORDER: &str = r#"{"switchover":"a","db":"d","order":"stop"}"#;

    fn entry(key: &str, value: &str, lease: Option<i64>) -> Entry {
        Entry {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            create_revision: Revision(7),
            mod_revision: Revision(7),
            lease: lease.map(LeaseId),
        }
    }

    #[test]
    fn a_request_counts_only_when_it_can_be_decoded_and_expires() {
        let request = r#"{"id":"a","requestedAt":"2024-05-06T07:05:12Z"}"#;
        let decode = |value: &str, lease| decode_request::<SwitchoverRequest>(&entry("k", value, lease), from_slice);
        assert_eq!(decode(request, Some(1)).unwrap().1, 7);
        assert!(matches!(decode(request, None), Err(UnusableRequest::WithoutLease)));
        for garbage in ["", "{}", "[1]", "\u{0}"] {
            assert!(
                matches!(decode(garbage, Some(1)), Err(UnusableRequest::Undecodable(_))),
                "{garbage}"
            );
        }
    }

    #[test]
    fn orders_of_known_keepers_are_always_read_and_others_a_few_at_a_time() {
        let mut entries: Vec<Entry> = (0..500).map(|at| entry(&format!("o/a{at:03}"), "junk", None)).collect();
        entries.push(entry("o/\u{fffd}", ORDER, None));
        entries.push(entry("o/keeper1", ORDER, Some(3)));
        entries.push(entry("o/keeper2", ORDER, Some(4)));
        let known = BTreeSet::from(["keeper1".into(), "keeper2".into()]);
        let orders = decode_orders(entries, "o/", &known, Some(LeaseId(3)));
        assert_eq!(orders.len(), UNKNOWN_ORDERS_MAX + 2);
        assert!(orders["keeper1"].is_own && orders["keeper1"].order.is_some());
        assert!(!orders["keeper2"].is_own);
        assert!(orders["a000"].order.is_none());
        assert!(!orders.keys().any(|uid| uid.as_str().contains('\u{fffd}')));
    }
}

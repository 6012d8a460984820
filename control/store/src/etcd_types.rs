//! Conversions between the client library's types and ours: its types are no part of this crate's public interface.

use etcd_client::{Client, GetOptions, KeyValue, KvClient, ResponseHeader, TxnOp, TxnOpResponse};

use crate::entry::{Entry, KeyRange, LeaseId, Revision};

/// Returns a client for reads and writes that takes responses of any size.
pub(crate) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(usize::MAX)
}

/// Returns a key with its value; invalid UTF-8 in the key is replaced.
pub(crate) fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        mod_revision: Revision(kv.mod_revision()),
        create_revision: Revision(kv.create_revision()),
        lease: (kv.lease() != 0).then(|| LeaseId(kv.lease())),
    }
}

/// Returns the entries of a read in a transaction.
pub(crate) fn entries(answer: &TxnOpResponse) -> Vec<Entry> {
    match answer {
        TxnOpResponse::Get(range) => range.kvs().iter().map(entry).collect(),
        _ => Vec::new(),
    }
}

/// Returns the revision of the store at a response.
pub(crate) fn header_revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(Revision::ABSENT, |header| Revision(header.revision()))
}

/// Returns the read of a range in a transaction.
pub(crate) fn read_op(range: &KeyRange) -> TxnOp {
    match range {
        KeyRange::Key(key) => TxnOp::get(key.as_str(), None),
        KeyRange::Prefix(prefix) => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
    }
}

//! The keys of one cluster: the base path (store S-1 to S-4) and the names below it. Their values are in `model`.

use crate::entry::LeaseId;

/// The default of `--store-prefix` (store S-1).
pub const DEFAULT_PREFIX: &str = "stolon/cluster";

/// Longest cluster name, in bytes: that of a file name, since names stand in keys, labels and logs.
const NAME_BYTES_MAX: usize = 255;
/// Longest prefix, in bytes. Far below what etcd takes in a request; each key and many logs hold it.
const PREFIX_BYTES_MAX: usize = 1024;

/// Every key of one cluster, below its base path. Prefixes to list end with a slash (store S-10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    base: String,
}

/// A cluster name or prefix that cannot be part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// No cluster name at all.
    #[error("cluster name required: set --cluster-name")]
    NoClusterName,
    /// A control character, which cannot be typed or read in a log.
    #[error("invalid cluster name {0:?}: it holds a control character; use letters, digits, '-', '_' and '.'")]
    ControlCharacter(String),
    /// Longer than any name.
    #[error("invalid cluster name {0:?}…: it is longer than {NAME_BYTES_MAX} bytes; choose another name")]
    TooLong(String),
    /// A prefix with a control character.
    #[error("invalid --store-prefix {0:?}: it holds a control character")]
    PrefixControlCharacter(String),
    /// A prefix that makes every key too long.
    #[error("invalid --store-prefix {0:?}…: it is longer than {PREFIX_BYTES_MAX} bytes")]
    PrefixTooLong(String),
    /// The normalised base path would be empty, the prefix itself or outside of it, as with `.` and `..`.
    #[error(
        "invalid cluster name {name:?}: its keys would not be below the store prefix {prefix:?}; choose another name"
    )]
    OutsidePrefix {
        /// The name as given.
        name: String,
        /// The prefix as given.
        prefix: String,
    },
}

impl Keys {
    /// Returns the keys of the cluster of this name under this prefix.
    ///
    /// Refuses a name that is empty, too long, holds control characters, or whose base is empty or not below the prefix,
    /// and a prefix that is too long or holds control characters.
    pub fn new(prefix: &str, cluster_name: &str) -> Result<Self, KeysError> {
        if prefix.len() > PREFIX_BYTES_MAX {
            return Err(KeysError::PrefixTooLong(prefix.chars().take(20).collect()));
        }
        if prefix.chars().any(char::is_control) {
            return Err(KeysError::PrefixControlCharacter(prefix.to_owned()));
        }
        if cluster_name.is_empty() {
            return Err(KeysError::NoClusterName);
        }
        if cluster_name.len() > NAME_BYTES_MAX {
            return Err(KeysError::TooLong(cluster_name.chars().take(20).collect()));
        }
        if cluster_name.chars().any(char::is_control) {
            return Err(KeysError::ControlCharacter(cluster_name.to_owned()));
        }
        let own = clean_path(cluster_name.trim_start_matches('/'));
        if matches!(own.as_str(), "" | "..") || own.starts_with("../") {
            return Err(KeysError::OutsidePrefix {
                name: cluster_name.to_owned(),
                prefix: prefix.to_owned(),
            });
        }
        let base = join_path(prefix, cluster_name);
        Ok(Self { base })
    }

    /// Returns the base path, without a final slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the key of the cluster data.
    pub fn cluster_data(&self) -> String {
        self.under("clusterdata")
    }

    /// Returns the key of the creation record.
    pub fn created(&self) -> String {
        self.under("created")
    }

    /// Returns the prefix of all keeper infos.
    pub fn keeper_infos(&self) -> String {
        self.under("keepers/info/")
    }

    /// Returns the key of a keeper's info.
    pub fn keeper_info(&self, uid: &str) -> String {
        self.under(&format!("keepers/info/{uid}"))
    }

    /// Returns the prefix of all sentinel infos.
    pub fn sentinel_infos(&self) -> String {
        self.under("sentinels/info/")
    }

    /// Returns the key of a sentinel's info.
    pub fn sentinel_info(&self, uid: &str) -> String {
        self.under(&format!("sentinels/info/{uid}"))
    }

    /// Returns the prefix of all proxy infos.
    pub fn proxy_infos(&self) -> String {
        self.under("proxies/info/")
    }

    /// Returns the key of a proxy's info.
    pub fn proxy_info(&self, uid: &str) -> String {
        self.under(&format!("proxies/info/{uid}"))
    }

    /// Returns the prefix of the election (store 6.1), with the final slash.
    pub fn election(&self) -> String {
        self.under("sentinel-leader/")
    }

    /// Returns the candidate key of the session with this lease: its id in lower-case hexadecimal, unpadded (store
    /// 6.1).
    pub fn candidate(&self, lease: LeaseId) -> String {
        self.under(&format!("sentinel-leader/{lease}"))
    }

    /// Returns the prefix of all liveness keys (extensions ).
    pub fn liveness_keys(&self) -> String {
        self.under("alive/")
    }

    /// Returns a keeper's liveness key (extensions ).
    pub fn liveness_key(&self, keeper_uid: &str) -> String {
        self.under(&format!("alive/{keeper_uid}"))
    }

    /// Returns the key of an operator's switchover request (extensions X-2).
    pub fn switchover(&self) -> String {
        self.under("switchover")
    }

    /// Returns the prefix of all keepers' orders (extensions X-2).
    pub fn orders(&self) -> String {
        self.under("orders/")
    }

    /// Returns the key of a keeper's order (extensions X-2).
    pub fn order(&self, keeper_uid: &str) -> String {
        self.under(&format!("orders/{keeper_uid}"))
    }

    /// Returns the key of an operator's failover request (synchronous SY-20).
    pub fn failover_request(&self) -> String {
        self.under("failover")
    }

    fn under(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }
}

/// Joins the non-empty parts with one `/`, and normalises the result (store S-2).
fn join_path(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => clean_path(name),
        (prefix, "") => clean_path(prefix),
        (prefix, name) => clean_path(&format!("{prefix}/{name}")),
    }
}

/// Normalises a path: collapses slashes, removes `.`, resolves `..` lexically, removes the trailing slash; a leading
/// slash is kept (store S-2). The result may be empty.
fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match kept.last() {
                Some(&last) if last != ".." => drop(kept.pop()),
                _ if rooted => {}
                _ => kept.push(".."),
            },
            part => kept.push(part),
        }
    }
    let joined = kept.join("/");
    if rooted { format!("/{joined}") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_in_go_stolon() {
        // store S-3 and corner case 1
        for (prefix, name, base) in [
            ("stolon/cluster", "mycluster", "stolon/cluster/mycluster"),
            ("/stolon/cluster/", "c1", "/stolon/cluster/c1"),
            ("a//b/", "../x", "a/x"),
            ("", "c1", "c1"),
            ("a/./b", "c", "a/b/c"),
            ("..", "c", "../c"),
            ("/..", "c", "/c"),
        ] {
            assert_eq!(join_path(prefix, name), base, "{prefix} + {name}");
        }
    }

    #[test]
    fn a_leading_slash_makes_another_cluster() {
        assert_ne!(
            Keys::new("stolon/cluster", "c").unwrap(),
            Keys::new("/stolon/cluster", "c").unwrap()
        );
    }

    #[test]
    fn names_that_leave_the_prefix_are_refused() {
        for name in [".", "..", "../x", "x/..", "/", "a/../..", "../cluster", "/../x"] {
            assert!(
                matches!(Keys::new("stolon/cluster", name), Err(KeysError::OutsidePrefix { .. })),
                "{name:?} accepted"
            );
        }
        for name in ["..", ".", "../x"] {
            assert!(Keys::new("", name).is_err(), "{name:?} accepted without a prefix");
        }
        assert_eq!(Keys::new("p", "").unwrap_err(), KeysError::NoClusterName);
        assert!(Keys::new("p", &"x".repeat(255)).is_ok());
        let why = Keys::new("p", &"x".repeat(300)).unwrap_err().to_string();
        assert!(why.contains("longer than 255 bytes") && why.len() < 120, "{why}");
        assert!(matches!(Keys::new("p", "a\nb"), Err(KeysError::ControlCharacter(_))));
        assert!(Keys::new(&"x".repeat(1000), "a").is_ok());
        let why = Keys::new(&"x".repeat(5000), "a").unwrap_err().to_string();
        assert!(why.contains("--store-prefix") && why.len() < 120, "{why}");
        let why = Keys::new("a\u{1b}[31m", "a").unwrap_err().to_string();
        assert!(why.contains("--store-prefix") && !why.contains('\u{1b}'), "{why}");
        assert_eq!(Keys::new("p", "teams/blue").unwrap().base(), "p/teams/blue");
        assert_eq!(Keys::new("/", "c").unwrap().base(), "/c");
    }

    #[test]
    fn keys_are_those_of_go_stolon() {
        let keys = Keys::new(DEFAULT_PREFIX, "mycluster").unwrap();
        assert_eq!(keys.cluster_data(), "stolon/cluster/mycluster/clusterdata");
        assert_eq!(
            keys.keeper_info("keeper01"),
            "stolon/cluster/mycluster/keepers/info/keeper01"
        );
        assert_eq!(
            keys.candidate(LeaseId(0x2040_a205_b8a7_afcd)),
            "stolon/cluster/mycluster/sentinel-leader/2040a205b8a7afcd"
        );
        assert_eq!(
            keys.candidate(LeaseId(0xab)),
            "stolon/cluster/mycluster/sentinel-leader/ab"
        );
    }
}

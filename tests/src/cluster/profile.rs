//! The intervals of test clusters.

use std::time::Duration;

use serde_json::{Value, json};

/// The intervals in a cluster's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The defaults: failInterval 20 s.
    Default,
    /// failInterval 4 s.
    Fast,
    /// failInterval 5 s, sleepInterval 1 s; default proxy intervals.
    Short,
    /// As in Go stolon's integration suite (sentinel 16): failInterval 5 s.
    Suite,
}

impl Profile {
    /// Returns the spec of a new cluster with these intervals.
    pub fn spec(self) -> Value {
        let mut spec = match self {
            Self::Default => json!({}),
            Self::Fast => json!({
                "sleepInterval": "1s", "requestTimeout": "2s", "failInterval": "4s",
                "proxyCheckInterval": "1s", "proxyTimeout": "3s",
            }),
            Self::Short => json!({ "sleepInterval": "1s", "failInterval": "5s" }),
            Self::Suite => json!({
                "sleepInterval": "2s", "failInterval": "5s", "convergenceTimeout": "30s", "maxStandbyLag": 50 * 1024,
            }),
        };
        spec["initMode"] = "new".into();
        // A killed server then leaves its segments in its PGDATA, not in /dev/shm.
        spec["pgParameters"] = json!({ "dynamic_shared_memory_type": "mmap" });
        spec
    }

    /// failInterval: a keeper counts as failed after so long without a report.
    pub fn fail_interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Default => 20,
            Self::Fast => 4,
            Self::Short | Self::Suite => 5,
        })
    }

    /// proxyTimeout: how long after a check-in a proxy may forward.
    pub fn proxy_timeout(self) -> Duration {
        Duration::from_secs(if self == Self::Fast { 3 } else { 15 })
    }
}

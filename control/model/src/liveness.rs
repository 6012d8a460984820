//! TTL and renewal interval of a keeper's liveness key, for keepers and sentinels (extensions ). The key
//! itself is left to the keeper, what follows from it to `plan`.

use std::time::Duration;

/// TTL of a liveness key. If etcd grants a longer one, a keeper that died counts as dead later, never earlier.
pub const LIVENESS_TTL: Duration = Duration::from_secs(3);

/// Interval between renewals of a liveness key.
pub const LIVENESS_PERIOD: Duration = Duration::from_secs(1);

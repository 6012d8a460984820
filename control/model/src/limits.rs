//! Limits of the spec's durations. A value outside of them is refused in a new spec. In a stored spec, which Go stolon
//! may have accepted, the nearest allowed value is used instead.

use std::fmt;

use crate::spec::DEFAULT_FAIL_INTERVAL;
use crate::{ClusterSpec, GoDuration, InvalidSpec};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3_600 * SECOND;
/// Practically unlimited.
const YEAR: i64 = 8_760 * HOUR;

/// The limits of one duration of the spec.
struct Limit {
    field: &'static str,
    field_mut: fn(&mut ClusterSpec) -> &mut Option<GoDuration>,
    /// Nanoseconds.
    min: i64,
    /// Why smaller values are refused, or why they count as `min`.
    too_short: &'static str,
    /// What happens to a new value below `min`.
    below_min: BelowMin,
    /// Nanoseconds.
    max: i64,
    /// Why larger values are refused.
    too_long: &'static str,
    /// What zero means.
    zero: ZeroMeaning,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BelowMin {
    Refused,
    /// It is stored and counts as the minimum, with a warning: Go stolon accepts it, and does the same.
    Accepted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ZeroMeaning {
    Unlimited,
    ZeroDuration,
}

const NO_TIMEOUT: &str = "a step that hangs would never time out";

const LIMITS: [Limit; 9] = [
    Limit {
        field: "sleepInterval",
        field_mut: |spec| &mut spec.sleep_interval,
        min: SECOND / 10,
        too_short: "keepers and sentinels would read the store without a delay",
        below_min: BelowMin::Accepted,
        max: HOUR,
        too_long: "keepers and sentinels would react too late",
        zero: ZeroMeaning::ZeroDuration,
    },
    Limit {
        field: "requestTimeout",
        field_mut: |spec| &mut spec.request_timeout,
        min: SECOND / 2,
        too_short: "PostgreSQL would never answer in time",
        below_min: BelowMin::Refused,
        max: HOUR,
        too_long: "a PostgreSQL that hangs would not be noticed",
        zero: ZeroMeaning::ZeroDuration,
    },
    Limit {
        field: "convergenceTimeout",
        field_mut: |spec| &mut spec.convergence_timeout,
        min: 2 * SECOND,
        too_short: "no standby would be promoted in time, and masters would be elected without end",
        below_min: BelowMin::Refused,
        max: YEAR,
        too_long: NO_TIMEOUT,
        zero: ZeroMeaning::Unlimited,
    },
    Limit {
        field: "initTimeout",
        field_mut: |spec| &mut spec.init_timeout,
        min: 5 * SECOND,
        too_short: "no database would be initialised in time, and each would be given up for another",
        below_min: BelowMin::Refused,
        max: YEAR,
        too_long: NO_TIMEOUT,
        zero: ZeroMeaning::Unlimited,
    },
    Limit {
        field: "syncTimeout",
        field_mut: |spec| &mut spec.sync_timeout,
        min: 5 * SECOND,
        too_short: "no standby would be copied in time, and each would be given up for another",
        below_min: BelowMin::Refused,
        max: YEAR,
        too_long: NO_TIMEOUT,
        zero: ZeroMeaning::Unlimited,
    },
    Limit {
        field: "dbWaitReadyTimeout",
        field_mut: |spec| &mut spec.db_wait_ready_timeout,
        min: SECOND,
        too_short: "no PostgreSQL would take connections in time",
        below_min: BelowMin::Refused,
        max: YEAR,
        too_long: NO_TIMEOUT,
        zero: ZeroMeaning::Unlimited,
    },
    Limit {
        field: "failInterval",
        field_mut: |spec| &mut spec.fail_interval,
        min: 2 * SECOND,
        too_short: "a keeper has only half of it to start a master, so that no master would ever start",
        below_min: BelowMin::Refused,
        max: YEAR,
        too_long: "a failed master would never be replaced",
        zero: ZeroMeaning::ZeroDuration,
    },
    Limit {
        field: "proxyCheckInterval",
        field_mut: |spec| &mut spec.proxy_check_interval,
        min: SECOND / 20,
        too_short: "proxies would read the store without a delay",
        below_min: BelowMin::Accepted,
        max: HOUR / 2,
        too_long: "proxies would renew their leases too rarely",
        zero: ZeroMeaning::ZeroDuration,
    },
    Limit {
        field: "proxyTimeout",
        field_mut: |spec| &mut spec.proxy_timeout,
        min: SECOND,
        too_short: "no proxy would renew its lease in time, and all would stay closed",
        below_min: BelowMin::Refused,
        max: HOUR,
        too_long: "after a proxy has died no new master would be published for that long",
        zero: ZeroMeaning::ZeroDuration,
    },
];

/// A stored duration that is out of range, with the value used instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clamped {
    /// The field of the spec.
    pub field: &'static str,
    /// As stored.
    pub stored: GoDuration,
    /// As used.
    pub used: GoDuration,
    why: &'static str,
}

impl fmt::Display for Clamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            stored,
            used,
            why,
        } = self;
        write!(f, "{field} {stored} is out of range, using {used}: {why}")
    }
}

impl Limit {
    /// Returns the nearest allowed value and why this one is refused; none when it is allowed.
    fn nearest(&self, value: GoDuration) -> Option<(GoDuration, &'static str)> {
        let nanos = value.as_nanos();
        if nanos == 0 && self.zero == ZeroMeaning::Unlimited {
            return None;
        }
        if nanos < self.min {
            return Some((GoDuration::from_nanos(self.min), self.too_short));
        }
        (nanos > self.max).then(|| (GoDuration::from_nanos(self.max), self.too_long))
    }

    fn out_of_range_message(&self, value: GoDuration, why: &str) -> String {
        let (least, most) = (GoDuration::from_nanos(self.min), GoDuration::from_nanos(self.max));
        let unlimited = match self.zero {
            ZeroMeaning::Unlimited => ", or 0 for no limit",
            ZeroMeaning::ZeroDuration => "",
        };
        format!(
            "{} must not be {value}: {why}; set it to a value from {least} to {most}{unlimited}",
            self.field
        )
    }
}

impl ClusterSpec {
    /// Refuses durations out of range, except those that `before` already holds, and those that are only too short and
    /// count as the minimum.
    ///
    /// # Errors
    /// The first such duration, with the reason and the allowed range.
    pub fn check_limits(&self, before: Option<&Self>) -> Result<(), InvalidSpec> {
        let (mut spec, mut before) = (self.clone(), before.cloned());
        for limit in &LIMITS {
            let Some(value) = *(limit.field_mut)(&mut spec) else {
                continue;
            };
            let kept = before
                .as_mut()
                .is_some_and(|before| *(limit.field_mut)(before) == Some(value));
            let accepted = kept || limit.below_min == BelowMin::Accepted && value.as_nanos() < limit.min;
            if let Some((_, why)) = limit.nearest(value).filter(|_| !accepted) {
                return Err(InvalidSpec::new(limit.out_of_range_message(value, why)));
            }
        }
        Ok(())
    }

    /// Returns the durations that are out of range, with the values used instead.
    pub fn clamped(&self) -> Vec<Clamped> {
        self.clone().clamp()
    }

    /// Replaces durations out of range by the nearest allowed values.
    pub(super) fn clamp(&mut self) -> Vec<Clamped> {
        let mut found = Vec::new();
        for limit in &LIMITS {
            let value = (limit.field_mut)(self);
            let Some(stored) = *value else { continue };
            if let Some((used, why)) = limit.nearest(stored) {
                *value = Some(used);
                found.push(Clamped {
                    field: limit.field,
                    stored,
                    used,
                    why,
                });
            }
        }
        found.extend(self.clamp_sleep_interval());
        found
    }

    /// Replaces a sleepInterval above failInterval by half of that: keepers would report too late that they are there
    /// again, or that a standby has caught up.
    fn clamp_sleep_interval(&mut self) -> Option<Clamped> {
        let stored = self.sleep_interval?;
        let fail_interval = self.fail_interval.unwrap_or(DEFAULT_FAIL_INTERVAL);
        if stored <= fail_interval {
            return None;
        }
        let used = GoDuration::from_nanos(fail_interval.as_nanos() / 2);
        self.sleep_interval = Some(used);
        Some(Clamped {
            field: "sleepInterval",
            stored,
            used,
            why: "it is longer than failInterval, and keepers and sentinels would react too late",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Spec, from_slice, to_compact};

    fn spec(fields: &str) -> ClusterSpec {
        let comma = if fields.is_empty() { "" } else { "," };
        from_slice(format!(r#"{{"initMode":"new"{comma}{fields}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn what_no_cluster_works_with_is_refused_with_the_reason_and_the_remedy() {
        for (field, refused, accepted) in [
            ("sleepInterval", &["2h", "2562047h"][..], &["0s", "1ms", "1h"][..]),
            ("requestTimeout", &["0s", "1ms", "2h"], &["500ms", "30s"]),
            ("convergenceTimeout", &["1ns", "1s", "9000h"], &["0s", "2s", "30s"]),
            ("initTimeout", &["1s", "9000h"], &["0s", "5s"]),
            ("syncTimeout", &["1s", "9000h"], &["0s", "5s"]),
            ("dbWaitReadyTimeout", &["1ms", "9000h"], &["0s", "1s"]),
            ("failInterval", &["0s", "1999ms", "9000h"], &["2s", "8760h"]),
            ("proxyCheckInterval", &["1h"], &["0s", "1s"]),
            ("proxyTimeout", &["999ms", "2h"], &["1s", "1h"]),
        ] {
            for value in refused {
                let spec = spec(&format!(r#""{field}":"{value}""#));
                let why = spec.check_limits(None).unwrap_err().to_string();
                let named = why.starts_with(&format!("{field} must not be "));
                assert!(named && why.contains("; set it to a value from "), "{why}");
                assert!(spec.check_limits(Some(&spec)).is_ok(), "a later update need not fix it");
            }
            for value in accepted {
                assert!(
                    spec(&format!(r#""{field}":"{value}""#)).check_limits(None).is_ok(),
                    "{field} {value}"
                );
            }
        }
        assert!(spec("").check_limits(None).is_ok());
    }

    #[test]
    fn a_sleep_interval_above_the_fail_interval_counts_as_half_of_that() {
        for (fields, used, message) in [
            (
                r#""sleepInterval":"1h","failInterval":"8s""#,
                4_000,
                "sleepInterval 1h0m0s is out of range, using 4s: it is longer",
            ),
            (
                r#""sleepInterval":"21s""#,
                10_000,
                "sleepInterval 21s is out of range, using 10s: it is longer",
            ),
            (r#""failInterval":"3s""#, 1_500, ""), // the default is longer
            (r#""sleepInterval":"8s","failInterval":"8s""#, 8_000, ""),
        ] {
            let spec = spec(fields);
            assert!(spec.check_limits(None).is_ok(), "{fields}");
            assert_eq!(
                spec.resolve().unwrap().sleep_interval,
                Duration::from_millis(used),
                "{fields}"
            );
            let messages: Vec<String> = spec.clamped().iter().map(Clamped::to_string).collect();
            assert!(messages.join("").starts_with(message), "{messages:?}");
            assert_eq!(messages.is_empty(), message.is_empty(), "{messages:?}");
        }
    }

    #[test]
    fn stored_ones_count_as_the_nearest_that_work_and_stay_stored() {
        let stored =
            spec(r#""failInterval":"0s","requestTimeout":"1ms","proxyTimeout":"300ms","proxyCheckInterval":"100ms""#);
        let text = to_compact(&stored);
        let used = stored.resolve().unwrap();
        assert_eq!(used.fail_interval, Duration::from_secs(2));
        assert_eq!(used.request_timeout, Duration::from_millis(500));
        assert_eq!(used.proxy_timeout, Duration::from_secs(1));
        assert_eq!(used.proxy_check_interval, Duration::from_millis(100));
        assert_eq!(used.sleep_interval, Duration::from_secs(1), "half of failInterval");
        assert_eq!(to_compact(&stored), text);
        let messages: Vec<String> = stored.clamped().iter().map(Clamped::to_string).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(
            messages[1].starts_with("failInterval 0s is out of range, using 2s: a keeper "),
            "{messages:?}"
        );
        let longest = spec(r#""proxyTimeout":"2562047h","proxyCheckInterval":"2562046h""#)
            .resolve()
            .unwrap();
        assert!(longest.proxy_check_interval < longest.proxy_timeout);
    }

    #[test]
    fn intervals_that_are_too_short_are_accepted_and_count_as_the_minimum_with_a_warning() {
        // data-model 12.14
        let spec = spec(r#""sleepInterval":"0s","proxyCheckInterval":"1ms""#);
        spec.check_limits(None).unwrap();
        let messages: Vec<String> = spec.clamped().iter().map(Clamped::to_string).collect();
        assert_eq!(
            messages,
            [
                "sleepInterval 0s is out of range, using 100ms: keepers and sentinels would read the store without a delay",
                "proxyCheckInterval 1ms is out of range, using 50ms: proxies would read the store without a delay",
            ]
        );
        let used = spec.resolve().unwrap();
        assert_eq!(used.sleep_interval, Duration::from_millis(100));
        assert_eq!(used.proxy_check_interval, Duration::from_millis(50));
    }

    #[test]
    fn the_defaults_work() {
        assert_eq!(spec("").clamped(), []);
        let mut defaults = spec("").with_defaults();
        assert_eq!(defaults.clamp(), []);
        assert_eq!(defaults.resolve().unwrap(), Spec::default());
    }
}

//! Durations with which no cluster works: refused where an operator gives them, and counted as the nearest that works
//! where they are stored, since programs of the reference take them.

use std::fmt;

use crate::model::{ClusterSpec, GoDuration, InvalidSpec};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3_600 * SECOND;
/// More than anybody waits for.
const YEAR: i64 = 8_760 * HOUR;

/// What one duration of a spec may be.
struct Limit {
    field: &'static str,
    of: fn(&mut ClusterSpec) -> &mut Option<GoDuration>,
    /// Nanoseconds.
    least: i64,
    /// Why no cluster works with less.
    too_short: &'static str,
    /// Nanoseconds.
    most: i64,
    /// Why no cluster works with more.
    too_long: &'static str,
    /// Zero means that there is no limit.
    zero: Zero,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Unlimited,
    Plain,
}

const NO_TIMEOUT: &str = "a step that hangs would never time out";

const LIMITS: [Limit; 9] = [
    Limit {
        field: "sleepInterval",
        of: |spec| &mut spec.sleep_interval,
        least: 0,
        too_short: "",
        most: HOUR,
        too_long: "keepers and sentinels would react too late",
        zero: Zero::Plain,
    },
    Limit {
        field: "requestTimeout",
        of: |spec| &mut spec.request_timeout,
        least: SECOND / 2,
        too_short: "PostgreSQL would never answer in time",
        most: HOUR,
        too_long: "a PostgreSQL that hangs would not be noticed",
        zero: Zero::Plain,
    },
    Limit {
        field: "convergenceTimeout",
        of: |spec| &mut spec.convergence_timeout,
        least: 2 * SECOND,
        too_short: "no standby would be promoted in time, and masters would be elected without end",
        most: YEAR,
        too_long: NO_TIMEOUT,
        zero: Zero::Unlimited,
    },
    Limit {
        field: "initTimeout",
        of: |spec| &mut spec.init_timeout,
        least: 5 * SECOND,
        too_short: "no database would be initialised in time, and each would be given up for another",
        most: YEAR,
        too_long: NO_TIMEOUT,
        zero: Zero::Unlimited,
    },
    Limit {
        field: "syncTimeout",
        of: |spec| &mut spec.sync_timeout,
        least: 5 * SECOND,
        too_short: "no standby would be copied in time, and each would be given up for another",
        most: YEAR,
        too_long: NO_TIMEOUT,
        zero: Zero::Unlimited,
    },
    Limit {
        field: "dbWaitReadyTimeout",
        of: |spec| &mut spec.db_wait_ready_timeout,
        least: SECOND,
        too_short: "no PostgreSQL would take connections in time",
        most: YEAR,
        too_long: NO_TIMEOUT,
        zero: Zero::Unlimited,
    },
    Limit {
        field: "failInterval",
        of: |spec| &mut spec.fail_interval,
        least: 2 * SECOND,
        too_short: "a keeper has only half of it to start a master, so that no master would ever start",
        most: YEAR,
        too_long: "a failed master would never be replaced",
        zero: Zero::Plain,
    },
    Limit {
        field: "proxyCheckInterval",
        of: |spec| &mut spec.proxy_check_interval,
        least: 0,
        too_short: "",
        most: HOUR / 2,
        too_long: "proxies would renew their leases too rarely",
        zero: Zero::Plain,
    },
    Limit {
        field: "proxyTimeout",
        of: |spec| &mut spec.proxy_timeout,
        least: SECOND,
        too_short: "no proxy would renew its lease in time, and all would stay closed",
        most: HOUR,
        too_long: "after a proxy has died no new master would be published for that long",
        zero: Zero::Plain,
    },
];

/// A stored duration that counts as another one.
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
    /// The nearest value that works, and why this one does not; nothing when it does.
    fn nearest(&self, value: GoDuration) -> Option<(GoDuration, &'static str)> {
        let nanos = value.as_nanos();
        if nanos == 0 && self.zero == Zero::Unlimited {
            return None;
        }
        if nanos < self.least {
            return Some((GoDuration::from_nanos(self.least), self.too_short));
        }
        (nanos > self.most).then(|| (GoDuration::from_nanos(self.most), self.too_long))
    }

    fn refusal(&self, value: GoDuration, why: &str) -> String {
        let (least, most) = (GoDuration::from_nanos(self.least), GoDuration::from_nanos(self.most));
        let unlimited = match self.zero {
            Zero::Unlimited => ", or 0 for no limit",
            Zero::Plain => "",
        };
        format!(
            "{} must not be {value}: {why}; set it to a value from {least} to {most}{unlimited}",
            self.field
        )
    }
}

impl ClusterSpec {
    /// Refuses durations with which no cluster works, but for those that `before` has already.
    ///
    /// # Errors
    /// The first such duration, with the reason and what it may be.
    pub fn check_limits(&self, before: Option<&Self>) -> Result<(), InvalidSpec> {
        let (mut spec, mut before) = (self.clone(), before.cloned());
        for limit in &LIMITS {
            let Some(value) = *(limit.of)(&mut spec) else { continue };
            let kept = before.as_mut().is_some_and(|before| *(limit.of)(before) == Some(value));
            if let Some((_, why)) = limit.nearest(value).filter(|_| !kept) {
                return Err(InvalidSpec::new(limit.refusal(value, why)));
            }
        }
        Ok(())
    }

    /// The durations with which no cluster works and which count as others.
    pub fn clamped(&self) -> Vec<Clamped> {
        self.clone().clamp()
    }

    /// Replaces durations with which no cluster works by the nearest that work.
    pub(super) fn clamp(&mut self) -> Vec<Clamped> {
        let mut found = Vec::new();
        for limit in &LIMITS {
            let value = (limit.of)(self);
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
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Spec, from_slice, to_compact};

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
    fn stored_ones_count_as_the_nearest_that_work_and_stay_stored() {
        let stored =
            spec(r#""failInterval":"0s","requestTimeout":"1ms","proxyTimeout":"300ms","proxyCheckInterval":"100ms""#);
        let text = to_compact(&stored);
        let used = stored.resolve().unwrap();
        assert_eq!(used.fail_interval, Duration::from_secs(2));
        assert_eq!(used.request_timeout, Duration::from_millis(500));
        assert_eq!(used.proxy_timeout, Duration::from_secs(1));
        assert_eq!(used.proxy_check_interval, Duration::from_millis(100));
        assert_eq!(to_compact(&stored), text);
        let told: Vec<String> = stored.clamped().iter().map(Clamped::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[1].starts_with("failInterval 0s is out of range, using 2s: a keeper "),
            "{told:?}"
        );
        let longest = spec(r#""proxyTimeout":"2562047h","proxyCheckInterval":"2562046h""#)
            .resolve()
            .unwrap();
        assert!(longest.proxy_check_interval < longest.proxy_timeout);
    }

    #[test]
    fn the_defaults_work() {
        assert_eq!(spec("").clamped(), []);
        let mut defaults = spec("").with_defaults();
        assert_eq!(defaults.clamp(), []);
        assert_eq!(defaults.resolve().unwrap(), Spec::default());
    }
}

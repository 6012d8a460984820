//! Durations of any size that a spec or info can hold: no sum overflows, and every plan keeps the invariants.

use std::time::Duration;

use proptest::prelude::*;

use super::cluster::{HOUR, base, initializing};
use base::clock::Boottime;
use model::GoDuration;

/// Zero, usual values, and the largest that the type holds ("2562047h47m16.854775807s").
fn any_duration() -> impl Strategy<Value = GoDuration> {
    let edges = [
        0,
        1,
        1_000_000,
        1_000_000_000,
        i64::MAX / 2,
        i64::MAX / 2 + 1,
        i64::MAX - 1,
        i64::MAX,
    ];
    prop_oneof![
        4 => proptest::sample::select(edges.to_vec()),
        1 => 0..=i64::MAX,
    ]
    .prop_map(GoDuration::from_nanos)
}

/// Any point on the clock, up to its end.
fn any_time() -> impl Strategy<Value = Boottime> {
    prop_oneof![
        Just(Boottime::from_nanos(0)),
        Just(Boottime::from_nanos(u64::MAX)),
        any::<u64>().prop_map(Boottime::from_nanos),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_duration_of_a_spec_is_too_long_for_a_plan(
        durations in proptest::collection::vec(any_duration(), 10),
        proxy_timeouts in proptest::collection::vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()], 2),
        now in any_time(),
        is_new in any::<bool>(),
        failed in any::<bool>(),
    ) {
        let mut setup = if is_new { initializing() } else { base(3) };
        let spec = setup.spec();
        let fields = [
            &mut spec.sleep_interval,
            &mut spec.request_timeout,
            &mut spec.convergence_timeout,
            &mut spec.init_timeout,
            &mut spec.sync_timeout,
            &mut spec.db_wait_ready_timeout,
            &mut spec.fail_interval,
            &mut spec.dead_keeper_removal_interval,
            &mut spec.proxy_check_interval,
            &mut spec.proxy_timeout,
        ];
        for (field, value) in fields.into_iter().zip(durations) {
            *field = Some(value);
        }
        if spec.validate().is_err() {
            return Ok(()); // refused, which is fine, too
        }
        if is_new {
            setup.keeper("keeper1");
        } else {
            setup.at("db1", 1, 1 << 30).at("db2", 1, 1 << 30).at("db3", 1, 1 << 29);
            for (number, timeout) in proxy_timeouts.into_iter().enumerate() {
                setup.proxy_seen(&format!("p{number}"), 1).proxy_timeout = timeout;
            }
            if failed {
                setup.unhealthy("db1");
            }
        }
        setup.now = now;
        for step in [Duration::from_secs(1), HOUR, HOUR * 24 * 365 * 300, Duration::MAX] {
            setup.round();
            setup.now = setup.now + step;
        }
    }
}

//! Garbage under the real key while clients are connected (proxy P-3). What any garbage decodes to is tried in thousands
//! of cases beside `route`.

use std::time::Duration;

use crate::rig::{CHECK_INTERVAL, Master, Rig, TIMEOUT, block_on};

// Valid, and of no use: within a third of a nanosecond (P-3) no store answers, and 292 years are more than a lease lasts.
#[test]
fn intervals_of_a_nanosecond_and_of_centuries_are_survived_and_can_be_mended() {
    const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);
    const NANOSECOND: Duration = Duration::from_nanos(1);
    block_on(async {
        let mut rig = Rig::start().await;
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        for (check_interval, timeout) in [(Duration::ZERO, NANOSECOND), (LONGEST - NANOSECOND, LONGEST)] {
            rig.timing(CHECK_INTERVAL, TIMEOUT);
            rig.publish(Some(&a), &[&proxy]).await;
            let mut client = proxy.client_of(b'A').await;
            rig.timing(check_interval, timeout);
            let generation = rig.publish(Some(&a), &[&proxy]).await;
            rig.acknowledged(&proxy, generation).await;
            if timeout == LONGEST {
                assert_eq!(client.ask().await.unwrap(), Some(b'A'));
            } else {
                assert_eq!(client.ended().await, b"");
            }
        }
        rig.timing(CHECK_INTERVAL, TIMEOUT);
        rig.publish(Some(&a), &[&proxy]).await;
        proxy.client_of(b'A').await;
        assert!(!proxy.process.log().contains("panicked"));
    });
}

//! Garbage in the store while clients are connected (proxy P-3). Thousands of other cases are tested beside `route`.

use std::time::Duration;

use model::to_compact;
use stolon_tests::deadlines::SHORT_TIMEOUT;

use crate::background_clients::BackgroundClients;
use crate::harness::{CHECK_INTERVAL, Master, ProxyHarness, run_test};

const UNUSABLE: &str = "stolon_proxy_checkins_total{result=\"unusable_data\"}";

/// Returns values that cannot be decoded, each made from valid cluster data.
fn broken(good: &str) -> Vec<Vec<u8>> {
    let nested = "[".repeat(100_000);
    vec![
        Vec::new(),
        b"\0".to_vec(),
        b"\xff\xfe{".to_vec(),
        b"[]".to_vec(),
        b"7".to_vec(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        [good, "}"].concat().into_bytes(),
        [good, good].concat().into_bytes(),
        nested.clone().into_bytes(),
        good.replacen(r#""dbs":"#, &format!(r#""x":{nested},"dbs":"#), 1)
            .into_bytes(),
        good.replacen(r#""formatVersion":1"#, r#""formatVersion":"1""#, 1)
            .into_bytes(),
        good.replacen(r#""formatVersion":1"#, r#""formatVersion":1e999"#, 1)
            .into_bytes(),
        good.replacen(r#""proxy":{"#, r#""proxy":"db","x":{"#, 1).into_bytes(),
        good.replacen(r#""dbs":{"#, r#""dbs":[],"x":{"#, 1).into_bytes(),
    ]
}

#[test]
fn undecodable_data_neither_close_nor_move_a_route_whose_lease_runs() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        harness.set_timing(CHECK_INTERVAL / 2, Duration::from_secs(60));
        let b = Master::start(b'B').await;
        let (_master, proxy) = harness.forwarding().await;
        let mut background = BackgroundClients::start(&proxy, 2).await;
        let good = to_compact(&harness.sentinel.data);
        // The garbage names the other master, so that a proxy that decoded it would connect there.
        let mut other = harness.sentinel.data.clone();
        other
            .dbs_mut()
            .values_mut()
            .for_each(|db| db.status.port = b.port.to_string());
        let garbage = broken(&to_compact(&other));
        for bytes in garbage {
            harness.write_raw(&bytes).await;
            proxy.wait_for_growth(UNUSABLE, 2.0).await;
            background.assert_served(1).await;
            harness.write_raw(good.as_bytes()).await;
            background.assert_served(1).await;
        }
        assert_eq!((b.connections(), b.questions()), (0, 0));
        assert_eq!(proxy.metric("stolon_proxy_connections_open").await, Some(2.0));
        assert!(!proxy.process.log().contains("panicked"));
    });
}

// Valid but useless: a stored nanosecond counts as a second, and 292 years as an hour (model::limits). On a
// busy machine a lease of a second may end, so the client's answer is required only for the longer one.
#[test]
fn intervals_of_a_nanosecond_and_of_centuries_can_be_corrected() {
    const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);
    const NANOSECOND: Duration = Duration::from_nanos(1);
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = harness.proxy().await;
        for (check_interval, timeout) in [(Duration::ZERO, NANOSECOND), (LONGEST - NANOSECOND, LONGEST)] {
            harness.set_timing(CHECK_INTERVAL, SHORT_TIMEOUT);
            harness.publish(Some(&a), &[&proxy]).await;
            let mut client = proxy.wait_connected_to(b'A').await;
            harness.set_timing(check_interval, timeout);
            let generation = harness.publish(Some(&a), &[&proxy]).await;
            harness.acknowledged(&proxy, generation).await;
            if timeout == LONGEST {
                assert_eq!(client.ask().await.unwrap(), Some(b'A'));
            }
        }
        harness.set_timing(CHECK_INTERVAL, SHORT_TIMEOUT);
        harness.publish(Some(&a), &[&proxy]).await;
        proxy.wait_connected_to(b'A').await;
        assert!(!proxy.process.log().contains("panicked"));
    });
}

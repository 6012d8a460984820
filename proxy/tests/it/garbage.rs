//! Garbage under the real key while clients are connected (proxy P-3). What any garbage decodes to is tried in thousands
//! of cases beside `route`.

use std::time::Duration;

use control::model::to_compact;

use crate::regulars::Regulars;
use crate::rig::{CHECK_INTERVAL, Master, PATIENCE, Rig, block_on};

const UNUSABLE: &str = "stolon_proxy_checkins_total{result=\"unusable_data\"}";

/// What cannot be decoded, each made of good cluster data.
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
fn what_cannot_be_decoded_neither_closes_nor_moves_a_route_whose_lease_runs() {
    block_on(async {
        let mut rig = Rig::start().await;
        rig.timing(CHECK_INTERVAL / 2, Duration::from_secs(60));
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = rig.proxy().await;
        rig.publish(Some(&a), &[&proxy]).await;
        let mut regulars = Regulars::of(&proxy, 2).await;
        let good = to_compact(&rig.sentinel.data);
        // garbage names the other master, so that whoever made sense of it would go there
        let mut other = rig.sentinel.data.clone();
        other
            .dbs_mut()
            .values_mut()
            .for_each(|db| db.status.port = b.port.to_string());
        let garbage = broken(&to_compact(&other));
        for bytes in garbage {
            let before = proxy.metric(UNUSABLE).await.unwrap();
            rig.write_raw(&bytes).await;
            proxy.metric_is(UNUSABLE, before + 2.0).await;
            regulars.go_on(1).await;
            rig.write_raw(good.as_bytes()).await;
            regulars.go_on(1).await;
        }
        assert_eq!((b.open(), b.asked()), (0, 0));
        assert_eq!(proxy.metric("stolon_proxy_connections_open").await, Some(2.0));
        assert!(!proxy.process.log().contains("panicked"));
    });
}

// Valid, and of no use: a stored nanosecond counts as a second, and 292 years as an hour (control::model::limits). On a busy
// machine even a second may end a lease, so only the longer one is asked for its client.
#[test]
fn intervals_of_a_nanosecond_and_of_centuries_are_survived_and_can_be_mended() {
    const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);
    const NANOSECOND: Duration = Duration::from_nanos(1);
    block_on(async {
        let mut rig = Rig::start().await;
        let a = Master::start(b'A').await;
        let proxy = rig.proxy().await;
        for (check_interval, timeout) in [(Duration::ZERO, NANOSECOND), (LONGEST - NANOSECOND, LONGEST)] {
            rig.timing(CHECK_INTERVAL, PATIENCE);
            rig.publish(Some(&a), &[&proxy]).await;
            let mut client = proxy.client_of(b'A').await;
            rig.timing(check_interval, timeout);
            let generation = rig.publish(Some(&a), &[&proxy]).await;
            rig.acknowledged(&proxy, generation).await;
            if timeout == LONGEST {
                assert_eq!(client.ask().await.unwrap(), Some(b'A'));
            }
        }
        rig.timing(CHECK_INTERVAL, PATIENCE);
        rig.publish(Some(&a), &[&proxy]).await;
        proxy.client_of(b'A').await;
        assert!(!proxy.process.log().contains("panicked"));
    });
}

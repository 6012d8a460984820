//! `stolonctl register` beside a real cluster: what a fake Consul agent has follows a failover.

use serde_json::Value;
use stolon_tests::cluster::{CLUSTER_NAME, Cluster, Profile, check};
use stolon_tests::consul::FakeConsul;
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::wait::eventually;

/// Waits until exactly these instances are registered: uid of the db, tag, port.
async fn wait_registered(agent: &FakeConsul, expected: &[(String, &str, u16)]) {
    let mut expected = expected.to_vec();
    expected.sort();
    eventually("the services in Consul", LONG_TIMEOUT, async || {
        let services = agent.services();
        let shown = |(id, service): (&String, &Value)| {
            assert_eq!(service["Name"], CLUSTER_NAME);
            let tag = service["Tags"][0].as_str().unwrap_or_default().to_owned();
            (id.clone(), tag, service["Port"].as_u64().unwrap_or_default())
        };
        let services: Vec<_> = services.iter().map(shown).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(id, tag, port)| (id.clone(), (*tag).to_owned(), u64::from(*port)))
            .collect();
        check(services == expected, || format!("{services:?} instead of {expected:?}"))
    })
    .await;
}

#[tokio::test]
async fn the_services_in_consul_follow_a_failover() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let master = cluster.master().await.unwrap();
    let standby = if master == "keeper0" { "keeper1" } else { "keeper0" };
    let (first, second) = (cluster.db_uid(&master).await, cluster.db_uid(standby).await);
    let agent = FakeConsul::start();
    let endpoint = format!("--register-endpoints={}", agent.url());
    let mut register = cluster.start_stolonctl(&["register", "--register-master", "--sleep-interval=1", &endpoint]);
    let (port, standby_port) = (cluster.port(&master), cluster.port(standby));
    let both = [(first, "master", port), (second.clone(), "slave", standby_port)];
    wait_registered(&agent, &both).await;

    cluster.kill_keeper_and_postgres(&master);
    let elected = cluster.wait_other_master_elected(&master, LONG_TIMEOUT).await;
    assert_eq!(elected, standby);
    wait_registered(&agent, &[(second.clone(), "master", standby_port)]).await;

    cluster.start(&master);
    cluster.wait_healthy(&master, &model::Role::Standby).await;
    let back = cluster.db_uid(&master).await;
    wait_registered(&agent, &[(second, "master", standby_port), (back, "slave", port)]).await;

    register.signal(Signal::TERM);
    assert_eq!(register.exit_status(SHORT_TIMEOUT).await, 0);
    assert_eq!(agent.services().len(), 2, "the registrations stay");
}

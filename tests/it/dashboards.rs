//! A real Prometheus reads a real cluster: every panel of the dashboards has data, whatever happens to the cluster, and
//! the rules can be evaluated.

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::grafana::Dashboard;
use stolon_tests::prometheus::{Prometheus, ScrapedProgram};
use stolon_tests::wait::eventually;
use stolon_tests::writers::Writers;

/// What Grafana makes of `$__rate_interval` at this scrape interval: at least four of them.
const RATE_INTERVAL: &str = "10s";

#[tokio::test]
async fn every_panel_has_data_before_during_and_after_a_failover() {
    let dashboards = Dashboard::read_all();
    // long enough to ask for every panel between the failure and the election
    let builder = Cluster::builder(Profile::Fast).with("failInterval", "25s");
    let mut cluster = builder.without_programs().start().await;
    let programs = start_with_metrics(&mut cluster).await;
    let prometheus = Prometheus::start(cluster.dir().path(), &programs).await;
    let writers = Writers::through(&cluster, "proxy0", 2).await;

    let all_have_data = |when: &'static str| {
        let (prometheus, dashboards) = (&prometheus, &dashboards);
        eventually(
            format!("every panel to have data {when}"),
            SHORT_TIMEOUT,
            async move || {
                let without = queries_without_data(prometheus, dashboards)?;
                check(without.is_empty(), || without.join("\n"))
            },
        )
    };
    all_have_data("before the failover").await;
    wait_rules_evaluated(&prometheus).await;
    assert_eq!(prometheus.firing().unwrap(), [""; 0], "in health");

    cluster.kill_keeper_and_postgres("keeper0");
    wait_series(&prometheus, r#"up{instance="keeper0"} == 0"#).await;
    all_have_data("during the failover").await;
    assert_eq!(cluster.master().await.unwrap(), "keeper0", "that was not during it");

    let elected = cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    cluster.wait_healthy(&elected, &Role::Master).await;
    cluster.wait_proxy_serves("proxy0").await;
    all_have_data("after the election").await;
    wait_series(&prometheus, r#"ALERTS{alertname="StolonFailover",alertstate="firing"}"#).await;

    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    wait_series(
        &prometheus,
        "cluster:stolon_standbys:sum == 2 and cluster:stolon_masters:sum == 1",
    )
    .await;
    all_have_data("after the old master's return").await;
    assert_eq!(prometheus.failed_rules().unwrap(), [""; 0]);
    drop(writers);
}

/// Starts two sentinels, three keepers and a proxy that serve their metrics; returns where.
async fn start_with_metrics(cluster: &mut Cluster) -> Vec<ScrapedProgram> {
    let mut programs = Vec::new();
    let mut start = |cluster: &mut Cluster, job, name: String| {
        let address = cluster.serve_pages(&name);
        cluster.start(&name);
        programs.push(ScrapedProgram { job, name, address });
    };
    for _ in 0..2 {
        let name = cluster.prepare_sentinel();
        start(cluster, "stolon-sentinel", name);
    }
    for index in 0..3 {
        let name = cluster.prepare_keeper();
        start(cluster, "stolon-keeper", name.clone());
        if index == 0 {
            cluster.wait_healthy(&name, &Role::Master).await;
        }
    }
    let name = cluster.prepare_proxy();
    start(cluster, "stolon-proxy", name);
    for standby in ["keeper1", "keeper2"] {
        cluster.wait_healthy(standby, &Role::Standby).await;
    }
    cluster.wait_proxy_serves("proxy0").await;
    programs
}

/// Returns the panels' queries, all variables filled in, that return no series now.
fn queries_without_data(prometheus: &Prometheus, dashboards: &[(String, Dashboard)]) -> Result<Vec<String>, String> {
    let mut without = Vec::new();
    for (file, dashboard) in dashboards {
        let variables = variables(prometheus, dashboard)?;
        for (panel, query) in dashboard.queries() {
            let filled = fill(query, &variables);
            if filled.contains('$') {
                return Err(format!("{file}, {panel}: an unknown variable in {filled}"));
            }
            let series = prometheus.query(&filled)?;
            if series.is_empty() {
                without.push(format!("{file}, {panel}: {filled}"));
            }
        }
    }
    Ok(without)
}

/// Returns the variables with the values that Grafana offers: all of them where several can be chosen.
fn variables(prometheus: &Prometheus, dashboard: &Dashboard) -> Result<Vec<(String, String)>, String> {
    let mut variables = vec![("$__rate_interval".to_owned(), RATE_INTERVAL.to_owned())];
    for (name, selector, label) in dashboard.label_variables() {
        let values = prometheus.label_values(&fill(selector, &variables), label)?;
        check(!values.is_empty(), || format!("${name} has no values"))?;
        variables.push((format!("${name}"), values.join("|")));
    }
    Ok(variables)
}

fn fill(query: &str, variables: &[(String, String)]) -> String {
    let replace = |query: String, (name, value): &(String, String)| query.replace(name, value);
    variables.iter().fold(query.to_owned(), replace)
}

async fn wait_series(prometheus: &Prometheus, query: &str) {
    eventually(query.to_owned(), LONG_TIMEOUT, async || {
        let series = prometheus.query(query)?;
        check(!series.is_empty(), || "no series".to_owned())
    })
    .await;
}

async fn wait_rules_evaluated(prometheus: &Prometheus) {
    eventually("all rules to be evaluated", SHORT_TIMEOUT, async || {
        let failed = prometheus.failed_rules()?;
        check(failed.is_empty(), || failed.join("; "))
    })
    .await;
}

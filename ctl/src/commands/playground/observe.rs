//! `--observe`: Prometheus with our rules, and Grafana with our dashboards, where they are installed. That programs serve
//! metrics, and that these two servers end with the playground, is left to `programs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use local_cluster::{ClusterDir, Port, ProgramKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::programs::{MetricsPage, Playground};

/// The rules, as packaged.
const RULES: [(&str, &str); 2] = [
    (
        "recording.yml",
        include_str!("../../../../dashboards/rules/recording.yml"),
    ),
    ("alerts.yml", include_str!("../../../../dashboards/rules/alerts.yml")),
];
/// The dashboards, as packaged.
const DASHBOARDS: [(&str, &str); 3] = [
    ("cluster.json", include_str!("../../../../dashboards/cluster.json")),
    ("proxy.json", include_str!("../../../../dashboards/proxy.json")),
    (
        "replication.json",
        include_str!("../../../../dashboards/replication.json"),
    ),
];
/// Where else than on `PATH` the two servers are installed: the path of a user other than root lacks it.
const SYSTEM_DIR: &str = "/usr/sbin";
/// The files of an installed Grafana that its server reads.
const GRAFANA_HOME: &str = "/usr/share/grafana";
/// Timeout of a start: Grafana makes its database at the first one.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read: the status line is enough.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What observes the playground, before it is started.
#[derive(Debug)]
pub(super) struct Observer {
    prometheus: PathBuf,
    prometheus_port: Port,
    grafana: Option<(PathBuf, Port)>,
    /// What is scraped.
    pages: Vec<MetricsPage>,
}

impl Observer {
    /// Finds the installed servers and reserves their ports.
    ///
    /// # Errors
    ///
    /// Prometheus is not installed, or no port is free.
    pub(super) fn find() -> anyhow::Result<Self> {
        let prometheus = installed("prometheus")
            .context("--observe needs Prometheus, which is not installed (Debian: apt-get install prometheus)")?;
        let grafana = match installed("grafana-server") {
            Some(path) => Some((path, Port::free()?)),
            None => None,
        };
        Ok(Self {
            prometheus,
            prometheus_port: Port::free()?,
            grafana,
            pages: Vec::new(),
        })
    }

    /// Starts Prometheus, and Grafana where it is installed; returns lines with their addresses. To be called before the
    /// programs start, and kept while they run: the ports are reserved by this.
    ///
    /// # Errors
    ///
    /// One of them does not start: the error has the end of its log.
    pub(super) async fn start(&mut self, playground: &mut Playground) -> anyhow::Result<Vec<String>> {
        self.pages = playground.serve_metrics()?;
        self.write_files(playground.dir())?;
        let port = self.prometheus_port.number();
        playground
            .screen
            .begin_step(format!("prometheus on port {port}: scrapes all programs each second"));
        let command = self.prometheus_command(playground.dir());
        start_server(playground, "prometheus", command, port, "/-/ready").await?;
        let url = self.prometheus_url();
        let mut lines = vec![format!("Prometheus with our rules: {url}/alerts, {url}/graph")];
        if let Some((program, port)) = &self.grafana {
            let port = port.number();
            playground
                .screen
                .begin_step(format!("grafana on port {port}: shows the dashboards"));
            let command = grafana_command(program, playground.dir());
            start_server(playground, "grafana", command, port, "/api/health").await?;
            lines.push(format!(
                "Grafana with the dashboards: http://127.0.0.1:{port}/dashboards"
            ));
        } else {
            let dashboards = home(playground.dir()).join("dashboards");
            lines.push(format!(
                "Dashboards: {}/*.json. grafana-server is not installed; in a Grafana elsewhere: Dashboards, New, Import",
                dashboards.display()
            ));
        }
        Ok(lines)
    }

    /// Writes the files of both servers into the playground's directory. All belong to the user that the servers run as,
    /// who may not read what we create.
    fn write_files(&self, dir: &ClusterDir) -> anyhow::Result<()> {
        let home = home(dir);
        make_dir(dir, &home)?;
        for name in ["rules", "dashboards", "prometheus"] {
            make_dir(dir, &home.join(name))?;
        }
        for (name, text) in RULES {
            write_file(dir, &home.join("rules").join(name), text)?;
        }
        for (name, text) in DASHBOARDS {
            write_file(dir, &home.join("dashboards").join(name), text)?;
        }
        write_file(dir, &home.join("prometheus.yml"), &self.prometheus_config())?;
        if let Some((_, port)) = &self.grafana {
            for name in [
                "grafana",
                "provisioning",
                "provisioning/datasources",
                "provisioning/dashboards",
            ] {
                make_dir(dir, &home.join(name))?;
            }
            let provisioning = home.join("provisioning");
            write_file(dir, &home.join("grafana.ini"), &grafana_config(&home, port))?;
            write_file(
                dir,
                &provisioning.join("datasources/prometheus.yml"),
                &self.datasource(),
            )?;
            write_file(
                dir,
                &provisioning.join("dashboards/stolon.yml"),
                &dashboard_provider(&home),
            )?;
        }
        Ok(())
    }

    /// Returns Prometheus' configuration: a job for each kind of program, as `dashboards/README.md` recommends.
    fn prometheus_config(&self) -> String {
        let mut text = "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
                        rule_files: [rules/*.yml]\n\
                        scrape_configs:\n"
            .to_owned();
        for kind in [ProgramKind::Keeper, ProgramKind::Sentinel, ProgramKind::Proxy] {
            text += &format!("- job_name: {}\n  static_configs:\n", kind.executable());
            for MetricsPage { name, port, .. } in self.pages.iter().filter(|page| page.kind == kind) {
                text += &format!("  - {{targets: ['127.0.0.1:{port}'], labels: {{instance: {name}}}}}\n");
            }
        }
        text
    }

    fn datasource(&self) -> String {
        let url = self.prometheus_url();
        format!(
            "apiVersion: 1\ndatasources:\n\
             - {{name: Prometheus, type: prometheus, access: proxy, url: '{url}', isDefault: true, \
             jsonData: {{timeInterval: 1s}}}}\n"
        )
    }

    fn prometheus_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.prometheus_port)
    }

    fn prometheus_command(&self, dir: &ClusterDir) -> Command {
        let home = home(dir);
        let mut command = Command::new(&self.prometheus);
        command
            .arg(format!("--config.file={}", home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.prometheus_port))
            .arg("--log.level=warn")
            .current_dir(dir.path());
        command
    }
}

async fn start_server(
    playground: &mut Playground,
    name: &'static str,
    command: Command,
    port: u16,
    path: &str,
) -> anyhow::Result<()> {
    playground.start_server(name, command)?;
    playground
        .wait_until(name, START_TIMEOUT, async |_| ask(port, path).await)
        .await?;
    playground.screen.finish_step("");
    Ok(())
}

/// Returns an error unless a page on loopback answers with 200.
async fn ask(port: u16, path: &str) -> anyhow::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    });
    let answer = answer.await.context("no answer in time")??;
    let status = String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    ensure!(status.contains(" 200 "), "{path} answers {status:?}");
    Ok(())
}

fn make_dir(dir: &ClusterDir, path: &Path) -> anyhow::Result<()> {
    fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
    Ok(dir.give_to_user(path)?)
}

fn write_file(dir: &ClusterDir, path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(dir.give_to_user(path)?)
}

fn home(dir: &ClusterDir) -> PathBuf {
    dir.path().join("observe")
}

fn grafana_command(program: &Path, dir: &ClusterDir) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--homepath", GRAFANA_HOME])
        .arg("--config")
        .arg(home(dir).join("grafana.ini"))
        .current_dir(dir.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GF_")) {
        command.env_remove(name);
    }
    command
}

/// Returns Grafana's configuration: everybody on this machine may look, and there is no login.
fn grafana_config(home: &Path, port: &Port) -> String {
    let (data, provisioning) = (home.join("grafana"), home.join("provisioning"));
    let (data, provisioning) = (data.display(), provisioning.display());
    format!(
        "[paths]\ndata = {data}\nlogs = {data}\nplugins = {data}/plugins\nprovisioning = {provisioning}\n\
         [server]\nhttp_addr = 127.0.0.1\nhttp_port = {port}\n\
         [security]\ndisable_initial_admin_creation = true\n\
         [auth.anonymous]\nenabled = true\norg_role = Viewer\n\
         [analytics]\nreporting_enabled = false\ncheck_for_updates = false\ncheck_for_plugin_updates = false\n\
         [log]\nmode = console\nlevel = warn\n"
    )
}

fn dashboard_provider(home: &Path) -> String {
    format!(
        "apiVersion: 1\nproviders:\n- {{name: stolon, type: file, options: {{path: '{}'}}}}\n",
        home.join("dashboards").display()
    )
}

/// Returns the path of an installed program.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from(SYSTEM_DIR)])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

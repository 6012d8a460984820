//! A real Prometheus that scrapes the programs of a test cluster each second, with the repository's rules.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::deadlines::SHORT_TIMEOUT;
use crate::grafana;
use crate::http;
use crate::ports::{self, Port};
use crate::process::Process;
use crate::wait::eventually;

/// What to do when it is missing.
pub const HOW_TO_INSTALL: &str = "it is installed by: scripts/install-deps (Debian: apt-get install prometheus)";

/// A program that is scraped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapedProgram {
    /// The name of the executable, and of the job.
    pub job: &'static str,
    /// The label `instance`.
    pub name: String,
    /// Where it serves its metrics.
    pub address: String,
}

/// A running Prometheus. Dropping it ends it, if it was started here.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    _process: Option<(Process, Port)>,
}

impl Prometheus {
    /// Starts one with its files in a new directory `prometheus` below `dir`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// It is not installed, or does not start.
    pub async fn start(dir: &Path, programs: &[ScrapedProgram]) -> Self {
        let home = dir.join("prometheus");
        fs::create_dir(&home).expect("a directory is made");
        fs::write(home.join("prometheus.yml"), configuration(programs)).expect("a file is written");
        let port = ports::free();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .current_dir(&home);
        let version = Command::new("prometheus").arg("--version").output();
        assert!(version.is_ok(), "there is no prometheus; {HOW_TO_INSTALL}");
        let process = Process::start("prometheus", command, None, &home.join("log"));
        let prometheus = Self {
            address: format!("127.0.0.1:{port}"),
            _process: Some((process, port)),
        };
        eventually("prometheus to be ready", SHORT_TIMEOUT, async || {
            prometheus.ask("/-/ready").map(drop)
        })
        .await;
        prometheus
    }

    /// Returns one that somebody else has started.
    pub fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            _process: None,
        }
    }

    /// Returns the result of an instant query: the series that it returns now.
    ///
    /// # Errors
    ///
    /// There is no answer, or Prometheus refuses the query.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        series(&self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?)
    }

    /// Returns the values of a label among the series that this selects.
    ///
    /// # Errors
    ///
    /// There is no answer, or Prometheus refuses the selector.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let found = self.query(&format!("group by ({label}) ({selector})"))?;
        let value = |series: &Value| series["metric"][label].as_str().map(str::to_owned);
        Ok(found.iter().filter_map(value).collect())
    }

    /// Returns the names of alerts that fire.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn firing(&self) -> Result<Vec<String>, String> {
        self.label_values(r#"ALERTS{alertstate="firing"}"#, "alertname")
    }

    /// Returns the names of the rules whose last evaluation failed, and those that were not evaluated yet, with the reason.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn failed_rules(&self) -> Result<Vec<String>, String> {
        let text = self.ask("/api/v1/rules")?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let groups = answer["data"]["groups"].as_array();
        let rules = groups
            .into_iter()
            .flatten()
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        let failed = rules.filter(|rule| rule["health"] != "ok");
        Ok(failed
            .map(|rule| format!("{} is {}: {}", rule["name"], rule["health"], rule["lastError"]))
            .collect())
    }

    fn ask(&self, path: &str) -> Result<String, String> {
        // HTTP/1.0: the answer is not in chunks
        let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        let answer = http::request(&self.address, &request);
        match answer.map_err(|error| error.to_string())? {
            (200, body) => Ok(body),
            (status, body) => Err(format!("{path}: status {status}: {body}")),
        }
    }
}

fn series(answer: &str) -> Result<Vec<Value>, String> {
    let mut answer: Value = serde_json::from_str(answer).map_err(|error| format!("{error}: {answer}"))?;
    match answer["data"]["result"].take() {
        Value::Array(series) => Ok(series),
        other => Err(format!("{other} are no series")),
    }
}

fn configuration(programs: &[ScrapedProgram]) -> String {
    let rules = grafana::directory().join("rules");
    let mut text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{0}/recording.yml', '{0}/alerts.yml']\n\
         scrape_configs:\n",
        rules.display()
    );
    for job in ["stolon-keeper", "stolon-sentinel", "stolon-proxy"] {
        text += &format!("- job_name: {job}\n  static_configs:\n");
        for ScrapedProgram { name, address, .. } in programs.iter().filter(|program| program.job == job) {
            text += &format!("  - {{targets: ['{address}'], labels: {{instance: {name}}}}}\n");
        }
    }
    text
}

/// Returns a text as the value of a parameter in a URL.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

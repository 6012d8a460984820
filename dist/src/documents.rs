//! The documents, dashboards and rules in the package. Links between them are paths in the repository; in the package they
//! are paths of installed files.

use std::path::Path;

use crate::write_file;

/// Where the documents are installed (`Cargo.toml` has the package's list of files).
const DOCUMENTS: &str = "/usr/share/doc/stolon";
/// Where dashboards and rules are installed: not below doc, which minimal systems leave out.
const DASHBOARDS: &str = "/usr/share/stolon/dashboards";

/// A file of the repository in the package.
struct Packaged {
    /// In the repository, below `docs` or `dashboards`.
    path: &'static str,
    text: &'static str,
}

macro_rules! packaged {
    ($($path:literal),* $(,)?) => {
        [$(Packaged { path: $path, text: include_str!(concat!("../../", $path)) }),*]
    };
}

static FILES: [Packaged; 11] = packaged![
    "docs/install.md",
    "docs/operating.md",
    "docs/runbook.md",
    "docs/metrics.md",
    "dashboards/README.md",
    "dashboards/cluster.json",
    "dashboards/proxy.json",
    "dashboards/replication.json",
    "dashboards/rules/alerts.yml",
    "dashboards/rules/recording.yml",
    "dashboards/rules/tests/alerts.yml",
];

/// Writes all of them below a directory, by their paths in the repository.
pub(crate) fn write_all(directory: &Path) -> anyhow::Result<()> {
    for file in &FILES {
        let (below, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
        write_file(&directory.join(below), name, file.packaged_text().as_bytes())?;
    }
    Ok(())
}

impl Packaged {
    /// Returns the text with the paths of installed files in its links.
    fn packaged_text(&self) -> String {
        let text = self.text.replace("(../dashboards/", &format!("({DASHBOARDS}/"));
        let text = text.replace("(../docs/", &format!("({DOCUMENTS}/"));
        // what Alertmanager sends on is a URL
        text.replace("runbook_url: docs/", &format!("runbook_url: file://{DOCUMENTS}/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what stands between two marks, wherever it does.
    fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(start)
            .skip(1)
            .map(move |rest| rest.split(end).next().unwrap_or_default())
    }

    /// Returns the anchor of a heading, as renderers of Markdown make it.
    fn anchor(heading: &str) -> String {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    }

    /// Returns the path of the installed file.
    fn installed(path: &str) -> String {
        match path.strip_prefix("docs/") {
            Some(name) => format!("{DOCUMENTS}/{name}"),
            None => format!("{DASHBOARDS}/{}", path.strip_prefix("dashboards/").unwrap()),
        }
    }

    /// Checks that a link in a file leads to an installed file, and to a heading of it.
    fn check_link(file: &Packaged, link: &str) {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let own = installed(file.path);
        let path = match path {
            "" => own,
            path if path.starts_with('/') => path.to_owned(),
            path => Path::new(&own).with_file_name(path).to_str().unwrap().to_owned(),
        };
        let target = FILES.iter().find(|target| installed(target.path) == path);
        let target = target.unwrap_or_else(|| panic!("{}: {link} is not in the package", file.path));
        let mut headings = target.text.lines().filter(|line| line.starts_with('#'));
        let is_there =
            heading.is_empty() || headings.any(|line| anchor(line.trim_start_matches(['#', ' '])) == heading);
        assert!(is_there, "{}: {link} has no such heading", file.path);
    }

    #[test]
    fn every_link_leads_to_what_is_in_the_package() {
        let mut checked = 0;
        for file in &FILES {
            let text = file.packaged_text();
            let links = between(&text, "](", ")").chain(between(&text, "runbook_url: file://", "\n"));
            for link in links.filter(|link| !link.starts_with("https://")) {
                check_link(file, link);
                checked += 1;
            }
            assert!(!text.contains("runbook_url: docs/"), "{}", file.path);
        }
        assert!(checked > 20, "{checked} links");
    }

    #[test]
    fn everything_for_prometheus_and_grafana_is_packaged() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards");
        for below in ["", "rules", "rules/tests"] {
            for entry in std::fs::read_dir(directory.join(below)).unwrap() {
                let path = entry.unwrap().path();
                let is_packaged = FILES.iter().any(|file| path.ends_with(file.path));
                assert!(is_packaged || path.is_dir(), "{} is not packaged", path.display());
            }
        }
    }
}

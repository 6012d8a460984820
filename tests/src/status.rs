//! Waits for problems in the output of `stolonctl status`.

use crate::cluster::{Cluster, check};
use crate::deadlines::LONG_TIMEOUT;
use crate::wait::eventually;

/// Waits until the status has a line with these words for each of the keepers.
pub async fn wait_status_shows(cluster: &Cluster, uids: &[&str], words: &str) {
    eventually(
        format!("status to show {words:?} of {uids:?}"),
        LONG_TIMEOUT,
        async || {
            let status = status_text(cluster).await?;
            check(uids.iter().all(|uid| has_line(&status, uid, words)), || status)
        },
    )
    .await;
}

/// Waits until the status has no line with these words for any of the keepers.
pub async fn wait_status_lacks(cluster: &Cluster, uids: &[&str], words: &str) {
    eventually(
        format!("status without {words:?} of {uids:?}"),
        LONG_TIMEOUT,
        async || {
            let status = status_text(cluster).await?;
            check(!uids.iter().any(|uid| has_line(&status, uid, words)), || status)
        },
    )
    .await;
}

/// Waits until the status lists no problems.
pub async fn wait_status_has_no_problems(cluster: &Cluster) {
    eventually("status to show no problems", LONG_TIMEOUT, async || {
        let status = status_text(cluster).await?;
        check(!status.contains("=== Problems ==="), || status)
    })
    .await;
}

/// Returns the output of `stolonctl status`.
async fn status_text(cluster: &Cluster) -> Result<String, String> {
    let (code, text) = cluster.stolonctl(&["status"]).await;
    check(code == 0, || format!("stolonctl status ended with {code}: {text}"))?;
    Ok(text)
}

fn has_line(status: &str, uid: &str, words: &str) -> bool {
    status.lines().any(|line| line.contains(uid) && line.contains(words))
}

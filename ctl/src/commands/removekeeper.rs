//! `removekeeper`: removes a keeper that will not come back, with its db, from the cluster data (cli 11).

use anyhow::bail;
use base::Clock;
use model::{ClusterData, KeeperUid};
use store::Store;

use super::stored_document::WriteLimits;
use super::{CommandOutcome, input, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Uid of the keeper
    #[arg(value_name = "UID")]
    keeper: Vec<String>,
}

pub(super) async fn run(store: &Store, clock: &Clock, args: &Args) -> anyhow::Result<CommandOutcome> {
    let uid = KeeperUid::from(input::keeper_uid(&args.keeper)?);
    stored_document::change(store, clock, WriteLimits::WholeCommand, |checked| {
        remove(&mut checked.data, &uid)
    })
    .await?;
    Ok(CommandOutcome::Success)
}

/// Removes the keeper and its db. Other dbs may still name it; the sentinel cleans that up. The keeper of the master is
/// refused.
fn remove(data: &mut ClusterData, uid: &KeeperUid) -> anyhow::Result<()> {
    if !data.keepers().contains_key(uid) {
        bail!("keeper doesn't exist: {uid}");
    }
    let master = data.master_uid().and_then(|master| data.dbs().get(master));
    if master.is_some_and(|db| db.spec.keeper_uid == *uid) {
        bail!(
            "keeper assigned db is the current cluster master db: make another keeper's db the master first, with \
             `stolonctl switchover`, or with `stolonctl failkeeper {uid}` if it does not run"
        );
    }
    data.keepers_mut().remove(uid);
    if data.dbs.is_some() {
        data.dbs_mut().retain(|_, db| db.spec.keeper_uid != *uid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::to_compact;

    use super::*;

    fn data() -> ClusterData {
        let text = r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"},"status":{"master":"d1"}},
            "keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"},"k3":{"uid":"k3"}},
            "dbs":{"d1":{"uid":"d1","spec":{"keeperUID":"k1","followers":["d2"]}},"d2":{"uid":"d2","spec":{"keeperUID":"k2"}}}}"#;
        ClusterData::parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_standby_is_removed_with_its_db_and_references_are_left_to_the_sentinel() {
        // cli 11.4
        let mut after = data();
        remove(&mut after, &"k2".into()).unwrap();
        let mut expected = data();
        expected.keepers_mut().remove("k2");
        expected.dbs_mut().remove("d2");
        assert_eq!(to_compact(&after), to_compact(&expected));
        assert!(to_compact(&after).contains(r#""followers":["d2"]"#));
    }

    #[test]
    fn a_keeper_without_db_is_removed() {
        let mut after = data();
        remove(&mut after, &"k3".into()).unwrap();
        assert_eq!((after.keepers().len(), after.dbs().len()), (2, 2));
    }

    #[test]
    fn the_keeper_of_the_master_and_unknown_ones_are_refused() {
        // cli 18.15
        for (uid, words) in [("k1", "master"), ("nosuch", "doesn't exist")] {
            let mut after = data();
            let error = remove(&mut after, &uid.into()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(uid), "{error}");
            assert_eq!(after, data());
        }
    }
}

//! What pg_rewind would change besides the instance's own files, and the record of a PGDATA that it is changing. Running
//! it is left to `postgres::rewind`.
//!
//! pg_rewind makes all that it finds below PGDATA equal to the source's and removes the rest. It follows the links in
//! `pg_tblspc` and the one of `pg_wal`, and takes the whole directories there, whoever the files belong to.

use std::path::{Path, PathBuf};

use crate::postgres::data::atomic_files::remove_if_there;
use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::links;
use crate::postgres::data::mounts::Mounts;
use crate::postgres::data::owned_dirs::{NEW_KIND, OLD_KIND, OwnedDirs};
use crate::postgres::data::survey::{self, is_of_wal};
use crate::postgres::data::trees;

/// Returns a place that pg_rewind would change although it is not the instance's own: the location of a tablespace,
/// previous data in PGDATA, a mounted file system, or a foreign file or directory where `pg_wal` leads.
pub fn outside(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    if let Some(location) = links::locations(data)?.into_iter().next() {
        return Ok(Some(location));
    }
    for kind in [OLD_KIND, NEW_KIND] {
        let own = data.join(owned.name(kind));
        if DirIdentity::of(&own)?.is_some() {
            return Ok(Some(own));
        }
    }
    let mounts = Mounts::read();
    if let Some(point) = mounts.below(data)? {
        return Ok(Some(point));
    }
    let Some(wal) = survey::wal_of(data, owned)? else {
        return Ok(None);
    };
    if survey::own_wal(data, owned)?.as_deref() != Some(&wal) {
        return Ok(Some(wal));
    }
    if let Some(point) = mounts.below(&wal)? {
        return Ok(Some(point));
    }
    let is_foreign = |entry: &PathBuf| !entry.file_name().is_some_and(is_of_wal);
    Ok(inspect::entries(&wal)?.into_iter().find(is_foreign))
}

/// Removes the link `postgresql.auto.conf`, which pg_rewind refuses: the source reports its own as a file. Each start
/// makes it again.
pub fn unlink_auto_conf(data: &Path) -> Result<(), FileError> {
    remove_if_there(&data.join("postgresql.auto.conf"))
}

/// Records that pg_rewind is about to change PGDATA.
pub fn begin(data: &Path, owned: &OwnedDirs) -> Result<(), FileError> {
    unlink_auto_conf(data)?;
    let identity = DirIdentity::of(data)?;
    owned.change(|record| record.rewinding = identity)
}

/// Makes the rewound data those of a standby, and records that they are whole.
pub fn complete(data: &Path, owned: &OwnedDirs) -> Result<(), FileError> {
    cluster_files::signal_standby(data)?;
    // pg_rewind -R wrote the connection there.
    cluster_files::link_auto_conf(data)?;
    trees::sync(data)?;
    owned.change(|record| record.rewinding = None)
}

/// Whether PGDATA holds what pg_rewind has left behind halfway.
pub(super) fn is_half_rewound(data: &Path, owned: &OwnedDirs) -> Result<bool, FileError> {
    let Some(recorded) = owned.record().rewinding else {
        return Ok(false);
    };
    Ok(DirIdentity::of(data)? == Some(recorded))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use base::RandomBytes;

    use super::*;
    use crate::external_dirs::ClearRequest;
    use crate::postgres::data::previous_data::{self, ClearOutcome};

    struct Home {
        dir: tempfile::TempDir,
        data: PathBuf,
        owned: OwnedDirs,
    }

    fn home() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        fs::create_dir(&data).unwrap();
        cluster_files::make_data(&data, "old");
        let owned = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        Home { dir, data, owned }
    }

    impl Home {
        fn outside(&self) -> Option<PathBuf> {
            outside(&self.data, &self.owned).unwrap()
        }
    }

    #[test]
    fn what_is_not_the_instance_s_own_is_found() {
        let home = home();
        assert_eq!(home.outside(), None);
        let location = home.dir.path().join("ts");
        let link = home.data.join("pg_tblspc/16384");
        symlink(&location, &link).unwrap();
        assert_eq!(home.outside(), Some(location));
        fs::remove_file(link).unwrap();
        let old = home.data.join(home.owned.name(OLD_KIND));
        fs::create_dir(&old).unwrap();
        assert_eq!(home.outside(), Some(old));
    }

    #[test]
    fn a_linked_pg_wal_may_hold_nothing_but_wal() {
        let home = home();
        let wal = home.dir.path().join("wal");
        fs::create_dir(&wal).unwrap();
        fs::remove_dir(home.data.join("pg_wal")).unwrap();
        symlink(&wal, home.data.join("pg_wal")).unwrap();
        fs::create_dir(wal.join("archive_status")).unwrap();
        for name in ["000000010000000000000001", "00000002.history"] {
            fs::write(wal.join(name), "").unwrap();
        }
        assert_eq!(home.outside(), None);
        for foreign in ["notes", "lost+found"] {
            fs::write(wal.join(foreign), "").unwrap();
            assert_eq!(home.outside(), Some(wal.join(foreign)));
            fs::remove_file(wal.join(foreign)).unwrap();
        }
    }

    fn clear(home: &Home) -> ClearOutcome {
        let clear = ClearRequest {
            db: "db".into(),
            bytes: Some(0),
            external_dirs: Vec::new(),
            ran_out_of_space: false,
        };
        previous_data::clear(&home.data, &home.owned, &clear).unwrap()
    }

    #[test]
    fn half_rewound_data_are_removed_and_rewound_ones_are_set_aside() {
        let half = home();
        begin(&half.data, &half.owned).unwrap();
        // As a new process finds it.
        let owned = OwnedDirs::load(half.dir.path(), RandomBytes::system()).unwrap();
        let half = Home { owned, ..half };
        assert_eq!(clear(&half), ClearOutcome::Nothing);
        assert!(half.owned.record().old.is_none() && half.owned.record().rewinding.is_none());
        assert!(!half.data.join("PG_VERSION").exists());

        let whole = home();
        begin(&whole.data, &whole.owned).unwrap();
        complete(&whole.data, &whole.owned).unwrap();
        assert!(cluster_files::signals(&whole.data).unwrap().standby);
        assert!(fs::read_link(whole.data.join("postgresql.auto.conf")).is_ok());
        assert!(matches!(clear(&whole), ClearOutcome::SetAside(_)));
    }

    /// An operator put other data in the place of those that pg_rewind left.
    #[test]
    fn data_in_another_directory_at_the_same_path_are_not_half_rewound() {
        let home = home();
        begin(&home.data, &home.owned).unwrap();
        fs::rename(&home.data, home.dir.path().join("aside")).unwrap();
        fs::create_dir(&home.data).unwrap();
        cluster_files::make_data(&home.data, "restored");
        assert!(matches!(clear(&home), ClearOutcome::SetAside(_)));
    }
}

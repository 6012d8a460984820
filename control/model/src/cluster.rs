//! Cluster data: the document that holds the state of the whole cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    ClusterSpec, ClusterUid, Db, DbUid, JsonError, Keeper, KeeperUid, ProxySection, Timestamp, from_slice, is_zero,
    string_enum,
};

/// The only format version that these programs read and write.
pub const FORMAT_VERSION: u64 = 1;

/// The whole document (data-model 3).
///
/// `null` and absent maps are kept distinct from empty ones; read them through [`keepers`](Self::keepers) and
/// [`dbs`](Self::dbs). An entry that is `null` is dropped when read (data-model 12.23).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterData {
    /// See [`FORMAT_VERSION`].
    pub format_version: u64,
    /// When the leading sentinel last wrote.
    pub change_time: Timestamp,
    /// The cluster itself.
    pub cluster: Option<Cluster>,
    /// The keepers known, by uid.
    #[serde(deserialize_with = "present_entries")]
    pub keepers: Option<BTreeMap<KeeperUid, Keeper>>,
    /// The instances assigned to keepers, by uid.
    #[serde(deserialize_with = "present_entries")]
    pub dbs: Option<BTreeMap<DbUid, Db>>,
    /// Where proxies may send clients.
    pub proxy: Option<ProxySection>,
}

/// The cluster (data-model 3.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// New at each initialisation. Keepers that find another uid discard their local state and start over.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: ClusterUid,
    /// 1, never changed afterwards.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the sentinel last changed this object.
    pub change_time: Timestamp,
    /// What the operator asked for; only a broken document lacks it.
    #[serde(skip_serializing_if = "is_zero")]
    pub spec: Option<ClusterSpec>,
    /// What the sentinel decided.
    pub status: ClusterStatus,
}

/// What the sentinel decided for the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Never written; kept when read.
    #[serde(skip_serializing_if = "is_zero")]
    pub current_generation: i64,
    /// How far the cluster has come.
    #[serde(skip_serializing_if = "is_zero")]
    pub phase: Phase,
    /// The master db; empty while none is chosen.
    #[serde(skip_serializing_if = "is_zero")]
    pub master: DbUid,
}

string_enum!(
    /// How far a cluster has come.
    Phase {
        /// The first master is being initialised.
        Initializing = "initializing",
        /// The first master has been initialised.
        Normal = "normal",
    }
);

impl ClusterData {
    /// Reads a stored value; the value `null` means that there is no cluster data (store C-5).
    ///
    /// # Errors
    /// The value is not a cluster data document.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, JsonError> {
        from_slice(value)
    }

    /// Returns a newly initialised document (data-model 3.2).
    pub fn initial(uid: ClusterUid, now: Timestamp, spec: ClusterSpec) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            change_time: Timestamp::ZERO,
            cluster: Some(Cluster {
                uid,
                generation: 1,
                change_time: now,
                spec: Some(spec),
                status: ClusterStatus {
                    phase: Phase::Initializing,
                    ..ClusterStatus::default()
                },
            }),
            keepers: Some(BTreeMap::new()),
            dbs: Some(BTreeMap::new()),
            proxy: Some(ProxySection::default()),
        }
    }

    /// Returns the synchronous standbys of a master that are not healthy standbys, as far as the document shows. None
    /// without synchronous replication.
    pub fn lost_synchronous_standbys<'a>(&'a self, master: &'a Db) -> Vec<&'a DbUid> {
        let is_lost = |uid: &&DbUid| {
            let standby = self.dbs().get(*uid).filter(|db| db.is_standby_type());
            standby.is_none_or(|db| !db.status.healthy)
        };
        let wanted = master.spec.synchronous_standbys.iter().flatten();
        wanted
            .filter(|_| master.spec.synchronous_replication)
            .filter(is_lost)
            .collect()
    }

    /// Returns the known keepers; an empty map when the document has none.
    pub fn keepers(&self) -> &BTreeMap<KeeperUid, Keeper> {
        static NONE: BTreeMap<KeeperUid, Keeper> = BTreeMap::new();
        self.keepers.as_ref().unwrap_or(&NONE)
    }

    /// Returns the known keepers for modification; adds the map when the document has none.
    pub fn keepers_mut(&mut self) -> &mut BTreeMap<KeeperUid, Keeper> {
        self.keepers.get_or_insert_default()
    }

    /// Returns the assigned dbs; an empty map when the document has none.
    pub fn dbs(&self) -> &BTreeMap<DbUid, Db> {
        static NONE: BTreeMap<DbUid, Db> = BTreeMap::new();
        self.dbs.as_ref().unwrap_or(&NONE)
    }

    /// Returns the assigned dbs for modification; adds the map when the document has none.
    pub fn dbs_mut(&mut self) -> &mut BTreeMap<DbUid, Db> {
        self.dbs.get_or_insert_default()
    }

    /// Returns the uid of the master db that the sentinel chose, whether or not the document holds that db.
    pub fn master_uid(&self) -> Option<&DbUid> {
        self.cluster
            .as_ref()
            .map(|cluster| &cluster.status.master)
            .filter(|uid| !uid.is_empty())
    }

    /// Returns the db of a keeper. Only a broken document has several; then the first by uid.
    pub fn db_of_keeper(&self, keeper: &KeeperUid) -> Option<(&DbUid, &Db)> {
        self.dbs().iter().find(|(_, db)| db.spec.keeper_uid == *keeper)
    }

    /// Returns the db that proxies send clients to, if the document holds it.
    pub fn proxied_master(&self) -> Option<(&DbUid, &Db)> {
        self.dbs().get_key_value(&self.proxy.as_ref()?.spec.master_db_uid)
    }
}

/// Reads a map; entries that are `null` count as absent.
fn present_entries<'de, D, K, V>(deserializer: D) -> Result<Option<BTreeMap<K, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    let entries = Option::<BTreeMap<K, Option<V>>>::deserialize(deserializer)?;
    Ok(entries.map(|entries| {
        entries
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }))
}

//! Stands in for a sentinel where only a proxy is looked at: writes cluster data that name one master, or none.

use std::net::SocketAddr;

use control::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbStatus, DbUid, InitMode, Phase, ProxySection, ProxySpec, ProxyUid,
    Timestamp, to_compact,
};
use control::store::{Revision, Store};

/// A store, and the cluster data to be written to it.
#[derive(Debug, Clone)]
pub struct FakeSentinel {
    store: Store,
    /// What the next write writes.
    pub data: ClusterData,
}

impl FakeSentinel {
    /// A cluster that runs and has no master yet; nothing is written before the first [`Self::publish`].
    pub fn new(store: Store, spec: ClusterSpec) -> Self {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            ..spec
        };
        let mut data = ClusterData::initial(ClusterUid::from("cluster"), Timestamp::ZERO, spec);
        if let Some(cluster) = &mut data.cluster {
            cluster.status.phase = Phase::Normal;
        }
        Self { store, data }
    }

    /// Names the master, a db and where it listens, or none, for these proxies; gives the revision of the commit.
    ///
    /// # Errors
    ///
    /// The store does not answer in time.
    pub async fn publish(
        &mut self,
        master: Option<(&str, SocketAddr)>,
        enabled: &[String],
    ) -> anyhow::Result<Revision> {
        let master = master.map(|(uid, address)| healthy_db(uid, &address.ip().to_string(), address.port()));
        self.publish_db(master, enabled).await
    }

    /// The same for a [`db`].
    ///
    /// # Errors
    ///
    /// The store does not answer in time.
    pub async fn publish_db(&mut self, master: Option<Db>, enabled: &[String]) -> anyhow::Result<Revision> {
        let master_db_uid = master.as_ref().map_or(DbUid::from(""), |db| db.uid.clone());
        if let Some(db) = master {
            self.data.dbs_mut().insert(db.uid.clone(), db);
        }
        let section = self.data.proxy.get_or_insert_with(ProxySection::default);
        section.generation += 1;
        section.spec = ProxySpec {
            master_db_uid,
            enabled_proxies: enabled.iter().map(|uid| ProxyUid::from(uid.as_str())).collect(),
        };
        self.write().await
    }

    /// The generation of the proxy section that was last published; 0 before.
    pub fn generation(&self) -> i64 {
        self.data.proxy.as_ref().map_or(0, |section| section.generation)
    }

    /// Writes the data as they are; gives the revision of the commit.
    ///
    /// # Errors
    ///
    /// The store does not answer in time.
    pub async fn write(&self) -> anyhow::Result<Revision> {
        let value = to_compact(&self.data);
        Ok(self
            .store
            .put(&self.store.keys().cluster_data(), value.as_bytes())
            .await?)
    }
}

/// A healthy db that is advertised at this address, or name, and port.
pub fn healthy_db(uid: &str, host: &str, port: u16) -> Db {
    Db {
        uid: DbUid::from(uid),
        generation: 1,
        status: DbStatus {
            healthy: true,
            listen_address: host.to_owned(),
            port: port.to_string(),
            ..DbStatus::default()
        },
        ..Db::default()
    }
}

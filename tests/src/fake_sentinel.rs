//! Writes cluster data in place of a sentinel, for tests of a proxy alone: with one master or none.

use std::net::SocketAddr;

use model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbStatus, DbUid, InitMode, Phase, ProxySection, ProxySpec, ProxyUid,
    Timestamp, to_compact,
};
use store::{Revision, Store};

/// A store, and the cluster data to write to it.
#[derive(Debug, Clone)]
pub struct FakeSentinel {
    store: Store,
    /// The cluster data that the next write stores.
    pub data: ClusterData,
}

impl FakeSentinel {
    /// Prepares a running cluster without a master; the first [`Self::publish`] writes it.
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

    /// Announces a master (db uid and address), or none, to these proxies; returns the revision of the commit.
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

    /// The same for a [`healthy_db`].
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

    /// Returns the generation of the proxy section that was last published, 0 before the first.
    pub fn generation(&self) -> i64 {
        self.data.proxy.as_ref().map_or(0, |section| section.generation)
    }

    /// Writes the data unchanged; returns the revision of the commit.
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

/// Returns a healthy db with this advertised address, or name, and port.
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

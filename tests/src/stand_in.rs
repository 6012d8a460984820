//! Stands in for a sentinel where only a proxy is looked at: writes cluster data that name one master, or none.

use std::net::SocketAddr;

use control::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbStatus, DbUid, InitMode, Phase, ProxySection, ProxySpec, ProxyUid,
    Timestamp, to_compact,
};
use control::store::{Revision, Store};

/// The cluster data as they were last written.
#[derive(Debug, Clone)]
pub struct StandIn {
    store: Store,
    data: ClusterData,
}

impl StandIn {
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
        if let Some((uid, address)) = master {
            let db = Db {
                uid: DbUid::from(uid),
                generation: 1,
                status: DbStatus {
                    healthy: true,
                    listen_address: address.ip().to_string(),
                    port: address.port().to_string(),
                    ..DbStatus::default()
                },
                ..Db::default()
            };
            self.data.dbs_mut().insert(DbUid::from(uid), db);
        }
        let section = self.data.proxy.get_or_insert_with(ProxySection::default);
        section.generation += 1;
        section.spec = ProxySpec {
            master_db_uid: DbUid::from(master.map_or("", |(uid, _)| uid)),
            enabled_proxies: enabled.iter().map(|uid| ProxyUid::from(uid.as_str())).collect(),
        };
        let value = to_compact(&self.data);
        Ok(self
            .store
            .put(&self.store.keys().cluster_data(), value.as_bytes())
            .await?)
    }
}

//! The services that cluster data ask for, and what has to change in a catalogue (cli 15.2). Pure.

use std::collections::BTreeMap;

use model::{ClusterData, Db, DbUid, FORMAT_VERSION};

/// One instance as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// The uid of the db.
    pub(super) id: String,
    /// The name of the cluster.
    pub(super) name: String,
    /// In the order given; another order is another service.
    pub(super) tags: Vec<String>,
    pub(super) address: String,
    /// Of a wanted service 1 to 65535; a catalogue may hold any.
    pub(super) port: i64,
}

/// Which instances are registered, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceOptions {
    /// Whether the master is registered, too.
    pub(super) register_master: bool,
    pub(super) master_tags: Vec<String>,
    pub(super) standby_tags: Vec<String>,
}

/// What should be registered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) services: Vec<Service>,
    /// The healthy master that the options leave out.
    pub(super) skipped_master: Option<DbUid>,
}

/// Why it is unknown what should be registered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnknownServices {
    #[error("no cluster data available")]
    NoData,
    #[error("cluster data not available: the document has no cluster")]
    NoCluster,
    /// What such a document means is unknown.
    #[error("unsupported clusterdata format version {0}: this program works with version 1")]
    Format(u64),
    #[error("invalid database port '{port}' for {cluster} with uid {db}")]
    Port { port: String, cluster: String, db: DbUid },
    /// Consul would take its own address instead.
    #[error("no database address for {cluster} with uid {db}")]
    NoAddress { cluster: String, db: DbUid },
}

/// Returns the services of all healthy dbs. Neither the spec nor the rest of the document is checked: an invalid spec is
/// no reason to remove an instance that serves.
pub(super) fn wanted(
    data: Option<&ClusterData>,
    name: &str,
    options: &ServiceOptions,
) -> Result<Wanted, UnknownServices> {
    let data = data.ok_or(UnknownServices::NoData)?;
    if data.cluster.is_none() {
        return Err(UnknownServices::NoCluster);
    }
    if data.format_version != FORMAT_VERSION {
        return Err(UnknownServices::Format(data.format_version));
    }
    let mut wanted = Wanted {
        services: Vec::new(),
        skipped_master: None,
    };
    for (uid, db) in data.dbs().iter().filter(|(_, db)| db.status.healthy) {
        let is_master = data.master_uid() == Some(uid);
        if is_master && !options.register_master {
            wanted.skipped_master = Some(uid.clone());
            continue;
        }
        let tags = if is_master {
            &options.master_tags
        } else {
            &options.standby_tags
        };
        wanted.services.push(service(uid, db, name, tags)?);
    }
    Ok(wanted)
}

fn service(uid: &DbUid, db: &Db, name: &str, tags: &[String]) -> Result<Service, UnknownServices> {
    let port = Some(&db.status.port)
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse::<u16>().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| UnknownServices::Port {
            port: db.status.port.clone(),
            cluster: name.to_owned(),
            db: uid.clone(),
        })?;
    if db.status.listen_address.is_empty() {
        return Err(UnknownServices::NoAddress {
            cluster: name.to_owned(),
            db: uid.clone(),
        });
    }
    Ok(Service {
        id: uid.to_string(),
        name: name.to_owned(),
        tags: tags.to_vec(),
        address: db.status.listen_address.clone(),
        port: port.into(),
    })
}

/// What has to change in the catalogue: all removals first, then all additions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CatalogChanges {
    /// Ids of services that are not wanted, or differ.
    pub(super) remove: Vec<String>,
    /// Services that are missing, or differ.
    pub(super) add: Vec<Service>,
}

/// Compares what is wanted with what a catalogue has.
pub(super) fn changes(wanted: &[Service], discovered: &[Service]) -> CatalogChanges {
    let wanted: BTreeMap<&str, &Service> = wanted.iter().map(|service| (service.id.as_str(), service)).collect();
    let discovered: BTreeMap<&str, &Service> = discovered
        .iter()
        .map(|service| (service.id.as_str(), service))
        .collect();
    CatalogChanges {
        remove: discovered
            .iter()
            .filter(|(id, service)| wanted.get(*id) != Some(service))
            .map(|(id, _)| (*id).to_owned())
            .collect(),
        add: wanted
            .iter()
            .filter(|(id, service)| discovered.get(*id) != Some(service))
            .map(|(_, service)| (*service).clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(register_master: bool) -> ServiceOptions {
        ServiceOptions {
            register_master,
            master_tags: vec!["master".to_owned()],
            standby_tags: vec!["slave".to_owned(), "ro".to_owned()],
        }
    }

    /// Returns cluster data with the master d1 and these dbs: uid, whether it is healthy, address, port.
    fn data(dbs: &[(&str, bool, &str, &str)]) -> ClusterData {
        let db = |(uid, healthy, address, port): &(&str, bool, &str, &str)| {
            format!(
                r#""{uid}":{{"uid":"{uid}","status":{{"healthy":{healthy},"listenAddress":"{address}","port":"{port}"}}}}"#
            )
        };
        let dbs: Vec<String> = dbs.iter().map(db).collect();
        let text = format!(
            r#"{{"formatVersion":1,"cluster":{{"status":{{"master":"d1"}}}},"dbs":{{{}}}}}"#,
            dbs.join(",")
        );
        ClusterData::parse(text.as_bytes()).unwrap().unwrap()
    }

    /// Returns the wanted services as text.
    fn names(data: &ClusterData, register_master: bool) -> String {
        let text = |service: &Service| {
            let Service {
                id,
                name,
                tags,
                address,
                port,
            } = service;
            format!("{id} {name} {address} {port} {}", tags.join("+"))
        };
        match wanted(Some(data), "c", &options(register_master)) {
            Ok(wanted) => wanted.services.iter().map(text).collect::<Vec<_>>().join("; "),
            Err(why) => why.to_string(),
        }
    }

    const THREE: [(&str, bool, &str, &str); 3] = [
        ("d1", true, "10.0.0.1", "5432"),
        ("d2", true, "fe80::1", "5433"),
        ("d3", false, "10.0.0.3", "5432"),
    ];

    #[test]
    fn healthy_dbs_are_wanted_and_the_master_only_on_request() {
        // cli 15.2, cli 18.23
        let three = data(&THREE);
        assert_eq!(names(&three, false), "d2 c fe80::1 5433 slave+ro");
        assert_eq!(
            names(&three, true),
            "d1 c 10.0.0.1 5432 master; d2 c fe80::1 5433 slave+ro"
        );
        let skipped = wanted(Some(&three), "c", &options(false)).unwrap().skipped_master;
        assert_eq!(skipped, Some("d1".into()));
        let nothing = ClusterData::parse(br#"{"formatVersion":1,"cluster":{}}"#)
            .unwrap()
            .unwrap();
        assert_eq!(names(&nothing, true), "");
    }

    #[test]
    fn what_cannot_be_registered_is_an_error_for_the_whole_round() {
        // cli 15.2, cli 18.23
        for port in ["", "http", "0", "65536", "-1", "+1", " 5432", "5432x"] {
            let error = names(&data(&[("d2", true, "a", port)]), false);
            assert_eq!(error, format!("invalid database port '{port}' for c with uid d2"));
            assert_eq!(names(&data(&[("d2", false, "a", port)]), false), "");
        }
        assert_eq!(
            names(&data(&[("d2", true, "", "5432")]), false),
            "no database address for c with uid d2"
        );
        assert_eq!(wanted(None, "c", &options(true)), Err(UnknownServices::NoData));
        let empty = ClusterData::default();
        assert_eq!(
            wanted(Some(&empty), "c", &options(true)),
            Err(UnknownServices::NoCluster)
        );
        let mut later = data(&THREE);
        later.format_version = 2;
        assert_eq!(
            wanted(Some(&later), "c", &options(true)),
            Err(UnknownServices::Format(2))
        );
    }

    #[test]
    fn what_differs_is_removed_and_added() {
        // cli 15.2, cli 18.23
        let wanted = wanted(Some(&data(&THREE)), "c", &options(true)).unwrap().services;
        let check = |discovered: &[Service], expected: &str| {
            let CatalogChanges { remove, add } = changes(&wanted, discovered);
            let add: Vec<String> = add.into_iter().map(|service| service.id).collect();
            assert_eq!(format!("-{} +{}", remove.join(","), add.join(",")), expected);
        };
        check(&[], "- +d1,d2");
        check(&wanted, "- +");
        let with = |change: &dyn Fn(&mut Service)| {
            let mut discovered = wanted.clone();
            change(&mut discovered[1]);
            discovered
        };
        check(&with(&|service| service.address = "10.0.0.9".to_owned()), "-d2 +d2");
        check(&with(&|service| service.port = 70_000), "-d2 +d2");
        check(&with(&|service| service.tags.reverse()), "-d2 +d2");
        check(&with(&|service| service.name = "C".to_owned()), "-d2 +d2");
        check(&with(&|service| service.id = "old".to_owned()), "-old +d2");
    }
}

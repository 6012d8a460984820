//! Clients that insert rows through the proxies without pause, and record which master acknowledged each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use base::clock::Boottime;
use model::ClusterData;
use stolon_tests::sql::SqlClient;
use stolon_tests::wait::now;
use store::{KeyRange, Store};
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;
use tokio_util::task::AbortOnDropHandle;

use super::acknowledged::{ANNOUNCEMENT_DELAY, AcknowledgedLog, Announcements, MasterTimeline};

/// Delay before a client connects again.
const RECONNECT_DELAY: Duration = Duration::from_millis(20);
/// Delay between two rows of a client: it bounds what has to be recorded in hours.
const ROW_DELAY: Duration = Duration::from_millis(4);
/// After this time without a response a client connects again: its server may be stopped.
const ROW_TIMEOUT: Duration = Duration::from_secs(5);
/// How many contradictions are kept.
const CONTRADICTIONS_MAX: usize = 100;
/// Rows that are looked up at once.
const LOOKUP_ROWS: i64 = 1000;

/// What all clients have recorded.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// By client.
    pub(super) logs: Vec<AcknowledgedLog>,
    masters: BTreeSet<MasterTimeline>,
    /// Which servers were announced to the proxies.
    pub(super) announcements: Announcements,
    /// Rows that are not yet compared with the announcements, oldest first.
    unchecked: VecDeque<UncheckedRow>,
    /// Rows that show that proxies led to two masters, as sentences: the first ones.
    pub(super) two_masters: Vec<String>,
    /// Errors, by text.
    pub(super) errors: BTreeMap<String, u64>,
}

/// A row that was acknowledged a moment ago.
#[derive(Debug, Clone, Copy)]
struct UncheckedRow {
    client: usize,
    id: i64,
    master: MasterTimeline,
    sent: Boottime,
    acknowledged: Boottime,
}

impl Record {
    /// Returns how many masters have acknowledged rows.
    pub(super) fn masters(&self) -> usize {
        self.masters.len()
    }

    fn add(&mut self, row: UncheckedRow) {
        self.masters.insert(row.master);
        self.logs[row.client].add(row.id, row.master, row.acknowledged);
        self.unchecked.push_back(row);
        self.check_rows(row.acknowledged);
    }

    /// Compares rows with the announcements, as far as those are known at this time.
    pub(super) fn check_rows(&mut self, now: Boottime) {
        while let Some(row) = self.unchecked.front().copied() {
            if now.since(row.acknowledged) <= ANNOUNCEMENT_DELAY {
                return;
            }
            self.unchecked.pop_front();
            let announced = self
                .announcements
                .contradiction(row.master.server, row.sent, row.acknowledged);
            if let Some(announced) = announced.filter(|_| self.two_masters.len() < CONTRADICTIONS_MAX) {
                let UncheckedRow { client, id, master, .. } = row;
                self.two_masters.push(format!(
                    "{master} acknowledged row {id} of client {client} while the server on port {announced} was announced"
                ));
            }
        }
    }
}

/// The clients, which stop when this is dropped.
#[derive(Debug)]
pub(super) struct Clients {
    record: Arc<Mutex<Record>>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Acknowledged rows of one range that are not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostRows {
    /// How many.
    pub(super) count: i64,
    /// Who acknowledged them.
    pub(super) master: MasterTimeline,
    /// When that master acknowledged its last row of this range.
    pub(super) until: Boottime,
}

/// Makes the table.
///
/// # Errors
///
/// The statement fails.
pub(super) async fn create_table(sql: &SqlClient) -> anyhow::Result<()> {
    sql.run("create table writers (client int, id bigint, primary key (client, id))")
        .await
}

impl Clients {
    /// Starts `count` clients, in turns at each of the addresses.
    pub(super) fn start(addresses: &[Config], count: usize) -> Self {
        let record = Arc::new(Mutex::new(Record {
            logs: vec![AcknowledgedLog::default(); count],
            ..Record::default()
        }));
        let clients = addresses.iter().cycle().take(count).enumerate();
        let tasks = clients.map(|(client, address)| {
            let client = Client {
                address: address.clone(),
                number: client,
                next_id: 1,
                record: Arc::clone(&record),
            };
            AbortOnDropHandle::new(tokio::spawn(client.write_forever()))
        });
        Self {
            tasks: tasks.collect(),
            record,
        }
    }

    /// Returns what is recorded so far.
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many rows each client has had acknowledged so far.
    pub(super) fn counts(&self) -> Vec<i64> {
        self.record().logs.iter().map(AcknowledgedLog::count).collect()
    }

    /// Records which server is announced to the proxies from now on.
    pub(super) fn record_announcements(&mut self, store: &Store, ports: Vec<(String, u16)>) {
        let record = Arc::clone(&self.record);
        let watch = store.watch(vec![KeyRange::Key(store.keys().cluster_data())], None);
        let task = async move {
            loop {
                for change in watch.changed().await.keys.into_values() {
                    let data = change.entry.and_then(|entry| ClusterData::parse(&entry.value).ok()?);
                    let keeper = data.as_ref().and_then(|data| data.proxied_master());
                    let keeper = keeper.map(|(_, db)| db.spec.keeper_uid.to_string());
                    let port = ports.iter().find(|(name, _)| Some(name) == keeper.as_ref());
                    let port = port.map(|(_, port)| *port);
                    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
                    record.announcements.add(port, change.arrived);
                }
            }
        };
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    /// Stops them. What was recorded stays.
    pub(super) fn stop(&mut self) {
        self.tasks.clear();
    }
}

struct Client {
    address: Config,
    number: usize,
    next_id: i64,
    record: Arc<Mutex<Record>>,
}

impl Client {
    async fn write_forever(mut self) {
        loop {
            if let Err(error) = self.write_until_error().await {
                let text = error.root_cause().to_string();
                *self.record().errors.entry(text).or_default() += 1;
            }
            sleep(RECONNECT_DELAY).await;
        }
    }

    async fn write_until_error(&mut self) -> anyhow::Result<()> {
        let connect = timeout(ROW_TIMEOUT, SqlClient::connect(&self.address));
        let sql = connect.await.context("no connection in time")??;
        loop {
            // An id is never tried twice: a commit without an acknowledgement may have happened.
            let (id, client, sent) = (self.next_id, self.number, now());
            self.next_id += 1;
            let statement = format!(
                "insert into writers values ({client}, {id}) returning inet_server_port() || ' ' || \
                 substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
            );
            let answer = timeout(ROW_TIMEOUT, sql.value(&statement));
            let answer = answer.await.context("no response in time")??;
            self.acknowledge(id, parse_master(&answer)?, sent);
            sleep(ROW_DELAY).await;
        }
    }

    fn acknowledge(&self, id: i64, master: MasterTimeline, sent: Boottime) {
        self.record().add(UncheckedRow {
            client: self.number,
            id,
            master,
            sent,
            acknowledged: now(),
        });
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses port and timeline (hexadecimal), as the statement returns them.
fn parse_master(answer: &str) -> anyhow::Result<MasterTimeline> {
    let (server, timeline) = answer
        .split_once(' ')
        .with_context(|| format!("unexpected row {answer:?}"))?;
    Ok(MasterTimeline {
        server: server.parse().with_context(|| format!("port in {answer:?}"))?,
        timeline: u32::from_str_radix(timeline, 16).with_context(|| format!("timeline in {answer:?}"))?,
    })
}

/// Looks up every acknowledged row and returns those that are missing.
///
/// # Errors
///
/// The table cannot be read.
pub(super) async fn lost_rows(sql: &SqlClient, logs: &[AcknowledgedLog]) -> anyhow::Result<Vec<LostRows>> {
    let mut lost = Vec::new();
    for (client, log) in logs.iter().enumerate() {
        for rows in log.rows() {
            let mut count = 0;
            let mut first = rows.first;
            while first <= rows.last {
                let last = rows.last.min(first + LOOKUP_ROWS - 1);
                let found: i64 = sql
                    .value(&format!(
                        "select count(*) from writers where client = {client} and id between {first} and {last}"
                    ))
                    .await?
                    .parse()?;
                count += last - first + 1 - found;
                first = last + 1;
            }
            if count > 0 {
                lost.push(LostRows {
                    count,
                    master: rows.master,
                    until: rows.until,
                });
            }
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_is_parsed_from_the_row() {
        let master = parse_master("5432 0000001A").unwrap();
        assert_eq!((master.server, master.timeline), (5432, 26));
        for wrong in ["", "5432", "x 00000001", "5432 0000000G"] {
            assert!(parse_master(wrong).is_err(), "{wrong:?}");
        }
    }
}

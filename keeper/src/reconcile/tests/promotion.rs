//! What an elected standby does before its promotion (synchronous SY-21).

use model::{AccessMode, ProxySection, ProxySpec, TimelineHistory};

use super::*;

type Change = fn(&mut Db);

fn db_of<'a>(fake: &'a mut FakeKeeper, uid: &str) -> &'a mut Db {
    let data = fake.data.as_mut().expect("the case has cluster data");
    data.dbs_mut()
        .get_mut(&DbUid::from(uid))
        .expect("the case has both dbs")
}

fn switch_at(lsn: u64) -> TimelineHistory {
    TimelineHistory {
        timeline_id: 1,
        switch_point: Lsn(lsn),
        reason: String::new(),
    }
}

/// Rule: synchronous SY-21, keeper 12.7.4. The row of the decision table: keeper T8 row 32.
#[test]
fn an_elected_standby_receives_another_ones_wal_before_its_promotion() {
    let ahead = |positions: [u64; 2]| {
        let mut fake = fake();
        fake.local.data = DataState::Present(DataRole::Standby);
        for (uid, position) in ["A", "B"].into_iter().zip(positions) {
            let status = &mut db_of(&mut fake, uid).status;
            (status.xlog_pos, status.healthy, status.current_generation) = (Lsn(position), true, 1);
            status.timelines_history = vec![switch_at(8)];
        }
        fake
    };
    let taken = "reload following host-k2:5432 without a slot; catch up to 0/20; permit; promote; reload; done";
    assert_eq!(ahead([0x10, 0x20]).round(), taken);
    let of_synchronous = "reload following host-k2:5432 without a slot; confirm 'stolon_B'; catch up to 0/20; permit; promote; reload; done";
    assert_eq!(ahead([0x10, 0x20]).synchronous(&["B"]).round(), of_synchronous);
    // it has waited, and the promotion failed
    let mut again = ahead([0x10, 0x20]).failing("promote");
    assert!(again.round().contains("catch up"));
    again.failing_steps.clear();
    assert_eq!(again.round(), "permit; promote; reload; done");
    let mut refused = ahead([0x10, 0x20]);
    refused.refuses = true;
    assert_eq!(refused.round(), "permit; promote; done");

    // it goes on following the other one until it is promoted
    let mut named = ahead([0x10, 0x20]).synchronous(&["B"]).failing("promote");
    assert!(named.round().contains("catch up"));
    named.failing_steps.clear();
    let still_following = "reload following host-k2:5432 without a slot; confirm 'stolon_B'; permit; promote; done";
    assert_eq!(named.round(), still_following);
    let mut first = ahead([0x10, 0x20]);
    for uid in ["A", "B"] {
        let status = &mut db_of(&mut first, uid).status;
        (status.timeline_id, status.timelines_history) = (1, Vec::new());
    }
    assert_eq!(first.round(), taken);
    let mut two = ahead([0x10, 0x20]);
    let mut most = db_of(&mut two, "B").clone();
    (most.uid, most.spec.keeper_uid, most.status.xlog_pos) = ("C".into(), "k3".into(), Lsn(0x30));
    most.status.listen_address = "host-k3".to_owned();
    two.data.as_mut().expect("there").dbs_mut().insert("C".into(), most);
    assert!(
        two.round()
            .contains("following host-k3:5432 without a slot; catch up to 0/30; permit")
    );

    let mut by_now = ahead([0x10, 0x20]);
    let lacks = ahead_standby(&by_now.reading(), &ME.into()).expect("it lacks WAL");
    assert!(!lacks.is_reached(None) && !lacks.is_reached(Some(Lsn(0x1f))) && lacks.is_reached(Some(Lsn(0x20))));
    db_of(&mut by_now, "A").status.xlog_pos = Lsn(0x20);
    assert_eq!(ahead_standby(&by_now.reading(), &ME.into()), None);
    for positions in [[0x20, 0x20], [0x20, 0x10]] {
        assert_eq!(ahead(positions).round(), "permit; promote; done");
    }
    let unfit: [(&str, Change); 9] = [
        ("unhealthy", |db| db.status.healthy = false),
        ("incomplete", |db| db.status.current_generation = 0),
        ("another timeline", |db| db.status.timeline_id = 1),
        ("another branch", |db| db.status.timelines_history = vec![switch_at(9)]),
        ("an unknown branch", |db| db.status.timelines_history.clear()),
        ("another system", |db| db.status.system_id = "8".into()),
        ("no system id", |db| db.status.system_id = String::new()),
        ("a former master", |db| db.spec.role = Role::Master),
        ("no address", |db| db.status.listen_address = String::new()),
    ];
    for (what, change) in unfit {
        let mut fake = ahead([0x10, 0x20]);
        change(db_of(&mut fake, "B"));
        assert_eq!(fake.round(), "permit; promote; done", "{what}");
    }
    let strict = ahead([0x10, 0x20]).cluster_spec(|spec| spec.default_su_repl_access_mode = Some(AccessMode::Strict));
    assert_eq!({ strict }.round(), "permit; promote; done");
    // positions of a running cluster are not read at the same time
    let mut announced = ahead([0x10, 0x20]);
    let data = announced.data.as_mut().expect("the case has cluster data");
    data.proxy = Some(ProxySection {
        spec: ProxySpec {
            master_db_uid: "A".into(),
            ..ProxySpec::default()
        },
        ..ProxySection::default()
    });
    assert_eq!(announced.round(), "permit; promote; done");
}

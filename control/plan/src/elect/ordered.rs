//! The election of a switchover: the master was stopped in order, and a standby that has received everything replaces it
//! (extensions X-2, step 5; synchronous SY-2, SY-14). When it is due is left to `switchover`.

use crate::draft::Draft;
use crate::elect::choose::choose;
use crate::elect::eligible::{self, ReplacedMaster, ReportQuality};
use crate::elect::install::install;
use crate::elect::usable::{CleanEnd, MasterState};
use crate::note::Note;
use crate::view::PlanView;
use model::{Db, DbUid, KeeperUid};

/// Elects the standby of keeper `to`, or the best one, if it has received everything up to `end` and its keeper reports
/// it healthy now. Returns the keeper of the elected db.
pub(crate) fn elect_after_ordered_stop(
    draft: &mut Draft,
    view: &PlanView<'_>,
    (master, db): (&DbUid, &Db),
    end: CleanEnd,
    to: Option<&KeeperUid>,
) -> Option<KeeperUid> {
    let state = MasterState::StoppedByOrder { end };
    let replaced = ReplacedMaster { uid: master, db, state };
    let mut candidates = Vec::new();
    let standbys = view.standbys();
    for (uid, standby) in standbys.filter(|(_, standby)| to.is_none_or(|to| standby.spec.keeper_uid == *to)) {
        let (answer, deadline) = eligible::regular(view, uid, standby, replaced);
        draft.deadlines.wake_after(deadline, view.now);
        match answer {
            Ok(candidate) if candidate.is_complete && candidate.quality == ReportQuality::Fresh => {
                candidates.push(candidate);
            }
            Ok(_) => {}
            Err(why) => draft.note(why.note(uid, standby)),
        }
    }
    let best = choose(candidates)?;
    draft.note(Note::MasterStoppedByOrder {
        db: master.clone(),
        keeper: db.spec.keeper_uid.clone(),
        lsn: end.lsn,
    });
    install(draft, view, replaced, &best);
    view.data.dbs().get(&best.db).map(|db| db.spec.keeper_uid.clone())
}

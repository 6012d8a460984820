//! Chance that comes in as values: new uids and random numbers. Where they come from is left to the caller.

use std::collections::BTreeMap;

use model::{Db, DbUid};

/// Random numbers and new uids, passed in so that tests and simulations can drive the planner.
pub struct Entropy<'a> {
    /// Returns a new uid at every call.
    pub uid: &'a mut dyn FnMut() -> String,
    /// A random number, for a choice among equals.
    pub number: u64,
}

impl Entropy<'_> {
    /// Returns a uid that no db has: a db uid is never reused (sentinel 1.1).
    pub(crate) fn db_uid(&mut self, taken: &BTreeMap<DbUid, Db>) -> DbUid {
        loop {
            let uid = DbUid::from((self.uid)());
            if !taken.contains_key(&uid) {
                return uid;
            }
        }
    }

    /// Returns an index below `count`, which is not zero.
    pub(crate) fn pick(&self, count: usize) -> usize {
        usize::try_from(self.number % count as u64).expect("a remainder is below its divisor")
    }
}

//! Concurrent use of one gate under every interleaving that the memory model allows (loom): the code of `lease_end.rs`
//! again, with loom's atomics. Nothing else in the relay is shared between threads without a lock: each thread has its
//! own pool of pipes and its own counters, which others only sum.

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    reason = "the same lines over other atomics are what it is about"
)]
#[path = "lease_end.rs"]
mod lease_end;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use self::lease_end::LeaseEnd;

// fencing F-1, F-3: after the generation was published, the gate is found closed
#[test]
fn nothing_is_admitted_after_the_close_was_observed() {
    loom::model(|| {
        let (gate, published) = (Arc::new(LeaseEnd::new(100)), Arc::new(AtomicBool::new(false)));
        let relay = {
            let (gate, published) = (Arc::clone(&gate), Arc::clone(&published));
            thread::spawn(move || {
                let late = published.load(Ordering::Acquire); // the bytes read were sent after the publication
                let admits = gate.is_open(50);
                assert!(!(late && admits), "a late reply was let through");
            })
        };
        gate.close();
        published.store(true, Ordering::Release);
        relay.join().unwrap();
    });
}

#[test]
fn no_renewal_revives_a_gate_whatever_it_races_with() {
    loom::model(|| {
        let gate = Arc::new(LeaseEnd::new(100));
        let renewing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.renew(200, 99))
        };
        let expiring = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.expire(100))
        };
        let (renewed, expired) = (renewing.join().unwrap(), expiring.join().unwrap());
        assert!(renewed != expired, "either it was renewed in time or it has ended");
        assert_eq!(gate.get(), if renewed { 200 } else { 0 });
        gate.close();
        assert!(!gate.renew(300, 0) && !gate.is_open(0));
    });
}

#[test]
fn closing_wins_over_a_renewal_that_races_with_it() {
    loom::model(|| {
        let gate = Arc::new(LeaseEnd::new(100));
        let renewing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.renew(200, 50))
        };
        gate.close();
        renewing.join().unwrap();
        assert_eq!(gate.get(), 0);
    });
}

#[test]
fn exactly_one_caller_closes_an_expired_gate() {
    loom::model(|| {
        let gate = Arc::new(LeaseEnd::new(100));
        let others = [100, 101].map(|now| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.expire(now))
        });
        let first = gate.expire(100);
        let closed = others.map(|other| other.join().unwrap());
        let times = usize::from(first) + closed.into_iter().filter(|closed| *closed).count();
        assert_eq!(times, 1);
        assert_eq!(gate.get(), 0);
    });
}

// concurrent scrapes add the bytes of each thread once (as in `metrics/relay.rs`)
#[test]
fn concurrent_sums_add_everything_once() {
    loom::model(|| {
        let (count, reported, counter) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let scrape = {
            let (count, reported, counter) = (Arc::clone(&count), Arc::clone(&reported), Arc::clone(&counter));
            move || {
                let sum = count.load(Ordering::Relaxed);
                let before = reported.fetch_max(sum, Ordering::Relaxed);
                counter.fetch_add(sum.saturating_sub(before), Ordering::Relaxed);
            }
        };
        let relay = {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                count.fetch_add(3, Ordering::Relaxed);
                count.fetch_add(4, Ordering::Relaxed);
            })
        };
        let other = thread::spawn(scrape.clone());
        scrape();
        relay.join().unwrap();
        other.join().unwrap();
        scrape();
        assert_eq!(counter.load(Ordering::Relaxed), 7);
    });
}

//! The proxy section: where proxies may send clients, and when that may change (INV-3 to INV-6, INV-22).

use crate::check::transition::{Transition, master, phase};
use crate::check::violations::Violations;
use model::Phase;

/// Checks the proxy section.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    let old = transition.before.proxy.clone().unwrap_or_default();
    let new = transition.next.proxy.clone().unwrap_or_default();
    let (was, is) = (&old.spec.master_db_uid, &new.spec.master_db_uid);
    if phase(transition.next) == Some(&Phase::Normal) {
        let right = is.is_empty() || *is == master(transition.next);
        violations.require(right, "INV-3", || {
            format!("proxies are sent to {is}, which is not the master")
        });
    }
    let through_none = was.is_empty() || is.is_empty() || was == is;
    violations.require(through_none, "INV-4", || {
        format!("proxies go from {was} straight to {is}")
    });
    // A proxy that still forwards to a former master would write to it while another one is announced.
    if was.is_empty() && !is.is_empty() {
        let announced = transition.before.dbs().get(is);
        let is_synchronous = announced.is_some_and(|db| db.spec.synchronous_replication);
        violations.require(is_synchronous || !transition.spec_is_synchronous(), "SY-8", || {
            format!("{is} is announced before its commits wait for standbys")
        });
        let forwarding = transition.forwarding_proxies();
        violations.require(forwarding.is_empty(), "INV-5", || {
            format!("{forwarding:?} may still forward")
        });
    }
    if old.spec.enabled_proxies != new.spec.enabled_proxies {
        let right = !is.is_empty() && new.spec.enabled_proxies.iter().eq(transition.active_proxies());
        violations.require(right, "INV-6", || {
            "the enabled proxies are not the active ones".to_owned()
        });
    }
    let step = i64::from(old.spec != new.spec);
    let counted = new.generation == old.generation.wrapping_add(step);
    violations.require(counted, "INV-22", || {
        format!("proxy generation {} follows {}", new.generation, old.generation)
    });
}

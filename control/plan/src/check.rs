//! The invariants of every plan (sentinel 17), checked before each write. A plan that breaks one is a bug and is not
//! written. What they are about is recomputed from the data (`check/transition.rs`): a checker that calls the function
//! that it is meant to check cannot see that function's fault.

mod dbs;
mod document;
mod election;
mod keepers;
mod proxy_section;
mod requested;
mod switchover;
mod synchronous;
pub(crate) mod transition;
mod violations;

use crate::check::transition::Transition;
use crate::check::violations::Violations;
use crate::plan_error::Violation;

/// Returns the invariants that a plan breaks.
pub(crate) fn check(transition: &Transition<'_>) -> Vec<Violation> {
    let mut violations = Violations::default();
    document::check(transition, &mut violations);
    proxy_section::check(transition, &mut violations);
    election::check(transition, &mut violations);
    requested::check(transition, &mut violations);
    switchover::check(transition, &mut violations);
    synchronous::check(transition, &mut violations);
    dbs::check(transition, &mut violations);
    keepers::check(transition, &mut violations);
    violations.0
}

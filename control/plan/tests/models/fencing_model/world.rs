//! Everything that can happen next, to the sentinel and the clock; what a proxy does is left to `proxy`.

use super::history::{History, Reign, Version, Write, same_address};
use super::proxy::{Proxy, Step};
use super::rules::{Elections, Rules, Wait};

/// The bounds of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Ticks of a proxy's lease.
    pub(super) lease: u8,
    /// Writes of the sentinel.
    pub(super) writes: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World<const PROXIES: usize> {
    pub(super) data: History,
    /// Ticks since "no master" was written, no further than a lease.
    pub(super) since_none: u8,
    pub(super) proxies: [Proxy; PROXIES],
}

impl<const PROXIES: usize> World<PROXIES> {
    pub(super) fn start() -> Self {
        Self {
            data: History::default(),
            since_none: 0,
            proxies: [Proxy::FRESH; PROXIES],
        }
    }

    pub(super) fn is_violated(&self, rules: Rules) -> bool {
        let mut given = self.proxies.iter().filter_map(|proxy| proxy.would_give(rules));
        given.any(|reign| self.is_too_late(reign) || self.is_too_early(reign))
    }

    /// Returns whether a later master is announced.
    fn is_too_late(&self, reign: Reign) -> bool {
        self.data
            .published(self.data.version())
            .is_some_and(|published| published != reign)
    }

    /// Returns whether a master elected since then and not announced is, or may still be, at the same address.
    fn is_too_early(&self, reign: Reign) -> bool {
        let Some(since) = self.data.closed_since() else {
            return false;
        };
        let mut unpublished = (since..=self.data.version()).map(|version| self.data.reign(version));
        unpublished.any(|elected| same_address(elected, reign))
    }

    /// Everything that can happen next.
    pub(super) fn next(&self, rules: Rules, bounds: Bounds) -> Vec<(String, Self)> {
        let lease = bounds.lease;
        let mut next = vec![("a tick passes".to_owned(), self.after_a_tick(rules, lease))];
        if self.data.version() < bounds.writes {
            let writes = self.after_the_sentinel(rules, lease).into_iter();
            next.extend(writes.map(|(what, world)| (what.to_owned(), world)));
        }
        let mut infos_read = self.clone();
        for proxy in &mut infos_read.proxies {
            proxy.seen_acknowledged = proxy.acknowledged;
            let in_time = rules.wait != Wait::LeaseOfInfo || self.data.closed_since().is_some();
            let silence = rules.wait.silence(lease);
            proxy.seen_silent = in_time && silence.is_some_and(|silence| proxy.silent >= silence);
        }
        next.push(("the sentinel reads the infos".to_owned(), infos_read));
        for index in 0..PROXIES {
            for (what, proxy) in self.proxies[index].next(self.data, rules, bounds) {
                let mut world = self.clone();
                world.proxies[index] = proxy;
                next.push((format!("proxy {index}: {what}"), world));
            }
        }
        for (_, world) in &mut next {
            world.proxies.sort_unstable(); // which proxy is which does not matter
        }
        next
    }

    fn after_a_tick(&self, rules: Rules, lease: u8) -> Self {
        let mut world = self.clone();
        if self.data.closed_since().is_some() {
            world.since_none = (self.since_none + 1).min(lease);
        }
        for proxy in &mut world.proxies {
            proxy.lease = proxy.lease.saturating_sub(1);
            if let Some(silence) = rules.wait.silence(lease) {
                proxy.silent = (proxy.silent + 1).min(silence);
            }
            if let Some(earlier) = &mut proxy.earlier {
                earlier.age = (earlier.age + 1).min(lease);
            }
            match &mut proxy.step {
                Step::Idle => {}
                Step::Reading { age }
                | Step::Read { age, .. }
                | Step::Announcing { age, .. }
                | Step::Answered { age, .. } => *age = (*age + 1).min(lease),
            }
        }
        world
    }

    /// The sentinel writes the next version, when it may.
    fn after_the_sentinel(&self, rules: Rules, lease: u8) -> Vec<(&'static str, Self)> {
        let after = |write| Self {
            data: self.data.after(write),
            ..self.clone()
        };
        if self.data.closed_since().is_none() {
            let mut closed = after(Write::Elect);
            for proxy in &mut closed.proxies {
                // another generation: earlier acknowledgements do not count
                (proxy.acknowledged, proxy.seen_acknowledged) = (false, false);
                proxy.seen_silent &= rules.wait != Wait::LeaseOfInfo;
            }
            return vec![("the sentinel elects and writes no master", closed)];
        }
        let is_waited_for = |proxy: &Proxy| match rules.wait {
            Wait::Lease => !proxy.seen_acknowledged && self.since_none < lease,
            Wait::Silence => !proxy.seen_acknowledged && !proxy.seen_silent,
            Wait::LeaseOfInfo | Wait::LeaseOfEarlierInfo => {
                !proxy.seen_acknowledged && !proxy.seen_silent && self.since_none < lease
            }
        };
        let all_closed = !self.proxies.iter().any(is_waited_for);
        let mut next = Vec::new();
        if all_closed {
            // the time since "no master" does not matter any more
            let published = Self {
                since_none: 0,
                ..after(Write::Publish)
            };
            next.push(("the sentinel publishes the master", published));
        }
        if all_closed || rules.elections == Elections::AnyTime {
            next.push(("the sentinel elects again", after(Write::Elect)));
        }
        next
    }
}

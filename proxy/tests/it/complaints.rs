//! What a proxy says of a thing that befalls thousands.

use std::collections::BTreeMap;

use control::clock::Boottime;
use stolon_tests::wait::now;

use crate::rig::Proxy;

/// Asserts that there was a warning or an error, and that each was told once a second at most `since` the proxy was
/// started.
pub(crate) fn told_seldom(proxy: &Proxy, since: Boottime) {
    let seconds = usize::try_from(now().since(since).as_secs()).unwrap();
    let mut told = BTreeMap::<String, usize>::new();
    let log = proxy.process.log();
    let complaints = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    for line in complaints {
        let message = line.split(' ').skip(1).filter(|word| !word.contains('='));
        *told.entry(message.collect::<Vec<_>>().join(" ")).or_default() += 1;
    }
    println!("{told:?} in {seconds} s");
    assert!(!told.is_empty(), "nothing was said of it");
    for (message, times) in told {
        assert!(times <= seconds + 2, "{message:?} {times} times in {seconds} s");
    }
}

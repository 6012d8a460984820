//! Checks that events that hit thousands of clients are logged with a rate limit.

use std::collections::BTreeMap;

use base::clock::Boottime;
use stolon_tests::wait::now;

use crate::harness::Proxy;

/// Asserts that a warning or an error was logged, and each at most once a second `since` the proxy was started.
pub(crate) fn assert_log_is_rate_limited(proxy: &Proxy, since: Boottime) {
    let seconds = usize::try_from(now().since(since).as_secs()).unwrap();
    let mut counts = BTreeMap::<String, usize>::new();
    let log = proxy.process.log();
    let complaints = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    for line in complaints {
        let message = line.split(' ').skip(1).filter(|word| !word.contains('='));
        *counts.entry(message.collect::<Vec<_>>().join(" ")).or_default() += 1;
    }
    println!("{counts:?} in {seconds} s");
    assert!(!counts.is_empty(), "it was not logged");
    for (message, times) in counts {
        assert!(times <= seconds + 2, "{message:?} {times} times in {seconds} s");
    }
}

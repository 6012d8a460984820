//! Decides when to give up a peer for which bytes are waiting: after a time without any acknowledgement in which the
//! kernel kept probing it. A peer that acknowledges but does not read is never given up (proxy P-13). Idle peers are
//! left to keepalive.
//!
//! Two counters of the kernel show how often it probed (tcp_info of linux/tcp.h). With a closed receive window the peer
//! is probed, otherwise bytes are retransmitted. Any acknowledgement resets the first counter, one of new bytes the
//! second, and each the time since the last acknowledgement. The time alone is not enough, because the intervals
//! between probes grow up to two minutes. Retransmissions into a window that the peer has shrunk count as neither; then
//! the kernel itself gives up after two to four minutes of silence, depending on its version (`tcp_retransmit_timer` in
//! net/ipv4/tcp_timer.c).

use std::time::Duration;

use super::socket::SharedFd;
use crate::relay::outcome::Side;
use crate::relay::sys;

/// Longest time between two checks of a peer.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Checks within the timeout, at least.
const POLLS_PER_TIMEOUT: u32 = 4;

/// When a peer is given up while bytes wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTimeout {
    /// Seconds since its last acknowledgement. A small type, because every connection has one.
    pub silence_seconds: u32,
    /// Number of consecutive probes of the kernel without a response. At least 2, because the last one may have been
    /// sent just now.
    pub unanswered_probes: u8,
}

impl Default for PeerTimeout {
    /// Two minutes: a switch reboots, an address moves or a route is elected in less, and a server's locks and snapshot
    /// are not held for the kernel's quarter of an hour (`net.ipv4.tcp_retries2` of tcp(7)). Three probes, because two
    /// may be lost.
    fn default() -> Self {
        Self {
            silence_seconds: 120,
            unanswered_probes: 3,
        }
    }
}

impl PeerTimeout {
    fn poll_interval(self) -> Duration {
        (Duration::from_secs(self.silence_seconds.into()) / POLLS_PER_TIMEOUT).min(POLL_INTERVAL_MAX)
    }
}

/// What the kernel reports about a peer.
#[derive(Debug, Clone, Copy)]
struct PeerStats {
    /// Milliseconds since its last acknowledgement, of new bytes or not.
    last_ack_ms: u32,
    /// Unanswered probes of a closed window.
    probes: u8,
    /// Retransmissions since new bytes were acknowledged.
    retransmits: u8,
}

impl From<&libc::tcp_info> for PeerStats {
    fn from(info: &libc::tcp_info) -> Self {
        Self {
            last_ack_ms: info.tcpi_last_ack_recv,
            probes: info.tcpi_probes,
            retransmits: info.tcpi_retransmits,
        }
    }
}

fn is_timed_out(stats: PeerStats, timeout: PeerTimeout) -> bool {
    let is_silent = stats.last_ack_ms / 1000 >= timeout.silence_seconds;
    is_silent && stats.probes.max(stats.retransmits) >= timeout.unanswered_probes
}

/// Waits until one of the peers has timed out, and returns its side. A peer without information from the kernel never
/// times out.
pub(super) async fn wait_for_either(client: &SharedFd, server: &SharedFd, timeout: PeerTimeout) -> Side {
    loop {
        tokio::time::sleep(timeout.poll_interval()).await;
        for (side, socket) in [(Side::Client, client), (Side::Server, server)] {
            let info = sys::tcp_info(socket.fd.get_ref());
            if info.is_ok_and(|info| is_timed_out(PeerStats::from(&info), timeout)) {
                return side;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PROBES: PeerStats = PeerStats {
        last_ack_ms: 0,
        probes: 0,
        retransmits: 0,
    };

    fn check(stats: PeerStats, expected: bool) {
        let timeout = PeerTimeout {
            silence_seconds: 25,
            unanswered_probes: 3,
        };
        assert_eq!(is_timed_out(stats, timeout), expected, "{stats:?}");
    }

    #[test]
    fn a_peer_that_leaves_all_probes_unanswered_times_out() {
        let last_ack_ms = 25_000;
        for unanswered in [3, 4, u8::MAX] {
            check(
                PeerStats {
                    last_ack_ms,
                    probes: unanswered,
                    ..NO_PROBES
                },
                true,
            );
            check(
                PeerStats {
                    last_ack_ms,
                    retransmits: unanswered,
                    ..NO_PROBES
                },
                true,
            );
        }
    }

    #[test]
    fn a_peer_does_not_time_out_early() {
        let last_ack_ms = 24_999;
        check(
            PeerStats {
                last_ack_ms,
                probes: 9,
                ..NO_PROBES
            },
            false,
        );
        check(
            PeerStats {
                last_ack_ms,
                retransmits: 9,
                ..NO_PROBES
            },
            false,
        );
    }

    // proxy P-13
    #[test]
    fn a_peer_that_acknowledges_and_does_not_read_never_times_out() {
        let last_ack_ms = 119_000; // the kernel has probed for hours, and now does so every two minutes
        check(
            PeerStats {
                last_ack_ms,
                ..NO_PROBES
            },
            false,
        );
        check(
            PeerStats {
                last_ack_ms,
                probes: 1,
                ..NO_PROBES
            },
            false,
        ); // probed just now
        check(
            PeerStats {
                last_ack_ms,
                probes: 2,
                ..NO_PROBES
            },
            false,
        ); // and one was lost
    }

    #[test]
    fn a_peer_that_acknowledges_does_not_time_out_despite_retransmissions() {
        let last_ack_ms = 10;
        check(
            PeerStats {
                last_ack_ms,
                retransmits: 12,
                ..NO_PROBES
            },
            false,
        );
    }

    #[test]
    fn a_peer_is_checked_a_few_times_within_its_timeout() {
        assert_eq!(PeerTimeout::default().poll_interval(), Duration::from_secs(5));
        let short = PeerTimeout {
            silence_seconds: 2,
            unanswered_probes: 2,
        };
        assert_eq!(short.poll_interval(), Duration::from_millis(500));
    }
}

//! When a peer is given up for which bytes wait: once it has said nothing for long although the kernel keeps asking. A
//! peer that answers and only does not read is never given up (P-13). Idle peers are keepalive's business.
//!
//! Two counts of the kernel say what was asked (tcp_info of linux/tcp.h): a peer that has closed its window is probed, and
//! to one that has room bytes are sent again. Any acknowledgement clears the first, one of new bytes the second, and every
//! one the time since the last. That time alone says nothing, since the kernel asks ever more seldom, at last every two
//! minutes. What is sent again into a window that was taken back counts as neither: there the kernel itself gives up, after
//! two to four minutes of silence by its version (`tcp_retransmit_timer` in its net/ipv4/tcp_timer.c).

use std::time::Duration;

use super::socket::Io;
use super::{Side, sys};

/// The pause between two looks at a peer, if its silence may last for a few of them.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Looks in the time of silence that is allowed.
const LOOKS: u32 = 4;

/// How much silence of a peer is borne while bytes wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Seconds since its last acknowledgement; small, as every connection has one of these.
    pub silence_seconds: u32,
    /// Questions of the kernel in a row that it has left unanswered. At least 2: the last one may have been asked just now.
    pub questions: u8,
}

impl Default for Patience {
    /// Two minutes: what restarts a switch, moves an address or elects a route passes meanwhile, and a server's locks and
    /// snapshot are not held for the kernel's quarter of an hour (`net.ipv4.tcp_retries2` of tcp(7)). Three questions, as
    /// two may be lost.
    fn default() -> Self {
        Self {
            silence_seconds: 120,
            questions: 3,
        }
    }
}

impl Patience {
    fn pause(self) -> Duration {
        (Duration::from_secs(self.silence_seconds.into()) / LOOKS).min(PAUSE_MAX)
    }
}

/// What the kernel knows of a peer.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Milliseconds since it last acknowledged anything, new or not.
    last_ack_ms: u32,
    /// Probes since then.
    probes: u8,
    /// How often bytes were sent again since new ones were acknowledged.
    retransmits: u8,
}

impl From<&libc::tcp_info> for Known {
    fn from(info: &libc::tcp_info) -> Self {
        Self {
            last_ack_ms: info.tcpi_last_ack_recv,
            probes: info.tcpi_probes,
            retransmits: info.tcpi_retransmits,
        }
    }
}

fn is_silent(known: Known, patience: Patience) -> bool {
    let for_so_long = known.last_ack_ms / 1000 >= patience.silence_seconds;
    for_so_long && known.probes.max(known.retransmits) >= patience.questions
}

/// Waits until one of the peers is silent, and gives which. One that the kernel tells nothing of never is.
pub(super) async fn of_either(client: &Io, master: &Io, patience: Patience) -> Side {
    loop {
        tokio::time::sleep(patience.pause()).await;
        for (side, io) in [(Side::Client, client), (Side::Master, master)] {
            let info = sys::tcp_info(io.fd.get_ref());
            if info.is_ok_and(|info| is_silent(Known::from(&info), patience)) {
                return side;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Known = Known {
        last_ack_ms: 0,
        probes: 0,
        retransmits: 0,
    };

    fn check(known: Known, expected: bool) {
        let patience = Patience {
            silence_seconds: 25,
            questions: 3,
        };
        assert_eq!(is_silent(known, patience), expected, "{known:?}");
    }

    #[test]
    fn a_peer_that_leaves_all_questions_unanswered_for_the_whole_time_is_silent() {
        let last_ack_ms = 25_000;
        for questions in [3, 4, u8::MAX] {
            check(
                Known {
                    last_ack_ms,
                    probes: questions,
                    ..ROOM
                },
                true,
            );
            check(
                Known {
                    last_ack_ms,
                    retransmits: questions,
                    ..ROOM
                },
                true,
            );
        }
    }

    #[test]
    fn a_peer_is_not_silent_before_its_time_is_over() {
        let last_ack_ms = 24_999;
        check(
            Known {
                last_ack_ms,
                probes: 9,
                ..ROOM
            },
            false,
        );
        check(
            Known {
                last_ack_ms,
                retransmits: 9,
                ..ROOM
            },
            false,
        );
    }

    // proxy P-13
    #[test]
    fn a_peer_that_answers_and_does_not_read_is_never_silent() {
        let last_ack_ms = 119_000; // the kernel has asked for hours, and now asks every two minutes
        check(Known { last_ack_ms, ..ROOM }, false);
        check(
            Known {
                last_ack_ms,
                probes: 1,
                ..ROOM
            },
            false,
        ); // asked just now
        check(
            Known {
                last_ack_ms,
                probes: 2,
                ..ROOM
            },
            false,
        ); // and one was lost
    }

    #[test]
    fn a_peer_that_says_something_is_not_silent_however_much_is_sent_again() {
        let last_ack_ms = 10;
        check(
            Known {
                last_ack_ms,
                retransmits: 12,
                ..ROOM
            },
            false,
        );
    }

    #[test]
    fn a_silence_is_looked_at_a_few_times_and_not_too_often() {
        assert_eq!(Patience::default().pause(), Duration::from_secs(5));
        let short = Patience {
            silence_seconds: 2,
            questions: 2,
        };
        assert_eq!(short.pause(), Duration::from_millis(500));
    }
}

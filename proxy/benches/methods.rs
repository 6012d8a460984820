//! The cost of the relay methods: CPU of the relay thread per GB or per round trip, for each configuration. Rounds are
//! interleaved, and every other one runs in reverse order. Prints medians, and the ratio to plain copying.
//!
//! `cargo bench -p proxy`; a number after `--` sets the rounds.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use base::clock::Boottime;
use proxy::relay::{ByteCounters, Gate, MethodPolicy, PeerTimeout, RelayConfig, Socket, forward};
use socket2::SockRef;

const CONFIGS: [(&str, RelayConfig); 4] = [
    ("copy", config(MethodPolicy::Copy, false)),
    ("splice", config(MethodPolicy::Splice, false)),
    ("adaptive", config(MethodPolicy::Adaptive, false)),
    ("adaptive, batched", config(MethodPolicy::Adaptive, true)),
];

const fn config(methods: MethodPolicy, batching: bool) -> RelayConfig {
    RelayConfig {
        methods,
        batching,
        peer_timeout: PeerTimeout {
            silence_seconds: 120,
            unanswered_probes: 3,
        },
    }
}

/// What the two ends do.
#[derive(Clone, Copy)]
enum Load {
    /// The server sends `pieces` pieces of this many bytes.
    Stream { piece: usize, pieces: usize },
    /// The client asks with one byte, the server answers with `bytes`; this many times.
    Answers { bytes: usize, times: usize },
}

const LOADS: [(&str, Load); 6] = [
    (
        "stream, 8 KiB sends",
        Load::Stream {
            piece: 8 << 10,
            pieces: 64 << 10,
        },
    ),
    (
        "stream, 256 KiB sends",
        Load::Stream {
            piece: 256 << 10,
            pieces: 4 << 10,
        },
    ),
    (
        "answers of 100 B",
        Load::Answers {
            bytes: 100,
            times: 20_000,
        },
    ),
    (
        "answers of 16 KiB",
        Load::Answers {
            bytes: 16 << 10,
            times: 10_000,
        },
    ),
    (
        "answers of 128 KiB",
        Load::Answers {
            bytes: 128 << 10,
            times: 5_000,
        },
    ),
    (
        "answers of 512 KiB",
        Load::Answers {
            bytes: 512 << 10,
            times: 1_000,
        },
    ),
];

fn main() {
    let rounds = std::env::args()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(7_usize);
    println!("CPU of the relay thread, wall time beside it; median of {rounds} rounds, and its ratio to copying");
    for (name, load) in LOADS {
        let mut figures = vec![Vec::new(); CONFIGS.len()];
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..CONFIGS.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                figures[at].push(measure(load, CONFIGS[at].1));
            }
        }
        let medians: Vec<(f64, f64)> = figures.into_iter().map(median).collect();
        let unit = match load {
            Load::Stream { .. } => "ms/GB",
            Load::Answers { .. } => "us each",
        };
        for ((config, _), (cpu, wall)) in CONFIGS.iter().zip(&medians) {
            let ratio = cpu / medians[0].0;
            println!("{name:24} {config:18} {cpu:9.2} {unit:8} wall {wall:9.2}  x {ratio:.2}");
        }
    }
}

fn median(mut figures: Vec<(f64, f64)>) -> (f64, f64) {
    let mut median = |of: fn(&(f64, f64)) -> f64| {
        figures.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&figures[figures.len() / 2])
    };
    (median(|figure| figure.0), median(|figure| figure.1))
}

/// Returns CPU and wall time of one connection, in ms per GB or in µs per answer.
fn measure(load: Load, config: RelayConfig) -> (f64, f64) {
    let ((client, inner_client), (inner_server, server)) = (connection(), connection());
    let relay = thread::spawn(move || relay(inner_client, inner_server, config));
    let server_thread = thread::spawn(move || serve(load, server));
    ask(load, client);
    server_thread.join().unwrap();
    let (cpu_nanos, wall_nanos) = relay.join().unwrap();
    let per = match load {
        Load::Stream { piece, pieces } => (piece * pieces) as f64 / 1e9 * 1e6,
        Load::Answers { times, .. } => times as f64 * 1e3,
    };
    (cpu_nanos / per, wall_nanos / per)
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _ = SockRef::from(&listener).set_tcp_congestion(b"reno"); // if it is refused, all configurations run without
    let connecting = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let _ = connecting.set_tcp_congestion(b"reno");
    connecting.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let connected = TcpStream::from(connecting);
    for socket in [&connected, &accepted] {
        socket.set_nodelay(true).unwrap();
    }
    (connected, accepted)
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn relay(client: TcpStream, server: TcpStream, config: RelayConfig) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let gate = Gate::new(Boottime::from_nanos(u64::MAX));
    let counters = ByteCounters::default();
    runtime.block_on(async {
        let register = |socket: TcpStream| {
            socket.set_nonblocking(true).unwrap();
            Socket::new(socket).unwrap()
        };
        let (client, server) = (register(client), register(server));
        let (cpu, start) = (cpu_nanos(), Boottime::now());
        forward(client, server, &gate, &counters, &config).await;
        (cpu_nanos() - cpu, Boottime::now().since(start).as_nanos() as f64)
    })
}

/// Returns the CPU time of this thread in nanoseconds (schedstat, in the kernel's Documentation/scheduler/sched-stats).
fn cpu_nanos() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn serve(load: Load, mut server: TcpStream) {
    match load {
        Load::Stream { piece, pieces } => {
            let piece = vec![7; piece];
            for _ in 0..pieces {
                server.write_all(&piece).unwrap();
            }
        }
        Load::Answers { bytes, times } => {
            let (answer, mut asked) = (vec![7; bytes], [0]);
            for _ in 0..times {
                server.read_exact(&mut asked).unwrap();
                server.write_all(&answer).unwrap();
            }
        }
    }
}

fn ask(load: Load, mut client: TcpStream) {
    match load {
        Load::Stream { .. } => {
            let mut buffer = vec![0; 256 << 10];
            while client.read(&mut buffer).unwrap() > 0 {}
        }
        Load::Answers { bytes, times } => {
            let mut answer = vec![0; bytes];
            for _ in 0..times {
                client.write_all(b"?").unwrap();
                client.read_exact(&mut answer).unwrap();
            }
        }
    }
}

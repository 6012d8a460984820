//! The listener without a proxy around it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base::Clock;
use base::clock::Boottime;
use socket2::{Domain, SockRef, Socket, Type};

use super::backend::BackendGuard;
use super::rate_limited::RateLimited;
use super::session::{ClientSession, SessionContext};
use super::*;
use crate::metrics::Metrics;
use crate::relay::socket_options::{disable_pacing, uses_pacing};
use crate::relay::{self, ConnectionCount, Gate, ServerConnector};

fn config() -> Config {
    Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        stop_listening: true,
        keepalive: Keepalive {
            idle: Some(Duration::from_secs(11)),
            interval: None,
            count: Some(3),
        },
        connect_timeout: Duration::from_secs(5),
        max_connections: 10,
        relay: RelayConfig::default(),
        hold: Duration::from_secs(10),
        hold_max: 2,
    }
}

#[test]
fn a_bound_socket_reserves_its_port_and_refuses_connections() {
    let bound = bind(&config(), config().listen).unwrap();
    assert_ne!(bound.address.port(), 0);
    assert!(std::net::TcpStream::connect(bound.address).is_err());
    bound.socket.listen(1).unwrap();
    assert!(std::net::TcpStream::connect(bound.address).is_ok());
    assert!(bind(&config(), bound.address).is_err(), "another socket listens there");
}

// proxy P-10
#[test]
fn accepted_sockets_inherit_the_options() {
    let bound = bind(&config(), config().listen).unwrap();
    bound.socket.listen(1).unwrap();
    bound.socket.set_nonblocking(false).unwrap();
    let _client = std::net::TcpStream::connect(bound.address).unwrap();
    let (accepted, _) = bound.socket.accept().unwrap();
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    assert!(accepted.out_of_band_inline().unwrap());
    assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(11));
    assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
    let user_timeout = accepted.tcp_user_timeout().unwrap().unwrap_or_default();
    assert!(user_timeout.is_zero(), "it would replace keepalive");
}

// proxy section 4
#[test]
fn on_loopback_sockets_do_not_pace() {
    let bound = bind(&config(), config().listen).unwrap();
    assert!(!uses_pacing(SockRef::from(&bound.socket)));
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let before = other.tcp_congestion().unwrap();
    disable_pacing(SockRef::from(&other), [192, 0, 2, 1].into()); // RFC 5737
    assert_eq!(
        other.tcp_congestion().unwrap(),
        before,
        "another machine's is left alone"
    );
    disable_pacing(SockRef::from(&other), [127, 0, 0, 1].into());
    assert!(other.tcp_congestion().unwrap().starts_with(b"reno"));
}

#[test]
fn loopback_is_local_and_a_documentation_address_is_not() {
    assert!(is_local_address([127, 0, 0, 1].into()) && is_local_address([127, 1, 2, 3].into()));
    assert!(is_local_address([0, 0, 0, 0].into()));
    assert!(!is_local_address([192, 0, 2, 1].into())); // RFC 5737
}

#[test]
fn a_rate_limited_line_is_not_repeated_at_once() {
    let (clock, limited, mut logged) = (Clock::system(), RateLimited::default(), 0);
    for _ in 0..1000 {
        limited.log(clock.now(), || logged += 1);
    }
    // once, and once more for each second that the loop took
    assert!((1..100).contains(&logged), "{logged}");
}

/// Returns a session for a client of this server.
fn session(master: SocketAddr, gate: Gate) -> ClientSession {
    let metrics = Arc::new(Metrics::register(1));
    let context = SessionContext {
        counters: metrics.relay.thread_counters(0),
        metrics: Arc::clone(&metrics),
        connect_errors: Arc::default(),
        connector: ServerConnector {
            keepalive: config().keepalive,
            timeout: Duration::from_secs(5),
            pacing: false,
            clock: Clock::system(),
        },
        relay: RelayConfig::default(),
        client_pacing: false,
        clock: Clock::system(),
    };
    ClientSession {
        backend: BackendGuard::new(&Arc::new(Backend::new(
            master,
            Arc::new(gate),
            metrics,
            Clock::system(),
        ))),
        context: Arc::new(context),
        _counts: [
            ConnectionCount::new(&Arc::default()),
            ConnectionCount::new(&Arc::default()),
        ],
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

// proxy P-10
#[test]
fn the_connection_to_the_master_has_the_options_too() {
    run(async {
        let master = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = Gate::new(Boottime::from_nanos(u64::MAX));
        let session = session(master.local_addr().unwrap(), far);
        let (client, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let client = relay::Socket::new(client).unwrap();
        let (connected, _took) = session.connect(&client).await.unwrap();
        let options = SockRef::from(&connected);
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
        assert!(options.out_of_band_inline().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(11));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
    });
}

// proxy section 4: an idle connection costs two sockets and one small task
#[test]
fn a_connection_is_one_small_task() {
    let session = session((Ipv4Addr::LOCALHOST, 1).into(), Gate::new(Boottime::default()));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let task = run(async move { std::mem::size_of_val(&session.run(socket.into())) });
    // The runtime adds 104 bytes and rounds up to 128: 384 bytes in all.
    assert!(task <= 280, "{task} bytes");
}

//! The outer ends of a relayed connection, and what tests do with them.

use super::*;

pub(super) const MIB: usize = 1 << 20;
/// Limit of one test on a busy machine.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let schedules = schedules::requested().unwrap_or(0);
        tokio::time::timeout(TEST_TIMEOUT + Duration::from_millis(200) * schedules, test)
            .await
            .expect("the test ends in time")
    });
}

/// The outer ends of one relayed connection.
pub(super) struct RelayHarness {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    pub(super) gate: Arc<Gate>,
    pub(super) counters: Arc<ByteCounters>,
    pub(super) end: JoinHandle<RelayEnd>,
}

#[expect(clippy::disallowed_methods, reason = "a gate needs a lease that is still running")]
pub(super) fn lease_end_in(after: Duration) -> Boottime {
    Boottime::now() + after
}

pub(super) fn open_gate() -> Gate {
    Gate::new(lease_end_in(Duration::from_secs(3600)))
}

pub(super) async fn harness(start: Start) -> RelayHarness {
    harness_with(start, Arc::new(open_gate()), None).await
}

pub(super) async fn harness_with(start: Start, gate: Arc<Gate>, buffer_bytes: Option<usize>) -> RelayHarness {
    let (client, inner_client) = connection(buffer_bytes).await;
    let (inner_server, server) = connection(buffer_bytes).await;
    let counters = Arc::new(ByteCounters::default());
    let end = start(inner_client, inner_server, gate.clone(), counters.clone());
    RelayHarness {
        client,
        server,
        gate,
        counters,
        end,
    }
}

/// Returns an inner end for the relay.
pub(super) fn relay_socket(socket: TcpStream) -> Socket {
    Socket::new(socket.into_std().unwrap()).unwrap()
}

/// Opens a connection over loopback: the end that connected and the end that accepted.
pub(super) async fn connection(buffer_bytes: Option<usize>) -> (TcpStream, TcpStream) {
    let (accepting, connecting) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
    for socket in [&accepting, &connecting] {
        socket.set_nodelay(true).unwrap();
        if let Some(bytes) = buffer_bytes {
            let socket = SockRef::from(socket);
            // Loopback's segments of 64 KiB do not fit into small buffers; each would wait for a timer of the kernel.
            socket.set_tcp_mss(1460).unwrap();
            socket.set_send_buffer_size(bytes).unwrap();
            socket.set_recv_buffer_size(bytes).unwrap();
        }
    }
    accepting.set_reuseaddr(true).unwrap(); // thousands of ports of earlier tests are in TIME_WAIT
    accepting.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = accepting.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(connecting.connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// Returns bytes that depend on their position, so that a lost, duplicated or swapped one is found.
pub(super) fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).map(|at| ((from + at) % 251) as u8).collect();
    let mut pattern = period.repeat(bytes / 251 + 1);
    pattern.truncate(bytes);
    pattern
}

/// Writes until nothing is accepted for a while: every buffer on the way is full. Returns the number of bytes accepted.
pub(super) async fn fill(socket: &mut TcpStream) -> usize {
    let chunk = vec![7; 64 * 1024];
    let mut filled = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), socket.write(&chunk)).await {
        filled += written.unwrap();
        assert!(filled < 256 * MIB, "it is accepted although nothing reads");
    }
    filled
}

pub(super) async fn read_all(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await?;
    Ok(all)
}

pub(super) fn reset(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
    drop(socket);
}

pub(super) async fn expect_reset(socket: &mut TcpStream) {
    let err = read_all(socket).await.expect_err("a reset, not an orderly end");
    assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
}

pub(super) fn value(count: &AtomicU64) -> u64 {
    count.load(std::sync::atomic::Ordering::Relaxed)
}

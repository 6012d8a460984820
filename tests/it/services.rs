//! The programs as services: what systemd is notified of, pages for load balancers, and a socket that outlives its
//! program.

use std::cell::RefCell;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::FdFlags;
use stolon_tests::certificates::Certificates;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::http;
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::wait::eventually;
use tokio_postgres::Config;

/// Receives what a program sends to systemd.
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    received: RefCell<Vec<String>>,
}

impl NotifySocket {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        // The program runs as another user.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let received = RefCell::default();
        Self { socket, received }
    }

    /// Waits until a line that begins like this has arrived.
    pub(crate) async fn wait_line(&self, start: &str) {
        eventually(format!("{start} to be sent"), LONG_TIMEOUT, async || {
            let mut received = self.received.borrow_mut();
            let mut buffer = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                received.extend(text.lines().map(str::to_owned));
            }
            let is_received = received.iter().any(|line| line.starts_with(start));
            check(is_received, || format!("{received:?}"))
        })
        .await;
    }
}

/// Prepares a program that reports to the returned socket.
pub(crate) fn notifying(cluster: &mut Cluster, name: &str) -> NotifySocket {
    let path = cluster.dir().path().join(format!("{name}.notify"));
    let socket = NotifySocket::bind(&path);
    let environment = &mut cluster.program(name).environment;
    environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
    environment.push(("WATCHDOG_USEC".to_owned(), "3000000".to_owned()));
    socket
}

#[tokio::test]
async fn systemd_is_notified_of_start_role_and_stop() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let proxy = cluster.prepare_proxy();
    let sentinel = cluster.prepare_sentinel();
    for (name, status) in [
        (
            &proxy,
            format!("STATUS=proxying to 127.0.0.1:{}, 0 clients", cluster.port("keeper0")),
        ),
        (
            &sentinel,
            "STATUS=follower, master keeper0, 1 healthy standby, ".to_owned(),
        ),
    ] {
        let socket = notifying(&mut cluster, name);
        cluster.start(name);
        socket.wait_line("READY=1").await;
        socket.wait_line(&status).await;
        socket.wait_line("WATCHDOG=1").await;
        assert_eq!(cluster.stop(name, Signal::TERM).await, 0);
        socket.wait_line("STOPPING=1").await;
    }
}

/// `systemctl status` shows no log line of an attempt while the unit waits for the next one.
#[tokio::test]
async fn why_a_program_ends_is_its_last_status_line() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    for name in [
        cluster.prepare_sentinel(),
        cluster.prepare_keeper(),
        cluster.prepare_proxy(),
    ] {
        let socket = notifying(&mut cluster, &name);
        cluster.program(&name).options.push("--log-level=loud".to_owned());
        cluster.start(&name);
        socket
            .wait_line("STATUS=log level \"loud\" is unknown: use error")
            .await;
    }
}

#[tokio::test]
async fn pages_report_whether_a_program_runs_and_does_its_job() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    let (sentinel, keepers) = (
        cluster.prepare_sentinel(),
        [cluster.prepare_keeper(), cluster.prepare_keeper()],
    );
    let proxy = cluster.prepare_proxy();
    let pages = [cluster.serve_pages(&sentinel), cluster.serve_pages(&proxy)];
    for name in [&sentinel, &proxy] {
        cluster.start(name);
    }
    wait_page(&pages[1], "/readyz", 503, "no master named").await;
    keepers.iter().for_each(|keeper| cluster.start(keeper));
    wait_page(&pages[0], "/readyz", 200, "\"leader\":true").await;
    wait_page(&pages[1], "/readyz", 200, "\"clients\":0").await;
    cluster.etcd.kill();
    wait_page(&pages[0], "/readyz", 503, "the store does not answer").await;
    wait_page(&pages[1], "/readyz", 503, "\"reason\":").await;
    for address in &pages {
        assert_eq!(
            http::get(address, "/healthz").unwrap().0,
            200,
            "the loop goes on without the store"
        );
        assert_eq!(http::get(address, "/metrics").unwrap().0, 200);
    }
}

/// Waits until a page has this status and these words.
pub(crate) async fn wait_page(address: &str, path: &str, status: u16, words: &str) {
    eventually(
        format!("{path} to be {status} with {words:?}"),
        LONG_TIMEOUT,
        async || {
            let (found, body) = http::get(address, path).map_err(|error| error.to_string())?;
            check(found == status && body.contains(words), || format!("{found}: {body}"))
        },
    )
    .await;
}

#[tokio::test]
async fn bad_requests_and_slow_clients_delay_neither_pages_nor_the_program() {
    let mut cluster = Cluster::store_only().await;
    let sentinel = cluster.prepare_sentinel();
    let address = cluster.serve_pages(&sentinel);
    cluster.start(&sentinel);
    wait_page(&address, "/readyz", 503, "there are no cluster data").await;
    for (status, request) in [
        (404, "GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (
            404,
            "GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ),
        (404, "GET //healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (405, "DELETE /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (400, "nonsense\r\n\r\n"),
        (400, "GET /healthz HTTP/1.1\r\nbad header\r\n\r\n"),
    ] {
        let (found, body) = http::request(&address, request).unwrap();
        assert_eq!(found, status, "{request:?}: {body}");
    }
    let large = "x".repeat(1024 * 1024);
    let refused = http::request(&address, &format!("GET / HTTP/1.1\r\nlarge: {large}\r\n\r\n"));
    // The rest of the header may reset the connection before the answer is read.
    assert!(refused.is_err() || refused.is_ok_and(|(status, _)| status == 431));

    // More clients than are served at once, which send nothing.
    let slow: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&address).unwrap()).collect();
    wait_page(&address, "/healthz", 200, "\"status\":\"ok\"").await;
    drop(slow);
}

#[tokio::test]
async fn pages_can_require_tls_and_a_token() {
    let mut cluster = Cluster::store_only().await;
    let certificates = Certificates::with_authorities(&["ca"]);
    certificates.sign("pages", "ca", "subjectAltName=IP:127.0.0.1");
    certificates.make_readable_by("pages", cluster.dir().user());
    let token = cluster.dir().path().join("token");
    fs::write(&token, "correct-horse\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let sentinel = cluster.prepare_sentinel();
    let address = cluster.serve_pages(&sentinel);
    cluster.program(&sentinel).options.extend([
        format!("--metrics-cert-file={}", certificates.path("pages.pem").display()),
        format!("--metrics-key-file={}", certificates.path("pages.key").display()),
        format!("--metrics-token-file={}", token.display()),
    ]);
    cluster.start(&sentinel);
    let curl = |header: &str| {
        let authority = certificates.path("ca.pem");
        let url = format!("https://{address}/healthz");
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--write-out",
            "%{http_code}",
        ]);
        let output = curl
            .arg("--cacert")
            .arg(authority)
            .args(["--header", header, &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("the page over TLS", SHORT_TIMEOUT, async || {
        let answer = curl("Authorization: Bearer correct-horse");
        check(answer.starts_with("{") && answer.ends_with("200"), || answer)
    })
    .await;
    for wrong in [
        "X-None: 1",
        "Authorization: Bearer wrong-horse-x",
        "Authorization: Basic correct-horse",
    ] {
        assert_eq!(curl(wrong), "unauthorized\n401", "{wrong}");
    }
    assert!(http::get(&address, "/healthz").is_err(), "plain HTTP is not answered");
}

/// Passes a listening socket to a program, as systemd does (sd_listen_fds(3)).
fn pass_socket(cluster: &mut Cluster, name: &str, socket: &TcpListener) {
    rustix::io::fcntl_setfd(socket, FdFlags::empty()).unwrap();
    let descriptor = socket.as_raw_fd();
    let script = format!("LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec \"$@\" 3<&{descriptor}");
    cluster.program(name).wrapper = ["bash", "-c", &script, "bash"].map(str::to_owned).to_vec();
}

/// Clients of a passed socket wait for the first route for as long as `--hold`, also when there is no store.
#[tokio::test]
async fn a_passed_socket_without_a_store_closes_its_clients_after_the_hold() {
    let mut cluster = Cluster::store_only().await;
    cluster.etcd.kill();
    let proxy = cluster.prepare_proxy();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    pass_socket(&mut cluster, &proxy, &socket);
    cluster.program(&proxy).options.push("--hold=1s".to_owned());
    cluster.start(&proxy);
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    eventually("the client to be closed", LONG_TIMEOUT, async || {
        let read = client.read(&mut [0]);
        check(matches!(read, Ok(0)), || format!("{read:?}"))
    })
    .await;
}

/// A restart of a proxy whose socket systemd keeps open refuses no client.
#[tokio::test]
async fn a_passed_socket_refuses_nobody_while_the_proxy_restarts() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let proxy = cluster.prepare_proxy();
    let address = format!("127.0.0.1:{}", cluster.port(&proxy));
    let socket = TcpListener::bind(&address).unwrap();
    pass_socket(&mut cluster, &proxy, &socket);
    cluster.program(&proxy).options.push("--drain=30s".to_owned());
    cluster.start(&proxy);
    cluster.wait_proxy_serves(&proxy).await;
    let log = cluster.process(&proxy).log();
    assert!(
        log.contains("clients connect to the socket that systemd passed"),
        "{log}"
    );

    let config = cluster.sql_config(&proxy);
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(connect_repeatedly(config.clone(), Arc::clone(&served))))
        .collect();
    let more_served = async |than: usize| {
        eventually("more clients to be served", LONG_TIMEOUT, async || {
            check(served.load(Ordering::Relaxed) > than + 8, || "not yet".to_owned())
        })
        .await;
    };
    for _ in 0..3 {
        more_served(served.load(Ordering::Relaxed)).await;
        assert_eq!(cluster.stop(&proxy, Signal::TERM).await, 0);
        let before = served.load(Ordering::Relaxed);
        // No program accepts now: these clients wait in the queue.
        let waiting = TcpStream::connect(&address).unwrap();
        cluster.start(&proxy);
        more_served(before).await;
        drop(waiting);
    }
    for client in clients {
        assert!(!client.is_finished(), "a client was refused: {:?}", client.await);
        client.abort();
    }
}

/// Connects, asks and leaves, again and again, until that fails.
async fn connect_repeatedly(config: Config, served: Arc<AtomicUsize>) -> anyhow::Result<()> {
    loop {
        let client = SqlClient::connect(&config).await?;
        client.value("select 1").await?;
        served.fetch_add(1, Ordering::Relaxed);
    }
}

//! A server in place of PostgreSQL, which answers with its name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::ports::{self, Port};
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The response of a master after another one has been published. No client may receive it.
pub(crate) const LATE: u8 = b'!';

/// A server that answers every `?` with its name, unless it holds its answers, and echoes everything else.
pub(crate) struct Master {
    pub(crate) db: String,
    /// The advertised address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Keeps others from the port, also on other addresses.
    pub(crate) reserved: Option<Port>,
    shared: Arc<MasterState>,
    _task: AbortOnDropHandle<()>,
}

struct MasterState {
    name: AtomicU8,
    questions: AtomicU64,
    open: AtomicUsize,
    answers_held: watch::Sender<bool>,
}

impl Master {
    pub(crate) async fn start(name: u8) -> Self {
        let reserved = ports::free();
        let mut master = Self::start_at(name, ([127, 0, 0, 1], reserved.number()).into()).await;
        master.reserved = Some(reserved);
        master
    }

    /// Starts one on this address and port.
    pub(crate) async fn start_at(name: u8, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(MasterState {
            name: AtomicU8::new(name),
            questions: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            answers_held: watch::Sender::new(false),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        let db = format!("db{}", char::from(name).to_lowercase());
        Self {
            db,
            host: "127.0.0.1".to_owned(),
            port,
            reserved: None,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Sets the response.
    pub(crate) fn answer_with(&self, name: u8) {
        self.shared.name.store(name, Ordering::SeqCst);
    }

    /// Sets whether it holds its answers back.
    pub(crate) fn hold_answers(&self, silent: bool) {
        self.shared.answers_held.send_replace(silent);
    }

    /// Number of questions received.
    pub(crate) fn questions(&self) -> u64 {
        self.shared.questions.load(Ordering::SeqCst)
    }

    /// Number of open connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait_for_connections(&self, connections: usize) {
        eventually(
            format!("{connections} connections to {}", self.db),
            SHORT_TIMEOUT,
            async || {
                let open = self.connections();
                if open == connections { Ok(()) } else { Err(open) }
            },
        )
        .await;
    }
}

async fn serve(listener: TcpListener, answers: Arc<MasterState>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        answers.open.fetch_add(1, Ordering::SeqCst);
        let answers = Arc::clone(&answers);
        connections.spawn(async move {
            // How a connection ends is checked by the tests.
            let _ = answer(client, &answers).await;
            answers.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn answer(mut client: TcpStream, answers: &MasterState) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut silent = answers.answers_held.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return client.shutdown().await;
        }
        let questions = buffer[..read].iter().filter(|byte| **byte == b'?').count();
        answers.questions.fetch_add(questions as u64, Ordering::SeqCst);
        // An error means that the master was dropped, and this task with it.
        let _ = silent.wait_for(|silent| !silent).await;
        let name = answers.name.load(Ordering::SeqCst);
        buffer[..read]
            .iter_mut()
            .filter(|byte| **byte == b'?')
            .for_each(|byte| *byte = name);
        client.write_all(&buffer[..read]).await?;
    }
}

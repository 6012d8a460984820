//! Peers that vanish without a word: they answer nothing, not even the kernel's probes (proxy P-10, P-13).

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::regulars::Regulars;
use crate::rig::{Client, Master, PATIENCE, Proxy, Rig, block_on};

/// Keepalive that finds a silent peer after three seconds.
const KEEPALIVE: [&str; 3] = [
    "--tcp-keepalive-idle=1",
    "--tcp-keepalive-interval=1",
    "--tcp-keepalive-count=2",
];

/// Lets nothing in through a socket any more, so that its peer finds nobody there: what a host looks like that has lost
/// its power or its network.
fn vanish(socket: &TcpStream) {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K of linux/bpf_common.h
    let nothing = SockFilter::new(RETURN, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing]).unwrap();
}

#[test]
fn clients_that_vanish_are_found_by_keepalive_and_leave_nothing_behind() {
    const SILENT: usize = 200;
    block_on(async {
        let mut rig = Rig::start().await;
        let a = Master::start(b'A').await;
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &KEEPALIVE).await;
        rig.publish(Some(&a), &[&proxy]).await;
        drop(proxy.client_of(b'A').await);
        let before = proxy.settled_descriptors().await;
        let mut regulars = Regulars::of(&proxy, 2).await;
        let mut gone: Vec<Client> = Vec::new();
        for number in 0..SILENT {
            let mut client = proxy.connect().await.unwrap();
            if number % 2 == 0 {
                assert_eq!(client.ask().await.unwrap(), Some(b'A')); // the others never send a byte
            }
            gone.push(client);
        }
        a.has_open(SILENT + regulars.count()).await;
        for client in &gone {
            vanish(&client.socket);
        }
        a.has_open(regulars.count()).await;
        regulars.go_on(5).await;
        proxy
            .metric_is("stolon_proxy_connections_ended_total{reason=\"error\"}", SILENT as f64)
            .await;
        regulars.leave(&proxy, before).await;
    });
}

#[test]
fn a_master_that_vanishes_is_found_by_keepalive() {
    block_on(async {
        let mut rig = Rig::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut a = Master::start(b'A').await;
        a.port = listener.local_addr().unwrap().port();
        let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), &KEEPALIVE).await;
        rig.publish(Some(&a), &[&proxy]).await;
        proxy.metric_is("stolon_proxy_route_open", 1.0).await;
        let mut client = proxy.connect().await.unwrap();
        let (mut master, _) = listener.accept().await.unwrap();
        client.socket.write_all(b"?").await.unwrap();
        assert_eq!(master.read_u8().await.unwrap(), b'?');
        vanish(&master);
        let end = tokio::time::timeout(PATIENCE, client.socket.read(&mut [0])).await;
        assert!(end.expect("an end in time").is_err(), "an orderly end");
    });
}

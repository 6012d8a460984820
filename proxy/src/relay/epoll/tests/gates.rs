//! How a connection ends by its gate, and that nothing is written after it has closed (fencing F-3, F-4).

use super::*;

#[expect(clippy::disallowed_methods, reason = "closing needs the current time")]
pub(super) async fn an_idle_connection_ends_when_the_gate_closes(start: Start) {
    let mut harness = harness(start).await;
    harness.client.write_all(b"x").await.unwrap();
    harness.server.read_u8().await.unwrap();
    harness.gate.close(CloseReason::RouteChange, Boottime::now());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
}

// fencing F-4
pub(super) async fn an_idle_connection_ends_when_the_lease_ends(start: Start) {
    let gate = Arc::new(Gate::new(lease_end_in(Duration::from_millis(50))));
    let mut harness = harness_with(start, gate.clone(), None).await;
    assert!(wait_for_lease_end(&gate).await);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
}

pub(super) async fn a_stalled_connection_ends_when_the_lease_ends(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.client).await;
    fill(&mut harness.server).await;
    assert!(
        harness
            .gate
            .renew(lease_end_in(Duration::from_millis(20)), lease_end_in(Duration::ZERO))
    );
    assert!(wait_for_lease_end(&harness.gate).await);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

/// Waits until the lease of the gate has ended, and closes the gate. Returns whether this call has closed it.
#[expect(
    clippy::disallowed_methods,
    reason = "whether a lease has ended depends on the clock"
)]
async fn wait_for_lease_end(gate: &Gate) -> bool {
    let lease_end = gate.lease_end().expect("the gate is open");
    BoottimeTimer::new().unwrap().wait_until(lease_end).await.unwrap();
    gate.expire(Boottime::now())
}

/// Returns a gate that runs `during` at its first forward, as if the process were paused there meanwhile.
fn gate_paused_once(during: impl Fn(&Gate) + Send + Sync + 'static) -> Arc<Gate> {
    Arc::new_cyclic(|this: &std::sync::Weak<Gate>| {
        let (this, first) = (this.clone(), std::sync::atomic::AtomicBool::new(true));
        open_gate().with_hook(move || {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                during(&this.upgrade().unwrap());
            }
        })
    })
}

// fencing F-3, 4.5
pub(super) async fn nothing_is_written_when_the_gate_closes_between_read_and_write(start: Start) {
    let gate = gate_paused_once(|gate| gate.close(CloseReason::RouteChange, lease_end_in(Duration::ZERO)));
    let mut harness = harness_with(start, gate, None).await;
    harness.server.write_all(b"COMMIT").await.unwrap();
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

// fencing F-3, 4.5
pub(super) async fn nothing_is_written_when_the_lease_ends_between_read_and_write(start: Start) {
    let gate = gate_paused_once(|gate| assert!(gate.renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))));
    let mut harness = harness_with(start, gate, None).await;
    harness.client.write_all(b"INSERT").await.unwrap();
    assert!(read_all(&mut harness.server).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

pub(super) async fn the_rest_of_a_partial_write_is_not_written_after_the_lease(start: Start) {
    let mut harness = harness_with(start, Arc::new(open_gate()), Some(8192)).await;
    fill(&mut harness.server).await;
    let written = value(&harness.counters.to_client);
    assert!(
        harness
            .gate
            .renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))
    );
    let mut got = 0;
    let mut buffer = vec![0; 65536];
    // The relay closes with bytes unread, so the end may be a reset.
    while let Ok(bytes @ 1..) = harness.client.read(&mut buffer).await {
        got += bytes as u64;
    }
    assert!(got <= written);
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
    assert_eq!(value(&harness.counters.to_client), written);
}

pub(super) async fn an_end_of_stream_is_not_passed_on_after_the_gate_has_closed(start: Start) {
    let gate = gate_paused_once(|gate| assert!(gate.renew(Boottime::from_nanos(1), lease_end_in(Duration::ZERO))));
    let mut harness = harness_with(start, gate, None).await;
    harness.server.shutdown().await.unwrap();
    assert!(read_all(&mut harness.client).await.unwrap().is_empty());
    assert!(matches!(harness.end.await.unwrap(), RelayEnd::GateClosed));
}

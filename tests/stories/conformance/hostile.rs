//! Workers that babble, stall or break the protocol. The connection that carries them ends, says
//! why, and takes nothing else with it. In-memory streams, so that time can be paused.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rollcall::fleet::*;
use rollcall::interface::websocket::serve_upgraded;
use rollcall::interface::{Ended, LinkLimits};
use rollcall::trust::Pass;
use rollcall_protocol::{FromServer, HeldPhase};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::harness::{Core, Seen, key, ways, welcome, within};

const REGISTER: &str = r#"{"type":"register","name":"ann","instance":"i","capabilities":[{"name":"a.b"}]}"#;

/// A worker that a test speaks for.
struct Peer(WebSocketStream<DuplexStream>);

impl Peer {
    async fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("the server reads");
    }

    /// The next frame's type and text.
    async fn frame(&mut self) -> (&'static str, String) {
        loop {
            match within(self.0.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let kind = FromServer::decode(&text).expect("a frame").kind();
                    return (kind, text.to_string());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was awaited, not {other:?}"),
            }
        }
    }

    /// Reads up to the close frame, and leaves.
    async fn close_code(mut self) -> CloseCode {
        loop {
            match within(self.0.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code,
                Some(Ok(_)) => {}
                other => panic!("a close was awaited, not {other:?}"),
            }
        }
    }
}

fn open_with(limits: LinkLimits, buffer: usize) -> (DuplexStream, Core) {
    let (ours, theirs) = tokio::io::duplex(buffer);
    let (io, ways) = ways(1, limits);
    (theirs, ways.core(tokio::spawn(serve_upgraded(ours, Vec::new(), Pass::default(), io))))
}

async fn peer_of(stream: DuplexStream) -> Peer {
    // No limit of its own: it is here to exceed the other side's.
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    Peer(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

async fn open() -> (Peer, Core) {
    let (stream, core) = open_with(LinkLimits::default(), 1 << 16);
    (peer_of(stream).await, core)
}

async fn registered() -> (Peer, Core) {
    let (mut peer, mut core) = open().await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    core.order(welcome(|_| {})).await;
    assert_eq!(peer.frame().await.0, "registered");
    (peer, core)
}

fn errors(seen: &Seen) -> Vec<&'static str> {
    seen.errors.all()
}

fn not_registered(ended: &Ended) -> bool {
    matches!(ended, Ended::NotConnected(ConnectOutcome::Handshake, _))
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_nothing_is_sent_away_after_five_seconds() {
    let (peer, mut core) = open().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(peer.close_code().await, CloseCode::Policy);
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert!(not_registered(&core.ended().await));
}

#[tokio::test]
async fn the_first_frame_must_be_register() {
    let (mut peer, mut core) = open().await;
    peer.text(r#"{"type":"heartbeat"}"#).await;
    assert_eq!(peer.frame().await.0, "error");
    assert_eq!(peer.close_code().await, CloseCode::Policy);
    assert!(not_registered(&core.ended().await));
}

#[tokio::test]
async fn a_registration_that_makes_no_sense_is_told_what_is_wrong() {
    let (mut peer, mut core) = open().await;
    peer.text(r#"{"type":"register","name":"No Name","instance":"i","capabilities":[]}"#).await;
    let (kind, text) = peer.frame().await;
    assert!(kind == "error" && text.contains("bad_register") && text.contains("name is not"), "{text}");
    assert!(not_registered(&core.ended().await));
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    peer.text("{\"type\": \"result\", ").await;
    assert_eq!(peer.frame().await.0, "error");
    assert_eq!(peer.close_code().await, CloseCode::Invalid);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
    assert_eq!(errors(&core.seen), ["bad_json"]);
}

#[tokio::test]
async fn an_unknown_type_is_answered_and_the_connection_goes_on() {
    let (mut peer, mut core) = registered().await;
    peer.text(r#"{"type":"dance","task":"x"}"#).await;
    let (kind, text) = peer.frame().await;
    assert!(kind == "error" && text.contains("unknown_type"), "{text}");
    peer.text(r#"{"type":"heartbeat","running":[]}"#).await;
    assert!(matches!(core.event().await, Event::Report(_, Report::Heartbeat { .. })));
    assert_eq!(errors(&core.seen), ["bad_type"]);
}

#[tokio::test]
async fn an_error_is_never_answered_by_an_error() {
    let (mut peer, core) = registered().await;
    peer.text(r#"{"type":"error","code":"x","message":"y"}"#).await;
    core.order(Order::Drain { reason: "test" }).await;
    assert_eq!(peer.frame().await.0, "drain");
}

#[tokio::test]
async fn an_oversized_frame_is_refused_by_its_header_alone() {
    let limits = LinkLimits { max_message: 1_000, ..LinkLimits::default() };
    let (stream, mut core) = open_with(limits, 1 << 16);
    let mut peer = peer_of(stream).await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    // A header that promises 17 MiB; nothing of them is ever sent.
    let mut header = Vec::new();
    let mask = Some([1, 2, 3, 4]);
    let opcode = OpCode::Data(Data::Text);
    FrameHeader { opcode, mask, ..FrameHeader::default() }.format(17 << 20, &mut header).expect("a header");
    peer.0.get_mut().write_all(&header).await.expect("the server reads");
    assert_eq!(peer.close_code().await, CloseCode::Size);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
    assert_eq!(errors(&core.seen), ["too_big"]);
}

#[tokio::test]
async fn text_that_is_no_utf_8_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    let payload: &[u8] = b"{\"type\": \"\xFF\"}";
    let frame = Frame::message(payload, OpCode::Data(Data::Text), true);
    peer.0.send(Message::Frame(frame)).await.expect("the server reads");
    assert_eq!(peer.close_code().await, CloseCode::Invalid);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
    assert_eq!(errors(&core.seen), ["bad_utf8"]);
}

#[tokio::test]
async fn an_unmasked_frame_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    peer.0.get_mut().write_all(b"\x81\x02{}").await.expect("the server reads");
    assert_eq!(peer.close_code().await, CloseCode::Protocol);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
    assert_eq!(errors(&core.seen), ["unexpected"]);
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    for _ in 0..10_000 {
        if peer.0.send(Message::Ping(b"x".to_vec().into())).await.is_err() {
            break;
        }
    }
    drop(peer);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
    assert_eq!(errors(&core.seen), ["rate"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_finished_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    let beginning = Frame::message(&b"{\"type\""[..], OpCode::Data(Data::Text), false);
    peer.0.send(Message::Frame(beginning)).await.expect("the server reads");
    let begun = tokio::time::Instant::now();
    assert_eq!(peer.close_code().await, CloseCode::Policy);
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
}

#[tokio::test(start_paused = true)]
async fn a_message_byte_by_byte_is_read_all_the_same() {
    let (mut peer, mut core) = registered().await;
    let mut bytes = Vec::new();
    let mut frame = Frame::message(&br#"{"type":"goodbye"}"#[..], OpCode::Data(Data::Text), true);
    frame.header_mut().mask = Some([0; 4]);
    frame.format(&mut bytes).expect("a frame");
    for byte in bytes {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peer.0.get_mut().write_all(&[byte]).await.expect("the server reads");
    }
    assert!(matches!(core.report().await, Report::Goodbye { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_read_is_a_slow_consumer() {
    let (stream, mut core) = open_with(LinkLimits::default(), 1024);
    let mut peer = peer_of(stream).await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    let input = format!("\"{}\"", "x".repeat(100_000));
    core.execute(key(1, 1), &input, Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(core.ended().await, Ended::Down(Why::SlowConsumer));
    assert_eq!(begun.elapsed().as_secs(), 10);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_reads_slowly_is_none() {
    let (stream, mut core) = open_with(LinkLimits::default(), 1024);
    let mut peer = peer_of(stream).await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    let input = format!("\"{}\"", "x".repeat(100_000));
    core.execute(key(1, 1), &input, Duration::from_secs(1)).await;
    let mut read = 0;
    let mut piece = [0; 4096];
    while read < 100_000 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        read += peer.0.get_mut().read(&mut piece).await.expect("the connection goes on");
    }
    assert_eq!(core.close(Why::Moved).await, Ended::Down(Why::Moved));
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_does_not_wait_for_a_worker_that_does_not_read() {
    let (stream, mut core) = open_with(LinkLimits::default(), 1 << 16);
    let mut peer = peer_of(stream).await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    let begun = tokio::time::Instant::now();
    assert_eq!(core.close(Why::HeartbeatTimeout).await, Ended::Down(Why::HeartbeatTimeout));
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_by_the_interval_with_a_ping_that_measures() {
    let (mut peer, mut core) = open().await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    core.order(welcome(|welcome| welcome.heartbeat_interval = Duration::from_secs(10))).await;
    assert_eq!(peer.frame().await.0, "registered");
    let begun = tokio::time::Instant::now();
    for beats in 1..=3u64 {
        assert_eq!(peer.frame().await.0, "heartbeat");
        assert!((beats - 1) * 10 <= begun.elapsed().as_secs() && begun.elapsed().as_secs() <= beats * 10);
    }
    // The pong leaves when the peer reads on.
    core.order(Order::Drain { reason: "test" }).await;
    assert_eq!(peer.frame().await.0, "drain");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(core.seen.rtts.all().len() >= 2);
}

#[tokio::test(start_paused = true)]
async fn any_frame_is_life_but_a_pong_is_none() {
    let (mut peer, mut core) = registered().await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    peer.0.send(Message::Pong(b"".to_vec().into())).await.expect("the server reads");
    peer.text(r#"{"type":"output","task":"0192f0c1-2345-7abc-8def-0123456789ab","epoch":1,"stream":"stdout","offset":0,"data":"x"}"#).await;
    peer.text(r#"{"type":"heartbeat"}"#).await;
    assert!(matches!(core.event().await, Event::Report(_, Report::Alive)));
    // One sign of life in a quarter of the interval is enough.
    assert!(matches!(core.event().await, Event::Report(_, Report::Heartbeat { .. })));
    tokio::time::sleep(Duration::from_secs(8)).await;
    peer.0.send(Message::Pong(b"".to_vec().into())).await.expect("the server reads");
    tokio::time::sleep(Duration::from_secs(1)).await;
    peer.text(r#"{"type":"goodbye"}"#).await;
    assert!(matches!(core.event().await, Event::Report(_, Report::Alive)));
    assert!(matches!(core.event().await, Event::Report(_, Report::Goodbye { .. })));
}

#[tokio::test]
async fn output_goes_to_the_log_before_its_result_is_told() {
    let (mut peer, mut core) = registered().await;
    let task = key(5, 1).0;
    peer.text(&format!(
        r#"{{"type":"output","task":"{task}","epoch":1,"stream":"stderr","offset":3,"data":"é"}}"#
    ))
    .await;
    peer.text(&format!(r#"{{"type":"progress","task":"{task}","epoch":1,"fraction":7.5,"message":"on"}}"#))
        .await;
    peer.text(&format!(r#"{{"type":"result","task":"{task}","epoch":1,"status":"failed","error":{{"code":"c","message":"m"}}}}"#)).await;
    let end = core.result().await;
    let error = end.error.expect("an error");
    assert_eq!((end.status, error.fault, error.retryable), (AttemptOutcome::Failed, Fault::Caller, false));
    let seen = core.seen.output.all();
    let expected =
        [(Epoch(1), "stderr", 3, "é".to_owned()), (Epoch(1), "progress", 0, "Some(1.0) Some(\"on\")".into())];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_frame_about_no_task_of_ours_is_ignored() {
    let (mut peer, mut core) = registered().await;
    peer.text(r#"{"type":"result","task":"../../etc","epoch":1,"status":"succeeded"}"#).await;
    peer.text(r#"{"type":"goodbye","reason":"r"}"#).await;
    assert!(matches!(core.report().await, Report::Goodbye { .. }));
    assert_eq!(errors(&core.seen), ["unexpected"]);
}

#[tokio::test]
async fn a_second_register_ends_the_connection() {
    let (mut peer, mut core) = registered().await;
    peer.text(REGISTER).await;
    assert_eq!(peer.close_code().await, CloseCode::Policy);
    assert_eq!(core.ended().await, Ended::Down(Why::Protocol));
}

#[tokio::test]
async fn a_close_is_told_apart_from_a_leave() {
    let (mut peer, mut core) = registered().await;
    peer.0.close(None).await.expect("the server reads");
    assert_eq!(core.ended().await, Ended::Down(Why::PeerClosed));

    let (peer, mut core) = registered().await;
    drop(peer);
    assert_eq!(core.ended().await, Ended::Down(Why::PeerClosed));

    let (mut peer, mut core) = registered().await;
    peer.text(r#"{"type":"goodbye","reason":"upgrade"}"#).await;
    peer.0.close(None).await.expect("the server reads");
    assert_eq!(core.ended().await, Ended::Down(Why::Drained));
}

#[tokio::test]
async fn a_refused_registration_is_told_why_before_the_close() {
    let (mut peer, mut core) = open().await;
    peer.text(REGISTER).await;
    core.up().await.expect("a registration");
    core.order(Order::Refused { code: "duplicate".into(), message: "ann is connected".into() }).await;
    let closing = tokio::spawn(core.close(Why::Superseded));
    let (kind, text) = peer.frame().await;
    assert!(kind == "error" && text.contains("duplicate"), "{text}");
    assert_eq!(peer.close_code().await, CloseCode::Policy);
    assert_eq!(closing.await.expect("no panic"), Ended::Down(Why::Superseded));
}

#[tokio::test]
async fn an_execute_says_all_that_a_worker_needs() {
    let (mut peer, core) = registered().await;
    core.execute(key(5, 9), r#"{"a": [1, 2]}"#, Duration::from_micros(1_500)).await;
    let (_, text) = peer.frame().await;
    let Ok(FromServer::Execute(frame)) = FromServer::decode(&text) else { panic!("{text}") };
    assert_eq!((frame.task.as_str(), frame.epoch), (key(5, 9).0.to_string().as_str(), 9));
    assert_eq!((frame.connection, frame.attempt, frame.deadline_ms), (1, 1, 2));
    assert_eq!((frame.capability.as_ref(), frame.input.get()), ("echo.say", r#"{"a": [1, 2]}"#));
    // The flush that carried it was timed.
    core.probe_answered_by(&mut peer).await;
    assert_eq!(core.seen.dispatched.all().len(), 1);
}

#[tokio::test]
async fn held_attempts_are_reported_with_their_phase() {
    let (mut peer, mut core) = open().await;
    let held = |n: u64, phase: HeldPhase| rollcall_protocol::HeldAttempt {
        task: key(n, n).0.to_string(),
        epoch: n,
        phase,
    };
    let frame = rollcall_protocol::Register {
        name: "ann".into(),
        instance: "i".into(),
        attempts: vec![held(1, HeldPhase::Running), held(2, HeldPhase::Done)],
        ..Default::default()
    };
    let text = rollcall_protocol::FromWorker::from(Box::new(frame)).encode().expect("plain data");
    peer.0.send(Message::Text(Utf8Bytes::from(text))).await.expect("the server reads");
    let attempts = core.up().await.expect("a registration").attempts;
    let expected =
        [(1, false), (2, true)].map(|(n, done)| HeldAttempt { task: key(n, 1).0, epoch: Epoch(n), done });
    assert_eq!(attempts, expected);
}

impl Core {
    /// Probes a peer that must be read for its pong to leave.
    async fn probe_answered_by(&self, peer: &mut Peer) {
        tokio::select! {
            _ = self.probe() => {}
            read = peer.0.next() => {
                assert!(matches!(read, Some(Ok(Message::Ping(_)))));
                peer.0.flush().await.expect("the server reads");
            }
        }
    }
}

//! Garbage, silence and disorder end the session that brings them, and
//! nobody else's.

use std::time::Duration;

use shrike_proto::wire::ingest::{
    Batch, LostRange, nack, stream_events_request, stream_events_response,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use crate::{
    certificates::Pki,
    client::{EPOCH, PATIENCE, Session, hello, sealed},
    process::Home,
    site::Site,
};

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let site = Site::start();
    let mut session = site.session().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 70_000]] {
        let mut socket = TcpStream::connect(site.address()).await.unwrap();
        let _ = socket.write_all(garbage).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer))
            .await
            .expect("it is closed");
    }
    session.send_batch(sealed(1, 10)).await;
    assert_eq!(session.ack().await, 10);
}

#[tokio::test]
async fn silent_client_is_closed_after_the_handshake_time_out() {
    let site = Site::start();
    let mut socket = TcpStream::connect(site.address()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(8), socket.read_to_end(&mut answer))
        .await
        .expect("it is closed")
        .unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn connections_past_the_cap_are_closed_at_once() {
    let pki = Pki::new();
    let home = Home::new(&pki);
    let collector = home.start_with(&[("SHRIKE_COLLECTOR_LIMITS_CONNECTIONS_MAX", "1")]);
    let agent = pki.issue("agent/node-a");
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    let mut socket = TcpStream::connect(&collector.address).await.unwrap();
    let mut answer = Vec::new();
    // Well before the handshake time-out.
    let closed = timeout(Duration::from_millis(800), socket.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the second connection stays open");
    session.send_batch(sealed(1, 1)).await;
    assert_eq!(session.ack().await, 1);
}

/// Sends a message after a good hello and returns why the session ended.
async fn end_of(message: Option<stream_events_request::Message>) -> tonic::Status {
    let site = Site::start();
    let (bad, good) = (site.pki.issue("agent/bad"), site.pki.issue("agent/good"));
    let (mut victim, _) = Session::open(site.address(), &good, "good").await.unwrap();
    let (mut session, _) = Session::open(site.address(), &bad, "bad").await.unwrap();
    session.send(message).await;
    let status = session.end().await;
    victim.send_batch(sealed(1, 3)).await;
    assert_eq!(victim.ack().await, 3);
    status
}

#[tokio::test]
async fn batch_out_of_order_ends_its_session_only() {
    let status = end_of(Some(stream_events_request::Message::Batch(sealed(50, 5)))).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("sequence 50, expected 1"),
        "{status:?}"
    );
}

#[tokio::test]
async fn oversized_batch_ends_its_session_only() {
    let batch = Batch {
        payload: vec![0; 7 << 20],
        ..sealed(1, 1)
    };
    let status = end_of(Some(stream_events_request::Message::Batch(batch))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn foreign_epoch_ends_its_session_only() {
    let batch = Batch {
        epoch: vec![3; 16],
        ..sealed(1, 1)
    };
    let status = end_of(Some(stream_events_request::Message::Batch(batch))).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
}

#[tokio::test]
async fn second_hello_and_empty_message_end_their_sessions_only() {
    let status = end_of(Some(stream_events_request::Message::Hello(hello("bad")))).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = end_of(None).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test]
async fn batch_before_the_hello_is_refused() {
    let site = Site::start();
    let mut session = Session::connect(site.address(), &site.agent).await.unwrap();
    session.send_batch(sealed(1, 1)).await;
    let status = session.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("hello"), "{status:?}");
}

#[tokio::test]
async fn poison_batch_is_refused_and_the_session_goes_on() {
    let site = Site::start();
    let mut session = site.session().await;
    session.send_batch(sealed(1, 10)).await;
    assert_eq!(session.ack().await, 10);
    let mut poison = sealed(11, 10);
    poison.payload[10] ^= 0xff;
    session.send_batch(poison).await;
    match session.answer().await.unwrap() {
        stream_events_response::Message::Nack(refusal) => {
            assert_eq!(refusal.first_sequence, 11);
            let Some(nack::Reason::Poison(reason)) = refusal.reason else {
                panic!("{:?} is no poison", refusal.reason);
            };
            assert!(reason.contains("checksum"), "{reason}");
        }
        other => panic!("{other:?} for a poison batch"),
    }
    // As an agent does: the range is given up, and what follows is sent.
    let mut next = sealed(21, 10);
    next.lost = vec![LostRange {
        first_sequence: 11,
        count: 10,
        reason: shrike_proto::wire::event::LossReason::Quarantined.into(),
    }];
    session.send_batch(next).await;
    assert_eq!(session.ack().await, 30);
    let found = site.sequences().await;
    assert!(found.into_iter().eq((1..=10).chain(21..=30)));
}

#[tokio::test]
async fn newer_session_of_a_node_replaces_the_older() {
    let site = Site::start();
    let mut older = site.session().await;
    let mut newer = site.session().await;
    assert_eq!(older.end().await.code(), Code::Aborted);
    newer.send_batch(sealed(1, 1)).await;
    assert_eq!(newer.ack().await, 1);
    assert_eq!(EPOCH.0.len(), 16);
}

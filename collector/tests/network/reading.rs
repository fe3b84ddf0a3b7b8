//! Queries, tails, nodes and health.

use shrike_proto::wire::{
    admin::{
        EventFilter, Kind, ListHoursRequest, ListNodesRequest, NodeHour, Order, QueryEventsRequest,
        TailEventsRequest, event_service_client::EventServiceClient,
        node_service_client::NodeServiceClient,
    },
    event::{HourMark, Ledger, LossCount, LossReason},
    ingest::LostRange,
};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    client::{PATIENCE, START_UNIX_NS, channel, query, sealed},
    site::Site,
};

#[tokio::test]
async fn queries_filter_limit_and_order() {
    let site = Site::start();
    let mut session = site.session().await;
    for index in 0..5 {
        session.send_batch(sealed(1 + index * 200, 200)).await;
        session.ack().await;
    }
    let find = async |filter: EventFilter, order: Order, limit: u64| {
        let request = QueryEventsRequest {
            filter: Some(filter),
            order: order.into(),
            limit,
            ..QueryEventsRequest::default()
        };
        let (events, summary) = query(site.address(), &site.admin, request).await.unwrap();
        let sequences: Vec<u64> = events
            .into_iter()
            .map(|stored| stored.event.unwrap().sequence)
            .collect();
        assert_eq!(summary.matched, sequences.len() as u64);
        (sequences, summary)
    };
    let (all, _) = find(EventFilter::default(), Order::OldestFirst, 0).await;
    assert!(all.into_iter().eq(1..=1000));
    let (newest, _) = find(EventFilter::default(), Order::NewestFirst, 3).await;
    assert_eq!(newest, [1000, 999, 998]);
    let opens = EventFilter {
        kinds: vec![Kind::Open.into()],
        path_prefixes: vec![b"/etc/".to_vec()],
        since_unix_ns: START_UNIX_NS + 990_000,
        ..EventFilter::default()
    };
    let (opens, summary) = find(opens, Order::OldestFirst, 0).await;
    assert_eq!(opens, [991, 993, 995, 997, 999]);
    assert!(summary.blocks_pruned >= 4, "{summary:?}");
    let nothing = EventFilter {
        nodes: vec!["elsewhere".to_owned()],
        ..EventFilter::default()
    };
    let (nothing, summary) = find(nothing, Order::OldestFirst, 0).await;
    assert_eq!((nothing.len(), summary.blocks_read), (0, 0));

    let nonsense = QueryEventsRequest {
        filter: Some(EventFilter {
            kinds: vec![99],
            ..EventFilter::default()
        }),
        ..QueryEventsRequest::default()
    };
    let status = query(site.address(), &site.admin, nonsense)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn condition_skips_blocks_and_is_refused_with_its_place() {
    let site = Site::start();
    let mut session = site.session().await;
    for index in 0..5 {
        session.send_batch(sealed(1 + index * 200, 200)).await;
        session.ack().await;
    }
    let find = async |condition: &str| {
        let request = QueryEventsRequest {
            filter: Some(EventFilter {
                r#where: condition.to_owned(),
                ..EventFilter::default()
            }),
            order: Order::OldestFirst.into(),
            ..QueryEventsRequest::default()
        };
        query(site.address(), &site.admin, request).await
    };
    let (opens, _) = find(r#"kind == "open" && path == "/etc/shadow" && sequence % 100 == 1"#)
        .await
        .unwrap();
    let sequences: Vec<u64> = opens
        .into_iter()
        .map(|stored| stored.event.unwrap().sequence)
        .collect();
    assert!(sequences.into_iter().eq((0..10).map(|n| 1 + n * 100)));
    let (none, summary) = find(r#"exe == "/usr/bin/dog" && argv.exists(a, a == "x")"#)
        .await
        .unwrap();
    assert!(none.is_empty());
    assert_eq!((summary.blocks_read, summary.blocks_pruned), (0, 5));
    let status = find(r#"uid == 0 && exee == "x""#).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("column 13"), "{status}");
    assert!(status.message().contains("did you mean `exe`?"), "{status}");
}

#[tokio::test]
async fn follow_begins_with_what_is_stored_and_goes_on_without_a_gap() {
    let site = Site::start();
    let mut session = site.session().await;
    for index in 0..10 {
        session.send_batch(sealed(1 + index * 100, 100)).await;
        session.ack().await;
    }
    let mut tail = EventServiceClient::new(channel(site.address(), &site.admin))
        .tail_events(TailEventsRequest {
            filter: Some(EventFilter {
                since_unix_ns: START_UNIX_NS,
                r#where: r#"kind == "open" || exe.endsWith("cat")"#.to_owned(),
                ..EventFilter::default()
            }),
            history: true,
            history_limit: 0,
        })
        .await
        .unwrap()
        .into_inner();
    // Arrives while the history is read.
    for index in 10..60 {
        session.send_batch(sealed(1 + index * 100, 100)).await;
        session.ack().await;
    }
    let (mut sequences, mut summaries) = (Vec::new(), 0);
    while sequences.last() != Some(&6000) {
        let message = timeout(PATIENCE, tail.message())
            .await
            .expect("in time")
            .unwrap()
            .unwrap();
        assert_eq!(message.skipped, 0);
        summaries += u32::from(message.history.is_some());
        sequences.extend(
            message
                .events
                .into_iter()
                .map(|it| it.event.unwrap().sequence),
        );
    }
    assert!(sequences.into_iter().eq(1..=6000));
    assert_eq!(summaries, 1);
}

#[tokio::test]
async fn reader_that_reads_nothing_slows_no_session() {
    let site = Site::start();
    let mut session = site.session().await;
    session.send_batch(sealed(1, 100)).await;
    session.ack().await;
    let mut tails = Vec::new();
    for history in [false, true] {
        let tail = EventServiceClient::new(channel(site.address(), &site.admin))
            .tail_events(TailEventsRequest {
                filter: Some(EventFilter::default()),
                history,
                history_limit: 0,
            })
            .await
            .unwrap()
            .into_inner();
        tails.push(tail);
    }
    for index in 0..300 {
        session.send_batch(sealed(101 + index * 1000, 1000)).await;
        assert_eq!(session.ack().await, 1100 + index * 1000);
    }
    for (tail, total) in tails.iter_mut().zip([300_000, 300_100]) {
        let (mut seen, mut skipped, mut last) = (0, 0, 0);
        while last < 300_100 {
            let message = timeout(PATIENCE, tail.message())
                .await
                .expect("in time")
                .unwrap()
                .unwrap();
            skipped += message.skipped;
            seen += message.events.len() as u64;
            if let Some(event) = message.events.last() {
                last = event.event.as_ref().unwrap().sequence;
            }
        }
        assert_eq!(seen + skipped, total);
        assert!(skipped > 0, "it was slow");
    }
}

#[tokio::test]
async fn query_whose_reader_left_makes_room_for_others() {
    let site = Site::start();
    let mut session = site.session().await;
    for index in 0..20 {
        session.send_batch(sealed(1 + index * 1000, 1000)).await;
        session.ack().await;
    }
    let mut client = EventServiceClient::new(channel(site.address(), &site.admin));
    // More than run at once; each finds nothing in whatever it reads.
    for _ in 0..64 {
        let request = QueryEventsRequest {
            filter: Some(EventFilter {
                r#where: r#"comm.matches("^no (such )*name$")"#.to_owned(),
                ..EventFilter::default()
            }),
            ..QueryEventsRequest::default()
        };
        let left = client.query_events(request).await;
        if let Err(status) = left {
            assert_eq!(status.code(), Code::ResourceExhausted);
            break;
        }
    }
    let begun = std::time::Instant::now();
    loop {
        let request = QueryEventsRequest {
            limit: 1,
            ..QueryEventsRequest::default()
        };
        match query(site.address(), &site.admin, request).await {
            Ok((events, _)) => break assert_eq!(events.len(), 1),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        assert!(begun.elapsed() < PATIENCE, "no room");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn pages_are_the_whole_answer() {
    let site = Site::start();
    let mut session = site.session().await;
    for index in 0..3 {
        session.send_batch(sealed(1 + index * 50, 50)).await;
        session.ack().await;
    }
    let page = async |limit, after| {
        let request = QueryEventsRequest {
            order: Order::NewestFirst.into(),
            limit,
            after,
            ..QueryEventsRequest::default()
        };
        query(site.address(), &site.admin, request).await
    };
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let (events, summary) = page(40, next).await.unwrap();
        found.extend(
            events
                .into_iter()
                .map(|stored| stored.event.unwrap().sequence),
        );
        next = summary.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, (1..=150).rev().collect::<Vec<u64>>());

    let (_, summary) = page(1, None).await.unwrap();
    for limit in [0, 50_001] {
        let refused = page(limit, summary.next.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("50000"), "{refused}");
    }
}

#[tokio::test]
async fn tail_shows_what_arrives_from_then_on() {
    let site = Site::start();
    let mut session = site.session().await;
    session.send_batch(sealed(1, 10)).await;
    session.ack().await;
    let mut tail = EventServiceClient::new(channel(site.address(), &site.admin))
        .tail_events(TailEventsRequest {
            filter: Some(EventFilter {
                kinds: vec![Kind::Exit.into()],
                ..EventFilter::default()
            }),
            ..TailEventsRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    session.send_batch(sealed(11, 10)).await;
    session.ack().await;
    let first = timeout(PATIENCE, tail.message())
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    assert_eq!(first.skipped, 0);
    let sequences: Vec<u64> = first
        .events
        .into_iter()
        .map(|stored| stored.event.unwrap().sequence)
        .collect();
    assert_eq!(sequences, [12, 14, 16, 18, 20]);
}

#[tokio::test]
async fn nodes_show_what_was_stored_and_lost() {
    let site = Site::start();
    let mut session = site.session().await;
    let mut batch = sealed(11, 40);
    batch.lost = vec![LostRange {
        first_sequence: 1,
        count: 10,
        reason: LossReason::AgentSpoolFull.into(),
    }];
    batch.ledger = Some(Ledger {
        seen: 57,
        filtered: 0,
        lost: vec![
            LossCount {
                reason: LossReason::KernelRingFull.into(),
                count: 7,
            },
            LossCount {
                reason: LossReason::AgentSpoolFull.into(),
                count: 10,
            },
        ],
        sequenced: 50,
        ..Ledger::default()
    });
    session.send_batch(batch).await;
    assert_eq!(session.ack().await, 50);
    let listed = NodeServiceClient::new(channel(site.address(), &site.admin))
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let [node] = listed.nodes.as_slice() else {
        panic!("{listed:?}");
    };
    assert!(node.events_connected && !node.control_connected);
    assert_eq!((node.stored, node.durable_sequence), (40, 50));
    assert_eq!(node.lost[0].count, 10);
    assert_eq!(node.info.as_ref().unwrap().hostname, "node-a");
    // seen = stored + lost
    let ledger = node.ledger.as_ref().unwrap();
    let lost: u64 = ledger.lost.iter().map(|loss| loss.count).sum();
    assert_eq!(ledger.seen, node.stored + lost);

    let (_, summary) = query(site.address(), &site.admin, QueryEventsRequest::default())
        .await
        .unwrap();
    let total: u64 = summary.losses[0].lost.iter().map(|loss| loss.count).sum();
    assert_eq!(total, 17);
}

/// What an agent says: at the end of hour 1,000 it had numbered 30 events and
/// lost 5 in the ring, and in hour 1,001 it lost nothing so far.
fn ledger_of_two_hours() -> Ledger {
    let ring_full = vec![LossCount {
        reason: LossReason::KernelRingFull.into(),
        count: 5,
    }];
    let mark = |number, hour, seen, sequenced| HourMark {
        hour,
        number,
        seen,
        filtered: 2,
        lost: ring_full.clone(),
        sequenced,
    };
    Ledger {
        seen: 59,
        filtered: 2,
        lost: ring_full.clone(),
        sequenced: 52,
        hours: vec![mark(1, 1_000, 37, 30), mark(2, 1_001, 59, 52)],
        ..Ledger::default()
    }
}

async fn hours(site: &Site, since: i64, until: i64) -> Vec<NodeHour> {
    let mut stream = NodeServiceClient::new(channel(site.address(), &site.admin))
        .list_hours(ListHoursRequest {
            nodes: vec!["node-a".to_owned()],
            since_unix_ns: since,
            until_unix_ns: until,
        })
        .await
        .unwrap()
        .into_inner();
    let mut hours = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        hours.extend(message.hours);
    }
    hours
}

#[tokio::test]
async fn each_hour_says_what_became_of_what_was_counted_in_it() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let mut site = Site::start();
    let mut session = site.session().await;
    let mut batch = sealed(11, 40);
    batch.lost = vec![LostRange {
        first_sequence: 1,
        count: 10,
        reason: LossReason::AgentSpoolFull.into(),
    }];
    batch.ledger = Some(ledger_of_two_hours());
    session.send_batch(batch).await;
    assert_eq!(session.ack().await, 50);
    // Told again: nothing counts twice.
    let mut batch = sealed(51, 0);
    batch.ledger = Some(ledger_of_two_hours());
    session.send_batch(batch).await;
    assert_eq!(session.ack().await, 50);
    site.restart();

    let found = hours(&site, 0, 0).await;
    let [first, second] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((first.hour, first.seen, first.filtered), (1_000, 37, 2));
    assert_eq!(
        (first.sequenced, first.stored, first.in_flight),
        (30, 20, 0)
    );
    let lost: u64 = first.lost.iter().map(|loss| loss.count).sum();
    assert_eq!((first.lost.len(), lost), (2, 15));
    assert_eq!((second.hour, second.seen, second.filtered), (1_001, 22, 0));
    assert_eq!(
        (second.sequenced, second.stored, second.in_flight),
        (22, 20, 2)
    );
    assert_eq!(second.lost, []);
    assert_eq!(second.unaccounted, 0);
    let only = hours(&site, 1_001 * HOUR_NS, 1_001 * HOUR_NS + 1).await;
    assert_eq!(only.len(), 1);

    // A query answers for its own range.
    let check = async |since_unix_ns, until_unix_ns, losses: u64, in_flight| {
        let filter = EventFilter {
            since_unix_ns,
            until_unix_ns,
            ..EventFilter::default()
        };
        let request = QueryEventsRequest {
            filter: Some(filter),
            ..QueryEventsRequest::default()
        };
        let (_, summary) = query(site.address(), &site.admin, request).await.unwrap();
        let lost = summary.losses.iter().flat_map(|node| &node.lost);
        assert_eq!(lost.map(|loss| loss.count).sum::<u64>(), losses);
        assert_eq!(summary.in_flight, in_flight);
    };
    check(0, 0, 15, 2).await;
    check(1_001 * HOUR_NS, 0, 0, 2).await;
    check(1_000 * HOUR_NS + 5, 1_001 * HOUR_NS, 15, 0).await;
    check(1, 1_000 * HOUR_NS, 0, 0).await;
}

#[tokio::test]
async fn health_is_for_every_role() {
    let site = Site::start();
    for name in ["agent/node-a", "admin/alice"] {
        for service in ["", "shrike.ingest.v1.IngestService"] {
            let health = HealthClient::new(channel(site.address(), &site.pki.issue(name)))
                .check(HealthCheckRequest {
                    service: service.to_owned(),
                })
                .await
                .unwrap()
                .into_inner();
            assert_eq!(health.status(), ServingStatus::Serving);
        }
    }
}

//! What was acknowledged is there, whatever happens.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    process::Command,
    time::{Duration, Instant},
};

use shrike_proto::wire::{
    admin::{self, EventFilter, QueryEventsRequest},
    ingest::{nack, stream_events_response},
};

use crate::{
    certificates::Pki,
    client::{PATIENCE, Session, query, sealed, sequences},
    process::Home,
    site::Site,
};

#[tokio::test]
async fn killed_collector_has_everything_it_acknowledged() {
    let pki = Pki::new();
    let (home, agent, admin) = (
        Home::new(&pki),
        pki.issue("agent/node-a"),
        pki.issue("admin/alice"),
    );
    let mut acknowledged = 0;
    for _ in 0..3 {
        let mut collector = home.start();
        let (mut session, welcome) = Session::open(&collector.address, &agent, "node-a")
            .await
            .unwrap();
        assert!(welcome.durable_sequence >= acknowledged);
        let mut next = welcome.durable_sequence + 1;
        for _ in 0..20 {
            session.send_batch(sealed(next, 50)).await;
            next += 50;
            acknowledged = session.ack().await;
        }
        // One more is on its way when the lights go out.
        session.send_batch(sealed(next, 50)).await;
        collector.kill();
    }
    let collector = home.start();
    let found = sequences(&collector.address, &admin).await;
    assert!(found.len() as u64 >= acknowledged);
    assert!(
        found.iter().copied().eq(1..=found.len() as u64),
        "none twice, none missing"
    );
    assert_eq!(collector.terminate(), Some(0));
}

#[tokio::test]
async fn collector_killed_while_it_merges_has_each_event_once() {
    let pki = Pki::new();
    let (home, agent, admin) = (
        Home::new(&pki),
        pki.issue("agent/node-a"),
        pki.issue("admin/alice"),
    );
    let mut next = 1;
    // Blocks that are there at the start are merged a second later.
    for round in 0..5 {
        let mut collector = home.start();
        let (mut session, welcome) = Session::open(&collector.address, &agent, "node-a")
            .await
            .unwrap();
        assert_eq!(welcome.durable_sequence, next - 1);
        for _ in 0..150 {
            session.send_batch(sealed(next, 2)).await;
            next += 2;
            assert_eq!(session.ack().await, next - 1);
        }
        tokio::time::sleep(Duration::from_millis(600 + 120 * round)).await;
        collector.kill();
    }
    let collector = home.start();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = QueryEventsRequest {
            filter: Some(EventFilter::default()),
            order: admin::Order::OldestFirst.into(),
            limit: 0,
            ..QueryEventsRequest::default()
        };
        let (events, summary) = query(&collector.address, &admin, request).await.unwrap();
        let found = events
            .into_iter()
            .map(|stored| stored.event.unwrap().sequence);
        assert!(found.eq(1..next), "none twice, none missing");
        if summary.blocks_read <= 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{} blocks", summary.blocks_read);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(collector.terminate(), Some(0));
    let whole = home.command(&["store", "verify"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
}

#[tokio::test]
async fn terminated_collector_tells_its_sessions_and_exits_with_0() {
    let pki = Pki::new();
    let (home, agent) = (Home::new(&pki), pki.issue("agent/node-a"));
    let collector = home.start();
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    session.send_batch(sealed(1, 5)).await;
    assert_eq!(session.ack().await, 5);
    let exit = tokio::task::spawn_blocking(move || collector.terminate());
    assert_eq!(session.end().await.code(), tonic::Code::Unavailable);
    assert_eq!(exit.await.unwrap(), Some(0));
}

#[tokio::test]
async fn event_sent_twice_is_stored_once() {
    let site = Site::start();
    for durable in [10, 15] {
        let mut session = site.session().await;
        session.send_batch(sealed(1, 10)).await;
        assert_eq!(session.ack().await, durable);
        session.send_batch(sealed(6, 10)).await;
        assert_eq!(session.ack().await, 15);
    }
    assert!(site.sequences().await.into_iter().eq(1..=15));
}

#[tokio::test]
async fn damaged_block_is_set_aside_at_the_start_and_counts_as_lost() {
    let pki = Pki::new();
    let (home, agent, admin) = (
        Home::new(&pki),
        pki.issue("agent/node-a"),
        pki.issue("admin/alice"),
    );
    let collector = home.start();
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    for index in 0..4 {
        session.send_batch(sealed(1 + index * 50, 50)).await;
        session.ack().await;
    }
    assert_eq!(collector.terminate(), Some(0));
    let db = sled::Config::new()
        .path(&home.data_dir)
        .segment_size(16 << 20)
        .open()
        .unwrap();
    // The second block's payload.
    let (key, value) = db.scan_prefix(b"p").nth(1).unwrap().unwrap();
    let mut value = value.to_vec();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    db.insert(key, value).unwrap();
    drop(db);

    let collector = home.start();
    let request = QueryEventsRequest {
        filter: Some(EventFilter::default()),
        order: admin::Order::OldestFirst.into(),
        limit: 0,
        ..QueryEventsRequest::default()
    };
    let (events, summary) = query(&collector.address, &admin, request).await.unwrap();
    let found: Vec<u64> = events
        .into_iter()
        .map(|stored| stored.event.unwrap().sequence)
        .collect();
    assert!(found.iter().copied().eq((1..=50).chain(101..=200)));
    assert_eq!(summary.losses[0].lost[0].count, 50);
    // The agent is not asked for them again, and goes on.
    let (mut session, welcome) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    assert_eq!(welcome.durable_sequence, 200);
    session.send_batch(sealed(201, 50)).await;
    assert_eq!(session.ack().await, 250);
    assert_eq!(collector.terminate(), Some(0));
    let kept = fs::read_dir(home.data_dir.join("damaged")).unwrap().count();
    assert_eq!(kept, 2, "footer and payload");
    let whole = home.command(&["store", "verify"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
}

#[tokio::test]
async fn collector_goes_on_with_a_restored_backup() {
    let pki = Pki::new();
    let (home, agent, admin) = (
        Home::new(&pki),
        pki.issue("agent/node-a"),
        pki.issue("admin/alice"),
    );
    let collector = home.start();
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    session.send_batch(sealed(1, 100)).await;
    assert_eq!(session.ack().await, 100);
    let backup = home.data_dir.with_file_name("backup");
    let name = backup.to_str().unwrap();
    let running = home.command(&["store", "backup", name]);
    let words = String::from_utf8_lossy(&running.stderr);
    assert_eq!(running.status.code(), Some(1), "{words}");
    assert!(words.contains("stop the collector first"), "{words}");
    assert_eq!(collector.terminate(), Some(0));

    let stats = home.command(&["store", "stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["total"]["events"], 100);
    assert_eq!(stats["nodes"]["node-a"]["events"], 100);
    let done = home.command(&["store", "backup", name]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let refused = home.command(&["store", "restore", name]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    fs::rename(&home.data_dir, home.data_dir.with_file_name("old")).unwrap();
    let done = home.command(&["store", "restore", name]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");

    let collector = home.start();
    let found = sequences(&collector.address, &admin).await;
    assert!(found.into_iter().eq(1..=100));
    let (_, welcome) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    assert_eq!(welcome.durable_sequence, 100);
    assert_eq!(collector.terminate(), Some(0));
}

#[tokio::test]
async fn damaged_store_is_refused_and_its_whole_blocks_exported() {
    let pki = Pki::new();
    let (home, agent) = (Home::new(&pki), pki.issue("agent/node-a"));
    let collector = home.start();
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    for index in 0..40 {
        session.send_batch(sealed(1 + index * 500, 500)).await;
        session.ack().await;
    }
    assert_eq!(collector.terminate(), Some(0));
    let whole = home.command(&["store", "verify"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");

    // A byte in the middle of what was written.
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(home.data_dir.join("db"))
        .unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = used / 2;
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[!bytes[at]]).unwrap();
    drop(file);

    let refused = home.command(&["run"]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{words}");
    assert!(words.contains("is damaged"), "{words}");
    assert!(words.contains("store export"), "{words}");
    let exported = home.command(&["store", "export"]);
    let words = String::from_utf8_lossy(&exported.stderr);
    assert_eq!(exported.status.code(), Some(1), "{words}");
    let lines = String::from_utf8_lossy(&exported.stdout).lines().count();
    assert!(lines >= 500, "{lines} events saved: {words}");
}

/// Fills a small disk under a collector that keeps `low_disk_bytes` free, and
/// empties it again.
async fn survives_a_full_disk(low_disk_bytes: u64) {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"])
        .arg(&disk)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: only root may mount a small disk");
        return;
    }
    let _unmount = Unmount(disk.clone());
    let home = Home::with_data_dir(
        folder,
        &pki.issue("collector/main"),
        disk.join("data"),
        low_disk_bytes,
        "",
    );
    let (agent, admin) = (pki.issue("agent/node-a"), pki.issue("admin/alice"));
    let collector = home.start();
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    session.send_batch(sealed(1, 100)).await;
    assert_eq!(session.ack().await, 100);

    let filler = disk.join("filler");
    fill(&filler);
    // Sled may still have a page or two of its own: what counts is that the
    // first batch that is not stored is refused, and none is lost.
    let mut next = 101;
    loop {
        session.send_batch(sealed(next, 100)).await;
        match session.answer().await.unwrap() {
            stream_events_response::Message::Ack(ack) => {
                assert_eq!(ack.durable_sequence, next + 99);
                next += 100;
                assert!(next < 1_000_000, "the disk never fills");
            }
            stream_events_response::Message::Nack(refusal) => {
                assert_eq!(refusal.first_sequence, next);
                assert!(matches!(
                    refusal.reason,
                    Some(nack::Reason::RetryAfterMs(1..))
                ));
                break;
            }
            other => panic!("{other:?} on a full disk"),
        }
    }
    fs::remove_file(filler).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.send_batch(sealed(next, 100)).await;
        match session.answer().await.unwrap() {
            stream_events_response::Message::Ack(ack) => {
                assert_eq!(ack.durable_sequence, next + 99);
                break;
            }
            stream_events_response::Message::Nack(_) => {
                assert!(Instant::now() < deadline, "work does not go on");
            }
            other => panic!("{other:?} after a full disk"),
        }
    }
    let found = sequences(&collector.address, &admin).await;
    assert!(found.into_iter().eq(1..=next + 99));
    assert_eq!(collector.terminate(), Some(0));
}

#[tokio::test]
async fn full_disk_means_no_acknowledgement_until_there_is_room() {
    survives_a_full_disk(1_000_000).await;
}

#[tokio::test]
async fn write_that_fails_on_a_full_disk_is_recovered_from() {
    survives_a_full_disk(0).await;
}

fn fill(path: &std::path::Path) {
    let mut file = fs::File::create(path).unwrap();
    let chunk = vec![1; 64 << 10];
    while file.write_all(&chunk).is_ok() {}
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily: a collector that failed may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

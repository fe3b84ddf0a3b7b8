use super::*;
use crate::spool::testing::MemoryFiles;

fn file(queue: &mut Queue, path: &str) -> Arc<Target> {
    let target = Arc::new(Target::new(path.to_owned()));
    queue.push(Write::Create(Arc::clone(&target)));
    target
}

/// Does what is next; says whether there was anything.
fn step(queue: &mut Queue, files: &MemoryFiles) -> bool {
    let Some(job) = queue.next() else {
        return false;
    };
    let result = job.run(files);
    queue.finish(result);
    true
}

fn run(queue: &mut Queue, files: &MemoryFiles) {
    while step(queue, files) {}
}

fn content(target: &Target) -> Vec<u8> {
    let mut bytes = vec![0; target.length() as usize];
    target.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_is_not_written_yet_is_read_from_memory() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    let target = file(&mut queue, "a/b");
    let all: Vec<u8> = (0..100).collect();
    for (index, part) in all.chunks(9).enumerate() {
        queue.append(&target, part.to_vec(), 9 * index as u64);
    }
    // However many of them the disk has.
    for _ in 0..=12 {
        for (from, to) in [(0, 100), (3, 5), (8, 10), (17, 64), (99, 100)] {
            let mut bytes = vec![0; to - from];
            target.read_at(&mut bytes, from as u64).unwrap();
            assert_eq!(bytes, all[from..to]);
        }
        let beyond = target.read_at(&mut [0; 2], 99).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        step(&mut queue, &files);
    }
    assert!(queue.is_idle());
    assert_eq!((target.written(), target.waiting_bytes()), (100, 0));
    assert_eq!((content(&target), queue.bytes()), (all, 0));
}

#[test]
fn what_failed_stays_at_the_head_until_it_is_tried_again() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    let (first, second) = (file(&mut queue, "a/1"), file(&mut queue, "a/2"));
    queue.append(&first, vec![1; 50], 0);
    let awaited = queue.ticket();
    queue.append(&second, vec![2; 50], 0);
    files.set_room(Some(20));
    run(&mut queue, &files);
    let failure = queue.failure().unwrap().clone();
    assert_eq!((failure.trouble, failure.attempt), (Trouble::NoRoom, 1));
    assert!(queue.done() < awaited);
    assert!(queue.next().is_none(), "it waits for its time");
    queue.retry();
    run(&mut queue, &files);
    assert_eq!(queue.failure().unwrap().attempt, 2);
    files.set_room(None);
    queue.retry();
    let job = queue.next().unwrap();
    let result = job.run(&files);
    assert!(queue.finish(result), "somebody waits for this one");
    assert_eq!(queue.done(), awaited);
    assert_eq!(second.written(), 0, "the order is kept");
    run(&mut queue, &files);
    assert_eq!(
        (content(&first), content(&second)),
        (vec![1; 50], vec![2; 50])
    );
}

#[test]
fn removals_run_ahead_and_take_what_waits_for_their_file_along() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    let (old, new) = (file(&mut queue, "a/old"), file(&mut queue, "a/new"));
    queue.append(&old, vec![1; 50], 0);
    run(&mut queue, &files);
    files.set_room(Some(0));
    queue.append(&old, vec![1; 30], 50);
    queue.append(&new, vec![2; 40], 0);
    run(&mut queue, &files);
    assert_eq!(queue.failure().unwrap().trouble, Trouble::NoRoom);
    let before = queue.bytes();
    queue.remove_target(&old);
    assert!(queue.bytes() <= before - 30, "memory is free at once");
    assert_eq!(queue.failure(), None, "what failed is not wanted any more");
    run(&mut queue, &files);
    assert_eq!(files.paths(), ["a/new"]);
    assert_eq!((content(&new), queue.bytes()), (vec![2; 40], 0));
}

#[test]
fn a_file_that_was_never_made_leaves_no_trace() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    queue.push(Write::MakeFolder("a".to_owned()));
    let target = file(&mut queue, "a/1");
    queue.append(&target, vec![1; 50], 0);
    assert!(target.is_unborn());
    queue.remove_target(&target);
    queue.remove_folder("a");
    let mut jobs = 0;
    while step(&mut queue, &files) {
        jobs += 1;
    }
    assert_eq!((jobs, files.paths().len()), (1, 0), "but for the folder");
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn a_write_that_is_under_way_ends_before_its_file_is_removed() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    let target = file(&mut queue, "a/1");
    run(&mut queue, &files);
    queue.append(&target, vec![1; 10], 0);
    queue.append(&target, vec![1; 10], 10);
    let job = queue.next().unwrap();
    queue.remove_target(&target);
    // It fails, and nobody wants it tried again.
    drop(job);
    queue.finish(Err(io::ErrorKind::StorageFull.into()));
    assert_eq!(queue.failure(), None);
    assert!(matches!(
        queue.next(),
        Some(Job::Removal(Removal::File(path))) if path == "a/1"
    ));
    queue.finish(Ok(()));
    assert!(queue.is_idle());
    assert_eq!((queue.bytes(), target.waiting_bytes()), (0, 0));
}

#[test]
fn only_a_lack_of_room_is_one() {
    let check = |error: io::ErrorKind, expect: Trouble| {
        let mut queue = Queue::default();
        file(&mut queue, "a/1");
        queue.next().unwrap();
        assert!(queue.finish(Err(error.into())), "that is told");
        assert_eq!(queue.failure().unwrap().trouble, expect);
    };
    check(io::ErrorKind::StorageFull, Trouble::NoRoom);
    check(io::ErrorKind::QuotaExceeded, Trouble::NoRoom);
    check(io::ErrorKind::ReadOnlyFilesystem, Trouble::Other);
    check(io::ErrorKind::Other, Trouble::Other);
}

#[test]
fn files_are_synced_behind_the_writes_before_and_journals_behind_the_data() {
    let (mut queue, files) = (Queue::default(), MemoryFiles::default());
    let (data, more) = (file(&mut queue, "a/1"), file(&mut queue, "a/2"));
    let journal = file(&mut queue, "a/journal");
    let names =
        |job: &SyncJob| -> Vec<String> { job.files.iter().map(|file| file.path.clone()).collect() };
    queue.sync(vec![Arc::clone(&data), Arc::clone(&journal)], None);
    queue.append(&more, vec![1], 0);
    queue.sync(vec![more, Arc::clone(&journal)], Some("a".to_owned()));
    assert!(queue.next_sync().is_none(), "nothing is written yet");
    run(&mut queue, &files);
    let job = queue.next_sync().unwrap();
    assert_eq!(names(&job), ["a/1", "a/2", "a/journal"]);
    assert_eq!(job.folders, ["a"]);
    assert!(queue.next_sync().is_none());
    job.run(&files).unwrap();
}

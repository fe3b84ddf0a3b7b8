use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use proptest::prelude::*;
use shrike_proto::{
    batch,
    event::{Action, Exit, Fact, Open, Outcome, Process, Verdict},
    id::{Generation, PolicyName, RuleName},
};

use super::{files::Files, testing::MemoryFiles, *};

const BOOT: &str = "boot-1";

fn limits(bytes_max: u64) -> SpoolLimits {
    SpoolLimits {
        bytes_max,
        sync: Sync::Interval(Duration::from_secs(1)),
    }
}

fn epoch(number: u8) -> Epoch {
    Epoch([number; 16])
}

fn open(files: &MemoryFiles, boot_id: &str, number: u8) -> Spool {
    open_with(files, boot_id, number, 64 << 20)
}

fn open_with(files: &MemoryFiles, boot_id: &str, number: u8, bytes_max: u64) -> Spool {
    let disk = Disk::immediate(Arc::new(files.clone()));
    open_on(&disk, boot_id, number, bytes_max)
}

fn open_on(disk: &Disk, boot_id: &str, number: u8, bytes_max: u64) -> Spool {
    Spool::open(disk.clone(), limits(bytes_max), 8, boot_id, epoch(number)).unwrap()
}

/// An event that is known again by its boot time.
fn event(class: Class, id: u64, sequence: SequenceNumber) -> Event {
    let verdict = (class == Class::Verdicts).then(|| Verdict {
        action: Action::Kill,
        policy: PolicyName::parse("p").unwrap(),
        rule: RuleName::parse("r").unwrap(),
        outcome: Outcome::Denied,
        denied: true,
    });
    Event {
        sequence,
        time_unix_ns: 1,
        boot_time_ns: id,
        cpu: 0,
        cpu_sequence: 0,
        generation: Generation::NONE,
        process: Process::default(),
        verdict,
        fact: match class {
            Class::Processes => Fact::Exit(Exit::default()),
            Class::Verdicts | Class::Opens => Fact::Open(Open {
                // Of some size, so that files fill up.
                path_as_asked: noise(id),
                ..Open::default()
            }),
        },
    }
}

/// Bytes that do not compress.
fn noise(id: u64) -> Vec<u8> {
    let mut state = id;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
    .take(200)
    .collect()
}

fn push(spool: &mut Spool, class: Class, id: u64) {
    let sequence = match class {
        Class::Verdicts => spool.next_verdict_number(),
        Class::Processes | Class::Opens => SequenceNumber(batch::BY_PLACE),
    };
    spool.push(&event(class, id, sequence));
}

fn fill(spool: &mut Spool, class: Class, ids: std::ops::Range<u64>) {
    for id in ids {
        push(spool, class, id);
    }
    spool.commit(&[]);
}

/// What a collector does with what it is sent.
#[derive(Default)]
struct Collector {
    epochs: HashMap<[u8; 16], Stored>,
}

#[derive(Default)]
struct Stored {
    durable: u64,
    ids: Vec<u64>,
    lost: BTreeMap<i32, u64>,
}

impl Collector {
    fn durable(&self, epoch: Epoch) -> SequenceNumber {
        SequenceNumber(self.epochs.get(&epoch.0).map_or(0, |stored| stored.durable))
    }

    fn take(&mut self, batch: &ingest::Batch) {
        let epoch: [u8; 16] = batch.epoch.as_slice().try_into().unwrap();
        let stored = self.epochs.entry(epoch).or_default();
        for lost in &batch.lost {
            let last = lost.first_sequence + lost.count - 1;
            if last <= stored.durable {
                continue;
            }
            assert!(
                lost.first_sequence <= stored.durable + 1,
                "a hole before a loss"
            );
            *stored.lost.entry(lost.reason).or_default() += last - stored.durable;
            stored.durable = last;
        }
        if batch.count == 0 {
            return;
        }
        let last = batch.first_sequence + u64::from(batch.count) - 1;
        if last <= stored.durable {
            return;
        }
        assert!(
            batch.first_sequence <= stored.durable + 1,
            "a hole before a batch"
        );
        for event in batch::open(batch).unwrap() {
            if event.sequence.0 > stored.durable {
                stored.ids.push(event.boot_time_ns);
            }
        }
        stored.durable = last;
    }

    fn lost(&self) -> u64 {
        self.epochs
            .values()
            .flat_map(|stored| stored.lost.values())
            .sum()
    }

    fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .epochs
            .values()
            .flat_map(|stored| stored.ids.iter().copied())
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// Delivers everything, session by session.
fn deliver(spool: &mut Spool, collector: &mut Collector) {
    let mut batches = 0;
    loop {
        spool.rewind();
        let durable = collector.durable(spool.epoch());
        if spool.acknowledge(durable).is_err() {
            // An agent before sent what the disk had not taken.
            spool.begin_anew(epoch(255));
            continue;
        }
        while let Some(batch) = spool.take_next() {
            batches += 1;
            assert!(batches < 10_000, "this never ends: {batch:?} of {spool:?}");
            collector.take(&batch);
            spool.acknowledge(collector.durable(spool.epoch())).unwrap();
        }
        if !spool.retire() {
            break;
        }
    }
    assert!(spool.is_empty());
}

#[test]
fn events_are_numbered_by_their_worth_when_they_are_committed() {
    let mut spool = open(&MemoryFiles::default(), BOOT, 1);
    push(&mut spool, Class::Opens, 1);
    push(&mut spool, Class::Verdicts, 2);
    push(&mut spool, Class::Processes, 3);
    push(&mut spool, Class::Verdicts, 4);
    assert!(spool.take_next().is_none(), "nothing is safe yet");
    spool.commit(&[]);
    let sent: Vec<(u64, u32)> = std::iter::from_fn(|| spool.take_next())
        .map(|batch| (batch.first_sequence, batch.count))
        .collect();
    assert_eq!(sent, [(1, 2), (3, 1), (4, 1)]);
    assert_eq!(spool.next_number(), SequenceNumber(5));
}

#[test]
fn an_epoch_goes_on_after_a_kill_and_ends_with_the_boot() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    assert_eq!(spool.origin(), &Origin::New);
    fill(&mut spool, Class::Opens, 0..20);
    let mark = Mark {
        instance: 7,
        priority: 3,
        opens: 20,
    };
    push(&mut spool, Class::Processes, 20);
    spool.commit(&[mark]);
    drop(spool);
    let spool = open(&files, BOOT, 2);
    assert_eq!(spool.origin(), &Origin::Continued);
    assert_eq!(spool.epoch(), epoch(1));
    assert_eq!((spool.next_number().0, spool.waiting()), (22, 21));
    assert_eq!(spool.marks(), [mark]);
    drop(spool);
    let mut spool = open(&files, "boot-2", 3);
    assert!(matches!(spool.origin(), Origin::Begun(_)));
    assert_eq!(spool.marks(), [], "those rings are gone");
    assert_eq!(spool.epoch(), epoch(1), "what waits goes first");
    assert!(spool.ended_ledger().is_some());
    fill(&mut spool, Class::Opens, 21..25);
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!(collector.ids(), (0..25).collect::<Vec<_>>());
    assert_eq!(collector.durable(epoch(3)).0, 4);
    assert!(
        files
            .paths()
            .iter()
            .all(|path| path.starts_with("epoch_000002"))
    );
}

#[test]
fn a_torn_journal_ends_the_epoch_and_loses_nothing() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    fill(&mut spool, Class::Opens, 0..5);
    drop(spool);
    files.append("journal", &[9, 0, 0, 0, 1]);
    let mut spool = open(&files, BOOT, 2);
    assert_eq!(
        spool.origin(),
        &Origin::Begun("the journal of the last one is torn".to_owned())
    );
    fill(&mut spool, Class::Opens, 5..9);
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!(collector.ids(), (0..9).collect::<Vec<_>>());
    assert_eq!(collector.lost(), 0);
}

#[test]
fn a_damaged_payload_is_lost_alone_and_named() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    fill(&mut spool, Class::Opens, 0..5);
    fill(&mut spool, Class::Processes, 5..7);
    assert!(files.flip(|path| path.contains("opens"), 12));
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!(collector.ids(), [5, 6]);
    assert_eq!(
        spool.lost(),
        BTreeMap::from([(LossReason::AgentSpoolDamaged, 5)])
    );
    assert_eq!(collector.lost(), 5);
}

#[test]
fn what_is_worth_least_leaves_first() {
    let files = MemoryFiles::default();
    let mut spool = open_with(&files, BOOT, 1, 300 << 10);
    for round in 0..400 {
        let id = round * 16;
        push(&mut spool, Class::Verdicts, id);
        push(&mut spool, Class::Processes, id + 1);
        for open in 2..16 {
            push(&mut spool, Class::Opens, id + open);
        }
        spool.commit(&[]);
    }
    assert!(spool.bytes() <= 300 << 10);
    let lost = spool.lost()[&LossReason::AgentSpoolFull];
    assert!(lost > 1000, "{lost}");
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    let ids: HashSet<u64> = collector.ids().into_iter().collect();
    assert!((0..400).all(|round| ids.contains(&(round * 16)) && ids.contains(&(round * 16 + 1))));
    assert!(ids.contains(&(399 * 16 + 15)), "the newest stay");
    assert_eq!(ids.len() as u64 + lost, 400 * 16);
    assert_eq!(
        (collector.lost(), spool.lost()[&LossReason::AgentSpoolFull]),
        (lost, lost)
    );
}

#[test]
fn a_full_disk_costs_what_is_worth_least_and_is_told() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    fill(&mut spool, Class::Opens, 0..400);
    files.set_room(Some(100));
    fill(&mut spool, Class::Processes, 400..500);
    files.set_room(Some(0));
    fill(&mut spool, Class::Processes, 500..600);
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    let lost: u64 = spool.lost().values().sum();
    assert!(lost >= 400, "{lost}");
    assert_eq!(collector.lost(), lost);
    assert_eq!(collector.ids().len() as u64 + lost, 600);
    files.set_room(None);
    fill(&mut spool, Class::Opens, 600..610);
    deliver(&mut spool, &mut collector);
    assert!(collector.ids().ends_with(&(600..610).collect::<Vec<_>>()));
    // And a successor knows it all.
    drop(spool);
    let spool = open(&files, BOOT, 2);
    assert_eq!(spool.next_number().0, 611);
}

#[test]
fn a_refused_batch_is_kept_with_its_reason_and_blocks_nothing() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    for ids in [0..3, 3..6, 6..9] {
        fill(&mut spool, Class::Opens, ids);
    }
    let sent: Vec<_> = std::iter::from_fn(|| spool.take_next()).collect();
    assert_eq!(spool.quarantine(SequenceNumber(4), "odd"), Some(3));
    assert_eq!(spool.quarantine(SequenceNumber(5), "odd"), None);
    let again = spool.take_next().unwrap();
    assert_eq!((again.first_sequence, again.lost.len()), (7, 1));
    assert_eq!((again.lost[0].first_sequence, again.lost[0].count), (4, 3));
    spool.acknowledge(SequenceNumber(9)).unwrap();
    assert!(spool.is_empty());
    assert_eq!(spool.lost(), BTreeMap::from([(LossReason::Quarantined, 3)]));
    let kept = quarantine::read(&Disk::immediate(Arc::new(files))).unwrap();
    let refused = kept[0].1.as_ref().unwrap();
    assert_eq!(refused.reason, "odd");
    assert_eq!(refused.batch.as_ref(), Some(&sent[1]));
}

#[test]
fn a_collector_that_is_ahead_makes_another_epoch_begin() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    fill(&mut spool, Class::Opens, 0..4);
    assert_eq!(
        spool.acknowledge(SequenceNumber(9)),
        Err(AckError::Ahead {
            acked: SequenceNumber(9),
            last: SequenceNumber(0)
        })
    );
    assert_eq!(spool.begin_anew(epoch(5)).delivered, 0);
    assert_eq!(spool.epoch(), epoch(5));
    assert_eq!(spool.lost(), BTreeMap::new(), "nothing of it was sent");
    fill(&mut spool, Class::Opens, 4..6);
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!((collector.ids(), collector.lost()), ((0..6).collect(), 0));
    assert!(
        files
            .paths()
            .iter()
            .all(|path| path.starts_with("epoch_000002"))
    );
}

#[test]
fn what_was_sent_under_numbers_of_another_disk_is_told_as_lost() {
    let mut spool = open(&MemoryFiles::default(), BOOT, 1);
    for ids in [0..2, 2..5, 5..9] {
        fill(&mut spool, Class::Opens, ids);
    }
    let sent: Vec<u32> = (0..2)
        .map(|_| spool.take_next().unwrap())
        .map(|batch| batch.count)
        .collect();
    assert_eq!(sent, [2, 3]);
    spool.acknowledge(SequenceNumber(2)).unwrap();
    spool.acknowledge(SequenceNumber(6)).unwrap_err();
    assert_eq!(spool.begin_anew(epoch(2)).delivered, 2);
    assert_eq!(
        spool.lost(),
        BTreeMap::from([(LossReason::AgentSpoolDamaged, 3)])
    );
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!((collector.ids(), collector.lost()), ((5..9).collect(), 3));
}

#[test]
fn a_successor_does_not_take_an_acknowledgement_for_its_own_events() {
    let files = MemoryFiles::default();
    let mut spool = open(&files, BOOT, 1);
    fill(&mut spool, Class::Opens, 0..3);
    assert_eq!(spool.take_next().map(|batch| batch.count), Some(3));
    drop(spool);
    // One that never gets as far as sending is no reason to believe it.
    let mut between = open(&files, BOOT, 2);
    fill(&mut between, Class::Opens, 10..12);
    drop(between);
    let mut spool = open(&files, BOOT, 2);
    fill(&mut spool, Class::Opens, 12..14);
    assert_eq!(
        spool.acknowledge(SequenceNumber(5)),
        Err(AckError::Ahead {
            acked: SequenceNumber(5),
            last: SequenceNumber(3)
        }),
        "numbers 4 and 5 were sent by somebody else"
    );
    let inheritance = spool.begin_anew(epoch(3));
    assert_eq!(
        inheritance,
        Inheritance {
            delivered: 0,
            of_others: 2
        }
    );
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!(collector.ids(), (10..14).collect::<Vec<_>>());
}

/// A spool on a disk that hangs, and what its rings would be told.
fn hanging(files: &MemoryFiles) -> (Disk, Spool) {
    let disk = Disk::immediate(Arc::new(files.clone()));
    let spool = open_on(&disk, BOOT, 1, 64 << 20);
    disk.hold();
    (disk, spool)
}

fn marked(read: u64) -> Mark {
    Mark {
        instance: 1,
        priority: 0,
        opens: read,
    }
}

#[test]
fn while_the_disk_does_not_answer_acknowledgements_release_rings_and_memory() {
    let files = MemoryFiles::default();
    let (disk, mut spool) = hanging(&files);
    let mut now = Instant::now();
    let mut most = 0;
    for round in 0..3000 {
        for id in 0..4 {
            push(&mut spool, Class::Opens, 4 * round + id);
        }
        spool.commit(&[marked(4 * (round + 1))]);
        assert_eq!(spool.settle(now), None, "neither has it");
        if round == 0 {
            assert!(spool.take_next().is_none(), "it may be quick yet");
        }
        now += PATIENCE;
        spool.settle(now);
        let batch = spool.take_next().expect("it is sent from memory");
        let last = batch.first_sequence + u64::from(batch.count) - 1;
        spool.acknowledge(SequenceNumber(last)).unwrap();
        assert_eq!(spool.settle(now), Some(vec![marked(4 * (round + 1))]));
        most = most.max(disk.waiting_bytes());
    }
    // Some 3 MB went by.
    assert!(most < 1 << 20, "{most}");
    disk.let_go();
    spool.settle(now);
    assert!(disk.is_idle() && spool.is_empty());
    assert!(files.paths().len() < 6, "{:?}", files.paths());
    drop(spool);
    assert_eq!(open(&files, BOOT, 2).next_number().0, 12_001);
}

#[test]
fn memory_for_what_the_disk_has_not_taken_is_bounded_and_nothing_is_given_up_for_it() {
    let files = MemoryFiles::default();
    let (disk, mut spool) = hanging(&files);
    let mut events = 0;
    while spool.has_room() {
        fill(&mut spool, Class::Opens, events..events + 800);
        events += 800;
        assert!(events < 200_000, "{}", disk.waiting_bytes());
    }
    let drain = 800 * 300;
    assert!(disk.waiting_bytes() < WAITING_BYTES_MAX + drain);
    assert_eq!((spool.waiting(), spool.lost()), (events, BTreeMap::new()));
    disk.let_go();
    spool.settle(Instant::now());
    assert!(spool.has_room());
    let mut collector = Collector::default();
    deliver(&mut spool, &mut collector);
    assert_eq!(collector.ids().len() as u64, events);
}

#[test]
fn files_leave_when_they_are_acknowledged() {
    let files = MemoryFiles::default();
    let mut spool = open_with(&files, BOOT, 1, 4 << 20);
    let mut collector = Collector::default();
    for round in 0..200 {
        fill(&mut spool, Class::Opens, round * 100..(round + 1) * 100);
        deliver(&mut spool, &mut collector);
        assert!(spool.bytes() < 1 << 20, "{}", spool.bytes());
    }
    assert_eq!(collector.ids().len(), 20_000);
    assert!(files.paths().len() < 6, "{:?}", files.paths());
}

#[test]
fn a_spool_of_another_version_is_set_aside() {
    let files = MemoryFiles::default();
    let folder = "epoch_000004_0101";
    let file = files.create(&format!("{folder}/journal_000000")).unwrap();
    let opening = journal::Opening {
        version: journal::VERSION + 1,
        epoch: vec![1; 16],
        ..journal::Opening::default()
    };
    let frame = journal::Record::frame(journal::What::Opening(opening));
    file.write_at(&frame, 0).unwrap();
    let spool = open(&files, BOOT, 2);
    let Origin::Begun(reason) = spool.origin() else {
        panic!("{:?}", spool.origin());
    };
    assert!(
        reason.contains("it has version 2 of the format"),
        "{reason}"
    );
    assert!(
        files
            .paths()
            .contains(&format!("damaged_{folder}/journal_000000"))
    );
}

#[derive(Debug, Clone)]
enum Act {
    Push(Class, u8),
    Commit,
    Ledger,
    Sync,
    Send(u8),
    Arrive(u8),
    Acknowledge,
    Break,
    Kill,
    /// Between the commit and the release of the rings.
    CommitAndDie,
    CutPower(u64),
    Flip(usize),
    Room(Option<u16>),
    /// The disk does not answer, does so many things, and answers again.
    Hang,
    Creep(u8),
    Answer,
    /// So many milliseconds go by.
    Wait(u16),
}

fn act(faults: bool) -> BoxedStrategy<Act> {
    let class = prop::sample::select(Class::ALL.to_vec());
    let peaceful = prop_oneof![
        4 => (class, 1..30u8).prop_map(|(class, count)| Act::Push(class, count)),
        5 => Just(Act::Commit),
        1 => Just(Act::Ledger),
        1 => Just(Act::Sync),
        4 => (1..6u8).prop_map(Act::Send),
        4 => (1..6u8).prop_map(Act::Arrive),
        3 => Just(Act::Acknowledge),
        1 => Just(Act::Break),
        1 => Just(Act::Kill),
        1 => (0..2000u16).prop_map(Act::Wait),
    ];
    if !faults {
        return prop_oneof![20 => peaceful, 1 => Just(Act::CommitAndDie)].boxed();
    }
    prop_oneof![
        20 => peaceful,
        1 => any::<u64>().prop_map(Act::CutPower),
        1 => any::<usize>().prop_map(Act::Flip),
        1 => prop::option::of(0..4000u16).prop_map(Act::Room),
        1 => hang(),
    ]
    .boxed()
}

/// What a disk does that hangs.
fn hang() -> BoxedStrategy<Act> {
    prop_oneof![
        2 => Just(Act::Hang),
        1 => (0..40u8).prop_map(Act::Creep),
        1 => Just(Act::Answer),
        3 => (0..2000u16).prop_map(Act::Wait),
    ]
    .boxed()
}

/// A node: what its hooks recorded, and how far that was read.
struct World {
    files: MemoryFiles,
    disk: Disk,
    now: Instant,
    /// The collector has said how far it is.
    is_welcome: bool,
    /// Events that the collector had on its disk, and the rings still held,
    /// when an agent died whose own disk had not taken them.
    untold: u64,
    spool: Spool,
    collector: Collector,
    /// Records of this boot's ring.
    ring: Vec<(Class, u64)>,
    read: usize,
    released: usize,
    network: Vec<ingest::Batch>,
    next_id: u64,
    boot: u8,
    epochs: u8,
    bytes_max: u64,
    /// Events that were in a ring, or only in memory, when the power went.
    gone_with_power: u64,
}

impl World {
    fn new(bytes_max: u64) -> Self {
        let files = MemoryFiles::default();
        let disk = Disk::immediate(Arc::new(files.clone()));
        Self {
            spool: open_on(&disk, "boot-0", 0, bytes_max),
            files,
            disk,
            now: Instant::now(),
            is_welcome: true,
            untold: 0,
            collector: Collector::default(),
            ring: Vec::new(),
            read: 0,
            released: 0,
            network: Vec::new(),
            next_id: 0,
            boot: 0,
            epochs: 0,
            bytes_max,
            gone_with_power: 0,
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            instance: u64::from(self.boot) + 1,
            priority: self.read as u64,
            opens: 0,
        }
    }

    fn read_ring(&mut self) {
        while let Some((class, id)) = self.ring.get(self.read) {
            push(&mut self.spool, *class, *id);
            self.read += 1;
        }
    }

    /// What the agent does with what the disk has done.
    fn settle(&mut self) {
        let instance = self.mark().instance;
        let marks = self.spool.settle(self.now).unwrap_or_default();
        if let Some(mark) = marks.iter().find(|mark| mark.instance == instance) {
            self.released = self.released.max(mark.priority as usize);
        }
    }

    fn commit(&mut self) {
        self.read_ring();
        let mark = self.mark();
        self.spool.commit(&[mark]);
    }

    fn reopen(&mut self) {
        self.network.clear();
        self.epochs += 1;
        self.disk = Disk::immediate(Arc::new(self.files.clone()));
        let boot = format!("boot-{}", self.boot);
        self.spool = open_on(&self.disk, &boot, self.epochs, self.bytes_max);
        let instance = self.mark().instance;
        let marks = self.spool.marks();
        let mark = marks.iter().find(|mark| mark.instance == instance);
        let marked = mark.map_or(0, |mark| mark.priority as usize);
        self.released = self.released.max(marked);
        let told: HashSet<u64> = self.collector.ids().into_iter().collect();
        let again = &self.ring[self.released..self.read];
        self.untold += again.iter().filter(|(_, id)| told.contains(id)).count() as u64;
        self.read = self.released;
        self.is_welcome = false;
    }

    /// A session begins, if none did.
    fn connect(&mut self) {
        if !self.is_welcome {
            self.welcome();
        }
    }

    fn welcome(&mut self) {
        self.is_welcome = true;
        self.spool.rewind();
        let durable = self.collector.durable(self.spool.epoch());
        if self.spool.acknowledge(durable).is_err() {
            self.epochs += 1;
            self.spool.begin_anew(epoch(self.epochs));
        }
        self.settle();
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Push(class, count) => {
                for _ in 0..*count {
                    self.ring.push((*class, self.next_id));
                    self.next_id += 1;
                }
            }
            Act::Commit => {
                self.commit();
                self.settle();
            }
            Act::CommitAndDie => {
                self.commit();
                self.reopen();
            }
            Act::Hang => self.disk.hold(),
            Act::Creep(count) => {
                self.disk.do_some((*count).into());
                self.settle();
            }
            Act::Answer => {
                self.disk.let_go();
                self.settle();
            }
            Act::Wait(ms) => {
                self.disk.retry();
                self.now += Duration::from_millis((*ms).into());
                self.settle();
            }
            Act::Ledger => {
                let ledger = Ledger {
                    seen: self.next_id,
                    ..Ledger::default()
                };
                self.spool.keep_ledger(&ledger);
            }
            Act::Sync => self.spool.finish(),
            Act::Send(count) => {
                self.connect();
                for _ in 0..*count {
                    self.network.extend(self.spool.take_next());
                }
            }
            Act::Arrive(count) => {
                let count = usize::from(*count).min(self.network.len());
                for batch in self.network.drain(..count) {
                    self.collector.take(&batch);
                }
            }
            Act::Acknowledge => {
                self.connect();
                let epoch = self.spool.epoch();
                self.spool
                    .acknowledge(self.collector.durable(epoch))
                    .unwrap();
                if self.spool.retire() {
                    self.network.clear();
                    self.welcome();
                }
                self.settle();
            }
            Act::Break => {
                self.network.clear();
                self.welcome();
            }
            Act::Kill => self.reopen(),
            Act::CutPower(seed) => {
                let mut state = *seed | 1;
                self.files.cut_power(|most| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 33) as usize % (most + 1)
                });
                self.gone_with_power += self.ring.len() as u64;
                self.ring.clear();
                self.read = 0;
                self.released = 0;
                self.boot += 1;
                self.reopen();
            }
            Act::Flip(at) => {
                self.files.flip(|_| true, *at);
            }
            Act::Room(room) => self.files.set_room(room.map(usize::from)),
        }
    }

    fn end(&mut self) {
        self.files.set_room(None);
        self.commit();
        self.disk.let_go();
        self.settle();
        self.welcome();
        self.settle();
        deliver(&mut self.spool, &mut self.collector);
        for (epoch, stored) in &self.collector.epochs {
            let lost: u64 = stored.lost.values().sum();
            assert_eq!(
                stored.ids.len() as u64 + lost,
                stored.durable,
                "epoch {epoch:?}"
            );
        }
        let ids = self.collector.ids();
        let unique: HashSet<u64> = ids.iter().copied().collect();
        let twice = (ids.len() - unique.len()) as u64;
        assert!(twice <= self.untold, "{twice} were delivered twice");
    }
}

proptest! {
    #[test]
    fn kills_and_broken_sessions_lose_and_double_nothing(
        acts in prop::collection::vec(act(false), 1..120),
    ) {
        let mut world = World::new(64 << 20);
        for act in &acts {
            world.act(act);
        }
        world.end();
        prop_assert_eq!(world.collector.lost(), 0);
        prop_assert_eq!(world.collector.ids(), (0..world.next_id).collect::<Vec<_>>());
        prop_assert_eq!(world.collector.epochs.len() <= 1, true);
    }

    #[test]
    fn a_disk_that_hangs_costs_nothing_and_an_agent_that_dies_meanwhile_neither(
        acts in prop::collection::vec(prop_oneof![3 => act(false), 1 => hang()], 1..150),
    ) {
        let mut world = World::new(64 << 20);
        for act in &acts {
            world.act(act);
        }
        world.end();
        prop_assert_eq!(world.collector.lost(), 0);
        let mut ids = world.collector.ids();
        ids.dedup();
        prop_assert_eq!(ids, (0..world.next_id).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_given_up_is_what_the_collector_was_told(
        acts in prop::collection::vec(act(false), 1..120),
    ) {
        let mut world = World::new(40 << 10);
        for act in acts.iter().filter(|act| !matches!(act, Act::Kill | Act::CommitAndDie)) {
            world.act(act);
        }
        world.end();
        let lost: u64 = world.spool.lost().values().sum();
        prop_assert_eq!(world.collector.lost(), lost);
        prop_assert_eq!(world.collector.ids().len() as u64 + lost, world.next_id);
    }

    #[test]
    fn whatever_happens_to_the_disk_every_number_is_stored_or_lost_and_none_twice(
        acts in prop::collection::vec(act(true), 1..150),
    ) {
        let mut world = World::new(60 << 10);
        for act in &acts {
            world.act(act);
        }
        world.end();
    }

    #[test]
    fn garbage_is_no_journal_and_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        behind_an_opening: bool,
    ) {
        let files = MemoryFiles::default();
        if behind_an_opening {
            drop(open(&files, BOOT, 1));
            files.append("journal", &bytes);
        } else {
            let file = files.create("epoch_000001_00/journal_000000").unwrap();
            file.write_at(&bytes, 0).unwrap();
        }
        let mut spool = open(&files, BOOT, 2);
        fill(&mut spool, Class::Opens, 0..3);
        let mut collector = Collector::default();
        deliver(&mut spool, &mut collector);
        prop_assert_eq!(collector.ids(), [0, 1, 2]);
    }
}

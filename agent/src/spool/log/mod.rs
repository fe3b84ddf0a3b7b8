//! One epoch on the disk: a journal, and the payloads that it names.
//!
//! ```text
//! epoch_000001_<epoch>/
//!   journal_000000       frames, see `journal`
//!   verdicts_000000      payloads, one behind the other
//!   processes_000000
//!   opens_000000         a class that is given up loses its oldest file
//! ```
//!
//! Files are only ever appended to, and leave whole: when an acknowledgement
//! covers everything in them, or when their class is given up. In memory there
//! is one entry for each file and for each batch under way, whatever the
//! number of events that wait, and what the disk has not taken yet.

mod carry;
mod cursor;
mod leave;
mod life;
mod recover;

pub use carry::Carried;
pub use leave::Eviction;
pub use recover::{Damage, Recovered};

use std::collections::{BTreeMap, VecDeque};

use cursor::{Cursor, Entry, Position, Run};
use shrike_proto::{
    id::{Epoch, SequenceNumber},
    ledger::{Ledger, LossReason},
    wire::{event as wire, ingest},
};

use super::{
    class::Class,
    disk::{Disk, DiskFile, Ticket},
    journal::{self, Commit, Count, Evicted, Mark, Part, Record, What},
};

/// A journal file is as long as this before the next one begins: enough for
/// hours of a quiet node, and read again in no time.
const JOURNAL_BYTES: u64 = 512 << 10;

/// A file with so many bytes that the disk has not taken is followed by another
/// one: what is acknowledged before it is written leaves the memory file by
/// file. A disk that keeps up never has that many to take.
const UNWRITTEN_BYTES: usize = 256 << 10;

/// The same for the journal, whose entries are small.
const JOURNAL_UNWRITTEN_BYTES: usize = 32 << 10;

/// Ranges that are given up one by one: refused batches and damage. More than
/// that are told as one hole each.
const LOST_MAX: usize = 4096;

/// Numbers that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: LossReason,
}

impl LostRange {
    fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// A file of a class.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: DiskFile,
    bytes: u64,
    /// Last number in it.
    last: u64,
    /// Events in it that no acknowledgement covers.
    waiting: u64,
}

/// A file of the journal.
#[derive(Debug)]
struct Journal {
    number: u64,
    file: DiskFile,
    bytes: u64,
    /// Number that the next event gets at its end.
    next: u64,
}

/// A batch or range that was sent in this session.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    run: Run,
    at: Position,
}

/// A payload that is to be written.
#[derive(Debug)]
pub struct Sealed {
    /// What its events are worth.
    pub class: Class,
    /// Compressed events.
    pub payload: Vec<u8>,
    /// How many.
    pub events: u32,
    /// CRC-32C of the payload.
    pub crc32c: u32,
}

/// What an acknowledgement can have wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// It covers what was never sent.
    #[error("acknowledges event {acked}, the last one there is is {last}")]
    Ahead {
        /// As acknowledged.
        acked: SequenceNumber,
        /// The last one that it could cover.
        last: SequenceNumber,
    },
}

/// The log of one epoch.
#[derive(Debug)]
pub struct EpochLog {
    disk: Disk,
    folder: String,
    epoch: Epoch,
    boot_id: String,
    segment_bytes: u64,
    journals: VecDeque<Journal>,
    segments: [VecDeque<Segment>; Class::COUNT],
    segments_made: [u64; Class::COUNT],
    next: u64,
    /// Up to where, exclusive, numbers may be sent: the disk has what is below,
    /// or does not answer.
    sendable: u64,
    /// Everything below is on the disk.
    written: u64,
    /// The disk does not answer.
    is_silent: bool,
    /// The first number of this agent's life.
    began: u64,
    /// From where on no collector can know numbers, until somebody sets out to
    /// send them; and the ticket of the entry that says so.
    unheard: Option<u64>,
    heard: Option<Ticket>,
    /// The highest number that a collector can have heard of.
    sent: u64,
    acknowledged: u64,
    /// What an epoch before held is being carried over.
    is_carrying: bool,
    /// That was done: the epoch before is void.
    has_carried: bool,
    evicted: [u64; Class::COUNT],
    /// What was evicted and told as lost, first to last number: the collector
    /// may have that on its disk without our knowing. No more than is under way
    /// in a session, and was in those before.
    told: BTreeMap<u64, u64>,
    /// Events that were evicted and no acknowledgement covers.
    evicted_waiting: u64,
    lost: BTreeMap<u64, LostRange>,
    settled: BTreeMap<LossReason, u64>,
    ledger: Ledger,
    marks: Vec<Mark>,
    cursor: Cursor,
    under_way: VecDeque<UnderWay>,
    /// Written since the last sync, data before journals.
    unsynced: Vec<(String, DiskFile)>,
    folder_unsynced: bool,
}

impl EpochLog {
    /// Begins an epoch in a folder of its own.
    pub fn begin(
        disk: Disk,
        folder: String,
        epoch: Epoch,
        boot_id: String,
        segment_bytes: u64,
    ) -> Self {
        let mut log = Self {
            epoch,
            boot_id,
            unheard: Some(1),
            ..Self::empty(disk, folder, segment_bytes)
        };
        log.begin_journal(0);
        log
    }

    /// A log of which nothing is known yet.
    fn empty(disk: Disk, folder: String, segment_bytes: u64) -> Self {
        Self {
            disk,
            folder,
            epoch: Epoch([0; 16]),
            boot_id: String::new(),
            segment_bytes,
            journals: VecDeque::new(),
            segments: Default::default(),
            segments_made: [0; Class::COUNT],
            next: 1,
            sendable: 1,
            written: 1,
            is_silent: false,
            began: 1,
            unheard: None,
            heard: None,
            sent: 0,
            acknowledged: 0,
            is_carrying: false,
            has_carried: false,
            evicted: [0; Class::COUNT],
            told: BTreeMap::new(),
            evicted_waiting: 0,
            lost: BTreeMap::new(),
            settled: BTreeMap::new(),
            ledger: Ledger::default(),
            marks: Vec::new(),
            cursor: Cursor::default(),
            under_way: VecDeque::new(),
            unsynced: Vec::new(),
            folder_unsynced: true,
        }
    }

    /// Returns the epoch that the numbers count in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the boot in which its events happened.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Returns its folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Returns the number that the next event gets.
    pub fn next_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.next)
    }

    /// Returns the lowest number that is not acknowledged.
    pub fn first_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.acknowledged + 1)
    }

    /// Says whether nothing waits, lost ranges included.
    pub fn is_empty(&self) -> bool {
        self.acknowledged + 1 >= self.next
    }

    /// Returns how many events wait, without those that were given up.
    pub fn waiting(&self) -> u64 {
        self.segments
            .iter()
            .flatten()
            .map(|segment| segment.waiting)
            .sum()
    }

    /// Returns how many bytes of a class are kept.
    pub fn class_bytes(&self, class: Class) -> u64 {
        self.segments[class.index()]
            .iter()
            .map(|segment| segment.bytes)
            .sum()
    }

    /// Returns how many bytes are kept, the journal included.
    pub fn bytes(&self) -> u64 {
        let journals: u64 = self.journals.iter().map(|journal| journal.bytes).sum();
        let data: u64 = Class::ALL
            .iter()
            .map(|class| self.class_bytes(*class))
            .sum();
        journals + data
    }

    /// Returns what was given up so far, by reason.
    pub fn lost(&self) -> BTreeMap<LossReason, u64> {
        let mut lost = self.settled.clone();
        for range in self.lost.values() {
            *lost.entry(range.reason).or_default() += range.count;
        }
        if self.evicted_waiting > 0 {
            *lost.entry(LossReason::AgentSpoolFull).or_default() += self.evicted_waiting;
        }
        lost
    }

    /// Returns the ledger that was kept last.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns how far the rings were read when the last events were taken in.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Returns everything up to where it is acknowledged.
    pub fn acknowledged(&self) -> SequenceNumber {
        SequenceNumber(self.acknowledged)
    }

    /// Takes in batches whose events get the next numbers in this order.
    /// `after` says how far the rings were read then.
    pub fn commit(&mut self, batches: Vec<Sealed>, after: &[Mark]) {
        let mut parts = Vec::with_capacity(batches.len());
        let mut ends: [Option<u64>; Class::COUNT] = [None; Class::COUNT];
        for batch in batches {
            let Sealed {
                class,
                payload,
                events,
                crc32c,
            } = batch;
            let end = &mut ends[class.index()];
            let bytes = payload.len() as u32;
            let (segment, offset) = self.write(class, payload, *end);
            *end = Some(offset + u64::from(bytes));
            parts.push(Part {
                class: class as u32,
                segment,
                offset,
                bytes,
                events,
                crc32c,
            });
        }
        self.append(What::Commit(Commit {
            first_sequence: self.next,
            parts: parts.clone(),
            marks: after.to_vec(),
        }));
        for part in &parts {
            self.note_part(part);
        }
        self.marks = after.to_vec();
        self.note_journal();
    }

    /// Counts what a part of a commit brought.
    fn note_part(&mut self, part: &Part) {
        self.next += u64::from(part.events);
        let Some(class) = Class::at(part.class) else {
            return;
        };
        if let Some(segment) = self.segments[class.index()]
            .iter_mut()
            .rev()
            .find(|segment| segment.number == part.segment)
        {
            segment.bytes = part.offset + u64::from(part.bytes);
            segment.last = self.next - 1;
            segment.waiting += u64::from(part.events);
        }
    }

    fn note_journal(&mut self) {
        let next = self.next;
        if let Some(journal) = self.journals.back_mut() {
            journal.next = next;
        }
    }

    /// Writes a payload; `end` is where the one before it ended that the
    /// journal does not name yet. Returns the segment and place.
    fn write(&mut self, class: Class, payload: Vec<u8>, end: Option<u64>) -> (u64, u64) {
        let index = class.index();
        let at = self.segments[index].back().and_then(|segment| {
            let end = end.unwrap_or(segment.bytes);
            let fits = end == 0 || end + payload.len() as u64 <= self.segment_bytes;
            (fits && segment.file.waiting_bytes() < UNWRITTEN_BYTES).then_some(end)
        });
        if at.is_none() {
            let number = self.segments_made[index];
            let file = self.create(&segment_name(class, number));
            self.segments_made[index] += 1;
            self.segments[index].push_back(Segment {
                number,
                file,
                bytes: 0,
                last: 0,
                waiting: 0,
            });
        }
        let segment = self.segments[index].back().expect("one was made");
        let offset = at.unwrap_or(0);
        let (number, file) = (segment.number, segment.file.clone());
        file.write_at(payload, offset);
        self.mark_unsynced(segment_name(class, number), file);
        (number, offset)
    }

    /// Makes a file in the epoch's folder.
    fn create(&mut self, name: &str) -> DiskFile {
        self.folder_unsynced = true;
        self.disk.create(format!("{}/{name}", self.folder))
    }

    /// Writes an entry of the journal, in a new file where the present one is
    /// long enough.
    fn append(&mut self, what: What) {
        let last = self.journals.back();
        if last.is_none_or(|journal| {
            journal.bytes >= JOURNAL_BYTES
                || journal.file.waiting_bytes() >= JOURNAL_UNWRITTEN_BYTES
        }) {
            let number = last.map_or(0, |journal| journal.number + 1);
            self.begin_journal(number);
        }
        // A count is for a successor in the same boot: a quiet node's disk is
        // left alone.
        let is_synced = !matches!(what, What::Count(_));
        let frame = Record::frame(what);
        let journal = self.journals.back_mut().expect("one was begun");
        let offset = journal.bytes;
        journal.bytes += frame.len() as u64;
        let (number, file) = (journal.number, journal.file.clone());
        file.write_at(frame, offset);
        if is_synced {
            self.mark_unsynced(journal_name(number), file);
        }
    }

    fn begin_journal(&mut self, number: u64) {
        let frame = Record::frame(What::Opening(self.opening()));
        if number == 0 {
            self.disk.make_folder(&self.folder);
            self.disk.sync_folder("");
        }
        let file = self.create(&journal_name(number));
        let bytes = frame.len() as u64;
        file.write_at(frame, 0);
        self.journals.push_back(Journal {
            number,
            file,
            bytes,
            next: self.next,
        });
    }

    fn opening(&self) -> journal::Opening {
        journal::Opening {
            version: journal::VERSION,
            epoch: self.epoch.0.to_vec(),
            boot_id: self.boot_id.clone(),
            next_sequence: self.next,
            evicted: Class::ALL
                .iter()
                .map(|class| Evicted {
                    class: *class as u32,
                    upto: self.evicted[class.index()],
                    events: 0,
                })
                .collect(),
            lost: self.lost.values().map(lost_to_disk).collect(),
            count: Some(self.count()),
            marks: self.marks.clone(),
            is_carrying: self.is_carrying,
            has_carried: self.has_carried,
            unheard_from: self.unheard_from(),
        }
    }

    fn count(&self) -> Count {
        Count {
            ledger: Some(self.ledger.clone().into()),
            settled: self
                .settled
                .iter()
                .map(|(reason, count)| wire::LossCount {
                    reason: wire::LossReason::from(*reason).into(),
                    count: *count,
                })
                .collect(),
            acknowledged: self.acknowledged,
            evicted: self.evicted_waiting,
        }
    }

    /// Keeps the ledger as it is, for a successor that goes on with it.
    pub fn keep_ledger(&mut self, ledger: &Ledger) {
        if self.ledger != *ledger {
            self.ledger = ledger.clone();
            self.append(What::Count(self.count()));
        }
    }

    fn mark_unsynced(&mut self, name: String, file: DiskFile) {
        if !self.unsynced.iter().any(|(known, _)| *known == name) {
            self.unsynced.push((name, file));
        }
    }

    /// Returns what was written since the last call and is to be synced: data
    /// first, then the journal, then, if it says so, the folder.
    pub fn take_unsynced(&mut self) -> (Vec<DiskFile>, bool) {
        let mut files = std::mem::take(&mut self.unsynced);
        files.sort_by_key(|(name, _)| name.starts_with(JOURNAL));
        (
            files.into_iter().map(|(_, file)| file).collect(),
            std::mem::take(&mut self.folder_unsynced),
        )
    }

    /// Reads a payload and checks it.
    fn payload(&self, entry: &Entry) -> Option<Vec<u8>> {
        let segment = self.segments[entry.class.index()]
            .iter()
            .find(|segment| segment.number == entry.segment)?;
        let mut payload = vec![0; entry.bytes as usize];
        if let Err(error) = segment.file.read_at(&mut payload, entry.offset) {
            tracing::error!(
                file = format!("{}/{}", self.folder, segment_name(entry.class, entry.segment)),
                %error,
                "the spool cannot be read"
            );
            return None;
        }
        (crc32c::crc32c(&payload) == entry.crc32c).then_some(payload)
    }

    fn batch(&self, first: u64, entry: Option<(&Entry, Vec<u8>)>) -> ingest::Batch {
        let mut batch = shrike_proto::batch::seal(self.epoch, SequenceNumber(first), Vec::new());
        if let Some((entry, payload)) = entry {
            batch.count = entry.events;
            batch.crc32c = entry.crc32c;
            batch.payload = payload;
        }
        batch
    }
}

const JOURNAL: &str = "journal";

fn journal_name(number: u64) -> String {
    format!("{JOURNAL}_{number:06}")
}

fn segment_name(class: Class, number: u64) -> String {
    format!("{}_{number:06}", class.as_str())
}

fn lost_to_disk(range: &LostRange) -> journal::Lost {
    journal::Lost {
        first_sequence: range.first,
        count: range.count,
        reason: wire::LossReason::from(range.reason).into(),
    }
}

//! The agent's stages, put together as the agent does it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use shrike_agent::{
    clock::WallClock,
    config::{BATCH_EVENTS_DEFAULT, SpoolLimits},
    enrich::{CgroupTable, Enricher, Procfs, Users},
    kernel::{Processes, decode},
    pipeline::Intake,
    receipts::PATIENCE_DEFAULT,
    spool::{Class, Disk, Folder, Spool},
    watch::{Form, Page, Writer},
};
use shrike_proto::{
    event::{Event, compact::Colour},
    id::{Epoch, Generation, NodeId, SequenceNumber},
};

use crate::{Failure, records::Root};

/// How far the events go; each stage but the last three is part of the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to event.
    Decode,
    /// Lineage, user, cgroup, time, number, receipt.
    Enrich,
    /// What `watch` prints.
    Compact,
    /// What `watch --output json` prints.
    Json,
    /// What `run` sends.
    Batch,
}

impl Stage {
    pub const ALL: [Self; 5] = [
        Self::Decode,
        Self::Enrich,
        Self::Compact,
        Self::Json,
        Self::Batch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Enrich => "enrich",
            Self::Compact => "compact",
            Self::Json => "json",
            Self::Batch => "batch",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

const EPOCH: Epoch = Epoch([0x5a; 16]);

/// Everything from the record to the end of one stage.
pub struct Line {
    stage: Stage,
    intake: Intake,
    spool: Spool,
    writer: Writer,
    page: Page,
    now: Instant,
    cgroup_id: u64,
    sent: u64,
    _folder: tempfile::TempDir,
}

impl Line {
    /// Builds the stages over a machine of a few processes.
    pub fn start(stage: Stage, roots: &[Root]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let now = Instant::now();
        let cgroup = folder.path().join("cgroup/user.slice/session-3.scope");
        fs::create_dir_all(&cgroup)?;
        let passwd = folder.path().join("passwd");
        fs::write(&passwd, "root:x:0:0\nalice:x:1000:1000\n")?;
        let procfs = folder.path().join("proc");
        for (tgid, parent, exe) in roots {
            write_process(&procfs, *tgid, *parent, exe)?;
        }
        let enricher = Enricher::new(
            Processes::All,
            WallClock::at(1_795_359_600_000_000_000),
            Procfs::at(procfs),
            CgroupTable::at(Some(folder.path().join("cgroup")), now),
            Users::at(passwd),
        );
        let form = match stage {
            Stage::Json => Form::Json,
            Stage::Decode | Stage::Enrich | Stage::Compact | Stage::Batch => {
                Form::Compact(Colour::Plain)
            }
        };
        Ok(Self {
            stage,
            intake: Intake::new(enricher, PATIENCE_DEFAULT),
            spool: Spool::open(
                Disk::immediate(Arc::new(Folder::at(folder.path().join("spool")))),
                SpoolLimits::default(),
                BATCH_EVENTS_DEFAULT,
                "boot",
                EPOCH,
            )?,
            writer: Writer::new(form, NodeId::parse("bench-1")?, EPOCH),
            page: Page::default(),
            now,
            cgroup_id: fs::metadata(cgroup)?.ino(),
            sent: 0,
            _folder: folder,
        })
    }

    /// Returns how many bytes came out.
    pub fn bytes(&self) -> u64 {
        self.sent
    }

    /// Takes one drain of the ring.
    pub fn take(&mut self, records: &[Vec<u8>]) {
        for record in records {
            let sample = decode(record).expect("records are well-formed");
            self.take_event(Event {
                sequence: SequenceNumber(0),
                time_unix_ns: 0,
                boot_time_ns: sample.boot_time_ns,
                cpu: sample.cpu,
                cpu_sequence: sample.cpu_sequence,
                generation: Generation(sample.generation),
                process: sample.process,
                verdict: None,
                fact: sample.fact,
            });
        }
        // Drains are some 20 ms apart.
        self.now += Duration::from_millis(20);
        self.sent += self.page.text().len() as u64;
        self.page.clear();
        self.send();
    }

    #[inline]
    fn take_event(&mut self, mut event: Event) {
        event.process.cgroup_id = self.cgroup_id;
        if self.stage != Stage::Decode {
            let sequence = self.spool.next_verdict_number();
            self.intake.complete(&mut event, sequence, self.now);
            if Class::of(&event) != Class::Verdicts {
                event.sequence = SequenceNumber(0);
            }
        }
        match self.stage {
            Stage::Decode | Stage::Enrich => {
                std::hint::black_box(&event);
            }
            Stage::Compact | Stage::Json => self.writer.write(&mut self.page, &event),
            Stage::Batch => self.spool.push(&event),
        }
    }

    /// Sends and acknowledges what was cut.
    fn send(&mut self) {
        self.spool.commit(&[]);
        while let Some(batch) = self.spool.take_next() {
            self.sent += batch.payload.len() as u64;
            let last = batch.first_sequence + u64::from(batch.count) - 1;
            self.spool
                .acknowledge(SequenceNumber(last))
                .expect("it was committed");
        }
    }
}

/// Writes what the process table reads at its start (proc_pid_stat(5)).
fn write_process(
    procfs: &std::path::Path,
    tgid: u32,
    parent: u32,
    exe: &str,
) -> Result<(), Failure> {
    let folder = procfs.join(tgid.to_string());
    fs::create_dir_all(&folder)?;
    let comm = exe.rsplit('/').next().unwrap_or_default();
    let ticks = crate::records::start(tgid) / 10_000_000;
    fs::write(
        folder.join("stat"),
        format!("{tgid} ({comm}) S {parent} 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {ticks} 0 0"),
    )?;
    std::os::unix::fs::symlink(exe, folder.join("exe"))?;
    Ok(())
}

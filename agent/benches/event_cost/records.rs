//! Records as the hooks write them.

use shrike_agent_ebpf::record::{
    Call, Exec, Exit, FLAG_HAS_FILE, Fork, Header, Kind, Open, Process, RULE_NONE,
};

/// What the processes do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Four processes open ever different files.
    Open,
    /// A shell forks; the child executes a program and exits.
    Exec,
}

impl Load {
    pub const ALL: [Self; 2] = [Self::Open, Self::Exec];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.name() == name)
    }
}

/// A process that runs from the start: number, parent, executable.
pub type Root = (u32, u32, &'static str);

/// From init to four workers and a shell, by parent.
pub const ROOTS: &[Root] = &[
    (1, 0, "/usr/lib/systemd/systemd"),
    (410, 1, "/usr/sbin/sshd"),
    (2201, 410, "/usr/sbin/sshd"),
    (2202, 2201, "/usr/bin/bash"),
    (3001, 2202, "/usr/bin/python3.11"),
    (3002, 2202, "/usr/bin/rsync"),
    (3003, 1, "/usr/sbin/nginx"),
    (3004, 1, "/usr/lib/postgresql/15/bin/postgres"),
];

const SHELL: usize = 3;

const WORKERS: std::ops::Range<usize> = 4..8;

/// Opens of one process before the next one gets its turn.
const TURN: usize = 50;

/// Files with three to six components; each is followed by a number.
const FILES: [&str; 4] = [
    "/var/cache/fontconfig-",
    "/usr/lib/python3/dist-packages/module_",
    "/srv/www/example.org/static/image-",
    "/var/lib/postgresql/15/main/base/16384/",
];

const PROGRAMS: [(&str, &[&str]); 3] = [
    (
        "/usr/bin/grep",
        &["grep", "-rn", "--include=*.rs", "fn main", "src"],
    ),
    ("/usr/bin/sed", &["sed", "-e", "s/one/two/", "file.txt"]),
    ("/usr/bin/env", &["env", "LANG=C", "sort"]),
];

/// Returns `count` records in the order of the ring.
pub fn make(load: Load, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let mut record = match load {
                Load::Open => open(index),
                Load::Exec => life(index),
            };
            record.header.cpu_sequence = index as u64;
            record.header.boot_time_ns = 90_000_000_000 + index as u64 * 13_717;
            record.bytes()
        })
        .collect()
}

fn open(index: usize) -> Record {
    let (tgid, parent, exe) = ROOTS[WORKERS][index / TURN % WORKERS.len()];
    let path = format!("{}{index}", FILES[index % FILES.len()]);
    // Every fourth one is relative to the working directory.
    let asked = if index.is_multiple_of(4) {
        path.rsplit('/').next().unwrap_or_default().to_owned()
    } else {
        path.clone()
    };
    let body = Open {
        flags: 0o2_000_000,
        mode: 0,
        directory_fd: -100,
        device: 8 << 20 | 1,
        inode: 100_000 + index as u64,
        asked_length: length(&asked),
        path_length: length(&path),
        ..Open::default()
    };
    let process = process(tgid, start(tgid), parent, start(parent), exe);
    let mut record = Record::new(Kind::Open, Call::Openat, process, bytes_of(&body));
    record.header.flags = FLAG_HAS_FILE;
    record.rest.extend(asked.into_bytes());
    record.rest.extend(path.into_bytes());
    record
}

/// A fork, the child's exec and its exit, in turn.
fn life(index: usize) -> Record {
    let (shell, above, shell_exe) = ROOTS[SHELL];
    let turn = index / 3;
    let child = 10_000 + (turn % 20_000) as u32;
    let born = 80_000_000_000 + turn as u64 * 20_000_000;
    let (program, argv) = PROGRAMS[turn % PROGRAMS.len()];
    match index % 3 {
        0 => {
            let body = Fork {
                child_start_boot_ns: born,
                child_tgid: child,
                child_tid: child,
            };
            let shell = process(shell, start(shell), above, start(above), shell_exe);
            Record::new(Kind::Fork, Call::None, shell, bytes_of(&body))
        }
        1 => {
            let argv: Vec<u8> = argv
                .iter()
                .flat_map(|argument| argument.bytes().chain([0]))
                .collect();
            let body = Exec {
                directory_fd: -100,
                inode: 4_242,
                device: 8 << 20 | 1,
                asked_length: length(program),
                path_length: length(program),
                argv_length: u16::try_from(argv.len()).expect("short"),
                ..Exec::default()
            };
            let child = process(child, born, shell, start(shell), program);
            let mut record = Record::new(Kind::Exec, Call::Execve, child, bytes_of(&body));
            record.header.flags = FLAG_HAS_FILE;
            record.rest.extend(program.bytes());
            record.rest.extend(program.bytes());
            record.rest.extend(argv);
            record
        }
        _ => {
            let child = process(child, born, shell, start(shell), program);
            Record::new(Kind::Exit, Call::None, child, bytes_of(&Exit::default()))
        }
    }
}

/// When a process of [`ROOTS`] started, boot nanoseconds.
pub fn start(tgid: u32) -> u64 {
    u64::from(tgid) * 10_000_000
}

fn process(tgid: u32, born: u64, parent_tgid: u32, parent_born: u64, exe: &str) -> Process {
    let name = exe.rsplit('/').next().unwrap_or_default().as_bytes();
    let mut comm = [0; 16];
    let end = name.len().min(15);
    comm[..end].copy_from_slice(&name[..end]);
    Process {
        tgid,
        tid: tgid,
        start_boot_ns: born,
        parent_start_boot_ns: parent_born,
        // Set when the cgroups are there: see `Line`.
        cgroup_id: 1,
        parent_tgid,
        uid: 1000,
        gid: 1000,
        euid: 1000,
        egid: 1000,
        mount_namespace: 4_026_531_841,
        comm,
    }
}

fn length(text: &str) -> u16 {
    u16::try_from(text.len()).expect("short")
}

struct Record {
    header: Header,
    rest: Vec<u8>,
}

impl Record {
    fn new(kind: Kind, call: Call, process: Process, body: &[u8]) -> Self {
        Self {
            header: Header {
                kind: kind as u8,
                call: call as u8,
                cpu: 1,
                generation: 3,
                rule: RULE_NONE,
                process,
                ..Header::default()
            },
            rest: body.to_vec(),
        }
    }

    fn bytes(mut self) -> Vec<u8> {
        let length = size_of::<Header>() + self.rest.len();
        self.header.length = u32::try_from(length).expect("records are short");
        let mut bytes = bytes_of(&self.header).to_vec();
        bytes.extend(self.rest);
        bytes
    }
}

/// Returns what the hooks would write for a part of a record.
fn bytes_of<T: Copy>(part: &T) -> &[u8] {
    // SAFETY: the ABI types have no padding that is not a field of theirs, so
    // each byte is initialised; the slice lives no longer than the part.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(part).cast(), size_of::<T>()) }
}

//! The events of one node, as an agent with its default settings tells them.
//!
//! Modelled on a Debian 12 machine that serves a web site: nine of ten events
//! are opens. Short-lived programs (cron jobs, health checks, shells) are
//! forked, executed, open what the dynamic loader and their C library open (in
//! the order in which `strace` shows it), then files of their own, and exit.
//! Some services run all the time and open ever other files, because each is
//! an event once for each process (`opens = "first"`). Several programs run at
//! once, so their events are interleaved. Ancestors are told as agents tell
//! them: on a process's first event and on what is no open.
//!
//! The same seed gives the same events.

use std::collections::VecDeque;
use std::sync::Arc;

use shrike_proto::event::{
    Ancestor, Capabilities, Event, Exec, Exit, Fact, Fork, Image, Namespaces, Open, Process,
    ResolvedPath,
};
use shrike_proto::id::{Generation, SequenceNumber};

/// A program that only [`Node::run_rare`] starts: what a search looks for.
pub const RARE_PROGRAM: &str = "/usr/local/sbin/rotate-signing-keys";

/// Executables of short-lived programs, beside which so many of their own
/// libraries are opened.
const PROGRAMS: [(&str, usize); 40] = [
    ("/usr/bin/dash", 0),
    ("/usr/bin/bash", 1),
    ("/usr/bin/cat", 0),
    ("/usr/bin/grep", 1),
    ("/usr/bin/sed", 2),
    ("/usr/bin/mawk", 1),
    ("/usr/bin/find", 1),
    ("/usr/bin/xargs", 0),
    ("/usr/bin/sort", 1),
    ("/usr/bin/uniq", 0),
    ("/usr/bin/cut", 0),
    ("/usr/bin/head", 0),
    ("/usr/bin/tail", 0),
    ("/usr/bin/wc", 0),
    ("/usr/bin/date", 0),
    ("/usr/bin/stat", 1),
    ("/usr/bin/ls", 2),
    ("/usr/bin/cp", 3),
    ("/usr/bin/mv", 3),
    ("/usr/bin/rm", 0),
    ("/usr/bin/mkdir", 1),
    ("/usr/bin/touch", 0),
    ("/usr/bin/tar", 2),
    ("/usr/bin/gzip", 0),
    ("/usr/bin/curl", 9),
    ("/usr/bin/git", 4),
    ("/usr/bin/ssh", 5),
    ("/usr/bin/python3.11", 5),
    ("/usr/bin/perl", 3),
    ("/usr/bin/systemctl", 6),
    ("/usr/bin/journalctl", 6),
    ("/usr/bin/ps", 3),
    ("/usr/bin/id", 1),
    ("/usr/bin/env", 0),
    ("/usr/bin/psql", 8),
    ("/usr/sbin/logrotate", 3),
    ("/usr/sbin/sendmail", 2),
    ("/usr/lib/nagios/plugins/check_disk", 1),
    ("/usr/lib/nagios/plugins/check_http", 3),
    ("/usr/lib/apt/apt-helper", 7),
];

const LIBRARIES: [&str; 16] = [
    "libtinfo.so.6.4",
    "libselinux.so.1",
    "libpcre2-8.so.0.11.2",
    "libacl.so.1.1.2301",
    "libattr.so.1.1.2501",
    "libz.so.1.2.13",
    "libm.so.6",
    "libcrypto.so.3",
    "libssl.so.3",
    "libnghttp2.so.14.24.1",
    "libgssapi_krb5.so.2.2",
    "libexpat.so.1.8.10",
    "libsystemd.so.0.35.0",
    "libzstd.so.1.5.4",
    "liblz4.so.1.9.4",
    "libcap.so.2.66",
];

/// Long-lived programs: executable, user, unit, container, and the directory
/// that they open files in with how many there are.
const SERVICES: [(&str, u32, &str, bool, &str, u64); 8] = [
    (
        "/usr/sbin/nginx",
        33,
        "nginx.service",
        false,
        "/srv/www/example.org/static/",
        60_000,
    ),
    (
        "/usr/lib/postgresql/15/bin/postgres",
        110,
        "postgresql@15-main.service",
        false,
        "/var/lib/postgresql/15/main/base/16384/",
        9_000,
    ),
    (
        "/usr/bin/php-fpm8.2",
        33,
        "php8.2-fpm.service",
        false,
        "/srv/www/example.org/app/vendor/",
        14_000,
    ),
    (
        "/usr/bin/redis-server",
        112,
        "redis-server.service",
        false,
        "/var/lib/redis/appendonlydir/",
        300,
    ),
    (
        "/usr/local/bin/node",
        1000,
        "",
        true,
        "/usr/src/app/node_modules/",
        30_000,
    ),
    (
        "/usr/lib/jvm/java-17-openjdk-amd64/bin/java",
        1001,
        "",
        true,
        "/opt/app/lib/",
        2_500,
    ),
    (
        "/usr/bin/prometheus-node-exporter",
        113,
        "prometheus-node-exporter.service",
        false,
        "/sys/class/net/",
        400,
    ),
    (
        "/usr/lib/systemd/systemd-journald",
        0,
        "systemd-journald.service",
        false,
        "/run/log/journal/",
        80,
    ),
];

/// Short-lived programs at once.
const RUNNING: usize = 6;

/// A node whose processes run.
pub struct Node {
    random: Random,
    next_sequence: u64,
    next_pid: u32,
    boot_time_ns: u64,
    /// Unix time of the boot.
    booted_unix_ns: i64,
    /// Mean time between two events.
    pace_ns: u64,
    cpu_sequences: [u64; 4],
    services: Vec<Arc<Process>>,
    running: Vec<Running>,
    rare_is_due: bool,
}

/// A short-lived process and what it has yet to do.
struct Running {
    process: Process,
    parent: Arc<Process>,
    ancestors: Vec<Ancestor>,
    started_ns: u64,
    program: &'static str,
    to_do: VecDeque<Step>,
    is_told: bool,
}

enum Step {
    Fork,
    Exec,
    Open(Vec<u8>),
    Exit,
}

impl Node {
    /// Begins with nothing but services, at a boot at `booted_unix_ns`, with an
    /// event each `pace_ns` on average.
    pub fn new(seed: u64, booted_unix_ns: i64, pace_ns: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let services = SERVICES
            .iter()
            .zip(700_u32..)
            .map(|(service, pid)| Arc::new(service_process(service, pid * 3, &mut random)))
            .collect();
        Self {
            next_sequence: 1,
            next_pid: 4_000 + random.below(20_000) as u32,
            boot_time_ns: 3_600_000_000_000,
            booted_unix_ns,
            pace_ns,
            cpu_sequences: [1; 4],
            services,
            running: Vec::new(),
            rare_is_due: false,
            random,
        }
    }

    /// Makes the next program that starts the rare one.
    pub fn run_rare(&mut self) {
        self.rare_is_due = true;
        // In place of one that runs: it ends unseen, as a lost exit would.
        self.running.pop();
    }

    /// Sets the time of the next event.
    pub fn set_time(&mut self, unix_ns: i64) {
        self.boot_time_ns = (unix_ns - self.booted_unix_ns).max(0).cast_unsigned();
    }

    /// Returns the next event.
    pub fn event(&mut self) -> Event {
        while self.running.len() < RUNNING {
            let started = self.start();
            self.running.push(started);
        }
        // A service acts one time in five.
        if self.random.below(5) == 0 {
            let index = self.random.below(self.services.len() as u64);
            let path = self.service_file(index);
            let process = Process::clone(&self.services[index]);
            return self.tell(process, open(path));
        }
        let index = self.random.below(self.running.len() as u64);
        let running = &mut self.running[index];
        let step = running.to_do.pop_front().unwrap_or(Step::Exit);
        let ancestors = std::mem::take(&mut running.ancestors);
        let mut process = running.process.clone();
        match step {
            Step::Fork => {
                let fork = Fork {
                    child_tgid: process.tgid,
                    child_tid: process.tid,
                    child_start_boot_ns: process.start_boot_ns,
                    child_comm: running.parent.comm.clone(),
                };
                let mut parent = Process::clone(&running.parent);
                parent.ancestors = ancestors[1..].to_vec();
                running.ancestors = ancestors;
                self.tell(parent, Fact::Fork(fork))
            }
            Step::Exec => {
                let exec = exec(running.program, &process, &mut self.random);
                process.ancestors.clone_from(&ancestors);
                running.ancestors = ancestors;
                running.is_told = true;
                self.tell(process, exec)
            }
            Step::Open(path) => {
                if !running.is_told {
                    process.ancestors.clone_from(&ancestors);
                    running.is_told = true;
                }
                running.ancestors = ancestors;
                self.tell(process, open(path))
            }
            Step::Exit => {
                let ended = self.running.swap_remove(index);
                process.ancestors = ancestors;
                let exit = Exit {
                    code: u32::from(self.random.below(12) == 0),
                    duration_ns: self.boot_time_ns.saturating_sub(ended.started_ns),
                    repeated_opens: self.random.below(3) as u64,
                    ..Exit::default()
                };
                self.tell(process, Fact::Exit(exit))
            }
        }
    }

    fn tell(&mut self, process: Process, fact: Fact) -> Event {
        self.boot_time_ns += 1 + self.random.next() % (2 * self.pace_ns);
        let cpu = self.random.below(4);
        let cpu_sequence = self.cpu_sequences[cpu];
        self.cpu_sequences[cpu] += 1;
        let sequence = SequenceNumber(self.next_sequence);
        self.next_sequence += 1;
        Event {
            sequence,
            time_unix_ns: self.booted_unix_ns + self.boot_time_ns.cast_signed(),
            boot_time_ns: self.boot_time_ns,
            cpu: cpu as u32,
            cpu_sequence,
            generation: Generation(3),
            process,
            verdict: None,
            fact,
        }
    }

    /// Starts a program under cron, sshd's shell, or a service.
    fn start(&mut self) -> Running {
        let (program, libraries) = if std::mem::take(&mut self.rare_is_due) {
            (RARE_PROGRAM, 3)
        } else {
            // Some programs are run far more often than others.
            let (one, other) = (self.random.below(40), self.random.below(40));
            PROGRAMS[one.min(other)]
        };
        self.next_pid = 4_000 + (self.next_pid - 4_000 + 1 + self.random.below(3) as u32) % 60_000;
        let parent = Arc::new(self.parent());
        let tgid = self.next_pid;
        let process = Process {
            tgid,
            tid: tgid,
            start_boot_ns: self.boot_time_ns,
            parent_tgid: parent.tgid,
            parent_start_boot_ns: parent.start_boot_ns,
            comm: comm(program),
            exe: program.as_bytes().into(),
            ..Process::clone(&parent)
        };
        let ancestors = vec![
            ancestor(parent.tgid, parent.start_boot_ns, &parent.exe),
            ancestor(640, 9_100_000_000, b"/usr/sbin/cron"),
            ancestor(1, 12_000_000, b"/usr/lib/systemd/systemd"),
        ];
        Running {
            to_do: self.script(program, libraries),
            process,
            parent,
            ancestors,
            started_ns: self.boot_time_ns,
            program,
            is_told: false,
        }
    }

    fn parent(&mut self) -> Process {
        let uid = [0, 33, 1000, 1001][self.random.below(4)];
        let session = self.random.below(40) as u64;
        Process {
            tgid: 2_000 + session as u32,
            tid: 2_000 + session as u32,
            start_boot_ns: 700_000_000_000 + session * 13_000_071,
            parent_tgid: 640,
            parent_start_boot_ns: 9_100_000_000,
            uid,
            gid: uid,
            euid: uid,
            egid: uid,
            comm: comm("/usr/bin/bash"),
            cgroup_id: 5_000 + session,
            exe: b"/usr/bin/bash".as_slice().into(),
            user: user(uid).into(),
            cgroup_path: format!("/user.slice/user-{uid}.slice/session-{session}.scope")
                .into_bytes()
                .into(),
            ..Process::default()
        }
    }

    fn script(&mut self, program: &'static str, libraries: usize) -> VecDeque<Step> {
        let mut steps = VecDeque::from([Step::Fork, Step::Exec]);
        let mut open = |path: String| steps.push_back(Step::Open(path.into_bytes()));
        open("/etc/ld.so.cache".to_owned());
        let first = program.len();
        for library in 0..libraries {
            let name = LIBRARIES[(first + library) % LIBRARIES.len()];
            open(format!("/usr/lib/x86_64-linux-gnu/{name}"));
        }
        open("/usr/lib/x86_64-linux-gnu/libc.so.6".to_owned());
        match self.random.below(4) {
            0 => open("/usr/lib/locale/locale-archive".to_owned()),
            1 => open("/etc/passwd".to_owned()),
            2 => open("/etc/nsswitch.conf".to_owned()),
            _ => {}
        }
        for _ in 0..self.random.below(7) {
            open(match self.random.below(6) {
                0 => format!("/proc/{}/stat", 4_000 + self.random.below(60_000)),
                1 => format!("/tmp/tmp.{:010x}", self.random.next() >> 24),
                2 => format!("/var/log/app/worker-{}.log", self.random.below(300)),
                3 => format!(
                    "/home/deploy/releases/{:07x}/config.yml",
                    self.random.next() >> 36
                ),
                4 => format!(
                    "/var/spool/app/queue/{:02x}/{:08x}",
                    self.random.below(256),
                    self.random.next() >> 32
                ),
                _ => format!("/etc/app/conf.d/{}.conf", self.random.below(120)),
            });
        }
        steps.push_back(Step::Exit);
        steps
    }

    fn service_file(&mut self, service: usize) -> Vec<u8> {
        let (.., directory, files) = SERVICES[service];
        let file = self.random.below(files);
        match service {
            0 => format!("{directory}{:02x}/image-{file:06}.webp", file % 256),
            1 => format!("{directory}{}", 16_384 + file),
            2 => format!("{directory}package-{:03}/src/File{file:05}.php", file % 211),
            4 => format!("{directory}module-{:04}/lib/index-{file:05}.js", file % 997),
            5 => format!("{directory}component-{file:04}.jar"),
            6 => format!("{directory}veth{:05x}/statistics/rx_bytes", file * 7919),
            _ => format!("{directory}{file:08}"),
        }
        .into_bytes()
    }
}

fn service_process(
    (exe, uid, unit, in_container, _, _): &(&str, u32, &str, bool, &str, u64),
    tgid: u32,
    random: &mut Random,
) -> Process {
    let container = format!(
        "{:016x}{:016x}{:016x}{:016x}",
        random.next(),
        random.next(),
        random.next(),
        random.next()
    );
    let cgroup_path = if *in_container {
        format!("/system.slice/docker-{container}.scope")
    } else {
        format!("/system.slice/{unit}")
    };
    Process {
        tgid,
        tid: tgid,
        start_boot_ns: 11_000_000_000 + u64::from(tgid) * 1_000_003,
        parent_tgid: 1,
        parent_start_boot_ns: 12_000_000,
        uid: *uid,
        gid: *uid,
        euid: *uid,
        egid: *uid,
        comm: comm(exe),
        cgroup_id: 1_000 + u64::from(tgid),
        exe: exe.as_bytes().into(),
        user: user(*uid).into(),
        cgroup_path: cgroup_path.into_bytes().into(),
        container_id: if *in_container {
            container.into()
        } else {
            Arc::default()
        },
        ancestors: Vec::new(),
        from_proc: true,
    }
}

fn user(uid: u32) -> &'static str {
    match uid {
        0 => "root",
        33 => "www-data",
        110 => "postgres",
        112 => "redis",
        113 => "prometheus",
        1000 => "deploy",
        _ => "app",
    }
}

fn comm(exe: &str) -> shrike_proto::event::Comm {
    let name = exe.rsplit('/').next().unwrap_or_default().as_bytes();
    name[..name.len().min(15)].into()
}

fn ancestor(tgid: u32, start_boot_ns: u64, exe: &[u8]) -> Ancestor {
    let text = String::from_utf8_lossy(exe);
    Ancestor {
        tgid,
        start_boot_ns,
        comm: comm(&text),
        exe: exe.into(),
    }
}

fn open(path: Vec<u8>) -> Fact {
    Fact::Open(Open {
        syscall: "openat".into(),
        result: 3,
        file: Some(file(&path)),
        path_as_asked: path,
        flags: 0o2_000_000,
        directory_fd: -100,
        ..Open::default()
    })
}

fn exec(program: &str, process: &Process, random: &mut Random) -> Fact {
    let name = program.rsplit('/').next().unwrap_or_default();
    let capabilities = Capabilities {
        permitted: if process.uid == 0 { 0x1ff_ffff_ffff } else { 0 },
        effective: if process.uid == 0 { 0x1ff_ffff_ffff } else { 0 },
    };
    Fact::Exec(Exec {
        syscall: "execve".into(),
        path_as_asked: program.as_bytes().to_vec(),
        file: Some(file(program.as_bytes())),
        argv: vec![
            name.as_bytes().to_vec(),
            b"--since".to_vec(),
            format!("{}", random.below(100_000)).into_bytes(),
            format!("/var/log/app/worker-{}.log", random.below(300)).into_bytes(),
        ],
        directory_fd: -100,
        image: Some(Box::new(Image {
            working_directory: b"/home/deploy".to_vec(),
            session_id: process.parent_tgid,
            saved_uid: process.uid,
            saved_gid: process.gid,
            fs_uid: process.uid,
            fs_gid: process.gid,
            capabilities,
            namespaces: Namespaces {
                mount: 4_026_531_841,
                pid: 4_026_531_836,
                network: 4_026_531_840,
                user: 4_026_531_837,
                uts: 4_026_531_838,
                ipc: 4_026_531_839,
                cgroup: 4_026_531_835,
            },
            ..Image::default()
        })),
        ..Exec::default()
    })
}

/// The same path is the same file.
fn file(path: &[u8]) -> ResolvedPath {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ResolvedPath {
        path: path.to_vec(),
        device: (254 << 20) | 1,
        inode: 130_000 + (hash >> 43),
        mode: 0o100_644,
        links: 1,
        ..ResolvedPath::default()
    }
}

/// xorshift64*: repeatable, and good enough to defeat run lengths.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> usize {
        ((self.next() >> 32) % bound) as usize
    }
}

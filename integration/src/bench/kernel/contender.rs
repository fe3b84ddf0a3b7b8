//! Who watches the loads: nobody, the agent in several settings, and the
//! tools that it is compared with.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::load;
use crate::outside;
use crate::vm::{Job, Machine};

/// One who watches.
pub(super) struct Contender {
    /// In the JSON.
    pub name: &'static str,
    /// In the table.
    pub title: &'static str,
    kind: Kind,
}

enum Kind {
    Nothing,
    /// `shrike-agent` with these arguments.
    Agent(&'static str),
    /// Somebody else's programs.
    Peer(Peer),
}

struct Peer {
    /// Run before anything starts.
    before: &'static str,
    /// Each a process of its own, its output thrown away.
    commands: &'static [&'static str],
    /// Run once they are there.
    after: &'static str,
    /// Threads of the kernel that do this peer's work.
    kernel_threads: &'static [&'static str],
    /// Run when they have ended.
    finally: &'static str,
}

/// Everybody, bare first, since the others are measured by it, and auditd
/// last, since processes keep what it made the kernel give them.
pub(super) const CONTENDERS: [Contender; 9] = [
    Contender {
        name: "none",
        title: "nobody watches",
        kind: Kind::Nothing,
    },
    Contender {
        name: "rules",
        title: "shrike, 100 rules, none recorded",
        kind: Kind::Agent("--opens matched --processes matched --policy /tmp/bench.yaml"),
    },
    Contender {
        name: "rules_kprobe",
        title: "the same, by kprobes",
        kind: Kind::Agent(
            "--opens matched --processes matched --policy /tmp/bench.yaml --attach kprobe",
        ),
    },
    Contender {
        name: "default",
        title: "shrike, default: first opens",
        kind: Kind::Agent(""),
    },
    Contender {
        name: "all",
        title: "shrike, every open",
        kind: Kind::Agent("--opens all"),
    },
    Contender {
        name: "bpftrace",
        title: "bpftrace",
        kind: Kind::Peer(Peer {
            commands: &[BPFTRACE],
            ..PLAIN
        }),
    },
    Contender {
        name: "bcc",
        title: "bcc opensnoop+execsnoop",
        kind: Kind::Peer(Peer {
            commands: &["opensnoop-bpfcc", "execsnoop-bpfcc"],
            ..PLAIN
        }),
    },
    Contender {
        name: "libbpf_tools",
        title: "libbpf-tools opensnoop+execsnoop",
        kind: Kind::Peer(Peer {
            commands: &["/usr/sbin/opensnoop", "/usr/sbin/execsnoop"],
            ..PLAIN
        }),
    },
    Contender {
        name: "auditd",
        title: "auditd",
        kind: Kind::Peer(Peer {
            before: "mkdir -p /etc/audit /var/log/audit && \
                     printf 'log_file = /var/log/audit/audit.log\\nwrite_logs = no\\n\
                     space_left = 75\\nadmin_space_left = 50\\n' > /etc/audit/auditd.conf && \
                     chmod 640 /etc/audit/auditd.conf",
            commands: &["auditd -n"],
            after: "auditctl -e 1 && auditctl -b 8192 && auditctl -a always,exit -F arch=b64 \
                    -S open,openat,creat,execve,execveat",
            kernel_threads: &["kauditd"],
            finally: "auditctl -D && auditctl -e 0",
        }),
    },
];

const PLAIN: Peer = Peer {
    before: "",
    commands: &[],
    after: "",
    kernel_threads: &[],
    finally: "",
};

/// The one-liner that a person would type.
const BPFTRACE: &str = "bpftrace -e '\
    tracepoint:syscalls:sys_enter_openat { printf(\"%d %s %s\\n\", pid, comm, str(args->filename)); } \
    tracepoint:syscalls:sys_enter_execve { printf(\"%d %s %s\\n\", pid, comm, str(args->filename)); }'";

impl Contender {
    /// Whether it is a tool that Shrike is compared with.
    pub fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Peer(_))
    }

    /// Whether nobody watches.
    pub fn is_nothing(&self) -> bool {
        matches!(self.kind, Kind::Nothing)
    }
}

/// What processes hold in memory.
#[derive(Default)]
pub(super) struct Memory {
    /// Everything, shared pages and the ring's mappings included.
    pub resident_kib: u64,
    /// What is their own.
    pub anonymous_kib: u64,
}

/// How long one of them may take to start or stop; bcc and bpftrace compile
/// first, in an emulated machine.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A contender at work.
pub(super) struct Running<'a> {
    machine: &'a Machine,
    jobs: Vec<Job>,
    /// Everything that works for it, the kernel's threads too.
    pids: Vec<u32>,
    finally: &'static str,
}

impl<'a> Running<'a> {
    /// Starts it and waits until it sees what happens.
    pub fn start(machine: &'a Machine, contender: &Contender) -> Result<Self> {
        let mut running = Self {
            machine,
            jobs: Vec::new(),
            pids: Vec::new(),
            finally: "",
        };
        match &contender.kind {
            Kind::Nothing => {}
            Kind::Agent(arguments) => {
                running.spawn(&format!("shrike-agent watch {arguments}"))?;
                running.jobs[0].wait_for(START_TIMEOUT, "prints ready", |_, stderr| {
                    let stderr = String::from_utf8_lossy(stderr);
                    let ready = stderr.lines().any(|line| line.trim() == "ready");
                    ready.then_some(())
                })?;
            }
            Kind::Peer(peer) => {
                running.finally = peer.finally;
                machine.shell(peer.before)?;
                for command in peer.commands {
                    running.spawn(command)?;
                }
                running.come_to_rest()?;
                running.insist_alive()?;
                machine.shell(peer.after)?;
                for name in peer.kernel_threads {
                    let pid = machine.shell(&format!("pgrep -x {name}"))?;
                    let pid = pid.trim().parse();
                    running
                        .pids
                        .push(pid.with_context(|| format!("the kernel thread {name}"))?);
                }
                running.wait_until_it_sees()?;
            }
        }
        running.come_to_rest()?;
        Ok(running)
    }

    fn spawn(&mut self, command: &str) -> Result<()> {
        // Its output is read and thrown away by the kernel.
        let script = format!("exec {command} >/dev/null");
        let job = self.machine.command("sh").args(["-c", &script]).spawn()?;
        self.pids.push(job.pid());
        self.jobs.push(job);
        Ok(())
    }

    /// Stops it and returns how many events it lost, where it says so.
    pub fn stop(mut self) -> Result<Option<u64>> {
        let jobs = std::mem::take(&mut self.jobs);
        for job in &jobs {
            job.signal(15)?;
        }
        let mut lost = None;
        for job in &jobs {
            match job.wait(START_TIMEOUT) {
                Ok(finished) => lost = lost.or(lost_events(&finished.stderr_text())),
                Err(_) => job.signal(9)?,
            }
        }
        Ok(lost)
    }

    /// Processor time of all of its threads so far, nanoseconds.
    pub fn spent(&self) -> Result<u64> {
        if self.pids.is_empty() {
            return Ok(0);
        }
        let files: Vec<String> = self
            .pids
            .iter()
            .map(|pid| format!("/proc/{pid}/task/*/schedstat"))
            .collect();
        let text = self.machine.shell(&format!("cat {}", files.join(" ")));
        if text.is_err() {
            self.insist_alive()?;
        }
        text?
            .lines()
            .map(|line| {
                let first = line.split(' ').next().unwrap_or_default();
                first
                    .parse::<u64>()
                    .with_context(|| format!("schedstat: {line}"))
            })
            .sum()
    }

    /// Resident memory of its processes.
    pub fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for job in &self.jobs {
            let status = self
                .machine
                .shell(&format!("cat /proc/{}/status", job.pid()))?;
            let field = |name: &str| -> Result<u64> {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|line| line.split_whitespace().next());
                number
                    .and_then(|kib| kib.parse().ok())
                    .with_context(|| format!("{name} in a process's status"))
            };
            sum.resident_kib += field("VmRSS:")?;
            sum.anonymous_kib += field("RssAnon:")?;
        }
        Ok(sum)
    }

    /// Waits until it has nothing left to do but to watch this very question
    /// being asked, which is a shell and some dozen opens: one look is little,
    /// or three in a row are alike.
    pub fn come_to_rest(&self) -> Result<()> {
        /// Nanoseconds: a percent or two of the time between two looks, and
        /// next to nothing beside thousands of operations.
        const LITTLE: u64 = 15_000_000;
        if self.pids.is_empty() {
            return Ok(());
        }
        let mut looks = Vec::new();
        for _ in 0..400 {
            let before = self.spent()?;
            self.machine.shell("sleep 0.5")?;
            looks.push(self.spent()? - before);
            if looks.last().is_some_and(|look| *look < LITTLE) || are_alike(&looks) {
                return Ok(());
            }
        }
        bail!("it does not come to rest")
    }

    /// Waits until opens cost it something: what does not see them is not
    /// compared with anybody.
    fn wait_until_it_sees(&self) -> Result<()> {
        const OPENS: u64 = 2_000;
        /// Nanoseconds: 250 instructions an open, far less than handing one
        /// over to another process takes.
        const SEEING: u64 = 1_000_000;
        for _ in 0..40 {
            let quiet = self.spent_during(0)?;
            if self.spent_during(OPENS)? > quiet + SEEING {
                return Ok(());
            }
            self.insist_alive()?;
        }
        bail!("it sees no opens")
    }

    fn spent_during(&self, opens: u64) -> Result<u64> {
        let before = self.spent()?;
        load::work(self.machine, "opens", opens)?;
        self.come_to_rest()?;
        Ok(self.spent()? - before)
    }

    fn insist_alive(&self) -> Result<()> {
        for job in &self.jobs {
            ensure!(
                !job.has_ended(),
                "it ended: {}",
                outside::tail(&job.stderr()).trim()
            );
        }
        Ok(())
    }
}

/// Says whether the last three looks, in nanoseconds of half a second, are
/// alike, and far from those of one that works off what has piled up.
fn are_alike(looks: &[u64]) -> bool {
    const MUCH: u64 = 125_000_000;
    let Some(last) = looks.last_chunk::<3>() else {
        return false;
    };
    let (least, most) = (last.iter().min(), last.iter().max());
    most.zip(least)
        .is_some_and(|(most, least)| *most < MUCH && (most - least) * 5 < *most)
}

/// One that failed half-way must not watch along with the next.
impl Drop for Running<'_> {
    fn drop(&mut self) {
        for job in &self.jobs {
            let _ = job.signal(9);
        }
        if let Err(error) = self.machine.shell(self.finally) {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Reads the agent's summary, `seen … = delivered … + filtered … + lost …`.
fn lost_events(stderr: &str) -> Option<u64> {
    let summary = stderr
        .lines()
        .rev()
        .find(|line| line.starts_with("seen "))?;
    let (_, lost) = summary.rsplit_once(" + lost ")?;
    lost.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_read_from_the_summary() {
        let summary = "ready\nseen 100 = delivered 80 + filtered 10 + lost 10 (ring full)\n";
        assert_eq!(lost_events(summary), Some(10));
        assert_eq!(lost_events("ready\n"), None);
    }

    #[test]
    fn looks_are_alike_when_nothing_piles_up() {
        assert!(are_alike(&[
            400_000_000,
            30_000_000,
            29_000_000,
            31_000_000
        ]));
        assert!(!are_alike(&[60_000_000, 40_000_000, 30_000_000]));
        assert!(!are_alike(&[500_000_000; 3]));
        assert!(!are_alike(&[20_000_000; 2]));
    }

    #[test]
    fn bare_comes_first_and_names_are_used_once() {
        assert!(CONTENDERS[0].is_nothing());
        let names: std::collections::BTreeSet<&str> =
            CONTENDERS.iter().map(|contender| contender.name).collect();
        assert_eq!(names.len(), CONTENDERS.len());
    }
}

//! How large an event can get on the wire, without encoding it.
//!
//! Batches are cut before they exceed the wire's bound, so the estimate is
//! never below the truth; a property test compares them.

use shrike_proto::event::{Ancestor, Event, Exec, Fact, Open, Process, ResolvedPath};

/// Every fixed field of an event, its process and its fact at the largest:
/// some fifty varints with their tags.
const FIXED_BYTES: usize = 512;

/// Tag and length of one text or message: one byte or two, and up to five.
const DELIMITER_BYTES: usize = 7;

/// Numbers of one ancestor.
const ANCESTOR_BYTES: usize = 20;

/// Returns a bound of the event's encoded length.
pub(super) fn encoded_bytes_max(event: &Event) -> usize {
    let verdict = event.verdict.as_ref().map_or(0, |verdict| {
        text(verdict.policy.as_str()) + text(verdict.rule.as_str())
    });
    FIXED_BYTES + process(&event.process) + verdict + fact(&event.fact)
}

fn process(process: &Process) -> usize {
    bytes(&process.comm)
        + bytes(&process.exe)
        + text(&process.user)
        + bytes(&process.cgroup_path)
        + text(&process.container_id)
        + process.ancestors.iter().map(ancestor).sum::<usize>()
}

fn ancestor(ancestor: &Ancestor) -> usize {
    ANCESTOR_BYTES + DELIMITER_BYTES + bytes(&ancestor.comm) + bytes(&ancestor.exe)
}

fn fact(fact: &Fact) -> usize {
    match fact {
        Fact::Exec(fact) => exec(fact),
        Fact::Open(fact) => open(fact),
        Fact::Fork(fork) => bytes(&fork.child_comm),
        Fact::Exit(exit) => exit.receipt.as_ref().map_or(0, |receipt| {
            text(receipt.policy.as_str()) + text(receipt.rule.as_str())
        }),
    }
}

fn exec(exec: &Exec) -> usize {
    text(&exec.syscall)
        + bytes(&exec.path_as_asked)
        + exec.file.as_ref().map_or(0, file)
        + bytes(&exec.interpreter)
        + exec
            .argv
            .iter()
            .map(|argument| bytes(argument))
            .sum::<usize>()
}

fn open(open: &Open) -> usize {
    text(&open.syscall) + bytes(&open.path_as_asked) + open.file.as_ref().map_or(0, file)
}

fn file(file: &ResolvedPath) -> usize {
    bytes(&file.path) + bytes(&file.task_path)
}

fn text(text: &str) -> usize {
    DELIMITER_BYTES + text.len()
}

fn bytes(bytes: &[u8]) -> usize {
    DELIMITER_BYTES + bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use shrike_proto::{
        event::{Action, Exit, Fork, Outcome, Receipt, Verdict},
        id::{Generation, PolicyName, RuleName, SequenceNumber},
        wire::event as wire,
    };

    use super::*;

    fn names() -> (PolicyName, RuleName) {
        let longest = "a".repeat(63);
        (
            PolicyName::parse(&longest).unwrap(),
            RuleName::parse(&longest).unwrap(),
        )
    }

    fn largest(text: &[u8], count: usize, kind: usize) -> Event {
        let (policy, rule) = names();
        let many = || vec![text.to_vec(); count];
        let file = Some(ResolvedPath {
            path: text.to_vec(),
            device: u64::MAX,
            inode: u64::MAX,
            unresolved: true,
            task_path: text.to_vec(),
            mode: u32::MAX,
            links: u32::MAX,
            owner_uid: u32::MAX,
            owner_gid: u32::MAX,
            deleted: true,
        });
        let string = || String::from_utf8_lossy(text).into_owned();
        Event {
            sequence: SequenceNumber(u64::MAX),
            time_unix_ns: -1,
            boot_time_ns: u64::MAX,
            cpu: u32::MAX,
            cpu_sequence: u64::MAX,
            generation: Generation(u64::MAX),
            process: Process {
                tgid: u32::MAX,
                tid: u32::MAX,
                start_boot_ns: u64::MAX,
                parent_tgid: u32::MAX,
                parent_start_boot_ns: u64::MAX,
                uid: u32::MAX,
                gid: u32::MAX,
                euid: u32::MAX,
                egid: u32::MAX,
                comm: text.to_vec(),
                cgroup_id: u64::MAX,
                exe: text.to_vec(),
                user: string(),
                cgroup_path: text.to_vec(),
                container_id: string(),
                ancestors: many()
                    .into_iter()
                    .map(|text| Ancestor {
                        tgid: u32::MAX,
                        start_boot_ns: u64::MAX,
                        comm: text.clone(),
                        exe: text,
                    })
                    .collect(),
                from_proc: true,
            },
            verdict: Some(Verdict {
                action: Action::Kill,
                policy: policy.clone(),
                rule: rule.clone(),
                outcome: Outcome::SignalFailed(i32::MIN),
                denied: true,
            }),
            fact: match kind {
                0 => Fact::Exec(Exec {
                    syscall: string(),
                    result: -1,
                    path_as_asked: text.to_vec(),
                    file,
                    interpreter: text.to_vec(),
                    argv: many(),
                    argv_truncated: true,
                    from_user_memory: true,
                    directory_fd: -100,
                    flags: u32::MAX,
                }),
                1 => Fact::Open(Open {
                    syscall: string(),
                    result: -1,
                    path_as_asked: text.to_vec(),
                    path_as_asked_truncated: true,
                    file,
                    flags: u32::MAX,
                    mode: u32::MAX,
                    directory_fd: -100,
                    from_user_memory: true,
                }),
                2 => Fact::Fork(Fork {
                    child_tgid: u32::MAX,
                    child_tid: u32::MAX,
                    child_start_boot_ns: u64::MAX,
                    child_comm: text.to_vec(),
                }),
                _ => Fact::Exit(Exit {
                    code: u32::MAX,
                    signal: u32::MAX,
                    core_dumped: true,
                    duration_ns: u64::MAX,
                    receipt: Some(Receipt {
                        generation: Generation(u64::MAX),
                        policy,
                        rule,
                        signal_result: i32::MIN,
                        died_by_it: true,
                        verdict_sequence: SequenceNumber(u64::MAX),
                    }),
                    repeated_opens: u64::MAX,
                }),
            },
        }
    }

    proptest! {
        #[test]
        fn estimate_is_never_below_the_truth(
            text in prop::collection::vec(any::<u8>(), 0..600),
            count in 0..40_usize,
            kind in 0..4_usize,
        ) {
            let event = largest(&text, count, kind);
            let estimate = encoded_bytes_max(&event);
            let list = wire::EventList { events: vec![event.into()] };
            prop_assert!(list.encoded_len() <= estimate);
        }
    }
}

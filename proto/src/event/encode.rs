//! Events straight to the bytes of `shrike.event.v1`.
//!
//! An agent encodes each event that it sees. The generated code would want
//! the event as a tree of its own messages and measure each of them once for
//! every level above it; here a message is written once, and its length is
//! put in front of it. The bytes are those of the generated code, which a
//! property test compares; everything else goes through the conversion in
//! [`wire`](super::wire).

use super::{
    Alert, Ancestor, Capabilities, Cause, Change, Environment, Event, Exec, Exit, Fact, Fork,
    Image, Namespaces, Open, Process, Receipt, ResolvedPath, Verdict, wire::outcome_to_wire,
};
use crate::wire::event as wire;

/// Appends the event to an encoded `EventList`.
pub(crate) fn append_to_list(list: &mut Vec<u8>, it: &Event) {
    message(list, 1, |out| event(out, it));
}

// Each function takes its type apart field by field, so that a new field
// cannot be forgotten. Fields at their default are left out, as proto3 has it.

fn event(out: &mut Vec<u8>, it: &Event) {
    let Event {
        sequence,
        time_unix_ns,
        boot_time_ns,
        cpu,
        cpu_sequence,
        generation,
        process: by,
        verdict: judged,
        fact,
    } = it;
    number(out, 1, sequence.0);
    number(out, 2, time_unix_ns.cast_unsigned());
    number(out, 3, *boot_time_ns);
    number(out, 4, (*cpu).into());
    number(out, 5, *cpu_sequence);
    number(out, 6, generation.0);
    message(out, 7, |out| process(out, by));
    if let Some(judged) = judged {
        message(out, 8, |out| verdict(out, judged));
    }
    match fact {
        Fact::Exec(it) => message(out, 16, |out| exec(out, it)),
        Fact::Open(it) => message(out, 17, |out| open(out, it)),
        Fact::Change(it) => message(out, 20, |out| change(out, it)),
        Fact::Fork(it) => message(out, 18, |out| fork(out, it)),
        Fact::Exit(it) => message(out, 19, |out| exit(out, it)),
        Fact::Alert(it) => message(out, 21, |out| alert(out, it)),
    }
}

fn process(out: &mut Vec<u8>, it: &Process) {
    let Process {
        tgid,
        tid,
        start_boot_ns,
        parent_tgid,
        parent_start_boot_ns,
        uid,
        gid,
        euid,
        egid,
        comm,
        cgroup_id,
        exe,
        user,
        cgroup_path,
        container_id,
        ancestors,
        from_proc,
    } = it;
    number(out, 1, (*tgid).into());
    number(out, 2, (*tid).into());
    number(out, 3, *start_boot_ns);
    number(out, 4, (*parent_tgid).into());
    number(out, 5, *parent_start_boot_ns);
    number(out, 6, (*uid).into());
    number(out, 7, (*gid).into());
    number(out, 8, (*euid).into());
    number(out, 9, (*egid).into());
    bytes(out, 10, comm);
    number(out, 11, *cgroup_id);
    bytes(out, 12, exe);
    bytes(out, 13, user.as_bytes());
    bytes(out, 14, cgroup_path);
    bytes(out, 15, container_id.as_bytes());
    for above in ancestors {
        message(out, 16, |out| ancestor(out, above));
    }
    number(out, 17, (*from_proc).into());
}

fn ancestor(out: &mut Vec<u8>, it: &Ancestor) {
    let Ancestor {
        tgid,
        start_boot_ns,
        comm,
        exe,
    } = it;
    number(out, 1, (*tgid).into());
    number(out, 2, *start_boot_ns);
    bytes(out, 3, comm);
    bytes(out, 4, exe);
}

fn verdict(out: &mut Vec<u8>, it: &Verdict) {
    let Verdict {
        action,
        policy,
        rule,
        outcome,
        denied,
    } = it;
    let (outcome, signal_result) = outcome_to_wire(*outcome);
    number(out, 1, enumeration(wire::Action::from(*action) as i32));
    bytes(out, 2, policy.as_str().as_bytes());
    bytes(out, 3, rule.as_str().as_bytes());
    number(out, 4, enumeration(outcome as i32));
    number(out, 5, zigzag(signal_result));
    number(out, 6, (*denied).into());
}

fn exec(out: &mut Vec<u8>, it: &Exec) {
    let Exec {
        syscall,
        result,
        path_as_asked,
        file: resolved,
        interpreter,
        argv,
        argv_truncated,
        from_user_memory,
        directory_fd,
        flags,
        image: new,
    } = it;
    bytes(out, 1, syscall.as_bytes());
    number(out, 2, enumeration(*result));
    bytes(out, 3, path_as_asked);
    file(out, 4, resolved.as_ref());
    bytes(out, 5, interpreter);
    for argument in argv {
        // An empty one counts too.
        delimited(out, 6, argument);
    }
    number(out, 7, (*argv_truncated).into());
    number(out, 8, (*from_user_memory).into());
    number(out, 9, enumeration(*directory_fd));
    number(out, 10, (*flags).into());
    if let Some(new) = new {
        message(out, 11, |out| image(out, new));
    }
}

fn image(out: &mut Vec<u8>, it: &Image) {
    let Image {
        script,
        working_directory,
        tty,
        session_id,
        login_uid,
        saved_uid,
        saved_gid,
        fs_uid,
        fs_gid,
        capabilities: now,
        capabilities_before,
        namespaces: inside,
        environment: variables,
    } = it;
    file(out, 1, script.as_ref());
    bytes(out, 2, working_directory);
    bytes(out, 3, tty);
    number(out, 4, (*session_id).into());
    if let Some(login_uid) = login_uid {
        present(out, 5, (*login_uid).into());
    }
    number(out, 6, (*saved_uid).into());
    number(out, 7, (*saved_gid).into());
    number(out, 8, (*fs_uid).into());
    number(out, 9, (*fs_gid).into());
    message(out, 10, |out| capabilities(out, now));
    if let Some(before) = capabilities_before {
        message(out, 11, |out| capabilities(out, before));
    }
    message(out, 12, |out| namespaces(out, inside));
    if let Some(variables) = variables {
        message(out, 13, |out| environment(out, variables));
    }
}

fn capabilities(out: &mut Vec<u8>, it: &Capabilities) {
    let Capabilities {
        permitted,
        effective,
    } = it;
    number(out, 1, *permitted);
    number(out, 2, *effective);
}

fn namespaces(out: &mut Vec<u8>, it: &Namespaces) {
    let Namespaces {
        mount,
        pid,
        network,
        user,
        uts,
        ipc,
        cgroup,
    } = it;
    number(out, 1, (*mount).into());
    number(out, 2, (*pid).into());
    number(out, 3, (*network).into());
    number(out, 4, (*user).into());
    number(out, 5, (*uts).into());
    number(out, 6, (*ipc).into());
    number(out, 7, (*cgroup).into());
}

fn environment(out: &mut Vec<u8>, it: &Environment) {
    let Environment { names, truncated } = it;
    for name in names {
        delimited(out, 1, name);
    }
    number(out, 2, (*truncated).into());
}

fn open(out: &mut Vec<u8>, it: &Open) {
    let Open {
        syscall,
        result,
        path_as_asked,
        path_as_asked_truncated,
        file: resolved,
        flags,
        mode,
        directory_fd,
        from_user_memory,
    } = it;
    bytes(out, 1, syscall.as_bytes());
    number(out, 2, enumeration(*result));
    bytes(out, 3, path_as_asked);
    number(out, 4, (*path_as_asked_truncated).into());
    file(out, 5, resolved.as_ref());
    number(out, 6, (*flags).into());
    number(out, 7, (*mode).into());
    number(out, 8, enumeration(*directory_fd));
    number(out, 9, (*from_user_memory).into());
}

fn change(out: &mut Vec<u8>, it: &Change) {
    let Change {
        operation,
        result,
        file: resolved,
        name,
        other_path,
        other_unresolved,
        mode,
    } = it;
    let operation = wire::Operation::from(*operation) as i32;
    let name = wire::ChangedName::from(*name) as i32;
    number(out, 1, enumeration(operation));
    number(out, 2, enumeration(*result));
    file(out, 3, Some(resolved));
    number(out, 4, enumeration(name));
    bytes(out, 5, other_path);
    number(out, 6, (*other_unresolved).into());
    number(out, 7, (*mode).into());
}

fn file(out: &mut Vec<u8>, tag: u64, it: Option<&ResolvedPath>) {
    let Some(ResolvedPath {
        path,
        device,
        inode,
        unresolved,
        task_path,
        mode,
        links,
        owner_uid,
        owner_gid,
        deleted,
    }) = it
    else {
        return;
    };
    message(out, tag, |out| {
        bytes(out, 1, path);
        number(out, 2, *device);
        number(out, 3, *inode);
        number(out, 4, (*unresolved).into());
        bytes(out, 5, task_path);
        number(out, 6, (*mode).into());
        number(out, 7, (*links).into());
        number(out, 8, (*owner_uid).into());
        number(out, 9, (*owner_gid).into());
        number(out, 10, (*deleted).into());
    });
}

fn fork(out: &mut Vec<u8>, it: &Fork) {
    let Fork {
        child_tgid,
        child_tid,
        child_start_boot_ns,
        child_comm,
    } = it;
    number(out, 1, (*child_tgid).into());
    number(out, 2, (*child_tid).into());
    number(out, 3, *child_start_boot_ns);
    bytes(out, 4, child_comm);
}

fn exit(out: &mut Vec<u8>, it: &Exit) {
    let Exit {
        code,
        signal,
        core_dumped,
        duration_ns,
        receipt: came,
        repeated_opens,
        group_exit,
    } = it;
    number(out, 1, (*code).into());
    number(out, 2, (*signal).into());
    number(out, 3, (*core_dumped).into());
    number(out, 4, *duration_ns);
    if let Some(came) = came {
        message(out, 5, |out| receipt(out, came));
    }
    number(out, 6, *repeated_opens);
    number(out, 7, (*group_exit).into());
}

fn receipt(out: &mut Vec<u8>, it: &Receipt) {
    let Receipt {
        generation,
        policy,
        rule,
        signal_result,
        died_by_it,
        verdict_sequence,
        after_ns,
    } = it;
    number(out, 1, generation.0);
    bytes(out, 2, policy.as_str().as_bytes());
    bytes(out, 3, rule.as_str().as_bytes());
    number(out, 4, zigzag(*signal_result));
    number(out, 5, (*died_by_it).into());
    number(out, 6, verdict_sequence.0);
    number(out, 7, *after_ns);
}

fn alert(out: &mut Vec<u8>, it: &Alert) {
    let Alert { cause, reason } = it;
    let (number_of_cause, obstacle) = match cause {
        Cause::SignalFailed(_) => (wire::Cause::SignalFailed, wire::Obstacle::Unspecified),
        Cause::KillSurvived { obstacle, .. } => (wire::Cause::KillSurvived, (*obstacle).into()),
        Cause::KillUnproven(_) => (wire::Cause::KillUnproven, wire::Obstacle::Unspecified),
        Cause::Miscount => (wire::Cause::Miscount, wire::Obstacle::Unspecified),
    };
    number(out, 1, enumeration(number_of_cause as i32));
    bytes(out, 2, reason.as_bytes());
    if let Some(came) = it.receipt() {
        message(out, 3, |out| receipt(out, came));
    }
    number(out, 4, enumeration(obstacle as i32));
}

// The encoding itself: https://protobuf.dev/programming-guides/encoding/

const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

/// `int32` and enumerations: a negative number is that of 64 bits.
fn enumeration(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

/// `sint32`
fn zigzag(value: i32) -> u64 {
    (value.cast_unsigned() << 1 ^ (value >> 31).cast_unsigned()).into()
}

#[inline]
fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
    if value != 0 {
        present(out, tag, value);
    }
}

/// A number that is there also where it is 0.
#[inline]
fn present(out: &mut Vec<u8>, tag: u64, value: u64) {
    varint(out, tag << 3 | VARINT);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    if !value.is_empty() {
        delimited(out, tag, value);
    }
}

fn delimited(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    varint(out, tag << 3 | DELIMITED);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a message and then its length in front of it.
fn message(out: &mut Vec<u8>, tag: u64, body: impl FnOnce(&mut Vec<u8>)) {
    varint(out, tag << 3 | DELIMITED);
    let length_at = out.len();
    // Most messages have 128 bytes or more: two bytes of length.
    const ROOM: usize = 2;
    out.extend_from_slice(&[0; ROOM]);
    let begin = out.len();
    body(out);
    let length = out.len() - begin;
    let (text, used) = varint_bytes(length as u64);
    match used {
        1 => {
            out[length_at] = text[0];
            out.copy_within(begin.., length_at + 1);
            out.truncate(length_at + 1 + length);
        }
        ROOM => out[length_at..begin].copy_from_slice(&text[..ROOM]),
        _ => {
            out.splice(length_at..begin, text[..used].iter().copied());
        }
    }
}

#[inline]
fn varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let (text, used) = varint_bytes(value);
    let end = out.len() + used;
    // A copy of known length, and then less of it, is cheaper than a loop.
    out.extend_from_slice(&text);
    out.truncate(end);
}

/// Seven bits a byte, the lowest first; all but the last have the highest bit
/// set. There is no loop, because half of an event is numbers.
#[inline]
fn varint_bytes(value: u64) -> ([u8; 10], usize) {
    const MORE: u64 = 0x8080_8080_8080_8080;
    let mut text = [0; 10];
    let (low, high) = (spread(value), value >> 56);
    if high == 0 {
        let used = (71 - (low | 1).leading_zeros() as usize) / 8;
        let more = MORE & ((1 << (8 * (used - 1))) - 1);
        text[..8].copy_from_slice(&(low | more).to_le_bytes());
        (text, used)
    } else {
        text[..8].copy_from_slice(&(low | MORE).to_le_bytes());
        text[8] = high as u8;
        if high < 0x80 {
            return (text, 9);
        }
        text[9] = 1;
        (text, 10)
    }
}

/// Spreads the lowest 56 bits over 8 bytes, seven in each, by halves.
#[inline]
fn spread(value: u64) -> u64 {
    let quarters = (value & 0x00ff_ffff_f000_0000) << 4 | value & 0x0000_0000_0fff_ffff;
    let eighths = (quarters & 0x0fff_c000_0fff_c000) << 2 | quarters & 0x0000_3fff_0000_3fff;
    (eighths & 0x3f80_3f80_3f80_3f80) << 1 | eighths & 0x007f_007f_007f_007f
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varint_is_prosts(value: u64, shift in 0..64_u32) {
            let (mut ours, mut prosts) = (Vec::new(), Vec::new());
            varint(&mut ours, value >> shift);
            prost::encoding::encode_varint(value >> shift, &mut prosts);
            prop_assert_eq!(ours, prosts);
        }
    }
}

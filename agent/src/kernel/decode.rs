//! From a record's bytes to what it tells. Pure: any bytes give a sample or
//! an error, never a panic.

mod image;

use shrike_agent_ebpf::record::{self, Call, Header, Kind, Outcome, RULE_NONE};
use shrike_proto::event::{
    Action, Change, ChangedName, Comm, Exec, Exit, Fact, Fork, Open, Operation, Process,
    ResolvedPath,
};

use self::image::ImageBody;

/// A record, decoded. The verdict still names its rule by number: only the
/// table of its generation knows the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// `CLOCK_BOOTTIME` in nanoseconds when the hook ran.
    pub boot_time_ns: u64,
    /// CPU that ran the hook.
    pub cpu: u32,
    /// The record's number on that CPU.
    pub cpu_sequence: u64,
    /// Policy generation that judged.
    pub generation: u64,
    /// Who acted, without what enrichment adds.
    pub process: Process,
    /// `None` when no rule matched.
    pub verdict: Option<VerdictSample>,
    /// What happened.
    pub fact: Fact,
}

/// A verdict as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictSample {
    /// Number of the rule in its generation.
    pub rule: u16,
    /// What it asks for.
    pub action: Action,
    /// What the kernel did about it.
    pub outcome: shrike_proto::event::Outcome,
    /// The operation was refused.
    pub denied: bool,
}

/// A record that is not of its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than what it says it holds.
    #[error("the record ends after {length} bytes, inside of its {part}")]
    Truncated {
        /// Its length.
        length: usize,
        /// What should have been there.
        part: &'static str,
    },
    /// It says that it has another length than it has.
    #[error("the record says that it has {said} bytes, but has {length}")]
    Length {
        /// As it says.
        said: u32,
        /// As it is.
        length: usize,
    },
    /// Bytes are left over.
    #[error("the record has {0} bytes too many")]
    TooLong(usize),
    /// A number that stands for nothing.
    #[error("the record's {field} has the unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] when it is not of its form.
pub fn decode(bytes: &[u8]) -> Result<Sample, DecodeError> {
    let mut reader = Reader::new(bytes);
    let length = Reader::new(bytes).u32("header")?;
    if usize::try_from(length) != Ok(bytes.len()) {
        return Err(DecodeError::Length {
            said: length,
            length: bytes.len(),
        });
    }
    let mut header = reader.part::<Header>("header")?;
    let _length = header.u32("header")?;
    let kind = header.u8("header")?;
    let call = header.u8("header")?;
    let flags = header.u16("header")?;
    let cpu = header.u32("header")?;
    let result = header.i32("header")?;
    let cpu_sequence = header.u64("header")?;
    let boot_time_ns = header.u64("header")?;
    let generation = header.u64("header")?;
    let rule = header.u16("header")?;
    let action = header.u8("header")?;
    let outcome = header.u8("header")?;
    let signal_result = header.i32("header")?;
    let (mut process, mount_namespace) = process(&mut header)?;
    debug_assert!(header.rest.is_empty());

    let common = Common {
        syscall: syscall(call)?,
        flags,
        result: as_user_space_sees(result),
    };
    let fact = match kind {
        kind if kind == Kind::Open as u8 => Fact::Open(open(&mut reader, &common)?),
        kind if kind == Kind::Change as u8 => Fact::Change(change(&mut reader, &common, call)?),
        kind if kind == Kind::Exec as u8 => {
            Fact::Exec(exec(&mut reader, &common, mount_namespace)?)
        }
        kind if kind == Kind::Fork as u8 => Fact::Fork(fork(&mut reader, &process)?),
        kind if kind == Kind::Exit as u8 => Fact::Exit(exit(&mut reader, boot_time_ns, &process)?),
        kind => {
            return Err(DecodeError::Unknown {
                field: "kind",
                value: kind.into(),
            });
        }
    };
    if common.has(record::FLAG_HAS_EXECUTABLE) {
        process.exe = std::mem::take(&mut reader.rest).into();
    }
    if !reader.rest.is_empty() {
        return Err(DecodeError::TooLong(reader.rest.len()));
    }
    Ok(Sample {
        boot_time_ns,
        cpu,
        cpu_sequence,
        generation,
        process,
        verdict: verdict(rule, action, outcome, signal_result, &common)?,
        fact,
    })
}

/// What open and exec share.
struct Common {
    syscall: &'static str,
    flags: u16,
    result: i32,
}

impl Common {
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Returns what user space gets of a result: the kernel's own "restart the
/// system call" codes (ERESTARTSYS to ERESTART_RESTARTBLOCK,
/// include/linux/errno.h) never leave it. The call was interrupted; a restarted
/// one is an event of its own.
fn as_user_space_sees(result: i32) -> i32 {
    match result {
        -516..=-512 => -libc::EINTR,
        result => result,
    }
}

fn syscall(call: u8) -> Result<&'static str, DecodeError> {
    Call::ALL
        .get(usize::from(call))
        .map(|call| call.as_str())
        .ok_or(DecodeError::Unknown {
            field: "call",
            value: call.into(),
        })
}

/// Returns who acted, and in which mount namespace.
fn process(reader: &mut Reader<'_>) -> Result<(Process, u32), DecodeError> {
    const PART: &str = "process";
    let tgid = reader.u32(PART)?;
    let tid = reader.u32(PART)?;
    let start_boot_ns = reader.u64(PART)?;
    let parent_start_boot_ns = reader.u64(PART)?;
    let cgroup_id = reader.u64(PART)?;
    let parent_tgid = reader.u32(PART)?;
    let uid = reader.u32(PART)?;
    let gid = reader.u32(PART)?;
    let euid = reader.u32(PART)?;
    let egid = reader.u32(PART)?;
    let mount_namespace = reader.u32(PART)?;
    let comm = reader.bytes(16, PART)?;
    let end = comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(comm.len());
    let process = Process {
        tgid,
        tid,
        start_boot_ns,
        parent_tgid,
        parent_start_boot_ns,
        uid,
        gid,
        euid,
        egid,
        comm: Comm::from_slice(&comm[..end]),
        cgroup_id,
        ..Process::default()
    };
    Ok((process, mount_namespace))
}

fn open(reader: &mut Reader<'_>, common: &Common) -> Result<Open, DecodeError> {
    const PART: &str = "open";
    let mut fields = reader.part::<record::Open>(PART)?;
    let flags = fields.u32(PART)?;
    let mode = fields.u32(PART)?;
    let directory_fd = fields.i32(PART)?;
    let device = fields.u32(PART)?;
    let inode = fields.u64(PART)?;
    let asked_length = fields.u16(PART)?;
    let path_length = fields.u16(PART)?;
    let task_path_length = fields.u16(PART)?;
    let file_mode = fields.u16(PART)?;
    let links = fields.u32(PART)?;
    let owner_uid = fields.u32(PART)?;
    let owner_gid = fields.u32(PART)?;
    let _padding = fields.u32(PART)?;
    let path_as_asked = reader.bytes(asked_length.into(), "path as asked")?.to_vec();
    let path = reader.bytes(path_length.into(), "resolved path")?;
    let task_path = reader.bytes(task_path_length.into(), "path as the task sees it")?;
    let file = resolved(common, path, device, inode).map(|file| ResolvedPath {
        task_path: task_path.to_vec(),
        mode: file_mode.into(),
        links,
        owner_uid,
        owner_gid,
        deleted: common.has(record::FLAG_DELETED),
        ..file
    });
    Ok(Open {
        syscall: common.syscall.into(),
        result: common.result,
        path_as_asked,
        path_as_asked_truncated: common.has(record::FLAG_ASKED_TRUNCATED),
        file,
        flags,
        mode,
        directory_fd,
        from_user_memory: common.has(record::FLAG_FROM_USER_MEMORY),
    })
}

fn change(reader: &mut Reader<'_>, common: &Common, call: u8) -> Result<Change, DecodeError> {
    const PART: &str = "change";
    let mut fields = reader.part::<record::Change>(PART)?;
    let inode = fields.u64(PART)?;
    let device = fields.u32(PART)?;
    let file_mode = fields.u16(PART)?;
    let mode = fields.u16(PART)?;
    let path_length = fields.u16(PART)?;
    let other_length = fields.u16(PART)?;
    let links = fields.u32(PART)?;
    let owner_uid = fields.u32(PART)?;
    let owner_gid = fields.u32(PART)?;
    let path = reader.bytes(path_length.into(), "resolved path")?.to_vec();
    let other_path = reader.bytes(other_length.into(), "other name")?.to_vec();
    Ok(Change {
        operation: operation(call)?,
        result: common.result,
        file: ResolvedPath {
            path,
            device: device.into(),
            inode,
            unresolved: common.has(record::FLAG_PATH_UNRESOLVED),
            task_path: Vec::new(),
            mode: file_mode.into(),
            links,
            owner_uid,
            owner_gid,
            deleted: false,
        },
        name: if common.has(record::FLAG_NEW_NAME) {
            ChangedName::New
        } else {
            ChangedName::Old
        },
        other_path,
        other_unresolved: common.has(record::FLAG_OTHER_UNRESOLVED),
        mode: mode.into(),
    })
}

/// Returns what a call does to a file that it does not open.
fn operation(call: u8) -> Result<Operation, DecodeError> {
    let name = syscall(call)?;
    Operation::ALL
        .into_iter()
        .find(|operation| operation.as_str() == name)
        .ok_or(DecodeError::Unknown {
            field: "operation",
            value: call.into(),
        })
}

fn exec(
    reader: &mut Reader<'_>,
    common: &Common,
    mount_namespace: u32,
) -> Result<Exec, DecodeError> {
    const PART: &str = "exec";
    let flags = reader.u32(PART)?;
    let directory_fd = reader.i32(PART)?;
    let inode = reader.u64(PART)?;
    let device = reader.u32(PART)?;
    let asked_length = reader.u16(PART)?;
    let path_length = reader.u16(PART)?;
    let interpreter_length = reader.u16(PART)?;
    let argv_length = reader.u16(PART)?;
    let _padding = reader.u32(PART)?;
    let image = if common.has(record::FLAG_HAS_IMAGE) {
        Some(ImageBody::read(reader)?)
    } else {
        None
    };
    let path_as_asked = reader.bytes(asked_length.into(), "path as asked")?.to_vec();
    let path = reader.bytes(path_length.into(), "resolved path")?;
    let mut file = resolved(common, path, device, inode);
    let interpreter = reader
        .bytes(interpreter_length.into(), "interpreter")?
        .to_vec();
    let argv = reader.bytes(argv_length.into(), "arguments")?;
    let image = match image {
        Some(body) => {
            if let Some(file) = &mut file {
                body.describe(file);
                file.deleted = common.has(record::FLAG_DELETED);
            }
            Some(Box::new(body.image(reader, mount_namespace)?))
        }
        None => None,
    };
    Ok(Exec {
        syscall: common.syscall.into(),
        result: common.result,
        path_as_asked,
        file,
        interpreter,
        argv: split_arguments(argv),
        argv_truncated: common.has(record::FLAG_ARGV_TRUNCATED),
        from_user_memory: common.has(record::FLAG_FROM_USER_MEMORY),
        directory_fd,
        flags,
        image,
    })
}

/// Splits NUL-terminated arguments; the last may lack its NUL where it was
/// cut.
fn split_arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    let whole = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    whole.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn resolved(common: &Common, path: &[u8], device: u32, inode: u64) -> Option<ResolvedPath> {
    common.has(record::FLAG_HAS_FILE).then(|| ResolvedPath {
        path: path.to_vec(),
        device: device.into(),
        inode,
        unresolved: common.has(record::FLAG_PATH_UNRESOLVED),
        ..ResolvedPath::default()
    })
}

fn fork(reader: &mut Reader<'_>, parent: &Process) -> Result<Fork, DecodeError> {
    const PART: &str = "fork";
    Ok(Fork {
        child_start_boot_ns: reader.u64(PART)?,
        child_tgid: reader.u32(PART)?,
        child_tid: reader.u32(PART)?,
        // The child is a copy of the thread that forked.
        child_comm: Comm::from_slice(&parent.comm),
    })
}

fn exit(
    reader: &mut Reader<'_>,
    boot_time_ns: u64,
    process: &Process,
) -> Result<Exit, DecodeError> {
    let wait_status = reader.u32("exit")?;
    let group_exit = reader.u32("exit")?;
    let repeated_opens = reader.u64("exit")?;
    Ok(Exit {
        // As the macros of wait(2) take it apart.
        code: wait_status >> 8 & 0xff,
        signal: wait_status & 0x7f,
        core_dumped: wait_status & 0x80 != 0,
        duration_ns: match process.start_boot_ns {
            0 => 0,
            start => boot_time_ns.saturating_sub(start),
        },
        receipt: None,
        repeated_opens,
        group_exit: group_exit != 0,
    })
}

fn verdict(
    rule: u16,
    action: u8,
    outcome: u8,
    signal_result: i32,
    common: &Common,
) -> Result<Option<VerdictSample>, DecodeError> {
    use shrike_agent_ebpf::matching::Action as Asked;
    use shrike_proto::event::Outcome as Came;

    if rule == RULE_NONE {
        return Ok(None);
    }
    let action = match action {
        asked if asked == Asked::Ignore as u8 => Action::Ignore,
        asked if asked == Asked::Record as u8 => Action::Record,
        asked if asked == Asked::Alert as u8 => Action::Alert,
        asked if asked == Asked::Deny as u8 => Action::Deny,
        asked if asked == Asked::Kill as u8 => Action::Kill,
        value => {
            return Err(DecodeError::Unknown {
                field: "action",
                value: value.into(),
            });
        }
    };
    let outcome = match outcome {
        came if came == Outcome::Noted as u8 => Came::Noted,
        came if came == Outcome::Observed as u8 => Came::Observed,
        came if came == Outcome::Signalled as u8 && signal_result == 0 => Came::SignalSent,
        came if came == Outcome::Signalled as u8 => Came::SignalFailed(signal_result),
        came if came == Outcome::SparedInit as u8 => Came::SparedInit,
        came if came == Outcome::SparedKernelThread as u8 => Came::SparedKernelThread,
        came if came == Outcome::SparedAgent as u8 => Came::SparedAgent,
        came if came == Outcome::Denied as u8 => Came::Denied,
        came if came == Outcome::SparedProtected as u8 => Came::SparedProtected,
        came if came == Outcome::BreakerOpen as u8 => Came::BreakerOpen,
        value => {
            return Err(DecodeError::Unknown {
                field: "outcome",
                value: value.into(),
            });
        }
    };
    Ok(Some(VerdictSample {
        rule,
        action,
        outcome,
        denied: common.has(record::FLAG_DENIED),
    }))
}

/// Takes a record apart from the front. There are some forty fields: those of
/// one part are asked for once, and are loads in place then.
struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            length: bytes.len(),
        }
    }

    /// Returns a part of fixed length, to be taken apart.
    #[inline(always)]
    fn part<T>(&mut self, part: &'static str) -> Result<Reader<'a>, DecodeError> {
        Ok(Reader {
            rest: self.bytes(size_of::<T>(), part)?,
            length: self.length,
        })
    }

    #[inline(always)]
    fn bytes(&mut self, count: usize, part: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated {
                length: self.length,
                part,
            })?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated {
                length: self.length,
                part,
            })?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline(always)]
    fn u8(&mut self, part: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(part).map(|[byte]| byte)
    }

    #[inline(always)]
    fn u16(&mut self, part: &'static str) -> Result<u16, DecodeError> {
        self.array(part).map(u16::from_ne_bytes)
    }

    #[inline(always)]
    fn u32(&mut self, part: &'static str) -> Result<u32, DecodeError> {
        self.array(part).map(u32::from_ne_bytes)
    }

    #[inline(always)]
    fn i32(&mut self, part: &'static str) -> Result<i32, DecodeError> {
        self.array(part).map(i32::from_ne_bytes)
    }

    #[inline(always)]
    fn u64(&mut self, part: &'static str) -> Result<u64, DecodeError> {
        self.array(part).map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests;

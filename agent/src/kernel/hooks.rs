//! The hooks: what is attached where, how, and what it means when it is not.

use std::{
    collections::HashSet,
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Btf, Ebpf,
    programs::{
        FEntry, FExit, KProbe, Lsm, ProbeKind, Program, ProgramError, ProgramFd, RawTracePoint,
        links::FdLink,
    },
};

use serde::{Deserialize, Serialize};

use super::{
    SensorError,
    options::{Opens, Processes, SensorOptions},
    programs::{Asked, Link, Loaded, Programs},
};

/// One hook, as the node reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookState {
    /// The kernel function or tracepoint, for example `__x64_sys_openat`.
    pub name: &'static str,
    /// `lsm`, `fentry`, `fexit`, `kprobe` or `raw_tracepoint`; empty when not
    /// attached.
    pub attached_as: &'static str,
    /// Why not; empty when attached.
    pub error: String,
    /// The agent does not start without it.
    pub required: bool,
}

/// How the decision about opens and execs is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// As BPF LSM programs: what a rule forbids is refused before it happens.
    Lsm,
    /// As fentry programs: a process is signalled, the operation goes on.
    Fentry,
    /// As kprobes: the same, at a higher price.
    Kprobe,
}

impl Attachment {
    /// Every way, the best first.
    pub const ALL: [Self; 3] = [Self::Lsm, Self::Fentry, Self::Kprobe];

    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Lsm => LSM,
            Self::Fentry => FENTRY,
            Self::Kprobe => KPROBE,
        }
    }
}

const LSM: u8 = 1;
const FENTRY: u8 = 2;
const KPROBE: u8 = 4;
/// Where the verifier knows the kernel's objects.
const TYPED: u8 = LSM | FENTRY;
/// Where nothing can be refused. Programs at functions that a rule seldom
/// concerns are fentry programs in both.
const SIGNALS: u8 = FENTRY | KPROBE;
const ANY: u8 = LSM | FENTRY | KPROBE;

/// How a program hooks its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Lsm,
    Fentry,
    Fexit,
    Kprobe,
    RawTracepoint,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::RawTracepoint => "raw_tracepoint",
        }
    }
}

/// When a hook is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Always.
    Always,
    /// Where opens are recorded.
    RecordedOpens,
    /// Where every open is recorded.
    AllOpens,
    /// Where opens are recorded and the kernel has the 32-bit system call.
    RecordedOpens32,
    /// Where the kernel has the 32-bit system call.
    Only32,
    /// Where every fork is recorded.
    RecordedProcesses,
    /// Where the kernel has the function.
    IfThere,
}

struct Hook {
    program: &'static str,
    target: &'static str,
    how: How,
    need: Need,
    /// The ways of attachment that it belongs to.
    attachments: u8,
    /// It is attached while rules ask about some of this; `None`: always.
    judges: Option<Asked>,
}

impl Hook {
    /// Returns how it is attached, as people see it.
    fn attached_as(&self) -> &'static str {
        match (self.how, self.judges) {
            (How::Lsm, Some(_)) => "lsm, while rules ask",
            (How::Fentry, Some(_)) => "fentry, while rules ask",
            (how, _) => how.as_str(),
        }
    }

    /// Says whether the hook is to be attached, and whether it has to be.
    fn is_wanted(&self, options: &SensorOptions) -> (bool, bool) {
        let SensorOptions {
            opens, processes, ..
        } = options;
        let opens = *opens;
        let recorded = opens != Opens::Matched;
        let processes = *processes == Processes::All;
        match self.need {
            Need::Always => (true, true),
            Need::RecordedOpens => (recorded, recorded),
            Need::AllOpens => (opens == Opens::All, opens == Opens::All),
            Need::RecordedOpens32 => (recorded, false),
            Need::Only32 | Need::IfThere => (true, false),
            Need::RecordedProcesses => (processes, processes),
        }
    }

    /// Says whether the kernel's functions lack the one that it is attached to.
    fn is_absent(&self, functions: &HashSet<String>) -> bool {
        match self.how {
            How::Lsm => !functions.contains(&format!("{LSM_FUNCTION}{}", self.target)),
            How::Fentry | How::Fexit | How::Kprobe => !functions.contains(self.target),
            How::RawTracepoint => false,
        }
    }
}

/// How the function of a security module's hook begins that BPF programs are
/// attached to.
const LSM_FUNCTION: &str = "bpf_lsm_";

const NOT_NEEDED: &str = "not needed for what is recorded";

macro_rules! hooks {
    ($($program:literal $how:ident $target:literal $need:ident $attachments:ident $($judges:ident)?;)*) => {
        const HOOKS: &[Hook] = &[
            $(Hook {
                program: $program,
                target: $target,
                how: How::$how,
                need: Need::$need,
                attachments: $attachments,
                judges: hooks!(@ $($judges)?),
            },)*
        ];
    };
    (@) => { None };
    (@ $judges:ident) => { Some($judges) };
}

/// Judges opens and changes.
const OPENS: Asked = Asked {
    opens: true,
    execs: false,
};
/// Judges execs.
const EXECS: Asked = Asked {
    opens: false,
    execs: true,
};

// What ends an operation is attached before what begins it, so that no entry
// waits for an end that nobody sees. What makes a remembered path void is
// attached before anything remembers one.
hooks! {
    "dentry_moved" Fexit "__d_move" Always ANY;
    "directory_removed" Fexit "vfs_rmdir" Always ANY;
    "process_exit" RawTracepoint "sched_process_exit" Always ANY;
    "process_exec" RawTracepoint "sched_process_exec" Always ANY;
    "process_fork" RawTracepoint "sched_process_fork" RecordedProcesses ANY;
    "leave_execve" Fexit "__x64_sys_execve" Always ANY;
    "leave_execveat" Fexit "__x64_sys_execveat" Always ANY;
    "leave_execve32" Fexit "__ia32_compat_sys_execve" Only32 ANY;
    "leave_execveat32" Fexit "__ia32_compat_sys_execveat" Only32 ANY;
    "enter_execve" Kprobe "__x64_sys_execve" Always KPROBE;
    "enter_execveat" Kprobe "__x64_sys_execveat" Always KPROBE;
    "enter_execve32" Kprobe "__ia32_compat_sys_execve" Only32 KPROBE;
    "enter_execveat32" Kprobe "__ia32_compat_sys_execveat" Only32 KPROBE;
    "decide_exec" Kprobe "security_bprm_check" Always KPROBE;
    "guard_exec" Lsm "bprm_check_security" Always LSM;
    "watch_exec" Fentry "security_bprm_check" Always FENTRY;
    "open_failed" Fexit "do_sys_openat2" AllOpens TYPED;
    "opened_object" Fexit "dentry_open" RecordedOpens TYPED;
    "opened_below" Fexit "do_file_open_root" RecordedOpens TYPED;
    "opened" Fexit "do_filp_open" RecordedOpens TYPED;
    "guard_open" Lsm "file_open" Always LSM OPENS;
    "guard_receive" Lsm "file_receive" Always LSM OPENS;
    "guard_mmap" Lsm "mmap_file" Always LSM EXECS;
    "guard_truncate" Lsm "path_truncate" Always LSM OPENS;
    "guard_file_truncate" Lsm "file_truncate" IfThere LSM OPENS;
    "guard_unlink" Lsm "path_unlink" Always LSM OPENS;
    "guard_rmdir" Lsm "path_rmdir" Always LSM OPENS;
    "guard_rename" Lsm "path_rename" Always LSM OPENS;
    "guard_link" Lsm "path_link" Always LSM OPENS;
    "guard_symlink" Lsm "path_symlink" Always LSM OPENS;
    "guard_mkdir" Lsm "path_mkdir" Always LSM OPENS;
    "guard_mknod" Lsm "path_mknod" Always LSM OPENS;
    "guard_chmod" Lsm "path_chmod" Always LSM OPENS;
    "guard_chown" Lsm "path_chown" Always LSM OPENS;
    "guard_setxattr" Lsm "inode_setxattr" Always LSM OPENS;
    "guard_removexattr" Lsm "inode_removexattr" IfThere LSM OPENS;
    "guard_set_acl" Lsm "inode_set_acl" IfThere LSM OPENS;
    "guard_remove_acl" Lsm "inode_remove_acl" IfThere LSM OPENS;
    "watch_receive" Fentry "security_file_receive" IfThere SIGNALS OPENS;
    "watch_mmap" Fentry "security_mmap_file" IfThere SIGNALS EXECS;
    "watch_truncate" Fentry "security_path_truncate" IfThere SIGNALS OPENS;
    "watch_file_truncate" Fentry "security_file_truncate" IfThere SIGNALS OPENS;
    "watch_unlink" Fentry "security_path_unlink" IfThere SIGNALS OPENS;
    "watch_rmdir" Fentry "security_path_rmdir" IfThere SIGNALS OPENS;
    "watch_rename" Fentry "security_path_rename" IfThere SIGNALS OPENS;
    "watch_link" Fentry "security_path_link" IfThere SIGNALS OPENS;
    "watch_symlink" Fentry "security_path_symlink" IfThere SIGNALS OPENS;
    "watch_mkdir" Fentry "security_path_mkdir" IfThere SIGNALS OPENS;
    "watch_mknod" Fentry "security_path_mknod" IfThere SIGNALS OPENS;
    "watch_chmod" Fentry "security_path_chmod" IfThere SIGNALS OPENS;
    "watch_chown" Fentry "security_path_chown" IfThere SIGNALS OPENS;
    "watch_setxattr" Fentry "security_inode_setxattr" IfThere SIGNALS OPENS;
    "watch_removexattr" Fentry "security_inode_removexattr" IfThere SIGNALS OPENS;
    "watch_set_acl" Fentry "security_inode_set_acl" IfThere SIGNALS OPENS;
    "watch_remove_acl" Fentry "security_inode_remove_acl" IfThere SIGNALS OPENS;
    "watch_open" Fentry "security_file_open" Always FENTRY OPENS;
    "leave_open" Fexit "__x64_sys_open" RecordedOpens KPROBE;
    "leave_creat" Fexit "__x64_sys_creat" RecordedOpens KPROBE;
    "leave_openat" Fexit "__x64_sys_openat" RecordedOpens KPROBE;
    "leave_openat2" Fexit "__x64_sys_openat2" RecordedOpens KPROBE;
    "leave_open32" Fexit "__ia32_compat_sys_open" RecordedOpens32 KPROBE;
    "leave_creat32" Fexit "__ia32_sys_creat" RecordedOpens32 KPROBE;
    "leave_openat32" Fexit "__ia32_compat_sys_openat" RecordedOpens32 KPROBE;
    "leave_openat232" Fexit "__ia32_sys_openat2" RecordedOpens32 KPROBE;
    "leave_file_open" Fexit "do_filp_open" RecordedOpens KPROBE;
    "enter_file_open" Kprobe "do_filp_open" RecordedOpens KPROBE;
    "enter_open" Kprobe "__x64_sys_open" RecordedOpens KPROBE;
    "enter_creat" Kprobe "__x64_sys_creat" RecordedOpens KPROBE;
    "enter_openat" Kprobe "__x64_sys_openat" RecordedOpens KPROBE;
    "enter_openat2" Kprobe "__x64_sys_openat2" RecordedOpens KPROBE;
    "enter_open32" Kprobe "__ia32_compat_sys_open" RecordedOpens32 KPROBE;
    "enter_creat32" Kprobe "__ia32_sys_creat" RecordedOpens32 KPROBE;
    "enter_openat32" Kprobe "__ia32_compat_sys_openat" RecordedOpens32 KPROBE;
    "enter_openat232" Kprobe "__ia32_sys_openat2" RecordedOpens32 KPROBE;
    "decide_open" Kprobe "security_file_open" Always KPROBE;
}

/// What got attached.
pub struct Attached {
    /// How the decisions are attached.
    pub attachment: Attachment,
    /// Each hook.
    pub hooks: Vec<HookState>,
    /// What attaches them.
    pub programs: Programs,
}

/// Loads and attaches every hook, in an order that leaves nothing half seen.
/// Without `wanted`, the best way that this kernel takes; a better one that it
/// does not take is among the hooks, with its reason.
///
/// # Errors
/// [`SensorError::Hook`] for the first required hook that does not attach.
pub fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    options: &SensorOptions,
) -> Result<Attached, SensorError> {
    let wanted = options.attachment;
    let symbols = kernel_functions();
    let mut refused = Vec::new();
    for attachment in Attachment::ALL {
        if wanted.is_some_and(|wanted| wanted != attachment) {
            continue;
        }
        let result = match attachment {
            Attachment::Lsm => lsm_is_active(),
            Attachment::Fentry | Attachment::Kprobe => Ok(()),
        }
        .and_then(|()| attach_as(ebpf, btf, attachment, options, &symbols));
        match result {
            Ok((mut hooks, programs)) => {
                hooks.splice(..0, refused);
                return Ok(Attached {
                    attachment,
                    hooks,
                    programs,
                });
            }
            Err(error) if wanted.is_none() && attachment != Attachment::Kprobe => {
                unload(ebpf);
                refused.push(HookState {
                    name: match attachment {
                        Attachment::Lsm => "BPF LSM",
                        Attachment::Fentry | Attachment::Kprobe => "fentry",
                    },
                    attached_as: "",
                    error: error.to_string(),
                    required: false,
                });
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last way returns")
}

/// Says whether BPF programs are asked: a kernel that has them built in, but
/// not in its list of security modules, attaches them and never calls one.
fn lsm_is_active() -> Result<(), SensorError> {
    let modules = fs::read_to_string(LSM_LIST).map_err(|source| SensorError::LsmList { source })?;
    if modules.trim().split(',').any(|module| module == "bpf") {
        return Ok(());
    }
    Err(SensorError::LsmInactive {
        modules: modules.trim().to_owned(),
    })
}

/// The security modules in use, in the order that they are asked.
const LSM_LIST: &str = "/sys/kernel/security/lsm";

fn attach_as(
    ebpf: &mut Ebpf,
    btf: &Btf,
    attachment: Attachment,
    options: &SensorOptions,
    symbols: &HashSet<String>,
) -> Result<(Vec<HookState>, Programs), SensorError> {
    let mut states = Vec::new();
    let mut loaded = Vec::new();
    for hook in HOOKS
        .iter()
        .filter(|hook| hook.attachments & attachment.bit() != 0)
    {
        let (state, program) = attach_one(ebpf, btf, hook, options, symbols)?;
        states.push(state);
        loaded.extend(program);
    }
    Ok((states, Programs::new(loaded)))
}

fn attach_one(
    ebpf: &mut Ebpf,
    btf: &Btf,
    hook: &Hook,
    options: &SensorOptions,
    symbols: &HashSet<String>,
) -> Result<(HookState, Option<Loaded>), SensorError> {
    let (wanted, required) = hook.is_wanted(options);
    let state = |attached_as, error: &str| HookState {
        name: hook.target,
        attached_as,
        error: error.to_owned(),
        required,
    };
    if !wanted {
        return Ok((state("", NOT_NEEDED), None));
    }
    // Without the list of symbols the kernel's answer has to do.
    if !required && !symbols.is_empty() && hook.is_absent(symbols) {
        return Ok((state("", "not on this kernel"), None));
    }
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(SensorError::ObjectPart(hook.program))?;
    match load_and_attach(program, btf, hook) {
        Ok(loaded) => Ok((state(hook.attached_as(), ""), Some(loaded))),
        Err(error) if required => Err(required_hook_error(hook, error)),
        Err(error) => Ok((state("", &one_line(&error)), None)),
    }
}

fn load_and_attach(program: &mut Program, btf: &Btf, hook: &Hook) -> Result<Loaded, ProgramError> {
    let link = match hook.how {
        How::Lsm => {
            let program: &mut Lsm = program.try_into()?;
            program.load(hook.target, btf)?;
            if hook.judges.is_some() {
                None
            } else {
                let id = program.attach()?;
                Some(Link::Own(program.take_link(id)?.into()))
            }
        }
        How::Fentry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook.target, btf)?;
            if hook.judges.is_some() {
                None
            } else {
                let id = program.attach()?;
                Some(Link::Own(program.take_link(id)?.into()))
            }
        }
        How::Fexit => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.target, btf)?;
            let id = program.attach()?;
            Some(Link::Own(program.take_link(id)?.into()))
        }
        How::Kprobe => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            let id = program.attach(hook.target, 0)?;
            match FdLink::try_from(program.take_link(id)?) {
                Ok(link) => Some(Link::Own(link)),
                Err(_) => {
                    let id = program.attach(hook.target, 0)?;
                    Some(Link::Legacy(program.take_link(id)?))
                }
            }
        }
        How::RawTracepoint => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            let id = program.attach(hook.target)?;
            Some(Link::Own(program.take_link(id)?.into()))
        }
    };
    Ok(Loaded {
        name: hook.program,
        program: program.fd()?.as_fd().try_clone_to_owned()?,
        link,
        judges: hook.judges,
        instructions: program
            .info()
            .ok()
            .and_then(|info| info.verified_instruction_count()),
    })
}

/// Opens a program that is pinned, by its name; returns what it judges as well
/// if it is attached only while rules ask.
///
/// # Errors
/// When there is no such hook, or the pin is not such a program's.
pub fn open_pinned(
    name: &str,
    path: &Path,
) -> Result<(&'static str, Option<Asked>, OwnedFd), ProgramError> {
    let Some(hook) = HOOKS.iter().find(|hook| hook.program == name) else {
        return Err(ProgramError::NotLoaded);
    };
    let clone = |fd: &ProgramFd| fd.as_fd().try_clone_to_owned();
    let program = match hook.how {
        How::Lsm => clone(Lsm::from_pin(path)?.fd()?),
        How::Fentry => clone(FEntry::from_pin(path)?.fd()?),
        How::Fexit => clone(FExit::from_pin(path)?.fd()?),
        How::Kprobe => clone(KProbe::from_pin(path, ProbeKind::Entry)?.fd()?),
        How::RawTracepoint => clone(RawTracePoint::from_pin(path)?.fd()?),
    }?;
    Ok((hook.program, hook.judges, program))
}

/// Says how the hooks of programs stand that another agent attached.
pub fn adopted(
    attachment: Attachment,
    options: &SensorOptions,
    programs: &Programs,
) -> Vec<HookState> {
    let wanted = options.attachment;
    let mut states = Vec::new();
    if wanted.is_none()
        && attachment != Attachment::Lsm
        && let Err(error) = lsm_is_active()
    {
        states.push(HookState {
            name: "BPF LSM",
            attached_as: "",
            error: error.to_string(),
            required: false,
        });
    }
    let hooks = HOOKS
        .iter()
        .filter(|hook| hook.attachments & attachment.bit() != 0);
    states.extend(hooks.map(|hook| {
        let loaded = programs.iter().any(|one| one.name == hook.program);
        let (wanted, required) = hook.is_wanted(options);
        HookState {
            name: hook.target,
            attached_as: if loaded { hook.attached_as() } else { "" },
            error: match (loaded, wanted) {
                (true, _) => String::new(),
                (false, false) => NOT_NEEDED.to_owned(),
                (false, true) => "could not be attached by the agent before".to_owned(),
            },
            required,
        }
    }));
    states
}

/// Says what a failure means, and which option is missing.
fn required_hook_error(hook: &Hook, error: ProgramError) -> SensorError {
    let name = format!("{} {}", hook.how.as_str(), hook.target);
    if let ProgramError::SyscallError(syscall) = &error
        && matches!(
            syscall.io_error.raw_os_error(),
            Some(libc::EPERM | libc::EACCES)
        )
        && !matches!(&error, ProgramError::LoadError { .. })
    {
        return SensorError::NotPermitted {
            operation: name,
            source: Box::new(error),
        };
    }
    let reason = match (&error, hook.how) {
        (ProgramError::LoadError { verifier_log, .. }, _) => {
            let log = verifier_log.to_string();
            tracing::debug!(hook = %name, log, "the verifier's log");
            format!("this kernel's verifier refuses it: {}", last_line(&log))
        }
        (_, How::Kprobe) => "this kernel has no such function to probe, or lacks CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y".to_owned(),
        (_, How::Lsm) => "this kernel lacks CONFIG_BPF_LSM=y".to_owned(),
        (_, How::Fentry | How::Fexit) => "this kernel has no such function in its type information, or lacks CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y".to_owned(),
        (_, How::RawTracepoint) => "this kernel lacks CONFIG_TRACEPOINTS=y".to_owned(),
    };
    SensorError::Hook {
        hook: name,
        reason,
        source: Box::new(error),
    }
}

fn one_line(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// Returns the verifier's conclusion: its last line that is no statistic.
fn last_line(log: &str) -> String {
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| {
            !line.is_empty()
                && !line.starts_with("processed ")
                && !line.starts_with("verification time")
                && !line.starts_with("stack depth")
        })
        .unwrap_or("no reason given")
        .to_owned()
}

/// Returns the names of the kernel's functions that a hook may target; none
/// when they are hidden.
fn kernel_functions() -> HashSet<String> {
    let targets: HashSet<&str> = HOOKS.iter().map(|hook| hook.target).collect();
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2))
        .filter(|name| targets.contains(name.strip_prefix(LSM_FUNCTION).unwrap_or(name)))
        .map(str::to_owned)
        .collect()
}

/// Unloads every program.
fn unload(ebpf: &mut Ebpf) {
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::KProbe(program) => program.unload(),
            Program::Lsm(program) => program.unload(),
            Program::FEntry(program) => program.unload(),
            Program::FExit(program) => program.unload(),
            Program::RawTracePoint(program) => program.unload(),
            // The object has no others.
            _ => continue,
        };
        // One that was never loaded is as good.
        if let Err(error) = result {
            tracing::debug!(name, %error, "not unloaded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_attached_once() {
        let mut programs = HashSet::new();
        for hook in HOOKS {
            assert!(programs.insert(hook.program), "{}", hook.program);
        }
    }

    #[test]
    fn ends_are_attached_before_beginnings() {
        for begin in HOOKS
            .iter()
            .filter(|hook| hook.program.starts_with("enter_"))
        {
            let end = begin.program.replace("enter_", "leave_");
            let position = |name: &str| HOOKS.iter().position(|hook| hook.program == name);
            assert!(
                position(&end) < position(begin.program),
                "{}",
                begin.program
            );
        }
    }

    #[test]
    fn verifier_conclusion_is_its_last_line() {
        assert_eq!(
            last_line("0: (b7)\nR1 invalid mem access\nprocessed 12 insns\n\n"),
            "R1 invalid mem access"
        );
        assert_eq!(last_line(""), "no reason given");
    }
}

//! The hooks: what is attached where, how, and what it means when it is not.

use std::{collections::HashSet, fs, io};

use aya::{
    Btf, Ebpf,
    programs::{FExit, KProbe, Program, ProgramError, RawTracePoint},
};

use super::SensorError;

/// One hook, as the node reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookState {
    /// The kernel function or tracepoint, for example `__x64_sys_openat`.
    pub name: &'static str,
    /// `kprobe`, `fexit` or `raw_tracepoint`; empty when not attached.
    pub attached_as: &'static str,
    /// Why not; empty when attached.
    pub error: String,
    /// The agent does not start without it.
    pub required: bool,
}

/// How a program hooks its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Kprobe,
    Fexit,
    RawTracepoint,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kprobe => "kprobe",
            Self::Fexit => "fexit",
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
    /// Where opens are recorded and the kernel has the 32-bit system call.
    RecordedOpens32,
    /// Where the kernel has the 32-bit system call.
    Only32,
}

struct Hook {
    program: &'static str,
    target: &'static str,
    how: How,
    need: Need,
}

macro_rules! hooks {
    ($($program:literal $how:ident $target:literal $need:ident;)*) => {
        const HOOKS: &[Hook] = &[
            $(Hook {
                program: $program,
                target: $target,
                how: How::$how,
                need: Need::$need,
            },)*
        ];
    };
}

// What ends an operation is attached before what begins it, so that no entry
// waits for an end that nobody sees.
hooks! {
    "process_exit" RawTracepoint "sched_process_exit" Always;
    "process_exec" RawTracepoint "sched_process_exec" Always;
    "process_fork" RawTracepoint "sched_process_fork" Always;
    "leave_execve" Fexit "__x64_sys_execve" Always;
    "leave_execveat" Fexit "__x64_sys_execveat" Always;
    "leave_execve32" Fexit "__ia32_compat_sys_execve" Only32;
    "leave_execveat32" Fexit "__ia32_compat_sys_execveat" Only32;
    "enter_execve" Kprobe "__x64_sys_execve" Always;
    "enter_execveat" Kprobe "__x64_sys_execveat" Always;
    "enter_execve32" Kprobe "__ia32_compat_sys_execve" Only32;
    "enter_execveat32" Kprobe "__ia32_compat_sys_execveat" Only32;
    "decide_exec" Kprobe "security_bprm_check" Always;
    "leave_open" Fexit "__x64_sys_open" RecordedOpens;
    "leave_creat" Fexit "__x64_sys_creat" RecordedOpens;
    "leave_openat" Fexit "__x64_sys_openat" RecordedOpens;
    "leave_openat2" Fexit "__x64_sys_openat2" RecordedOpens;
    "leave_open32" Fexit "__ia32_compat_sys_open" RecordedOpens32;
    "leave_creat32" Fexit "__ia32_sys_creat" RecordedOpens32;
    "leave_openat32" Fexit "__ia32_compat_sys_openat" RecordedOpens32;
    "leave_openat232" Fexit "__ia32_sys_openat2" RecordedOpens32;
    "leave_file_open" Fexit "do_filp_open" RecordedOpens;
    "enter_file_open" Kprobe "do_filp_open" RecordedOpens;
    "enter_open" Kprobe "__x64_sys_open" RecordedOpens;
    "enter_creat" Kprobe "__x64_sys_creat" RecordedOpens;
    "enter_openat" Kprobe "__x64_sys_openat" RecordedOpens;
    "enter_openat2" Kprobe "__x64_sys_openat2" RecordedOpens;
    "enter_open32" Kprobe "__ia32_compat_sys_open" RecordedOpens32;
    "enter_creat32" Kprobe "__ia32_sys_creat" RecordedOpens32;
    "enter_openat32" Kprobe "__ia32_compat_sys_openat" RecordedOpens32;
    "enter_openat232" Kprobe "__ia32_sys_openat2" RecordedOpens32;
    "decide_open" Kprobe "security_file_open" Always;
}

/// Loads and attaches every hook, in an order that leaves nothing half seen.
///
/// # Errors
/// [`SensorError::Hook`] for the first required hook that does not attach.
pub fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    record_opens: bool,
) -> Result<Vec<HookState>, SensorError> {
    let symbols = kernel_functions();
    HOOKS
        .iter()
        .map(|hook| attach_one(ebpf, btf, hook, record_opens, &symbols))
        .collect()
}

fn attach_one(
    ebpf: &mut Ebpf,
    btf: &Btf,
    hook: &Hook,
    record_opens: bool,
    symbols: &HashSet<String>,
) -> Result<HookState, SensorError> {
    let (wanted, required) = match hook.need {
        Need::Always => (true, true),
        Need::RecordedOpens => (record_opens, record_opens),
        Need::RecordedOpens32 => (record_opens, false),
        Need::Only32 => (true, false),
    };
    let state = |attached_as, error: &str| HookState {
        name: hook.target,
        attached_as,
        error: error.to_owned(),
        required,
    };
    if !wanted {
        return Ok(state("", "not needed: opens are not recorded"));
    }
    let function = hook.how != How::RawTracepoint;
    // Without the list of symbols the kernel's answer has to do.
    if !required && function && !symbols.is_empty() && !symbols.contains(hook.target) {
        return Ok(state("", "not on this kernel"));
    }
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(SensorError::ObjectPart(hook.program))?;
    match load_and_attach(program, btf, hook) {
        Ok(()) => Ok(state(hook.how.as_str(), "")),
        Err(error) if required => Err(required_hook_error(hook, error)),
        Err(error) => Ok(state("", &one_line(&error))),
    }
}

fn load_and_attach(program: &mut Program, btf: &Btf, hook: &Hook) -> Result<(), ProgramError> {
    match hook.how {
        How::Kprobe => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(hook.target, 0)?;
        }
        How::Fexit => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.target, btf)?;
            program.attach()?;
        }
        How::RawTracepoint => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(hook.target)?;
        }
    }
    Ok(())
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
            format!(
                "this kernel's verifier refuses it: {}",
                last_line(&verifier_log.to_string())
            )
        }
        (_, How::Kprobe) => "this kernel has no such function to probe, or lacks CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y".to_owned(),
        (_, How::Fexit) => "this kernel has no such function in its type information, or lacks CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y".to_owned(),
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
        .filter(|name| targets.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Detaches and unloads every program.
pub fn detach(ebpf: &mut Ebpf) {
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::KProbe(program) => program.unload(),
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

/// Returns how often the kernel did not run a loaded program because it, or
/// another one, was running on the CPU.
pub fn recursion_misses(ebpf: &Ebpf) -> u64 {
    ebpf.programs()
        .filter_map(|(_, program)| program_misses(program).ok())
        .sum()
}

fn program_misses(program: &Program) -> io::Result<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    let Ok(fd) = program.fd() else {
        return Ok(0);
    };
    let fd = fd.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    Ok(info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}

/// Returns, for each loaded program, how many instructions the verifier
/// looked at.
pub fn verified_instructions(ebpf: &Ebpf) -> Vec<(String, u32)> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            let count = program.info().ok()?.verified_instruction_count()?;
            Some((name.to_owned(), count))
        })
        .collect()
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

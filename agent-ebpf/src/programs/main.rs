//! The eBPF programs of Shrike's agent.
//!
//! They never decide on user memory, never sleep, and never leave an event
//! uncounted. Entry points only map what `try_…` did to a return code.
//!
//! Where BPF programs may be security modules or fentry programs:
//!
//! ```text
//!               every way to open                           execve, execveat
//! lsm, fentry   security_file_open: the decision            security_bprm_check: the
//!                                                             decision, and what was asked
//! fexit         do_filp_open: the event                     —
//! raw tp        —                                           sched_process_exec: the event
//! fexit         do_sys_openat2: failed before that          system call: it failed
//! ```
//!
//! By kprobes:
//!
//! ```text
//!               open, creat, openat, openat2                execve, execveat
//! kprobe        system call entry: what was asked           system call entry
//! kprobe        do_filp_open: it reached the file system    security_bprm_check:
//! kprobe        security_file_open: the decision              the decision
//! fexit         do_filp_open: the event                     —
//! raw tp        —                                           sched_process_exec: the event
//! fexit         system call: failed before do_filp_open     system call: it failed
//! ```
//!
//! Returns are fexit programs and not kretprobes, because a kretprobe has a
//! fixed number of return slots (10 on two CPUs): as many opens that block on
//! a FIFO would silence every other one.

#![no_std]
#![no_main]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unstable_features,
        reason = "inline assembly for eBPF is only to be had with RUSTC_BOOTSTRAP or a nightly"
    ),
    feature(asm_experimental_arch)
)]

mod bprm_check;
mod carry_out;
mod clean;
mod condemned;
mod device;
mod emit;
mod environment;
mod exec_call;
mod file_open;
mod global;
mod guard_change;
mod guard_open;
mod hash;
mod image;
mod judge;
mod memory;
mod offsets;
mod open_call;
mod overlay;
mod process_exec;
mod process_exit;
mod process_fork;
mod progress;
mod record_change;
mod record_open;
mod root;
mod scratch;
mod seen;
mod shortcut;
mod typed;
mod verdicts;
mod walk;

/// The verifier makes sure that no program gets here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that read kernel memory are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

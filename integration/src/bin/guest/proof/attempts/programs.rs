//! Executing what must not run.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{mount_bind, mount_bind_recursive};
use rustix::process::{chdir, chroot};
use shrike_integration::proof::attempt::Ended;
use shrike_integration::proof::case::RAN;

use super::super::call::{Call, Entry, Word, text};
use super::super::child;
use super::super::stage::{Stage, execute, tell};
use super::places::{make_overlay, make_overlays, own_mounts};
use super::processes::{after_leader, daemon, in_pid_namespace, in_thread, unshare, vforked};
use super::{Attempt, path_descriptor, plain, prepared, run_exempt};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("exec-own-name", run),
    plain("exec-relative", |stage| {
        std::env::set_current_dir(&stage.folder)?;
        stage.execute(&text("program"))
    }),
    plain("exec-directory-descriptor", |stage| {
        let folder = path_descriptor(&stage.folder)?;
        stage.change(|| execveat(Entry::Native, folder, "program", 0))
    }),
    plain("exec-empty-path", |stage| {
        let file = path_descriptor(&stage.target)?;
        stage.change(|| execveat(Entry::Native, file, "", libc::AT_EMPTY_PATH))
    }),
    plain("exec-proc-fd", |stage| {
        let file = path_descriptor(&stage.target)?;
        stage.execute(&text(format!("/proc/self/fd/{file}")))
    }),
    prepared(
        "exec-symlink",
        |stage| Ok(symlink(&stage.target, format!("{}/link", stage.folder))?),
        |stage| stage.execute(&stage.below("link")),
    ),
    prepared(
        "exec-hard-link",
        |stage| {
            Ok(fs::hard_link(
                &stage.target,
                format!("{}/alias", stage.folder),
            )?)
        },
        |stage| run_alias(stage, "alias"),
    ),
    plain("exec-hard-link-after", |stage| {
        run_exempt("ln", &[&stage.target, &format!("{}/alias", stage.folder)])?;
        run_alias(stage, "alias")
    }),
    prepared("exec-bind", make_mount, |stage| {
        own_mounts()?;
        mount_bind(&stage.folder, format!("{}/mount", stage.folder))?;
        run_alias(stage, "mount/program")
    }),
    // The program needs its loader and library, so the root is the whole
    // system in another place.
    prepared("exec-chroot", make_mount, |stage| {
        own_mounts()?;
        let there = format!("{}/mount", stage.folder);
        mount_bind_recursive("/", &there)?;
        stage.named(&format!("{there}{}", stage.target));
        chroot(&*there)?;
        chdir("/")?;
        stage.execute(&stage.path)
    }),
    plain("exec-directory", run),
    plain("exec-command", run),
    prepared(
        "exec-script",
        |stage| put_script(stage, "script", "#!/bin/sh\necho ran\n"),
        run,
    ),
    prepared(
        "exec-interpreter",
        |stage| put_script(stage, "script", &format!("#!{} {RAN}\n", stage.target)),
        |stage| stage.execute(&stage.below("script")),
    ),
    plain("exec-loader", |stage| run_by_loader(stage, &stage.path)),
    plain("exec-compat", |stage| {
        stage.change(|| execute(Entry::Compat, &stage.path))
    }),
    plain("exec-compat-execveat", |stage| {
        let file = path_descriptor(&stage.target)?;
        stage.change(|| execveat(Entry::Compat, file, "", libc::AT_EMPTY_PATH))
    }),
    plain("exec-thread", |stage| in_thread(stage, run)),
    plain("exec-after-leader", |stage| after_leader(stage, run)),
    plain("exec-vforked", |stage| vforked(stage, run)),
    plain("exec-daemon", |stage| daemon(stage, run)),
    plain("exec-user-namespace", |stage| {
        unshare(libc::CLONE_NEWUSER)?;
        run(stage)
    }),
    plain("exec-pid-namespace", |stage| in_pid_namespace(stage, run)),
    prepared(
        "exec-helper",
        |stage| {
            // It is told by its arguments what to leave behind.
            fs::copy("/usr/bin/mkdir", &stage.target)?;
            Ok(())
        },
        by_kernel,
    ),
    prepared("exec-overlay-merged", make_overlay, run),
    prepared("exec-overlay-lower", make_overlay, run_merged),
    prepared("exec-overlay-directory", make_overlay, run_merged),
    prepared("exec-overlay-loader", make_overlay, |stage| {
        tell("another-file", "");
        let merged = format!("{}/merged/program", stage.folder);
        stage.named(&merged);
        run_by_loader(stage, &text(merged))
    }),
    prepared("exec-overlays-lowest", make_overlays, run_topmost),
    prepared("exec-overlays-middle", make_overlays, run_topmost),
    plain("exec-memfd-command", |stage| {
        let memory = in_memory(&stage.target)?;
        // The command name is that of the link.
        fs::remove_file(&stage.target)?;
        symlink(
            format!("/proc/self/fd/{}", memory.as_raw_fd()),
            &stage.target,
        )?;
        tell("another-file", "");
        stage.named("memfd:program");
        run(stage)
    }),
    prepared(
        "exec-script-as-data",
        |stage| put_script(stage, "script", "#!/bin/sh\necho ran\n"),
        |stage| {
            let argv = [text("sh"), stage.path.clone()];
            stage.change(|| {
                Entry::Native.call(
                    Call::Execve,
                    &[c"/bin/sh".into(), Word::Strings(&argv), Word::Strings(&[])],
                )
            })
        },
    ),
    prepared(
        "exec-copy",
        |stage| {
            fs::copy(&stage.target, format!("{}/copy", stage.folder))?;
            Ok(())
        },
        |stage| stage.execute(&stage.below("copy")),
    ),
    plain("exec-memfd-copy", |stage| {
        let memory = in_memory(&stage.target)?;
        stage.change(|| execveat(Entry::Native, memory.as_raw_fd(), "", libc::AT_EMPTY_PATH))
    }),
];

fn run(stage: &Stage) -> Result<()> {
    stage.execute(&stage.path)
}

fn run_merged(stage: &Stage) -> Result<()> {
    tell("another-file", "");
    run_alias(stage, "merged/program")
}

/// Runs what a rule knows by a file below, by the name that is on top.
fn run_topmost(stage: &Stage) -> Result<()> {
    tell("another-file", "");
    run_alias(stage, "top/program")
}

/// Has the dynamic loader run a program.
fn run_by_loader(stage: &Stage, program: &CStr) -> Result<()> {
    let argv = [text("ld.so"), program.to_owned(), text(RAN)];
    stage.change(|| {
        Entry::Native.call(
            Call::Execve,
            &[
                c"/lib64/ld-linux-x86-64.so.2".into(),
                Word::Strings(&argv),
                Word::Strings(&[]),
            ],
        )
    })
}

/// Copies a program to where no directory is.
fn in_memory(program: &str) -> Result<fs::File> {
    let mut memory = fs::File::from(memfd_create("program", MemfdFlags::empty())?);
    memory.write_all(&fs::read(program)?)?;
    Ok(memory)
}

fn run_alias(stage: &Stage, name: &str) -> Result<()> {
    let alias = format!("{}/{name}", stage.folder);
    stage.named(&alias);
    stage.execute(&text(alias))
}

fn execveat(entry: Entry, folder: i32, name: &str, flags: i32) -> Result<i32, rustix::io::Errno> {
    let argv = [text("program"), text(RAN)];
    entry.call(
        Call::Execveat,
        &[
            folder.into(),
            (&text(name)).into(),
            Word::Strings(&argv),
            Word::Strings(&[]),
            flags.into(),
        ],
    )
}

fn make_mount(stage: &Stage) -> Result<()> {
    Ok(fs::create_dir(format!("{}/mount", stage.folder))?)
}

fn put_script(stage: &Stage, name: &str, script: &str) -> Result<()> {
    let path = format!("{}/{name}", stage.folder);
    fs::write(&path, script)?;
    Ok(fs::set_permissions(
        &path,
        fs::Permissions::from_mode(0o755),
    )?)
}

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// Has the kernel execute the program, as the reader of a core dump, and
/// says what became of it: it is nobody's child.
fn by_kernel(stage: &Stage) -> Result<()> {
    let mark = format!("{}/mark", stage.folder);
    dump_core(&format!("|{} {mark}", stage.target), || Ok(()))?;
    if fs::exists(&mark)? {
        tell(RAN, "");
    }
    Ok(())
}

/// Has the kernel dump a process's memory to where the pattern (core(5))
/// says; the process does something before.
pub fn dump_core(pattern: &str, before_it: impl FnOnce() -> Result<()>) -> Result<Ended> {
    let before = fs::read_to_string(CORE_PATTERN)?;
    fs::write(CORE_PATTERN, pattern)?;
    let crashing = child::fork(|| {
        before_it()?;
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: it reads the limit and nothing else.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
        ensure!(result == 0, "cannot allow a core dump");
        // SAFETY: it ends the process.
        unsafe { libc::abort() }
    })?;
    // A dump waits for its reader: once the process has ended, the reader has
    // been started and has ended, or was refused.
    let ended = child::wait(crashing)?;
    fs::write(CORE_PATTERN, before.trim_end()).context("cannot restore the core pattern")?;
    Ok(ended)
}

//! One file under its many names, in the namespace and root that it lies in.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use anyhow::Result;
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, text};
use super::super::stage::{Stage, exempt, tell};
use super::{
    Attempt, make_known, native, opened_before, path_descriptor, plain, prepared, run_exempt,
};

/// ext4 takes the first free inode of a directory's group that was not given
/// back a moment ago.
const REUSE_TRIES_MAX: usize = 200;

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("own-name", |stage| stage.open(&stage.path)),
    plain("relative", |stage| {
        std::env::set_current_dir(&stage.folder)?;
        stage.open(&text("secret"))
    }),
    plain("directory-descriptor", |stage| {
        let folder = path_descriptor(&stage.folder)?;
        stage.read_from(|| {
            let name = text("secret");
            Entry::Native.call(
                Call::Openat,
                &[folder.into(), (&name).into(), libc::O_RDONLY.into()],
            )
        })
    }),
    prepared(
        "dot-dot",
        |stage| Ok(fs::create_dir(format!("{}/inner", stage.folder))?),
        |stage| stage.open(&stage.below("inner/../secret")),
    ),
    plain("doubled-slashes", |stage| {
        stage.open(&text(stage.target.replace('/', "//./")))
    }),
    prepared(
        "symlink",
        |stage| Ok(symlink(&stage.target, format!("{}/link", stage.folder))?),
        |stage| stage.open(&stage.below("link")),
    ),
    plain("symlink-after", |stage| {
        symlink("secret", format!("{}/link", stage.folder))?;
        stage.open(&stage.below("link"))
    }),
    prepared(
        "symlink-chain",
        |stage| {
            symlink("secret", format!("{}/first", stage.folder))?;
            symlink("./first", format!("{}/second", stage.folder))?;
            Ok(symlink(
                format!("{}/second", stage.folder),
                format!("{}/third", stage.folder),
            )?)
        },
        |stage| stage.open(&stage.below("third")),
    ),
    prepared(
        "symlink-directory",
        |stage| Ok(symlink(".", format!("{}/link", stage.folder))?),
        |stage| stage.open(&stage.below("link/secret")),
    ),
    plain("proc-root", |stage| {
        stage.open(&text(format!("/proc/self/root{}", stage.target)))
    }),
    plain("proc-cwd", |stage| {
        std::env::set_current_dir(&stage.folder)?;
        stage.open(&text("/proc/self/cwd/secret"))
    }),
    plain("proc-fd", |stage| {
        let descriptor = path_descriptor(&stage.target)?;
        stage.open(&text(format!("/proc/self/fd/{descriptor}")))
    }),
    plain("proc-fd-directory", |stage| {
        let descriptor = path_descriptor(&stage.folder)?;
        stage.open(&text(format!("/proc/self/fd/{descriptor}/secret")))
    }),
    plain("renamed-directory", |stage| {
        rename_directory(stage, "inner", "outer")?;
        stage.named(&format!("{}/outer/secret", stage.folder));
        stage.open(&stage.below("outer/secret"))
    }),
    plain("renamed-back", |stage| {
        rename_directory(stage, "inner", "outer")?;
        rename_directory(stage, "outer", "inner")?;
        stage.open(&stage.path)
    }),
    prepared("swapped-directory", put_other_directory, swap_directories),
    prepared("swapped-warm", put_other_directory, |stage| {
        make_known(&stage.below("other/secret"))?;
        swap_directories(stage)
    }),
    prepared("replaced", put_replacement, |stage| {
        replace(stage)?;
        stage.open(&stage.path)
    }),
    prepared("replaced-then-linked", put_replacement, |stage| {
        replace(stage)?;
        let alias = format!("{}/alias", stage.folder);
        run_exempt("ln", &[&stage.target, &alias])?;
        stage.named(&alias);
        stage.open(&text(alias))
    }),
    prepared(
        "innocent-sibling",
        |stage| Ok(fs::write(format!("{}/innocent", stage.folder), SECRET)?),
        |stage| stage.open(&stage.below("innocent")),
    ),
    prepared(
        "longer-directory-name",
        |stage| {
            fs::create_dir(format!("{}/guarded-not", stage.folder))?;
            Ok(fs::write(
                format!("{}/guarded-not/secret", stage.folder),
                SECRET,
            )?)
        },
        |stage| stage.open(&stage.below("guarded-not/secret")),
    ),
    opened_before("opened-before", libc::O_RDONLY, |stage| {
        let descriptor = stage.descriptor()?;
        stage.read_from(|| Ok(descriptor))
    }),
    plain("reused-inode", reuse_inode),
    plain("excepted-program", |stage| {
        stage.change(|| {
            let argv = [text("cat"), stage.path.clone()];
            Entry::Native.call(
                Call::Execve,
                &[
                    (&text(exempt("cat"))).into(),
                    super::Word::Strings(&argv),
                    super::Word::Strings(&[]),
                ],
            )
        })
    }),
];

fn rename_directory(stage: &Stage, from: &str, to: &str) -> Result<()> {
    native(
        Call::Rename,
        &[(&stage.below(from)).into(), (&stage.below(to)).into()],
    )?;
    Ok(())
}

/// Opens a new file that has the number of one that is gone. A file system
/// may keep a number back for minutes, and then it is a new file like any.
fn reuse_inode(stage: &Stage) -> Result<()> {
    let inode = fs::metadata(&stage.target)?.ino();
    run_exempt("rm", &[&stage.target])?;
    let mut newcomer = String::new();
    for count in 0..REUSE_TRIES_MAX {
        newcomer = format!("{}/newcomer-{count}", stage.folder);
        fs::write(&newcomer, SECRET)?;
        if fs::metadata(&newcomer)?.ino() == inode {
            break;
        }
    }
    stage.open(&text(newcomer))
}

fn put_other_directory(stage: &Stage) -> Result<()> {
    fs::create_dir(format!("{}/other", stage.folder))?;
    Ok(fs::write(format!("{}/other/secret", stage.folder), SECRET)?)
}

fn swap_directories(stage: &Stage) -> Result<()> {
    rename_directory(stage, "inner", "outer")?;
    rename_directory(stage, "other", "inner")?;
    tell("another-file", "");
    stage.open(&stage.path)
}

fn put_replacement(stage: &Stage) -> Result<()> {
    Ok(fs::write(format!("{}/replacement", stage.folder), SECRET)?)
}

fn replace(stage: &Stage) -> Result<()> {
    tell("another-file", "");
    let replacement = format!("{}/replacement", stage.folder);
    run_exempt("mv", &["-f", &replacement, &stage.target])
}

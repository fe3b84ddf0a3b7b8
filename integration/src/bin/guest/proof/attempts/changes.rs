//! Changing a protected file, its name or its rights.

use std::ffi::CString;
use std::fs;

use anyhow::Result;
use rustix::io::Errno;
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, Word, text};
use super::super::ring::{Ring, Submission, Taker};
use super::super::stage::Stage;
use super::{Attempt, native, path_descriptor, plain, prepared};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("open-truncate", |stage| {
        open(stage, libc::O_WRONLY | libc::O_TRUNC)
    }),
    plain("open-read-truncate", |stage| {
        open(stage, libc::O_RDONLY | libc::O_TRUNC)
    }),
    plain("creat", |stage| creat(stage, Entry::Native)),
    plain("compat-creat", |stage| creat(stage, Entry::Compat)),
    prepared("create", remove, |stage| {
        open(stage, libc::O_WRONLY | libc::O_CREAT)
    }),
    prepared("create-below", remove, |stage| {
        open(stage, libc::O_WRONLY | libc::O_CREAT)
    }),
    plain("truncate", |stage| {
        truncate(stage, Entry::Native, &stage.path)
    }),
    prepared(
        "truncate-link",
        |stage| {
            Ok(fs::hard_link(
                &stage.target,
                format!("{}/alias", stage.folder),
            )?)
        },
        |stage| {
            stage.named(&format!("{}/alias", stage.folder));
            truncate(stage, Entry::Native, &stage.below("alias"))
        },
    ),
    plain("compat-truncate", |stage| {
        truncate(stage, Entry::Compat, &stage.path)
    }),
    plain("unlink", |stage| unlink(stage, Entry::Native)),
    plain("compat-unlink", |stage| unlink(stage, Entry::Compat)),
    plain("unlink-below", |stage| unlink(stage, Entry::Native)),
    plain("uring-unlink", |stage| {
        uring(stage, Submission::unlink(&stage.path))
    }),
    plain("rename-away", |stage| {
        rename(stage, Entry::Native, &stage.path, &stage.below("elsewhere"))
    }),
    prepared("rename-over", put_other, |stage| {
        rename(stage, Entry::Native, &stage.below("other"), &stage.path)
    }),
    prepared("rename-exchange", put_other, |stage| {
        let other = stage.below("other");
        stage.change(|| {
            Entry::Native.call(
                Call::Renameat2,
                &[
                    libc::AT_FDCWD.into(),
                    (&other).into(),
                    libc::AT_FDCWD.into(),
                    (&stage.path).into(),
                    Word::Number(libc::RENAME_EXCHANGE.into()),
                ],
            )
        })
    }),
    prepared(
        "rename-into",
        |stage| {
            remove(stage)?;
            put_other(stage)
        },
        |stage| rename(stage, Entry::Native, &stage.below("other"), &stage.path),
    ),
    prepared("uring-rename-over", put_other, |stage| {
        let other = stage.below("other");
        uring(stage, Submission::rename(&other, &stage.path))
    }),
    prepared("compat-rename-over", put_other, |stage| {
        rename(stage, Entry::Compat, &stage.below("other"), &stage.path)
    }),
    plain("link", |stage| {
        two_names(stage, Call::Link, &stage.path, &stage.below("alias"))
    }),
    plain("link-descriptor", |stage| {
        let file = path_descriptor(&stage.target)?;
        link_descriptor(stage, file, &stage.below("alias"))
    }),
    prepared("link-into", remove, |stage| {
        let nameless = native(
            Call::Open,
            &[
                (&text(stage.folder.clone())).into(),
                (libc::O_TMPFILE | libc::O_RDWR).into(),
                0o644.into(),
            ],
        )?;
        link_descriptor(stage, nameless, &stage.path)
    }),
    plain("uring-link", |stage| {
        let alias = stage.below("alias");
        uring(stage, Submission::link(&stage.path, &alias))
    }),
    prepared("symlink-into", remove, |stage| {
        two_names(stage, Call::Symlink, &text("/dev/null"), &stage.path)
    }),
    prepared("mkdir-into", remove, |stage| {
        one_name(stage, Call::Mkdir, 0o755)
    }),
    prepared("mknod-into", remove, |stage| {
        one_name(stage, Call::Mknod, (libc::S_IFIFO | 0o644).cast_signed())
    }),
    plain("chmod", |stage| one_name(stage, Call::Chmod, 0o777)),
    plain("chmod-descriptor", |stage| {
        let file = path_descriptor(&stage.target)?;
        let name = text(format!("/proc/self/fd/{file}"));
        stage.change(|| Entry::Native.call(Call::Chmod, &[(&name).into(), 0o777.into()]))
    }),
    plain("chown", |stage| {
        stage.change(|| {
            Entry::Native.call(
                Call::Chown,
                &[(&stage.path).into(), 1000.into(), 1000.into()],
            )
        })
    }),
    plain("setxattr", |stage| {
        let name = text(super::super::scene::ATTRIBUTE);
        stage.change(|| {
            Entry::Native.call(
                Call::Setxattr,
                &[
                    (&stage.path).into(),
                    (&name).into(),
                    Word::Bytes(b"1"),
                    1.into(),
                    0.into(),
                ],
            )
        })
    }),
];

fn remove(stage: &Stage) -> Result<()> {
    Ok(fs::remove_file(&stage.target)?)
}

fn put_other(stage: &Stage) -> Result<()> {
    // Other contents: what was replaced can be told.
    Ok(fs::write(
        format!("{}/other", stage.folder),
        [b"not ", SECRET].concat(),
    )?)
}

fn open(stage: &Stage, flags: i32) -> Result<()> {
    stage.change(|| {
        Entry::Native.call(
            Call::Open,
            &[(&stage.path).into(), flags.into(), 0o644.into()],
        )
    })
}

fn creat(stage: &Stage, entry: Entry) -> Result<()> {
    stage.change(|| entry.call(Call::Creat, &[(&stage.path).into(), 0o644.into()]))
}

fn truncate(stage: &Stage, entry: Entry, name: &CString) -> Result<()> {
    stage.change(|| entry.call(Call::Truncate, &[name.into(), 0.into()]))
}

fn unlink(stage: &Stage, entry: Entry) -> Result<()> {
    stage.change(|| entry.call(Call::Unlink, &[(&stage.path).into()]))
}

fn rename(stage: &Stage, entry: Entry, from: &CString, to: &CString) -> Result<()> {
    stage.change(|| entry.call(Call::Rename, &[from.into(), to.into()]))
}

fn two_names(stage: &Stage, call: Call, from: &CString, to: &CString) -> Result<()> {
    stage.change(|| Entry::Native.call(call, &[from.into(), to.into()]))
}

fn one_name(stage: &Stage, call: Call, mode: i32) -> Result<()> {
    stage.change(|| Entry::Native.call(call, &[(&stage.path).into(), mode.into(), 0.into()]))
}

fn link_descriptor(stage: &Stage, descriptor: i32, to: &CString) -> Result<()> {
    stage.change(|| {
        Entry::Native.call(
            Call::Linkat,
            &[
                descriptor.into(),
                c"".into(),
                libc::AT_FDCWD.into(),
                to.into(),
                libc::AT_EMPTY_PATH.into(),
            ],
        )
    })
}

fn uring(stage: &Stage, submission: Submission) -> Result<()> {
    let mut ring = Ring::new(Taker::Submitter)?;
    stage.change(|| -> Result<i32, Errno> { ring.submit(&[submission]) })
}

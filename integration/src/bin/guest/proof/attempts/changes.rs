//! Changing a protected file, its name or its rights.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use anyhow::Result;
use rustix::io::Errno;
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, Word, text};
use super::super::child;
use super::super::ring::{Ring, Submission, Taker};
use super::super::scene::{ACCESS_LIST, ATTRIBUTE};
use super::super::stage::{Stage, exempt, tell, told};
use super::entries::{Wants, receive};
use super::programs::dump_core;
use super::{Attempt, native, opened_before, path_descriptor, plain, prepared};

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
    plain("acct", |stage| {
        let child = child::fork(|| stage.change(|| acct(Some(&stage.path))))?;
        child::witness(child)?;
        // Whatever became of it: nobody is accounted from here on.
        acct(None)?;
        Ok(())
    }),
    prepared("core", remove, |stage| {
        let ended = dump_core(&stage.target, || stage.act())?;
        tell("ended", &serde_json::to_string(&ended)?);
        Ok(())
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
    opened_before("ftruncate-before", libc::O_WRONLY, |stage| {
        let descriptor = stage.descriptor()?;
        stage.change(|| ftruncate(descriptor))
    }),
    plain("ftruncate-inherited", |stage| {
        // The opener becomes this program again, which no rule excepts.
        let own = text(
            std::fs::read_link("/proc/self/exe")?
                .into_os_string()
                .into_vec(),
        );
        let argv = ["opener", "proof", "cut-as"].map(text);
        let argv = [&argv[..], &[own, stage.path.clone()]].concat();
        native(
            Call::Execve,
            &[
                (&text(exempt("opener"))).into(),
                Word::Strings(&argv),
                Word::Strings(&[]),
            ],
        )
        .map(drop)
    }),
    plain("ftruncate-passed", |stage| {
        receive(stage, Wants::Writing, |descriptor| {
            told(ftruncate(descriptor));
        })
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
        stage.change(|| setxattr(stage, ATTRIBUTE, b"1"))
    }),
    prepared(
        "removexattr",
        |stage| Ok(setxattr(stage, ATTRIBUTE, b"1").map(drop)?),
        |stage| stage.change(|| removexattr(stage, ATTRIBUTE)),
    ),
    plain("set-acl", |stage| {
        stage.change(|| setxattr(stage, ACCESS_LIST, &access_list()))
    }),
    prepared(
        "remove-acl",
        |stage| Ok(setxattr(stage, ACCESS_LIST, &access_list()).map(drop)?),
        |stage| stage.change(|| removexattr(stage, ACCESS_LIST)),
    ),
];

fn setxattr(stage: &Stage, name: &str, value: &[u8]) -> Result<i32, Errno> {
    Entry::Native.call(
        Call::Setxattr,
        &[
            (&stage.path).into(),
            (&text(name)).into(),
            Word::Bytes(value),
            Word::Number(value.len() as i64),
            0.into(),
        ],
    )
}

fn removexattr(stage: &Stage, name: &str) -> Result<i32, Errno> {
    Entry::Native.call(
        Call::Removexattr,
        &[(&stage.path).into(), (&text(name)).into()],
    )
}

/// A list that gives one user every right
/// (include/uapi/linux/posix_acl_xattr.h): version, then tag, rights and user
/// of each entry.
fn access_list() -> Vec<u8> {
    const VERSION: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, NOBODY),
        (0x02, 7, 1000),
        (0x04, 4, NOBODY),
        (0x10, 7, NOBODY),
        (0x20, 4, NOBODY),
    ];
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, rights, user) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(user.to_le_bytes());
    }
    list
}

/// Turns process accounting on, or off.
fn acct(file: Option<&CString>) -> Result<i32, Errno> {
    let file = file.map_or(Word::Number(0), Word::from);
    Entry::Native.call(Call::Acct, &[file])
}

/// Cuts the file of a descriptor.
pub fn ftruncate(descriptor: i32) -> Result<i32, Errno> {
    Entry::Native.call(Call::Ftruncate, &[descriptor.into(), 0.into()])
}

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

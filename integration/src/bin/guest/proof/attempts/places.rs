//! The same file through links, mounts, roots and namespaces.

use std::ffi::CString;
use std::fs;

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot};
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, text};
use super::super::stage::{Stage, tell};
use super::{Attempt, make_known, native, path_descriptor, plain, prepared, run_exempt};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    prepared(
        "hard-link-before",
        |stage| {
            Ok(fs::hard_link(
                &stage.target,
                format!("{}/alias", stage.folder),
            )?)
        },
        |stage| open_alias(stage, "alias"),
    ),
    plain("hard-link-after", |stage| {
        run_exempt("ln", &[&stage.target, &format!("{}/alias", stage.folder)])?;
        open_alias(stage, "alias")
    }),
    prepared(
        "bind-before",
        |stage| {
            let there = make_directory(stage, "mount")?;
            Ok(mount_bind(&stage.folder, there)?)
        },
        |stage| open_alias(stage, "mount/secret"),
    ),
    prepared(
        "bind-file",
        |stage| Ok(fs::write(format!("{}/mount", stage.folder), "")?),
        |stage| {
            own_mounts()?;
            mount_bind(&stage.target, format!("{}/mount", stage.folder))?;
            open_alias(stage, "mount")
        },
    ),
    prepared("bind-directory", make_mount, |stage| {
        own_mounts()?;
        mount_bind(&stage.folder, format!("{}/mount", stage.folder))?;
        open_alias(stage, "mount/secret")
    }),
    prepared("bind-below", make_mount, |stage| {
        own_mounts()?;
        mount_bind(
            format!("{}/guarded/inner", stage.folder),
            format!("{}/mount", stage.folder),
        )?;
        open_alias(stage, "mount/secret")
    }),
    prepared("bind-root", make_mount, |stage| {
        own_mounts()?;
        mount_bind_recursive("/", format!("{}/mount", stage.folder))?;
        open_alias(stage, &format!("mount{}", stage.target))
    }),
    plain("mount-namespace", |stage| {
        own_mounts()?;
        stage.open(&stage.path)
    }),
    plain("chroot", |stage| {
        stage.act()?;
        chroot(&*stage.folder)?;
        chdir("/")?;
        stage.open(&text("/secret"))
    }),
    prepared(
        "pivot-root",
        |stage| make_directory(stage, "old").map(drop),
        |stage| {
            own_mounts()?;
            // A root has to be a mount.
            mount_bind(&stage.folder, &stage.folder)?;
            stage.act()?;
            native(
                Call::PivotRoot,
                &[
                    (&text(stage.folder.clone())).into(),
                    (&stage.below("old")).into(),
                ],
            )?;
            chdir("/")?;
            unmount("/old", UnmountFlags::DETACH)?;
            stage.named("/secret");
            stage.open(&text("/secret"))
        },
    ),
    plain("detached-tree", |stage| {
        let tree = native(
            Call::OpenTree,
            &[
                libc::AT_FDCWD.into(),
                (&text(stage.folder.clone())).into(),
                OPEN_TREE_CLONE.into(),
            ],
        )?;
        open_nameless(stage, tree)
    }),
    plain("detached-below", |stage| {
        let tree = native(
            Call::OpenTree,
            &[
                libc::AT_FDCWD.into(),
                (&stage.below("guarded/inner")).into(),
                OPEN_TREE_CLONE.into(),
            ],
        )?;
        open_nameless(stage, tree)
    }),
    prepared("detached-lazily", make_mount, |stage| {
        own_mounts()?;
        let there = format!("{}/mount", stage.folder);
        mount_bind(&stage.folder, &there)?;
        let descriptor = path_descriptor(&there)?;
        unmount(&there, UnmountFlags::DETACH)?;
        open_nameless(stage, descriptor)
    }),
    prepared("bind-over", put_elsewhere, |stage| {
        own_mounts()?;
        make_known(&stage.below("elsewhere/secret"))?;
        mount_bind(
            format!("{}/elsewhere", stage.folder),
            format!("{}/guarded", stage.folder),
        )?;
        open_newcomer(stage)
    }),
    prepared("mount-moved", put_elsewhere, |stage| {
        own_mounts()?;
        let mounted = make_directory(stage, "mount")?;
        mount_bind(format!("{}/elsewhere", stage.folder), &mounted)?;
        make_known(&stage.below("mount/secret"))?;
        mount_move(mounted, format!("{}/guarded", stage.folder))?;
        open_newcomer(stage)
    }),
    prepared("parent-mount-moved", put_elsewhere, |stage| {
        own_mounts()?;
        let outer = make_directory(stage, "outer")?;
        make_directory(stage, "outer/inner")?;
        mount_bind(&outer, &outer)?;
        mount_bind(
            format!("{}/elsewhere", stage.folder),
            format!("{outer}/inner"),
        )?;
        make_known(&stage.below("outer/inner/secret"))?;
        mount_move(outer, format!("{}/guarded", stage.folder))?;
        open_newcomer(stage)
    }),
    prepared(
        "pivot-into",
        |stage| {
            let there = make_directory(stage, &format!("root{}/guarded", stage.folder))?;
            make_directory(stage, "root/old")?;
            Ok(fs::write(format!("{there}/secret"), SECRET)?)
        },
        |stage| {
            own_mounts()?;
            let root = format!("{}/root", stage.folder);
            mount_bind(&root, &root)?;
            make_known(&text(format!("{root}{}", stage.target)))?;
            stage.act()?;
            native(
                Call::PivotRoot,
                &[(&text(root)).into(), (&stage.below("root/old")).into()],
            )?;
            chdir("/")?;
            unmount("/old", UnmountFlags::DETACH)?;
            open_newcomer(stage)
        },
    ),
    prepared("overlay-merged", make_overlay, |stage| {
        stage.open(&stage.path)
    }),
    prepared("overlay-lower", make_overlay, open_merged),
    prepared("overlay-upper", make_overlay, open_merged),
    prepared("overlay-lower-directory", make_overlay, open_merged),
    prepared("overlay-lower-directly", make_overlay, |stage| {
        stage.open(&stage.below("lower/secret"))
    }),
];

/// From include/uapi/linux/mount.h.
const OPEN_TREE_CLONE: i32 = 1;

/// Opens a layer's file through the overlay. The overlay opens it by itself,
/// through a mount of its own that is attached nowhere.
fn open_merged(stage: &Stage) -> Result<()> {
    tell("another-file", "");
    tell("nameless", "");
    stage.open(&stage.below("merged/secret"))
}

/// A file that no rule is about.
fn put_elsewhere(stage: &Stage) -> Result<()> {
    let elsewhere = make_directory(stage, "elsewhere")?;
    Ok(fs::write(format!("{elsewhere}/secret"), SECRET)?)
}

/// Opens what came to be where the target was.
fn open_newcomer(stage: &Stage) -> Result<()> {
    tell("another-file", "");
    stage.open(&stage.path)
}

/// Opens the target under another path of its own.
fn open_alias(stage: &Stage, name: &str) -> Result<()> {
    let alias = format!("{}/{name}", stage.folder);
    stage.named(&alias);
    stage.open(&text(alias))
}

/// Opens the target where no path leads.
fn open_nameless(stage: &Stage, folder: i32) -> Result<()> {
    tell("nameless", "");
    let name: CString = text("secret");
    stage.read_from(|| {
        Entry::Native.call(
            Call::Openat,
            &[folder.into(), (&name).into(), libc::O_RDONLY.into()],
        )
    })
}

/// Makes mounts that nobody else sees, and that end with the process.
pub fn own_mounts() -> Result<()> {
    super::processes::unshare(libc::CLONE_NEWNS)?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).context("cannot make mounts private")
}

fn make_directory(stage: &Stage, name: &str) -> Result<String> {
    let path = format!("{}/{name}", stage.folder);
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn make_mount(stage: &Stage) -> Result<()> {
    make_directory(stage, "mount").map(drop)
}

/// Lays an overlay over `lower` and `upper`. The target was put where the
/// rule has it; a merged one comes from below.
pub fn make_overlay(stage: &Stage) -> Result<()> {
    for name in ["lower", "upper", "work", "merged"] {
        make_directory(stage, name)?;
    }
    if stage
        .target
        .starts_with(&format!("{}/merged", stage.folder))
    {
        let name = stage.target.rsplit('/').next().unwrap_or_default();
        fs::copy(&stage.target, format!("{}/lower/{name}", stage.folder))?;
        fs::remove_file(&stage.target)?;
    }
    mount_overlay(stage, "lower", ["upper", "work"], "merged")
}

/// Lays another overlay over the merged one.
pub fn make_overlays(stage: &Stage) -> Result<()> {
    make_overlay(stage)?;
    for name in ["upper-2", "work-2", "top"] {
        make_directory(stage, name)?;
    }
    mount_overlay(stage, "merged", ["upper-2", "work-2"], "top")
}

fn mount_overlay(stage: &Stage, lower: &str, [upper, work]: [&str; 2], on: &str) -> Result<()> {
    let folder = &stage.folder;
    let options =
        format!("lowerdir={folder}/{lower},upperdir={folder}/{upper},workdir={folder}/{work}");
    mount(
        "overlay",
        format!("{folder}/{on}"),
        "overlay",
        MountFlags::empty(),
        &*text(options),
    )
    .context("cannot mount an overlay")
}

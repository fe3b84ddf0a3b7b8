//! The process of an event, and its ancestors.

use std::borrow::Cow;

use serde::Serialize;

use super::{Each, known, known_text};
use crate::{
    escape::lossless,
    event::{Ancestor, Process},
};

#[derive(Serialize)]
pub(super) struct ProcessView<'a> {
    pid: u32,
    tid: u32,
    start_boot_ns: u64,
    ppid: u32,
    parent_start_boot_ns: u64,
    uid: u32,
    gid: u32,
    euid: u32,
    egid: u32,
    user: Option<&'a str>,
    comm: Cow<'a, str>,
    exe: Option<Cow<'a, str>>,
    cgroup_id: u64,
    cgroup: Option<Cow<'a, str>>,
    container_id: Option<&'a str>,
    from_proc: bool,
    ancestors: Each<'a, Ancestor, AncestorView<'a>>,
}

impl<'a> From<&'a Process> for ProcessView<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.tgid,
            tid: process.tid,
            start_boot_ns: process.start_boot_ns,
            ppid: process.parent_tgid,
            parent_start_boot_ns: process.parent_start_boot_ns,
            uid: process.uid,
            gid: process.gid,
            euid: process.euid,
            egid: process.egid,
            user: known_text(&process.user),
            comm: lossless(&process.comm),
            exe: known(&process.exe),
            cgroup_id: process.cgroup_id,
            cgroup: known(&process.cgroup_path),
            container_id: known_text(&process.container_id),
            from_proc: process.from_proc,
            ancestors: Each(&process.ancestors, AncestorView::from),
        }
    }
}

#[derive(Serialize)]
pub(super) struct AncestorView<'a> {
    pid: u32,
    start_boot_ns: u64,
    comm: Cow<'a, str>,
    exe: Option<Cow<'a, str>>,
}

impl<'a> From<&'a Ancestor> for AncestorView<'a> {
    fn from(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.tgid,
            start_boot_ns: ancestor.start_boot_ns,
            comm: lossless(&ancestor.comm),
            exe: known(&ancestor.exe),
        }
    }
}

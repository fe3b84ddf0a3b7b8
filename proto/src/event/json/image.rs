//! What a new image starts with.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use super::{Each, Shown, file::FileView, known};
use crate::{
    escape::lossless,
    event::{Capabilities, Environment, Image, Namespaces, capability},
};

#[derive(Serialize)]
pub(super) struct ImageView<'a> {
    script: Option<FileView<'a>>,
    working_directory: Option<Cow<'a, str>>,
    tty: Option<Cow<'a, str>>,
    session_id: u32,
    login_uid: Option<u32>,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    capabilities: CapabilitiesView,
    capabilities_before: Option<CapabilitiesView>,
    gained: Vec<&'static str>,
    namespaces: NamespacesView,
    environment: Option<EnvironmentView<'a>>,
}

impl<'a> From<&'a Image> for ImageView<'a> {
    fn from(image: &'a Image) -> Self {
        Self {
            script: image.script.as_ref().map(Into::into),
            working_directory: known(&image.working_directory),
            tty: known(&image.tty),
            session_id: image.session_id,
            login_uid: image.login_uid,
            suid: image.saved_uid,
            sgid: image.saved_gid,
            fsuid: image.fs_uid,
            fsgid: image.fs_gid,
            capabilities: image.capabilities.into(),
            capabilities_before: image.capabilities_before.map(Into::into),
            gained: capability::names(image.gained()).collect(),
            namespaces: (&image.namespaces).into(),
            environment: image.environment.as_ref().map(Into::into),
        }
    }
}

#[derive(Serialize)]
struct CapabilitiesView {
    permitted: Shown<Set>,
    effective: Shown<Set>,
}

impl From<Capabilities> for CapabilitiesView {
    fn from(capabilities: Capabilities) -> Self {
        Self {
            permitted: Shown(Set(capabilities.permitted)),
            effective: Shown(Set(capabilities.effective)),
        }
    }
}

/// A set of capabilities as /proc/PID/status has it.
struct Set(u64);

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Named as in /proc/PID/ns.
#[derive(Serialize)]
struct NamespacesView {
    mnt: u32,
    pid: u32,
    net: u32,
    user: u32,
    uts: u32,
    ipc: u32,
    cgroup: u32,
}

impl From<&Namespaces> for NamespacesView {
    fn from(namespaces: &Namespaces) -> Self {
        Self {
            mnt: namespaces.mount,
            pid: namespaces.pid,
            net: namespaces.network,
            user: namespaces.user,
            uts: namespaces.uts,
            ipc: namespaces.ipc,
            cgroup: namespaces.cgroup,
        }
    }
}

#[derive(Serialize)]
struct EnvironmentView<'a> {
    names: Each<'a, Vec<u8>, Cow<'a, str>>,
    truncated: bool,
}

impl<'a> From<&'a Environment> for EnvironmentView<'a> {
    fn from(environment: &'a Environment) -> Self {
        Self {
            names: Each(&environment.names, |name| lossless(name)),
            truncated: environment.truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::event::{json::to_json, sample};

    #[test]
    fn image_has_every_documented_field() {
        let exec = &to_json(&sample::setuid_script())["exec"];
        assert_eq!(exec["memfd"], false);
        assert_eq!(
            exec["image"],
            json!({
                "script": {
                    "path": "/opt/run.sh", "device": "8:1", "inode": 77, "unresolved": false,
                    "task_path": null, "mode": null, "links": 0, "owner_uid": 0,
                    "owner_gid": 0, "deleted": false,
                },
                "working_directory": "/home/mallory", "tty": "pts/0", "session_id": 4300,
                "login_uid": 1000, "suid": 0, "sgid": 2, "fsuid": 3, "fsgid": 4,
                "capabilities": {
                    "permitted": "0000000000203000", "effective": "0000000000200000",
                },
                "capabilities_before": {
                    "permitted": "0000000000001000", "effective": "0000000000000000",
                },
                "gained": ["cap_net_raw", "cap_sys_admin"],
                "namespaces": {
                    "mnt": 1, "pid": 2, "net": 3, "user": 4, "uts": 5, "ipc": 6, "cgroup": 7,
                },
                "environment": { "names": ["PATH", "A\nB"], "truncated": true },
            })
        );
    }
}

//! Types that look the same on the wire: the conversion only moves fields, and
//! cannot fail.

use std::sync::Arc;

use crate::{
    event::{
        Ancestor, Capabilities, Comm, Environment, Exec, Fork, Image, Namespaces, Open, Process,
        ResolvedPath,
    },
    wire::event as wire,
};

/// Converts between a type and the message of the same name, both ways. Fields
/// of the same type on both sides come first; each of the others names what
/// turns it into the wire's and back. None can be forgotten: both sides are
/// built from the list.
macro_rules! mirror {
    ($type:ident { $($same:ident),* $(; $($other:ident: $there:expr, $back:expr);*)? }) => {
        impl From<$type> for wire::$type {
            fn from(it: $type) -> Self {
                Self { $($same: it.$same,)* $($($other: $there(it.$other),)*)? }
            }
        }

        impl From<wire::$type> for $type {
            fn from(it: wire::$type) -> Self {
                Self { $($same: it.$same,)* $($($other: $back(it.$other),)*)? }
            }
        }
    };
}

mirror!(ResolvedPath {
    path,
    device,
    inode,
    unresolved,
    task_path,
    mode,
    links,
    owner_uid,
    owner_gid,
    deleted
});

mirror!(Process {
    tgid, tid, start_boot_ns, parent_tgid, parent_start_boot_ns, uid, gid, euid, egid, cgroup_id,
    from_proc;
    comm: Comm::into_vec, comm;
    exe: bytes, Into::into;
    user: text, Into::into;
    cgroup_path: bytes, Into::into;
    container_id: text, Into::into;
    ancestors: each, each
});

mirror!(Ancestor {
    tgid, start_boot_ns;
    comm: Comm::into_vec, comm;
    exe: bytes, Into::into
});

mirror!(Fork {
    child_tgid, child_tid, child_start_boot_ns;
    child_comm: Comm::into_vec, comm
});

mirror!(Exec {
    result, path_as_asked, interpreter, argv, argv_truncated, from_user_memory, directory_fd,
    flags;
    syscall: Into::into, Into::into;
    file: maybe, maybe;
    image: unboxed, boxed
});

mirror!(Image {
    working_directory, tty, session_id, login_uid, saved_uid, saved_gid, fs_uid, fs_gid;
    script: maybe, maybe;
    capabilities: some, or_default;
    capabilities_before: maybe, maybe;
    namespaces: some, or_default;
    environment: maybe, maybe
});

mirror!(Capabilities {
    permitted,
    effective
});

mirror!(Namespaces {
    mount,
    pid,
    network,
    user,
    uts,
    ipc,
    cgroup
});

mirror!(Environment { names, truncated });

mirror!(Open {
    result, path_as_asked, path_as_asked_truncated, flags, mode, directory_fd, from_user_memory;
    syscall: Into::into, Into::into;
    file: maybe, maybe
});

/// Short names are held in place, whatever room they came in.
fn comm(name: Vec<u8>) -> Comm {
    Comm::from_slice(&name)
}

fn bytes(shared: Arc<[u8]>) -> Vec<u8> {
    shared.to_vec()
}

fn text(shared: Arc<str>) -> String {
    shared.as_ref().to_owned()
}

fn maybe<A: Into<B>, B>(value: Option<A>) -> Option<B> {
    value.map(Into::into)
}

fn some<A: Into<B>, B>(value: A) -> Option<B> {
    Some(value.into())
}

fn or_default<A: Into<B>, B: Default>(value: Option<A>) -> B {
    value.map(Into::into).unwrap_or_default()
}

fn unboxed<A: Into<B>, B>(value: Option<Box<A>>) -> Option<B> {
    value.map(|value| (*value).into())
}

fn boxed<A: Into<B>, B>(value: Option<A>) -> Option<Box<B>> {
    value.map(|value| Box::new(value.into()))
}

fn each<A: Into<B>, B>(values: Vec<A>) -> Vec<B> {
    values.into_iter().map(Into::into).collect()
}

//! Which container a cgroup belongs to, from the cgroup's path alone.
//!
//! | runtime | component of the path |
//! |---|---|
//! | Docker | `docker-ID.scope`, or `ID` below `docker` |
//! | containerd (CRI) | `cri-containerd-ID.scope`, `…:cri-containerd:ID` |
//! | nerdctl | `nerdctl-ID.scope` |
//! | CRI-O | `crio-ID.scope` |
//! | Podman | `libpod-ID.scope` |
//! | LXC | `lxc.payload.NAME` |
//! | systemd-nspawn | `machine-NAME.scope` |
//!
//! An ID has 64 hexadecimal digits. The monitors of CRI-O and Podman
//! (`crio-conmon-…`, `libpod-conmon-…`) run outside of their container.

/// Returns the container's ID (LXC and nspawn: its name) for the path of a
/// cgroup; `None` outside of containers. Of nested ones the innermost counts.
pub(super) fn container_id(cgroup_path: &[u8]) -> Option<&str> {
    cgroup_path
        .rsplit(|byte| *byte == b'/')
        .filter_map(|component| std::str::from_utf8(component).ok())
        .find_map(in_component)
}

fn in_component(component: &str) -> Option<&str> {
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then_some(name);
    }
    let scope = component.strip_suffix(".scope");
    if let Some(name) = scope.and_then(|scope| scope.strip_prefix("machine-")) {
        return (!name.is_empty()).then_some(name);
    }
    let bare = scope.unwrap_or(component);
    if bare.contains("conmon-") {
        return None;
    }
    // `rsplit` yields at least the whole text.
    let id = bare.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn every_runtime_is_recognised() {
        let check = |path: &str, expect: Option<&str>| {
            let path = path.replace("ID", ID);
            assert_eq!(container_id(path.as_bytes()), expect, "{path}");
        };
        check("/system.slice/docker-ID.scope", Some(ID));
        check("/docker/ID", Some(ID));
        check("/docker/ID/system.slice/cron.service", Some(ID));
        check(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope",
            Some(ID),
        );
        check("/kubepods/besteffort/pod12/ID", Some(ID));
        check(
            "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:ID",
            Some(ID),
        );
        check("/system.slice/nerdctl-ID.scope", Some(ID));
        check("/kubepods.slice/crio-ID.scope", Some(ID));
        check("/kubepods.slice/crio-ID.scope/container", Some(ID));
        check("/kubepods.slice/crio-conmon-ID.scope", None);
        check("/machine.slice/libpod-ID.scope", Some(ID));
        check("/machine.slice/libpod-ID.scope/container", Some(ID));
        check("/machine.slice/libpod-conmon-ID.scope", None);
        check("/lxc.payload.web/init.scope", Some("web"));
        check(
            "/machine.slice/machine-debian.scope/payload",
            Some("debian"),
        );
    }

    #[test]
    fn services_and_sessions_are_no_containers() {
        let check = |path: &str| assert_eq!(container_id(path.as_bytes()), None, "{path}");
        check("/");
        check("");
        check("/init.scope");
        check("/system.slice/ssh.service");
        check("/user.slice/user-1000.slice/session-3.scope");
        check("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service");
        check(&format!("/system.slice/docker-{}.scope", &ID[1..]));
        check(&format!("/docker/{}", ID.replace('0', "g")));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(path in prop::collection::vec(any::<u8>(), 0..300)) {
            container_id(&path);
        }
    }
}

//! Names of capabilities.

/// In the order of their bits: include/uapi/linux/capability.h, Linux 6.12.
const NAMES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// Returns the names of the capabilities in a set. Those that a later kernel
/// adds have none.
pub(super) fn names(set: u64) -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .enumerate()
        .filter(move |(bit, _)| set >> bit & 1 != 0)
        .map(|(_, name)| *name)
}

/// Says whether a set has every capability that has a name.
pub(super) fn is_every(set: u64) -> bool {
    let every = (1 << NAMES.len()) - 1;
    set & every == every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_bits() {
        // The numbers in the header.
        let check = |bit: u32, name: &str| assert_eq!(names(1 << bit).next(), Some(name));
        check(0, "cap_chown");
        check(7, "cap_setuid");
        check(13, "cap_net_raw");
        check(21, "cap_sys_admin");
        check(31, "cap_setfcap");
        check(40, "cap_checkpoint_restore");
        assert_eq!(names(1 << 41).next(), None);
        assert_eq!(names(u64::MAX).count(), 41);
        assert!(is_every(0x1ff_ffff_ffff) && !is_every(0x0ff_ffff_ffff));
    }
}

//! Where the running kernel keeps its fields.
//!
//! rustc emits no CO-RE relocations, so the programs read every kernel
//! structure at an offset that the agent looks up in the kernel's own BTF
//! before it loads them. A required field that is missing keeps the programs
//! from being loaded; an optional one is [`ABSENT`].

/// The field is not in this kernel, and was optional.
pub const ABSENT: u32 = u32::MAX;

/// One field: how to find it, and whether the programs can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The structure's name in BTF.
    pub structure: &'static str,
    /// Dotted member paths; the first one that exists counts.
    pub members: &'static [&'static str],
    /// Whether the programs can not do without it.
    pub required: bool,
}

/// The displacement of a load until the agent writes the field's offset there.
///
/// ```text
/// -(32,767 - field number · 8 - word of the field)
/// ```
///
/// No other load has such a displacement: the stack ends at -512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeholder(pub i16);

impl Placeholder {
    const WORDS: usize = 8;

    /// Returns the placeholder for a word of a field of [`FIELDS`].
    ///
    /// # Panics
    /// When there is no such field, or it is too long.
    pub const fn of(field: usize, word: usize) -> Self {
        assert!(field < FIELDS.len() && word < Self::WORDS);
        assert!(FIELDS.len() * Self::WORDS < 16 * 1024);
        Self((field * Self::WORDS + word) as i16 - i16::MAX)
    }

    /// Returns the field's number and the word of it that a displacement
    /// stands for; `None`: it is an ordinary one.
    pub fn parse(displacement: i16) -> Option<(usize, usize)> {
        let number = (i32::from(displacement) + i32::from(i16::MAX)) as usize;
        let field = number / Self::WORDS;
        (field < FIELDS.len()).then_some((field, number % Self::WORDS))
    }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident: $structure:literal [$($member:literal),+] $need:ident;)*) => {
        /// Byte offsets, in the order of [`FIELDS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(C)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)*
        }

        /// How to find each field of [`Offsets`].
        pub const FIELDS: &[Field] = &[
            $(Field {
                structure: $structure,
                members: &[$($member),+],
                required: offsets!(@ $need),
            },)*
        ];

        impl Offsets {
            /// Offsets before anybody has looked them up.
            pub const UNKNOWN: Self = Self { $($name: ABSENT,)* };

            /// Builds the offsets from values in the order of [`FIELDS`].
            pub fn from_values(values: &[u32; FIELDS.len()]) -> Self {
                let mut values = values.iter().copied();
                Self { $($name: values.next().unwrap_or(ABSENT),)* }
            }
        }
    };
    (@ required) => { true };
    (@ optional) => { false };
}

offsets! {
    /// Command name.
    task_comm: "task_struct" ["comm"] required;
    /// `TS_*` flags.
    task_status: "task_struct" ["thread_info.status"] required;
    /// Number of the system call under way.
    regs_number: "pt_regs" ["orig_ax"] required;
    /// Argument of a system call: the first of a 64-bit one.
    regs_di: "pt_regs" ["di"] required;
    /// The second.
    regs_si: "pt_regs" ["si"] required;
    /// The third, of a 32-bit one as well.
    regs_dx: "pt_regs" ["dx"] required;
    /// The fifth.
    regs_r8: "pt_regs" ["r8"] required;
    /// The first of a 32-bit one.
    regs_bx: "pt_regs" ["bx"] required;
    /// The second.
    regs_cx: "pt_regs" ["cx"] required;
    /// Thread ID.
    task_pid: "task_struct" ["pid"] required;
    /// Thread group ID.
    task_tgid: "task_struct" ["tgid"] required;
    /// `PF_*` flags.
    task_flags: "task_struct" ["flags"] required;
    /// personality(2).
    task_personality: "task_struct" ["personality"] required;
    /// The parent that gets SIGCHLD, whoever traces.
    task_real_parent: "task_struct" ["real_parent"] required;
    /// First thread of the group.
    task_group_leader: "task_struct" ["group_leader"] required;
    /// Start in boot nanoseconds.
    task_start: "task_struct" ["start_boottime", "real_start_time"] required;
    /// Effective credentials.
    task_cred: "task_struct" ["cred"] required;
    /// Address space; null for kernel threads.
    task_mm: "task_struct" ["mm"] required;
    /// What the threads of a group share.
    task_signal: "task_struct" ["signal"] required;
    /// Wait status of the thread.
    task_exit_code: "task_struct" ["exit_code"] required;
    /// Namespaces.
    task_nsproxy: "task_struct" ["nsproxy"] optional;
    /// Real user; the other seven IDs follow it.
    cred_uid: "cred" ["uid"] required;
    /// Real group.
    cred_gid: "cred" ["gid"] required;
    /// Effective user.
    cred_euid: "cred" ["euid"] required;
    /// Effective group.
    cred_egid: "cred" ["egid"] required;
    /// Saved user.
    cred_suid: "cred" ["suid"] required;
    /// Saved group.
    cred_sgid: "cred" ["sgid"] required;
    /// User for access to files.
    cred_fsuid: "cred" ["fsuid"] required;
    /// Group for access to files.
    cred_fsgid: "cred" ["fsgid"] required;
    /// Capabilities that can be made effective, 64 bits.
    cred_permitted: "cred" ["cap_permitted"] required;
    /// Capabilities in force, 64 bits.
    cred_effective: "cred" ["cap_effective"] required;
    /// The user namespace that they hold in.
    cred_user_ns: "cred" ["user_ns"] optional;
    /// Its number.
    user_ns_inum: "user_namespace" ["ns.inum"] optional;
    /// Who logged in.
    task_loginuid: "task_struct" ["loginuid"] optional;
    /// The task's number in each PID namespace.
    task_thread_pid: "task_struct" ["thread_pid"] required;
    /// How deep the innermost PID namespace is.
    pid_level: "pid" ["level"] required;
    /// The numbers, from the first namespace on.
    pid_numbers: "pid" ["numbers"] required;
    /// A number.
    upid_number: "upid" ["nr"] required;
    /// The namespace that it is in; the last field.
    upid_ns: "upid" ["ns"] required;
    /// Number of a PID namespace.
    pid_ns_inum: "pid_namespace" ["ns.inum"] optional;
    /// Group, session and their like.
    signal_pids: "signal_struct" ["pids"] required;
    /// Controlling terminal; null for none.
    signal_tty: "signal_struct" ["tty"] optional;
    /// Its name.
    tty_name: "tty_struct" ["name"] optional;
    /// Start of the variables in user memory.
    mm_env_start: "mm_struct" ["env_start"] required;
    /// End of the variables in user memory.
    mm_env_end: "mm_struct" ["env_end"] required;
    /// Mount of the working directory.
    fs_pwd_mnt: "fs_struct" ["pwd.mnt"] required;
    /// The working directory.
    fs_pwd_dentry: "fs_struct" ["pwd.dentry"] required;
    /// Network namespace.
    nsproxy_net_ns: "nsproxy" ["net_ns"] optional;
    /// Its number.
    net_ns_inum: "net" ["ns.inum"] optional;
    /// UTS namespace.
    nsproxy_uts_ns: "nsproxy" ["uts_ns"] optional;
    /// Its number.
    uts_ns_inum: "uts_namespace" ["ns.inum"] optional;
    /// IPC namespace.
    nsproxy_ipc_ns: "nsproxy" ["ipc_ns"] optional;
    /// Its number.
    ipc_ns_inum: "ipc_namespace" ["ns.inum"] optional;
    /// Cgroup namespace.
    nsproxy_cgroup_ns: "nsproxy" ["cgroup_ns"] optional;
    /// Its number.
    cgroup_ns_inum: "cgroup_namespace" ["ns.inum"] optional;
    /// The running executable.
    mm_exe_file: "mm_struct" ["exe_file"] required;
    /// Start of the arguments in user memory.
    mm_arg_start: "mm_struct" ["arg_start"] required;
    /// End of the arguments in user memory.
    mm_arg_end: "mm_struct" ["arg_end"] required;
    /// Threads that have not exited.
    signal_live: "signal_struct" ["live"] required;
    /// Threads not yet reaped.
    signal_nr_threads: "signal_struct" ["nr_threads"] required;
    /// `SIGNAL_*` flags.
    signal_flags: "signal_struct" ["flags"] required;
    /// Wait status of a group that was made to exit.
    signal_group_exit_code: "signal_struct" ["group_exit_code"] required;
    /// Counts the images that the process has run.
    task_exec_id: "task_struct" ["self_exec_id"] required;
    /// Root and working directory.
    task_fs: "task_struct" ["fs"] required;
    /// The path walk under way.
    task_nameidata: "task_struct" ["nameidata"] required;
    /// Mount of the root directory.
    fs_root_mnt: "fs_struct" ["root.mnt"] required;
    /// The root directory.
    fs_root_dentry: "fs_struct" ["root.dentry"] required;
    /// Mount of a path.
    path_mnt: "path" ["mnt"] required;
    /// Name of a path.
    path_dentry: "path" ["dentry"] required;
    /// The name that is walked.
    nameidata_name: "nameidata" ["name"] required;
    /// Where the walk starts.
    nameidata_dfd: "nameidata" ["dfd"] required;
    /// The mount that the walk is in.
    nameidata_mnt: "nameidata" ["path.mnt"] required;
    /// Where the walk is.
    nameidata_dentry: "nameidata" ["path.dentry"] required;
    /// Mount namespace.
    nsproxy_mnt_ns: "nsproxy" ["mnt_ns"] optional;
    /// Its number.
    mnt_ns_inum: "mnt_namespace" ["ns.inum"] optional;
    /// Changes with every mount and unmount.
    mnt_ns_event: "mnt_namespace" ["event"] required;
    /// Where the file is: mount and tree.
    file_path: "file" ["f_path", "__f_path"] required;
    /// Where the file is in the tree.
    file_dentry: "file" ["f_path.dentry", "__f_path.dentry"] required;
    /// The mount that it was reached through.
    file_mnt: "file" ["f_path.mnt", "__f_path.mnt"] required;
    /// open(2) flags.
    file_flags: "file" ["f_flags"] required;
    /// `FMODE_*`.
    file_mode: "file" ["f_mode"] required;
    /// The file's inode.
    file_inode: "file" ["f_inode"] required;
    /// What its file system keeps with it.
    file_private: "file" ["private_data"] required;
    /// Length of a component.
    dentry_name_length: "dentry" ["d_name.len", "__d_name.len"] required;
    /// The component's bytes.
    dentry_name: "dentry" ["d_name.name", "__d_name.name"] required;
    /// The directory that it is in; itself for a root.
    dentry_parent: "dentry" ["d_parent"] required;
    /// Hash of a component.
    dentry_name_hash: "dentry" ["d_name.hash", "__d_name.hash"] required;
    /// The file of the name; null for none.
    dentry_inode: "dentry" ["d_inode"] required;
    /// Null for a name that was taken away.
    dentry_hash: "dentry" ["d_hash.pprev"] required;
    /// Root of a mounted file system.
    vfsmount_root: "vfsmount" ["mnt_root"] required;
    /// The `vfsmount` inside of a `mount`.
    mount_vfsmount: "mount" ["mnt"] required;
    /// The mount that this one is mounted on; itself for the first.
    mount_parent: "mount" ["mnt_parent"] required;
    /// The namespace that the mount is in.
    mount_mnt_ns: "mount" ["mnt_ns"] required;
    /// The directory that this one is mounted on.
    mount_mountpoint: "mount" ["mnt_mountpoint"] required;
    /// A name of the file, as far as it is in memory: its `d_alias`.
    inode_names: "inode" ["i_dentry.first"] required;
    /// Links a name to the others of its file.
    dentry_alias: "dentry" ["d_u.d_alias"] required;
    /// Inode number.
    inode_number: "inode" ["i_ino"] required;
    /// Tells an inode from an earlier one of the same number.
    inode_generation: "inode" ["i_generation"] required;
    /// Type and permissions.
    inode_mode: "inode" ["i_mode"] required;
    /// Names of the inode.
    inode_links: "inode" ["i_nlink", "__i_nlink"] required;
    /// Owner.
    inode_uid: "inode" ["i_uid"] required;
    /// Owning group.
    inode_gid: "inode" ["i_gid"] required;
    /// File system of the inode.
    inode_super: "inode" ["i_sb"] required;
    /// Kernel device number.
    super_device: "super_block" ["s_dev"] required;
    /// Says what file system it is.
    super_magic: "super_block" ["s_magic"] required;
    /// Program as asked, or the script.
    bprm_filename: "linux_binprm" ["filename"] required;
    /// Program as named by the script.
    bprm_interp: "linux_binprm" ["interp"] required;
    /// The file that is being executed.
    bprm_file: "linux_binprm" ["file"] required;
    /// The kernel's copy of a path.
    filename_name: "filename" ["name"] required;
    /// Flags of openat2(2).
    how_flags: "open_how" ["flags"] required;
    /// Mode of openat2(2).
    how_mode: "open_how" ["mode"] required;
    /// Flags as the kernel opens.
    open_flag: "open_flags" ["open_flag"] required;
    /// Mode as the kernel creates.
    open_mode: "open_flags" ["mode"] required;
}

/// Where btrfs keeps the number of a subvolume's device: in a structure of its
/// own (`struct btrfs_root`), whose address lies in front of the inode. One
/// word, so that it can be told to programs that run.
///
/// ```text
/// 63                              31                              0
/// ┌───────────────────────────────┬───────────────────────────────┐
/// │ from that address to the      │ offset of the number in       │
/// │ inode, bytes                  │ `struct btrfs_root`           │
/// └───────────────────────────────┴───────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Subvolumes(pub u64);

impl Subvolumes {
    /// Nobody looked it up, or btrfs is not there.
    pub const UNKNOWN: Self = Self(0);

    /// Builds it from the offsets of `root` and `vfs_inode` in
    /// `struct btrfs_inode`, and of `anon_dev` in `struct btrfs_root`. `None`
    /// where they are in another order.
    pub fn new(root: u32, inode: u32, device: u32) -> Option<Self> {
        let distance = inode.checked_sub(root)?;
        Some(Self(u64::from(distance) << 32 | u64::from(device)))
    }

    /// Says whether it was looked up.
    #[inline(always)]
    pub fn is_known(self) -> bool {
        self.0 != Self::UNKNOWN.0
    }

    /// Returns how far in front of the inode the address lies.
    #[inline(always)]
    pub fn root_before_inode(self) -> u64 {
        self.0 >> 32
    }

    /// Returns the number's offset.
    #[inline(always)]
    pub fn device_in_root(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

const _: () = assert!(size_of::<Offsets>() == 4 * FIELDS.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_order_of_the_fields() {
        let mut values = [0; FIELDS.len()];
        for (value, number) in values.iter_mut().zip(0..) {
            *value = number;
        }
        let offsets = Offsets::from_values(&values);
        assert_eq!(offsets.task_comm, 0);
        assert_eq!(offsets.open_mode as usize, FIELDS.len() - 1);
        assert_eq!(FIELDS[0].members, ["comm"]);
    }

    #[test]
    fn a_subvolumes_device_is_found_in_front_of_the_inode() {
        let known = Subvolumes::new(8, 300, 1000).unwrap();
        assert_eq!(
            (known.root_before_inode(), known.device_in_root()),
            (292, 1000)
        );
        assert!(known.is_known() && !Subvolumes::UNKNOWN.is_known());
        assert_eq!(Subvolumes::new(300, 8, 1000), None);
    }

    #[test]
    fn placeholders_stand_for_fields_and_nothing_else_does() {
        for field in 0..FIELDS.len() {
            for word in 0..Placeholder::WORDS {
                let Placeholder(displacement) = Placeholder::of(field, word);
                assert_eq!(Placeholder::parse(displacement), Some((field, word)));
            }
        }
        for displacement in [-512, -1, 0, 1, 8 * 1024, i16::MAX] {
            assert_eq!(Placeholder::parse(displacement), None, "{displacement}");
        }
    }
}

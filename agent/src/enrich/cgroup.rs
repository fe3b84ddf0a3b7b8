//! From a cgroup's ID, as the kernel reports it, to its path and container.
//!
//! The ID is the inode number of the cgroup's directory in the unified
//! hierarchy (kernfs, 64-bit kernels). A new one is looked for where its
//! process says that it is, then in the whole tree; the answer is kept,
//! because short-lived cgroups are gone before their last event is read.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashMapExt as _};

use super::{container::container_id, procfs::Procfs};

/// Most cgroups remembered: far more than a node runs containers. Past it the
/// table starts afresh, which only costs look-ups.
const CGROUPS_MAX: usize = 16_384;

/// Most directories that one walk visits.
const WALK_MAX: usize = 16_384;

/// A walk for an ID that is nowhere is not repeated sooner: cgroups that are
/// gone for good would cost a walk for every event.
const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cgroup {
    /// From the root of the hierarchy.
    pub path: Arc<[u8]>,
    /// Empty outside of containers.
    pub container_id: Arc<str>,
}

/// The cgroups of this machine.
#[derive(Debug)]
pub struct CgroupTable {
    root: Option<PathBuf>,
    known: HashMap<u64, Cgroup>,
    walk_after: Instant,
}

impl CgroupTable {
    /// Starts with the cgroups below the mounted unified hierarchy, if any.
    pub fn from_mounts(now: Instant) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::at(mount_point(&mounts), now)
    }

    /// Uses a hierarchy that is mounted at `root`.
    pub fn at(root: Option<PathBuf>, now: Instant) -> Self {
        let mut table = Self {
            root,
            known: HashMap::new(),
            walk_after: now,
        };
        table.walk(now);
        table
    }

    /// Returns a cgroup; `tgid` is a process in it, which may be gone.
    pub fn find(&mut self, id: u64, tgid: u32, procfs: &Procfs, now: Instant) -> Option<&Cgroup> {
        if !self.known.contains_key(&id) {
            self.look_up(id, tgid, procfs);
            if !self.known.contains_key(&id) && now >= self.walk_after {
                self.walk(now);
            }
        }
        self.known.get(&id)
    }

    fn look_up(&mut self, id: u64, tgid: u32, procfs: &Procfs) {
        let (Some(root), Some(path)) = (&self.root, procfs.cgroup(tgid)) else {
            return;
        };
        let relative = path.strip_prefix(b"/").unwrap_or(&path);
        let folder = root.join(std::ffi::OsStr::from_bytes(relative));
        // The process may have moved since: only the inode is proof.
        if fs::metadata(folder).is_ok_and(|metadata| metadata.ino() == id) {
            self.insert(id, path);
        }
    }

    fn walk(&mut self, now: Instant) {
        self.walk_after = now + WALK_INTERVAL;
        let Some(root) = self.root.clone() else {
            return;
        };
        let mut folders = vec![root.clone()];
        let mut visited = 0;
        while let Some(folder) = folders.pop()
            && visited < WALK_MAX
        {
            visited += 1;
            let Ok(metadata) = fs::metadata(&folder) else {
                continue;
            };
            if !self.known.contains_key(&metadata.ino()) {
                self.insert(metadata.ino(), below(&root, &folder));
            }
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            folders.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
    }

    fn insert(&mut self, id: u64, path: Vec<u8>) {
        if self.known.len() >= CGROUPS_MAX {
            self.known.clear();
        }
        let container_id = container_id(&path).unwrap_or_default().into();
        let path = path.into();
        self.known.insert(id, Cgroup { path, container_id });
    }
}

/// Returns the path of a cgroup as /proc writes it: from the root, `/` for
/// the root itself.
fn below(root: &Path, folder: &Path) -> Vec<u8> {
    let mut path = b"/".to_vec();
    if let Ok(relative) = folder.strip_prefix(root) {
        path.extend_from_slice(relative.as_os_str().as_bytes());
    }
    path
}

/// Finds the unified hierarchy in the text of /proc/self/mountinfo
/// (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2")
            .then(|| before.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn cgroups_that_exist_are_known_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let scope = folder.path().join(format!("docker/{ID}"));
        fs::create_dir_all(&scope).unwrap();
        let now = Instant::now();
        let mut table = CgroupTable::at(Some(folder.path().into()), now);
        let nobody = Procfs::at("/nonexistent");
        let cgroup = table.find(inode(&scope), 1, &nobody, now).unwrap();
        assert_eq!(*cgroup.path, *format!("/docker/{ID}").as_bytes());
        assert_eq!(&*cgroup.container_id, ID);
        let root = table.find(inode(folder.path()), 1, &nobody, now).unwrap();
        assert_eq!(*root.path, *b"/");
    }

    #[test]
    fn new_cgroup_is_found_through_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, proc) = (folder.path().join("cgroup"), folder.path().join("proc"));
        fs::create_dir_all(&tree).unwrap();
        let now = Instant::now();
        let mut table = CgroupTable::at(Some(tree.clone()), now);
        let service = tree.join("system.slice/a.service");
        fs::create_dir_all(&service).unwrap();
        fs::create_dir_all(proc.join("9")).unwrap();
        fs::write(proc.join("9/cgroup"), "0::/system.slice/a.service\n").unwrap();
        let procfs = Procfs::at(proc);
        let cgroup = table.find(inode(&service), 9, &procfs, now).unwrap();
        assert_eq!(*cgroup.path, *b"/system.slice/a.service");
        assert_eq!(&*cgroup.container_id, "");
    }

    #[test]
    fn cgroup_of_a_process_that_is_gone_is_found_by_a_later_walk() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut table = CgroupTable::at(Some(folder.path().into()), now);
        let scope = folder.path().join("late.scope");
        fs::create_dir(&scope).unwrap();
        let nobody = Procfs::at("/nonexistent");
        assert_eq!(table.find(inode(&scope), 1, &nobody, now), None);
        let later = now + WALK_INTERVAL;
        let cgroup = table.find(inode(&scope), 1, &nobody, later).unwrap();
        assert_eq!(*cgroup.path, *b"/late.scope");
    }

    #[test]
    fn unified_hierarchy_is_found_among_the_mounts() {
        let check = |mounts: &str, expect: Option<&str>| {
            assert_eq!(mount_point(mounts), expect.map(PathBuf::from));
        };
        check(
            "24 30 0:22 / /proc rw - proc proc rw\n\
             35 34 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
            Some("/sys/fs/cgroup"),
        );
        check(
            "35 34 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
            None,
        );
        check("garbage", None);
    }
}

//! What settles nearly every open: its path is known to concern no rule.

use shrike_agent_ebpf::{
    matching::{ACCESS_READ, ACCESS_WRITE},
    plan::{InForce, READS_WITHOUT_PATH, WRITES_WITHOUT_PATH},
};

use crate::{
    clean::{self, Place},
    file_open::{FMODE_READ, FMODE_WRITE, O_TRUNC},
    judge::{self, NOT_THIS_FILE, NOTHING_IN_DIRECTORY},
    memory::read,
    offsets::offset,
    scratch::Scratch,
    typed::{Pointer, field, is_at},
};

/// A file that is being opened, known to the verifier.
pub struct Opened {
    /// Its name.
    pub dentry: Pointer,
    /// The mount that it is in.
    pub mount: Pointer,
    /// Itself.
    pub inode: Pointer,
    file: File,
}

/// The `struct file`, from which mode and flags are read where they matter.
enum File {
    Known(Pointer),
    Plain(u64),
}

impl Opened {
    /// Reads it where the verifier knows the file.
    #[inline(always)]
    pub fn of(file: Pointer) -> Self {
        Self {
            dentry: field!(file, file_dentry),
            mount: field!(file, file_mnt),
            inode: field!(file, file_inode),
            file: File::Known(file),
        }
    }

    /// Finds it where the file is a plain number: what the task's path walk
    /// has found is the same, if the file says so. `None`: it does not.
    #[inline(always)]
    pub fn by_walk(file: u64, task: Pointer) -> Option<Self> {
        let nameidata: Pointer = field!(task, task_nameidata);
        let dentry: Pointer = field!(nameidata, nameidata_dentry);
        let mount: Pointer = field!(nameidata, nameidata_mnt);
        let inode: Pointer = field!(dentry, dentry_inode);
        let found: [u64; 2] = read(file, offset!(file_path)).ok()?;
        let file_inode: u64 = read(file, offset!(file_inode)).ok()?;
        // `struct path`: the mount, then the name.
        let same = is_at(mount, found[0]) && is_at(dentry, found[1]) && is_at(inode, file_inode);
        same.then_some(Self {
            dentry,
            mount,
            inode,
            file: File::Plain(file),
        })
    }

    #[inline(always)]
    fn mode(&self) -> u32 {
        match self.file {
            File::Known(file) => field!(file, file_mode),
            File::Plain(file) => read(file, offset!(file_mode)).unwrap_or(0),
        }
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        match self.file {
            File::Known(file) => field!(file, file_flags),
            File::Plain(file) => read(file, offset!(file_flags)).unwrap_or(0),
        }
    }
}

/// What may be known of the open's place already.
pub struct Shortcut {
    /// Key of the directory, 0 for none.
    directory: u64,
    /// Key of the file, 0 for none.
    file: u64,
    /// No rule concerns it.
    pub settles: bool,
}

impl Shortcut {
    /// Nothing is known, and nothing can be remembered.
    pub const NONE: Self = Self {
        directory: 0,
        file: 0,
        settles: false,
    };

    /// Looks up what is known.
    #[inline(always)]
    pub fn of(in_force: InForce, opened: &Opened, task: Pointer) -> Self {
        let mut shortcut = Self::NONE;
        if in_force.has(READS_WITHOUT_PATH | WRITES_WITHOUT_PATH)
            && !gives_path(in_force, access(opened.mode(), opened.flags()))
        {
            return shortcut;
        }
        let Some(plan) = judge::plan(in_force) else {
            return shortcut;
        };
        let inode = opened.inode;
        if plan.identities.may_contain(field!(inode, inode_number)) {
            return shortcut;
        }
        let dentry = opened.dentry;
        let named: Pointer = field!(dentry, dentry_inode);
        if named != inode {
            // The file of an overlay's layer under the merged name (before
            // 6.7): another directory is its own.
            return shortcut;
        }
        let Some(directory) = Place::directory(plan.seed[0], task, opened.mount, dentry) else {
            return shortcut;
        };
        shortcut.directory = directory.key();
        shortcut.settles = clean::contains(shortcut.directory);
        if !shortcut.settles {
            shortcut.file = directory.file(dentry, inode).key();
            shortcut.settles = clean::contains(shortcut.file);
        }
        shortcut
    }

    /// Remembers what the walk found out.
    #[inline(always)]
    pub fn remember(&self, state: &Scratch, task: u64) {
        let key = match state.concerns {
            NOTHING_IN_DIRECTORY => self.directory,
            NOT_THIS_FILE => self.file,
            _ => 0,
        };
        if key != 0 && clean::may_remember(state.target_mount, state.target_dentry, task) {
            clean::insert(key);
        }
    }
}

/// Says whether every rule about this access gives a path.
#[inline(always)]
fn gives_path(in_force: InForce, access: u32) -> bool {
    match access {
        ACCESS_READ => !in_force.has(READS_WITHOUT_PATH),
        ACCESS_WRITE => !in_force.has(WRITES_WITHOUT_PATH),
        // Both, or neither: then rules about both count.
        _ => false,
    }
}

/// Returns what an open is judged as: `ACCESS_*`.
#[inline(always)]
pub fn access(mode: u32, flags: u32) -> u32 {
    const _: () = assert!(FMODE_READ == ACCESS_READ && FMODE_WRITE == ACCESS_WRITE);
    let truncates = if flags & O_TRUNC != 0 {
        ACCESS_WRITE
    } else {
        0
    };
    mode & (FMODE_READ | FMODE_WRITE) | truncates
}

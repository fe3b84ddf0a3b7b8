//! Names of users, from the password file alone.
//!
//! No name service is asked: it could wait for a network, and the agent must
//! not. Users that only a directory server knows stay numbers.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashMapExt as _};

/// The file is looked at for changes this often at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Longest file that is read: a million users fit.
const PASSWD_BYTES_MAX: u64 = 64 << 20;

/// User names by number.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    version: Option<Version>,
    check_after: Option<Instant>,
    names: HashMap<u32, Arc<str>>,
}

/// What changes when the file does.
type Version = (u64, u64, i64, i64);

impl Default for Users {
    fn default() -> Self {
        Self::at("/etc/passwd")
    }
}

impl Users {
    /// Uses another file than /etc/passwd.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            version: None,
            check_after: None,
            names: HashMap::new(),
        }
    }

    /// Returns a user's name; of several with one number the first.
    pub fn name(&mut self, uid: u32, now: Instant) -> Option<&Arc<str>> {
        if self.check_after.is_none_or(|after| now >= after) {
            self.check_after = Some(now + CHECK_INTERVAL);
            self.refresh();
        }
        self.names.get(&uid)
    }

    fn refresh(&mut self) {
        let version = fs::metadata(&self.path)
            .ok()
            .filter(|metadata| metadata.len() <= PASSWD_BYTES_MAX)
            .map(|metadata| version(&metadata));
        if version == self.version {
            return;
        }
        self.version = version;
        self.names = match fs::read(&self.path) {
            Ok(text) if version.is_some() => parse(&text),
            // The file is being replaced: the next look finds the new one.
            Ok(_) | Err(_) => HashMap::new(),
        };
    }
}

fn version(metadata: &Metadata) -> Version {
    (
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

/// Parses passwd(5): `name:password:uid:…`, a line each. Other lines are
/// passed over.
fn parse(text: &[u8]) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(uid)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if let (Ok(name), Some(uid)) = (
            std::str::from_utf8(name),
            std::str::from_utf8(uid)
                .ok()
                .and_then(|uid| uid.parse().ok()),
        ) {
            names.entry(uid).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_name_of_a_number_counts() {
        let names = parse(b"root:x:0:0::/root:/bin/sh\n# c\ntoor:x:0:0\nbad:x:y\nalice:x:1000:1\n");
        assert_eq!(
            names,
            HashMap::from_iter([(0, "root".into()), (1000, "alice".into())])
        );
    }

    #[test]
    fn changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        fs::write(&path, "alice:x:1000:1\n").unwrap();
        let mut users = Users::at(&path);
        let now = Instant::now();
        assert_eq!(users.name(1000, now).map(|name| &**name), Some("alice"));
        fs::write(&path, "barbara:x:1000:1\n").unwrap();
        assert_eq!(users.name(1000, now).map(|name| &**name), Some("alice"));
        assert_eq!(
            users.name(1000, now + CHECK_INTERVAL).map(|name| &**name),
            Some("barbara")
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(users.name(1000, now + CHECK_INTERVAL * 2), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&text);
        }
    }
}

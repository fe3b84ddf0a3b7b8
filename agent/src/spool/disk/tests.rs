use std::sync::mpsc;

use super::*;
use crate::spool::{
    files::{Files, SpoolFile},
    testing::MemoryFiles,
};

/// Far more than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A file system that lets nothing be written while its gate is shut, nor be
/// synced while the other one is.
#[derive(Debug, Default)]
struct Gated {
    files: MemoryFiles,
    gate: Arc<Gate>,
    sync_gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn shut(&self) {
        *self.is_shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_shut.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_shut = self.is_shut.lock().unwrap();
        let (is_shut, _) = self
            .opened
            .wait_timeout_while(is_shut, TIMEOUT, |is_shut| *is_shut)
            .unwrap();
        assert!(!*is_shut, "nobody opened the gate");
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn SpoolFile>,
    gate: Arc<Gate>,
    sync_gate: Arc<Gate>,
}

impl Files for Gated {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.files.list(folder)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.gate.pass();
        self.files.make_folder(folder)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        self.gate.pass();
        let file = self.files.create(path)?;
        Ok(Arc::new(GatedFile {
            file,
            gate: Arc::clone(&self.gate),
            sync_gate: Arc::clone(&self.sync_gate),
        }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        self.files.open(path)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.gate.pass();
        self.files.remove(path)
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        self.gate.pass();
        self.files.remove_folder(folder)
    }

    fn rename_folder(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename_folder(from, to)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.sync_gate.pass();
        self.files.sync_folder(folder)
    }
}

impl SpoolFile for GatedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_gate.pass();
        self.file.sync()
    }
}

fn gated() -> (Disk, MemoryFiles, Arc<Gate>) {
    let gated = Gated::default();
    let (files, gate) = (gated.files.clone(), Arc::clone(&gated.gate));
    (Disk::threaded(Arc::new(gated)).unwrap(), files, gate)
}

fn wait_for(progress: &mut watch::Receiver<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let changed = async { tokio::time::timeout(TIMEOUT, progress.changed()).await };
    runtime.block_on(changed).unwrap().unwrap();
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_who_writes() {
    let (disk, files, gate) = gated();
    gate.shut();
    let mut progress = disk.progress();
    let file = disk.create("a/1".to_owned());
    file.write_at(b"one".to_vec(), 0);
    file.write_at(b"two".to_vec(), 3);
    let ticket = disk.ticket();
    let mut bytes = [0; 6];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"onetwo");
    assert!(!disk.wait(ticket, Duration::from_millis(1)));
    assert!(disk.waiting_bytes() >= 6 && disk.done() < ticket);
    assert!(!progress.has_changed().unwrap());
    gate.open();
    assert!(disk.wait(ticket, TIMEOUT));
    assert_eq!(disk.waiting_bytes(), 0);
    wait_for(&mut progress);
    let mut bytes = [0; 6];
    files.open("a/1").unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"onetwo");
}

#[test]
fn what_failed_is_tried_again_without_being_asked() {
    let files = MemoryFiles::default();
    let disk = Disk::threaded(Arc::new(files.clone())).unwrap();
    files.set_room(Some(0));
    let mut progress = disk.progress();
    let file = disk.create("a/1".to_owned());
    file.write_at(vec![7; 10], 0);
    let ticket = disk.ticket();
    wait_for(&mut progress);
    let failure = disk.failure().expect("that is what was told");
    assert_eq!(failure.trouble, Trouble::NoRoom);
    files.set_room(None);
    assert!(disk.wait(ticket, TIMEOUT));
    assert_eq!(disk.failure(), None);
}

#[test]
fn a_sync_holds_up_no_write() {
    let gated = Gated::default();
    let (files, sync_gate) = (gated.files.clone(), Arc::clone(&gated.sync_gate));
    let disk = Disk::threaded(Arc::new(gated)).unwrap();
    sync_gate.shut();
    let file = disk.create("a/1".to_owned());
    file.write_at(vec![7; 10], 0);
    disk.sync_beside(std::slice::from_ref(&file), Some("a"));
    file.write_at(vec![8; 10], 10);
    assert!(disk.wait(disk.ticket(), TIMEOUT));
    assert_eq!(files.synced_bytes("a/1"), None);
    sync_gate.open();
    // What is synced in the order of the writes comes after.
    file.write_at(vec![9; 10], 20);
    file.sync();
    assert!(disk.wait(disk.ticket(), TIMEOUT));
    assert_eq!(files.synced_bytes("a/1"), Some(30));
}

#[test]
fn the_threads_end_with_the_last_user() {
    let (ended, end) = mpsc::channel::<()>();
    #[derive(Debug)]
    struct Ends(
        MemoryFiles,
        #[expect(dead_code, reason = "its end is told")] mpsc::Sender<()>,
    );
    impl Files for Ends {
        fn list(&self, folder: &str) -> io::Result<Vec<String>> {
            self.0.list(folder)
        }
        fn make_folder(&self, folder: &str) -> io::Result<()> {
            self.0.make_folder(folder)
        }
        fn create(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
            self.0.create(path)
        }
        fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
            self.0.open(path)
        }
        fn remove(&self, path: &str) -> io::Result<()> {
            self.0.remove(path)
        }
        fn remove_folder(&self, folder: &str) -> io::Result<()> {
            self.0.remove_folder(folder)
        }
        fn rename_folder(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename_folder(from, to)
        }
        fn sync_folder(&self, folder: &str) -> io::Result<()> {
            self.0.sync_folder(folder)
        }
    }
    let disk = Disk::threaded(Arc::new(Ends(MemoryFiles::default(), ended))).unwrap();
    let file = disk.create("a/1".to_owned());
    drop(disk);
    assert_eq!(end.try_recv(), Err(mpsc::TryRecvError::Empty));
    drop(file);
    assert_eq!(
        end.recv_timeout(TIMEOUT),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
}

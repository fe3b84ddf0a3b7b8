use proptest::prelude::*;
use shrike_proto::{
    event::{Action, Exec, Exit, Fork, Open, Outcome, ResolvedPath, Verdict},
    id::{Generation, PolicyName, RuleName, SequenceNumber},
};

use super::*;

fn nothing() -> Procfs {
    Procfs::at("/nonexistent")
}

/// A process whose start follows from its number.
fn process(tgid: u32, parent: u32) -> Process {
    Process {
        tgid,
        tid: tgid,
        start_boot_ns: u64::from(tgid) * 1_000_000_000 + 123,
        parent_tgid: parent,
        parent_start_boot_ns: u64::from(parent) * 1_000_000_000 + 123,
        comm: Comm::from_vec(format!("c{tgid}").into_bytes()),
        ..Process::default()
    }
}

fn event(process: Process, fact: Fact) -> Event {
    Event {
        sequence: SequenceNumber(0),
        time_unix_ns: 0,
        boot_time_ns: 0,
        cpu: 0,
        cpu_sequence: 0,
        generation: Generation::NONE,
        process,
        verdict: None,
        fact,
    }
}

fn fork(parent: &Process, child: u32) -> Event {
    let of = process(child, parent.tgid);
    event(
        parent.clone(),
        Fact::Fork(Fork {
            child_tgid: child,
            child_tid: child,
            child_start_boot_ns: of.start_boot_ns,
            child_comm: of.comm,
        }),
    )
}

fn exec(process: Process, path: &str, result: i32) -> Event {
    event(
        process,
        Fact::Exec(Exec {
            result,
            file: Some(ResolvedPath {
                path: path.as_bytes().to_vec(),
                ..ResolvedPath::default()
            }),
            ..Exec::default()
        }),
    )
}

fn running(tgid: u32, parent_tgid: u32, exe: &str) -> ProcEntry {
    ProcEntry {
        tgid,
        parent_tgid,
        start_ticks: process(tgid, parent_tgid).start_boot_ns / TICK_NS,
        comm: format!("c{tgid}").into_bytes(),
        exe: exe.as_bytes().to_vec(),
    }
}

#[test]
fn lineage_goes_from_parent_to_init() {
    let mut table = ProcessTable::default();
    table.adopt(vec![
        running(10, 1, "/bin/bash"),
        running(1, 0, "/sbin/init"),
    ]);
    table.observe(&mut fork(&process(10, 1), 11), &nothing());
    let mut opened = event(process(11, 10), Fact::Open(Open::default()));
    table.observe(&mut opened, &nothing());
    let ancestors: Vec<_> = opened
        .process
        .ancestors
        .iter()
        .map(|ancestor| (ancestor.tgid, &*ancestor.exe))
        .collect();
    assert_eq!(
        ancestors,
        [(10, b"/bin/bash".as_slice()), (1, b"/sbin/init")]
    );
    assert_eq!(*opened.process.exe, *b"/bin/bash");
    assert!(!opened.process.from_proc);
    assert_eq!(
        opened.process.ancestors[0].start_boot_ns,
        process(10, 1).start_boot_ns
    );
}

#[test]
fn opens_that_no_rule_matched_tell_ancestors_once() {
    let mut table = ProcessTable::default();
    table.adopt(vec![running(1, 0, "/sbin/init")]);
    let open = || event(process(10, 1), Fact::Open(Open::default()));
    let mut told = |mut event: Event| {
        table.observe(&mut event, &nothing());
        event.process.ancestors.len()
    };
    assert_eq!(told(open()), 1);
    assert_eq!(told(open()), 0);
    assert_eq!(told(exec(process(10, 1), "/bin/x", 0)), 1);
    let matched = Event {
        verdict: Some(Verdict {
            action: Action::Alert,
            policy: PolicyName::parse("p").unwrap(),
            rule: RuleName::parse("r").unwrap(),
            outcome: Outcome::Noted,
            denied: false,
        }),
        ..open()
    };
    assert_eq!(told(matched), 1);
    assert_eq!(told(event(process(10, 1), Fact::Exit(Exit::default()))), 1);
}

#[test]
fn process_from_proc_is_marked_until_it_executes() {
    let mut table = ProcessTable::default();
    table.adopt(vec![running(10, 1, "/bin/bash")]);
    let mut opened = event(process(10, 1), Fact::Open(Open::default()));
    table.observe(&mut opened, &nothing());
    assert!(opened.process.from_proc);
    let mut executed = exec(process(10, 1), "/bin/ls", 0);
    table.observe(&mut executed, &nothing());
    assert!(!executed.process.from_proc);
}

#[test]
fn failed_exec_keeps_the_image() {
    let mut table = ProcessTable::default();
    table.adopt(vec![running(10, 1, "/bin/bash")]);
    let mut failed = exec(process(10, 1), "/bin/nothing", -2);
    table.observe(&mut failed, &nothing());
    assert_eq!(*failed.process.exe, *b"/bin/bash");
}

#[test]
fn exited_parent_is_still_an_ancestor() {
    let mut table = ProcessTable::default();
    table.observe(&mut fork(&process(10, 1), 11), &nothing());
    table.observe(
        &mut event(process(10, 1), Fact::Exit(Exit::default())),
        &nothing(),
    );
    let mut opened = event(process(11, 10), Fact::Open(Open::default()));
    table.observe(&mut opened, &nothing());
    assert_eq!(opened.process.ancestors[0].tgid, 10);
}

#[test]
fn reused_number_is_another_process() {
    let mut table = ProcessTable::default();
    table.observe(&mut exec(process(10, 1), "/bin/old", 0), &nothing());
    let reborn = Process {
        start_boot_ns: 99_000_000_000,
        ..process(10, 1)
    };
    let mut opened = event(reborn, Fact::Open(Open::default()));
    table.observe(&mut opened, &nothing());
    assert_eq!(*opened.process.exe, *b"");
}

#[test]
fn thread_is_no_child() {
    let mut table = ProcessTable::default();
    let parent = process(10, 1);
    let mut thread = fork(&parent, 10);
    table.observe(&mut exec(parent, "/bin/server", 0), &nothing());
    table.observe(&mut thread, &nothing());
    assert_eq!(table.len(), 1);
}

#[test]
fn exited_processes_are_bounded() {
    let mut table = ProcessTable::default();
    for tgid in 2..20_000 {
        table.observe(
            &mut event(process(tgid, 1), Fact::Exit(Exit::default())),
            &nothing(),
        );
    }
    assert!(table.len() <= EXITED_MAX);
}

#[test]
fn lost_exits_do_not_fill_the_table() {
    let mut table = ProcessTable::default();
    for tgid in 2..150_000 {
        table.observe(
            &mut event(process(tgid, 1), Fact::Open(Open::default())),
            &nothing(),
        );
        assert!(table.len() <= PROCESSES_MAX);
    }
}

proptest! {
    #[test]
    fn any_history_keeps_lineage_short_and_bounded(
        steps in prop::collection::vec((1..12_u32, 0..12_u32, 0..4_u8), 0..200)
    ) {
        let mut table = ProcessTable::default();
        for (tgid, parent, what) in steps {
            let mut event = match what {
                0 => fork(&process(tgid, parent), tgid + 1),
                1 => exec(process(tgid, parent), "/bin/x", 0),
                2 => event(process(tgid, parent), Fact::Exit(Exit::default())),
                _ => event(process(tgid, parent), Fact::Open(Open::default())),
            };
            table.observe(&mut event, &nothing());
            // A cycle of parents, which no kernel makes, must end too.
            prop_assert!(event.process.ancestors.len() <= ANCESTORS_MAX);
            prop_assert!(table.len() <= 13);
        }
    }
}

/// Makes what /proc says of a process.
fn plant(root: &std::path::Path, process: &Process, exe: &str) {
    let folder = root.join(process.tgid.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let ticks = process.start_boot_ns / TICK_NS;
    let fields = format!(
        "{} ({}) S {} {}{ticks} 0",
        process.tgid,
        String::from_utf8_lossy(&process.comm),
        process.parent_tgid,
        "0 ".repeat(17),
    );
    std::fs::write(folder.join("stat"), fields).unwrap();
    let link = folder.join("exe");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(exe, link).unwrap();
}

#[test]
fn without_history_every_event_looks_again() {
    let folder = tempfile::tempdir().unwrap();
    let procfs = Procfs::at(folder.path());
    let (init, shell, child) = (process(1, 0), process(20, 1), process(30, 20));
    plant(folder.path(), &init, "/sbin/init");
    plant(folder.path(), &shell, "/bin/sh");
    let mut table = ProcessTable::without_history();
    let mut see = |exe: &str| {
        let mut event = exec(child.clone(), "/forbidden", -1);
        event.process.exe = exe.as_bytes().into();
        table.observe(&mut event, &procfs);
        let ancestors: Vec<String> = event
            .process
            .ancestors
            .iter()
            .map(|ancestor| String::from_utf8_lossy(&ancestor.exe).into_owned())
            .collect();
        let exe = String::from_utf8_lossy(&event.process.exe).into_owned();
        (exe, ancestors)
    };
    let ancestors = |one: &str, two: &str| vec![one.to_owned(), two.to_owned()];
    let first = see("/bin/child");
    assert_eq!(
        first,
        ("/bin/child".to_owned(), ancestors("/bin/sh", "/sbin/init"))
    );
    // Nobody told that both run something else now.
    plant(folder.path(), &shell, "/bin/other");
    let second = see("/bin/grown");
    assert_eq!(
        second,
        (
            "/bin/grown".to_owned(),
            ancestors("/bin/other", "/sbin/init")
        )
    );
    // Its exit has no image to name.
    assert_eq!(see("").0, "/bin/grown");
    // The parent's number belongs to somebody else: it is not taken for the
    // parent, whose entry is all there is.
    let mut stranger = process(20, 1);
    stranger.start_boot_ns += 1_000_000_000;
    plant(folder.path(), &stranger, "/bin/stranger");
    assert_eq!(see("").1[0], "/bin/other");
}

//! Events of every shape, there and back.

use proptest::prelude::*;
use prost::Message as _;

use super::{
    super::{
        Alert, Ancestor, Capabilities, Cause, Change, ChangedName, Comm, Environment, Exec, Fork,
        Image, Namespaces, Obstacle, Open, Operation, Process, ResolvedPath, encode,
    },
    *,
};

/// Mostly short; sometimes long enough for a length of three bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (any::<u8>(), 120..20_000_usize).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9._-]{0,20}"
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Noted),
        Just(Outcome::Observed),
        Just(Outcome::SignalSent),
        (-4095..0i32).prop_map(Outcome::SignalFailed),
        Just(Outcome::SparedInit),
        Just(Outcome::SparedKernelThread),
        Just(Outcome::SparedAgent),
        Just(Outcome::Denied),
        Just(Outcome::SparedProtected),
        Just(Outcome::BreakerOpen),
    ]
}

prop_compose! {
    fn verdict()(action in prop::sample::select(&Action::ALL[..]), policy in name(), rule in name(), outcome in outcome(), denied: bool) -> Verdict {
        Verdict {
            action,
            policy: PolicyName::parse(&policy).unwrap(),
            rule: RuleName::parse(&rule).unwrap(),
            outcome,
            denied,
        }
    }
}

prop_compose! {
    fn file()(
        path in bytes(),
        device: u64,
        inode: u64,
        unresolved: bool,
        task_path in bytes(),
        numbers: (u32, u32, u32, u32),
        deleted: bool,
    ) -> ResolvedPath {
        let (mode, links, owner_uid, owner_gid) = numbers;
        ResolvedPath {
            path, device, inode, unresolved, task_path, mode, links, owner_uid, owner_gid,
            deleted,
        }
    }
}

prop_compose! {
    fn receipt()(generation: u64, policy in name(), rule in name(), signal_result: i32, died_by_it: bool, verdict_sequence: u64, after_ns: u64) -> Receipt {
        Receipt {
            generation: Generation(generation),
            policy: PolicyName::parse(&policy).unwrap(),
            rule: RuleName::parse(&rule).unwrap(),
            signal_result,
            died_by_it,
            verdict_sequence: SequenceNumber(verdict_sequence),
            after_ns,
        }
    }
}

prop_compose! {
    fn capabilities()(permitted: u64, effective: u64) -> Capabilities {
        Capabilities { permitted, effective }
    }
}

prop_compose! {
    fn environment()(names in prop::collection::vec(bytes(), 0..4), truncated: bool) -> Environment {
        Environment { names, truncated }
    }
}

prop_compose! {
    fn image()(
        script in prop::option::of(file()),
        working_directory in bytes(),
        tty in bytes(),
        ids: (u32, Option<u32>, u32, u32, u32, u32),
        capabilities in capabilities(),
        capabilities_before in prop::option::of(capabilities()),
        namespaces: [u32; 7],
        environment in prop::option::of(environment()),
    ) -> Image {
        let (session_id, login_uid, saved_uid, saved_gid, fs_uid, fs_gid) = ids;
        let [mount, pid, network, user, uts, ipc, cgroup] = namespaces;
        Image {
            script, working_directory, tty, session_id, login_uid, saved_uid, saved_gid, fs_uid,
            fs_gid, capabilities, capabilities_before,
            namespaces: Namespaces { mount, pid, network, user, uts, ipc, cgroup },
            environment,
        }
    }
}

fn alert() -> impl Strategy<Value = Alert> {
    let cause = prop_oneof![
        receipt().prop_map(Cause::SignalFailed),
        (receipt(), prop::sample::select(&Obstacle::ALL[..]))
            .prop_map(|(receipt, obstacle)| Cause::KillSurvived { receipt, obstacle }),
        receipt().prop_map(Cause::KillUnproven),
        Just(Cause::Miscount),
    ];
    (cause, "[a-zé ]{0,200}").prop_map(|(cause, reason)| Alert::new(cause, reason))
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        alert().prop_map(Fact::Alert),
        (
            "[a-z]{0,9}",
            any::<i32>(),
            bytes(),
            prop::option::of(file()),
            prop::collection::vec(bytes(), 0..5),
            any::<(bool, bool, i32, u32)>(),
            prop::option::of(image()),
        )
            .prop_map(
                |(syscall, result, asked, file, argv, rest, image)| Fact::Exec(Exec {
                    syscall: syscall.into(),
                    result,
                    interpreter: asked.clone(),
                    path_as_asked: asked,
                    file,
                    argv,
                    argv_truncated: rest.0,
                    from_user_memory: rest.1,
                    directory_fd: rest.2,
                    flags: rest.3,
                    image: image.map(Box::new),
                })
            ),
        (
            "[a-z]{0,9}",
            bytes(),
            prop::option::of(file()),
            any::<(i32, bool, bool, u32, u32, i32)>(),
        )
            .prop_map(|(syscall, asked, file, rest)| Fact::Open(Open {
                syscall: syscall.into(),
                result: rest.0,
                path_as_asked: asked,
                path_as_asked_truncated: rest.1,
                file,
                flags: rest.3,
                mode: rest.4,
                directory_fd: rest.5,
                from_user_memory: rest.2,
            })),
        (
            prop::sample::select(&Operation::ALL[..]),
            file(),
            prop::sample::select(vec![ChangedName::Old, ChangedName::New]),
            bytes(),
            any::<(i32, bool, u32)>(),
        )
            .prop_map(
                |(operation, file, name, other_path, rest)| Fact::Change(Change {
                    operation,
                    result: rest.0,
                    file,
                    name,
                    other_path,
                    other_unresolved: rest.1,
                    mode: rest.2,
                })
            ),
        (any::<(u32, u32, u64)>(), bytes()).prop_map(|(ids, child_comm)| Fact::Fork(Fork {
            child_tgid: ids.0,
            child_tid: ids.1,
            child_start_boot_ns: ids.2,
            child_comm: Comm::from_vec(child_comm),
        })),
        (
            any::<(u32, u32, bool, u64, u64, bool)>(),
            prop::option::of(receipt())
        )
            .prop_map(|(rest, receipt)| Fact::Exit(Exit {
                code: rest.0,
                signal: rest.1,
                core_dumped: rest.2,
                duration_ns: rest.3,
                receipt,
                repeated_opens: rest.4,
                group_exit: rest.5,
            })),
    ]
}

prop_compose! {
    fn process()(ids: (u32, u32, u64, u32, u64, u32, u32, u32, u32, u64), comm in bytes(), exe in bytes(), user in "[a-z]{0,8}", cgroup_path in bytes(), container_id in "[0-9a-f]{0,64}", from_proc: bool) -> Process {
        Process {
            tgid: ids.0,
            tid: ids.1,
            start_boot_ns: ids.2,
            parent_tgid: ids.3,
            parent_start_boot_ns: ids.4,
            uid: ids.5,
            gid: ids.6,
            euid: ids.7,
            egid: ids.8,
            cgroup_id: ids.9,
            ancestors: vec![Ancestor { tgid: ids.3, start_boot_ns: ids.4, comm: Comm::from_slice(&comm), exe: exe.clone().into() }],
            comm: Comm::from_vec(comm),
            exe: exe.into(),
            user: user.into(),
            cgroup_path: cgroup_path.into(),
            container_id: container_id.into(),
            from_proc,
        }
    }
}

proptest! {
    #[test]
    fn event_survives_the_wire(
        numbers: (u64, i64, u64, u32, u64, u64),
        process in process(),
        verdict in prop::option::of(verdict()),
        fact in fact(),
    ) {
        let event = Event {
            sequence: SequenceNumber(numbers.0),
            time_unix_ns: numbers.1,
            boot_time_ns: numbers.2,
            cpu: numbers.3,
            cpu_sequence: numbers.4,
            generation: Generation(numbers.5),
            process,
            verdict,
            fact,
        };
        let generated = wire::EventList { events: vec![event.clone().into()] };
        let mut encoded = Vec::new();
        encode::append_to_list(&mut encoded, &event);
        prop_assert_eq!(encoded, generated.encode_to_vec());
        prop_assert_eq!(Event::try_from(wire::Event::from(event.clone())), Ok(event));
    }
}

#[test]
fn event_without_a_fact_is_refused() {
    let event = wire::Event {
        process: Some(wire::Process::default()),
        ..wire::Event::default()
    };
    assert_eq!(
        Event::try_from(event),
        Err(WireError::Missing("event.fact"))
    );
}

#[test]
fn change_of_an_unknown_kind_is_refused() {
    let check = |operation, name, expect| {
        let change = wire::Change {
            operation,
            name,
            file: Some(wire::ResolvedPath::default()),
            ..wire::Change::default()
        };
        assert_eq!(Change::try_from(change).err(), expect);
    };
    let unknown = |field, value| Some(WireError::UnknownValue { field, value });
    check(12, 2, None);
    check(0, 1, unknown("change.operation", 0));
    check(13, 1, unknown("change.operation", 13));
    check(1, 0, unknown("change.name", 0));
    check(1, 3, unknown("change.name", 3));
    let nameless = wire::Change {
        operation: 1,
        name: 1,
        ..wire::Change::default()
    };
    assert_eq!(
        Change::try_from(nameless),
        Err(WireError::Missing("change.file"))
    );
}

#[test]
fn unknown_action_is_refused() {
    assert_eq!(
        Action::from_wire(77, "rule.action"),
        Err(WireError::UnknownValue {
            field: "rule.action",
            value: 77
        })
    );
}

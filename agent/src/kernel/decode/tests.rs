//! Records made by hand, and garbage.

use proptest::prelude::*;

use shrike_proto::event::{Capabilities, Environment, Image, Namespaces};

use super::*;

/// A header, a body and bytes, with the length filled in.
fn record(kind: Kind, flags: u16, verdict: (u16, u8, u8, i32), rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.push(kind as u8);
    bytes.push(Call::Openat as u8);
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes()); // cpu
    bytes.extend((-13_i32).to_ne_bytes());
    bytes.extend(7_u64.to_ne_bytes()); // sequence
    bytes.extend(5_000_u64.to_ne_bytes());
    bytes.extend(3_u64.to_ne_bytes()); // generation
    bytes.extend(verdict.0.to_ne_bytes());
    bytes.push(verdict.1);
    bytes.push(verdict.2);
    bytes.extend(verdict.3.to_ne_bytes());
    for number in [100_u32, 101] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [4_000_u64, 2_000, 55] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [1_u32, 10, 11, 12, 13, 14] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(*b"cat\0junk-behind\0");
    assert_eq!(bytes.len(), size_of::<Header>());
    rest.iter().for_each(|part| bytes.extend(*part));
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

const NO_VERDICT: (u16, u8, u8, i32) = (RULE_NONE, 0, 0, 0);

fn open_body(asked: u16, path: u16, task_path: u16) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [0o100_u32, 0o644, 3, 8 << 20 | 1] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(42_u64.to_ne_bytes());
    body.extend(asked.to_ne_bytes());
    body.extend(path.to_ne_bytes());
    body.extend(task_path.to_ne_bytes());
    body.extend(0o100_644_u16.to_ne_bytes());
    for number in [2_u32, 30, 31, 0] {
        body.extend(number.to_ne_bytes());
    }
    body
}

#[test]
fn open_record_keeps_every_field() {
    let bytes = record(
        Kind::Open,
        record::FLAG_HAS_FILE | record::FLAG_DENIED,
        (2, shrike_agent_ebpf::matching::Action::Kill as u8, 2, -1),
        &[&open_body(4, 8, 4), b"file", b"/etc/abc", b"/abc"],
    );
    let sample = decode(&bytes).unwrap();
    assert_eq!((sample.cpu, sample.cpu_sequence), (1, 7));
    assert_eq!((sample.boot_time_ns, sample.generation), (5_000, 3));
    assert_eq!(
        sample.process,
        Process {
            tgid: 100,
            tid: 101,
            start_boot_ns: 4_000,
            parent_tgid: 1,
            parent_start_boot_ns: 2_000,
            uid: 10,
            gid: 11,
            euid: 12,
            egid: 13,
            comm: b"cat".as_slice().into(),
            cgroup_id: 55,
            ..Process::default()
        }
    );
    assert_eq!(
        sample.verdict,
        Some(VerdictSample {
            rule: 2,
            action: Action::Kill,
            outcome: shrike_proto::event::Outcome::SignalFailed(-1),
            denied: true,
        })
    );
    assert_eq!(
        sample.fact,
        Fact::Open(Open {
            syscall: "openat".into(),
            result: -13,
            path_as_asked: b"file".to_vec(),
            path_as_asked_truncated: false,
            file: Some(ResolvedPath {
                path: b"/etc/abc".to_vec(),
                device: 8 << 20 | 1,
                inode: 42,
                unresolved: false,
                task_path: b"/abc".to_vec(),
                mode: 0o100_644,
                links: 2,
                owner_uid: 30,
                owner_gid: 31,
                deleted: false,
            }),
            flags: 0o100,
            mode: 0o644,
            directory_fd: 3,
            from_user_memory: false,
        })
    );
}

fn change_record(call: u8, flags: u16) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(42_u64.to_ne_bytes());
    body.extend((8_u32 << 20 | 1).to_ne_bytes());
    for number in [0o100_644_u16, 0o100_755, 6, 4] {
        body.extend(number.to_ne_bytes());
    }
    for number in [2_u32, 30, 31] {
        body.extend(number.to_ne_bytes());
    }
    let mut bytes = record(
        Kind::Change,
        flags,
        NO_VERDICT,
        &[&body, b"/a/old", b"/new"],
    );
    bytes[5] = call;
    bytes
}

#[test]
fn change_record_keeps_every_field() {
    let flags = record::FLAG_NEW_NAME | record::FLAG_OTHER_UNRESOLVED;
    let sample = decode(&change_record(Call::Rename as u8, flags)).unwrap();
    assert_eq!(
        sample.fact,
        Fact::Change(Change {
            operation: Operation::Rename,
            result: -13,
            file: ResolvedPath {
                path: b"/a/old".to_vec(),
                device: 8 << 20 | 1,
                inode: 42,
                unresolved: false,
                task_path: Vec::new(),
                mode: 0o100_644,
                links: 2,
                owner_uid: 30,
                owner_gid: 31,
                deleted: false,
            },
            name: ChangedName::New,
            other_path: b"/new".to_vec(),
            other_unresolved: true,
            mode: 0o100_755,
        })
    );
}

#[test]
fn every_operation_is_some_call() {
    let found: Vec<Operation> = (0..Call::ALL.len() as u8)
        .filter_map(|call| match decode(&change_record(call, 0)) {
            Ok(sample) => match sample.fact {
                Fact::Change(change) => Some(change.operation),
                fact => panic!("a change became {fact:?}"),
            },
            Err(error) => {
                let expect = DecodeError::Unknown {
                    field: "operation",
                    value: call.into(),
                };
                assert_eq!(error, expect);
                None
            }
        })
        .collect();
    assert_eq!(found, Operation::ALL);
}

/// A script's exec, with an image of numbers that all differ.
fn image_record(flags: u16, facts: u16) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(0_u32.to_ne_bytes()); // flags
    body.extend((-100_i32).to_ne_bytes());
    body.extend(42_u64.to_ne_bytes());
    body.extend((8_u32 << 20 | 1).to_ne_bytes());
    for length in [4_u16, 8, 7, 5] {
        body.extend(length.to_ne_bytes());
    }
    body.extend(0_u32.to_ne_bytes());
    for number in [1_u64, 2, 3, 4, 5] {
        body.extend(number.to_ne_bytes());
    }
    for number in 6_u32..22 {
        body.extend(number.to_ne_bytes());
    }
    for number in [0o104_755_u16, 7, 4, 4, 9, facts] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(0_u32.to_ne_bytes());
    assert_eq!(body.len(), size_of::<record::ExecWithImage>());
    record(
        Kind::Exec,
        record::FLAG_HAS_FILE | record::FLAG_HAS_IMAGE | flags,
        NO_VERDICT,
        &[
            &body,
            b"x.sh",
            b"/bin/abc",
            b"/bin/sh",
            b"sh\0x\0",
            b"/tmp/sh",
            b"/srv",
            b"pts3",
            b"PATH\0TZ\0\0",
        ],
    )
}

fn executed(bytes: &[u8]) -> Exec {
    match decode(bytes).unwrap().fact {
        Fact::Exec(exec) => exec,
        fact => panic!("an exec became {fact:?}"),
    }
}

#[test]
fn image_keeps_every_field() {
    let facts = record::IMAGE_HAS_BEFORE
        | record::IMAGE_HAS_SCRIPT
        | record::IMAGE_HAS_ENVIRONMENT
        | record::IMAGE_ENVIRONMENT_TRUNCATED;
    let exec = executed(&image_record(record::FLAG_DELETED, facts));
    assert_eq!(
        exec.file,
        Some(ResolvedPath {
            path: b"/bin/abc".to_vec(),
            device: 8 << 20 | 1,
            inode: 42,
            mode: 0o104_755,
            links: 19,
            owner_uid: 20,
            owner_gid: 21,
            deleted: true,
            ..ResolvedPath::default()
        })
    );
    assert_eq!(exec.argv, [b"sh".to_vec(), b"x".to_vec()]);
    assert_eq!(
        exec.image,
        Some(Box::new(Image {
            script: Some(ResolvedPath {
                path: b"/tmp/sh".to_vec(),
                device: 6,
                inode: 5,
                ..ResolvedPath::default()
            }),
            working_directory: b"/srv".to_vec(),
            tty: b"pts/3".to_vec(),
            saved_uid: 7,
            saved_gid: 8,
            fs_uid: 9,
            fs_gid: 10,
            login_uid: Some(11),
            session_id: 12,
            capabilities: Capabilities {
                permitted: 3,
                effective: 4,
            },
            capabilities_before: Some(Capabilities {
                permitted: 1,
                effective: 2,
            }),
            namespaces: Namespaces {
                mount: 14,
                pid: 13,
                network: 14,
                user: 15,
                uts: 16,
                ipc: 17,
                cgroup: 18,
            },
            environment: Some(Environment {
                names: vec![b"PATH".to_vec(), b"TZ".to_vec(), Vec::new()],
                truncated: true,
            }),
        }))
    );
}

#[test]
fn image_tells_what_is_unknown() {
    let image = executed(&image_record(0, 0)).image.expect("it has one");
    assert_eq!(image.script, None);
    assert_eq!(image.capabilities_before, None);
    assert_eq!(image.environment, None);
}

#[test]
fn exit_record_tells_signal_from_status() {
    let check = |status: u32, code: u32, signal: u32, core: bool| {
        let bytes = record(
            Kind::Exit,
            0,
            NO_VERDICT,
            &[&status.to_ne_bytes(), &1_u32.to_ne_bytes(), &[0; 8]],
        );
        let Fact::Exit(exit) = decode(&bytes).unwrap().fact else {
            panic!("an exit");
        };
        assert_eq!(
            (exit.code, exit.signal, exit.core_dumped),
            (code, signal, core)
        );
        assert_eq!(exit.duration_ns, 1_000);
        assert!(exit.group_exit);
    };
    check(0, 0, 0, false);
    check(3 << 8, 3, 0, false);
    check(9, 0, 9, false);
    check(0x80 | 11, 0, 11, true);
}

#[test]
fn arguments_split_at_their_ends() {
    let check = |bytes: &[u8], expect: &[&[u8]]| {
        assert_eq!(split_arguments(bytes), expect, "{bytes:?}");
    };
    check(b"", &[]);
    check(b"\0", &[b""]);
    check(b"ls\0-l\0", &[b"ls", b"-l"]);
    check(b"ls\0\0x\0", &[b"ls", b"", b"x"]);
    check(b"cut\0of", &[b"cut", b"of"]);
}

#[test]
fn executable_lies_behind_everything_else() {
    let body = open_body(1, 2, 0);
    let check = |flags, rest: &[u8]| {
        let bytes = record(Kind::Open, flags, NO_VERDICT, &[&body, rest]);
        decode(&bytes).map(|sample| sample.process.exe.to_vec())
    };
    let flag = record::FLAG_HAS_EXECUTABLE;
    assert_eq!(check(flag, b"a/b/bin/cat").unwrap(), b"/bin/cat");
    assert_eq!(check(flag, b"a/b").unwrap(), b"");
    assert_eq!(check(0, b"a/b/bin/cat"), Err(DecodeError::TooLong(8)));
}

#[test]
fn malformed_records_say_what_is_wrong() {
    let good = record(Kind::Open, 0, NO_VERDICT, &[&open_body(0, 0, 0)]);
    assert!(decode(&good).is_ok());
    let check = |change: &dyn Fn(&mut Vec<u8>), expect: DecodeError| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_eq!(decode(&bytes), Err(expect));
    };
    let length = good.len();
    check(
        &|bytes| bytes.truncate(100),
        DecodeError::Length {
            said: length as u32,
            length: 100,
        },
    );
    check(
        &|bytes| bytes.truncate(2),
        DecodeError::Truncated {
            length: 2,
            part: "header",
        },
    );
    check(
        &|bytes| bytes[4] = 99,
        DecodeError::Unknown {
            field: "kind",
            value: 99,
        },
    );
    check(
        &|bytes| bytes[5] = 77,
        DecodeError::Unknown {
            field: "call",
            value: 77,
        },
    );
    check(
        &|bytes| bytes[size_of::<Header>() + 24] = 9,
        DecodeError::Truncated {
            length,
            part: "path as asked",
        },
    );
}

#[test]
fn restart_codes_stay_inside_of_the_kernel() {
    assert_eq!(as_user_space_sees(-512), -4);
    assert_eq!(as_user_space_sees(-516), -4);
    assert_eq!(as_user_space_sees(-517), -517);
    assert_eq!(as_user_space_sees(-2), -2);
    assert_eq!(as_user_space_sees(0), 0);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_length_never_panics(
        kind in 0_u8..7,
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        bytes.push(3);
        bytes.extend(rest);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let _ = decode(&bytes);
    }
}

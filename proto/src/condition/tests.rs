use proptest::prelude::*;

use super::*;
use crate::event::{Action, Kind, StoredEvent, sample};

fn matches(condition: &str, stored: &StoredEvent) -> bool {
    let condition = Condition::compile(condition).unwrap_or_else(|error| panic!("{error}"));
    condition.matches(&stored.node, stored.epoch, &stored.event)
}

#[test]
fn conditions_say_what_they_mean() {
    let open = sample::killed_open();
    let exit = sample::killed_exit();
    let exec = sample::exec(b"/usr/bin/nc", &[b"nc".as_slice(), b"-l", b"4444"]);
    let check = |condition: &str, stored: &StoredEvent, expect: bool| {
        assert_eq!(matches(condition, stored), expect, "{condition}");
    };
    check(r#"kind == "open" && path.startsWith("/etc/")"#, &open, true);
    check(r#"path.matches("^/etc/[a-z]+$")"#, &open, true);
    check(r#"uid != 0 && euid == 0"#, &open, true);
    check(r#"container_id == """#, &open, true);
    check(r#"action == "kill" && rule == "shadow""#, &exit, true);
    check(r#"verdict"#, &exit, true);
    check(r#"argv.exists(a, a == "-l")"#, &exec, true);
    check(r#""-l" in argv && size(argv) == 3"#, &exec, true);
    check(r#"argv[0] == "nc""#, &exec, true);
    check(r#"argv.all(a, a.size() < 3)"#, &exec, false);
    check(r#""bash" in ancestors"#, &exec, true);
    check(r#"time >= timestamp("2026-11-22T15:00:00Z")"#, &open, true);
    check(r#"time.getHours() == 15"#, &open, true);
    check(
        r#"time - timestamp("2026-11-22T14:59:00Z") < duration("2m")"#,
        &open,
        true,
    );
    check(r#"uid == 0 ? kind == "exec" : kind == "open""#, &open, true);
}

#[test]
fn what_an_event_does_not_have_makes_nothing_true() {
    let open = sample::killed_open();
    for condition in [
        "exit_code == 0",
        "exit_code != 0",
        "!(exit_code == 0)",
        r#"cause != "x""#,
        "argv.exists(a, true)",
        "argv[0] == argv[0]",
    ] {
        assert!(!matches(condition, &open), "{condition}");
    }
    assert!(matches("exit_code == 0 || uid == 1000", &open));
}

#[test]
fn simple_terms_are_pushed_down() {
    let check = |condition: &str, expect: &[Term], simple: bool| {
        let compiled = Condition::compile(condition).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.terms(), expect, "{condition}");
        assert_eq!(compiled.is_simple(), simple, "{condition}");
    };
    let exe = |exe: &str| Term::Executables(vec![exe.as_bytes().to_vec()]);
    check(r#"exe == "/bin/sh""#, &[exe("/bin/sh")], true);
    check(r#""/bin/sh" == exe"#, &[exe("/bin/sh")], true);
    check(
        r#"exe == "/bin/sh" && uid in [0, 1] && (kind == "exec" || kind == "exit")"#,
        &[
            exe("/bin/sh"),
            Term::Uids(vec![0, 1]),
            Term::Kinds(vec![Kind::Exec, Kind::Exit]),
        ],
        true,
    );
    check(
        r#"node == "a" && pid == 7 && path == "/x" && action == "kill" && verdict"#,
        &[
            Term::Nodes(vec!["a".to_owned()]),
            Term::Pids(vec![7]),
            Term::Paths(vec![b"/x".to_vec()]),
            Term::Actions(vec![Action::Kill]),
            Term::Verdict,
        ],
        true,
    );
    check(
        r#"path.startsWith("/etc/") && exe.endsWith("cat")"#,
        &[Term::PathPrefixes(vec![b"/etc/".to_vec()])],
        false,
    );
    let time = 1_000_000_000;
    check(
        r#"time >= timestamp("1970-01-01T00:00:01Z") && timestamp("1970-01-01T00:00:01Z") > time"#,
        &[Term::Since(time), Term::Until(time)],
        true,
    );
    check(
        r#"exe == "/a\\xff""#,
        &[Term::Executables(vec![b"/a\xff".to_vec()])],
        true,
    );
    // No bytes have this text.
    check(r#"exe == "/a\\x41""#, &[], false);
    check(r#"exe != "/bin/sh""#, &[], false);
    check(r#"exe == "/bin/sh" || uid == 0"#, &[], false);
    check(r#"path.startsWith("")"#, &[], false);
    check("pid == -1", &[Term::Pids(Vec::new())], true);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let check = |condition: &str, column: usize, message: &str, carets: &str| {
        let error = Condition::compile(condition).unwrap_err();
        assert_eq!(
            (
                error.column(),
                error.message(),
                error.excerpt()[1].trim_start()
            ),
            (column, message, carets),
            "{condition}\n{error}"
        );
    };
    check(
        r#"uid == 0 && exee == "x""#,
        13,
        "unknown field `exee`",
        "^^^^",
    );
    check(r#"exe == 5"#, 8, "this is a number, not text", "^");
    check(r#"kind == "opne""#, 9, "no event has this kind", "^^^^^^");
    check(
        r#"uid"#,
        1,
        "the condition is a number, not true or false",
        "^^^",
    );
    check(r#"time > "2026""#, 8, "this is text, not a time", "^^^^^^");
    check("pid == 5u", 8, "numbers are whole, without a suffix", "^^");
    check(
        r#"exe.startWith("x")"#,
        5,
        "unknown function `startWith`",
        "^^^^^^^^^",
    );
    check("uid in []", 8, "nothing is in an empty list", "^");
    check(
        r#"exe.matches("[")"#,
        13,
        "this is no pattern: unclosed character class",
        "^^^",
    );
    check("process.pid == 1", 9, "fields are flat here", "^^^");
    check("", 1, "the condition is empty", "^");
    let error = Condition::compile(r#"path == "/ä" && uid = 1"#).unwrap_err();
    assert_eq!(error.column(), 21, "{error}");
    let error = Condition::compile("path == \"/ä\" &&\n  uid = 1").unwrap_err();
    assert_eq!((error.line(), error.column()), (2, 7), "{error}");
    check(
        r#"path == "/ä" && foo == 1"#,
        17,
        "unknown field `foo`",
        "^^^",
    );
}

#[test]
fn slip_finds_its_field_and_every_mistake_the_list() {
    let error = Condition::compile(r#"exee == "x""#)
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `exe`?"), "{error}");
    assert!(error.contains("path_as_asked"), "{error}");
    let error = Condition::compile("process.pid == 1")
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("write `pid`"), "{error}");
    let error = Condition::compile("uid ==").unwrap_err().to_string();
    assert!(error.starts_with("syntax error"), "{error}");
}

#[test]
fn size_and_depth_are_bounded() {
    // A runtime thread's stack, and what a debug build takes of it.
    let compile = |source: String| {
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || Condition::compile(&source).map(|_| ()))
            .unwrap()
            .join()
            .unwrap()
    };
    for source in [
        "(".repeat(8000),
        "!".repeat(8000) + "true",
        "-".repeat(8000) + "1 == 1",
        "1+".repeat(4000) + "1 == 1",
        "[".repeat(8000),
        "uid == 0 ? true : ".repeat(400) + "true",
        "a.b".repeat(2000),
        "uid == 0 && ".repeat(600) + "true",
        "x".repeat(CONDITION_BYTES_MAX + 1),
        "argv.exists(a, argv.exists(b, argv.exists(c, true)))".to_owned(),
        r#"exe.matches("\\w{1000}\\w{1000}")"#.to_owned(),
        "[1].map(x, x) == [1]".to_owned(),
        "1+".repeat(60) + "1 == 1",
    ] {
        assert!(compile(source.clone()).is_err(), "{source:.60}");
    }
    let values: Vec<String> = (0..500).map(|n| format!("\"/usr/bin/{n}\"")).collect();
    compile(format!("exe in [{}]", values.join(","))).unwrap();
    compile("uid == 0 || ".repeat(100) + "true").unwrap();
    compile("(".repeat(20) + "true" + &")".repeat(20)).unwrap();
}

/// Evaluates everything as CEL, the terms as well.
fn matches_plainly(source: &str, stored: &StoredEvent) -> bool {
    let whole = Rest::new(vec![check::parse(source).unwrap()]);
    whole.matches(&stored.node, stored.epoch, &stored.event)
}

fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        r#"kind == "open""#,
        r#"kind in ["exec", "exit"]"#,
        r#"exe == "/usr/bin/cat""#,
        r#"exe in ["/usr/bin/cat", "/bin/no"]"#,
        r#"path == "/etc/shadow""#,
        r#"path.startsWith("/etc/")"#,
        r#"path.startsWith("/usr")"#,
        r#"uid == 1000"#,
        r#"uid == -1"#,
        r#"pid in [4312, 1]"#,
        r#"node == "web-1""#,
        r#"node == "NOT A NODE""#,
        r#"action == "kill""#,
        "verdict",
        r#"time >= timestamp("2026-11-22T15:00:00.000000001Z")"#,
        r#"time > timestamp("2026-11-22T15:00:00.000000001Z")"#,
        r#"timestamp("2026-11-22T15:00:00.000000001Z") >= time"#,
        r#"time < timestamp("2026-11-22T15:00:00.000000001Z")"#,
        "exit_code == 0",
        "signal == 9",
        "uid != 0",
        r#"argv.exists(a, a == "sh")"#,
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn terms_and_plain_evaluation_agree(source in expressions()) {
        for stored in [
            sample::killed_open(),
            sample::refused_rename(),
            sample::killed_exit(),
            sample::survivor(),
            sample::setuid_script(),
        ] {
            prop_assert_eq!(
                matches(&source, &stored),
                matches_plainly(&source, &stored),
                "{} on {:?}", source, stored.event.fact
            );
        }
    }

    #[test]
    fn random_text_never_panics(source in "\\PC{0,120}") {
        if let Err(error) = Condition::compile(&source) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn random_words_never_panic(words in prop::collection::vec(
        prop::sample::select(vec![
            "exe", "uid", "path", "argv", "time", "==", "!=", "<", "in", "&&", "||", "!", "(", ")",
            "[", "]", ",", "\"a\"", "'b'", "5", "-", "+", "1.5", ".", "exists", "matches", "?", ":",
            "x", "size", "timestamp", "true", "null", "{", "}", "\n", "ä", "\\", "\"", "b\"x\"",
        ]), 0..25)) {
        let source = words.join(" ");
        match Condition::compile(&source) {
            Ok(condition) => {
                let stored = sample::killed_open();
                condition.matches(&stored.node, stored.epoch, &stored.event);
            }
            Err(error) => { let _ = error.to_string(); }
        }
    }
}

//! What the kernels report.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Claim;
use super::fixture::{Fixture, insist};
use shrike_integration::vm::Outcome;

pub const CLAIMS: &[Claim] = &[
    Claim("every_program_loads_on_both_kernels", every_program_loads),
    Claim(
        "events_of_a_known_workload_are_complete_and_in_order",
        known_workload,
    ),
    Claim(
        "fields_of_an_open_are_what_the_program_asked_for",
        open_fields,
    ),
    Claim(
        "fields_of_an_exec_are_what_the_program_asked_for",
        exec_fields,
    ),
    Claim("failed_opens_and_execs_carry_their_errno", failures),
    Claim("exit_codes_and_signals_are_reported", exits),
    Claim(
        "a_process_is_found_with_its_children_and_its_files",
        process_and_kin,
    ),
    Claim("every_event_has_its_own_place_in_the_sequence", sequence),
];

fn every_program_loads(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let shown = fixture
            .fleet
            .ctl
            .insist(&["nodes", "show", node.name(), "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        let hooks = find(&shown, "hooks").and_then(Value::as_array);
        let hooks = hooks.with_context(|| format!("no hooks in {shown}"))?;
        ensure!(
            hooks.len() >= 10,
            "{} reports {} hooks",
            node.name(),
            hooks.len()
        );
        for hook in hooks.iter().filter(|hook| hook["required"] == true) {
            let attached = hook["attached_as"].as_str().unwrap_or("");
            ensure!(
                !attached.is_empty(),
                "on {} is not attached: {hook}",
                node.name()
            );
        }
        let trials = find(&shown, "trials").and_then(Value::as_array);
        let trials = trials.with_context(|| format!("no self-test in {shown}"))?;
        ensure!(
            trials.len() == 4 && trials.iter().all(|trial| trial["problem"].is_null()),
            "the self-test of {}: {trials:?}",
            node.name()
        );
        let enforcement = find(&shown, "enforcement").context("no enforcement")?;
        ensure!(
            enforcement["attachment"] == "lsm" && enforcement["denies"] == true,
            "{enforcement}"
        );
        let offsets = find(&shown, "offsets").and_then(Value::as_object);
        ensure!(
            offsets.is_some_and(|offsets| offsets["task_struct.pid"].as_u64() > Some(0)),
            "no offsets in {shown}"
        );
        // Its own children are nobody's business.
        let canaries = fixture.fleet.ctl.events(&["--node", node.name()])?;
        let canary = canaries.iter().find(|event| {
            event["process"]["comm"] == "shrike-canary" || event["verdict"]["policy"] == "doctor"
        });
        ensure!(canary.is_none(), "the self-test shows: {canary:?}");
        let said = node.agent_said();
        ensure!(!said.contains("panicked"), "the agent panicked:\n{said}");
    }
    Ok(())
}

/// The first field of that name at any depth.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| fields.values().find_map(|field| find(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Opens of one process arrive each once, in the order they were made.
fn known_workload(fixture: &mut Fixture) -> Result<()> {
    const OPENS: usize = 500;
    for node in &fixture.fleet.nodes {
        let folder = "/tmp/claim-known";
        node.machine.write(
            &format!("{folder}/work.py"),
            0o755,
            format!(
                "import os\n\
                 for n in range({OPENS}):\n\
                 \x20   os.close(os.open(f'{folder}/file-{{n}}', os.O_CREAT | os.O_WRONLY, 0o640))\n"
            )
            .as_bytes(),
        )?;
        insist(
            &node.machine,
            &["python3", &format!("{folder}/work.py")],
            Outcome::SUCCESS,
        )?;
        let prefix = format!("{folder}/file-");
        let filters = ["--node", node.name(), "--kind", "open", "--path", &prefix];
        let events = fixture.wait_for_events(&filters, |events| {
            (events.len() >= OPENS).then(|| events.to_vec())
        })?;
        let paths: Vec<&str> = events
            .iter()
            .filter_map(|event| event["open"]["file"]["path"].as_str())
            .collect();
        let expected: Vec<String> = (0..OPENS).map(|n| format!("{prefix}{n}")).collect();
        ensure!(
            paths == expected,
            "on {} the opens are not the {OPENS} that were made, in order: {} paths, from {:?} to \
             {:?}",
            node.name(),
            paths.len(),
            paths.first(),
            paths.last()
        );
        for pair in events.windows(2) {
            ensure!(
                pair[0]["sequence"].as_u64() < pair[1]["sequence"].as_u64()
                    && pair[0]["boot_time_ns"].as_u64() <= pair[1]["boot_time_ns"].as_u64(),
                "out of order on {}: {} and {}",
                node.name(),
                pair[0],
                pair[1]
            );
        }
    }
    Ok(())
}

fn open_fields(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        // A relative name through a symbolic link, opened by another user.
        let folder = "/tmp/claim-open";
        node.machine.shell(&format!(
            "mkdir -p {folder}/real && ln -sfn real {folder}/link && chmod 777 {folder}/real"
        ))?;
        let script = format!(
            "import os\n\
             os.setgid(33); os.setuid(33)\n\
             os.chdir('{folder}')\n\
             os.close(os.open('link/../link/new', os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o604))\n\
             st = os.stat('link/new'); print(st.st_ino)\n"
        );
        let ran = node
            .machine
            .command("python3")
            .args(["-c", &script])
            .run()?;
        ensure!(ran.outcome == Outcome::SUCCESS, "{}", ran.stderr_text());
        let inode: u64 = ran.stdout_text().trim().parse().context("an inode")?;

        let path = format!("{folder}/real/new");
        let filters = ["--node", node.name(), "--kind", "open", "--path", &path];
        let event = fixture.wait_for_events(&filters, |events| events.first().cloned())?;
        let open = &event["open"];
        let found = json!({
            "asked": open["path_as_asked"],
            "path": open["file"]["path"],
            "inode": open["file"]["inode"],
            "result": open["result"].as_i64().map(|result| result >= 0),
            "access": open["access"],
            "mode": open["mode"],
            "creates": open["flags"].as_u64().map(|flags| flags & 0o300),
            "syscall": open["syscall"],
            "uid": event["process"]["uid"],
            "gid": event["process"]["gid"],
            "user": event["process"]["user"],
            "comm": event["process"]["comm"],
        });
        let expected = json!({
            "asked": "link/../link/new",
            "path": path,
            "inode": inode,
            "result": true,
            "access": "read-write",
            "mode": 0o604,
            "creates": 0o300,
            "syscall": "openat",
            "uid": 33,
            "gid": 33,
            "user": "www-data",
            "comm": "python3",
        });
        ensure!(
            found == expected,
            "on {}: {found}\nexpected {expected}",
            node.name()
        );
    }
    Ok(())
}

fn exec_fields(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let script = "/tmp/claim-exec.sh";
        node.machine.write(script, 0o755, b"#!/bin/sh\nexit 0\n")?;
        insist(
            &node.machine,
            &[script, "one", "two words", "", "\u{fc}nicode"],
            Outcome::SUCCESS,
        )?;
        let filters = ["--node", node.name(), "--kind", "exec"];
        let event = fixture.wait_for_events(&filters, |events| {
            let ours = |event: &&Value| {
                event["exec"]["path_as_asked"] == script && event["exec"]["result"] == 0
            };
            events.iter().find(ours).cloned()
        })?;
        let exec = &event["exec"];
        let argv = json!(["/bin/sh", script, "one", "two words", "", "\u{fc}nicode"]);
        ensure!(
            exec["argv"] == argv,
            "argv is {}, expected {argv}",
            exec["argv"]
        );
        ensure!(
            exec["argv_truncated"] == false,
            "a short argv is flagged: {exec}"
        );
        let syscall = exec["syscall"].as_str().unwrap_or("");
        ensure!(syscall == "execve", "the system call is {syscall:?}");
        ensure!(
            event["process"]["comm"] == "claim-exec.sh",
            "comm: {}",
            event["process"]
        );
        let exe = event["process"]["exe"].as_str().unwrap_or("");
        ensure!(
            exe.ends_with("/dash") || exe.ends_with("/sh"),
            "exe is {exe:?}"
        );
        let runner = &event["process"]["ancestors"][0];
        ensure!(
            event["process"]["ppid"].as_u64() > Some(0) && runner["comm"] == "guest",
            "the parent is {runner}"
        );
    }
    Ok(())
}

fn failures(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let missing = "/tmp/claim-missing/nothing";
        insist(&node.machine, &["cat", missing], Outcome::Code(1))?;
        let filters = ["--node", node.name(), "--kind", "open", "--path", missing];
        fixture.wait_for_events(&filters, |events| {
            let failed =
                |event: &Value| event["open"]["result"] == -2 && event["open"]["error"] == "ENOENT";
            events.iter().any(failed).then_some(())
        })?;

        let script = format!("import os\ntry: os.execv('{missing}', ['x'])\nexcept OSError: pass");
        insist(&node.machine, &["python3", "-c", &script], Outcome::SUCCESS)?;
        let filters = ["--node", node.name(), "--kind", "exec"];
        fixture.wait_for_events(&filters, |events| {
            let failed = |event: &Value| {
                event["exec"]["path_as_asked"] == missing && event["exec"]["result"] == -2
            };
            events.iter().any(failed).then_some(())
        })?;
    }
    Ok(())
}

fn exits(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let pid_of = |outcome: Outcome, script: &str| -> Result<u64> {
            let ran = node.machine.command("sh").args(["-c", script]).run()?;
            ensure!(ran.outcome == outcome, "`{script}`: {:?}", ran.outcome);
            ran.stdout_text().trim().parse().context("a pid")
        };
        let exited = pid_of(Outcome::Code(7), "echo $$; exit 7")?;
        let killed = pid_of(Outcome::Signal(15), "echo $$; kill -TERM $$; sleep 9")?;
        let filters = ["--node", node.name(), "--kind", "exit"];
        fixture.wait_for_events(&filters, |events| {
            let of = |pid: u64| {
                events
                    .iter()
                    .rev()
                    .find(|event| event["process"]["pid"] == pid)
            };
            let (exited, killed) = (of(exited)?, of(killed)?);
            let right = exited["exit"]["code"] == 7
                && exited["exit"]["signal"] == 0
                && killed["exit"]["signal"] == 15
                && killed["exit"]["receipt"].is_null();
            right.then_some(())
        })?;
    }
    Ok(())
}

/// What `processes`, `tree` and a condition say of a shell and its child.
fn process_and_kin(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let script = "/tmp/claim-kin.sh";
        node.machine.write(script, 0o755, b"#!/bin/sh\nexit 4\n")?;
        let ran = node
            .machine
            .command("sh")
            .args(["-c", &format!("echo $$; sh {script}; exit 3")])
            .run()?;
        ensure!(ran.outcome == Outcome::Code(3), "{:?}", ran.outcome);
        let pid = ran.stdout_text().trim().to_owned();
        let ended = format!(r#"kind == "exit" && pid == {pid} && exit_code == 3"#);
        let filters = ["--node", node.name(), "--where", &ended];
        fixture.wait_for_events(&filters, |events| (events.len() == 1).then_some(()))?;

        let ctl = &fixture.fleet.ctl;
        let shown = ctl.insist(&["processes", node.name(), &pid, "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        ensure!(shown["exit"]["code"] == 3, "{shown}");
        let child = &shown["children"][0];
        ensure!(
            child["argv"][1] == script && child["exit"]["code"] == 4,
            "the child: {shown}"
        );
        let ancestors = shown["ancestors"].as_array().map_or(0, Vec::len);
        ensure!(ancestors > 0, "no ancestors: {shown}");
        let tree = ctl.insist(&["tree", node.name(), "--pid", &pid])?.stdout;
        let lines: Vec<&str> = tree.lines().collect();
        ensure!(
            lines.len() == 2 && lines[1].starts_with("└─ ") && lines[1].ends_with("→ exit 4"),
            "the tree:\n{tree}"
        );
        let touched = ctl.events(&["--since", "1h", "--path", script])?;
        ensure!(
            touched.iter().any(|event| event["node"] == node.name()),
            "nobody touched {script}: {touched:?}"
        );
    }
    Ok(())
}

fn sequence(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        let mut seen: Vec<(String, u64)> = fixture
            .fleet
            .ctl
            .events(&["--node", node.name()])?
            .iter()
            .map(|event| {
                let epoch = event["epoch"].as_str().unwrap_or("").to_owned();
                (epoch, event["sequence"].as_u64().unwrap_or(0))
            })
            .collect();
        let stored = seen.len();
        ensure!(stored > 500, "{} has only {stored} events", node.name());
        seen.sort();
        seen.dedup();
        ensure!(seen.len() == stored, "{} stored events twice", node.name());
        for pair in seen.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            ensure!(
                pair[1].1 == pair[0].1 + 1,
                "{} has a hole in its sequence: {:?} {:?}",
                node.name(),
                pair[0],
                pair[1]
            );
        }
    }
    Ok(())
}

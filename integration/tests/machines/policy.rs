//! Policies: pushed, enforced in both kernels, proven, withdrawn.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shrike_integration::vm::{Outcome, READ_BY_INIT};

use super::Claim;
use super::fixture::{Fixture, insist};

pub const CLAIMS: &[Claim] = &[
    Claim(
        "a_real_program_is_killed_by_a_push_and_lives_before_and_after_on_both_kernels",
        real_program_is_killed,
    ),
    Claim(
        "exec_of_a_forbidden_command_is_killed_on_both_kernels",
        forbidden_command,
    ),
    Claim(
        "open_of_a_protected_file_is_killed_under_any_name",
        protected_file,
    ),
    Claim(
        "a_directory_rule_matches_whole_components_only",
        whole_components,
    ),
    Claim("an_exception_lives_and_everybody_else_dies", exception),
    Claim("a_rule_for_writing_lets_reading_live", access),
    Claim(
        "a_denied_change_leaves_the_file_whole_and_the_process_alive",
        denied,
    ),
    Claim(
        "another_name_of_a_protected_file_does_not_help",
        other_names,
    ),
    Claim(
        "observe_and_alert_record_and_touch_nothing",
        observe_and_alert,
    ),
    Claim("a_kill_has_its_receipt", receipt),
    Claim(
        "every_event_carries_the_generation_that_judged_it",
        generation,
    ),
    Claim("a_replaced_policy_is_swapped_whole", replaced),
    Claim("a_policy_for_other_labels_leaves_a_node_alone", labels),
    Claim(
        "a_malformed_policy_is_refused_with_its_place_and_changes_nothing",
        malformed,
    ),
    Claim("the_agent_survives_a_policy_against_itself", agent_survives),
    Claim(
        "process_1_is_spared_and_the_event_says_so_on_both_kernels",
        process_1,
    ),
];

const NO_NETCAT: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: no-netcat}
spec:
  mode: enforce
  rules:
    - {name: netcat, on: exec, comm: [nc], action: kill}
";

const VAULT: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: vault}
spec:
  mode: enforce
  rules:
    - name: key
      on: open
      paths: [/srv/claim/key]
      action: kill
";

const KILLED: Outcome = Outcome::Signal(9);

fn document(name: &str, mode: &str, rule: &str) -> String {
    format!(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  mode: {mode}\n  \
         rules:\n    - {rule}\n"
    )
}

fn real_program_is_killed(fixture: &mut Fixture) -> Result<()> {
    let everywhere = |fixture: &Fixture, outcome: Outcome| -> Result<()> {
        for node in &fixture.fleet.nodes {
            insist(&node.machine, &["nc", "-h"], outcome)?;
        }
        Ok(())
    };
    everywhere(fixture, Outcome::SUCCESS).context("before the push")?;
    fixture.push(NO_NETCAT)?;
    everywhere(fixture, KILLED).context("after the push")?;
    fixture
        .fleet
        .ctl
        .insist(&["policy", "delete", "no-netcat"])?;
    fixture.wait_until_applied()?;
    everywhere(fixture, Outcome::SUCCESS).context("after the deletion")
}

fn forbidden_command(fixture: &mut Fixture) -> Result<()> {
    fixture.push(NO_NETCAT)?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["nc", "-h"], KILLED)?;
        // The same file under a name that is not forbidden.
        insist(&node.machine, &["nc.openbsd", "-h"], Outcome::SUCCESS)?;
        // A copy under the forbidden name.
        node.machine
            .shell("mkdir -p /tmp/copy && cp /usr/bin/true /tmp/copy/nc")?;
        insist(&node.machine, &["/tmp/copy/nc"], KILLED)?;
    }
    Ok(())
}

fn protected_file(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(
            "mkdir -p /srv/claim && echo secret > /srv/claim/key && echo open > /srv/claim/other \
             && ln -sfn /srv/claim /tmp/claim-link",
        )?;
    }
    fixture.push(VAULT)?;
    for node in &fixture.fleet.nodes {
        for name in [
            "/srv/claim/key",
            "/srv/../srv/claim/./key",
            "/tmp/claim-link/key",
        ] {
            insist(&node.machine, &["cat", name], KILLED)?;
        }
        let ran = node
            .machine
            .command("sh")
            .args(["-c", "cd /srv/claim && exec cat key"])
            .run()?;
        ensure!(ran.outcome == KILLED, "a relative name: {:?}", ran.outcome);
        ensure!(ran.stdout.is_empty(), "the secret came out");
        insist(
            &node.machine,
            &["cat", "/srv/claim/other"],
            Outcome::SUCCESS,
        )?;
    }
    Ok(())
}

fn whole_components(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(
            "mkdir -p /srv/dir/deep/er /srv/dirty && touch /srv/dir/a /srv/dir/deep/er/b \
             /srv/dirty/c",
        )?;
    }
    fixture.push(&document(
        "directory",
        "enforce",
        "{name: dir, on: open, paths: [/srv/dir/], action: kill}",
    ))?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["cat", "/srv/dir/a"], KILLED)?;
        insist(&node.machine, &["cat", "/srv/dir/deep/er/b"], KILLED)?;
        insist(&node.machine, &["cat", "/srv/dirty/c"], Outcome::SUCCESS)?;
    }
    Ok(())
}

fn exception(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && echo secret > /srv/claim/key")?;
    }
    fixture.push(&document(
        "exception",
        "enforce",
        "{name: key, on: open, paths: [/srv/claim/key], unless: {exe: [/usr/bin/sha256sum]}, \
         action: kill}",
    ))?;
    for node in &fixture.fleet.nodes {
        insist(
            &node.machine,
            &["sha256sum", "/srv/claim/key"],
            Outcome::SUCCESS,
        )?;
        insist(&node.machine, &["md5sum", "/srv/claim/key"], KILLED)?;
    }
    Ok(())
}

fn access(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && echo text > /srv/claim/file")?;
    }
    fixture.push(&document(
        "no-writing",
        "enforce",
        "{name: file, on: open, paths: [/srv/claim/file], access: [write], action: kill}",
    ))?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["cat", "/srv/claim/file"], Outcome::SUCCESS)?;
        insist(&node.machine, &["tee", "-a", "/srv/claim/file"], KILLED)?;
    }
    Ok(())
}

fn denied(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && rm -f /srv/claim/new && echo secret > /srv/claim/key")?;
    }
    fixture.push(&document(
        "denied",
        "enforce",
        "{name: files, on: open, paths: [/srv/claim/key, /srv/claim/new], action: deny}",
    ))?;
    const REFUSED: &str = "Operation not permitted";
    for node in &fixture.fleet.nodes {
        for attempt in [
            "cat /srv/claim/key",
            "echo x > /srv/claim/key",
            "perl -e 'truncate(\"/srv/claim/key\", 0) or die $!'",
            "rm -f /srv/claim/key",
            "mv /srv/claim/key /srv/claim/away",
            "touch /srv/claim/other && mv -f /srv/claim/other /srv/claim/key",
            "ln /srv/claim/key /srv/claim/link",
            "chmod 777 /srv/claim/key",
            "touch /srv/claim/new",
        ] {
            let ran = node.machine.command("sh").args(["-c", attempt]).run()?;
            ensure!(
                matches!(ran.outcome, Outcome::Code(code) if code != 0)
                    && ran.stderr_text().contains(REFUSED),
                "{attempt}: {:?}: {}",
                ran.outcome,
                ran.stderr_text()
            );
        }
        let filters = ["--node", node.name(), "--verdict", "deny"];
        fixture.wait_for_events(&filters, |events| {
            let refused = |event: &Value| {
                event["verdict"]["denied"] == true && event["verdict"]["outcome"] == "denied"
            };
            let opened = events.iter().any(|event| {
                event["open"]["syscall"] == "openat"
                    && event["open"]["error"] == "EPERM"
                    && refused(event)
            });
            let changed = ["truncate", "unlink", "rename", "link", "chmod", "mknod"]
                .iter()
                .all(|operation| {
                    events.iter().any(|event| {
                        event["change"]["operation"] == *operation
                            && event["change"]["error"] == "EPERM"
                            && refused(event)
                    })
                });
            (opened && changed).then_some(())
        })?;
        names_of_changes(fixture, node.name())?;
    }
    fixture.fleet.ctl.insist(&["policy", "delete", "denied"])?;
    fixture.wait_until_applied()?;
    for node in &fixture.fleet.nodes {
        let found = node.machine.shell(
            "cat /srv/claim/key; stat -c '%a %h' /srv/claim/key; test ! -e /srv/claim/new && echo none",
        )?;
        ensure!(found == "secret\n644 1\nnone\n", "{found}");
    }
    Ok(())
}

/// A rename has two names, whichever of them the rule is about; `--kind change`
/// finds changes and nothing else.
fn names_of_changes(fixture: &Fixture, node: &str) -> Result<()> {
    let filters = ["--node", node, "--kind", "change", "--path", "/srv/claim/"];
    let events = fixture.fleet.ctl.events(&filters)?;
    ensure!(
        events.iter().all(|event| event["kind"] == "change"),
        "not every event is a change: {events:?}"
    );
    for (operation, path, name, other) in [
        ("rename", "/srv/claim/key", "old", "/srv/claim/away"),
        ("rename", "/srv/claim/key", "new", "/srv/claim/other"),
        ("link", "/srv/claim/key", "old", "/srv/claim/link"),
    ] {
        let expected = json!([operation, path, name, other]);
        let found = events.iter().any(|event| {
            let change = &event["change"];
            let told = [
                &change["operation"],
                &change["file"]["path"],
                &change["name"],
                &change["other_path"],
            ];
            json!(told) == expected
        });
        ensure!(found, "no change {expected} among {events:?}");
    }
    let compact = fixture
        .fleet
        .ctl
        .insist(&[&["events"][..], &filters].concat())?;
    ensure!(
        compact
            .stdout
            .contains(" rename /srv/claim/key to /srv/claim/away = EPERM "),
        "{}",
        compact.stdout
    );
    Ok(())
}

fn other_names(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(
            "mkdir -p /srv/claim /srv/mount && echo secret > /srv/claim/key && \
             ln -f /srv/claim/key /srv/link && mount --bind /srv/claim /srv/mount",
        )?;
    }
    fixture.push(VAULT)?;
    for node in &fixture.fleet.nodes {
        for name in [
            "/srv/link",
            "/srv/mount/key",
            "/proc/self/root/srv/claim/key",
        ] {
            insist(&node.machine, &["cat", name], KILLED)?;
        }
        // Not the file that has the number after it.
        node.machine.shell("umount /srv/mount")?;
        insist(&node.machine, &["cat", "/etc/hostname"], Outcome::SUCCESS)?;
    }
    Ok(())
}

fn observe_and_alert(fixture: &mut Fixture) -> Result<()> {
    let observed = document(
        "watched",
        "observe",
        "{name: netcat, on: exec, comm: [nc], action: kill}",
    );
    let alerted = document(
        "alerted",
        "enforce",
        "{name: hostname, on: open, paths: [/etc/hostname], action: alert}",
    );
    fixture.push(&format!("{observed}---\n{alerted}"))?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["nc", "-h"], Outcome::SUCCESS)?;
        insist(&node.machine, &["cat", "/etc/hostname"], Outcome::SUCCESS)?;
        for (policy, action, outcome) in [
            ("watched", "kill", "observed"),
            ("alerted", "alert", "noted"),
        ] {
            fixture.wait_for_events(&["--node", node.name(), "--verdict"], |events| {
                let right = |event: &Value| {
                    let verdict = &event["verdict"];
                    verdict["policy"] == policy
                        && verdict["action"] == action
                        && verdict["outcome"] == outcome
                };
                events.iter().any(right).then_some(())
            })?;
        }
    }
    Ok(())
}

fn receipt(fixture: &mut Fixture) -> Result<()> {
    fixture.push(NO_NETCAT)?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["nc", "-h"], KILLED)?;
        let filters = ["--node", node.name(), "--verdict", "kill"];
        let verdict = fixture.wait_for_events(&filters, |events| {
            let sent = |event: &&Value| {
                event["verdict"]["policy"] == "no-netcat"
                    && event["verdict"]["outcome"] == "signal-sent"
                    && event["verdict"]["signal_result"] == 0
            };
            events.iter().rev().find(sent).cloned()
        })?;
        let filters = ["--node", node.name(), "--kind", "exit"];
        let exit = fixture.wait_for_events(&filters, |events| {
            let same = |event: &&Value| {
                event["process"]["pid"] == verdict["process"]["pid"]
                    && event["process"]["start_boot_ns"] == verdict["process"]["start_boot_ns"]
            };
            events.iter().find(same).cloned()
        })?;
        let receipt = &exit["exit"]["receipt"];
        ensure!(
            exit["exit"]["signal"] == 9
                && receipt["died_by_it"] == true
                && receipt["rule"] == "netcat"
                && receipt["signal_result"] == 0
                && receipt["verdict_sequence"] == verdict["sequence"]
                && receipt["generation"] == verdict["generation"],
            "verdict {verdict}\nexit {exit}"
        );
    }
    Ok(())
}

fn generation(fixture: &mut Fixture) -> Result<()> {
    fixture.push(NO_NETCAT)?;
    for row in fixture.fleet.ctl.nodes()? {
        let node = fixture.fleet.node(&row.name);
        let mark = format!("/tmp/claim-generation-{}", row.applied_generation);
        node.machine.shell(&format!("touch {mark}"))?;
        let filters = ["--node", node.name(), "--kind", "open", "--path", &mark];
        let event = fixture.wait_for_events(&filters, |events| events.first().cloned())?;
        ensure!(
            event["generation"] == row.applied_generation,
            "on {} generation {} is in force, the event says {}",
            row.name,
            row.applied_generation,
            event["generation"]
        );
    }
    Ok(())
}

fn replaced(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/swap && touch /srv/swap/one /srv/swap/two")?;
    }
    let rule =
        |file: &str| format!("{{name: swap, on: open, paths: [/srv/swap/{file}], action: kill}}");
    for (forbidden, allowed) in [("one", "two"), ("two", "one"), ("one", "two")] {
        fixture.push(&document("swap", "enforce", &rule(forbidden)))?;
        for node in &fixture.fleet.nodes {
            insist(
                &node.machine,
                &["cat", &format!("/srv/swap/{forbidden}")],
                KILLED,
            )?;
            insist(
                &node.machine,
                &["cat", &format!("/srv/swap/{allowed}")],
                Outcome::SUCCESS,
            )?;
        }
    }
    Ok(())
}

fn labels(fixture: &mut Fixture) -> Result<()> {
    fixture.push(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: only-new}\nspec:\n  mode: enforce\n  \
         nodes: {kernel: \"6.12\"}\n  rules:\n    - {name: netcat, on: exec, comm: [nc], action: \
         kill}\n",
    )?;
    insist(
        &fixture.fleet.node("node-a").machine,
        &["nc", "-h"],
        Outcome::SUCCESS,
    )?;
    insist(&fixture.fleet.node("node-b").machine, &["nc", "-h"], KILLED)
}

fn malformed(fixture: &mut Fixture) -> Result<()> {
    let generations = |fixture: &Fixture| -> Result<Vec<u64>> {
        let nodes = fixture.fleet.ctl.nodes()?;
        Ok(nodes.iter().map(|node| node.desired_generation).collect())
    };
    let before = generations(fixture)?;
    let cases = [
        (
            document(
                "x",
                "enforce",
                "{name: r, on: exec, com: [nc], action: kill}",
            ),
            ":7:",
            "comm",
        ),
        (
            document(
                "x",
                "enforce",
                "{name: r, on: open, paths: [relative], action: kill}",
            ),
            ":7:",
            "relative",
        ),
        (
            document(
                "x",
                "enforce",
                "{name: r, on: exec, comm: [nc], action: block}",
            ),
            ":7:",
            "block",
        ),
        (
            "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: x\n".to_owned(),
            ":",
            "yaml",
        ),
    ];
    for (document, place, word) in cases {
        let ran = fixture.try_push(&document)?;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        ensure!(
            ran.code == Some(2),
            "exit code {:?} for:\n{document}{said}",
            ran.code
        );
        ensure!(
            said.contains(&format!("pushed.yaml{place}")) && said.to_lowercase().contains(word),
            "neither `{place}` nor `{word}` is named:\n{said}"
        );
    }
    ensure!(
        generations(fixture)? == before,
        "a refused push changed the generation"
    );
    Ok(())
}

fn agent_survives(fixture: &mut Fixture) -> Result<()> {
    // Everything that anybody opens below /proc or /etc, the agent included,
    // but not this claim's own shell.
    fixture.push(&document(
        "everything",
        "enforce",
        "{name: agents-files, on: open, comm: [shrike-agent, tokio-runtime-w], action: kill}",
    ))?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["cat", "/etc/hostname"], Outcome::SUCCESS)?;
        let pid = node.agent_pid().context("an agent")?;
        // A signal 0 asks whether it lives.
        node.machine.shell(&format!("kill -0 {pid}"))?;
    }
    fixture
        .fleet
        .wait_until_connected(super::fixture::RECONNECT_TIMEOUT)
}

fn process_1(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && echo secret > /srv/claim/key")?;
    }
    fixture.push(VAULT)?;
    for node in &fixture.fleet.nodes {
        insist(&node.machine, &["cat", "/srv/claim/key"], KILLED)?;
        node.machine
            .shell(&format!("echo /srv/claim/key > {READ_BY_INIT}"))?;
        let filters = ["--node", node.name(), "--verdict", "kill", "--pid", "1"];
        let event = fixture.wait_for_events(&filters, |events| events.last().cloned())?;
        let verdict = &event["verdict"];
        ensure!(
            event["process"]["pid"] == 1
                && event["open"]["file"]["path"] == "/srv/claim/key"
                && event["open"]["result"].as_i64() >= Some(0)
                && verdict["policy"] == "vault"
                && verdict["outcome"] == "spared-init"
                && verdict["signal_result"].is_null(),
            "{event}"
        );
        // Killed it would have taken the kernel with it.
        insist(&node.machine, &["kill", "-0", "1"], Outcome::SUCCESS)?;
    }
    Ok(())
}

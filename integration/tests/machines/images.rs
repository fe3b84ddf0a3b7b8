//! What a new image starts with, compared with what /proc says of it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shrike_integration::vm::Outcome;

use super::Claim;
use super::fixture::Fixture;

pub const CLAIMS: &[Claim] = &[
    Claim(
        "an_exec_tells_of_its_image_what_proc_says",
        image_is_what_proc_says,
    ),
    Claim("an_exec_of_a_script_names_the_script", script),
];

const FOLDER: &str = "/srv/claim-image";

fn image_is_what_proc_says(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(&format!("mkdir -p {FOLDER}/below"))?;
        for (name, program) in [
            ("facts.py", include_bytes!("images/facts.py").as_slice()),
            ("work.py", include_bytes!("images/work.py")),
        ] {
            let path = format!("{FOLDER}/{name}");
            node.machine.write(&path, 0o644, program)?;
        }
        for way in ["memfd", "setuid", "deleted", "terminal"] {
            let marker = format!("claim-image-{way}");
            let work = format!("{FOLDER}/work.py");
            // Every namespace but users'.
            let namespaces = ["unshare", "-muinpC", "--fork"];
            let around: &[&str] = if way == "memfd" {
                &namespaces
            } else {
                &["env"]
            };
            let argv = [around, &["python3", &work, way, &marker]].concat();
            let ran = node
                .machine
                .command(argv[0])
                .args(argv[1..].iter().copied())
                .run()?;
            ensure!(
                ran.outcome == Outcome::SUCCESS,
                "{way}: {:?}: {}",
                ran.outcome,
                ran.stderr_text()
            );
            let said: Value = serde_json::from_str(ran.stdout_text().trim())
                .with_context(|| format!("{way} said {:?}", ran.stdout_text()))?;
            let filters = ["--node", node.name(), "--kind", "exec"];
            let event = fixture.wait_for_events(&filters, |events| {
                let ours = |event: &&Value| {
                    event["exec"]["argv"][1] == "-E"
                        && event["exec"]["argv"][3] == marker.as_str()
                        && event["exec"]["result"] == 0
                };
                events.iter().find(ours).cloned()
            })?;
            let told = told(&event);
            ensure!(
                told == said,
                "{way} on {}: the event tells {told}\n/proc says {said}\nin {event}",
                node.name()
            );
            check(way, &event)?;
        }
    }
    Ok(())
}

/// What an event says, in the words of `facts.py`.
fn told(event: &Value) -> Value {
    let (process, exec) = (&event["process"], &event["exec"]);
    let (file, image) = (&exec["file"], &exec["image"]);
    // As d_path has it: a memfd is a file of the root, and gone.
    let path = file["path"].as_str().unwrap_or_default();
    let exe = match (exec["memfd"] == true, file["deleted"] == true) {
        (true, _) => format!("/{path} (deleted)"),
        (false, true) => format!("{path} (deleted)"),
        (false, false) => path.to_owned(),
    };
    let sets = |of: &Value| json!([of["permitted"], of["effective"]]);
    json!({
        "working_directory": image["working_directory"],
        "tty": image["tty"],
        "session_id": image["session_id"],
        "login_uid": image["login_uid"],
        "uids": [process["uid"], process["euid"], image["suid"], image["fsuid"]],
        "gids": [process["gid"], process["egid"], image["sgid"], image["fsgid"]],
        "capabilities": sets(&image["capabilities"]),
        "capabilities_before": sets(&image["capabilities_before"]),
        "namespaces": image["namespaces"],
        "exe": exe,
        "inode": file["inode"],
        "links": file["links"],
        "environment": image["environment"]["names"],
    })
}

/// What each way is about, so that none passes for want of it.
fn check(way: &str, event: &Value) -> Result<()> {
    let (exec, image) = (&event["exec"], &event["exec"]["image"]);
    let namespace = |name: &str| image["namespaces"][name].as_u64().unwrap_or(0);
    // include/linux/proc_ns.h: PROC_PID_INIT_INO.
    const FIRST_PID_NAMESPACE: u64 = 0xeffffffc;
    let right = match way {
        "memfd" => {
            exec["memfd"] == true
                && exec["file"]["links"] == 0
                && namespace("pid") != FIRST_PID_NAMESPACE
                && image["tty"].is_null()
        }
        "setuid" => {
            let gained = image["gained"].as_array().map_or(0, Vec::len);
            image["login_uid"] == 33 && gained > 30 && exec["file"]["mode"] == "104755"
        }
        "deleted" => exec["file"]["deleted"] == true,
        "terminal" => {
            let tty = image["tty"].as_str().unwrap_or_default();
            tty.starts_with("pts/")
                && !event.to_string().contains("hunter2")
                && image["environment"]["truncated"] == false
        }
        way => unreachable!("{way}"),
    };
    ensure!(right, "{way}: {event}");
    Ok(())
}

fn script(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        // A relative name, through a symbolic link.
        let inode: u64 = node
            .machine
            .shell(
                "mkdir -p /srv/claim-script/real && cd /srv/claim-script && ln -sfn real link && \
                 printf '#!/bin/sh\\nexit 0\\n' > real/run && chmod 755 real/run && link/run && \
                 stat -c %i real/run",
            )?
            .trim()
            .parse()
            .context("an inode")?;
        let filters = ["--node", node.name(), "--kind", "exec"];
        let event = fixture.wait_for_events(&filters, |events| {
            let ours = |event: &&Value| event["exec"]["path_as_asked"] == "link/run";
            events.iter().find(ours).cloned()
        })?;
        let image = &event["exec"]["image"];
        let found = json!([
            image["script"]["path"],
            image["script"]["inode"],
            image["script"]["device"],
            image["working_directory"],
        ]);
        let device = &event["exec"]["file"]["device"];
        let expected = json!([
            "/srv/claim-script/real/run",
            inode,
            device,
            "/srv/claim-script"
        ]);
        ensure!(found == expected, "{found}, not {expected}: {event}");
    }
    Ok(())
}

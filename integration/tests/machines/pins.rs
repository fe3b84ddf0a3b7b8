//! Enforcement outlives the agent, and a successor takes it over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shrike_integration::fleet::{NodeRow, poll};
use shrike_integration::vm::{Machine, Outcome};

use super::Claim;
use super::fixture::{ARRIVAL_TIMEOUT, Fixture, RECONNECT_TIMEOUT, insist, wait_until_said};

pub const CLAIMS: &[Claim] = &[
    Claim(
        "a_killed_agent_leaves_its_rules_in_force_and_its_events_to_its_successor",
        killed,
    ),
    Claim(
        "programs_of_other_settings_take_over_without_a_gap_or_a_doubled_event",
        replaced,
    ),
    Claim("tampering_is_noticed_mended_and_told", tampering),
    Claim("what_only_judges_is_attached_while_a_rule_asks", on_demand),
    Claim(
        "an_exec_that_finds_no_room_is_refused_while_a_rule_might_refuse_it",
        crowded,
    ),
    Claim("detach_leaves_nothing_in_the_kernel", detach),
];

const TIMEOUT: Duration = Duration::from_secs(120);

const NODES: [&str; 2] = ["node-a", "node-b"];

const PINS: &str = "/sys/fs/bpf/shrike";

const POLICY: &str = "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: outlive}\nspec:\n  \
                      mode: enforce\n  rules:\n    - {name: netcat, on: exec, comm: [nc], \
                      action: kill}\n    - {name: key, on: open, paths: [/srv/claim/key], \
                      action: deny}\n";

fn killed(fixture: &mut Fixture) -> Result<()> {
    fixture.push(POLICY)?;
    fixture.fleet.settle(TIMEOUT)?;
    let before = verdicts(fixture, "netcat")?;
    let balance = fixture.fleet.ctl.nodes()?;
    for node in &mut fixture.fleet.nodes {
        insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
    }
    fixture.fleet.settle(TIMEOUT)?;
    for node in &mut fixture.fleet.nodes {
        node.kill_agent()?;
        // Nobody reads, everybody obeys.
        for _ in 0..3 {
            insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))
                .with_context(|| format!("{} without an agent", node.name()))?;
        }
        insist(
            &node.machine,
            &["cat", "/etc/debian_version"],
            Outcome::SUCCESS,
        )?;
        node.start_agent()?;
        wait_until_said(node, "took over the programs of the agent before")?;
        insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    fixture.fleet.settle(TIMEOUT)?;
    for (name, before) in NODES.iter().zip(before) {
        wait_for_verdicts(fixture, name, "netcat", before + 5)
            .context("one before, three without an agent, one with the next")?;
        row(fixture, name)?.lost_nothing_since(&balance)?;
        let said = fixture.fleet.node(name).agent_said();
        ensure!(
            said.contains("goes on with the policy kept here") && !said.contains("ERROR"),
            "{name} said:\n{said}"
        );
    }
    Ok(())
}

fn replaced(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && rm -f /tmp/stop && : > /srv/claim/key")?;
    }
    fixture.push(POLICY)?;
    let before = verdicts(fixture, "key")?;
    let mut loops = Vec::new();
    for node in &fixture.fleet.nodes {
        // Not so fast that the ring is full before the next agent reads it.
        let job = node
            .machine
            .command("sh")
            .args([
                "-c",
                "tries=0; leaks=0; while [ ! -e /tmp/stop ]; do tries=$((tries+1)); if true < \
                 /srv/claim/key; then leaks=$((leaks+1)); fi; sleep 0.02; done 2>/dev/null; echo \
                 $tries $leaks",
            ])
            .spawn()?;
        loops.push(job);
    }
    for node in &mut fixture.fleet.nodes {
        node.stop_agent()?;
        // Compiled into the programs, so the pinned ones will not do.
        node.start_agent_with(&[("SHRIKE_AGENT_GUARD_KILLS_PER_MINUTE", "77")])?;
    }
    for node in &fixture.fleet.nodes {
        wait_until_said(node, "the programs of the agent before are replaced")?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    for ((node, job), before) in fixture.fleet.nodes.iter().zip(loops).zip(before) {
        node.machine.shell(": > /tmp/stop")?;
        let finished = job.wait(TIMEOUT)?.stdout_text();
        let counts: Vec<usize> = finished
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| finished.clone())?;
        eprintln!(
            "{}: {} attempts, {} got through",
            node.name(),
            counts[0],
            counts[1]
        );
        ensure!(
            counts[0] > 50 && counts[1] == 0,
            "{}: attempts and leaks: {counts:?}",
            node.name()
        );
        wait_for_verdicts(fixture, node.name(), "key", before + counts[0])
            .with_context(|| format!("each of {} attempts is told once", counts[0]))?;
    }
    // One set of pins is left.
    for node in &mut fixture.fleet.nodes {
        let left = node.machine.shell(&format!("ls {PINS} | wc -l"))?;
        ensure!(left.trim() == "1", "{}: {left} sets of pins", node.name());
        node.stop_agent()?;
        node.start_agent()?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)
}

fn tampering(fixture: &mut Fixture) -> Result<()> {
    fixture.push(POLICY)?;
    for name in NODES {
        let node = fixture.fleet.node(name);
        let machine = &node.machine;
        // A link's pin is removed: the program would end with the agent.
        machine.shell(&format!("rm {PINS}/sensor_*/link_guard_exec"))?;
        wait_until_said(node, "1 pins were removed or replaced")?;
        machine.shell(&format!("ls {PINS}/sensor_*/link_guard_exec"))?;
        // Both plans are emptied.
        overwrite(machine, "PLANS", 2)?;
        wait_until_said(node, "the plan in force was changed")?;
        insist(machine, &["nc", "-h"], Outcome::Signal(9)).context("after it was mended")?;
        poll(ARRIVAL_TIMEOUT, || {
            let shown = fixture.fleet.ctl.run(&["nodes", "show", name])?;
            Ok(
                (shown.stdout.contains("tampering") && shown.stdout.contains("the plan in force"))
                    .then_some(()),
            )
        })
        .context("the collector does not show it")?;
    }
    // While no agent runs, nobody can keep a program from being detached; the
    // next one sees it.
    for node in &mut fixture.fleet.nodes {
        node.stop_agent()?;
        node.machine
            .shell(&format!("rm {PINS}/sensor_*/link_guard_exec"))?;
        poll(ARRIVAL_TIMEOUT, || {
            let ran = node.machine.command("nc").arg("-h").run()?;
            Ok((ran.outcome == Outcome::SUCCESS).then_some(()))
        })
        .context("the program is gone")?;
        node.start_agent()?;
        wait_until_said(node, "somebody detached programs while no agent ran")?;
        wait_until_said(node, "the programs of the agent before are replaced")?;
        insist(&node.machine, &["nc", "-h"], Outcome::Signal(9)).context("with new programs")?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)
}

const OF_EXECS_ONLY: &str = "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: \
                             outlive}\nspec:\n  mode: enforce\n  rules:\n    - {name: netcat, \
                             on: exec, comm: [nc], action: kill}\n";

fn on_demand(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/claim && : > /srv/claim/key")?;
    }
    let links = |machine: &Machine| -> Result<String> {
        machine.shell(&format!("ls {PINS}/sensor_*/ | grep link_guard"))
    };
    fixture.push(POLICY)?;
    for node in &fixture.fleet.nodes {
        let links = links(&node.machine)?;
        ensure!(
            [
                "link_guard_open\n",
                "link_guard_unlink\n",
                "link_guard_mmap\n"
            ]
            .iter()
            .all(|link| links.contains(link)),
            "{}: rules about both are in force, and only these are attached: {links}",
            node.name()
        );
    }
    fixture.push(OF_EXECS_ONLY)?;
    for node in &fixture.fleet.nodes {
        poll(ARRIVAL_TIMEOUT, || {
            let links = links(&node.machine)?;
            let needed = links.contains("link_guard_mmap");
            let idle = ["link_guard_open\n", "link_guard_unlink\n"];
            Ok((needed && !idle.iter().any(|link| links.contains(link))).then_some(()))
        })
        .context("no rule is about opens any more")?;
        insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
    }
    fixture.push(POLICY)?;
    let cat = ["cat", "/srv/claim/key"];
    for node in &mut fixture.fleet.nodes {
        insist(&node.machine, &cat, Outcome::Code(1)).context("rules are about opens again")?;
        // A program that waits for rules has no link either; this one is to
        // have one.
        node.stop_agent()?;
        node.machine
            .shell(&format!("rm {PINS}/sensor_*/link_guard_open"))?;
        poll(ARRIVAL_TIMEOUT, || {
            let ran = node.machine.command("cat").arg(cat[1]).run()?;
            Ok((ran.outcome == Outcome::SUCCESS).then_some(()))
        })
        .context("the program is gone")?;
        node.start_agent()?;
        wait_until_said(node, "somebody detached programs while no agent ran")?;
        wait_until_said(node, "the programs of the agent before are replaced")?;
        insist(&node.machine, &cat, Outcome::Code(1)).context("with new programs")?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)
}

/// Opens a map of the programs by its name: bpf(2) with `BPF_MAP_GET_NEXT_ID`,
/// `BPF_MAP_GET_FD_BY_ID` and `BPF_OBJ_GET_INFO_BY_FD`.
const FIND_MAP: &str = r#"
    sub find {
        my $id = pack('L3', 0, 0, 0);
        while (syscall(321, 12, $id, length $id) == 0) {
            my $next = (unpack 'L2', $id)[1];
            my $get = pack('L3', $next, 0, 0);
            my $fd = syscall(321, 14, $get, length $get);
            my $info = "\0" x 128;
            my $ask = pack('LLP', $fd, length $info, $info);
            return $fd if syscall(321, 15, $ask, length $ask) == 0
                && (unpack 'L6 Z16', $info)[6] eq $_[0];
            syscall(3, $fd);
            $id = pack('L3', $next, 0, 0);
        }
        die "no map $_[0]";
    }
"#;

/// Writes zeros over a pinned array's elements, as anybody with the rights of
/// the agent could: `BPF_MAP_UPDATE_ELEM`.
fn overwrite(machine: &Machine, map: &str, elements: u32) -> Result<()> {
    let script = format!(
        "{FIND_MAP} my $fd = find('{map}'); for my $index (0 .. {elements} - 1) {{ \
         my ($key, $value) = (pack('L', $index), \"\\0\" x 65536); \
         my $set = pack('LLPPQ', $fd, 0, $key, $value, 0); \
         syscall(321, 2, $set, length $set) == 0 or die \"set: $!\"; }}"
    );
    insist(machine, &["perl", "-e", &script], Outcome::SUCCESS)
}

/// Fills the map of execs under way, as 8,192 execs that wait for a file
/// system would, tries two programs, and makes room again. Keys are addresses
/// of tasks, so these are nobody's.
const CROWD: &str = r#"
    my ($map, $made, $value) = (find('EXECS'), 0, "\0" x 65536);
    for my $index (1 .. 8192) {
        my $key = pack('Q', $index);
        my $set = pack('LLPPQ', $map, 0, $key, $value, 0);
        last if syscall(321, 2, $set, length $set) != 0;
        $made = $index;
    }
    for my $program ('nc', 'factor') {
        print system($program, '-h') == -1 ? "refused: $!" : "ran: $?", "\n";
    }
    for my $index (1 .. $made) {
        my $key = pack('Q', $index);
        my $delete = pack('LLPQQ', $map, 0, $key, 0, 0);
        syscall(321, 3, $delete, length $delete);
    }
    print "made $made\n", system('nc', '-h'), "\n", system('factor', '7'), "\n";
"#;

fn crowded(fixture: &mut Fixture) -> Result<()> {
    fixture.push(POLICY)?;
    for node in &fixture.fleet.nodes {
        let script = format!("{FIND_MAP}{CROWD}");
        let ran = node.machine.command("perl").args(["-e", &script]).run()?;
        let said = ran.stdout_text();
        let lines: Vec<&str> = said.lines().filter(|line| *line != "7: 7").collect();
        let [nc, other, made, nc_with_room, other_with_room] = lines[..] else {
            anyhow::bail!("{}: {said}{}", node.name(), ran.stderr_text());
        };
        let refused = "refused: Operation not permitted";
        ensure!(nc == refused && other == refused, "{}: {said}", node.name());
        let made: u32 = made.trim_start_matches("made ").parse()?;
        ensure!((8_000..=8_192).contains(&made), "{}: {said}", node.name());
        ensure!(
            nc_with_room == "9" && other_with_room == "0",
            "{}: with room: {said}",
            node.name()
        );
    }
    Ok(())
}

fn detach(fixture: &mut Fixture) -> Result<()> {
    fixture.push(POLICY)?;
    for node in &mut fixture.fleet.nodes {
        let machine = &node.machine;
        let ran = machine.command("shrike-agent").arg("detach").run()?;
        ensure!(
            ran.outcome == Outcome::Code(5) && ran.stderr_text().contains("another agent runs"),
            "{}: {:?}: {}",
            node.name(),
            ran.outcome,
            ran.stderr_text()
        );
        node.stop_agent()?;
        let machine = &node.machine;
        insist(machine, &["nc", "-h"], Outcome::Signal(9)).context("after a stop")?;
        let ran = machine.command("shrike-agent").arg("detach").run()?;
        ensure!(
            ran.outcome == Outcome::SUCCESS && ran.stdout_text().contains("link_guard_exec"),
            "{}: {:?}: {}{}",
            node.name(),
            ran.outcome,
            ran.stdout_text(),
            ran.stderr_text()
        );
        insist(machine, &["nc", "-h"], Outcome::SUCCESS).context("after detach")?;
        ensure!(
            machine
                .shell(&format!("ls -A /sys/fs/bpf; ! [ -e {PINS} ]"))?
                .is_empty(),
            "{}: pins are left",
            node.name()
        );
        // The kernel lists the programs' code among its symbols.
        poll(TIMEOUT, || {
            let left = machine.shell("grep -c 'bpf_prog_.*_guard_' /proc/kallsyms || true")?;
            Ok((left.trim() == "0").then_some(()))
        })
        .context("programs are left")?;
        let ran = machine.command("shrike-agent").arg("detach").run()?;
        ensure!(
            ran.outcome == Outcome::SUCCESS && ran.stdout_text().contains("nothing is pinned"),
            "{}: again: {:?}",
            node.name(),
            ran.outcome
        );
        node.start_agent()?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)
}

/// Returns how many verdicts of a rule are stored, by node.
fn verdicts(fixture: &Fixture, rule: &str) -> Result<Vec<usize>> {
    let count = |name: &&str| -> Result<usize> {
        let events = fixture.fleet.ctl.events(&["--node", name, "--verdict"])?;
        Ok(of_rule(&events, rule))
    };
    NODES.iter().map(count).collect()
}

fn of_rule(events: &[Value], rule: &str) -> usize {
    let matches = |event: &&Value| event["verdict"]["rule"] == rule;
    events.iter().filter(matches).count()
}

/// Waits until so many verdicts of a rule are stored, no more and no less.
fn wait_for_verdicts(fixture: &Fixture, name: &str, rule: &str, count: usize) -> Result<()> {
    fixture.wait_for_events(&["--node", name, "--verdict"], |events| {
        (of_rule(events, rule) == count).then_some(())
    })
}

fn row(fixture: &Fixture, name: &str) -> Result<NodeRow> {
    let rows = fixture.fleet.ctl.nodes()?;
    let row = rows.into_iter().find(|row| row.name == name);
    row.context("the node is in the list")
}

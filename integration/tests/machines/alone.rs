//! `shrike-agent watch`: the kernel side on one machine, without a collector.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shrike_integration::setup::Kernel;
use shrike_integration::vm::{Machine, Outcome, Spec};

use super::Claim;
use super::fixture::{Fixture, insist, wait_until_ready};

pub const CLAIMS: &[Claim] = &[
    Claim("watch_prints_events_and_leaves_nothing_behind", watch),
    Claim(
        "a_rule_that_kills_too_much_is_stopped_and_sshd_is_never_killed",
        guard_rails,
    ),
    Claim(
        "what_cannot_be_judged_is_refused_but_to_programs_that_are_never_killed",
        without_buffers,
    ),
    Claim(
        "with_processes_matched_rules_see_what_they_match",
        only_matched,
    ),
    Claim(
        "what_a_rule_ignores_is_no_event_unless_another_rule_asks",
        ignored,
    ),
    Claim("doctor_finds_both_kernels_well_in_every_attachment", doctor),
    Claim("a_kernel_without_btf_is_refused_in_one_line", without_btf),
];

const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// SIGTERM.
const TERMINATE: i32 = 15;

fn boot(fixture: &Fixture, name: &str, kernel: Kernel) -> Result<Machine> {
    let spec = Spec::new(name, kernel).program(&fixture.binaries.agent, "/usr/bin/shrike-agent");
    Machine::boot(&fixture.layout, &fixture.binaries.guest, spec)
}

fn watch(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "alone", kernel)?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: alone}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: netcat, on: exec, comm: [nc], action: kill}\n",
        )?;
        let job = machine
            .command("shrike-agent")
            .args(["watch", "--policy", "/tmp/policy.yaml", "-o", "json"])
            .spawn()?;
        wait_until_ready(&job)?;
        insist(&machine, &["cat", "/etc/debian_version"], Outcome::SUCCESS)?;
        insist(&machine, &["nc", "-h"], Outcome::Signal(9))?;
        job.wait_for(READY_TIMEOUT, "prints the kill's receipt", |stdout, _| {
            let stdout = String::from_utf8_lossy(stdout);
            stdout.contains("\"died_by_it\":true").then_some(())
        })?;
        job.signal(TERMINATE)?;
        let finished = job.wait(READY_TIMEOUT)?;
        ensure!(
            finished.outcome == Outcome::SUCCESS,
            "watch: {:?}",
            finished.outcome
        );
        for line in finished.stdout_text().lines() {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(
                event["kind"].is_string() && event["process"]["pid"].is_u64(),
                "{event}"
            );
        }
        ensure!(
            finished.stdout_text().contains("/etc/debian_version"),
            "the open is missing"
        );
        insist(&machine, &["nc", "-h"], Outcome::SUCCESS).context("after watch has ended")?;
    }
    Ok(())
}

fn guard_rails(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "rails", kernel)?;
        machine.shell(
            "mkdir -p /srv/claim && echo secret > /srv/claim/key && cp /usr/bin/cat /usr/sbin/sshd",
        )?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: rails}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: key, on: open, paths: [/srv/claim/key], action: \
              kill}\n",
        )?;
        let job = machine
            .command("shrike-agent")
            .args(["watch", "--policy", "/tmp/policy.yaml", "-o", "json"])
            .args(["--kills-per-minute", "3"])
            .spawn()?;
        wait_until_ready(&job)?;
        let key = "/srv/claim/key";
        insist(&machine, &["/usr/sbin/sshd", key], Outcome::SUCCESS)?;
        for _ in 0..3 {
            insist(&machine, &["cat", key], Outcome::Signal(9))?;
        }
        for _ in 0..2 {
            insist(&machine, &["cat", key], Outcome::SUCCESS)?;
        }
        job.wait_for(READY_TIMEOUT, "says so", |stdout, _| {
            let stdout = String::from_utf8_lossy(stdout);
            let count = |outcome: &str| {
                let field = format!("\"outcome\":\"{outcome}\"");
                stdout.matches(&field).count()
            };
            (count("spared-protected") == 1 && count("breaker-open") == 2).then_some(())
        })?;
        job.signal(TERMINATE)?;
        job.wait(READY_TIMEOUT)?;
    }
    Ok(())
}

/// Marks every buffer of the programs as taken, as programs do themselves, then
/// opens a file that no rule is about and that nobody opened before, gives the
/// buffers back and opens it again; prints both results. Buffers are found by their map's name: bpf(2)
/// with `BPF_MAP_GET_NEXT_ID`, `BPF_MAP_GET_FD_BY_ID`,
/// `BPF_OBJ_GET_INFO_BY_FD`, and the two that read and write elements.
const WITHOUT_BUFFERS: &str = r#"
    sub bpf { my $command = $_[0];
        # The kernel answers in place.
        my $result = syscall(321, $command, $_[1], length $_[1]);
        die "bpf $command: $!" if $result < 0; $result }
    open my $possible, '<', '/sys/devices/system/cpu/possible' or die;
    my $cpus = (<$possible> =~ /(\d+)$/)[0] + 1;
    my ($id, $map, $value_bytes, $buffers) = (0);
    until ($map) {
        my $next = pack 'LLLL', $id, 0, 0, 0;
        bpf(12, $next);
        $id = (unpack 'LL', $next)[1];
        my $fd = bpf(14, pack 'LLL', $id, 0, 0);
        my $info = "\0" x 80;
        bpf(15, pack 'LLP', $fd, length $info, $info);
        next unless unpack('x24 Z16', $info) eq 'SCRATCH';
        ($map, $value_bytes, $buffers) = ($fd, (unpack 'L6', $info)[3, 4]);
    }
    my $one = ($value_bytes + 7) & ~7;
    sub mark { my $busy = shift;
        for my $buffer (0 .. $buffers - 1) {
            my ($key, $value) = (pack('L', $buffer), "\0" x ($one * $cpus));
            bpf(1, pack 'LLPPQ', $map, 0, $key, $value, 0);
            substr($value, $_ * $one, 8) = pack 'Q', $busy for 0 .. $cpus - 1;
            bpf(2, pack 'LLPPQ', $map, 0, $key, $value, 0);
        } }
    sub try { open(my $file, '<', $ARGV[0]) ? 'open' : $! + 0 == 1 ? 'refused' : $! }
    mark(1); my $without = try(); mark(0); my $with = try();
    print "$without $with";
"#;

fn without_buffers(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "buffers", kernel)?;
        machine.shell(
            "mkdir -p /srv/claim && cd /srv/claim && touch key perl sshd && cp /usr/bin/perl /usr/sbin/sshd",
        )?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: buffers}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: key, on: open, paths: [/srv/claim/key], action: \
              deny}\n",
        )?;
        let job = machine
            .command("shrike-agent")
            .args(["watch", "--attach", "lsm", "--policy", "/tmp/policy.yaml"])
            .spawn()?;
        wait_until_ready(&job)?;
        for (program, file, expect) in [
            ("/usr/bin/perl", "/srv/claim/perl", "refused open"),
            ("/usr/sbin/sshd", "/srv/claim/sshd", "open open"),
        ] {
            let ran = machine
                .command(program)
                .args(["-e", WITHOUT_BUFFERS, file])
                .run()?;
            ensure!(
                ran.outcome == Outcome::SUCCESS && ran.stdout_text() == expect,
                "{kernel}, {program}: {:?}: {}{}",
                ran.outcome,
                ran.stdout_text(),
                ran.stderr_text()
            );
        }
        job.signal(TERMINATE)?;
        job.wait(READY_TIMEOUT)?;
    }
    Ok(())
}

/// The shell that tries is forked and executed unseen; its programs are known
/// all the same, and who is killed has a receipt.
fn only_matched(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "matched", kernel)?;
        machine.shell("mkdir -p /srv/claim && echo secret > /srv/claim/key")?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: matched}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: key, on: open, paths: [/srv/claim/key], action: \
              kill}\n    - {name: netcat, on: exec, comm: [nc], action: kill}\n",
        )?;
        for attachment in ["lsm", "fentry", "kprobe"] {
            let job = machine
                .command("shrike-agent")
                .args(["watch", "--policy", "/tmp/policy.yaml", "-o", "json"])
                .args(["--opens", "matched", "--processes", "matched"])
                .args(["--attach", attachment])
                .spawn()?;
            wait_until_ready(&job)?;
            insist(&machine, &["cat", "/etc/debian_version"], Outcome::SUCCESS)?;
            let killed = Outcome::Signal(9);
            insist(&machine, &["sh", "-c", "exec nc -h"], killed)?;
            insist(&machine, &["sh", "-c", "exec cat /srv/claim/key"], killed)?;
            job.wait_for(READY_TIMEOUT, "prints both receipts", |stdout, _| {
                let stdout = String::from_utf8_lossy(stdout);
                (stdout.matches("\"died_by_it\":true").count() == 2).then_some(())
            })?;
            job.signal(TERMINATE)?;
            let finished = job.wait(READY_TIMEOUT)?;
            check_only_matched(&finished.stdout_text())
                .with_context(|| format!("{kernel}, {attachment}: {}", finished.stdout_text()))?;
        }
    }
    Ok(())
}

fn check_only_matched(printed: &str) -> Result<()> {
    let events = printed
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<Vec<Value>>>()?;
    let of_kind = |kind: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["kind"] == kind)
            .collect()
    };
    let (execs, opens, exits) = (of_kind("exec"), of_kind("open"), of_kind("exit"));
    ensure!(
        (execs.len(), opens.len(), exits.len()) == (1, 1, 2) && events.len() == 4,
        "not these events"
    );
    let exec = execs[0];
    ensure!(
        exec["verdict"]["rule"] == "netcat"
            && exec["exec"]["syscall"] == "execve"
            && exec["exec"]["argv"][1] == "-h"
            && exec["exec"]["file"]["path"]
                .as_str()
                .is_some_and(|path| path.contains("nc")),
        "not this exec"
    );
    ensure!(
        opens[0]["verdict"]["rule"] == "key" && opens[0]["process"]["exe"] == "/usr/bin/cat",
        "not this open"
    );
    for event in execs.iter().chain(&opens) {
        let ancestors = event["process"]["ancestors"].as_array();
        ensure!(
            ancestors.is_some_and(|ancestors| !ancestors.is_empty()),
            "no ancestors"
        );
    }
    Ok(())
}

fn ignored(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "ignored", kernel)?;
        machine.shell("mkdir -p /srv/noise && cd /srv/noise && touch one key ../other")?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: noise}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: noise, on: open, paths: [/srv/noise/], action: \
              ignore}\n    - {name: key, on: open, paths: [/srv/noise/key], action: kill}\n",
        )?;
        for attachment in ["lsm", "fentry", "kprobe"] {
            let job = machine
                .command("shrike-agent")
                .args(["watch", "--policy", "/tmp/policy.yaml", "-o", "json"])
                .args(["--opens", "all", "--attach", attachment])
                .spawn()?;
            wait_until_ready(&job)?;
            insist(&machine, &["cat", "/srv/noise/one"], Outcome::SUCCESS)?;
            insist(&machine, &["cat", "/srv/noise/key"], Outcome::Signal(9))?;
            insist(&machine, &["cat", "/srv/other"], Outcome::SUCCESS)?;
            job.wait_for(READY_TIMEOUT, "prints the last open", |stdout, _| {
                let stdout = String::from_utf8_lossy(stdout);
                stdout.contains("\"path\":\"/srv/other\"").then_some(())
            })?;
            job.signal(TERMINATE)?;
            let finished = job.wait(READY_TIMEOUT)?;
            let printed = finished.stdout_text();
            ensure!(
                printed.contains("\"path\":\"/srv/noise/key\"")
                    && !printed.contains("\"path\":\"/srv/noise/one\""),
                "{kernel}, {attachment}: {printed}"
            );
        }
    }
    Ok(())
}

fn doctor(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = boot(fixture, "doctor", kernel)?;
        for (attachment, processes, ability) in [
            ("lsm", "all", "enforces kill and deny"),
            ("lsm", "matched", "enforces kill and deny"),
            ("fentry", "all", "enforces kill, not deny"),
            ("kprobe", "all", "enforces kill, not deny"),
            ("kprobe", "matched", "enforces kill, not deny"),
        ] {
            let ran = machine
                .command("shrike-agent")
                .args(["doctor", "--attach", attachment])
                .args(["--processes", processes])
                .run()?;
            let said = ran.stdout_text();
            // Only newer kernels say how often they left out a kprobe.
            let misses = match (attachment, kernel) {
                ("kprobe", Kernel::V6_12) => "leaves out are counted",
                ("kprobe", Kernel::V6_1) => "it tells from Linux 6.7 on",
                _ => "",
            };
            ensure!(
                ran.outcome == Outcome::SUCCESS
                    && said.contains(misses)
                    && said.contains(ability)
                    && said.matches("self-test").count() == 4
                    && said.ends_with("doctor: ok\n"),
                "{kernel}, {attachment}, {processes}: {:?}\n{said}{}",
                ran.outcome,
                ran.stderr_text()
            );
        }
        // Without BPF among the security modules in use, LSM programs attach
        // and are never called: it must not be taken.
        machine.shell("umount /sys/kernel/security")?;
        let ran = machine
            .command("shrike-agent")
            .args(["doctor", "--attach", "lsm"])
            .run()?;
        ensure!(
            ran.outcome == Outcome::Code(5) && ran.stderr_text().contains("BPF LSM"),
            "{kernel}: {:?}: {}",
            ran.outcome,
            ran.stderr_text()
        );
        let ran = machine.command("shrike-agent").arg("doctor").run()?;
        ensure!(
            ran.outcome == Outcome::SUCCESS
                && ran.stdout_text().contains("enforces kill, not deny")
                && ran.stdout_text().contains("BPF LSM"),
            "{kernel}: {:?}: {}",
            ran.outcome,
            ran.stdout_text()
        );
    }
    Ok(())
}

fn without_btf(fixture: &mut Fixture) -> Result<()> {
    let machine = boot(fixture, "no-btf", Kernel::V6_1)?;
    machine.shell("mount -t tmpfs tmpfs /sys/kernel/btf")?;
    let ran = machine.command("shrike-agent").arg("watch").run()?;
    let said = ran.stderr_text();
    ensure!(
        ran.outcome == Outcome::Code(5),
        "{:?}:\n{said}",
        ran.outcome
    );
    ensure!(
        said.contains("CONFIG_DEBUG_INFO_BTF"),
        "the option is not named:\n{said}"
    );
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    Ok(())
}

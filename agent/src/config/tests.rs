use super::*;

const WHOLE: &str = r#"
node = "web-1"
collectors = ["collector.example:7433", "[::1]:7433"]
otlp_endpoint = "http://127.0.0.1:4317"
ring_bytes = 1048576
priority_ring_bytes = 131072
opens = "all"
processes = "matched"
exec_environment = "keys"
attach = "fentry"
pin = "/sys/fs/bpf/other"
state = "/var/lib/other"

[tls]
ca = "/etc/shrike/ca.pem"
certificate = "/etc/shrike/agent.pem"
key = "/etc/shrike/agent.key"

[guard]
kills_per_minute = 7
never_kill = ["/usr/sbin/sshd", "/usr/bin/login"]
kill_patience_ms = 2500

[spool]
bytes_max = 8388609
sync = "interval"
sync_interval_ms = 250

[batch]
events_max = 10

[labels]
role = "web"
"#;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<AgentConfig, ConfigError> {
    AgentConfig::parse(
        Path::new("agent.toml"),
        text,
        environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    )
}

#[test]
fn whole_configuration_is_read() {
    let config = parse(WHOLE, &[]).unwrap();
    assert_eq!(config.node.as_str(), "web-1");
    assert_eq!(config.collectors.len(), 2);
    assert_eq!(config.ring_bytes, 1 << 20);
    assert_eq!(config.priority_ring_bytes, 1 << 17);
    assert_eq!(config.opens, Opens::All);
    assert_eq!(config.processes, Processes::Matched);
    assert_eq!(config.exec_environment, ExecEnvironment::Keys);
    assert_eq!(config.attach, Some(Attachment::Fentry));
    assert_eq!(config.pin.as_deref(), Some(Path::new("/sys/fs/bpf/other")));
    assert_eq!(config.state, Path::new("/var/lib/other"));
    assert_eq!(config.spool.bytes_max, 8_388_609);
    assert_eq!(
        config.spool.sync,
        Sync::Interval(Duration::from_millis(250))
    );
    assert_eq!(config.guard.kills_per_minute, 7);
    assert_eq!(config.guard.never_kill[1].as_str(), "/usr/bin/login");
    assert_eq!(config.guard.kill_patience, Duration::from_millis(2500));
    assert_eq!(config.batch_events_max, 10);
    assert_eq!(config.labels["role"], "web");
}

#[test]
fn enforcement_outlives_the_agent_unless_told_otherwise() {
    let without = WHOLE.replace("pin = \"/sys/fs/bpf/other\"\n", "");
    let pin = |environment: &[(&str, &str)]| parse(&without, environment).unwrap().pin;
    assert_eq!(pin(&[]).as_deref(), Some(Path::new(PINS)));
    assert_eq!(pin(&[("SHRIKE_AGENT_PIN", "")]), None);
    let nowhere = WHOLE.replace("/sys/fs/bpf/other", "");
    let config = parse(&nowhere, &[]).unwrap();
    assert_eq!(config.pin, None);
    assert_eq!(parse(&config.to_string(), &[]).unwrap(), config);
    assert!(parse(&without, &[("SHRIKE_AGENT_PIN", "bpf")]).is_err());
}

#[test]
fn printed_configuration_reads_back_the_same() {
    let config = parse(WHOLE, &[]).unwrap();
    assert_eq!(parse(&config.to_string(), &[]).unwrap(), config);
}

#[test]
fn environment_wins_over_the_file() {
    let config = parse(
        WHOLE,
        &[
            ("SHRIKE_AGENT_NODE", "web-2"),
            ("SHRIKE_AGENT_OPENS", "matched"),
            ("SHRIKE_AGENT_PROCESSES", "all"),
            ("SHRIKE_AGENT_EXEC_ENVIRONMENT", "none"),
            ("SHRIKE_AGENT_GUARD_KILLS_PER_MINUTE", "0"),
            ("SHRIKE_AGENT_GUARD_NEVER_KILL", "/bin/a,/bin/b"),
            ("SHRIKE_AGENT_GUARD_KILL_PATIENCE_MS", "700"),
            ("SHRIKE_AGENT_ATTACH", "kprobe"),
            ("SHRIKE_AGENT_COLLECTORS", "a:1, b:2"),
            ("SHRIKE_AGENT_TLS_KEY", "/k"),
            ("SHRIKE_AGENT_LABELS", "role=db,zone=x"),
            ("SHRIKE_AGENT_SPOOL_BYTES_MAX", "8388608"),
            ("SHRIKE_AGENT_SPOOL_SYNC", "always"),
            ("HOME", "/"),
        ],
    )
    .unwrap();
    assert_eq!(config.node.as_str(), "web-2");
    assert_eq!(config.opens, Opens::Matched);
    assert_eq!(config.processes, Processes::All);
    assert_eq!(config.exec_environment, ExecEnvironment::None);
    assert_eq!(config.guard.kills_per_minute, 0);
    assert_eq!(config.guard.never_kill.len(), 2);
    assert_eq!(config.guard.kill_patience, Duration::from_millis(700));
    assert_eq!(config.attach, Some(Attachment::Kprobe));
    assert_eq!(config.collectors, ["a:1", "b:2"]);
    assert_eq!(config.tls.key, Path::new("/k"));
    assert_eq!(config.labels["zone"], "x");
    assert_eq!(config.spool.bytes_max, 8 << 20);
    assert_eq!(config.spool.sync, Sync::Always);
}

#[test]
fn environment_alone_suffices() {
    let config = parse(
        "",
        &[
            ("SHRIKE_AGENT_NODE", "n"),
            ("SHRIKE_AGENT_COLLECTORS", "c:7433"),
            ("SHRIKE_AGENT_TLS_CA", "/ca"),
            ("SHRIKE_AGENT_TLS_CERTIFICATE", "/cert"),
            ("SHRIKE_AGENT_TLS_KEY", "/key"),
        ],
    )
    .unwrap();
    assert_eq!(config.spool, SpoolLimits::default());
    assert_eq!(config.ring_bytes, RING_BYTES_DEFAULT);
}

#[test]
fn mistakes_are_named_with_their_place() {
    let check = |text: &str, expect: &str| {
        let message = parse(text, &[]).unwrap_err().to_string();
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    };
    check("nodes = 1", "agent.toml:1:1: unknown field `nodes`");
    check("\n\n  ring_bytes = \"x\"", "agent.toml:3:16: ");
    check("node = \"a\"\nnode = \"b\"", "agent.toml:2:1: ");
    check(
        "[tls]\nkeys = \"x\"",
        "agent.toml:2:1: unknown field `keys`",
    );
    check("node = [", "agent.toml:1:");
    check("node = \"A B\"", "node: node name \"A B\" is not valid");
    check("node = \"a\"", "collectors is missing");
    check(
        "node = \"a\"\ncollectors = [\"c\"]",
        "\"c\" is not HOST:PORT",
    );
    check("node = \"a\"\ncollectors = [\"c:1\"]", "tls.ca is missing");
    check(&WHOLE.replace("1048576", "1000"), "ring_bytes = 1000");
    check(
        &WHOLE.replace("131072", "131073"),
        "priority_ring_bytes = 131073",
    );
    check(&WHOLE.replace("8388609", "1"), "spool.bytes_max = 1");
    check(
        &WHOLE.replace("\"interval\"", "\"often\""),
        "unknown variant `often`",
    );
    check(&WHOLE.replace("= 10\n", "= 0\n"), "batch.events_max = 0");
    check(
        &WHOLE.replace("interval_ms = 250", "interval_ms = 1"),
        "spool.sync_interval_ms = 1",
    );
    check(
        &WHOLE.replace("http://127", "127"),
        "write it as http://HOST:PORT",
    );
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let check = |variable: &str, value: &str, expect: &str| {
        let message = parse(WHOLE, &[(variable, value)]).unwrap_err().to_string();
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    };
    check(
        "SHRIKE_AGENT_RING_BYTES",
        "many",
        "SHRIKE_AGENT_RING_BYTES=\"many\"",
    );
    check("SHRIKE_AGENT_LABELS", "role", "KEY=VALUE");
    check(
        "SHRIKE_AGENT_COLLECTOR",
        "c:1",
        "did you mean SHRIKE_AGENT_COLLECTORS",
    );
}

#[test]
fn credentials_in_the_endpoint_are_refused_and_not_printed() {
    let text = WHOLE.replace("127.0.0.1", "me:hunter2@127.0.0.1");
    let message = parse(&text, &[]).unwrap_err().to_string();
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn missing_file_is_named() {
    let message = AgentConfig::load(Path::new("/nowhere/agent.toml"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("/nowhere/agent.toml"), "{message}");
}

#[test]
fn certificate_must_speak_for_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    fs::write(path("ca.pem"), ca.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(
        "spiffe://a.test/agent/web-2".try_into().unwrap(),
    )];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(path("agent.pem"), certificate.pem()).unwrap();
    fs::write(path("agent.key"), key.serialize_pem()).unwrap();
    let mut config = parse(WHOLE, &[]).unwrap();
    config.tls = TlsFiles {
        ca: path("ca.pem"),
        certificate: path("agent.pem"),
        key: path("agent.key"),
    };
    let message = config.identity().unwrap_err().to_string();
    assert!(message.contains("\"web-1\"") && message.contains("\"web-2\""));
    config.node = NodeId::parse("web-2").unwrap();
    config.identity().unwrap();
}

//! The example configuration that `deploy/` ships is one that the agent takes.

use std::path::Path;

use shrike_agent::config::AgentConfig;

const EXAMPLE: &str = include_str!("../../deploy/config/agent.toml");

#[test]
fn example_configuration_is_taken() {
    let config = AgentConfig::parse(Path::new("agent.toml"), EXAMPLE, [])
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.collectors, ["collector.example:7433"]);
    assert_eq!(config.labels["role"], "web");
    assert_eq!(config.tls.key, Path::new("/etc/shrike/tls/agent.key"));
}

#[test]
fn commented_settings_of_the_example_are_taken_too() {
    let uncommented = uncomment(EXAMPLE);
    let config = AgentConfig::parse(Path::new("agent.toml"), &uncommented, [])
        .unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    assert_eq!(config.node.as_str(), "web-1");
    assert_eq!(
        config.otlp_endpoint.as_deref(),
        Some("http://127.0.0.1:4317")
    );
}

/// Turns `# key = value` lines into settings.
fn uncomment(text: &str) -> String {
    text.lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

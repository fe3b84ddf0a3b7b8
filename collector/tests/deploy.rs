//! The example configuration that `deploy/` ships is one that the collector
//! takes.

use std::path::Path;

use shrike_collector::config::CollectorConfig;

const EXAMPLE: &str = include_str!("../../deploy/config/collector.toml");

#[test]
fn example_configuration_is_taken() {
    let config = CollectorConfig::parse(EXAMPLE, Path::new("collector.toml"), [])
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.listen.port(), 7433);
    assert_eq!(config.data_dir, Path::new("/var/lib/shrike"));
    assert_eq!(config.retention.days, 30);
}

#[test]
fn commented_settings_of_the_example_are_taken_too() {
    let uncommented = EXAMPLE.replace("# otlp_endpoint", "otlp_endpoint");
    let config = CollectorConfig::parse(&uncommented, Path::new("collector.toml"), [])
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        config.otlp_endpoint.as_deref(),
        Some("http://127.0.0.1:4317")
    );
}

//! Logs on stderr and OpenTelemetry traces over OTLP, alike in every binary.
//!
//! Telemetry never hurts the job: the exporter has a bounded queue of its
//! own, an endpoint that is away costs spans and a warning, and without one
//! nothing is exported at all.

mod context;

pub use context::{continue_from, extract, inject, link_to, traceparent};

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::LevelFilter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Longest that one export may take before its spans are given up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What to log and where to export.
#[derive(Debug, Clone)]
pub struct TelemetryOptions {
    /// `service.name` of the resource, for example `shrike-agent`.
    pub service_name: &'static str,
    /// `service.instance.id`: the node, collector or person; empty for none.
    pub instance: String,
    /// OTLP over gRPC, for example `http://127.0.0.1:4317`; `None` exports
    /// nothing.
    pub otlp_endpoint: Option<String>,
    /// Filter for the logs when `SHRIKE_LOG` is not set, for example `info`.
    pub default_filter: &'static str,
}

/// Telemetry that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `SHRIKE_LOG` is not a filter.
    #[error("SHRIKE_LOG is not a filter such as `info` or `shrike_agent=debug`")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The endpoint is not one.
    #[error("the OTLP endpoint {endpoint:?} is not usable: write it as http://HOST:PORT")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// Why.
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// Keeps the exporter alive; [`shutdown`](Self::shutdown) flushes it.
#[derive(Debug)]
#[must_use = "spans are exported while this lives"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is queued, for at most the export time-out. Failures are
    /// logged only.
    pub fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        if let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::debug!(%error, "spans were lost at shutdown");
        }
    }
}

/// Sets up logs and, with an endpoint, traces for the whole process. Must run
/// inside a tokio runtime when an endpoint is given.
///
/// # Errors
/// [`TelemetryError`] for a filter or endpoint that is malformed. An endpoint
/// that is merely away is no error.
///
/// # Panics
/// When called twice in one process.
pub fn init(options: &TelemetryOptions) -> Result<Telemetry, TelemetryError> {
    let filter = match std::env::var("SHRIKE_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?
        }
        _ => EnvFilter::new(options.default_filter),
    };
    let provider = options
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| provider(options, endpoint))
        .transpose()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(options.service_name))
            // The exporter's own client must not trace itself, and spans of
            // the HTTP/2 machinery say nothing about events or policies.
            .with_filter(
                tracing_subscriber::filter::Targets::new()
                    .with_default(LevelFilter::OFF)
                    .with_target("shrike", LevelFilter::INFO),
            )
    });
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_filter(filter),
        )
        .with(traces)
        .init();
    Ok(Telemetry { provider })
}

fn provider(
    options: &TelemetryOptions,
    endpoint: &str,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TelemetryError::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    let mut resource = Resource::builder()
        .with_service_name(options.service_name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if !options.instance.is_empty() {
        resource = resource.with_attribute(KeyValue::new(
            "service.instance.id",
            options.instance.clone(),
        ));
    }
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

//! Trace context across processes: W3C Trace Context, `traceparent`, in gRPC
//! metadata or in a message's own field.

use std::collections::HashMap;

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector},
    trace::TraceContextExt as _,
};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

/// Writes the current span's context into a request's metadata.
pub fn inject(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut MetadataInjector(metadata));
    });
}

/// Makes `span` a child of the context in a request's metadata, if any.
pub fn extract(span: &Span, metadata: &MetadataMap) {
    let context = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&MetadataExtractor(metadata))
    });
    set_parent(span, context);
}

/// Returns the current span's `traceparent`; empty when it is not exported.
pub fn traceparent() -> String {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut carrier);
    });
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

/// Makes `span` a child of a `traceparent`; an empty or malformed one is
/// ignored.
pub fn continue_from(span: &Span, traceparent: &str) {
    set_parent(span, parse(traceparent));
}

/// Links `span` to a `traceparent`; an empty or malformed one is ignored.
pub fn link_to(span: &Span, traceparent: &str) {
    let context = parse(traceparent).span().span_context().clone();
    if context.is_valid() {
        span.add_link(context);
    }
}

fn parse(traceparent: &str) -> Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&carrier))
}

fn set_parent(span: &Span, context: Context) {
    if context.span().span_context().is_valid() {
        // Fails only without an exporting subscriber: then there is no trace.
        let _ = span.set_parent(context);
    }
}

struct MetadataInjector<'a>(&'a mut MetadataMap);

impl Injector for MetadataInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (
            MetadataKey::from_bytes(key.as_bytes()),
            MetadataValue::try_from(value),
        ) {
            self.0.insert(key, value);
        }
    }
}

struct MetadataExtractor<'a>(&'a MetadataMap);

impl Extractor for MetadataExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .filter_map(|key| match key {
                tonic::metadata::KeyRef::Ascii(key) => Some(key.as_str()),
                tonic::metadata::KeyRef::Binary(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Runs `test` with spans that have trace IDs, exported to nowhere.
    fn with_traces(test: impl FnOnce()) {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
    }

    fn trace_id(span: &Span) -> opentelemetry::trace::TraceId {
        span.context().span().span_context().trace_id()
    }

    #[test]
    fn metadata_carries_the_trace_to_the_server() {
        with_traces(|| {
            let client = tracing::info_span!("client");
            let mut metadata = MetadataMap::new();
            client.in_scope(|| inject(&mut metadata));
            let server = tracing::info_span!("server");
            extract(&server, &metadata);
            assert_eq!(trace_id(&server), trace_id(&client));
        });
    }

    #[test]
    fn traceparent_carries_the_trace_in_a_message() {
        with_traces(|| {
            let sender = tracing::info_span!("sender");
            let field = sender.in_scope(traceparent);
            assert!(field.starts_with("00-"), "{field:?}");
            let receiver = tracing::info_span!("receiver");
            continue_from(&receiver, &field);
            assert_eq!(trace_id(&receiver), trace_id(&sender));
        });
    }

    #[test]
    fn malformed_traceparent_starts_a_trace_of_its_own() {
        with_traces(|| {
            for field in [
                "",
                "00-zz",
                "00-00000000000000000000000000000000-0-0",
                "\u{0}",
            ] {
                let span = tracing::info_span!("receiver");
                continue_from(&span, field);
                link_to(&span, field);
                assert_ne!(
                    trace_id(&span),
                    opentelemetry::trace::TraceId::INVALID,
                    "{field:?}"
                );
            }
        });
    }
}

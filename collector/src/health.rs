//! `grpc.health.v1`: the whole collector under the empty name, and ingest,
//! which does not serve while nothing can be stored.

use shrike_proto::wire::ingest::ingest_service_server;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::store::writer::State;

/// Follows the store's state until `stop` is cancelled.
pub async fn follow(
    reporter: HealthReporter,
    mut state: watch::Receiver<State>,
    stop: CancellationToken,
) {
    reporter
        .set_service_status("", ServingStatus::Serving)
        .await;
    loop {
        let serving = match *state.borrow_and_update() {
            State::Healthy => ServingStatus::Serving,
            State::NoRoom { .. } | State::Failed(_) => ServingStatus::NotServing,
        };
        reporter
            .set_service_status(ingest_service_server::SERVICE_NAME, serving)
            .await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = stop.cancelled() => {
                for name in ["", ingest_service_server::SERVICE_NAME] {
                    reporter.set_service_status(name, ServingStatus::NotServing).await;
                }
                return;
            }
        }
    }
}

//! What the agent has to say itself.

use serde::Serialize;

use super::verdict::ReceiptView;
use crate::event::{Alert, Cause};

#[derive(Serialize)]
pub(super) struct AlertView<'a> {
    cause: &'static str,
    reason: &'a str,
    obstacle: Option<&'static str>,
    receipt: Option<ReceiptView<'a>>,
}

impl<'a> From<&'a Alert> for AlertView<'a> {
    fn from(alert: &'a Alert) -> Self {
        Self {
            cause: alert.cause.as_str(),
            reason: &alert.reason,
            obstacle: match alert.cause {
                Cause::KillSurvived { obstacle, .. } => Some(obstacle.as_str()),
                Cause::SignalFailed(_) | Cause::KillUnproven(_) | Cause::Miscount => None,
            },
            receipt: alert.receipt().map(Into::into),
        }
    }
}

//! Verdicts and receipts.

use serde::Serialize;

use crate::event::{Outcome, Receipt, Verdict};

#[derive(Serialize)]
pub(super) struct VerdictView<'a> {
    action: &'static str,
    policy: &'a str,
    rule: &'a str,
    outcome: &'static str,
    signal_result: Option<i32>,
    denied: bool,
}

impl<'a> From<&'a Verdict> for VerdictView<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        Self {
            action: verdict.action.as_str(),
            policy: verdict.policy.as_str(),
            rule: verdict.rule.as_str(),
            outcome: outcome_name(verdict.outcome),
            signal_result: match verdict.outcome {
                Outcome::SignalSent => Some(0),
                Outcome::SignalFailed(errno) => Some(errno),
                Outcome::Noted
                | Outcome::Observed
                | Outcome::SparedInit
                | Outcome::SparedKernelThread
                | Outcome::SparedAgent
                | Outcome::SparedProtected
                | Outcome::BreakerOpen
                | Outcome::Denied => None,
            },
            denied: verdict.denied,
        }
    }
}

/// Returns the name that an outcome has in every output.
pub(in crate::event) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Noted => "noted",
        Outcome::Observed => "observed",
        Outcome::SignalSent => "signal-sent",
        Outcome::SignalFailed(_) => "signal-failed",
        Outcome::SparedInit => "spared-init",
        Outcome::SparedKernelThread => "spared-kernel-thread",
        Outcome::SparedAgent => "spared-agent",
        Outcome::Denied => "denied",
        Outcome::SparedProtected => "spared-protected",
        Outcome::BreakerOpen => "breaker-open",
    }
}

#[derive(Serialize)]
pub(super) struct ReceiptView<'a> {
    generation: u64,
    policy: &'a str,
    rule: &'a str,
    signal_result: i32,
    died_by_it: bool,
    verdict_sequence: u64,
    after_ns: u64,
}

impl<'a> From<&'a Receipt> for ReceiptView<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Self {
            generation: receipt.generation.0,
            policy: receipt.policy.as_str(),
            rule: receipt.rule.as_str(),
            signal_result: receipt.signal_result,
            died_by_it: receipt.died_by_it,
            verdict_sequence: receipt.verdict_sequence.0,
            after_ns: receipt.after_ns,
        }
    }
}

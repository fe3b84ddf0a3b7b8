//! Where processes begin and end.

use std::borrow::Cow;

use serde::Serialize;

use super::verdict::ReceiptView;
use crate::{
    escape::lossless,
    event::{Exit, Fork},
};

#[derive(Serialize)]
pub(super) struct ForkView<'a> {
    child_pid: u32,
    child_tid: u32,
    child_start_boot_ns: u64,
    child_comm: Cow<'a, str>,
}

impl<'a> From<&'a Fork> for ForkView<'a> {
    fn from(fork: &'a Fork) -> Self {
        Self {
            child_pid: fork.child_tgid,
            child_tid: fork.child_tid,
            child_start_boot_ns: fork.child_start_boot_ns,
            child_comm: lossless(&fork.child_comm),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ExitView<'a> {
    code: u32,
    signal: u32,
    core_dumped: bool,
    duration_ns: Option<u64>,
    repeated_opens: u64,
    group_exit: bool,
    receipt: Option<ReceiptView<'a>>,
}

impl<'a> From<&'a Exit> for ExitView<'a> {
    fn from(exit: &'a Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            duration_ns: (exit.duration_ns != 0).then_some(exit.duration_ns),
            repeated_opens: exit.repeated_opens,
            group_exit: exit.group_exit,
            receipt: exit.receipt.as_ref().map(Into::into),
        }
    }
}

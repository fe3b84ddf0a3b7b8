//! Execs.

use std::borrow::Cow;

use serde::Serialize;

use super::{Each, file::FileView, image::ImageView, known, known_text};
use crate::{
    escape::lossless,
    event::{Exec, ResolvedPath, errno},
};

#[derive(Serialize)]
pub(super) struct ExecView<'a> {
    syscall: Option<&'a str>,
    result: i32,
    error: Option<&'static str>,
    path_as_asked: Cow<'a, str>,
    file: Option<FileView<'a>>,
    interpreter: Option<Cow<'a, str>>,
    argv: Each<'a, Vec<u8>, Cow<'a, str>>,
    argv_truncated: bool,
    from_user_memory: bool,
    directory_fd: i32,
    flags: u32,
    memfd: bool,
    image: Option<ImageView<'a>>,
}

impl<'a> From<&'a Exec> for ExecView<'a> {
    fn from(exec: &'a Exec) -> Self {
        Self {
            syscall: known_text(&exec.syscall),
            result: exec.result,
            error: errno::name(exec.result),
            path_as_asked: lossless(&exec.path_as_asked),
            file: exec.file.as_ref().map(Into::into),
            interpreter: known(&exec.interpreter),
            argv: Each(&exec.argv, |argument| lossless(argument)),
            argv_truncated: exec.argv_truncated,
            from_user_memory: exec.from_user_memory,
            directory_fd: exec.directory_fd,
            flags: exec.flags,
            memfd: exec.file.as_ref().is_some_and(ResolvedPath::is_memfd),
            image: exec.image.as_deref().map(Into::into),
        }
    }
}

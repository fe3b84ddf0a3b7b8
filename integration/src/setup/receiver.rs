//! A real OpenTelemetry receiver, `rotel`, to send traces to.
//!
//! It comes from PyPI, through a virtual environment that is thrown away:
//! what is kept is its one program, and beside it the Python library that it
//! is linked with where the machine has none.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, fresh_folder};
use crate::layout::Layout;
use crate::outside;
use crate::progress::{self, Step};

const VERSION: &str = "0.0.1a15";

/// The package of the library that the program is linked with.
const PYTHON_LIBRARY: &str = "libpython3.11";

/// Where the program lies once it is there.
pub fn program(layout: &Layout) -> PathBuf {
    layout.receiver().join("rotel-agent")
}

/// A command that runs the receiver, its libraries included.
pub fn command(layout: &Layout) -> Command {
    let mut command = Command::new(program(layout));
    let libraries = layout.receiver().join("root/usr/lib/x86_64-linux-gnu");
    if libraries.is_dir() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

fn works(layout: &Layout) -> bool {
    program(layout).is_file() && outside::finish(command(layout).arg("version")).is_ok()
}

/// Fetches the receiver where it is not there.
///
/// # Errors
/// When it cannot be had from PyPI.
pub fn prepare(layout: &Layout) -> Result<()> {
    if works(layout) {
        progress::ready("receiver", "rotel");
        return Ok(());
    }
    let mut step = Step::start(
        "receiver",
        "fetching rotel, an OpenTelemetry receiver, from PyPI",
    );
    let environment = layout.prepared().join("rotel.partial");
    fresh_folder(&environment)?;
    outside::finish(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment),
    )?;
    step.update("fetching rotel, an OpenTelemetry receiver, from PyPI");
    outside::finish(
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--no-deps", "--target"])
            .arg(environment.join("packages"))
            .arg(format!("rotel=={VERSION}")),
    )
    .context("set-up takes rotel from PyPI: is the network up?")?;

    fs::create_dir_all(layout.receiver())?;
    fs::rename(
        environment.join("packages/rotel/rotel-agent"),
        program(layout),
    )
    .context("the rotel package holds no rotel-agent")?;
    if !works(layout) {
        let root = layout.receiver().join("root");
        apt::ensure_known(&[PYTHON_LIBRARY])?;
        apt::unpack(&[PYTHON_LIBRARY], &root, &mut step)?;
    }
    if !works(layout) {
        bail!(
            "the receiver does not run; try it yourself:\n  {} version",
            program(layout).display()
        );
    }
    fs::remove_dir_all(&environment).context("cannot remove the virtual environment")?;
    step.done(&format!("rotel {VERSION}"));
    Ok(())
}

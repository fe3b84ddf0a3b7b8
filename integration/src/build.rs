//! Building the workspace, and where cargo put what it built.
//!
//! Cargo is asked, never guessed at: it says itself which executables a
//! build made, whatever the build directory is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::layout::Layout;
use crate::progress::Step;

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `shrike-agent`.
    pub agent: PathBuf,
    /// `shrike-collector`.
    pub collector: PathBuf,
    /// `shrikectl`.
    pub ctl: PathBuf,
    /// The runner inside the machines, `shrike-guest`.
    pub guest: PathBuf,
}

/// What to build, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// Every program, quick to build.
    Development,
    /// Every program, optimised.
    Release,
    /// Every test and with them every program, quick to build.
    Tests,
    /// Only the runner, which needs nothing of the rest.
    Guest,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Development => "the programs",
            Self::Release => "the programs, optimised",
            Self::Tests => "the programs and the tests",
            Self::Guest => "the machines' runner",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            // There are no examples. Asking for them makes cargo choose the
            // features that tests ask for as well, and so the dependencies
            // that a demo has compiled are those of the tests.
            Self::Development => &["build", "--workspace", "--bins", "--examples"],
            // Exactly the features that ship: this is what gets measured.
            Self::Release => &["build", "--workspace", "--bins", "--release"],
            // Built the way `cargo test` builds (its features, its packages),
            // so that it compiles nothing again; only that it leaves out the
            // programs of crates without tests of their own.
            Self::Tests => &["build", "--workspace", "--bins", "--tests"],
            Self::Guest => &[
                "build",
                "--package",
                "shrike-integration",
                "--bin",
                "shrike-guest",
            ],
        }
    }
}

/// Builds, showing how far it is, and returns executables by target name.
///
/// # Errors
/// When the build fails; the compiler's words are on stderr then.
pub fn run(layout: &Layout, what: What) -> Result<BTreeMap<String, PathBuf>> {
    let mut step = Step::start("build", &format!("building {}", what.name()));
    let live = std::io::stderr().is_terminal();
    let mut cargo = Command::new("cargo");
    cargo
        .args(what.arguments())
        .arg("--message-format=json-render-diagnostics")
        .current_dir(layout.workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if live {
        // Cargo's own bar counts the crates.
        step.hand_over();
    } else {
        cargo.arg("--quiet");
    }
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let (mut crates, mut executables) = (0_usize, BTreeMap::new());
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's messages are not text")?;
        let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(&line) else {
            continue;
        };
        crates += 1;
        if !live {
            step.update(&format!("building {}: {crates} crates", what.name()));
        }
        if let Some(executable) = artifact.executable
            && artifact.target.kind.iter().any(|kind| kind == "bin")
            && !artifact.profile.test
        {
            executables.insert(artifact.target.name, executable);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the build failed ({status}); the compiler's words are above");
    }
    step.done(&format!("built {} ({crates} crates)", what.name()));
    Ok(executables)
}

/// How tests learn where the programs are.
const VARIABLES: [&str; 4] = [
    "SHRIKE_TEST_AGENT",
    "SHRIKE_TEST_COLLECTOR",
    "SHRIKE_TEST_CTL",
    "SHRIKE_TEST_GUEST",
];

impl Binaries {
    /// Builds the programs, unless the environment names ready-made ones.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build(layout: &Layout, what: What) -> Result<Self> {
        match Self::from_environment() {
            Some(binaries) => Ok(binaries),
            None => Self::from(run(layout, what)?),
        }
    }

    /// The variables that hand these programs to a test.
    pub fn environment(&self) -> [(&'static str, &Path); 4] {
        let paths = [&*self.agent, &*self.collector, &*self.ctl, &*self.guest];
        std::array::from_fn(|index| (VARIABLES[index], paths[index]))
    }

    /// The programs that [`Self::environment`] handed over; `None` where
    /// nobody did.
    pub fn from_environment() -> Option<Self> {
        let [agent, collector, ctl, guest] = VARIABLES.map(std::env::var_os);
        Some(Self {
            agent: agent?.into(),
            collector: collector?.into(),
            ctl: ctl?.into(),
            guest: guest?.into(),
        })
    }

    /// Picks the programs from what a build made.
    fn from(mut executables: BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut take = |name: &str| {
            executables
                .remove(name)
                .with_context(|| format!("the build made no {name}"))
        };
        Ok(Self {
            agent: take("shrike-agent")?,
            collector: take("shrike-collector")?,
            ctl: take("shrikectl")?,
            guest: take("shrike-guest")?,
        })
    }
}

/// The messages of `cargo build --message-format=json` that matter here.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact(Artifact),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    target: Target,
    profile: Profile,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

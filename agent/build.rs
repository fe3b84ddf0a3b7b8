//! Builds the eBPF object, which the agent carries inside of itself.
//!
//! Three ways, in this order: an object that a packager built
//! (`SHRIKE_EBPF_OBJECT`), a nightly with rust-src and bpf-linker, and
//! the toolchain that `cargo xtask setup` unpacks (elsewhere with
//! `SHRIKE_EBPF_TOOLCHAIN`).

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "shrike-ebpf";

fn main() {
    if let Err(reason) = build() {
        eprintln!("{reason}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the agent is not in a workspace")?
        .to_owned();
    let destination = Path::new(&variable("OUT_DIR")?).join(OBJECT);
    for name in ["SHRIKE_EBPF_OBJECT", "SHRIKE_EBPF_TOOLCHAIN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Some(object) = env::var_os("SHRIKE_EBPF_OBJECT") {
        println!("cargo::rerun-if-changed={}", Path::new(&object).display());
        return copy(Path::new(&object), &destination);
    }
    for source in ["agent-ebpf/src", "agent-ebpf/Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let toolchain = match env::var_os("SHRIKE_EBPF_TOOLCHAIN") {
        Some(path) => Toolchain::unpacked(Path::new(&path)),
        None => Toolchain::nightly()
            .or_else(|| Toolchain::unpacked(&root.join("target/shrike/toolchain"))),
    }
    .ok_or("no toolchain for eBPF: run `cargo xtask setup` once, or install a nightly with rust-src and bpf-linker")?;
    let object = toolchain.build(&root)?;
    copy(&object, &destination)
}

/// What builds the object.
struct Toolchain {
    /// `cargo`, or `rustup run nightly cargo`.
    cargo: Vec<OsString>,
    /// Added to the environment.
    environment: Vec<(&'static str, OsString)>,
    /// Added to the command line.
    arguments: Vec<&'static str>,
    linker: PathBuf,
}

impl Toolchain {
    /// A nightly with the sources of core, and bpf-linker on the path.
    fn nightly() -> Option<Self> {
        let sysroot =
            output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
        let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
        if !sources.exists() {
            return None;
        }
        let linker = env::split_paths(&env::var_os("PATH")?)
            .map(|folder| folder.join("bpf-linker"))
            .find(|file| file.exists())?;
        Some(Self {
            cargo: ["rustup", "run", "nightly", "cargo"]
                .map(OsString::from)
                .into(),
            environment: Vec::new(),
            arguments: vec!["-Z", "build-std=core"],
            linker,
        })
    }

    /// A rustc with a ready-made core for eBPF, and a bpf-linker, unpacked
    /// side by side.
    fn unpacked(folder: &Path) -> Option<Self> {
        let rustc = folder.join("root/usr/bin/rustc");
        let core = folder.join("root/usr/lib/rustlib").join(TARGET);
        let linker = folder.join("bpf-linker/bin/bpf-linker");
        if !(rustc.exists() && core.exists() && linker.exists()) {
            return None;
        }
        let mut libraries = vec![
            folder.join("root/usr/lib/x86_64-linux-gnu"),
            folder.join("root/usr/lib/llvm-22/lib"),
        ];
        if let Some(more) = env::var_os("LD_LIBRARY_PATH") {
            libraries.extend(env::split_paths(&more));
        }
        Some(Self {
            cargo: vec![env::var_os("CARGO")?],
            environment: vec![
                ("RUSTC", rustc.into()),
                ("LD_LIBRARY_PATH", env::join_paths(libraries).ok()?),
                // This rustc is no nightly; aya-ebpf and the programs use
                // inline assembly for eBPF, which is not stable.
                ("RUSTC_BOOTSTRAP", "1".into()),
            ],
            arguments: Vec::new(),
            linker,
        })
    }

    fn build(&self, root: &Path) -> Result<PathBuf, String> {
        // A folder of its own: cargo would wait for itself on a shared lock.
        let target_dir = root.join("target/shrike/ebpf");
        let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
        let flags = [
            format!("--cfg=bpf_target_arch=\"{architecture}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Cpanic=abort".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        let mut command = Command::new(&self.cargo[0]);
        command
            .args(&self.cargo[1..])
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "shrike-agent-ebpf",
            ])
            .args([
                "--bin",
                OBJECT,
                "--features",
                "programs",
                "--target",
                TARGET,
            ])
            .args(&self.arguments)
            .arg("--target-dir")
            .arg(&target_dir)
            .current_dir(root)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        for name in [
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "CARGO_BUILD_TARGET",
            "RUSTFLAGS",
        ] {
            command.env_remove(name);
        }
        if self.environment.iter().all(|(name, _)| *name != "RUSTC") {
            command.env_remove("RUSTC");
        }
        let status = command
            .status()
            .map_err(|error| format!("cannot run {:?}: {error}", self.cargo[0]))?;
        if !status.success() {
            return Err(format!("the eBPF object does not build ({status})"));
        }
        Ok(target_dir.join(TARGET).join("release").join(OBJECT))
    }
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|error| format!("cannot copy {}: {error}", from.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var_os(name)
        .as_deref()
        .and_then(OsStr::to_str)
        .map(str::to_owned)
        .ok_or_else(|| format!("cargo did not set {name}"))
}

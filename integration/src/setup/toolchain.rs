//! The compiler and linker for the eBPF programs.
//!
//! A nightly with `rust-src` and a `bpf-linker` on the PATH is used as it is.
//! Without them Debian's packages are unpacked (never installed) into
//! `target/shrike/toolchain`: a rustc whose core library for
//! `bpfel-unknown-none` is ready-made, and the LLVM that bpf-linker is then
//! built against.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{apt, fresh_folder};
use crate::layout::Layout;
use crate::outside;
use crate::progress::{self, Step};

const PACKAGES: [&str; 7] = [
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev",
    "libstd-rust-web-dev-bpf",
    "libllvm22",
    "llvm-22-dev",
    "llvm-22",
];

const LINKER_VERSION: &str = "0.13.0";

/// Rounds of unpacking libraries that unpacked libraries need.
const LIBRARY_ROUNDS_MAX: usize = 4;

/// Which toolchain builds the eBPF programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Toolchain {
    /// rustup's nightly with `rust-src`, and bpf-linker from the PATH.
    Nightly,
    /// Debian's packages, unpacked in this folder.
    Unpacked(PathBuf),
}

/// Finds or makes a toolchain.
///
/// # Errors
/// When packages cannot be had or bpf-linker does not build.
pub fn prepare(layout: &Layout) -> Result<Toolchain> {
    if has_nightly() {
        progress::ready("toolchain", "nightly with rust-src, and bpf-linker");
        return Ok(Toolchain::Nightly);
    }
    let folder = layout.toolchain();
    let root = folder.join("root");
    if !compiler_works(&root) {
        unpack_compiler(&folder)?;
    }
    if !linker_works(&folder) {
        build_linker(&folder)?;
    }
    progress::ready("toolchain", "Debian's rustc for eBPF, and bpf-linker");
    Ok(Toolchain::Unpacked(folder))
}

fn has_nightly() -> bool {
    let sysroot = Command::new("rustc")
        .args(["+nightly", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output();
    let Ok(sysroot) = sysroot else { return false };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    sources.is_file() && outside::which("bpf-linker").is_some()
}

/// The folders that the unpacked programs find their libraries in.
fn library_path(root: &Path) -> String {
    format!(
        "{0}/usr/lib/x86_64-linux-gnu:{0}/usr/lib/llvm-22/lib",
        root.display()
    )
}

fn runs(program: &Path, root: &Path) -> bool {
    let version = Command::new(program)
        .arg("--version")
        .env("LD_LIBRARY_PATH", library_path(root))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

fn compiler_works(root: &Path) -> bool {
    root.join("usr/lib/rustlib/bpfel-unknown-none/lib").is_dir()
        && root.join("usr/lib/llvm-22/bin/llvm-config").exists()
        && runs(&root.join("usr/bin/rustc"), root)
}

fn linker_works(folder: &Path) -> bool {
    runs(
        &folder.join("bpf-linker/bin/bpf-linker"),
        &folder.join("root"),
    )
}

fn unpack_compiler(folder: &Path) -> Result<()> {
    apt::ensure_known(&PACKAGES)?;
    let mut step = Step::start("toolchain", "fetching Debian's rustc for eBPF and LLVM 22");
    let root = folder.join("root");
    let partial = folder.join("root.partial");
    fresh_folder(&partial)?;
    apt::unpack(&PACKAGES, &partial, &mut step)?;
    unpack_missing_libraries(&partial, &mut step)?;
    if !compiler_works(&partial) {
        bail!(
            "the unpacked compiler does not run; try it yourself:\n  LD_LIBRARY_PATH={} {}",
            library_path(&partial),
            partial.join("usr/bin/rustc").display()
        );
    }
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fs::rename(&partial, &root).with_context(|| format!("cannot create {}", root.display()))?;
    step.done("Debian's rustc for eBPF and LLVM 22 unpacked");
    Ok(())
}

/// A minimal machine lacks some of the libraries that LLVM needs; they are
/// unpacked beside it, from whatever packages it depends on.
fn unpack_missing_libraries(root: &Path, step: &mut Step) -> Result<()> {
    let mut unpacked: BTreeSet<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    for _ in 0..LIBRARY_ROUNDS_MAX {
        let missing = missing_libraries(root)?;
        if missing.is_empty() {
            return Ok(());
        }
        step.update(&format!("adding libraries: {}", missing.join(" ")));
        let mut wanted = BTreeSet::new();
        for package in &unpacked {
            for name in apt::depends(package)? {
                if name.starts_with("lib") && !unpacked.contains(&name) {
                    wanted.insert(name);
                }
            }
        }
        // The C library of the machine and that of a package must not mix.
        wanted.remove("libc6");
        if wanted.is_empty() {
            bail!(
                "the unpacked compiler lacks libraries: {}",
                missing.join(" ")
            );
        }
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        apt::unpack(&names, root, step)?;
        unpacked.extend(wanted);
    }
    bail!(
        "the unpacked compiler lacks libraries: {}",
        missing_libraries(root)?.join(" ")
    )
}

fn missing_libraries(root: &Path) -> Result<Vec<String>> {
    let programs = ["usr/bin/rustc", "usr/lib/llvm-22/bin/llvm-config"];
    let mut ldd = Command::new("ldd");
    ldd.args(programs.map(|program| root.join(program)))
        .env("LD_LIBRARY_PATH", library_path(root));
    let text = outside::read(&mut ldd)?;
    let missing: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.contains("=> not found"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    Ok(missing.into_iter().map(str::to_owned).collect())
}

fn build_linker(folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let install = folder.join("bpf-linker");
    let mut step = Step::start(
        "toolchain",
        &format!("building bpf-linker {LINKER_VERSION} (about a minute)"),
    );
    step.hand_over();
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
        ])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(&install)
        .env("LLVM_PREFIX", root.join("usr/lib/llvm-22"))
        .env("LD_LIBRARY_PATH", library_path(&root))
        // A build folder of its own: the workspace's may be locked by the
        // cargo that started this process.
        .env("CARGO_TARGET_DIR", folder.join("bpf-linker.build"));
    let status = cargo
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    if !status.success() || !linker_works(folder) {
        bail!(
            "bpf-linker {LINKER_VERSION} did not build ({status}); its words are above\n  \
             set-up takes it from the crate registry: is the network up?"
        );
    }
    let _ = fs::remove_dir_all(folder.join("bpf-linker.build"));
    step.done(&format!("bpf-linker {LINKER_VERSION} built"));
    Ok(())
}

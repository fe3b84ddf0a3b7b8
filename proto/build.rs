//! Compiles the wire schema with `protox`, so that nobody needs `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SCHEMA: &[&str] = &[
    "shrike/admin/v1/admin.proto",
    "shrike/control/v1/control.proto",
    "shrike/event/v1/event.proto",
    "shrike/ingest/v1/ingest.proto",
    "shrike/policy/v1/policy.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shrike");
    let descriptors = protox::compile(SCHEMA, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(
        out.join("shrike_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        // Canonical order: a policy set's hash is taken over its encoding.
        .btree_map(".")
        // Much larger than the other variants beside it.
        .boxed(".shrike.control.v1.StreamPoliciesRequest.message.hello")
        .boxed(".shrike.event.v1.Event.fact.exec")
        .compile_fds(descriptors)?;
    Ok(())
}

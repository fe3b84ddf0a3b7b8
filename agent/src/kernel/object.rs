//! The eBPF object, as the build script made it.

/// One object for every supported kernel.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/shrike-ebpf"));

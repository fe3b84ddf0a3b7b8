//! Just enough of a kernel module to learn which others it needs.

/// The modules that a module declares in its `.modinfo` (`depends=a,b`).
///
/// The strings there are plain and NUL-terminated, and no other section of a
/// module holds one that begins so, hence no ELF parser.
pub fn module_depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(module: &[u8], expect: &[&str]) {
        assert_eq!(module_depends(module), expect);
    }

    #[test]
    fn dependencies_are_read_in_order() {
        check(
            b"\x7fELF..\0license=GPL\0depends=virtio,virtio_ring\0",
            &["virtio", "virtio_ring"],
        );
        check(b"\x7fELF..\0license=GPL\0depends=\0retpoline=Y\0", &[]);
        check(b"\x7fELF..", &[]);
        check(b"\0depends=cut", &[]);
    }
}

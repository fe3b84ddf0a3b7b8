//! What depends on the kernel's release, because its types do not tell: a
//! module's types are known only once the module is there.

/// The first release whose overlays keep the file of a layer behind a
/// `struct ovl_file` (fs/overlayfs/file.c).
const BOXED_OVERLAY_FILES: (u32, u32) = (6, 13);

/// Says whether an overlay's `file->private_data` leads to a structure that
/// leads to the layer's file, and not to that file itself.
pub fn boxes_overlay_files(release: &str) -> bool {
    let mut numbers = release.split(|symbol: char| !symbol.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    let (Some(major), Some(minor)) = (number(), number()) else {
        // No release of these looks like that: it is a newer one.
        return true;
    };
    (major, minor) >= BOXED_OVERLAY_FILES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_before_6_13_keep_the_file_itself() {
        for (release, expected) in [
            ("6.1.0-56-cloud-amd64", false),
            ("6.12.117+deb12-cloud-amd64", false),
            ("5.15.0", false),
            ("6.13.0-rc1", true),
            ("6.13", true),
            ("7.0.1", true),
            ("next", true),
        ] {
            assert_eq!(boxes_overlay_files(release), expected, "{release}");
        }
    }
}

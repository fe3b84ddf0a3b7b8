//! Names of error numbers, as they stand in events' results.

/// Returns the name of a negative errno (`-2`: `ENOENT`); `None` for success
/// and for numbers without a name here.
///
/// Source: include/uapi/asm-generic/errno-base.h and errno.h, those that
/// execve, openat and bpf_send_signal give.
pub fn name(result: i32) -> Option<&'static str> {
    Some(match result.checked_neg()? {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        4 => "EINTR",
        5 => "EIO",
        6 => "ENXIO",
        7 => "E2BIG",
        8 => "ENOEXEC",
        9 => "EBADF",
        10 => "ECHILD",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        18 => "EXDEV",
        19 => "ENODEV",
        20 => "ENOTDIR",
        21 => "EISDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        25 => "ENOTTY",
        26 => "ETXTBSY",
        27 => "EFBIG",
        28 => "ENOSPC",
        30 => "EROFS",
        36 => "ENAMETOOLONG",
        38 => "ENOSYS",
        40 => "ELOOP",
        75 => "EOVERFLOW",
        80 => "ELIBBAD",
        95 => "EOPNOTSUPP",
        110 => "ETIMEDOUT",
        116 => "ESTALE",
        122 => "EDQUOT",
        126 => "ENOKEY",
        127 => "EKEYEXPIRED",
        128 => "EKEYREVOKED",
        129 => "EKEYREJECTED",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_negative_numbers_have_names() {
        assert_eq!(super::name(-2), Some("ENOENT"));
        assert_eq!(super::name(2), None);
        assert_eq!(super::name(0), None);
        assert_eq!(super::name(i32::MIN), None);
    }
}

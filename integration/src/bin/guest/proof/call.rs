//! System calls as they are: by number, natively or through the 32-bit
//! entry, with nothing between the attempt and the kernel.
//!
//! A C library would choose another call than the one that an attempt is
//! about (`open` becomes `openat`), and has none for the 32-bit entry.

use std::arch::asm;
use std::ffi::{CStr, CString};
use std::io;

use rustix::io::Errno;

/// Calls that attempts make. Those that hand out or change memory are not
/// among them: this module's safety rests on that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    Open,
    Openat,
    Openat2,
    Creat,
    OpenByHandleAt,
    Execve,
    Execveat,
    Truncate,
    Unlink,
    Rename,
    Renameat2,
    Link,
    Linkat,
    Symlink,
    Mkdir,
    Mknod,
    Chmod,
    Chown,
    Setxattr,
    Removexattr,
    Ftruncate,
    Acct,
    OpenTree,
    PivotRoot,
}

/// Through which door the kernel is entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// `syscall`.
    Native,
    /// `int 0x80`: the 32-bit calls, which a 64-bit process may make, too.
    Compat,
}

impl Call {
    /// The call's number behind an entry.
    ///
    /// Source: arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl.
    fn number(self, entry: Entry) -> usize {
        let (native, compat) = match self {
            Self::Open => (2, 5),
            Self::Openat => (257, 295),
            Self::Openat2 => (437, 437),
            Self::Creat => (85, 8),
            Self::OpenByHandleAt => (304, 342),
            Self::Execve => (59, 11),
            Self::Execveat => (322, 358),
            Self::Truncate => (76, 92),
            Self::Unlink => (87, 10),
            Self::Rename => (82, 38),
            Self::Renameat2 => (316, 353),
            Self::Link => (86, 9),
            Self::Linkat => (265, 303),
            Self::Symlink => (88, 83),
            Self::Mkdir => (83, 39),
            Self::Mknod => (133, 14),
            Self::Chmod => (90, 15),
            Self::Chown => (92, 182),
            Self::Setxattr => (188, 226),
            Self::Removexattr => (197, 235),
            Self::Ftruncate => (77, 93),
            Self::Acct => (163, 51),
            Self::OpenTree => (428, 428),
            Self::PivotRoot => (155, 217),
        };
        match entry {
            Entry::Native => native,
            Entry::Compat => compat,
        }
    }
}

/// One argument. What it lends stays where it is until the call returns.
pub enum Word<'a> {
    /// A number, descriptor or set of flags.
    Number(i64),
    /// A path.
    Text(&'a CStr),
    /// A structure.
    Bytes(&'a [u8]),
    /// A list of strings, as `execve` wants them.
    Strings(&'a [CString]),
}

impl From<i32> for Word<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl<'a> From<&'a CStr> for Word<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a CString> for Word<'a> {
    fn from(text: &'a CString) -> Self {
        Self::Text(text)
    }
}

impl Entry {
    /// Makes a call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn call(self, call: Call, words: &[Word<'_>]) -> Result<i32, Errno> {
        assert!(words.len() <= 5, "no call here has more arguments");
        let number = call.number(self);
        match self {
            Self::Native => {
                // Lists of pointers live here during the call.
                let lists: Vec<Vec<usize>> = words.iter().map(pointers).collect();
                let mut arguments = [0_usize; 5];
                for ((argument, word), list) in arguments.iter_mut().zip(words).zip(&lists) {
                    *argument = match word {
                        Word::Number(number) => number.cast_unsigned() as usize,
                        Word::Text(text) => text.as_ptr() as usize,
                        Word::Bytes(bytes) => bytes.as_ptr() as usize,
                        Word::Strings(_) => list.as_ptr() as usize,
                    };
                }
                result(native(number, arguments) as i64)
            }
            Self::Compat => {
                let mut low = Low::new().map_err(|_| Errno::NOMEM)?;
                let mut arguments = [0_u32; 5];
                for (argument, word) in arguments.iter_mut().zip(words) {
                    *argument = match word {
                        Word::Number(number) => *number as u32,
                        Word::Text(text) => low.place(text.to_bytes_with_nul()),
                        Word::Bytes(bytes) => low.place(bytes),
                        Word::Strings(strings) => {
                            let mut list: Vec<u8> = Vec::new();
                            for string in *strings {
                                let at = low.place(string.as_bytes_with_nul());
                                list.extend(at.to_ne_bytes());
                            }
                            list.extend([0; 4]);
                            low.place(&list)
                        }
                    };
                }
                result(compat(number, arguments).into())
            }
        }
    }
}

fn pointers(word: &Word<'_>) -> Vec<usize> {
    match word {
        Word::Strings(strings) => strings
            .iter()
            .map(|string| string.as_ptr() as usize)
            .chain([0])
            .collect(),
        Word::Number(_) | Word::Text(_) | Word::Bytes(_) => Vec::new(),
    }
}

/// A result below zero is an error's number.
fn result(value: i64) -> Result<i32, Errno> {
    let value = i32::try_from(value).expect("a call here returns a descriptor or an error");
    if value < 0 {
        return Err(Errno::from_raw_os_error(-value));
    }
    Ok(value)
}

fn native(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let value: isize;
    // SAFETY: every call of `Call` only reads the memory that its words
    // lend; `syscall` itself overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            out("rcx") _,
            out("r11") _,
        );
    }
    value
}

fn compat(number: usize, [a, b, c, d, e]: [u32; 5]) -> i32 {
    let value: u64;
    // SAFETY: as above; rbx belongs to the compiler and is given back.
    unsafe {
        asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) u64::from(a) => _,
            inlateout("rax") number as u64 => value,
            in("rcx") u64::from(b),
            in("rdx") u64::from(c),
            in("rsi") u64::from(d),
            in("rdi") u64::from(e),
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    value as i32
}

/// Memory below 4 GiB, the only one that a 32-bit call can point to.
pub struct Low {
    start: *mut u8,
    used: usize,
}

/// Room for the longest path and some arguments.
const LOW_BYTES: usize = 16 << 10;

impl Low {
    /// Maps it.
    fn new() -> io::Result<Self> {
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LOW_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            used: 0,
        })
    }

    /// Copies bytes in and says where they are.
    fn place(&mut self, bytes: &[u8]) -> u32 {
        assert!(self.used + bytes.len() <= LOW_BYTES, "it does not fit");
        // SAFETY: `used` lies within the mapping.
        let place = unsafe { self.start.add(self.used) };
        // SAFETY: the bytes fit behind `place`, and nobody else has the
        // mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        // What comes next may be a list of pointers.
        self.used = (self.used + bytes.len()).next_multiple_of(8);
        u32::try_from(place as usize).expect("MAP_32BIT maps below 2 GiB")
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start.cast(), LOW_BYTES) };
    }
}

/// A path as calls take it.
pub fn text(path: impl Into<Vec<u8>>) -> CString {
    CString::new(path).expect("no path of the proof has a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_returns_a_descriptor_or_the_kernels_error() {
        let open = |path: &CStr| {
            let arguments = [path.into(), libc::O_RDONLY.into()];
            Entry::Native.call(Call::Open, &arguments)
        };
        assert!(open(c"/dev/null").is_ok_and(|descriptor| descriptor > 2));
        assert_eq!(open(c"/dev/nulls"), Err(Errno::NOENT));
    }

    #[test]
    fn what_is_placed_low_is_there_and_does_not_overlap() {
        let mut low = Low::new().expect("memory");
        let first = low.place(b"one\0") as usize;
        let second = low.place(b"two\0") as usize;
        let read = |at: usize| {
            // SAFETY: a string with its NUL was placed there.
            unsafe { CStr::from_ptr(at as *const libc::c_char) }
        };
        assert_eq!((read(first), read(second)), (c"one", c"two"));
    }
}

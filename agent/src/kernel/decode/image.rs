//! What a new image starts with.

use shrike_agent_ebpf::record::{
    IMAGE_ENVIRONMENT_TRUNCATED, IMAGE_HAS_BEFORE, IMAGE_HAS_ENVIRONMENT, IMAGE_HAS_SCRIPT,
};
use shrike_proto::event::{Capabilities, Environment, Image, Namespaces, ResolvedPath};

use super::{DecodeError, Reader, split_arguments};

const PART: &str = "image";

/// The part of fixed length, with what it says of the bytes behind.
pub(super) struct ImageBody {
    image: Image,
    script_device: u32,
    script_inode: u64,
    script_length: u16,
    directory_length: u16,
    tty_length: u16,
    environment_length: u16,
    facts: u16,
    links: u32,
    owner_uid: u32,
    owner_gid: u32,
    file_mode: u16,
}

impl ImageBody {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let before = Capabilities {
            permitted: reader.u64(PART)?,
            effective: reader.u64(PART)?,
        };
        let capabilities = Capabilities {
            permitted: reader.u64(PART)?,
            effective: reader.u64(PART)?,
        };
        let script_inode = reader.u64(PART)?;
        let script_device = reader.u32(PART)?;
        let mut image = Image {
            capabilities,
            saved_uid: reader.u32(PART)?,
            saved_gid: reader.u32(PART)?,
            fs_uid: reader.u32(PART)?,
            fs_gid: reader.u32(PART)?,
            login_uid: Some(reader.u32(PART)?).filter(|uid| *uid != u32::MAX),
            session_id: reader.u32(PART)?,
            namespaces: Namespaces {
                mount: 0,
                pid: reader.u32(PART)?,
                network: reader.u32(PART)?,
                user: reader.u32(PART)?,
                uts: reader.u32(PART)?,
                ipc: reader.u32(PART)?,
                cgroup: reader.u32(PART)?,
            },
            ..Image::default()
        };
        let links = reader.u32(PART)?;
        let owner_uid = reader.u32(PART)?;
        let owner_gid = reader.u32(PART)?;
        let file_mode = reader.u16(PART)?;
        let script_length = reader.u16(PART)?;
        let directory_length = reader.u16(PART)?;
        let tty_length = reader.u16(PART)?;
        let environment_length = reader.u16(PART)?;
        let facts = reader.u16(PART)?;
        let _padding = reader.u32(PART)?;
        image.capabilities_before = (facts & IMAGE_HAS_BEFORE != 0).then_some(before);
        Ok(Self {
            image,
            script_device,
            script_inode,
            script_length,
            directory_length,
            tty_length,
            environment_length,
            facts,
            links,
            owner_uid,
            owner_gid,
            file_mode,
        })
    }

    /// Fills in what is known of the executable.
    pub(super) fn describe(&self, file: &mut ResolvedPath) {
        file.mode = self.file_mode.into();
        file.links = self.links;
        file.owner_uid = self.owner_uid;
        file.owner_gid = self.owner_gid;
    }

    /// Takes the bytes.
    pub(super) fn image(
        self,
        reader: &mut Reader<'_>,
        mount_namespace: u32,
    ) -> Result<Image, DecodeError> {
        let script = reader.bytes(self.script_length.into(), "script")?;
        let directory = reader.bytes(self.directory_length.into(), "working directory")?;
        let tty = reader.bytes(self.tty_length.into(), "terminal")?;
        let names = reader.bytes(self.environment_length.into(), "names of variables")?;
        let has = |fact: u16| self.facts & fact != 0;
        let mut image = self.image;
        image.namespaces.mount = mount_namespace;
        image.script = has(IMAGE_HAS_SCRIPT).then(|| ResolvedPath {
            path: script.to_vec(),
            device: self.script_device.into(),
            inode: self.script_inode,
            unresolved: script.is_empty(),
            ..ResolvedPath::default()
        });
        image.working_directory = directory.to_vec();
        image.tty = below_dev(tty);
        image.environment = has(IMAGE_HAS_ENVIRONMENT).then(|| Environment {
            names: split_arguments(names),
            truncated: has(IMAGE_ENVIRONMENT_TRUNCATED),
        });
        Ok(image)
    }
}

/// Returns a terminal's name below /dev: the kernel's own has no slash where
/// `devpts` is a folder (drivers/tty/pty.c).
fn below_dev(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(b"pts") {
        Some(number) if number.first().is_some_and(u8::is_ascii_digit) => {
            [b"pts/", number].concat()
        }
        Some(_) | None => name.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudo_terminals_are_in_a_folder() {
        let check = |name: &str, expect: &str| {
            assert_eq!(below_dev(name.as_bytes()), expect.as_bytes());
        };
        check("pts0", "pts/0");
        check("pts17", "pts/17");
        check("tty1", "tty1");
        check("ttyS0", "ttyS0");
        check("pts", "pts");
        check("", "");
    }
}

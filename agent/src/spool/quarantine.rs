//! Batches that the collector refused for good, kept with its reason.
//!
//! ```text
//! quarantine/<epoch>_<first sequence>      one frame: a Refused
//! ```
//!
//! A refusal means that one of two programs is wrong. What it was about is
//! kept, so that somebody can look and nothing is gone; the oldest ones leave
//! when there are too many.

use std::io;

use prost::Message;
use shrike_proto::{id::Epoch, wire::ingest};

use super::disk::Disk;

/// Where they are.
pub const QUARANTINE: &str = "quarantine";

/// Refused batches that are kept: enough to see what is wrong with them.
const REFUSED_MAX: usize = 64;

/// Longest file that is read: a batch and its reason.
const BYTES_MAX: u64 = 8 << 20;

/// A batch that was refused.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    /// As it was sent, without ledger and lost ranges.
    #[prost(message, optional, tag = "1")]
    pub batch: Option<ingest::Batch>,
    /// What the collector said.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// When, in Unix nanoseconds.
    #[prost(int64, tag = "3")]
    pub time_unix_ns: i64,
}

/// Keeps a batch.
///
/// # Errors
/// When the folder cannot be read.
pub fn keep(disk: &Disk, refused: &Refused) -> io::Result<()> {
    let Some(batch) = &refused.batch else {
        return Ok(());
    };
    let epoch = Epoch::from_wire(&batch.epoch).map_err(io::Error::other)?;
    disk.make_folder(QUARANTINE);
    let mut names = disk.list(QUARANTINE)?;
    names.sort_unstable();
    let surplus = (names.len() + 1).saturating_sub(REFUSED_MAX);
    for name in names.iter().take(surplus) {
        disk.remove(format!("{QUARANTINE}/{name}"));
    }
    let time_ms = refused.time_unix_ns / 1_000_000;
    let path = format!(
        "{QUARANTINE}/{time_ms:015}_{epoch}_{:020}",
        batch.first_sequence
    );
    let file = disk.create(path);
    let body = refused.encode_to_vec();
    let mut bytes = crc32c::crc32c(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    file.write_at(bytes, 0);
    file.sync();
    disk.sync_folder(QUARANTINE);
    Ok(())
}

/// Reads what is kept, the oldest first, each under its name; what cannot be
/// read as an error.
///
/// # Errors
/// When the folder cannot be read.
pub fn read(disk: &Disk) -> io::Result<Vec<(String, io::Result<Refused>)>> {
    let mut names = disk.list(QUARANTINE)?;
    names.sort_unstable();
    Ok(names
        .into_iter()
        .map(|name| {
            let refused = read_one(disk, &name);
            (name, refused)
        })
        .collect())
}

fn read_one(disk: &Disk, name: &str) -> io::Result<Refused> {
    let file = disk.open(&format!("{QUARANTINE}/{name}"))?;
    let length = file.length();
    if !(4..=BYTES_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0)?;
    let (checksum, body) = bytes.split_at(4);
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its checksum does not fit",
        ));
    }
    Refused::decode(body).map_err(io::Error::other)
}

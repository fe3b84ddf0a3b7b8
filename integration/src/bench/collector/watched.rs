//! A process as `/proc` shows it: what it took of processor and memory.

use std::fs;

use anyhow::{Context, Result};

/// A process that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watched(pub u32);

impl Watched {
    /// Processor time of all its threads, user and system, in seconds.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_seconds(self) -> Result<f64> {
        let stat = self.read("stat")?;
        // proc(5): the command's name may hold anything, so fields count from
        // its closing parenthesis; utime and stime are the 12th and 13th.
        let rest = stat.rsplit_once(')').context("no command in stat")?.1;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.get(index).context("a short stat")?.parse()?)
        };
        Ok((ticks(11)? + ticks(12)?) / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident bytes that it ever had.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_bytes(self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(self, field: &str) -> Result<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .with_context(|| format!("no {field} in status"))?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_ourselves_take_time_and_memory() {
        let own = Watched(std::process::id());
        let before = own.cpu_seconds().expect("we run");
        let block = vec![1_u8; 64 << 20];
        let mut sum = 0_u64;
        while own.cpu_seconds().expect("we run") - before < 0.05 {
            sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        assert!(sum > 0);
        assert!(own.resident_bytes().expect("we run") >= 64 << 20);
        assert!(own.peak_bytes().expect("we run") >= 64 << 20);
    }
}

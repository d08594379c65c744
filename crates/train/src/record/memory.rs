//! The memory of this process.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What this process holds in main memory.
///
/// # Units
/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The resident set now.
    pub rss_bytes: u64,
    /// The largest resident set so far.
    pub peak_bytes: u64,
}

impl Memory {
    /// Asks the system; nothing where it does not say (only Linux does).
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    /// Lets the peak begin anew at what is held now; whether the system does that (only Linux).
    pub fn reset_peak() -> bool {
        // 5 resets the high-water mark, see proc_pid_clear_refs(5).
        std::fs::write("/proc/self/clear_refs", "5").is_ok()
    }

    /// What programs may still take without swapping, in bytes; nothing where the system does not
    /// say (only Linux does).
    pub fn available_bytes() -> Option<u64> {
        field(
            &std::fs::read_to_string("/proc/meminfo").ok()?,
            "MemAvailable:",
        )
    }

    /// Reads the text of `/proc/PID/status`.
    fn parse(status: &str) -> Option<Self> {
        Some(Self {
            rss_bytes: field(status, "VmRSS:")?,
            peak_bytes: field(status, "VmHWM:")?,
        })
    }
}

/// A line such as `VmRSS:  12 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kibibytes.checked_mul(1024)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory {} (peak {})",
            Bytes(self.rss_bytes),
            Bytes(self.peak_bytes)
        )
    }
}

/// A number of bytes as people read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        let text = match self.0 {
            0..1024 => format!("{} B", self.0),
            1024..0x10_0000 => format!("{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
            _ => format!("{:.2} GiB", bytes / f64::from(1 << 30)),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_read() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        let memory = Memory::parse(status).unwrap();
        assert_eq!((memory.rss_bytes, memory.peak_bytes), (1 << 20, 2 << 20));
        assert_eq!(memory.to_string(), "memory 1.0 MiB (peak 2.0 MiB)");
        assert_eq!(Memory::parse("VmRSS:\t 99999999999999999999 kB\n"), None);
        assert_eq!(Memory::parse(""), None);
    }

    #[test]
    fn this_process_has_memory_where_the_system_says() {
        if let Some(memory) = Memory::now() {
            assert!(memory.rss_bytes > 0 && memory.peak_bytes >= memory.rss_bytes);
            assert!(Memory::available_bytes().is_some_and(|bytes| bytes > 0));
        }
    }
}

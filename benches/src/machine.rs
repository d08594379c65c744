//! The machine, the state of the source, and who else is computing right now.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;

/// Features of a CPU that decide which matrix instructions there are.
const FEATURES: &[&str] = &[
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
];

/// The CPU in a line: model, cores, matrix features.
pub fn description() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    describe(&text, cores)
}

/// The most memory that a process ever had in RAM, mapped files included, in bytes.
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    bytes(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "VmHWM:",
    )
}

/// The memory that a process has in RAM, mapped files included, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    bytes(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "VmRSS:",
    )
}

fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn describe(cpuinfo: &str, cores: usize) -> String {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let mut line = match (
        field("model name"),
        field("cpu family"),
        field("model"),
        field("stepping"),
    ) {
        (Some(name), Some(family), Some(model), Some(_)) => {
            format!("{name} (family {family}, model {model})")
        }
        (Some(name), ..) => name.to_owned(),
        _ => std::env::consts::ARCH.to_owned(),
    };
    line += &format!(", {cores} cores");
    let flags = field("flags").or(field("Features")).unwrap_or_default();
    let flags: BTreeSet<&str> = flags.split_whitespace().collect();
    for feature in FEATURES.iter().filter(|feature| flags.contains(**feature)) {
        line += &format!(", {feature}");
    }
    line
}

/// The commit of the source, followed by `+` when files differ from it.
///
/// Results and the page made from them do not count.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/..")])
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let Some(hash) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        ":/",
        ":(top,exclude)benches/results",
        ":(top,exclude)docs/BENCHMARKS.md",
    ]);
    let clean = changed.is_some_and(|changed| changed.is_empty());
    format!("{}{}", hash.trim(), if clean { "" } else { "+" })
}

/// How the machine's processor time has been spent since it started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// Of all processes, and what the hypervisor took away.
    busy: u64,
    /// Busy or not.
    all: u64,
    /// Of the one process that is watched.
    own: u64,
}

impl CpuTimes {
    /// The times now; `None` where the system does not tell.
    pub fn now(pid: u32) -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&machine, &process)
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        let fields: Vec<u64> = machine
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guest times are in the first two.
        let all: u64 = fields.iter().take(8).sum();
        let idle = fields.get(3)? + fields.get(4)?;
        // The name of the program, in parentheses, may hold anything; the state follows.
        let (_, rest) = process.rsplit_once(')')?;
        let mut times = rest.split_whitespace().skip(11);
        let mut next = || times.next().and_then(|field| field.parse::<u64>().ok());
        Some(Self {
            busy: all - idle,
            all,
            own: next()? + next()?,
        })
    }

    /// The share of the machine that others took between `earlier` and `self`.
    pub fn taken_by_others(&self, earlier: &Self) -> f64 {
        let others = (self.busy.saturating_sub(earlier.busy))
            .saturating_sub(self.own.saturating_sub(earlier.own));
        #[allow(clippy::cast_precision_loss, reason = "ticks of minutes")]
        let share = others as f64 / self.all.saturating_sub(earlier.all).max(1) as f64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\ta\nVmPeak:\t  9000 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n";
        assert_eq!(bytes(status, "VmHWM:"), Some(1_263_616));
        assert_eq!(bytes(status, "VmRSS:"), Some(1_024_000));
        assert_eq!(bytes("Name:\ta\n", "VmHWM:"), None);
    }

    #[test]
    fn a_cpu_is_named_with_its_matrix_features() {
        let cpuinfo = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\
                       stepping\t: 1\nflags\t\t: fpu avx512f avx2 avx512_bf16\n\nprocessor\t: 1\n";
        assert_eq!(
            describe(cpuinfo, 2),
            "AMD EPYC (family 26, model 2), 2 cores, avx2, avx512f, avx512_bf16"
        );
        assert_eq!(
            describe("", 4),
            format!("{}, 4 cores", std::env::consts::ARCH)
        );
    }

    #[test]
    fn time_of_the_watched_process_is_not_that_of_others() {
        let process = |own| format!("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 {own} 5 0 0");
        let earlier = CpuTimes::parse("cpu  100 0 0 900 0 0 0 0 50 0\n", &process(10)).unwrap();
        let later = CpuTimes::parse("cpu  180 0 10 990 0 0 10 10 70 0\n", &process(60)).unwrap();
        // 200 ticks passed, 110 of them busy, 50 of those by the process itself.
        assert_eq!(later.taken_by_others(&earlier), 0.3);
        assert_eq!(CpuTimes::parse("intr 0\n", &process(1)), None);
    }
}

//! The table, and the machine that it holds for.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::rows::Row;

/// What a row found.
pub(crate) struct Measured {
    /// For the table: `112 ms`.
    pub(crate) value: String,
    /// Whether it meets its goal.
    pub(crate) met: bool,
    /// How it came about, and what else was seen.
    pub(crate) notes: String,
}

/// Rows as they come in.
pub(crate) struct Report {
    machine: String,
    lines: Vec<String>,
    notes: Vec<String>,
    failed: bool,
    begun: Instant,
}

impl Report {
    pub(crate) fn begin(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            machine: machine(folder)?,
            lines: Vec::new(),
            notes: Vec::new(),
            failed: false,
            begun: Instant::now(),
        })
    }

    pub(crate) fn add(&mut self, row: &Row, measured: Measured) {
        let met = if measured.met { "yes" } else { "**no**" };
        self.line(row, &measured.value, met);
        self.notes.push(format!("- `{}`: {}", row.name, measured.notes));
    }

    pub(crate) fn fail(&mut self, row: &Row, error: &anyhow::Error) {
        self.failed = true;
        self.line(row, "not measured", "**no**");
        self.notes.push(format!("- `{}`: {error:#}", row.name));
    }

    fn line(&mut self, row: &Row, value: &str, met: &str) {
        crate::say(&format!("    {value}"));
        let Row { what, goal, compare, .. } = row;
        self.lines.push(format!("| {what} | {goal} | {value} | {met} | {compare} |"));
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn markdown(&self) -> String {
        format!(
            "# Benchmarks\n\nWritten by `cargo run --release -p coracle-bench`, run as root: every row of one run \
             against the release\nbinary, on {}. The run took {} s.\n\nThe comparisons were measured on the same kind of \
             machine, apart from this run, but for the last row's bare server.\n\n| what | goal | measured | met | for \
             comparison |\n|---|---|---|---|---|\n{}\n\n{}\n",
            self.machine,
            self.begun.elapsed().as_secs(),
            self.lines.join("\n"),
            self.notes.join("\n"),
        )
    }
}

/// Cores, memory, kernel, disk, and what else the machine was doing.
fn machine(folder: &Path) -> anyhow::Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism()?;
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output()?;
    Ok(format!(
        "{} UTC, on {cores} cores ({}), {} GiB of memory, Linux {}, load {} at the\nbeginning, data on a disk that takes \
         {:.1} ms to sync 4 KiB",
        String::from_utf8_lossy(&date.stdout).trim(),
        field(&read("/proc/cpuinfo"), "model name"),
        (memory + (1 << 19)) >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        sync_time(folder)?.as_secs_f64() * 1e3,
    ))
}

/// The median of what durable writing costs at least.
fn sync_time(folder: &Path) -> anyhow::Result<Duration> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(quantile(&mut times, 0.5))
}

/// The value that this part of all values does not exceed.
pub(crate) fn quantile<T: Copy + PartialOrd>(values: &mut [T], part: f64) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (part * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// Milliseconds, as people read them.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

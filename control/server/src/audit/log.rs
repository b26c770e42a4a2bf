//! The file that events go to, a line each, mode 0600; set aside when it is large, removed when it is old.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Where events go, and how many of them stay. Of each limit 0 means none.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Days that files are kept which were set aside.
    pub max_age: u32,
    /// How many of them are kept.
    pub max_backups: u32,
    /// Megabytes from which on the file is set aside.
    pub max_size: u32,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    options: LogOptions,
    open: Mutex<Option<(File, u64)>>,
}

impl Log {
    /// Opens the file, which is made with its folder where there is none.
    pub(super) fn open(options: LogOptions) -> std::io::Result<Self> {
        let open = match options.path == Path::new("-") {
            true => None,
            false => Some(open(&options.path)?),
        };
        Ok(Self { options, open: Mutex::new(open) })
    }

    /// Writes a line.
    pub(super) fn write(&self, line: &[u8]) -> std::io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, size)) = open.as_mut() else {
            return std::io::stdout().lock().write_all(line);
        };
        let limit = u64::from(self.options.max_size) << 20;
        if limit > 0 && *size > 0 && *size + line.len() as u64 > limit {
            self.set_aside()?;
            (*file, *size) = self::open(&self.options.path)?;
        }
        *size += line.len() as u64;
        file.write_all(line)
    }

    fn set_aside(&self) -> std::io::Result<()> {
        let path = &self.options.path;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let end =
            path.extension().map(|it| format!(".{}", it.to_string_lossy())).unwrap_or_default();
        let now = Timestamp::now();
        // In the order of time by name; two within a millisecond do not take each other's place.
        let mut aside = None;
        for nth in 0..1000 {
            let at = now.strftime("%Y-%m-%dT%H-%M-%S%.3f");
            let again = if nth == 0 { String::new() } else { format!("-{nth:03}") };
            let candidate = path.with_file_name(format!("{stem}-{at}{again}{end}"));
            if !candidate.exists() {
                aside = Some(candidate);
                break;
            }
        }
        std::fs::rename(path, aside.ok_or(std::io::ErrorKind::AlreadyExists)?)?;
        let folder = path.parent().filter(|it| *it != Path::new("")).unwrap_or(Path::new("."));
        let prefix = format!("{stem}-");
        let mut old: Vec<PathBuf> = std::fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|it| {
                let name = it.file_name().unwrap_or_default().to_string_lossy();
                name.strip_prefix(&prefix)
                    .is_some_and(|rest| rest.starts_with("20") && rest.ends_with(&end))
            })
            .collect();
        old.sort();
        old.reverse();
        for (i, it) in old.iter().enumerate() {
            let surplus = self.options.max_backups > 0 && i >= self.options.max_backups as usize;
            let age = std::fs::metadata(it)
                .and_then(|it| it.modified())
                .ok()
                .and_then(|at| at.elapsed().ok());
            let days = self.options.max_age;
            if surplus || days > 0 && age.is_some_and(|age| age > DAY * days) {
                std::fs::remove_file(it)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

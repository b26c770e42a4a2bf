//! Container logs, as the sandbox hosts write them and as `kubectl logs` reads them.
//!
//! CRI format, a line a record: `2026-01-02T03:04:05.678901234Z stdout F text`; tag `P` marks a partial line. One file an
//! attempt, `CONTAINER/ATTEMPT.log` in the Pod's folder; rotated files carry a suffix and are read first.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use coracle_sandbox::beneath::Folder;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

/// How often a followed file is looked at for more.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Longest record that is believed; hosts split lines at 16 KiB.
const MAX_RECORD: usize = 64 << 10;

/// `PodLogOptions`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogOptions {
    /// Stay, and send what comes.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<usize>,
    /// Only what is younger, in seconds.
    pub since_seconds: Option<i64>,
    /// Only what is younger.
    pub since_time: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<usize>,
    /// The attempt before.
    pub previous: bool,
    /// Only what was written to `Stdout`, or only to `Stderr`; `All` is both.
    pub stream: Option<String>,
}

/// Folder of a Pod's logs.
pub fn pod_dir(logs: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    logs.join(format!("{namespace}_{name}_{uid}"))
}

/// File of one attempt.
pub fn attempt_path(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join(container).join(format!("{attempt}.log"))
}

/// Removes the logs of attempts before the one before this: like the kubelet, a node keeps the last two, so that a container
/// which fails again and again does not fill the disk.
pub async fn forget_old(pod_dir: &Path, container: &str, attempt: u32) {
    if attempt < 2 {
        return;
    }
    let (logs, container) = (pod_dir.to_owned(), container.to_owned());
    let removed = tokio::task::spawn_blocking(move || remove_old(&logs, &container, attempt));
    if let Ok(Err(error)) = removed.await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %pod_dir.display(), "old logs stay");
    }
}

/// In a folder that a sandbox host may change.
fn remove_old(pod_dir: &Path, container: &str, attempt: u32) -> std::io::Result<()> {
    let (Some(all), Some(name)) = (pod_dir.parent(), pod_dir.file_name()) else { return Ok(()) };
    let folder = Folder::open(all)?.folder(&Path::new(name).join(container))?;
    for name in folder.entries()? {
        let number = name.to_str().and_then(|name| name.split_once(".log"));
        if let Some(Ok(of)) = number.map(|(number, _)| number.parse::<u32>())
            && of < attempt - 1
        {
            folder.remove_file(Path::new(&name))?;
        }
    }
    Ok(())
}

/// Sends the log to `out` until its end, or, when following, until `is_running` says no and all is read, or nobody
/// listens any more.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
    out: mpsc::Sender<Bytes>,
    is_running: impl Fn() -> bool,
) {
    let since = options.since_time.or_else(|| {
        let seconds = options.since_seconds?;
        Timestamp::now().checked_sub(Duration::from_secs(seconds.max(0) as u64)).ok()
    });
    let mut left = options.limit_bytes.unwrap_or(usize::MAX);
    let mut tail: Option<VecDeque<Bytes>> = options.tail_lines.map(VecDeque::with_capacity_for);
    let (mut joined, mut begun) = (Vec::new(), false);
    let mut files = all(&path).await;
    loop {
        let running = is_running();
        match files.last() {
            Some(last) if last.is_rotated_away(&path).await => {
                let newer = last.newer(&path).await;
                files.extend(newer);
            }
            Some(_) => {}
            None => files = all(&path).await,
        }
        // All but the last are read once; that one may grow.
        let mut last = None;
        let mut sink = Sink {
            since,
            options: &options,
            tail: &mut tail,
            out: &out,
            left: &mut left,
            joined: &mut joined,
            begun: &mut begun,
        };
        for mut file in files.drain(..) {
            if !sink.from(&mut file).await {
                return;
            }
            last = Some(file);
        }
        // A line whose end is still to come, or never will, is shown as far as it goes.
        if !sink.joined.is_empty() && !sink.pass_on().await {
            return;
        }
        files.extend(last);
        for line in tail.take().into_iter().flatten() {
            if !send(&out, &mut left, line).await {
                return;
            }
        }
        if !options.follow || !running || out.is_closed() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            () = out.closed() => return,
        }
    }
}

trait WithCapacityFor {
    fn with_capacity_for(lines: usize) -> Self;
}

impl WithCapacityFor for VecDeque<Bytes> {
    /// A client's number is no reason to allocate.
    fn with_capacity_for(lines: usize) -> Self {
        VecDeque::with_capacity(lines.min(1024))
    }
}

/// What a record passes through on its way out.
struct Sink<'a> {
    since: Option<Timestamp>,
    options: &'a LogOptions,
    tail: &'a mut Option<VecDeque<Bytes>>,
    out: &'a mpsc::Sender<Bytes>,
    left: &'a mut usize,
    /// Parts of a line.
    joined: &'a mut Vec<u8>,
    /// Earlier parts of it were passed on.
    begun: &'a mut bool,
}

impl Sink<'_> {
    /// All that is there since the last time; false once nothing more is wanted.
    async fn from(&mut self, source: &mut Source) -> bool {
        let Ok(mut file) = source.file.try_clone().await else { return true };
        if file.seek(SeekFrom::Start(source.position)).await.is_err() {
            return true;
        }
        self.records(&mut BufReader::new(file), &mut source.position).await
    }

    /// All complete records; false once nothing more is wanted.
    async fn records(&mut self, reader: &mut BufReader<File>, position: &mut u64) -> bool {
        let mut record = Vec::new();
        loop {
            record.clear();
            match reader.read_until(b'\n', &mut record).await {
                Ok(read) if read > 0 && record.ends_with(b"\n") => {
                    *position += read as u64;
                    if record.len() <= MAX_RECORD && !self.record(&record).await {
                        return false;
                    }
                }
                // An incomplete record is read again when it is complete.
                _ => return true,
            }
        }
    }

    async fn record(&mut self, record: &[u8]) -> bool {
        let Some(Record { time, stream, partial, text }) = parse(record) else { return true };
        let wanted = self.options.stream.as_deref().filter(|wanted| *wanted != "All");
        if wanted.is_some_and(|wanted| !wanted.as_bytes().eq_ignore_ascii_case(stream)) {
            return true;
        }
        if let Some(since) = self.since
            && std::str::from_utf8(time)
                .ok()
                .and_then(|t| t.parse::<Timestamp>().ok())
                .is_some_and(|t| t < since)
        {
            return true;
        }
        if self.joined.is_empty() && !*self.begun && self.options.timestamps {
            self.joined.extend_from_slice(time);
            self.joined.push(b' ');
        }
        self.joined.extend_from_slice(text);
        if partial && self.joined.len() < MAX_RECORD {
            return true;
        }
        if !partial {
            self.joined.push(b'\n');
        }
        let more = self.pass_on().await;
        *self.begun = partial;
        more
    }

    /// What there is of a line.
    async fn pass_on(&mut self) -> bool {
        let line = Bytes::from(std::mem::take(self.joined));
        *self.begun = true;
        match &mut self.tail {
            Some(_) if self.options.tail_lines == Some(0) => true,
            Some(tail) => {
                if Some(tail.len()) == self.options.tail_lines {
                    tail.pop_front();
                }
                tail.push_back(line);
                true
            }
            None => send(self.out, self.left, line).await,
        }
    }
}

async fn send(out: &mpsc::Sender<Bytes>, left: &mut usize, mut line: Bytes) -> bool {
    line.truncate(*left);
    *left -= line.len();
    out.send(line).await.is_ok() && *left > 0
}

/// A record of a log.
struct Record<'a> {
    time: &'a [u8],
    /// `stdout` or `stderr`.
    stream: &'a [u8],
    /// Whether the line goes on in the next record.
    partial: bool,
    /// Without its line end.
    text: &'a [u8],
}

fn parse(record: &[u8]) -> Option<Record<'_>> {
    let mut parts = record.strip_suffix(b"\n")?.splitn(4, |b| *b == b' ');
    let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Record { time, stream, partial: tag.first() == Some(&b'P'), text })
}

/// A log's file, and how far it was read.
struct Source {
    file: File,
    position: u64,
}

impl Source {
    async fn inode(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().await.ok().map(|metadata| metadata.ino())
    }

    async fn is_rotated_away(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let there = tokio::fs::metadata(path).await.ok().map(|metadata| metadata.ino());
        there.is_some() && there != self.inode().await
    }

    /// The files that came after this one: a log that is written fast may be rotated several times between two looks.
    async fn newer(&self, path: &Path) -> Vec<Source> {
        let (own, mut all) = (self.inode().await, all(path).await);
        for n in 0..all.len() {
            if all[n].inode().await == own {
                return all.split_off(n + 1);
            }
        }
        all
    }
}

/// The files of a log, oldest first: those that `path` was rotated to (`0.log.1` is the youngest), and the present one.
async fn all(path: &Path) -> Vec<Source> {
    const TRIES: u32 = 5;
    let mut files = Vec::new();
    for _ in 0..TRIES {
        files.clear();
        for file in rotated(path).into_iter().chain([path.to_owned()]) {
            if let Ok(file) = open(&file).await {
                files.push(Source { file, position: 0 });
            }
        }
        // Whoever is rotated meanwhile may have been opened under two names or under none.
        match files.last() {
            Some(last) if last.is_rotated_away(path).await => {}
            _ => break,
        }
    }
    files
}

fn rotated(path: &Path) -> Vec<PathBuf> {
    let numbered = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    let mut files: Vec<PathBuf> = (1..=32).map(numbered).take_while(|p| p.exists()).collect();
    files.reverse();
    files
}

/// Logs lie in folders that a sandbox host may change: a link there could lead this process, which may read more than the
/// host, to anything on the machine. The folder of all Pods' logs is the agent's.
async fn open(path: &Path) -> std::io::Result<File> {
    /// Attempt, container, Pod.
    const OTHERS: usize = 3;
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let root = path.ancestors().nth(OTHERS).unwrap_or(Path::new("/"));
        Folder::open(root)?.file(path.strip_prefix(root).unwrap_or(&path))
    });
    Ok(File::from_std(opened.await.map_err(std::io::Error::other)??))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stderr P two \n\
        2026-01-01T00:00:02.100000000Z stderr F and a half\n\
        2026-01-01T00:00:03.000000000Z stdout F \n\
        2026-01-01T00:00:04.000000000Z stdout F last\n\
        2026-01-01T00:00:05.0";

    async fn lines(options: LogOptions) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (send, mut receive) = mpsc::channel(1);
        let reading = tokio::spawn(read(path, options, send, || false));
        let mut out = Vec::new();
        while let Some(bytes) = receive.recv().await {
            out.extend_from_slice(&bytes);
        }
        reading.await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn options_choose_what_is_shown() {
        let all = LogOptions::default();
        assert_eq!(lines(all.clone()).await, "one\ntwo and a half\n\nlast\n");
        let options = LogOptions { tail_lines: Some(2), ..all.clone() };
        assert_eq!(lines(options).await, "\nlast\n");
        assert_eq!(lines(LogOptions { tail_lines: Some(0), ..all.clone() }).await, "");
        let since_time = "2026-01-01T00:00:03Z".parse().ok();
        let options = LogOptions { since_time, timestamps: true, ..all.clone() };
        assert_eq!(
            lines(options).await,
            "2026-01-01T00:00:03.000000000Z \n2026-01-01T00:00:04.000000000Z last\n"
        );
        let options = LogOptions { stream: Some("Stderr".into()), ..all.clone() };
        assert_eq!(lines(options).await, "two and a half\n");
        assert_eq!(lines(LogOptions { limit_bytes: Some(6), ..all }).await, "one\ntw");
    }

    /// As containers leave it that end in the middle of a line.
    #[tokio::test]
    async fn a_last_line_without_an_end_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let part = |second: u32, tag: &str, text: &str| {
            format!("2026-01-01T00:00:0{second}.0Z stdout {tag} {text}\n")
        };
        std::fs::write(&path, part(1, "F", "one") + &part(2, "P", "tw")).unwrap();
        let show = async |options: LogOptions| {
            let (send, mut receive) = mpsc::channel(8);
            read(path.clone(), options, send, || false).await;
            let mut shown = Vec::new();
            while let Some(bytes) = receive.recv().await {
                shown.extend_from_slice(&bytes);
            }
            String::from_utf8(shown).unwrap()
        };
        assert_eq!(show(LogOptions::default()).await, "one\ntw");
        let last = |lines| LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
        assert_eq!(show(last(1)).await, "tw");
        assert_eq!(show(last(0)).await, "");
        let (send, mut receive) = mpsc::channel(8);
        let options = LogOptions { follow: true, timestamps: true, ..LogOptions::default() };
        let following = tokio::spawn(read(path.clone(), options, send, || true));
        assert_eq!(receive.recv().await.unwrap(), "2026-01-01T00:00:01.0Z one\n");
        assert_eq!(receive.recv().await.unwrap(), "2026-01-01T00:00:02.0Z tw");
        // It goes on after all.
        let more = part(3, "F", "o") + &part(4, "F", "three");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, more.as_bytes()).unwrap();
        assert_eq!(receive.recv().await.unwrap(), "o\n");
        assert_eq!(receive.recv().await.unwrap(), "2026-01-01T00:00:04.0Z three\n");
        drop(receive);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn the_last_two_attempts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        for name in ["0.log", "8.log", "8.log.1", "9.log", "9.log.12", "10.log", "other"] {
            std::fs::write(dir.path().join("app").join(name), "").unwrap();
        }
        forget_old(dir.path(), "app", 10).await;
        let files = std::fs::read_dir(dir.path().join("app")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["10.log", "9.log", "9.log.12", "other"]);
    }

    #[tokio::test]
    async fn following_goes_on_through_rotation_and_ends_with_the_container() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |n: u32| format!("2026-01-01T00:00:0{n}.0Z stdout F line {n}\n");
        std::fs::write(&path, line(1)).unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let (send, mut receive) = mpsc::channel(8);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let flag = running.clone();
        let reading =
            tokio::spawn(read(path.clone(), options, send, move || flag.load(Ordering::SeqCst)));
        assert_eq!(receive.recv().await.unwrap(), "line 1\n");
        // Twice between two looks.
        std::fs::rename(&path, dir.path().join("0.log.2")).unwrap();
        std::fs::write(dir.path().join("0.log.1"), line(2)).unwrap();
        std::fs::write(&path, line(3)).unwrap();
        assert_eq!(receive.recv().await.unwrap(), "line 2\n");
        assert_eq!(receive.recv().await.unwrap(), "line 3\n");
        running.store(false, Ordering::SeqCst);
        assert_eq!(receive.recv().await, None);
        reading.await.unwrap();
    }
}

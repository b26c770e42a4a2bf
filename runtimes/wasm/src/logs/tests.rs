use std::fs::{self, File};
use std::path::Path;

use coracle_sandbox::logs::MAX_LINE;

use super::*;

fn entries(log: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let parsed = text.lines().map(|line| {
        let (time, rest) = line.split_once(' ').unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(time.len(), "2024-01-02T03:04:05.000000006Z".len(), "{time}");
        let (tags, message) = rest.split_at("stdout F".len());
        (tags.to_owned(), message[1..].to_owned())
    });
    parsed.collect()
}

#[test]
fn lines_become_entries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pod/app/0.log");
    let log = Log::new(path.clone(), None);
    assert!(!path.exists(), "opened before anything was written");

    let mut out = Output::new(log.clone(), Stream::Out);
    let mut other = out.clone();
    out.write(Bytes::from_static(b"one\ntw")).unwrap();
    log.write(Stream::Err, "an error\nof two lines");
    other.write(Bytes::from_static(b"o\n\nthree")).unwrap();
    drop((out, other));
    let expected = [
        ("stdout F", "one"),
        ("stderr F", "an error"),
        ("stderr F", "of two lines"),
        ("stdout F", "two"),
        ("stdout F", ""),
        ("stdout P", "three"),
    ];
    let mut expected = expected.map(|(tags, m)| (tags.to_owned(), m.to_owned())).to_vec();
    assert_eq!(entries(&path), expected);
    // Whoever comes after that does not go on with its line.
    let mut next = Output::new(log.clone(), Stream::Err);
    next.write(Bytes::from_static(b"four\n")).unwrap();
    drop(next);
    let more = [("stdout F", ""), ("stderr F", "four")];
    expected.extend(more.map(|(tags, m)| (tags.to_owned(), m.to_owned())));
    assert_eq!(entries(&path), expected);
}

#[test]
fn long_lines_come_in_parts_and_files_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let log = Log::new(path.clone(), None);
    log.write(Stream::Out, &"x".repeat(2 * MAX_LINE + 5));
    let parts: Vec<_> = entries(&path).into_iter().map(|(tags, m)| (tags, m.len())).collect();
    let expected = [("stdout P", MAX_LINE), ("stdout P", MAX_LINE), ("stdout F", 5)];
    assert_eq!(parts, expected.map(|(tags, len)| (tags.to_owned(), len)));

    let names = |files| {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path().join("0.log"), Some(LogLimit { bytes: 10_000, files }));
        for _ in 0..80 {
            log.write_last(Stream::Out, &"y".repeat(1000));
        }
        let files = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap());
        let mut names: Vec<_> = files
            .map(|file| {
                assert!(file.metadata().unwrap().len() < 12_000);
                file.file_name()
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(5), ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
    assert_eq!(names(2), ["0.log", "0.log.1"]);
    assert_eq!(names(1), ["0.log"]);
}

#[tokio::test]
async fn a_guest_that_floods_waits_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let log = Log::new(path.clone(), None);
    let mut out = Output::new(log.clone(), Stream::Out);
    let line = Bytes::from(format!("{}\n", "x".repeat(15_000)));
    let (begun, mut written) = (Instant::now(), 0);
    let mut waited = false;
    while written < 6 << 20 {
        match out.check_write().unwrap() {
            0 => {
                waited = true;
                assert!(out.write(line.clone()).is_err(), "it may not write without a permit");
                out.ready().await;
            }
            _ => {
                out.write(line.clone()).unwrap();
                written += line.len();
            }
        }
    }
    // The first second is free; the rest comes at 4 MiB a second.
    assert!(waited && begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
    log.flush(Duration::from_secs(20)).await;
    assert_eq!(entries(&path).len(), written / line.len());
}

/// A pipe that nobody reads is a disk that does not answer.
#[tokio::test]
async fn who_writes_waits_for_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let log = Log::new(path.clone(), None);
    let mut out = Output::new(log.clone(), Stream::Out);
    let line = Bytes::from(format!("{}\n", "x".repeat(15_000)));
    let (begun, mut written) = (Instant::now(), 0);
    while out.check_write().unwrap() > 0 {
        out.write(line.clone()).unwrap();
        written += 1;
    }
    log.write(Stream::Err, "left out");
    log.flush(Duration::from_millis(50)).await;
    log.close_if_quiet();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!((10..40).contains(&written), "{written} lines were taken");
    let waiting = tokio::time::timeout(Duration::from_millis(100), out.ready()).await;
    assert!(waiting.is_err(), "it need not wait");
    // The disk comes back.
    let reading = tokio::task::spawn_blocking(move || {
        let mut pipe = std::io::BufReader::new(File::open(path).unwrap());
        let mut line = String::new();
        for _ in 0..written {
            line.clear();
            std::io::BufRead::read_line(&mut pipe, &mut line).unwrap();
            assert!(line.len() > 15_000);
        }
    });
    tokio::time::timeout(Duration::from_secs(20), out.ready()).await.unwrap();
    reading.await.unwrap();
}

#[test]
fn messages_of_the_hosts_that_are_too_many_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let log = Log::new(path.clone(), None);
    let trap = "t".repeat(10_000);
    for _ in 0..2000 {
        log.write(Stream::Err, &trap);
    }
    log.write_last(Stream::Err, "the end");
    let entries = entries(&path);
    let kept = entries.iter().filter(|(_, message)| *message == trap).count();
    assert!((400..2000).contains(&kept), "{kept}");
    // Where writing them took so long that some more fitted meanwhile, there are several counts.
    let counts = entries.iter().filter_map(|(_, message)| {
        message.strip_suffix(" messages were left out here: too many at once")
    });
    let left_out: usize = counts.map(|count| count.parse::<usize>().unwrap()).sum();
    assert_eq!(left_out, 2000 - kept);
    assert_eq!(entries.last().unwrap().1, "the end");
}

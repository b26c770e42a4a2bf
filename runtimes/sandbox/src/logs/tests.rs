use super::*;

fn entries(log: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let parsed = text.lines().map(|line| {
        let (time, rest) = line.split_once(' ').unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
        let (tags, message) = rest.split_at("stdout F".len());
        (tags.to_owned(), message[1..].to_owned())
    });
    parsed.collect()
}

#[test]
fn lines_become_entries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pod/app/0.log");
    let log = LogFile::new(path.clone(), None);
    assert!(!path.exists(), "opened before anything was written");
    let (mut out, mut err) = (Lines::default(), Lines::default());
    log.append(&out.push(Stream::Out, b"one\ntw"));
    log.append(&err.push(Stream::Err, b"an error\n"));
    log.append(&out.push(Stream::Out, b"o\n\nthree"));
    log.append(&out.finish(Stream::Out));
    let long = "x".repeat(MAX_LINE + 5);
    log.append(&err.push(Stream::Err, long.as_bytes()));
    log.append(&err.finish(Stream::Err));
    let expected = [
        ("stdout F", "one"),
        ("stderr F", "an error"),
        ("stdout F", "two"),
        ("stdout F", ""),
        ("stdout P", "three"),
        ("stderr P", &long[..MAX_LINE]),
        ("stderr P", "xxxxx"),
    ];
    let expected = expected.map(|(tags, message)| (tags.to_owned(), message.to_owned()));
    assert_eq!(entries(&path), expected);
}

#[test]
fn files_rotate_and_the_oldest_goes() {
    let check = |files: u32, expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let limit = Some(LogLimit { bytes: 10_000, files });
        let log = LogFile::new(folder.path().join("0.log"), limit);
        let mut lines = Lines::default();
        for _ in 0..80 {
            log.append(&lines.push(Stream::Out, &[b"y".repeat(1000), b"\n".to_vec()].concat()));
        }
        let found = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap());
        let mut names: Vec<_> = found
            .map(|file| {
                assert!(file.metadata().unwrap().len() < 12_000);
                file.file_name().into_string().unwrap()
            })
            .collect();
        names.sort();
        assert_eq!(names, expected);
    };
    check(3, &["0.log", "0.log.1", "0.log.2"]);
    check(1, &["0.log"]);
}

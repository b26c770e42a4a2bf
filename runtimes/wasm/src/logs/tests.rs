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
    let log = Log::new(path.clone());
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
        ("stdout F", "three"),
    ];
    let got = entries(&path);
    assert_eq!(got, expected.map(|(tags, message)| (tags.to_owned(), message.to_owned())));
}

#[test]
fn long_lines_come_in_parts_and_files_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let log = Log::new(path.clone());
    log.write(Stream::Out, &"x".repeat(2 * MAX_LINE + 5));
    let parts: Vec<_> = entries(&path).into_iter().map(|(tags, m)| (tags, m.len())).collect();
    let expected = [("stdout P", MAX_LINE), ("stdout P", MAX_LINE), ("stdout F", 5)];
    assert_eq!(parts, expected.map(|(tags, len)| (tags.to_owned(), len)));

    let line = format!("{}\n", "y".repeat(1 << 20));
    for _ in 0..80 {
        log.write(Stream::Out, &line);
    }
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
}

use super::*;

fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

fn image(number: u8, blobs: &[u8]) -> Stored {
    Stored {
        digest: digest(number),
        size: 1,
        blobs: blobs.iter().map(|b| digest(*b)).collect(),
        programs: [(
            String::new(),
            Program { digest: digest(blobs[0]), media_type: String::new() },
        )]
        .into(),
        run: Run::default(),
        files: None,
        access: BTreeMap::new(),
    }
}

fn blob(store: &Store, number: u8) {
    fs::write(store.blob(&digest(number)), [number]).unwrap();
}

fn blobs(store: &Store) -> Vec<u8> {
    let mut all: Vec<u8> = names(&store.inner.dir.join("blobs/sha256"))
        .unwrap()
        .iter()
        .map(|file| u8::from_str_radix(&file[..2], 16).unwrap())
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn what_is_kept_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    blob(&store, 1);
    let mut kept = image(9, &[1]);
    kept.grant("a/b", None);
    store.keep(kept, &name("a/b:v1")).unwrap();
    for store in [store.clone(), Store::open(folder.path()).unwrap()] {
        assert_eq!(store.find(&name("a/b:v1")).unwrap().digest, digest(9));
        assert!(store.find(&name("a/b:v2")).is_none());
        assert!(store.find(&name(&format!("a/b@{}", digest(9)))).is_some());
        // Of another repository nobody said that it has this image.
        assert!(store.find(&name(&format!("a/c@{}", digest(9)))).is_none());
        assert_eq!(store.key().len(), 32);
    }
    assert_eq!(store.key(), Store::open(folder.path()).unwrap().key());
}

#[test]
fn only_what_no_other_needs_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (1..=4).for_each(|number| blob(&store, number));
    store.keep(image(8, &[1, 2]), &name("one")).unwrap();
    store.keep(image(9, &[3, 2]), &name("two")).unwrap();
    let lease = store.lease(vec![digest(4)]);
    assert_eq!(store.remove(&digest(8)).unwrap(), (vec![digest(1)], 1));
    assert_eq!(blobs(&store), [2, 3, 4]);
    assert!(store.find(&name("one")).is_none());
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), 0);
    drop(lease);
    assert_eq!(store.sweep(Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), 1);
    assert_eq!(blobs(&store), [2, 3]);
    assert_eq!(Store::open(folder.path()).unwrap().list().len(), 1);
}

/// The agent may be killed between any two file operations of a pull or a removal: whatever is left, the next start finds
/// whole images only.
#[test]
fn every_half_done_state_is_consistent() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let store = Store::open(dir).unwrap();
    (1..=2).for_each(|number| blob(&store, number));
    store.keep(image(8, &[1]), &name("one")).unwrap();
    store.keep(image(9, &[2]), &name("two")).unwrap();
    let hex = |number| hex_of(&digest(number)).to_owned();

    // Removal, killed: after the names, then after the record.
    fs::remove_file(store.name_path("one:latest")).unwrap();
    let next = Store::open(dir).unwrap();
    assert!(next.find(&name("one")).is_none() && next.get(&digest(8)).is_some());
    fs::remove_file(dir.join("images").join(format!("{}.json", hex(8)))).unwrap();
    let next = Store::open(dir).unwrap();
    assert!(next.get(&digest(8)).is_none() && next.find(&name("two")).is_some());
    assert_eq!(next.sweep(Duration::ZERO).unwrap(), 1);
    assert_eq!(blobs(&next), [2]);

    // A pull, killed: a blob that is not whole, a file without a name, a record that was not written to its end.
    fs::write(next.part(&digest(3)), b"begun").unwrap();
    fs::write(next.unnamed(), b"begun").unwrap();
    fs::write(dir.join("images").join(format!("{}.json", hex(7))), b"{\"digest\":").unwrap();
    fs::write(next.name_path("three:latest"), b"").unwrap();
    let next = Store::open(dir).unwrap();
    assert_eq!(names(&dir.join("parts")).unwrap(), [hex(3)], "what can be gone on with stays");
    assert_eq!(names(&dir.join("images")).unwrap(), [format!("{}.json", hex(9))]);
    assert!(next.find(&name("two")).is_some() && next.find(&name("three")).is_none());

    // The machine went down before the blob reached the disk, or the record is another's.
    fs::remove_file(next.blob(&digest(2))).unwrap();
    let next = Store::open(dir).unwrap();
    assert!(next.find(&name("two")).is_none() && next.list().is_empty());
    assert!(names(&dir.join("names")).unwrap().is_empty());
}

#[test]
fn a_record_needs_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.keep(image(9, &[1]), &name("one")).is_err());
    assert!(store.list().is_empty());
}

#[test]
fn access_is_by_place_and_credential() {
    let mut image = image(9, &[1]);
    let print = |text: &str| text.to_owned();
    assert!(image.grant("r/a", Some(print("ann"))));
    assert!(!image.grant("r/a", Some(print("ann"))));
    assert!(image.opens_to("r/a", &[print("bob"), print("ann")]));
    assert!(!image.opens_to("r/a", &[print("bob")]) && !image.opens_to("r/a", &[]));
    assert!(!image.opens_to("r/b", &[print("ann")]));
    assert!(image.grant("r/a", None) && image.opens_to("r/a", &[]));
    for number in 0..2 * MAX_CREDENTIALS {
        image.grant("r/a", Some(number.to_string()));
    }
    assert_eq!(image.access["r/a"].credentials.len(), MAX_CREDENTIALS);
}

#[test]
fn nothing_is_for_others_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    blob(&store, 1);
    store.keep(image(9, &[1]), &name("one")).unwrap();
    for path in ["images/key".to_owned(), format!("images/images/{}.json", hex_of(&digest(9)))] {
        let mode = fs::metadata(folder.path().join(&path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
}

use super::*;

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn unpack(store: &Store, diff_id: &str) -> PathBuf {
    let fresh = store.new_layer().unwrap();
    fs::write(fresh.join("file"), "content").unwrap();
    let unpacked = Unpacked { bytes: 7, entries: 1, implied: Vec::new() };
    store.keep_layer(diff_id, &fresh, unpacked).unwrap()
}

fn left(store: &Store) -> Vec<String> {
    let mut left = names(&store.layers_dir()).unwrap();
    left.sort();
    left
}

#[test]
fn layers_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.layer(ONE), None);
    let folder = unpack(&store, ONE);
    assert_eq!(store.layer(ONE), Some(folder.clone()));
    unpack(&store, TWO);
    store.sync_layer(TWO).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.layer(ONE), Some(folder.clone()));
    // After a boot, what was not written to the disk for sure is not trusted.
    let record = store.layer_record(ONE);
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace(&boot(), "another")).unwrap();
    let record = store.layer_record(TWO);
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace(&boot(), "another")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.layer(ONE), None);
    assert!(store.layer(TWO).is_some());
    store.remove_discarded().unwrap();
    assert_eq!(left(&store).len(), 2, "{:?}", left(&store));
}

#[test]
fn what_was_left_behind_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let killed = store.new_layer().unwrap();
    fs::write(killed.join("half"), "half").unwrap();
    // Without a record, as after a kill between the two.
    fs::create_dir(store.layer_path(ONE)).unwrap();
    fs::write(store.layer_record(TWO), "{}").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let own = store.new_layer().unwrap();
    store.sweep(Duration::ZERO).unwrap();
    assert_eq!(left(&store), [own.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn layers_go_when_nobody_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    unpack(&store, ONE);
    unpack(&store, TWO);
    assert_eq!(store.sweep_layers(Duration::from_secs(3600)).unwrap(), 0, "too young");
    let lease = store.lease(vec![ONE.to_owned()]);
    assert_eq!(store.sweep_layers(Duration::ZERO).unwrap(), 7);
    assert!(store.layer(ONE).is_some() && store.layer(TWO).is_none());
    drop(lease);
    assert_eq!(store.sweep_layers(Duration::ZERO).unwrap(), 7);
    assert!(left(&store).is_empty());
}

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A layer's folders with their modes, and those that it implies.
type Given<'a> = (&'a [(&'a str, u32)], &'a [&'a str]);

/// Layers are the lowest first.
fn check(layers: &[Given<'_>], expected: &[(&str, u32)]) {
    let place = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = layers
        .iter()
        .enumerate()
        .map(|(number, (folders, implied))| {
            let folder = place.path().join(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            for (path, mode) in *folders {
                let path = folder.join(path);
                std::fs::create_dir(&path).unwrap();
                std::fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
            }
            Layer { folder, implied: implied.iter().map(|path| (*path).to_owned()).collect() }
        })
        .collect();
    let found = attributes(&layers);
    let found: Vec<_> = found.iter().map(|own| (own.path.to_str().unwrap(), own.mode)).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_is_implied_is_as_the_layers_below_have_it() {
    let base: Given<'_> = (&[("a", 0o700), ("a/b", 0o1777), ("c", 0o750)], &[]);
    let implies: Given<'_> = (&[("a", 0o755), ("a/b", 0o755), ("d", 0o755)], &["a", "a/b", "d"]);
    check(&[base, implies], &[("/a", 0o700), ("/a/b", 0o1777)]);
    check(&[base, implies, implies], &[("/a", 0o700), ("/a/b", 0o1777)]);
    // Described again above, or below what implies it.
    check(&[base, implies, (&[("a", 0o711)], &[])], &[("/a/b", 0o1777)]);
    check(&[implies, base], &[]);
    check(&[base], &[]);
}

#[test]
fn links_and_files_hide_what_is_below() {
    let place = tempfile::tempdir().unwrap();
    let layer = |name: &str, implied: &[&str]| {
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Layer { folder, implied: implied.iter().map(|path| (*path).to_owned()).collect() }
    };
    let (base, link, top) = (layer("base", &[]), layer("link", &[]), layer("top", &["tmp"]));
    std::fs::create_dir(base.folder.join("tmp")).unwrap();
    std::os::unix::fs::symlink("/tmp", link.folder.join("tmp")).unwrap();
    std::fs::create_dir(top.folder.join("tmp")).unwrap();
    assert_eq!(attributes(&[base.clone(), top.clone()]).len(), 1);
    assert_eq!(attributes(&[base, link, top]), []);
}

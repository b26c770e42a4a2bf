//! What layers are made of.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use super::*;

#[test]
fn every_packing_is_unpacked() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = tar(&[folder("etc/"), file("etc/name", b"content"), symlink("link", "etc/name")]);
    for (packing, packed) in [
        (Packing::Plain, tar.clone()),
        (Packing::Gzip, gzip(&tar)),
        (Packing::Zstd, zstd::encode_all(&tar[..], 1).unwrap()),
    ] {
        let unpacked = place.confined(packing, packed, digest(&tar)).unwrap();
        assert_eq!((unpacked.entries, unpacked.bytes), (3, 7), "{packing:?}");
        assert_eq!(std::fs::read(place.root().join("link")).unwrap(), b"content");
        assert!(unpacked.implied.is_empty());
        assert_eq!(Packing::named(packing.name()), Some(packing));
    }
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entries = [
        Raw { mode: 0o1777, owner: (3, 4), ..folder("tmp") },
        pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc/shadow"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("mtime", b"1500000000.25"),
            ("uid", b"100000"),
            ("gid", b"3000000000"),
        ]),
        Raw { mode: 0o6755, owner: (7, 7), ..file("tmp/tool", b"#!") },
        Raw { owner: (5, 6), ..symlink("tmp/dangling", "/nowhere") },
        Raw { device: (1, 3), mode: 0o666, ..raw("null", b'3') },
        Raw { device: (7, 300), mode: 0o660, ..raw("loop", b'4') },
        Raw { mode: 0o600, ..raw("pipe", b'6') },
        hard_link("also", "tmp/tool"),
        Raw { mode: 0o700, ..folder("./") },
    ];
    place.unpack(&entries).unwrap();
    let at = |path: &str| std::fs::symlink_metadata(place.root().join(path)).unwrap();
    assert_eq!((at("tmp").mode() & 0o7777, at("tmp").uid(), at("tmp").gid()), (0o1777, 3, 4));
    // Set after what lies in it was made.
    assert_eq!(at("tmp").mtime(), 0o14000000000);
    assert_eq!(at("tmp/tool").mode() & 0o7777, 0o6755);
    assert_eq!((at("tmp/tool").uid(), at("tmp/tool").gid()), (100_000, 3_000_000_000));
    assert_eq!((at("tmp/tool").mtime(), at("tmp/tool").mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(at("tmp/tool").ino(), at("also").ino());
    assert_eq!((at("tmp/dangling").uid(), at("tmp/dangling").gid()), (5, 6));
    assert!(at("null").file_type().is_char_device() && at("null").rdev() == libc::makedev(1, 3));
    assert!(at("loop").file_type().is_block_device() && at("loop").rdev() == libc::makedev(7, 300));
    assert_eq!(at("null").mode() & 0o7777, 0o666);
    assert!(at("pipe").file_type().is_fifo());
    assert_eq!(at("").mode() & 0o7777, 0o700);
    let tool = place.root().join("tmp/tool");
    assert_eq!(xattr(&tool, c"security.capability").unwrap(), capability);
    assert_eq!(xattr(&tool, c"trusted.overlay.redirect"), None);
    assert_eq!(xattr(&tool, c"user.overlay.opaque"), None);
}

#[test]
fn whiteouts_are_as_overlayfs_wants_them() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let is_whiteout = |path: &str| {
        let found = std::fs::symlink_metadata(place.root().join(path)).unwrap();
        found.file_type().is_char_device() && found.rdev() == 0
    };
    let is_opaque = |path: &str| {
        xattr(&place.root().join(path), c"trusted.overlay.opaque").as_deref() == Some(b"y")
    };
    place
        .unpack(&[
            folder("d"),
            file("d/.wh.gone", b""),
            file("e/.wh..wh..opq", b""),
            file("e/new", b"new"),
            // What this layer itself has is not hidden by its own whiteouts, whichever comes first.
            file("own", b"own"),
            file(".wh.own", b""),
            file(".wh.later", b""),
            file("later", b"later"),
            file(".wh.folder", b""),
            folder("folder"),
            file("folder/x", b"x"),
            folder("before"),
            file(".wh.before", b""),
            file(".wh.implied", b""),
            file("implied/x", b"x"),
            file(".wh..wh.plnk", b""),
        ])
        .unwrap();
    assert!(is_whiteout("d/gone"));
    assert!(is_opaque("e") && !is_opaque("d"));
    assert_eq!(std::fs::read(place.root().join("own")).unwrap(), b"own");
    assert_eq!(std::fs::read(place.root().join("later")).unwrap(), b"later");
    for folder in ["folder", "before", "implied"] {
        assert!(is_opaque(folder), "{folder}");
    }
    let left = std::fs::read_dir(place.root()).unwrap().flatten();
    let left: Vec<String> = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|name| !name.starts_with(".wh.")), "{left:?}");
}

/// The kernel's own opinion: a whiteout and an opaque folder hide, and attributes of rights reach through.
#[test]
fn overlayfs_takes_them_so() {
    use nix::mount::{MsFlags, mount};
    if !is_root() {
        return;
    }
    let (lower, upper) = (Place::new(), Place::new());
    lower.unpack(&[folder("d"), file("d/a", b"a"), file("d/b", b"b"), file("e/c", b"c")]).unwrap();
    upper.unpack(&[folder("d"), file("d/.wh.a", b""), file("e/.wh..wh..opq", b"")]).unwrap();
    let options = format!("lowerdir={}:{}", upper.root().display(), lower.root().display());
    let merged = upper.dir.path().join("merged");
    std::fs::create_dir(&merged).unwrap();
    on_thread(move || {
        // Mounts go with the thread.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::MS_RDONLY, Some(&*options))
            .unwrap();
        assert!(!merged.join("d/a").exists());
        assert_eq!(std::fs::read(merged.join("d/b")).unwrap(), b"b");
        assert!(!merged.join("e/c").exists() && merged.join("e").is_dir());
    });
}

#[test]
fn what_comes_twice_counts_last() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place
        .unpack(&[
            file("a", b"first"),
            hard_link("b", "a"),
            file("a", b"second"),
            folder("c"),
            file("c/x", b"x"),
            symlink("c", "elsewhere"),
            symlink("d", "/"),
            folder("d"),
            Raw { mode: 0o700, ..folder("d") },
        ])
        .unwrap();
    assert_eq!(std::fs::read(place.root().join("a")).unwrap(), b"second");
    assert_eq!(std::fs::read(place.root().join("b")).unwrap(), b"first");
    assert!(place.root().join("c").is_symlink() && !place.root().join("d").is_symlink());
    assert_eq!(place.root().join("d").metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn folders_behind_links_are_those_of_the_layer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let unpacked = place
        .unpack(&[
            symlink("lib", "usr/lib"),
            file("lib/x", b"x"),
            symlink("var/run", "/run"),
            file("var/run/y", b"y"),
            file("/absolute", b"z"),
        ])
        .unwrap();
    assert_eq!(std::fs::read(place.root().join("usr/lib/x")).unwrap(), b"x");
    assert_eq!(std::fs::read(place.root().join("run/y")).unwrap(), b"y");
    assert_eq!(std::fs::read(place.root().join("absolute")).unwrap(), b"z");
    assert_eq!(unpacked.implied, ["run", "usr", "usr/lib", "var"]);
}

#[test]
fn long_names_and_large_numbers_are_read() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let gnu = |kind, text: &str| Raw {
        content: format!("{text}\0").into_bytes(),
        ..raw("././@LongLink", kind)
    };
    let mut prefixed = file("name", b"ustar").bytes();
    prefixed[345..349].copy_from_slice(b"some");
    seal(&mut prefixed[..512]);
    let mut entries = tar(&[
        gnu(b'L', &format!("gnu/{long}")),
        file("short", b"gnu"),
        pax(&[("path", format!("pax/{long}").as_bytes()), ("size", b"3")]),
        Raw { size: Some(0), ..file("short", b"pax") },
        gnu(b'K', &format!("gnu/{long}")),
        hard_link("linked", "short"),
        pax(&[("linkpath", format!("pax/{long}").as_bytes())]),
        symlink("link", "short"),
        pax(&[("comment", b"of git")]),
        file("after", b"after"),
    ]);
    entries.truncate(entries.len() - 1024);
    entries.extend_from_slice(&prefixed);
    // Without the empty blocks at the end, as some leave them out.
    place.confined(Packing::Plain, entries.clone(), digest(&entries)).unwrap();
    let read = |path: &str| std::fs::read(place.root().join(path)).unwrap();
    assert_eq!(read(&format!("gnu/{long}")), b"gnu");
    assert_eq!(read(&format!("pax/{long}")), b"pax");
    assert_eq!(read("linked"), b"gnu");
    assert_eq!(read("link"), b"pax");
    assert_eq!((read("some/name"), read("after")), (b"ustar".to_vec(), b"after".to_vec()));
}

#[test]
fn sparse_files_have_their_holes() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let data = vec![7_u8; 512];
    let size = 1_u64 << 20;
    let expected = |content: &[u8]| {
        assert_eq!(content.len(), size as usize);
        assert_eq!(&content[4096..4608], &data[..]);
        assert!(content[..4096].iter().chain(&content[4608..]).all(|byte| *byte == 0));
    };
    let zero = [
        ("GNU.sparse.size", &b"1048576"[..]),
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"512"),
    ];
    let zero_one = [
        ("GNU.sparse.size", &b"1048576"[..]),
        ("GNU.sparse.name", b"zero-one"),
        ("GNU.sparse.map", b"4096,512,1048576,0"),
    ];
    let one = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"one"),
        ("GNU.sparse.realsize", b"1048576"),
    ];
    let mut map = b"2\n4096\n512\n1048576\n0\n".to_vec();
    map.resize(512, 0);
    // Old GNU: the map is in the header.
    let mut old = Raw { kind: b'S', ..file("old", &data) }.bytes();
    old[257..265].copy_from_slice(b"ustar  \0");
    old[386..398].copy_from_slice(b"00000010000\0");
    old[398..410].copy_from_slice(b"00000001000\0");
    old[483..495].copy_from_slice(b"00004000000\0");
    seal(&mut old[..512]);
    let mut archive = tar(&[
        pax(&zero),
        file("zero", &data),
        pax(&zero_one),
        file("GNUSparseFile.0/x", &data),
        pax(&one),
        file("GNUSparseFile.0/y", &[map, data.clone()].concat()),
        file("zeros", &vec![0; 100_000]),
    ]);
    archive.truncate(archive.len() - 1024);
    archive.extend_from_slice(&old);
    let unpacked = place.confined(Packing::Plain, archive.clone(), digest(&archive)).unwrap();
    for name in ["zero", "zero-one", "one", "old"] {
        expected(&std::fs::read(place.root().join(name)).unwrap());
        let blocks = std::fs::metadata(place.root().join(name)).unwrap().blocks();
        assert!(blocks <= 16, "{name} takes {blocks} blocks");
    }
    assert_eq!(std::fs::read(place.root().join("zeros")).unwrap(), vec![0; 100_000]);
    assert!(unpacked.bytes < 10_000, "{unpacked:?}");
}

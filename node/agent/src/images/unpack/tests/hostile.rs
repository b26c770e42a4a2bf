//! Layers that try to get out, to fill the node, or to keep it busy.

use super::*;

#[test]
fn names_that_lead_out_are_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    for path in ["../outside/x", "a/../../outside/x", "/../outside/x", "..", "a/..", "./../x"] {
        for kind in [b'0', b'1', b'2', b'3', b'5', b'6'] {
            let entry = Raw { link: b"x".to_vec(), ..raw(path, kind) };
            place.refuses(&[entry], &["leads out of the image", path]);
        }
    }
    let hidden = [file("d/.wh...", b""), file(".wh..", b""), file(".wh.", b"")];
    for entry in hidden {
        place.refuses(&[folder("d"), entry], &["is a whiteout of no name"]);
    }
    place.refuses(&[file(".", b"")], &["is the root, and no folder"]);
    place.refuses(&[symlink("a", "")], &["to nothing"]);
}

#[test]
fn links_do_not_lead_out() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let outside = place.outside();
    let outside = outside.to_str().unwrap();
    // Written through a link to a folder outside: it is a folder of the layer's own.
    for to in [outside, "../outside", "/../../../outside", "../../../../../../../../outside"] {
        for entry in [
            file("l/secret", b"harm"),
            folder("l/new"),
            file("l/.wh.secret", b""),
            file("l/.wh..wh..opq", b""),
            Raw { device: (1, 1), ..raw("l/secret", b'3') },
            symlink("l/secret", "/"),
            raw("l/pipe", b'6'),
        ] {
            place.unpack(&[symlink("l", to), entry]).unwrap();
        }
    }
    // Written through a link to a file outside: the link is replaced.
    let secret = format!("{outside}/secret");
    place.unpack(&[symlink("l", &secret), file("l", b"harm")]).unwrap();
    assert!(!place.root().join("l").is_symlink());
    place
        .unpack(&[
            symlink("l", &secret),
            Raw { mode: 0o777, owner: (1, 1), ..symlink("l", &secret) },
        ])
        .unwrap();
    place.unpack(&[symlink("l", outside), folder("l"), file("l/x", b"x")]).unwrap();
    // Replaced together with what lies in it, and not what the link leads to.
    place.unpack(&[folder("d"), symlink("d/l", outside), file("d", b"")]).unwrap();
    // Hard links to files outside, directly and behind a link.
    place.refuses(&[hard_link("h", &secret)], &["\"h\"", "which this layer does not have"]);
    place.refuses(&[hard_link("h", "../outside/secret")], &["\"h\"", "leads out"]);
    place.refuses(
        &[symlink("l", outside), hard_link("h", "l/secret"), file("h", b"harm")],
        &["\"h\"", "which this layer does not have"],
    );
    // To a link: the link itself, never what it leads to.
    place.unpack(&[symlink("l", &secret), hard_link("h", "l"), file("h", b"harm")]).unwrap();
    place.refuses(&[folder("d"), hard_link("h", "d")], &["which is a folder"]);
    place.refuses(&[hard_link("h", "/")], &["hard link to the root"]);
    place.refuses(&[hard_link("h", "h")], &["does not have"]);
    place.refuses(&[file("f", b""), file("f/x", b"")], &["\"f/x\"", "below \"f\"", "no folder"]);
    let circle = [symlink("a", "b"), symlink("b", "a"), file("a/x", b"")];
    place.refuses(&circle, &["more than 40 symbolic links"]);
}

#[test]
fn bombs_are_cut_off() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // 10 GiB of zeros in one file, packed to a few megabytes: pieces of a gzip or zstd stream follow one another.
    let header = Raw { size: Some(10 << 30), ..raw("zeros", b'0') }.bytes();
    let zeros = vec![0; 16 << 20];
    let pieces = (10 << 30) / zeros.len();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    for (packing, first, piece) in
        [(Packing::Gzip, gzip(&header), gzip(&zeros)), (Packing::Zstd, zstd(&header), zstd(&zeros))]
    {
        let bomb = [first, piece.repeat(pieces)].concat();
        assert!(bomb.len() < 64 << 20);
        let refusal = place.confined(packing, bomb, digest(b"")).unwrap_err();
        assert_refusal(&refusal, &["more than 67108864 bytes", "\"zeros\""]);
    }
    // The same as many files, which say so only one by one; and after the end of the archive.
    let piece =
        [Raw { size: Some(16 << 20), ..raw("zeros", b'0') }.bytes(), zeros.clone()].concat();
    let refusal = place.confined(Packing::Gzip, gzip(&piece).repeat(100), digest(b"")).unwrap_err();
    assert_refusal(&refusal, &["more than 67108864 bytes", "\"zeros\""]);
    let after = [gzip(&tar(&[file("a", b"a")])), gzip(&zeros).repeat(100)].concat();
    let refusal = place.confined(Packing::Gzip, after, digest(b"")).unwrap_err();
    assert_refusal(&refusal, &["more than 67108864 bytes"]);
    // And as a sparse file, of which nothing is stored.
    place.refuses(
        &[
            pax(&[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"1099511627776,0")]),
            file("hole", b""),
        ],
        &["more than 67108864 bytes", "\"hole\""],
    );
}

#[test]
fn too_many_entries_are_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // A million.
    let entries: Vec<u8> = (0..1000).flat_map(|n| file(format!("d/{n}"), b"").bytes()).collect();
    let packed = gzip(&entries).repeat(1000);
    let refusal = place.confined(Packing::Gzip, packed, digest(b"")).unwrap_err();
    assert_refusal(&refusal, &["more than 20000 entries", "\"d/0\""]);
    // Headers count nothing by themselves, but do not go on for ever.
    let extensions = vec![pax(&[("comment", b"x")]); 100];
    place.refuses(&extensions, &["more than 16 header extensions"]);
}

#[test]
fn names_have_limits() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let named = |path: &str| [pax(&[("path", path.as_bytes())]), file("x", b"")];
    place.refuses(&named(&"n".repeat(256)), &["name of more than 255 bytes"]);
    place.refuses(&named(&"d/".repeat(300)), &["deeper than 255"]);
    place.refuses(&named(&"d/".repeat(2100)), &["path of more than 4096 bytes"]);
    place.refuses(&named(&"d".repeat(2 << 20)), &["header extension of more than"]);
    let link = [pax(&[("linkpath", "d/".repeat(2100).as_bytes())]), symlink("x", "y")];
    place.refuses(&link, &["path of more than 4096 bytes"]);
    // Deep by links: each leads further down.
    let mut entries = vec![folder("d/".repeat(100))];
    let deeper = |n: usize| {
        symlink(
            format!("l{n}"),
            if n == 0 { "d/".repeat(49) } else { format!("l{}/{}", n - 1, "d/".repeat(45)) },
        )
    };
    for n in 0..8 {
        entries.push(deeper(n));
        entries.push(folder(format!("l{n}/{}", "d/".repeat(40))));
    }
    place.refuses(&entries, &["deeper than 255"]);
    let many: Vec<(String, Vec<u8>)> =
        (0..100).map(|n| (format!("SCHILY.xattr.user.a{n}"), b"x".to_vec())).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(k, v)| (k.as_str(), &v[..])).collect();
    place.refuses(&[pax(&many), file("x", b"")], &["more than 64 extended attributes"]);
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let good = tar(&[file("a", &[1; 100_000]), file("b", b"b")]);
    let wrong = place.confined(Packing::Plain, good.clone(), digest(b"other")).unwrap_err();
    assert_refusal(&wrong, &["unpacks to sha256:", "configuration says sha256:"]);
    for (packing, packed) in [
        (Packing::Plain, good.clone()),
        (Packing::Gzip, gzip(&good)),
        (Packing::Zstd, zstd::encode_all(&good[..], 1).unwrap()),
    ] {
        let cut = packed[..packed.len() / 3].to_vec();
        let refusal = place.confined(packing, cut, digest(&good)).unwrap_err();
        assert_refusal(&refusal, &["cannot be unpacked", "truncated"]);
    }
    for packing in [Packing::Gzip, Packing::Zstd] {
        let refusal = place.confined(packing, good.clone(), digest(&good)).unwrap_err();
        assert_refusal(&refusal, &["cannot be unpacked"]);
    }
    let noise: Vec<u8> = (0..2000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let refusal = place.confined(Packing::Plain, noise, digest(&good)).unwrap_err();
    assert_refusal(&refusal, &["damaged archive", "checksum", "at its beginning"]);
    let unknown = [file("a", b""), raw("b", b'M')];
    place.refuses(&unknown, &["entry \"b\"", "unknown type 'M'"]);
    let huge = [pax(&[("size", b"99999999999999999999")]), file("a", b"")];
    place.refuses(&huge, &["size is no number"]);
    let owner = [pax(&[("uid", b"4294967295")]), file("a", b"")];
    place.refuses(&owner, &["entry \"a\"", "owner 4294967295 is out of range"]);
    for map in ["0,4,2,4", "8,4,0,4", "0,9999999999", "1", "x,y", "18446744073709551615,2"] {
        let entries = [
            pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", map.as_bytes())]),
            file("a", b"abcdefgh"),
        ];
        place.refuses(&entries, &["sparse file"]);
    }
    for records in [&b"5 a=b\n"[..], b"99 a=b\n", b"6 a=bc", b"x a=b\n", b"0 \n", b"7 aaaa\n"] {
        let entries = [Raw { content: records.to_vec(), ..raw("pax", b'x') }, file("a", b"")];
        place.refuses(&entries, &["damaged PAX header"]);
    }
}

#[test]
fn a_full_disk_is_the_nodes_fault() {
    use nix::mount::{MsFlags, mount};
    if !is_root() {
        return;
    }
    let place = Place::new();
    std::fs::create_dir(place.root()).unwrap();
    let content: Vec<u8> = (0..4_u32 << 20).map(|n| n as u8 | 1).collect();
    let tar = tar(&[file("small", b"x"), file("large", &content)]);
    let into = place.root();
    let refusal = on_thread(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let options = Some("size=1m");
        mount(Some("tmpfs"), &into, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        let limits = Limits::default();
        let job = Job { into, packing: Packing::Plain, diff_id: digest(&tar), limits };
        let root = tree::open_root(&job.into).unwrap();
        super::super::unpack(&job, root, io::Cursor::new(tar), || true).unwrap_err()
    });
    assert_eq!(refusal.fault, Fault::Disk, "{refusal}");
    assert!(refusal.message.contains("no space left on device"), "{refusal}");
    assert!(refusal.message.contains("\"large\""), "{refusal}");
}

#[test]
fn who_unpacks_can_do_nothing_else() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let secret = place.outside().join("secret");
    std::fs::create_dir(place.root()).unwrap();
    let root = place.root();
    let held = std::fs::File::open(place.outside()).unwrap();
    on_thread(move || {
        confine::enter(&root).unwrap();
        assert!(std::fs::read(&secret).is_err());
        // Not even by a descriptor from before.
        let flags = nix::fcntl::OFlag::O_RDONLY;
        let found = nix::fcntl::openat(&held, "secret", flags, nix::sys::stat::Mode::empty());
        assert_eq!(found.unwrap_err(), Errno::EACCES);
        assert!(
            std::net::TcpStream::connect("127.0.0.1:1")
                .is_err_and(|e| e.raw_os_error() == Some(libc::EPERM))
        );
        assert_eq!(nix::unistd::chroot("/").unwrap_err(), Errno::EPERM);
        let flags = nix::mount::MsFlags::MS_BIND;
        let mounted = nix::mount::mount(Some("/"), "/", None::<&str>, flags, None::<&str>);
        assert_eq!(mounted.unwrap_err(), Errno::EPERM);
        // The system call itself: the C library would ask the same of all threads.
        // SAFETY: takes a number only.
        let became = Errno::result(unsafe { libc::syscall(libc::SYS_setuid, 1) });
        assert_eq!(became.unwrap_err(), Errno::EPERM);
        let killed = nix::sys::signal::kill(nix::unistd::getppid(), None);
        assert_eq!(killed.unwrap_err(), Errno::EPERM);
    });
}

#[test]
fn it_ends_with_the_agent() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = tar(&(0..2000).map(|n| file(format!("{n}"), b"")).collect::<Vec<_>>());
    let job = place.job(Packing::Plain, digest(&tar));
    let (read, write) = nix::unistd::pipe().unwrap();
    assert!(!confine::is_abandoned(write.as_fd()));
    drop(read);
    assert!(confine::is_abandoned(write.as_fd()));
    let root = tree::open_root(&job.into).unwrap();
    let watch = move || !confine::is_abandoned(write.as_fd());
    let refusal = super::super::unpack(&job, root, io::Cursor::new(tar), watch).unwrap_err();
    assert!(refusal.message.contains("the agent has ended"), "{refusal}");
}

//! Archives as they should be, and as somebody who means harm would make them.

use std::io::Write as _;

use super::*;

const WASM: &[u8] = b"\0asm\x0d\0\x01\0 the program";

/// An archive of `(path, content)`; see [`add`].
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        add(&mut builder, path, content);
    }
    builder.into_inner().unwrap()
}

/// A file; a folder if the path ends in `/`, a link if the content begins with `->` (symbolic) or `=>` (hard).
fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let text = String::from_utf8_lossy(content).into_owned();
    let link = text.strip_prefix("->").or(text.strip_prefix("=>")).map(str::trim);
    header.set_entry_type(match (path.ends_with('/'), &text) {
        (true, _) => tar::EntryType::Directory,
        (_, text) if text.starts_with("->") => tar::EntryType::Symlink,
        (_, text) if text.starts_with("=>") => tar::EntryType::Link,
        _ => tar::EntryType::Regular,
    });
    // As raw bytes: the crate itself refuses to write what a hostile archive holds.
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    if let Some(link) = link {
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    let content = if link.is_some() { &[] } else { content };
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

struct Stack {
    folder: tempfile::TempDir,
    layers: Vec<Layer>,
}

impl Stack {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), layers: Vec::new() }
    }

    fn of(layers: &[&[(&str, &[u8])]]) -> Self {
        layers.iter().fold(Self::new(), |stack, layer| stack.push(&archive(layer), Packing::Plain))
    }

    fn push(mut self, tar: &[u8], packing: Packing) -> Self {
        let packed = match packing {
            Packing::Plain => tar.to_vec(),
            Packing::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                gzip.finish().unwrap()
            }
            Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
        };
        let path = self.folder.path().join(format!("layer{}", self.layers.len()));
        std::fs::write(&path, &packed).unwrap();
        self.layers.push(Layer {
            path,
            digest: format!("sha256:{}", hex(&Sha256::digest(&packed))),
            packing,
            diff_id: format!("sha256:{}", hex(&Sha256::digest(tar))),
        });
        self
    }

    fn extract(&self, path: &str) -> Result<Vec<u8>, String> {
        let to = self.folder.path().join("out");
        let _ = std::fs::remove_file(&to);
        let (digest, size) = extract(&self.layers, path, &to).map_err(|e| e.to_string())?;
        let content = std::fs::read(&to).unwrap();
        assert_eq!(digest, format!("sha256:{}", hex(&Sha256::digest(&content))));
        assert_eq!(size, content.len() as u64);
        Ok(content)
    }

    fn fails(&self, path: &str, wanted: &str) {
        let error = self.extract(path).unwrap_err();
        assert!(error.contains(wanted), "{error:?} does not say {wanted:?}");
    }
}

#[test]
fn every_packing_is_read() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let tar = archive(&[("etc/", b""), ("./app.wasm", WASM)]);
        let stack = Stack::new().push(&tar, packing);
        assert_eq!(stack.extract("/app.wasm").unwrap(), WASM, "{packing:?}");
    }
}

#[test]
fn the_topmost_layer_counts() {
    let other: &[u8] = b"\0asm other";
    let stack =
        Stack::of(&[&[("app.wasm", other)], &[("app.wasm", WASM), ("x", b"x")], &[("y", b"")]]);
    assert_eq!(stack.extract("app.wasm").unwrap(), WASM);
    // Of one archive's entries the last counts, as when it is unpacked.
    let stack = Stack::of(&[&[("app.wasm", other), ("app.wasm", WASM)]]);
    assert_eq!(stack.extract("app.wasm").unwrap(), WASM);
}

#[test]
fn whiteouts_hide_what_lies_below() {
    let below: &[(&str, &[u8])] = &[("d/app.wasm", WASM), ("d/e/app.wasm", WASM)];
    Stack::of(&[below, &[("d/.wh.app.wasm", b"")]]).fails("d/app.wasm", "no file d/app.wasm");
    Stack::of(&[below, &[(".wh.d", b"")]]).fails("d/e/app.wasm", "no file");
    Stack::of(&[below, &[("d/.wh..wh..opq", b"")]]).fails("d/e/app.wasm", "no file");
    Stack::of(&[below, &[("d", b"a file now")]]).fails("d/app.wasm", "no file");
    // What comes with the whiteout, or after it, stays.
    for top in [
        &[("d/.wh..wh..opq", b"" as &[u8]), ("d/app.wasm", WASM)],
        &[("d/app.wasm", WASM), ("d/.wh..wh..opq", b"")],
        &[("d/app.wasm", WASM), ("d/.wh.app.wasm", b"")],
    ] {
        assert_eq!(Stack::of(&[below, top]).extract("d/app.wasm").unwrap(), WASM);
    }
    Stack::of(&[below, &[("d/.wh.app.wasm", b"")], &[("d/app.wasm", WASM)]])
        .extract("d/app.wasm")
        .unwrap();
}

#[test]
fn links_are_followed_within_the_image() {
    let stack = Stack::of(&[&[
        ("usr/lib/app.wasm", WASM),
        ("lib", b"-> usr/lib"),
        ("abs.wasm", b"-> /lib/app.wasm"),
        ("up.wasm", b"-> ../../../usr/./lib//app.wasm"),
        ("hard.wasm", b"=> usr/lib/app.wasm"),
        ("loop", b"-> loop"),
        ("secret.wasm", b"-> /etc/passwd"),
        ("folder.wasm/", b""),
        ("text.wasm", b"#!/bin/sh"),
        ("short.wasm", b"\0as"),
    ]]);
    for path in ["/lib/app.wasm", "abs.wasm", "/up.wasm", "hard.wasm", "/usr/../lib/app.wasm"] {
        assert_eq!(stack.extract(path).unwrap(), WASM, "{path}");
    }
    stack.fails("loop", "no file");
    stack.fails("secret.wasm", "no file secret.wasm");
    stack.fails("../../../../etc/passwd", "no file");
    stack.fails("folder.wasm", "is no file");
    stack.fails("text.wasm", "not WebAssembly");
    stack.fails("short.wasm", "not WebAssembly");
    stack.fails("usr/lib/app.wasm/x", "no file");
}

#[test]
fn a_hard_link_to_another_layer_leads_there() {
    let stack =
        Stack::of(&[&[("app.wasm", WASM)], &[("b.wasm", b"=> app.wasm"), (".wh.app.wasm", b"")]]);
    assert_eq!(stack.extract("b.wasm").unwrap(), WASM);
    stack.fails("app.wasm", "no file");
}

#[test]
fn names_that_lead_out_are_refused() {
    for path in ["../evil", "a/../../evil", "/../evil", "..", "a/.."] {
        Stack::of(&[&[(path, b"x"), ("app.wasm", WASM)]])
            .fails("app.wasm", "leads out of the image");
    }
    Stack::of(&[&[("b", b"=> ../x"), ("app.wasm", WASM)]])
        .fails("app.wasm", "leads out of the image");
}

#[test]
fn long_names_are_read_and_bounded() {
    // PAX and GNU, as real builders write them.
    let deep = format!("{}app.wasm", "long-folder-name/".repeat(20));
    let mut gnu = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(WASM.len() as u64);
    header.set_mode(0o644);
    gnu.append_data(&mut header, &deep, WASM).unwrap();
    let stack = Stack::new().push(&gnu.into_inner().unwrap(), Packing::Plain);
    assert_eq!(stack.extract(&deep).unwrap(), WASM);

    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("path", deep.as_bytes()), ("mtime", b"1.5")]).unwrap();
    add(&mut pax, "short", WASM);
    let stack = Stack::new().push(&pax.into_inner().unwrap(), Packing::Plain);
    assert_eq!(stack.extract(&deep).unwrap(), WASM);

    let refused = |extension: &[(&str, &[u8])], wanted: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(extension.iter().copied()).unwrap();
        add(&mut builder, "app.wasm", WASM);
        Stack::new().push(&builder.into_inner().unwrap(), Packing::Plain).fails("app.wasm", wanted);
    };
    refused(&[("path", "a/".repeat(300).as_bytes())], "deeper than");
    refused(&[("path", "a".repeat(5000).as_bytes())], "a path of more than");
    refused(&[("comment", "c".repeat(100 << 10).as_bytes())], "a header of more than");
    refused(&[("size", b"1")], "given twice");
    refused(&[("path", b"../../x")], "leads out");
}

#[test]
fn what_unpacks_to_something_else_is_refused() {
    let mut stack = Stack::of(&[&[("app.wasm", WASM)], &[("app.wasm", WASM)]]);
    stack.layers[1].diff_id = stack.layers[1].diff_id.replace(['a', '1'], "0");
    stack.fails("app.wasm", "the image's configuration says");
}

#[test]
fn damaged_archives_are_errors() {
    let tar = archive(&[("app.wasm", WASM)]);
    for packing in [Packing::Gzip, Packing::Zstd] {
        let stack = Stack::new().push(&tar, packing);
        let whole = std::fs::read(&stack.layers[0].path).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&stack.layers[0].path, &whole[..cut]).unwrap();
            assert!(stack.extract("app.wasm").is_err(), "{packing:?} cut at {cut}");
        }
    }
    let mut noise = 12345_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1);
        (noise >> 33) as u8
    })
    .take(10_000)
    .collect();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        assert!(Stack::new().push(&noise, packing).extract("app.wasm").is_err());
    }
}

/// A few megabytes that unpack to more than an image may: neither disk nor memory sees it.
#[test]
fn bombs_are_defused() {
    struct Zeros(u64);
    impl Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = (buffer.len() as u64).min(self.0) as usize;
            buffer[..count].fill(0);
            self.0 -= count as u64;
            Ok(count)
        }
    }
    let stack = Stack::new();
    let path = stack.folder.path().join("bomb");
    let mut zstd = zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
    io::copy(&mut Zeros(MAX_UNPACKED + (1 << 20)), &mut zstd).unwrap();
    zstd.finish().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 4 << 20);
    let layer = Layer {
        path,
        digest: "sha256:bomb".to_owned(),
        packing: Packing::Zstd,
        diff_id: "sha256:0".to_owned(),
    };
    let error = extract(&[layer], "app.wasm", &stack.folder.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("unpack to more than"), "{error}");
}

/// Whiteouts of the same folder again and again once took time that grew with the square of their number.
#[test]
fn many_entries_and_whiteouts_take_no_time() {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..20_000 {
        add(&mut builder, &format!("d/{number}"), b"");
        add(&mut builder, "d/.wh..wh..opq", b"");
        add(&mut builder, ".wh.d", b"");
    }
    add(&mut builder, "app.wasm", WASM);
    let stack = Stack::new().push(&builder.into_inner().unwrap(), Packing::Plain);
    let start = std::time::Instant::now();
    assert_eq!(stack.extract("app.wasm").unwrap(), WASM);
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "took {:?}", start.elapsed());
}

#[test]
fn too_many_entries_are_refused() {
    let one = archive(&[("d/x", b"")]);
    let header = &one[..512];
    let mut tar = Vec::with_capacity(512 * (MAX_ENTRIES + 3));
    for _ in 0..=MAX_ENTRIES {
        tar.extend_from_slice(header);
    }
    tar.extend_from_slice(&[0; 1024]);
    Stack::new().push(&tar, Packing::Plain).fails("app.wasm", "hold more than");
}

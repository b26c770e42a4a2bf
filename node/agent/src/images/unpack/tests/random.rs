//! Archives by chance, of parts that have led others astray: whatever they do, nothing outside changes, and nothing fails
//! but by the layer's fault. Seeded, so that a failure comes again.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use super::*;

/// A small generator (xorshift64*): the same numbers everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn path(&mut self, outside: &str) -> String {
        const PARTS: &[&str] = &[
            "a",
            "b",
            "c",
            "l",
            "l",
            "m",
            "",
            ".",
            "..",
            ".wh.a",
            ".wh.l",
            ".wh.b",
            ".wh..wh..opq",
            ".wh..",
            ".wh...",
            ".wh.",
            "outside",
            "secret",
            "é\u{7f}",
        ];
        match self.below(12) {
            0 => outside.to_owned(),
            1 => format!("{outside}/secret"),
            2 => format!("../outside/{}", self.pick(PARTS)),
            _ => {
                let count = 1 + self.below(4);
                let parts: Vec<&str> = (0..count).map(|_| self.pick(PARTS)).collect();
                let root = if self.below(5) == 0 { "/" } else { "" };
                format!("{root}{}", parts.join("/"))
            }
        }
    }

    fn entry(&mut self, outside: &str) -> Raw {
        let kind = self.pick(b"00000112222345556LKx\0S7");
        let content = match kind {
            b'L' | b'K' => self.path(outside).into_bytes(),
            b'x' => {
                let (path, link) = (self.path(outside), self.path(outside));
                let all: [(&str, &[u8]); 5] = [
                    ("path", path.as_bytes()),
                    ("linkpath", link.as_bytes()),
                    ("size", b"3"),
                    ("GNU.sparse.map", b"0,1,5,2"),
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
                ];
                pax(&[self.pick(&all), self.pick(&all)]).content
            }
            _ => vec![b'x'; self.below(3) * 300],
        };
        let device = (self.below(3) as u32, self.below(3) as u32);
        let owner = (self.below(3) as u32, self.below(3) as u32);
        let mode = self.pick(&[0o644, 0o4755, 0o000, 0o1777]);
        let link = self.path(outside).into_bytes();
        Raw { link, mode, owner, device, content, ..raw(self.path(outside), kind) }
    }
}

/// Number, mode, owner, time of change and content.
type Told = (u64, u32, u32, i64, i64, Vec<u8>);

/// All that lies in a folder: by path, what it is and when it was changed.
fn listing(folder: &Path, except: &Path) -> BTreeMap<std::path::PathBuf, Told> {
    let mut all = BTreeMap::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        if path == except {
            continue;
        }
        let found = std::fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        if found.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        // The folder in which roots are made anew changes by that.
        let changed = if path == folder { (0, 0) } else { (found.ctime(), found.ctime_nsec()) };
        let told = (found.ino(), found.mode(), found.uid(), changed.0, changed.1, content);
        all.insert(path, told);
    }
    all
}

#[test]
fn nothing_outside_changes() {
    if !is_root() {
        return;
    }
    let mut chance = Chance(0x5eed_0f1a_7e25);
    let place = Place::new();
    let outside = place.outside().to_str().unwrap().to_owned();
    let before = listing(place.dir.path(), &place.root());
    let (mut well, mut refused) = (0, 0);
    for round in 0..1500 {
        let entries: Vec<Raw> = (0..1 + chance.below(12)).map(|_| chance.entry(&outside)).collect();
        let mut tar = tar(&entries);
        // Sometimes damaged; where the checksum is made good again, the damage is looked at.
        for _ in 0..chance.below(3) * chance.below(2) {
            let at = chance.below(tar.len());
            tar[at] = chance.next() as u8;
            let header = at / 512 * 512;
            if chance.below(2) == 0 {
                seal(&mut tar[header..header + 512]);
            }
        }
        let diff_id = digest(&tar);
        // Without the confinement: what holds here is the care with names alone.
        match place.bare(Packing::Plain, tar.clone(), diff_id.clone()) {
            Ok(_) => well += 1,
            Err(refusal) => {
                assert_eq!(refusal.fault, Fault::Layer, "round {round}: {refusal}");
                refused += 1;
            }
        }
        let after = listing(place.dir.path(), &place.root());
        assert_eq!(before, after, "round {round}");
        if round % 50 == 0 {
            let again = place.bare(Packing::Plain, tar.clone(), diff_id.clone());
            assert_eq!(again, place.confined(Packing::Plain, tar, diff_id), "round {round}");
        }
    }
    // Or else nothing was tried.
    assert!(well > 50 && refused > 50, "{well} well, {refused} refused");
}

#[test]
fn packed_noise_is_only_refused() {
    if !is_root() {
        return;
    }
    let mut chance = Chance(0xdec0_de5e_ed01);
    let place = Place::new();
    let good = tar(&(0..20).map(|n| file(format!("{n}"), &[n; 900])).collect::<Vec<_>>());
    for (packing, packed) in
        [(Packing::Gzip, gzip(&good)), (Packing::Zstd, zstd::encode_all(&good[..], 3).unwrap())]
    {
        for round in 0..150 {
            let mut damaged = packed.clone();
            for _ in 0..1 + chance.below(4) {
                let at = chance.below(damaged.len());
                damaged[at] = chance.next() as u8;
            }
            if chance.below(4) == 0 {
                damaged.truncate(chance.below(damaged.len()));
            }
            if let Err(refusal) = place.bare(packing, damaged, digest(&good)) {
                assert_eq!(refusal.fault, Fault::Layer, "round {round}: {refusal}");
            }
        }
    }
}

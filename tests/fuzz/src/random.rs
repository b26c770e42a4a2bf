//! Numbers, texts and documents by chance, from one number.

use serde_json::{Map, Value};

/// Chance that can be repeated (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

/// Texts that have gone wrong somewhere before.
const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "A",
    "0",
    "-1",
    "1.5",
    "null",
    "true",
    "a-b",
    "a.b",
    "a/b",
    "a_b",
    "-",
    "/",
    "~",
    "~1",
    "\\",
    "\"",
    "'",
    "%",
    "%00",
    "\u{0}",
    "\n",
    "\u{7f}",
    "é",
    "\u{2028}",
    "\u{feff}",
    "😀",
    "../..",
    "$patch",
    "$retainKeys",
    "$setElementOrder/a",
    "metadata",
    "name",
    "9223372036854775808",
    "1e400",
    "2024-01-01T00:00:00Z",
    "2024-02-30T00:00:00Z",
    "10.0.0.1",
    "::1",
    "10.0.0.0/8",
    "100m",
    "1Gi",
    "1e99",
    "YQ==",
    "YQ",
    "https://a.b:1/c?d#e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

impl Random {
    /// The same for the same number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Numbers near those at which things change.
    pub fn number(&mut self) -> i64 {
        let near = *self.pick(&[
            0,
            1,
            10,
            127,
            255,
            1 << 15,
            1 << 31,
            1 << 32,
            1 << 53,
            i64::MAX,
            i64::MIN,
        ]);
        match self.below(4) {
            0 => self.bits() as i64,
            1 => self.below(10) as i64,
            _ => near.wrapping_add(self.below(5) as i64 - 2),
        }
    }

    /// A short text, often an odd one.
    pub fn text(&mut self) -> String {
        match self.below(6) {
            0..3 => (*self.pick(TEXTS)).to_owned(),
            3 => {
                let length = self.below(12);
                (0..length).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
            }
            4 => {
                let length = self.below(12);
                (0..length).filter_map(|_| char::from_u32(self.bits() as u32 % 0x11_0000)).collect()
            }
            _ => format!("{}{}", self.pick(TEXTS), self.pick(TEXTS)),
        }
    }

    /// A text of these pieces.
    pub fn of(&mut self, pieces: &[&str], most: usize) -> String {
        let count = self.below(most + 1);
        (0..count).map(|_| *self.pick(pieces)).collect()
    }

    /// A number that is no integer, mostly, and of few enough digits that its text means it exactly.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 24) as f64 / 8.0
    }

    /// Any JSON, so deep at most.
    pub fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => self.once_in(2).into(),
            2 => self.number().into(),
            3 => serde_json::json!(self.fraction()),
            4 => self.text().into(),
            5 => (0..self.below(4)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let mut map = Map::new();
                for _ in 0..self.below(5) {
                    let key =
                        if self.once_in(3) { self.text() } else { self.of(&["a", "b", "c"], 1) };
                    map.insert(key, self.json(depth - 1));
                }
                map.into()
            }
        }
    }
}

//! Names and hashes that follow from what they are made of, so that a decision taken twice gives the same name.

use serde_json::{Map, Value};

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `base` and five characters derived from `seed` and `index`, cut as upstream's `generateName` does.
pub(crate) fn generated(base: &str, seed: &str, index: u64) -> String {
    const LIMIT: usize = 63 - 5;
    let mut end = base.len().min(LIMIT);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut bits = mix(fnv64(seed.as_bytes()) ^ mix(index));
    let mut name = String::with_capacity(end + 5);
    name.push_str(&base[..end]);
    for _ in 0..5 {
        name.push(char::from(ALPHABET[(bits % 27) as usize]));
        bits /= 27;
    }
    name
}

/// The value of the label `pod-template-hash`: one template and collision count give one hash.
pub(crate) fn template_hash(template: &Value, collisions: i32) -> String {
    let mut hash = Fnv32::new();
    hash.value(template);
    if collisions > 0 {
        hash.bytes(&collisions.to_le_bytes());
    }
    // Upstream's SafeEncodeString: no vowels, so no words.
    hash.0.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % 27])).collect()
}

/// FNV-1a over a JSON tree, blind to the order of keys and to what is empty.
struct Fnv32(u32);

impl Fnv32 {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        self.0 = (self.0 ^ 0xff).wrapping_mul(0x0100_0193);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().filter(|(_, v)| !is_nothing(v)).collect();
                keys.sort_unstable_by_key(|(key, _)| *key);
                self.bytes(b"{");
                for (key, value) in keys {
                    self.bytes(key.as_bytes());
                    self.value(value);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                }
                self.bytes(b"]");
            }
            Value::String(text) => self.bytes(text.as_bytes()),
            scalar => self.bytes(scalar.to_string().as_bytes()),
        }
    }
}

/// Absent, `null` and an empty list mean the same in an object.
pub(crate) fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// Deep equality to which absent, `null` and an empty list are one.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_maps(a, b, |_, a, b| same(a, b)),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b || (is_nothing(a) && is_nothing(b)),
    }
}

/// The same of two maps, each pair of values compared by a rule of the caller's.
pub(crate) fn same_maps(
    a: &Map<String, Value>,
    b: &Map<String, Value>,
    same: impl Fn(&str, &Value, &Value) -> bool,
) -> bool {
    let null = Value::Null;
    a.iter().all(|(key, value)| same(key, value, b.get(key).unwrap_or(&null)))
        && b.iter().all(|(key, value)| a.contains_key(key) || same(key, &null, value))
}

pub(crate) fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of splitmix64: neighbouring inputs give unrelated outputs.
fn mix(input: u64) -> u64 {
    let mut x = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

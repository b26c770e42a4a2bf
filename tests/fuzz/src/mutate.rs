//! Inputs made of others: cut, joined, repeated, with bits turned and words put in.

use crate::Random;

/// Bytes that an input may have.
const LONGEST: usize = 64 << 10;

/// An input made of one or two of `inputs`.
pub(crate) fn changed(random: &mut Random, inputs: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = if inputs.is_empty() { Vec::new() } else { random.pick(inputs).clone() };
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16) + 1).min(input.len());
        match random.below(11) {
            0 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] ^= 1 << random.below(8);
            }
            1 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] = random.bits() as u8;
            }
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                // Many times over: depth, and length.
                let piece: Vec<u8> = input[at..end].to_vec();
                let times = *random.pick(&[1, 2, 16, 300, 2000]);
                input.splice(at..at, piece.iter().copied().cycle().take(piece.len() * times));
            }
            5 if !inputs.is_empty() => {
                let other = random.pick(inputs);
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => {
                let text = random.text();
                input.splice(at..at, text.bytes());
            }
            7 => {
                let text = random.number().to_string();
                input.splice(at..at, text.bytes());
            }
            8 => {
                let length = *random.pick(&[1, 4, 8]);
                let bytes = random.number().to_be_bytes();
                input.splice(at..end, bytes[8 - length..].iter().copied());
            }
            _ if !words.is_empty() => {
                let word = random.pick(words);
                let times = if random.once_in(20) { 2000 } else { 1 };
                input.splice(at..at, word.bytes().cycle().take(word.len() * times));
            }
            _ => {}
        }
        input.truncate(LONGEST);
    }
    input
}

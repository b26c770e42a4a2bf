//! House rules as ordinary tests: what a reviewer would otherwise have to remember.
//!
//! Each rule is a function from text to complaints, so that it is shown to fail on made-up input as well as to hold
//! for this repository.
//!
//! - [`imports`]: who may depend on whom, read from `cargo metadata`;
//! - [`sources`]: what every source file and manifest keeps to;
//! - [`links`]: that what documents link to exists.

pub mod imports;
pub mod links;
pub mod sources;

/// A file of the repository that git tracks.
#[derive(Debug)]
pub struct Tracked {
    /// Path from the repository's root.
    pub path: String,
    /// What it holds; empty for what is no text.
    pub text: String,
}

#[cfg(test)]
mod tests;

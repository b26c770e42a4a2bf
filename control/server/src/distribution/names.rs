//! The grammar of repositories, tags and digests, and of the paths made of them.
//!
//! A value of these types is safe as (part of) a file name: no component is empty, starts with a dot or an underscore,
//! or holds anything but letters, digits and `._-`.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::error::{Code, Refusal};

/// Characters that a repository's whole name may have.
const MAX_NAME: usize = 255;
/// Characters that a tag may have.
const MAX_TAG: usize = 128;

/// A repository's name: path components of lower-case letters and digits with single separators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() <= MAX_NAME && text.split('/').all(is_component) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "lower-case letters and digits, separated by one of . _ __ - or /, at most 255";
        Err(Refusal::new(
            Code::NameInvalid,
            format!("{text:?} is no repository name: allowed are {rule}"),
        ))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let separators = text.split(|c: char| c.is_ascii() && word(c as u8));
    ends && separators
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// A tag of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let start = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        (start && rest && text.len() <= MAX_TAG).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SHA-256 digest of content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let refusal = |why| Refusal::new(Code::DigestInvalid, format!("digest {text:?} {why}"));
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| refusal("has no algorithm"))?;
        match algorithm {
            "sha256" => {
                Self::of_hex(hex).ok_or_else(|| refusal("is not 64 lower-case hexadecimal digits"))
            }
            _ => Err(refusal("is not of the one algorithm that is served, sha256")),
        }
    }

    pub(super) fn of_hex(hex: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let mut all = [0; 32];
        let pairs = hex.as_bytes().chunks_exact(2);
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in all.iter_mut().zip(pairs) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(all))
    }

    pub(super) fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    pub(super) fn of_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The name of its file.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a manifest is named in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains(':') {
            return Digest::parse(text).map(Self::Digest);
        }
        Tag::parse(text).map(Self::Tag).ok_or_else(|| {
            Refusal::new(Code::ManifestInvalid, format!("{text:?} is neither a tag nor a digest"))
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag.as_str()),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

/// What a path below `/v2/` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Blob(Name, Digest),
    Uploads(Name),
    Upload(Name, String),
    Manifest(Name, Reference),
    Tags(Name),
    Referrers(Name, Digest),
    Catalog,
}

impl Target {
    /// Reads a path from its end, since a repository's name may have any number of components.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        let segments: Vec<&str> = path.split('/').collect();
        let name = |count: usize| Name::parse(&segments[..segments.len() - count].join("/"));
        Ok(match segments.as_slice() {
            ["_catalog"] => Self::Catalog,
            [_, .., "blobs", "uploads", ""] => Self::Uploads(name(3)?),
            [_, .., "blobs", "uploads"] => Self::Uploads(name(2)?),
            [_, .., "blobs", "uploads", id] => Self::Upload(name(3)?, (*id).to_owned()),
            [_, .., "blobs", digest] => Self::Blob(name(2)?, Digest::parse(digest)?),
            [_, .., "manifests", text] => Self::Manifest(name(2)?, Reference::parse(text)?),
            [_, .., "tags", "list"] => Self::Tags(name(2)?),
            [_, .., "referrers", digest] => Self::Referrers(name(2)?, Digest::parse(digest)?),
            _ => {
                let message = format!("/v2/{path} names nothing that a registry has");
                return Err(Refusal::new(Code::NameUnknown, message));
            }
        })
    }
}

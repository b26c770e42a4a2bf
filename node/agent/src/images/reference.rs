//! Image names, as Pods carry them: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]` (the OCI distribution specification's names,
//! with Docker's rule of what is a host).

use std::fmt;

/// The registry that names without a host mean elsewhere.
pub const DOCKER_HUB: &str = "docker.io";

/// A parsed image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The registry; `None`: the cluster's own.
    pub host: Option<String>,
    /// Path within the registry.
    pub repository: String,
    /// The tag; `latest` where neither tag nor digest is given.
    pub tag: Option<String>,
    /// `sha256:<hex>`; wins over the tag.
    pub digest: Option<String>,
}

impl ImageName {
    /// Reads a name, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > 512 {
            return Err("a name has 1 to 512 characters");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| !is_sha256(d)) {
            return Err("a digest is sha256: and 64 hexadecimal digits");
        }
        let (host, rest) = match rest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (Some(host.to_owned()), rest)
            }
            _ => (None, rest),
        };
        if host.as_deref().is_some_and(|host| !is_host(host)) {
            return Err("a registry is a host name or an address, and maybe a port");
        }
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !repository.split('/').all(is_component) {
            return Err(
                "a repository has lower-case letters, digits and single separators . _ - between them",
            );
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err("a tag has up to 128 letters, digits, _ . - and begins with none of . -");
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self {
            host,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The same image in the registry `host`. Docker Hub's own images lie below `library/`.
    pub fn at(&self, host: &str) -> Self {
        let mut name = Self { host: Some(host.to_owned()), ..self.clone() };
        if matches!(host, DOCKER_HUB | "index.docker.io") {
            name.host = Some(DOCKER_HUB.to_owned());
            if !name.repository.contains('/') {
                name.repository = format!("library/{}", name.repository);
            }
        }
        name
    }

    /// Registry and repository, without tag and digest.
    pub fn place(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// What a manifest is asked for by: the digest, else the tag.
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether this is a SHA-256 digest in the canonical form.
pub fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_host(text: &str) -> bool {
    let (good, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
        Some(None) => (false, ""),
        None => {
            let at = text.find(':').unwrap_or(text.len());
            (text[..at].split('.').all(is_label), &text[at..])
        }
    };
    let numbered = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    good && (port.is_empty() || port.strip_prefix(':').is_some_and(numbered))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |between: &str| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
    };
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.split(alphanumeric).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, host, repository, reference) in [
            ("nginx:1.14.2", None, "nginx", "1.14.2"),
            ("nginx", None, "nginx", "latest"),
            ("team/app:v1", None, "team/app", "v1"),
            ("localhost:5000/a/b:x", Some("localhost:5000"), "a/b", "x"),
            ("localhost/a", Some("localhost"), "a", "latest"),
            ("ghcr.io/o/r:1", Some("ghcr.io"), "o/r", "1"),
            ("[::1]:5000/a", Some("[::1]:5000"), "a", "latest"),
            ("127.0.0.1:5000/a:b", Some("127.0.0.1:5000"), "a", "b"),
            (&format!("a@{digest}"), None, "a", &digest),
            (&format!("a:t@{digest}"), None, "a", &digest),
        ] {
            let name = ImageName::parse(text).unwrap();
            assert_eq!(name.host.as_deref(), host, "{text}");
            assert_eq!((name.repository.as_str(), name.reference()), (repository, reference));
        }
        for bad in [
            "",
            "Nginx",
            "a:",
            "a b",
            "a//b",
            "/a",
            "a@sha256:12",
            "a:-x",
            "-a",
            "https://x/y",
            "x.y:0/a",
            "x.y:99999/a",
            "x..y/a",
            "user@x.y/a",
            "x.y:p/a",
            "[::1/a",
            "[::1]5/a",
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn docker_hub_has_a_library() {
        for (text, host, wanted) in [
            ("nginx", "docker.io", "docker.io/library/nginx:latest"),
            ("team/app:v1", "docker.io", "docker.io/team/app:v1"),
            ("index.docker.io/nginx", "index.docker.io", "docker.io/library/nginx:latest"),
            ("nginx:1", "mirror.example", "mirror.example/nginx:1"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().at(host).to_string(), wanted);
        }
    }
}

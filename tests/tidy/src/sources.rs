//! What source files, manifests and the lock file keep to.

use crate::Tracked;

/// Beyond this many lines a file has become several things.
const MOST_LINES: usize = 1000;

/// Folders of the crates that are shipped.
const PRODUCT: &[&str] = &["cli/", "control/", "node/", "runtimes/"];

/// Unfinished or left-over code. Lints deny these too; here they are held for guests and for code behind `cfg`.
const LEFT_OVER: &[&str] =
    &[concat!("to", "do!("), concat!("unimplemen", "ted!("), concat!("db", "g!(")];

/// Where packages are downloaded from is each machine's own setting, never the repository's. Split, so that this file
/// passes too.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("npmjs", ".org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("rubygems", ".org"),
];

/// The only source that a lock file names: the default one, whatever a machine replaces it with.
const DEFAULT_REGISTRY: &str =
    concat!("\"registry+https://github.com/rust-lang/crates", ".io-index\"");

/// What one file breaks, one line each.
pub fn complaints(file: &Tracked) -> Vec<String> {
    let path = file.path.as_str();
    let mut complaints = match path.rsplit(['/', '.']).next() {
        Some("rs") => rust(file),
        Some("toml") if path.ends_with("Cargo.toml") => manifest(file),
        Some("lock") => return lock(file),
        _ => Vec::new(),
    };
    for host in REGISTRY_HOSTS {
        if file.text.contains(host) {
            complaints.push(format!("{path} names the package registry {host}"));
        }
    }
    complaints
}

fn rust(file: &Tracked) -> Vec<String> {
    let path = file.path.as_str();
    let mut complaints = Vec::new();
    let test = path.ends_with("tests.rs") || path.contains("/tests/");
    let product = PRODUCT.iter().any(|folder| path.starts_with(folder));
    if product && !test && !file.text.trim_start().starts_with("//!") {
        complaints.push(format!("{path} has no head (`//!`) that says why it is there"));
    }
    if file.text.lines().count() > MOST_LINES {
        complaints.push(format!("{path} is longer than {MOST_LINES} lines: split it"));
    }
    for (number, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let place = format!("{path}:{}", number + 1);
        for pattern in LEFT_OVER.iter().filter(|pattern| code.contains(*pattern)) {
            complaints.push(format!("{place} has {pattern}…)"));
        }
        if (code.contains("#[allow(") || code.contains("#![allow("))
            && !code.contains('"')
            && !line.contains("reason")
            && !file.text.lines().skip(number + 1).take(4).any(|next| next.contains("reason ="))
        {
            complaints.push(format!("{place} allows a lint without a `reason`"));
        }
    }
    complaints
}

/// Every crate takes its lints from the workspace; guests are no part of it.
fn manifest(file: &Tracked) -> Vec<String> {
    let package = file.text.contains("[package]") && !file.path.starts_with("examples/");
    let mut lines = file.text.lines().map(str::trim);
    let inherits = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
    if package && !inherits {
        return vec![format!("{} does not inherit the workspace's lints", file.path)];
    }
    Vec::new()
}

fn lock(file: &Tracked) -> Vec<String> {
    file.text
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .filter(|source| *source != DEFAULT_REGISTRY)
        .map(|source| format!("{} takes a package from {source}", file.path))
        .collect()
}

//! Who may depend on whom: the layout's arrows, and which crates keep which outside library to themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Our crates, and which of ours each may name. Ordered from the ground up; a new crate needs a line here.
const OURS: &[(&str, &[&str])] = &[
    ("coracle-api", &[]),
    ("coracle-store", &[]),
    ("coracle-sandbox", &[]),
    ("coracle-cel", &["coracle-api"]),
    ("coracle-controllers", &["coracle-api"]),
    ("coracle-scheduler", &["coracle-api"]),
    ("coracle-network", &["coracle-api", "coracle-fuzz"]),
    ("coracle-ingress", &["coracle-api", "coracle-sandbox"]),
    (
        "coracle-server",
        &[
            "coracle-api",
            "coracle-cel",
            "coracle-store",
            "coracle-controllers",
            "coracle-scheduler",
            "coracle-fuzz",
        ],
    ),
    (
        "coracle-agent",
        &["coracle-api", "coracle-fuzz", "coracle-ingress", "coracle-network", "coracle-sandbox"],
    ),
    ("coracle-wasm", &["coracle-sandbox"]),
    ("coracle-oci", &["coracle-sandbox"]),
    // The one place that names concrete parts and wires them.
    ("coracle", EVERYTHING),
    // Tests drive the binary from outside, fill stores for it and look for what its network left behind; the simulator drives
    // the pure parts.
    ("coracle-test-cluster", &["coracle-network", "coracle-store"]),
    ("coracle-suite", &["coracle-test-cluster"]),
    ("coracle-bench", &["coracle-test-cluster"]),
    ("coracle-sim", &["coracle-api", "coracle-controllers", "coracle-scheduler"]),
    // The runner imports nothing; its targets are what is pure.
    ("coracle-fuzz", &["coracle-api", "coracle-cel", "coracle-controllers"]),
    ("coracle-tidy", &[]),
];

const EVERYTHING: &[&str] = &["*"];

/// Outside libraries (by prefix of their names) that only these of our crates may name.
const KEPT: &[(&[&str], &[&str])] = &[
    (&["wasmtime", "cranelift"], &["coracle-wasm"]),
    (&["libcontainer", "libcgroups"], &["coracle-oci"]),
    (&["redb", "etcd"], &["coracle-store"]),
    (&["cel", "antlr4rust"], &["coracle-cel"]),
];

/// Outside libraries that these of our crates must not name: among control crates, only the server speaks HTTP, and
/// what is pure does no I/O.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    (
        &["axum"],
        &[
            "coracle-api",
            "coracle-cel",
            "coracle-store",
            "coracle-controllers",
            "coracle-scheduler",
        ],
    ),
    (
        &["tokio", "hyper", "reqwest", "rustls", "nix", "libc", "kube", "async-std", "socket2"],
        &["coracle-api", "coracle-cel", "coracle-controllers", "coracle-scheduler", "coracle-sim"],
    ),
];

/// What must build without the heavy libraries, not even through others.
const LIGHT: &[&str] = &[
    "coracle-api",
    "coracle-cel",
    "coracle-store",
    "coracle-controllers",
    "coracle-scheduler",
    "coracle-sim",
];
const HEAVY: &[&str] = &["wasmtime", "cranelift", "axum", "libcontainer"];

/// What a workspace's metadata (`cargo metadata --format-version 1`) breaks, one line each. Development and build
/// dependencies count like any other.
pub fn complaints(metadata: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    for member in members(metadata) {
        let name = text(member, "name");
        let Some((_, allowed)) = OURS.iter().find(|(ours, _)| *ours == name) else {
            complaints.push(format!("{name} is not in the table of who may import whom: add it"));
            continue;
        };
        for dependency in list(member, "dependencies").map(|d| text(d, "name")) {
            if dependency.starts_with("coracle")
                && *allowed != EVERYTHING
                && !allowed.contains(&dependency)
            {
                complaints.push(format!("{name} must not import {dependency}"));
            }
            for (kept, owners) in KEPT {
                if starts_with_any(dependency, kept) && !owners.contains(&name) {
                    complaints
                        .push(format!("{name} names {dependency}, which only {owners:?} may"));
                }
            }
            for (forbidden, who) in FORBIDDEN {
                if starts_with_any(dependency, forbidden) && who.contains(&name) {
                    complaints.push(format!("{name} must not name {dependency}"));
                }
            }
        }
    }
    complaints.extend(weight(metadata));
    complaints
}

/// Light crates that reach a heavy library through the resolved graph.
fn weight(metadata: &Value) -> Vec<String> {
    let names: BTreeMap<&str, &str> =
        list(metadata, "packages").map(|p| (text(p, "id"), text(p, "name"))).collect();
    let edges: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"], "nodes")
        .map(|node| {
            let to = list(node, "dependencies").filter_map(Value::as_str).collect();
            (text(node, "id"), to)
        })
        .collect();
    let mut complaints = Vec::new();
    for member in members(metadata).filter(|m| LIGHT.contains(&text(m, "name"))) {
        let mut seen = BTreeSet::new();
        let mut next = vec![text(member, "id")];
        while let Some(id) = next.pop() {
            if !seen.insert(id) {
                continue;
            }
            let name = names.get(id).copied().unwrap_or_default();
            if starts_with_any(name, HEAVY) {
                complaints.push(format!(
                    "{} must build without {name}: see `cargo tree -p {} -i {name}`",
                    text(member, "name"),
                    text(member, "name")
                ));
            }
            next.extend(edges.get(id).into_iter().flatten());
        }
    }
    complaints
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids: Vec<&Value> = list(metadata, "workspace_members").collect();
    list(metadata, "packages").filter(move |package| ids.contains(&&package["id"]))
}

fn starts_with_any(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

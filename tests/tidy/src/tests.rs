use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Tracked, imports, links, sources};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(root()).output();
    let out = out.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// What git tracks, as it is in the working folder.
fn tracked() -> Vec<Tracked> {
    // Tests may run as another user than the clone's owner, which git would otherwise refuse.
    output("git", &["-c", "safe.directory=*", "ls-files", "-z"])
        .split_terminator('\0')
        .filter(|path| root().join(path).is_file())
        .map(|path| Tracked {
            path: path.to_owned(),
            text: std::fs::read_to_string(root().join(path)).unwrap_or_default(),
        })
        .collect()
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn imports_follow_the_layout() {
    let host = output("rustc", &["-vV"]);
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host triple");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let metadata = output(
        &cargo,
        &["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", host],
    );
    assert_none(imports::complaints(&serde_json::from_str(&metadata).expect("metadata")));
}

#[test]
fn sources_keep_the_house_rules() {
    let files = tracked();
    assert!(files.len() > 100, "git lists {} files only", files.len());
    assert_none(files.iter().flat_map(sources::complaints).collect());
}

#[test]
fn documents_link_to_what_exists() {
    assert_none(tracked().iter().flat_map(|file| links::complaints(&root(), file)).collect());
}

/// A workspace of the crates and direct dependencies given, all resolved as declared.
fn workspace(crates: &[(&str, &[&str])]) -> Value {
    let mut names: Vec<&str> =
        crates.iter().flat_map(|(name, to)| [&[*name], *to].concat()).collect();
    names.sort();
    names.dedup();
    let dependencies =
        |name: &str| crates.iter().find(|(n, _)| *n == name).map(|(_, to)| *to).unwrap_or_default();
    let packages: Vec<Value> = names
        .iter()
        .map(|name| {
            let to: Vec<Value> = dependencies(name).iter().map(|to| json!({"name": to})).collect();
            json!({"id": format!("id:{name}"), "name": name, "dependencies": to})
        })
        .collect();
    let nodes: Vec<Value> = names
        .iter()
        .map(|name| {
            let to: Vec<String> = dependencies(name).iter().map(|to| format!("id:{to}")).collect();
            json!({"id": format!("id:{name}"), "dependencies": to})
        })
        .collect();
    let members: Vec<String> = names
        .iter()
        .filter(|name| name.starts_with("coracle"))
        .map(|name| format!("id:{name}"))
        .collect();
    json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}})
}

#[track_caller]
fn check_imports(crates: &[(&str, &[&str])], expected: &[&str]) {
    let complaints = imports::complaints(&workspace(crates));
    assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
    for (complaint, expected) in complaints.iter().zip(expected) {
        assert!(complaint.contains(expected), "{complaint:?} does not say {expected:?}");
    }
}

#[test]
fn wrong_imports_are_found() {
    check_imports(
        &[("coracle-server", &["coracle-api", "axum"]), ("coracle", &["coracle-wasm"])],
        &[],
    );
    check_imports(&[("coracle-agent", &["axum"]), ("coracle-wasm", &["wasmtime-wasi"])], &[]);
    check_imports(
        &[("coracle-api", &["coracle-store"])],
        &["coracle-api must not import coracle-store"],
    );
    check_imports(&[("coracle-sandbox", &["coracle-api"])], &["must not import coracle-api"]);
    check_imports(&[("coracle-network", &["coracle-store"])], &["must not import coracle-store"]);
    check_imports(&[("coracle-agent", &["coracle-wasm"])], &["must not import coracle-wasm"]);
    check_imports(&[("coracle-suite", &["coracle-server"])], &["must not import coracle-server"]);
    check_imports(&[("coracle-agent", &["wasmtime"])], &["coracle-agent names wasmtime"]);
    check_imports(&[("coracle", &["wasmtime-wasi-http"])], &["coracle names wasmtime-wasi-http"]);
    check_imports(&[("coracle-server", &["redb"])], &["coracle-server names redb"]);
    check_imports(&[("coracle-wasm", &["libcontainer"])], &["coracle-wasm names libcontainer"]);
    check_imports(&[("coracle-scheduler", &["tokio-util"])], &["must not name tokio-util"]);
    check_imports(&[("coracle-new", &[])], &["coracle-new is not in the table"]);
    check_imports(
        &[("coracle-scheduler", &["axum-core"])],
        &["coracle-scheduler must not name axum-core", "must build without axum-core"],
    );
    check_imports(
        &[("coracle-store", &["something"]), ("something", &["wasmtime-environ"])],
        &["coracle-store must build without wasmtime-environ"],
    );
}

#[track_caller]
fn check_source(path: &str, text: &str, expected: Option<&str>) {
    let complaints = sources::complaints(&Tracked { path: path.into(), text: text.into() });
    match expected {
        None => assert!(complaints.is_empty(), "{complaints:?}"),
        Some(expected) => {
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].contains(expected), "{complaints:?} do not say {expected:?}");
        }
    }
}

#[test]
fn broken_house_rules_are_found() {
    let package = "[package]\nname = \"x\"\n";
    check_source("cli/Cargo.toml", &format!("{package}[lints]\nworkspace = true\n"), None);
    check_source("cli/Cargo.toml", package, Some("inherit"));
    check_source("cli/Cargo.toml", &format!("{package}[lints]\n[dependencies]\n"), Some("inherit"));
    check_source("examples/components/x/Cargo.toml", package, None);

    check_source("cli/src/main.rs", "//! Why.\nfn main() {}\n", None);
    check_source("cli/src/main.rs", "fn main() {}\n", Some("head"));
    check_source("cli/src/tests.rs", "fn a() {}\n", None);
    check_source("tests/sim/src/lib.rs", "fn a() {}\n", None);
    for pattern in [concat!("to", "do!()"), concat!("unimplemen", "ted!()"), concat!("db", "g!(1)")]
    {
        check_source("tests/a.rs", &format!("fn a() {{ {pattern} }}\n"), Some("tests/a.rs:1 has"));
        check_source("tests/a.rs", &format!("// {pattern}\n"), None);
    }
    check_source("tests/a.rs", "#[allow(dead_code)]\nfn a() {}\n", Some("without a `reason`"));
    check_source("tests/a.rs", "#[allow(dead_code, reason = \"why\")]\nfn a() {}\n", None);
    check_source("tests/a.rs", &"\n".repeat(1001), Some("longer than 1000"));

    check_source("x.sh", concat!("curl https://static.crates", ".io/x"), Some("package registry"));
    check_source("docs/x.md", concat!("from pypi", ".org"), Some("package registry"));
    let default = concat!("source = \"registry+https://github.com/rust-lang/crates", ".io-index\"");
    check_source("Cargo.lock", default, None);
    check_source(
        "Cargo.lock",
        "source = \"sparse+https://mirror.example/\"",
        Some("mirror.example"),
    );
}

#[test]
fn dead_links_are_found() {
    let check = |path: &str, text: &str| {
        links::complaints(&root(), &Tracked { path: path.into(), text: text.into() })
    };
    assert_none(check(
        "x.md",
        "[a](Cargo.toml) [b](cli/src/main.rs#L1) [c](https://example.com) [d](#here)",
    ));
    assert_none(check("examples/x.md", "[a](../Cargo.toml)"));
    assert_none(check("x.rs", "[a](nowhere)"));
    assert_eq!(
        check("x.md", "[a](Cargo.toml), [b](nowhere.md)"),
        ["x.md links to nowhere.md, which does not exist"]
    );
    assert_eq!(check("examples/x.md", "[a](Cargo.toml)").len(), 1);
}

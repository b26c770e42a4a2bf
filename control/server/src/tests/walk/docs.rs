//! The table of all kinds in the documentation, made from what is served.

use std::path::Path;

use serde_json::Value;

use super::Fixture;

/// Set, the documentation is written instead of compared.
const WRITE: &str = "CORACLE_WRITE_DOCS";

const HEAD: &str = "# The API

Every kind that is served, with its verbs and subresources. This file is made from the table of kinds; a test compares it, and
another takes each kind through each of its verbs. `CORACLE_WRITE_DOCS=1 cargo test -p coracle-server --lib walk::docs` writes it
anew.

Verbs: c(reate), g(et), l(ist), w(atch), u(pdate), p(atch), d(elete), D(eletecollection).

| group and version | kind | resource | short names | verbs | subresources |
|---|---|---|---|---|---|
";

/// Verbs as they are written here, in their order.
const VERBS: [(&str, char); 8] = [
    ("create", 'c'),
    ("get", 'g'),
    ("list", 'l'),
    ("watch", 'w'),
    ("update", 'u'),
    ("patch", 'p'),
    ("delete", 'd'),
    ("deletecollection", 'D'),
];

/// One resource of an `APIResourceList`; those of its parts come as `plural/part`.
fn lines(list: &Value) -> Vec<String> {
    let resources = list["resources"].as_array().cloned().unwrap_or_default();
    let name = |it: &Value| it["name"].as_str().unwrap_or("").to_owned();
    let letters = |it: &Value| -> String {
        let has = |verb: &str| it["verbs"].as_array().is_some_and(|v| v.iter().any(|v| v == verb));
        VERBS.iter().filter(|(verb, _)| has(verb)).map(|(_, letter)| *letter).collect()
    };
    let line = |it: &Value| {
        let own = format!("{}/", name(it));
        let parts = resources.iter().filter_map(|part| {
            Some(format!("{} ({})", name(part).strip_prefix(&own)?, letters(part)))
        });
        let parts: Vec<_> = parts.collect();
        let short = it["shortNames"].as_array().into_iter().flatten();
        let short: Vec<_> = short.filter_map(Value::as_str).collect();
        let scope = if it["namespaced"] == true { "" } else { ", of the cluster" };
        format!(
            "| {} | {} | {}{scope} | {} | {} | {} |\n",
            list["groupVersion"].as_str().unwrap_or(""),
            it["kind"].as_str().unwrap_or(""),
            name(it),
            short.join(", "),
            letters(it),
            parts.join(", "),
        )
    };
    resources.iter().filter(|it| !name(it).contains('/')).map(line).collect()
}

#[tokio::test]
async fn the_table_of_kinds_is_up_to_date() {
    let it = Fixture::new().await;
    let mut text = HEAD.to_owned();
    text.extend(lines(&it.get("/api/v1").await.body));
    let groups = it.get("/apis").await.body;
    for group in groups["groups"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let path = format!("/apis/{}", version["groupVersion"].as_str().unwrap_or(""));
            text.extend(lines(&it.get(&path).await.body));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).expect("a writable file");
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "docs/api.md is out of date: run this test with {WRITE}=1 set");
}

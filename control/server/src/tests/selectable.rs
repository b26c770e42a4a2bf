//! `[sig-api-machinery] CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector`: each
//! version has fields of its own to select by, and a webhook makes one of the other.

use super::admission::Webhook;
use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/hosts";

/// Stored in `v1`, where host and port are one field.
fn definition(conversion: Value) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let text = json!({"type": "string"});
        let properties: serde_json::Map<_, _> =
            fields.iter().map(|field| ((*field).to_owned(), text.clone())).collect();
        let selectable: Vec<_> =
            fields.iter().map(|field| json!({"jsonPath": format!(".{field}")})).collect();
        json!({
            "name": name, "served": true, "storage": name == "v1", "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        })
    };
    json!({
        "metadata": {"name": "hosts.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "conversion": conversion,
            "names": {"plural": "hosts", "singular": "host", "kind": "Host"},
            "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])],
        },
    })
}

fn convert(request: &Value) -> Value {
    let wanted = &request["desiredAPIVersion"];
    let one = |object: &Value| {
        let mut object = object.clone();
        let fields = object.as_object_mut().expect("an object");
        let mut take = |field: &str| {
            let value = fields.remove(field).unwrap_or_default();
            value.as_str().unwrap_or_default().to_owned()
        };
        if wanted == "stable.example.com/v1" {
            let both = format!("{}:{}", take("host"), take("port"));
            fields.insert("hostPort".into(), both.into());
        } else {
            let both = take("hostPort");
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            fields.insert("host".into(), host.into());
            fields.insert("port".into(), port.into());
        }
        object["apiVersion"] = wanted.clone();
        object
    };
    let objects: Vec<_> = request["objects"].as_array().expect("a list").iter().map(one).collect();
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

async fn steps(events: &mut Events, count: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(events.step().await);
    }
    all
}

fn told(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

#[tokio::test]
async fn fields_of_a_version_select_what_is_stored_in_another() {
    let hook = Webhook::new(|_, request| convert(request)).await;
    let client =
        json!({"url": format!("https://localhost:{}/convert", hook.port), "caBundle": hook.ca});
    let conversion = json!({
        "strategy": "Webhook",
        "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]},
    });
    let it = Fixture::defining(definition(conversion)).await;
    let host = format!("{V2}?fieldSelector=host%3Dhost1");
    let both = format!("{V2}?fieldSelector=host%3Dhost1,port%3D80");
    let old = |port: u16| format!("{V1}?fieldSelector=hostPort%3Dhost1:{port}");
    let mut of_host = it.watch(&format!("{host}&watch=1")).await;
    let of_both = it.watch(&format!("{both}&watch=1")).await;
    let of_old = it.watch(&format!("{}&watch=1", old(80))).await;
    for (name, host, port) in [("a", "host1", "80"), ("b", "host1", "8080"), ("c", "host2", "")] {
        let object = json!({
            "apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": name},
            "host": host, "port": port,
        });
        it.create(V2, object).await;
    }
    for (path, names) in [
        (host.clone(), &["a", "b"][..]),
        (both.clone(), &["a"]),
        (old(80), &["a"]),
        (old(8080), &["b"]),
        (format!("{V2}?fieldSelector=host!%3Dhost1"), &["c"]),
        (format!("{V2}?fieldSelector=metadata.name%3Db,host%3Dhost2"), &[]),
    ] {
        let list = it.get(&path).await;
        assert_eq!((list.code, &list.names()[..]), (200, names), "{path}");
    }
    let refused = it.get(&format!("{V1}?fieldSelector=host%3Dhost1")).await;
    assert_eq!((refused.code, refused.message()), (400, "field label not supported: host"));

    // Pages are of what is stored: some hold nothing that is selected, and lead on.
    let mut path = format!("{V2}?fieldSelector=port%3D8080&limit=1");
    let mut found = Vec::new();
    for _ in 0..3 {
        let page = it.get(&path).await;
        found.extend(page.names().into_iter().map(str::to_owned));
        let Some(token) = page.body["metadata"]["continue"].as_str() else { break };
        path = format!("{V2}?fieldSelector=port%3D8080&limit=1&continue={token}");
    }
    assert_eq!(found, ["b"]);

    assert_eq!(steps(&mut of_host, 2).await, told(&[("ADDED", "a"), ("ADDED", "b")]));
    // A watch that begins now is told of what there is.
    let mut later = it.watch(&format!("{both}&watch=1")).await;
    assert_eq!(later.step().await, ("ADDED".into(), "a".into()));

    assert_eq!(it.delete(&both).await.code, 200);
    let moved = it.merge(&format!("{V2}/b"), json!({"host": "host2"})).await;
    assert_eq!(moved.code, 200, "{}", moved.body);
    assert_eq!(it.get(&host).await.names(), [""; 0]);
    assert_eq!(it.get(V2).await.names(), ["b", "c"]);
    assert_eq!(steps(&mut of_host, 2).await, told(&[("DELETED", "a"), ("DELETED", "b")]));
    for mut events in [of_both, of_old] {
        assert_eq!(steps(&mut events, 2).await, told(&[("ADDED", "a"), ("DELETED", "a")]));
    }
    assert_eq!(later.step().await, ("DELETED".into(), "a".into()));
}

/// What is not there is what the default says, also where it was written before there was one.
#[tokio::test]
async fn defaults_are_selected_by() {
    let conversion = json!({"strategy": "None"});
    let it = Fixture::defining(definition(conversion.clone())).await;
    let object = json!({"apiVersion": "stable.example.com/v2", "kind": "Host", "metadata": {"name": "a"}, "host": "h"});
    it.create(V2, object).await;
    let by_port = format!("{V2}?fieldSelector=port%3D80");
    assert_eq!(it.get(&by_port).await.names(), [""; 0]);
    let mut versions = definition(conversion)["spec"]["versions"].clone();
    versions[1]["schema"]["openAPIV3Schema"]["properties"]["port"]["default"] = "80".into();
    let path = format!("{DEFINITIONS}/hosts.stable.example.com");
    assert_eq!(it.merge(&path, json!({"spec": {"versions": versions}})).await.code, 200);
    assert_eq!(it.get(&by_port).await.names(), ["a"]);
}

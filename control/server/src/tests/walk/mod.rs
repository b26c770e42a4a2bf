//! Every kind through every verb and subresource that discovery says it has. What an object of each needs at least, what may
//! be changed of it, and what is refused in which words, is data: [`samples.json`](samples.json). A kind without a line there
//! fails, so that a new one cannot be forgotten.

mod docs;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;

use coracle_api::Kind;
use coracle_api::kinds::{self, Generation, Subresource};
use futures::FutureExt as _;
use serde::Deserialize;

use super::*;

/// What is known of a kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    /// Its name, where not every name will do.
    #[serde(default)]
    name: Option<String>,
    /// Further names, where not every name will do. As many objects can be made.
    #[serde(default)]
    names: Option<Vec<String>>,
    /// The least that can be created; kind, version and name are filled in.
    object: Value,
    /// A merge patch that changes what it says (its `spec`, where it has one).
    change: Value,
    /// What a merge patch of its status may set.
    #[serde(default)]
    status: Option<Value>,
    /// Its row in a Table; `*` is anything.
    cells: Vec<Value>,
    /// Merge patches after which it cannot be created, and what is said of each field.
    #[serde(default)]
    wrong: Vec<(Value, Vec<String>)>,
    /// Merge patches that are refused once it is there, and what is said of each field.
    #[serde(default)]
    fixed: Vec<(Value, Vec<String>)>,
}

/// A kind as it is addressed: another group or version than it is stored under may show it, too.
struct Served {
    kind: &'static Kind,
    group: &'static str,
    version: &'static str,
    /// What its line in the data is called.
    line: String,
}

fn served() -> Vec<Served> {
    let stored = kinds::ALL.iter().map(|kind| Served {
        kind,
        group: kind.group,
        version: kind.version,
        line: kind.resource.to_owned(),
    });
    let others = crate::http::OTHER_VERSIONS.iter().map(|other| Served {
        kind: other.kind,
        group: other.group,
        version: other.version,
        line: match other.kind.group == other.group {
            true => format!("{}.{}.{}", other.kind.plural, other.version, other.group),
            false => format!("{}.{}", other.kind.plural, other.group),
        },
    });
    stored.chain(others).collect()
}

fn samples() -> BTreeMap<String, Sample> {
    serde_json::from_str(include_str!("samples.json")).expect("well-formed samples")
}

#[tokio::test]
async fn every_kind_through_every_verb() {
    let it = Fixture::new().await;
    let mut samples = samples();
    let mut failed = Vec::new();
    for served in served() {
        let line = served.line.clone();
        let Some(sample) = samples.remove(&line) else {
            failed.push(format!("{line} (no sample)"));
            continue;
        };
        // All that is wrong, in one run.
        let walk = Walk { it: &it, served, sample };
        if AssertUnwindSafe(walk.walk()).catch_unwind().await.is_err() {
            failed.push(line);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
    let left: Vec<_> = samples.keys().collect();
    assert!(left.is_empty(), "samples.json has lines of no kind: {left:?}");
}

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

struct Walk<'a> {
    it: &'a Fixture,
    served: Served,
    sample: Sample,
}

impl Walk<'_> {
    async fn walk(&self) {
        self.refusals().await;
        let created = self.create().await;
        self.read(&created).await;
        self.change(created).await;
        self.subresources().await;
        self.fixed().await;
        self.delete().await;
        self.delete_many().await;
    }

    fn collection(&self) -> String {
        let Served { kind, group, version, .. } = &self.served;
        let root = match group.is_empty() {
            true => format!("/api/{version}"),
            false => format!("/apis/{group}/{version}"),
        };
        match kind.namespaced {
            true => format!("{root}/namespaces/default/{}", kind.plural),
            false => format!("{root}/{}", kind.plural),
        }
    }

    fn name(&self) -> &str {
        self.sample.name.as_deref().unwrap_or("walk")
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name())
    }

    fn object(&self, name: &str) -> Value {
        let Served { kind, group, version, .. } = &self.served;
        let mut object = self.sample.object.clone();
        object["kind"] = kind.kind.into();
        object["apiVersion"] = match group.is_empty() {
            true => (*version).into(),
            false => format!("{group}/{version}").into(),
        };
        object["metadata"] = json!({"name": name, "labels": {"walk": "yes"}});
        if kind.resource == kinds::CERTIFICATE_SIGNING_REQUEST.resource {
            let key = rcgen::KeyPair::generate().expect("a key");
            let request = rcgen::CertificateParams::new(vec![]).expect("parameters");
            let request = request.serialize_request(&key).and_then(|r| r.pem()).expect("a CSR");
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(request);
            object["spec"]["request"] = encoded.into();
        }
        object
    }

    /// Sends what must succeed.
    async fn must(&self, method: &str, path: &str, media: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.it.call(method, path, media, body).await;
        let line = &self.served.line;
        assert!(answer.code < 300, "{line}: {method} {path}: {} {}", answer.code, answer.body);
        answer.body
    }

    async fn patch(&self, path: &str, media: &str, body: Value) -> Value {
        self.must("PATCH", path, media, &body).await
    }

    fn generation(&self, object: &Value) -> i64 {
        let generation = object["metadata"]["generation"].as_i64();
        let wanted = self.served.kind.generation == Generation::Spec;
        assert_eq!(generation.is_some(), wanted, "{}: generation", self.served.line);
        generation.unwrap_or(0)
    }

    /// 422, and what it says of each field.
    fn refused(&self, answer: &Answer, wanted: &[String]) {
        let line = &self.served.line;
        assert_eq!(answer.code, 422, "{line}: {}", answer.body);
        let causes = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
        let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or("").to_owned();
        let said: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message")))
            .collect();
        assert_eq!(said, wanted, "{line}");
    }

    async fn refusals(&self) {
        for (patch, wanted) in &self.sample.wrong {
            let object = crate::registry::merge(self.object(self.name()), patch.clone());
            let answer = self.it.post(&self.collection(), object).await;
            self.refused(&answer, wanted);
        }
        let unknown = crate::registry::merge(self.object(self.name()), json!({"odd": 1}));
        let strict = format!("{}?fieldValidation=Strict", self.collection());
        let answer = self.it.post(&strict, unknown).await;
        assert_eq!((answer.code, answer.reason()), (400, "BadRequest"), "{}", self.served.line);
        assert!(answer.message().contains("unknown field \"odd\""), "{}", answer.message());
    }

    async fn create(&self) -> Value {
        let dry = format!("{}?dryRun=All", self.collection());
        self.must("POST", &dry, "application/json", &self.object(self.name())).await;
        assert_eq!(self.it.get(&self.path()).await.code, 404, "{}: dry", self.served.line);

        let made = self.it.post(&self.collection(), self.object(self.name())).await;
        assert_eq!(made.code, 201, "{}: {}", self.served.line, made.body);
        let (made, headers) = (made.body, made.headers);
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            assert!(made["metadata"][field].is_string(), "{}: {field}", self.served.line);
        }
        assert_eq!(made["kind"], self.served.kind.kind);
        let warned = headers.get_all("warning").iter().filter_map(|w| w.to_str().ok());
        let deprecated = self.served.kind.deprecated;
        let wanted = (!deprecated.is_empty()).then(|| format!("299 - \"{deprecated}\""));
        assert_eq!(warned.map(str::to_owned).collect::<Vec<_>>(), Vec::from_iter(wanted));
        assert!(self.generation(&made) <= 1);
        let again = self.it.post(&self.collection(), self.object(self.name())).await;
        assert_eq!((again.code, again.reason()), (409, "AlreadyExists"));
        made
    }

    async fn read(&self, created: &Value) {
        let Served { kind, line, .. } = &self.served;
        let read = self.must("GET", &self.path(), "", &Value::Null).await;
        assert_eq!(read, *created, "{line}");

        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let request = Request::get(self.path()).header("accept", table).body(Body::empty());
        let table = super::read(self.it.send(request.expect("a request")).await).await.body;
        let columns = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
        let headers: Vec<_> = columns.iter().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!(headers, kind.columns.iter().map(|c| c.name).collect::<Vec<_>>(), "{line}");
        let row = table["rows"][0]["cells"].as_array().cloned().unwrap_or_default();
        let same = row.len() == self.sample.cells.len()
            && row.iter().zip(&self.sample.cells).all(|(is, wanted)| wanted == "*" || is == wanted);
        assert!(same, "{line}: {} instead of {}", json!(row), json!(self.sample.cells));

        let own =
            format!("?labelSelector=walk%3Dyes&fieldSelector=metadata.name%3D{}", self.name());
        for path in [self.collection(), self.collection().replace("/namespaces/default", "")] {
            let list = self.it.get(&format!("{path}{own}")).await;
            assert_eq!(list.names(), [self.name()], "{line}");
            assert_eq!(list.body["kind"], format!("{}List", kind.kind));
        }
        let watch = format!(
            "{}{own}&watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            self.collection()
        );
        let mut events = self.it.watch(&watch).await;
        let first = events.next().await.expect("the object");
        assert_eq!((&first["type"], &first["object"]), (&json!("ADDED"), &read), "{line}");
        let second = events.next().await.expect("a bookmark");
        assert_eq!(second["type"], "BOOKMARK", "{line}");
        let annotations = &second["object"]["metadata"]["annotations"];
        assert_eq!(annotations["k8s.io/initial-events-end"], "true", "{line}");
        assert_eq!(second["object"]["kind"], kind.kind, "{line}");
    }

    async fn change(&self, created: Value) {
        let (path, line) = (self.path(), &self.served.line);
        let before = self.generation(&created);
        // Metadata moves no generation.
        let mut labelled = created.clone();
        labelled["metadata"]["labels"]["put"] = "yes".into();
        let put = self.must("PUT", &path, "application/json", &labelled).await;
        assert_eq!(put["metadata"]["labels"]["put"], "yes", "{line}");
        let patched = json!([{"op": "add", "path": "/metadata/labels/json", "value": "yes"}]);
        self.patch(&path, JSON, patched).await;
        let annotated = json!({"metadata": {"annotations": {"strategic": "yes"}}});
        let strategic = self.patch(&path, STRATEGIC, annotated).await;
        assert_eq!(strategic["metadata"]["labels"]["json"], "yes", "{line}");
        assert_eq!(self.generation(&strategic), before, "{line}");

        // An outdated precondition is a conflict.
        let stale = self.it.put(&path, labelled).await;
        assert_eq!((stale.code, stale.reason()), (409, "Conflict"), "{line}");

        let change = self.sample.change.clone();
        let dry = self.patch(&format!("{path}?dryRun=All"), MERGE, change.clone()).await;
        let changed = self.patch(&path, MERGE, change.clone()).await;
        assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"], "{line}");
        let same =
            changed["metadata"]["resourceVersion"] == strategic["metadata"]["resourceVersion"];
        let nothing = self.served.kind.resource == kinds::NAMESPACE.resource;
        assert_eq!(same, nothing, "{line}: the change changes nothing");
        let moved = change.as_object().is_some_and(|c| c.keys().any(|field| field != "metadata"));
        if self.served.kind.generation == Generation::Spec {
            assert_eq!(self.generation(&changed), before + i64::from(moved), "{line}");
            assert_eq!(self.generation(&dry), before + i64::from(moved), "{line}");
        }

        let mut applied = self.object(self.name());
        applied["metadata"] = json!({"name": self.name(), "labels": {"applied": "yes"}});
        if let Some(map) = applied.as_object_mut() {
            map.retain(|field, _| matches!(field.as_str(), "kind" | "apiVersion" | "metadata"));
        }
        let query = format!("{path}?fieldManager=walker");
        let applied = self.patch(&query, APPLY, applied).await;
        assert_eq!(applied["metadata"]["labels"]["applied"], "yes", "{line}");
        let managers = applied["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let walker = managers.iter().find(|entry| entry["manager"] == "walker");
        let walker = walker.unwrap_or_else(|| panic!("{line}: {managers:?}"));
        assert_eq!(walker["operation"], "Apply", "{line}");
    }

    async fn subresources(&self) {
        let Served { kind, line, .. } = &self.served;
        let status = format!("{}/status", self.path());
        match (&self.sample.status, kind.has(Subresource::Status)) {
            (None, false) => {
                let answer = self.it.get(&status).await;
                assert_eq!(answer.code, 404, "{line} has no status");
            }
            (Some(wanted), true) => {
                let before = self.must("GET", &status, "", &Value::Null).await;
                let of_status = json!({"status": wanted, "spec": {"ignored": true}});
                let set =
                    self.patch(&format!("{status}?fieldValidation=Ignore"), MERGE, of_status).await;
                let merged = crate::registry::merge(before["status"].clone(), wanted.clone());
                let kept = |status: &Value| crate::registry::merge(status.clone(), wanted.clone());
                assert_eq!(kept(&set["status"]), set["status"], "{line}: {merged}");
                assert_eq!(set["spec"], before["spec"], "{line}");
                assert_eq!(
                    set["metadata"]["generation"], before["metadata"]["generation"],
                    "{line}"
                );
                // What is said of status anywhere else is not heard.
                let unheard =
                    json!({"status": null, "metadata": {"annotations": {"heard": "yes"}}});
                let main = self.patch(&self.path(), MERGE, unheard).await;
                assert_eq!(main["status"], set["status"], "{line}");
            }
            (known, served) => panic!("{line}: status served: {served}, in the data: {known:?}"),
        }
        let scale = format!("{}/scale", self.path());
        if !kind.has(Subresource::Scale) {
            assert_eq!(self.it.get(&scale).await.code, 404, "{line} has no scale");
            return;
        }
        let before = self.must("GET", &self.path(), "", &Value::Null).await;
        let got = self.must("GET", &scale, "", &Value::Null).await;
        assert_eq!((&got["kind"], &got["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
        assert_eq!(got["status"]["selector"], "app=walk", "{line}");
        self.patch(&scale, MERGE, json!({"spec": {"replicas": 7}})).await;
        let after = self.must("GET", &self.path(), "", &Value::Null).await;
        assert_eq!(after["spec"]["replicas"], 7, "{line}");
        assert_eq!(self.generation(&after), self.generation(&before) + 1, "{line}");
        let mut put = self.must("GET", &scale, "", &Value::Null).await;
        put["spec"]["replicas"] = 8.into();
        let put = self.must("PUT", &scale, "application/json", &put).await;
        assert_eq!(put["spec"]["replicas"], 8, "{line}");
    }

    async fn fixed(&self) {
        for (patch, wanted) in &self.sample.fixed {
            let answer = self.it.merge(&self.path(), patch.clone()).await;
            self.refused(&answer, wanted);
        }
    }

    /// Gone, or waiting for finalizers, which are then taken away as those would do who put them there.
    async fn gone(&self, name: &str) {
        let (path, kind) = (format!("{}/{name}", self.collection()), self.served.kind);
        let left = self.it.get(&path).await;
        if left.code == 200 {
            assert!(left.body["metadata"]["deletionTimestamp"].is_string(), "{}", left.body);
            if kind.has(Subresource::Finalize) {
                let mut empty = left.body;
                empty["spec"]["finalizers"] = json!([]);
                self.must("PUT", &format!("{path}/finalize"), "application/json", &empty).await;
            } else {
                self.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await;
            }
        }
        assert_eq!(self.it.get(&path).await.code, 404, "{}: {name}", self.served.line);
    }

    async fn delete(&self) {
        let path = self.path();
        self.must("DELETE", &format!("{path}?dryRun=All"), "", &Value::Null).await;
        assert_eq!(self.it.get(&path).await.code, 200, "{}: dry", self.served.line);
        let options = json!({"preconditions": {"uid": "other"}});
        let answer = self.it.call("DELETE", &path, "application/json", options.to_string()).await;
        assert_eq!((answer.code, answer.reason()), (409, "Conflict"), "{}", self.served.line);
        self.must("DELETE", &path, "", &Value::Null).await;
        self.gone(self.name()).await;
        assert_eq!(self.it.delete(&path).await.code, 404, "{}", self.served.line);
    }

    async fn delete_many(&self) {
        let usual = || ["one", "two", "three"].map(str::to_owned).to_vec();
        let names = self.sample.names.clone().unwrap_or_else(usual);
        for name in &names {
            let object = self.object(name);
            self.must("POST", &self.collection(), "application/json", &object).await;
        }
        let path = format!("{}?labelSelector=walk%3Dyes", self.collection());
        if self.served.kind.resource == kinds::NAMESPACE.resource {
            // As upstream: too much at once.
            assert_eq!(self.it.delete(&path).await.code, 405);
            for name in &names {
                self.must("DELETE", &format!("{}/{name}", self.collection()), "", &Value::Null)
                    .await;
            }
        } else {
            self.must("DELETE", &path, "", &Value::Null).await;
        }
        for name in &names {
            self.gone(name).await;
        }
        let left: BTreeSet<_> = names.iter().map(String::as_str).collect();
        let list = self.it.get(&self.collection()).await;
        assert!(list.names().iter().all(|name| !left.contains(name)), "{}", self.served.line);
    }
}

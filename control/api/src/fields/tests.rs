use serde_json::{Value, json};

use super::*;
use crate::schema::{Schema, builtin};

const NOW: &str = "2026-01-01T00:00:00Z";

fn schema(group: &str, kind: &str) -> Schema<'static> {
    builtin().by_gvk(group, "v1", kind).unwrap()
}

/// An object, and who owns what of it.
struct Story {
    schema: Schema<'static>,
    api_version: &'static str,
    ignored: FieldSet,
    live: Value,
    managers: Managers,
}

impl Story {
    fn of(group: &'static str, kind: &str) -> Story {
        let api_version = if group.is_empty() { "v1" } else { "apps/v1" };
        let ignored = FieldSet::of([["f:status"].as_slice()]);
        let (live, managers) = (json!({}), Managers::default());
        Story { schema: schema(group, kind), api_version, ignored, live, managers }
    }

    fn deployment() -> Story {
        Story::of("apps", "Deployment")
    }

    fn config_map() -> Story {
        Story::of("", "ConfigMap")
    }

    fn writer<'a>(&'a self, manager: &'a str) -> Writer<'a> {
        let Story { api_version, ignored, .. } = self;
        Writer { manager, api_version, subresource: "", ignored, now: NOW }
    }

    fn apply_as(&mut self, manager: &str, force: bool, config: Value) -> Result<(), String> {
        let writer = self.writer(manager);
        let applied = self
            .managers
            .apply(&writer, &self.live, &config, self.schema, force)
            .map_err(|error| error.to_string())?;
        self.managers = Managers::decode(&applied.managers.encode()).unwrap();
        assert_eq!(self.managers, applied.managers, "what is written is what is read");
        self.live = crate::schema::check(applied.object, self.schema).unwrap().value;
        Ok(())
    }

    #[track_caller]
    fn apply(&mut self, manager: &str, config: Value) {
        self.apply_as(manager, false, config).unwrap();
    }

    fn update(&mut self, manager: &str, new: Value) {
        let mut managers = self.managers.clone();
        managers.update(&self.writer(manager), &self.live, &new, self.schema);
        (self.managers, self.live) = (managers, new);
    }

    /// Every manager and its places.
    fn owned(&self) -> Value {
        let entries = self.managers.encode();
        let entries = entries.as_array().unwrap().iter().map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap();
            (format!("{} {}", text("manager"), text("operation")), entry["fieldsV1"].clone())
        });
        Value::Object(entries.collect())
    }

    #[track_caller]
    fn owns(&self, expected: Value) {
        assert_eq!(self.owned(), expected);
    }
}

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

fn of_containers(containers: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn appliers_own_what_they_say_and_updaters_what_they_change() {
    let mut story = Story::deployment();
    story.apply(
        "one",
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": "web"}, "finalizers": ["a/b"]},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [
                    {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]},
                ]}},
            },
            "status": {"replicas": 3},
        }),
    );
    story.owns(json!({"one Apply": {
        "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"a/b\"": {}}},
        "f:spec": {
            "f:selector": {},
            "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                ".": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
            }}}},
        },
    }}));

    let mut created = Story::deployment();
    created.update(
        "kubectl-create",
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "uid": "1", "labels": {"app": "web"}},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "containers": [{"name": "web", "image": "web:1", "resources": {}}],
                        "securityContext": {},
                    },
                },
            },
        }),
    );
    created.owns(json!({"kubectl-create Update": {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {
                        "k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}},
                    },
                    "f:securityContext": {},
                },
            },
        },
    }}));
}

#[test]
fn what_is_no_longer_said_goes_unless_others_own_it() {
    let mut story = Story::config_map();
    story.apply("one", json!({"data": {"a": "1", "b": "2", "c": "3"}}));
    story.apply("two", json!({"data": {"b": "2"}}));
    let mut edited = story.live.clone();
    edited["data"]["d"] = "4".into();
    story.update("three", edited);
    story.apply("one", json!({"data": {"a": "1"}}));
    assert_eq!(story.live, json!({"data": {"a": "1", "b": "2", "d": "4"}}));
    story.owns(json!({
        "one Apply": {"f:data": {"f:a": {}}},
        "two Apply": {"f:data": {"f:b": {}}},
        "three Update": {"f:data": {"f:d": {}}},
    }));
    // Nothing is left of the map that was this one's alone.
    let mut story = Story::config_map();
    story.apply("one", json!({"metadata": {"name": "x"}, "data": {"a": "1"}}));
    story.apply("one", json!({"metadata": {"name": "x"}}));
    assert_eq!(story.live, json!({"metadata": {"name": "x"}}));
    assert!(story.managers.is_empty());
}

#[test]
fn conflicts_name_who_owns_what() {
    let mut story = Story::deployment();
    story.apply("one", json!({"spec": {"replicas": 1, "paused": true}}));
    // The same values are owned together.
    story.apply("two", json!({"spec": {"replicas": 1}}));
    let both = json!({
        "one Apply": {"f:spec": {"f:replicas": {}, "f:paused": {}}},
        "two Apply": {"f:spec": {"f:replicas": {}}},
    });
    story.owns(both.clone());
    let three = json!({"spec": {"replicas": 3}});
    let refused = story.apply_as("three", false, three.clone());
    let text = "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\nconflicts with \"two\":\n- .spec.replicas";
    assert_eq!(refused, Err(text.to_owned()));
    story.owns(both);
    story.apply_as("three", true, three).unwrap();
    assert_eq!(story.live["spec"]["replicas"], 3);
    story.owns(json!({
        "one Apply": {"f:spec": {"f:paused": {}}},
        "three Apply": {"f:spec": {"f:replicas": {}}},
    }));
    let mut scaled = story.live.clone();
    scaled["spec"]["replicas"] = 5.into();
    story.update("scaler", scaled);
    let refused = story.apply_as("three", false, json!({"spec": {"replicas": 3}}));
    let text =
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas";
    assert_eq!(refused, Err(text.to_owned()));
    // Giving up what one does not want to decide.
    story.apply("three", json!({"spec": {}}));
    assert_eq!(story.live["spec"]["replicas"], 5);
}

#[test]
fn items_are_told_apart_by_their_keys() {
    let mut story = Story::deployment();
    story.apply("one", of_containers(json!([container("a", "a:1"), container("b", "b:1")])));
    story.apply("two", of_containers(json!([container("c", "c:1")])));
    let names = |story: &Story| -> Vec<String> {
        let list = story.live["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| format!("{}={}", c["name"], c["image"]).replace('"', "")).collect()
    };
    assert_eq!(names(&story), ["a=a:1", "b=b:1", "c=c:1"]);
    story.apply("one", of_containers(json!([container("b", "b:2"), container("a", "a:1")])));
    assert_eq!(names(&story), ["b=b:2", "c=c:1", "a=a:1"]);
    story.apply("one", of_containers(json!([container("d", "d:1"), container("a", "a:1")])));
    assert_eq!(names(&story), ["c=c:1", "d=d:1", "a=a:1"]);
    // A part of an item that somebody else has.
    let wait = json!([{"name": "c", "workingDir": "/"}]);
    story.apply("three", of_containers(wait));
    story.apply("two", json!({}));
    assert_eq!(names(&story), ["c=null", "d=d:1", "a=a:1"]);
    let twice = of_containers(json!([container("a", "1"), container("a", "2")]));
    let refused = story.apply_as("one", false, twice).unwrap_err();
    assert_eq!(refused, ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]");

    // One protocol is as good as the other's absence.
    let ports = |ports: Value| of_containers(json!([{"name": "a", "ports": ports}]));
    let mut story = Story::deployment();
    story.apply(
        "one",
        ports(json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}])),
    );
    story.update("defaults", {
        let mut live = story.live.clone();
        live["spec"]["template"]["spec"]["containers"][0]["ports"][1]["protocol"] = "TCP".into();
        live
    });
    story.apply("one", ports(json!([{"containerPort": 53, "name": "dns"}])));
    assert_eq!(
        story.live["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 53, "name": "dns", "protocol": "TCP"}])
    );
}

#[test]
fn sets_and_atomic_values() {
    let of_finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let mut story = Story::config_map();
    story.apply("one", of_finalizers(json!(["a", "b"])));
    story.apply("two", of_finalizers(json!(["c", "b"])));
    assert_eq!(story.live, of_finalizers(json!(["a", "c", "b"])));
    story.apply("one", of_finalizers(json!(["a"])));
    assert_eq!(story.live, of_finalizers(json!(["a", "c", "b"])));
    story.apply("two", of_finalizers(json!([])));
    assert_eq!(story.live, of_finalizers(json!(["a"])));

    let of_selector = |labels: Value| json!({"spec": {"selector": {"matchLabels": labels}}});
    let mut story = Story::deployment();
    story.apply("one", of_selector(json!({"a": "1"})));
    let refused = story.apply_as("two", false, of_selector(json!({"b": "1"})));
    assert_eq!(
        refused,
        Err("Apply failed with 1 conflict: conflict with \"one\": .spec.selector".to_owned())
    );
    story.apply_as("two", true, of_selector(json!({"b": "1"}))).unwrap();
    assert_eq!(story.live, of_selector(json!({"b": "1"})));
}

#[test]
fn objects_without_managers_stay_so_until_somebody_applies() {
    let mut story = Story::config_map();
    story.live = json!({"data": {"a": "1"}});
    let refused = story.apply_as("one", false, json!({"data": {"a": "2"}}));
    let text =
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a";
    assert_eq!(refused, Err(text.to_owned()));
    story.apply("one", json!({"data": {"b": "2"}}));
    story.owns(json!({
        "one Apply": {"f:data": {"f:b": {}}},
        "before-first-apply Update": {"f:data": {".": {}, "f:a": {}}},
    }));
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1", "b": "1"}});
    let annotations =
        json!({"kubectl.kubernetes.io/last-applied-configuration": applied.to_string()});
    let mut story = Story::config_map();
    story.update(
        "kubectl-client-side-apply",
        json!({"metadata": {"annotations": annotations}, "data": {"a": "1", "b": "1"}}),
    );
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2", "b": "1"}});
    assert!(story.apply_as("other", false, config.clone()).is_err());
    story.apply("kubectl", config.clone());
    assert_eq!(story.live["data"], json!({"a": "2", "b": "1"}));
    let annotation =
        &story.live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(serde_json::from_str::<Value>(annotation.as_str().unwrap()).unwrap(), config);
    // What was edited since is somebody's.
    let mut edited = story.live.clone();
    edited["data"]["a"] = "3".into();
    story.update("kubectl-edit", edited);
    let refused = story.apply_as("kubectl", false, config);
    let text = "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a";
    assert_eq!(refused, Err(text.to_owned()));
}

#[test]
fn many_updaters_become_one() {
    let mut story = Story::config_map();
    for i in 0..15 {
        let mut live = story.live.clone();
        live["data"][format!("k{i}")] = "1".into();
        story.update(&format!("m{i:02}"), live);
    }
    let owned = story.owned();
    let owned = owned.as_object().unwrap();
    assert_eq!(owned.len(), 10);
    assert_eq!(owned["ancient-changes Update"]["f:data"].as_object().unwrap().len(), 7);
    assert!(owned.contains_key("m14 Update"));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut story = Story::deployment();
    let config = of_containers(json!([container("a", "a:1")]));
    story.apply("one", config.clone());
    let (live, managers) = (story.live.clone(), story.managers.clone());
    let later = Writer { now: "2026-01-02T00:00:00Z", ..story.writer("one") };
    let again = story.managers.apply(&later, &story.live, &config, story.schema, false).unwrap();
    assert_eq!((again.object, again.managers), (live, managers));
}

#[test]
fn entries_are_read_strictly() {
    let entry = |fields: Value| json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let spaced = entry(json!({"f:list": {"k:{\"b\": 1, \"a\": \"x\"}": {}}}));
    let plain = entry(json!({"f:list": {"k:{\"a\":\"x\",\"b\":1}": {}}}));
    assert_eq!(Managers::decode(&spaced).unwrap().encode(), plain);
    for wrong in [json!({"list": {}}), json!({"k:1": {}}), json!({"v:{": {}}), json!({"f:a": 1})] {
        assert!(Managers::decode(&entry(wrong.clone())).is_err(), "{wrong}");
    }
    let mut deep = json!({});
    for _ in 0..300 {
        deep = json!({"f:a": deep});
    }
    assert!(Managers::decode(&entry(deep)).is_err());
    assert!(Managers::decode(&json!([{"manager": "m", "operation": "Own"}])).is_err());
}

#[test]
fn nobodys_configuration_is_merged_and_leaves_atomic_values_alone() {
    let live = json!({"spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "one"}], "volumes": [{"name": "x"}]}},
    }});
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let refused = |at: &str| {
        Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {at}"
        ))
    };
    for (config, expected) in [
        (json!({"spec": {"replicas": 2}}), Ok(("/spec/replicas", json!(2)))),
        (
            template(json!({"volumes": [{"name": "y"}]})),
            Ok(("/spec/template/spec/volumes", json!([{"name": "x"}, {"name": "y"}]))),
        ),
        (
            template(json!({"containers": [{"name": "d"}, {"name": "c", "image": "two"}]})),
            Ok(("/spec/template/spec/containers", json!([{"name": "d"}, {"name": "c", "image": "two"}]))),
        ),
        (
            template(json!({"nodeSelector": {"a": "b"}})),
            refused(".spec.template.spec.nodeSelector"),
        ),
        (
            json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}}),
            refused(".spec.selector, .spec.selector.matchExpressions"),
        ),
        (
            template(json!({"containers": [{"name": "c", "command": ["x"]}]})),
            refused(".spec.template.spec.containers[0].command"),
        ),
        (
            template(json!({"volumes": [{"name": "y"}, {"name": "y"}]})),
            Err("failed to convert patch object to typed object: .spec.template.spec.volumes: duplicate entries for key \
                 [name=\"y\"]".into()),
        ),
    ] {
        let found = apply_unowned(&live, &config, schema("apps", "Deployment"));
        let found = match (&expected, found) {
            (Ok((at, _)), Ok(made)) => Ok((*at, made.pointer(at).cloned().unwrap_or_default())),
            (_, Ok(made)) => Ok(("", made)),
            (_, Err(why)) => Err(why),
        };
        assert_eq!(found, expected, "{config}");
    }
}

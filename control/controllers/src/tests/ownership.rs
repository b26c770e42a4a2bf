//! Garbage collection and the end of namespaces.

use super::*;

fn config(name: &str, meta: Value) -> (&'static Kind, Value) {
    let mut value = json!({"metadata": {"name": name}});
    json_merge(&mut value["metadata"], meta);
    (&kinds::CONFIG_MAP, value)
}

fn owners(list: &[(&str, &str)]) -> Value {
    list.iter()
        .map(|(name, uid)| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true})
        })
        .collect()
}

/// The writes about an object, in short.
fn told(plan: &Plan) -> Vec<String> {
    let write = |write: &Write| match write {
        Write::Create { object, .. } => format!("create {}", object["metadata"]["name"]),
        Write::Patch { name, patch, subresource, .. } => {
            format!(
                "patch {name}{} {patch}",
                subresource.map_or(String::new(), |s| format!("/{s}"))
            )
        }
        Write::Delete { name, propagation, grace_seconds, .. } => {
            format!("delete {name} {propagation:?} {grace_seconds:?}")
        }
    };
    plan.writes.iter().map(write).collect()
}

#[test]
fn garbage() {
    let waiting = json!({"deletionTimestamp": NOW, "finalizers": ["foregroundDeletion"]});
    let world = || {
        cluster([
            config("live", json!({})),
            config("waiting", waiting.clone()),
            config("far", json!({"namespace": "other"})),
            config("kept", json!({"ownerReferences": owners(&[("live", "uid-live")])})),
            config("gone", json!({"ownerReferences": owners(&[("dead", "uid-dead")])})),
            config("again", json!({"ownerReferences": owners(&[("live", "uid-former")])})),
            config("abroad", json!({"ownerReferences": owners(&[("far", "uid-far")])})),
            config(
                "both",
                json!({"ownerReferences": owners(&[("dead", "uid-dead"), ("live", "uid-live")])}),
            ),
            config("awaited", json!({"ownerReferences": owners(&[("waiting", "uid-waiting")])})),
            config("parent", json!({"ownerReferences": owners(&[("waiting", "uid-waiting")])})),
            config("child", json!({"ownerReferences": owners(&[("parent", "uid-parent")])})),
            config(
                "unknown",
                json!({"ownerReferences": [{"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "x"}]}),
            ),
        ])
    };
    let world = world();
    for (name, expected) in [
        ("kept", vec![]),
        ("gone", vec!["delete gone Background None".to_owned()]),
        ("again", vec!["delete again Background None".to_owned()]),
        ("abroad", vec!["delete abroad Background None".to_owned()]),
        ("awaited", vec!["delete awaited Background None".to_owned()]),
        ("parent", vec!["delete parent Foreground None".to_owned()]),
        (
            "both",
            vec![format!(
                "patch both {}",
                json!({"metadata": {"ownerReferences": owners(&[("live", "uid-live")])}})
            )],
        ),
        ("unknown", vec![]),
    ] {
        let object = world.get(&kinds::CONFIG_MAP, "ns", name).expect(name);
        let plans = GarbageCollector.wakes(&world, object);
        let plans = plans.iter().map(|key| GarbageCollector.reconcile(&world, key));
        let found: Vec<String> =
            plans.flat_map(|plan| told(&plan)).filter(|w| w.contains(name)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn dependents_hold_or_let_go_of_their_owner() {
    let going =
        |finalizer: &str| json!({"deletionTimestamp": NOW, "finalizers": ["mine", finalizer]});
    let child =
        || config("child", json!({"ownerReferences": owners(&[("o", "uid-o"), ("p", "uid-p")])}));
    for (finalizer, child, expected) in [
        ("foregroundDeletion", None, vec![r#"patch o {"metadata":{"finalizers":["mine"]}}"#]),
        ("foregroundDeletion", Some(child()), vec!["delete child Background None"]),
        ("orphan", None, vec![r#"patch o {"metadata":{"finalizers":["mine"]}}"#]),
        (
            "orphan",
            Some(config("child", json!({"ownerReferences": owners(&[("o", "uid-o")])}))),
            vec![r#"patch child {"metadata":{"ownerReferences":[]}}"#],
        ),
    ] {
        let world = cluster([config("o", going(finalizer))].into_iter().chain(child));
        let owner = world.get(&kinds::CONFIG_MAP, "ns", "o").expect("the owner");
        let keys = GarbageCollector.wakes(&world, owner);
        let found: Vec<_> =
            keys.iter().flat_map(|key| told(&GarbageCollector.reconcile(&world, key))).collect();
        assert_eq!(found, expected, "{finalizer}");
    }
}

/// Three Pods once owned each other in a circle, each waiting for the next one to go, for ever.
#[test]
fn a_circle_of_owners_comes_apart() {
    let going = |owner: &str| {
        json!({
            "deletionTimestamp": NOW, "finalizers": ["foregroundDeletion"],
            "ownerReferences": owners(&[(owner, &format!("uid-{owner}"))]),
        })
    };
    let third = |blocks: bool| {
        let mut owners = owners(&[("second", "uid-second")]);
        owners[0]["blockOwnerDeletion"] = blocks.into();
        config("third", json!({"ownerReferences": owners}))
    };
    for (blocks, expected) in [
        (
            true,
            r#"patch third {"metadata":{"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":false,"kind":"ConfigMap","name":"second","uid":"uid-second"}]}}"#,
        ),
        (false, r#"patch second {"metadata":{"finalizers":[]}}"#),
    ] {
        let [first, second] = ["first", "second"]
            .map(|name| config(name, going(if name == "first" { "third" } else { "first" })));
        let world = cluster([first, second, third(blocks)]);
        let second = world.get(&kinds::CONFIG_MAP, "ns", "second").expect("the second");
        let mut keys = GarbageCollector.wakes(&world, second);
        keys.retain(|key| key.name.ends_with("|second"));
        let found: Vec<_> =
            keys.iter().flat_map(|key| told(&GarbageCollector.reconcile(&world, key))).collect();
        assert_eq!(found, [expected], "{blocks}");
    }
}

#[test]
fn a_namespace_is_emptied_of_pods_first() {
    let namespace = json!({
        "metadata": {"name": "ns", "deletionTimestamp": NOW},
        "spec": {"finalizers": ["kubernetes"]},
    });
    for (pod_meta, expected) in [
        (Some(json!({})), vec!["delete pod Background None"]),
        (Some(json!({"deletionTimestamp": NOW, "finalizers": ["mine"]})), vec![]),
        (None, vec!["delete map Background None"]),
    ] {
        let pod = pod_meta.map(|meta| {
            let mut pod = json!({"metadata": {"name": "pod"}, "spec": {"containers": []}});
            json_merge(&mut pod["metadata"], meta);
            (&kinds::POD, pod)
        });
        let mut all = vec![(&kinds::NAMESPACE, namespace.clone()), config("map", json!({}))];
        all.extend(pod);
        let plan = NamespaceController.reconcile(&cluster(all), &Key::new("", "ns"));
        let deleted: Vec<_> =
            told(&plan).into_iter().filter(|write| write.starts_with("delete")).collect();
        assert_eq!(deleted, expected);
    }
}

#[test]
fn a_namespace_goes_when_it_is_empty() {
    let namespace = || {
        let value = json!({
            "metadata": {"name": "ns", "deletionTimestamp": NOW},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating"},
        });
        (&kinds::NAMESPACE, value)
    };
    let key = Key::new("", "ns");
    let plan = NamespaceController.reconcile(&cluster([namespace()]), &key);
    assert_eq!(told(&plan), [r#"patch ns/finalize {"spec":{"finalizers":[]}}"#]);

    let held = config("held", json!({"deletionTimestamp": NOW, "finalizers": ["mine"]}));
    let world = cluster([namespace(), held, config("more", json!({}))]);
    let plan = NamespaceController.reconcile(&world, &key);
    assert_eq!(told(&plan)[0], "delete more Background None");
    let (_, status) = patches(&plan)[0];
    let messages: Vec<_> = status["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .filter(|c| c["status"] == "True")
        .map(|c| c["message"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(
        messages,
        [
            "Some resources are remaining: configmaps. has 2 resource instances",
            "Some content in the namespace has finalizers remaining: mine in 1 resource instances",
        ]
    );
    assert_eq!(ServiceAccountController.reconcile(&world, &key).writes.len(), 0);
}

#[test]
fn the_cluster_ca_is_in_every_living_namespace() {
    let namespace = |name: &str, meta: Value| {
        let mut value = json!({"metadata": {"name": name}});
        json_merge(&mut value["metadata"], meta);
        (&kinds::NAMESPACE, value)
    };
    let map = |namespace: &str, pem: &str| {
        let meta = json!({"name": "kube-root-ca.crt", "namespace": namespace});
        (&kinds::CONFIG_MAP, json!({"metadata": meta, "data": {"ca.crt": pem}}))
    };
    let world = cluster([
        namespace("new", json!({})),
        namespace("done", json!({})),
        namespace("edited", json!({})),
        namespace("ending", json!({"deletionTimestamp": NOW, "finalizers": ["x"]})),
        map("done", "CA"),
        map("edited", "other"),
    ]);
    let publisher = crate::RootCaPublisher { pem: "CA".to_owned() };
    for (name, wanted) in [
        ("new", r#"create "kube-root-ca.crt""#),
        ("done", ""),
        ("edited", r#"patch kube-root-ca.crt {"data":{"ca.crt":"CA"}}"#),
        ("ending", ""),
        ("gone", ""),
    ] {
        let plan = publisher.reconcile(&world, &Key::new("", name));
        assert_eq!(told(&plan).join("; "), wanted, "{name}");
    }
}

/// A thousand Pods once outlived their ReplicaSet by minutes: the first plan was full, and nothing asked for a second one.
#[test]
fn more_dependents_than_a_plan_holds() {
    let pods = (0..crate::BURST + 1)
        .map(|i| (&kinds::POD, pod(&format!("p{i}"), "n", "Running", true, json!({}))));
    let world = cluster(pods);
    let owner = world.list(&kinds::POD).next().expect("a Pod").meta.owner_references[0].uid.clone();
    let plan = GarbageCollector.reconcile(&world, &Key::new(owner, "owner"));
    assert_eq!(plan.writes.len(), crate::BURST);
    assert_eq!(plan.requeue_after, Some(std::time::Duration::ZERO));
}

//! What lies on the disk, looked at there; and what happens when it cannot be read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::kinds;
use coracle_store::{Batch, Retention};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Fixture, config_map};
use crate::{EncryptionError, StartError, keys};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MARK: &str = "rosebud-4711-rosebud-4711";

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"mark": MARK}}, "stringData": {"word": "open"}})
}

/// A configuration for Secrets, and for what else is named, with these keys, the first of which writes.
fn configuration(provider: &str, resources: &str, keys: &[(&str, u8)], more: &str) -> String {
    let keys: String = keys
        .iter()
        .map(|(name, byte)| {
            let secret = STANDARD.encode([*byte; 32]);
            format!("      - {{name: {name}, secret: {secret}}}\n")
        })
        .collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  \
         providers:\n  - {provider}:\n      keys:\n{keys}{more}"
    )
}

fn write(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("config.yaml");
    fs::write(&path, text).expect("a configuration");
    path
}

impl Fixture {
    /// The value of an object of namespace `default`, as it lies in the store.
    async fn stored(&self, kind: &'static coracle_api::Kind, name: &str) -> Vec<u8> {
        let key = keys::of_object(kind, "default", name);
        let entry = self.server.app.registry.store.get(&key).await.expect("a readable store");
        entry.expect("an object").value.to_vec()
    }

    async fn is_ready(&self) -> (u16, String) {
        let answer = self.get("/readyz?verbose=true").await;
        (answer.code, answer.body.as_str().unwrap_or_default().to_owned())
    }
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn secrets_are_encrypted_without_being_asked_and_nothing_else_is() {
    let it = Fixture::new().await;
    it.create(SECRETS, secret("hidden")).await;
    let mut other = config_map("open");
    other["data"]["word"] = "plainly-there-0815".into();
    it.create(CONFIG_MAPS, other).await;
    let value = it.stored(&kinds::SECRET, "hidden").await;
    assert!(value.starts_with(b"k8s:enc:aesgcm:v1:key-"), "{}", value.escape_ascii());
    assert!(it.stored(&kinds::CONFIG_MAP, "open").await.starts_with(b"{"));

    let dir = it.stop().await;
    let file = fs::read(dir.path().join("store.redb")).expect("the store");
    assert!(!holds(&file, MARK) && !holds(&file, "b3Blbg=="));
    assert!(holds(&file, "plainly-there-0815"), "what is not encrypted would be found");
    let own = dir.path().join("encryption.yaml");
    let mode = fs::metadata(&own).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let it = Fixture::again(dir, |_| {}).await.map_err(|(e, _)| e).expect("a second start");
    let read = it.get(&format!("{SECRETS}/hidden")).await;
    assert_eq!(read.body["data"]["word"], "b3Blbg==");
    assert_eq!(it.is_ready().await.0, 200);

    // Without its key, the store is not taken for a new one's.
    let dir = it.stop().await;
    let kept = fs::read(&own).expect("the key");
    fs::remove_file(&own).expect("a file");
    let Err((error, dir)) = Fixture::again(dir, |_| {}).await else { panic!("started") };
    let text = error.to_string();
    assert!(matches!(error, StartError::Encryption(EncryptionError::Missing { .. })), "{text}");
    assert!(text.contains("/registry/core/secrets/default/hidden"), "{text}");
    assert!(text.contains("encrypted with the key \"key-"), "{text}");
    assert!(!own.exists());
    fs::write(&own, kept).expect("a restored file");
    let it = Fixture::again(dir, |_| {}).await.map_err(|(e, _)| e).expect("a start");
    assert_eq!(it.get(SECRETS).await.names(), ["hidden"]);
}

#[tokio::test]
async fn what_is_plain_is_read_and_encrypted_when_it_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = configuration("aesgcm", "[nothing]", &[("a", 1)], "");
    let path = write(dir.path(), &text);
    let plain = Fixture::with(|config| {
        (config.controllers, config.scheduler) = (false, false);
        config.encryption = Some(path);
    });
    let it = plain.await;
    it.create(SECRETS, secret("old")).await;
    assert!(holds(&it.stored(&kinds::SECRET, "old").await, MARK));
    let dir = it.stop().await;

    let it = Fixture::again(dir, |_| {}).await.map_err(|(e, _)| e).expect("a start");
    let read = it.get(&format!("{SECRETS}/old")).await.body;
    assert_eq!(read["metadata"]["labels"]["mark"], MARK);
    assert!(holds(&it.stored(&kinds::SECRET, "old").await, MARK), "reading writes nothing");
    // As `kubectl get secrets -o json | kubectl replace -f -`: the same again.
    let dry = it.put(&format!("{SECRETS}/old?dryRun=All"), read.clone()).await;
    assert_eq!(dry.code, 200);
    assert!(holds(&it.stored(&kinds::SECRET, "old").await, MARK));
    let written = it.put(&format!("{SECRETS}/old"), read.clone()).await;
    assert_eq!(written.code, 200, "{}", written.body);
    assert!(it.stored(&kinds::SECRET, "old").await.starts_with(b"k8s:enc:aesgcm:v1:"));
    let revision = |body: &Value| body["metadata"]["resourceVersion"].clone();
    assert_ne!(revision(&written.body), revision(&read));
    // Once more changes nothing.
    let again = it.put(&format!("{SECRETS}/old"), written.body.clone()).await;
    assert_eq!(revision(&again.body), revision(&written.body));
}

#[tokio::test]
async fn keys_are_rotated_by_editing_the_file_and_none_is_lost_when_one_is_removed_too_early() {
    tokio::join!(rotate("aesgcm"), rotate("aescbc"), rotate("secretbox"));
}

async fn rotate(provider: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let of =
        |keys: &[(&str, u8)]| configuration(provider, "[secrets, widgets.example.com]", keys, "");
    let path = write(folder.path(), &of(&[("one", 1)]));
    let it = Fixture::with(|config| {
        (config.controllers, config.scheduler) = (false, false);
        config.encryption = Some(path);
        config.encryption_reloads = true;
    });
    let it = it.await;
    it.create(SECRETS, secret("first")).await;
    it.create(SECRETS, secret("forgotten")).await;
    let prefix = |key: &str| format!("k8s:enc:{provider}:v1:{key}:").into_bytes();
    assert!(it.stored(&kinds::SECRET, "first").await.starts_with(&prefix("one")));

    let store = it.server.app.registry.store.clone();
    let encryption = it.server.app.registry.cache.encryption().clone();
    let key = keys::of_object(&kinds::SECRET, "default", "first");
    let rotated = async |text: String, done: &dyn Fn(&[u8]) -> bool| {
        write(folder.path(), &text);
        let stored = store.get(&key).await.expect("a store").expect("an object").value;
        for _ in 0..400 {
            if done(&stored) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{provider}: the configuration is not taken over");
    };
    // A file that cannot be used changes nothing.
    write(folder.path(), "kind: Nonsense");
    rotated(of(&[("two", 2), ("one", 1)]), &|stored| {
        encryption.is_stale(&kinds::SECRET, &key, stored)
    })
    .await;
    let read = it.get(&format!("{SECRETS}/first")).await.body;
    assert_eq!(it.put(&format!("{SECRETS}/first"), read).await.code, 200);
    assert!(it.stored(&kinds::SECRET, "first").await.starts_with(&prefix("two")));

    // The first key is removed, too early for one of them.
    rotated(of(&[("two", 2)]), &|stored| !encryption.is_stale(&kinds::SECRET, &key, stored)).await;
    let dir = it.stop().await;
    let path = folder.path().join("config.yaml");
    let config = |config: &mut crate::Config| {
        config.encryption = Some(path.clone());
        config.encryption_reloads = true;
    };
    let it = Fixture::again(dir, config).await.map_err(|(e, _)| e).expect("a start");
    assert_eq!(it.get(&format!("{SECRETS}/first")).await.body["data"]["word"], "b3Blbg==");
    let (code, text) = it.is_ready().await;
    assert!(code == 500 && text.contains("[-]informer-sync failed: "), "{text}");
    assert!(text.contains("1 informers not started yet: [*v1.Secret]"), "{text}");
    let expected = format!("(it is encrypted with the key \"one\" of {provider})");
    for (method, path) in [
        ("GET", format!("{SECRETS}/forgotten")),
        ("GET", SECRETS.to_owned()),
        ("DELETE", format!("{SECRETS}/forgotten")),
        ("DELETE", SECRETS.to_owned()),
    ] {
        let answer = it.call(method, &path, "", "").await;
        assert_eq!((answer.code, answer.reason()), (500, "InternalError"), "{method} {path}");
        let told = answer.message();
        assert!(told.contains("unable to transform key \"/registry/core/secrets/default/forgotten\": no matching key was found for the provided "), "{told}");
        assert!(told.contains(&expected), "{told}");
    }
    assert_eq!(it.post(SECRETS, secret("forgotten")).await.reason(), "AlreadyExists");

    // The key comes back, and with it the object; watches are told.
    let since = it.server.app.registry.cache.revision();
    let mut events = it.watch(&format!("{SECRETS}?watch=true&resourceVersion={since}")).await;
    write(folder.path(), &of(&[("two", 2), ("one", 1)]));
    assert_eq!(events.step().await, ("ADDED".to_owned(), "forgotten".to_owned()));
    let read = it.get(&format!("{SECRETS}/forgotten")).await.body;
    assert_eq!(read["data"]["word"], "b3Blbg==");
    assert!(it.stored(&kinds::SECRET, "forgotten").await.starts_with(&prefix("two")));
    assert_eq!(it.is_ready().await.0, 200);
    assert_eq!(it.get(SECRETS).await.names(), ["first", "forgotten"]);
}

#[tokio::test]
async fn what_was_tampered_with_is_not_read_and_goes_only_by_force() {
    let it = Fixture::new().await;
    it.create(SECRETS, secret("mine")).await;
    it.create(SECRETS, secret("yours")).await;
    let store = it.server.app.registry.store.clone();
    let put = async |name: &str, value: Vec<u8>| {
        let key = keys::of_object(&kinds::SECRET, "default", name);
        let batch = Batch::new().put(key, value, Retention::Long);
        let committed = store.commit(batch).await.expect("a commit");
        let cache = &it.server.app.registry.cache;
        cache.wait_for(committed.revision, Duration::from_secs(5)).await.expect("a cache");
    };
    let good = it.stored(&kinds::SECRET, "mine").await;
    let mut bad = good.clone();
    *bad.last_mut().expect("a byte") ^= 1;
    let path = format!("{SECRETS}/mine");
    let other = it.stored(&kinds::SECRET, "yours").await;
    let head = "k8s:enc:aesgcm:v1:key-12345678:".len();
    // A changed byte; one cut off; another object's value; too little to be anything.
    for tampered in [bad, good[..good.len() - 1].to_vec(), other, good[..head + 5].to_vec()] {
        put("mine", tampered).await;
        let answer = it.get(&path).await;
        assert_eq!(answer.code, 500, "{}", answer.body);
        let told = answer.message();
        assert!(
            told.contains("cipher: message authentication failed") || told.contains("shorter than"),
            "{told}"
        );
    }
    put("mine", good.clone()).await;
    assert_eq!(it.get(&path).await.body["data"]["word"], "b3Blbg==");

    // Deleting it takes insistence, and works on nothing that can be read.
    put("mine", good[..40].to_vec()).await;
    let force = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true});
    let gone = it.call("DELETE", &path, "application/json", force.to_string()).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(it.get(&path).await.code, 404);
    assert_eq!(it.get(SECRETS).await.names(), ["yours"]);
    assert_eq!(it.is_ready().await.0, 200);
}

#[tokio::test]
async fn custom_kinds_and_wildcards_are_encrypted_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = configuration("secretbox", "[\"*.*\"]", &[("k", 7)], "");
    let path = write(folder.path(), &text);
    let config = |config: &mut crate::Config| {
        config.scheduler = false;
        config.encryption = Some(path.clone());
    };
    let it = Fixture::with(config).await;
    let definition = json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    it.define(definition).await;
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    it.create(
        widgets,
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": MARK}}),
    )
    .await;
    it.create(CONFIG_MAPS, config_map("a-map-of-mine-4711")).await;
    let dir = it.stop().await;
    let file = fs::read(dir.path().join("store.redb")).expect("the store");
    assert!(holds(&file, MARK), "keys are not encrypted");
    assert!(!holds(&file, "\"kind\":\"Widget\"") && !holds(&file, "\"kind\":\"ConfigMap\""));
    let it = Fixture::again(dir, config).await.map_err(|(e, _)| e).expect("a start");
    assert_eq!(it.get(widgets).await.names(), [MARK]);
    assert!(it.get(CONFIG_MAPS).await.names().contains(&"a-map-of-mine-4711"));
}

use coracle_api::kinds;

use super::*;

const KEY: &[u8] = b"/registry/core/secrets/default/x";

fn parse(resources: &str) -> Result<Transformers, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}"
    );
    Transformers::parse(&text, Path::new("file")).map_err(|error| error.to_string())
}

/// Base64 of so many zeros.
fn zeros(count: usize) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(vec![0; count])
}

#[test]
fn what_is_wrong_is_told_in_upstreams_words_and_without_the_key() {
    let check = |resources: &str, expected: &str| {
        let Err(why) = parse(resources) else { panic!("{resources}") };
        assert!(why.contains(expected), "{why}");
        assert!(!why.contains("c2VjcmV0"), "{why}");
    };
    check("[]", "resources: Required value: at least one resources is required");
    check(
        "[{resources: [], providers: [{identity: {}}]}]",
        "resources[0].resources: Required value",
    );
    check("[{resources: [secrets]}]", "resources[0].providers: Required value");
    check("[{resources: [secrets], providers: [{}]}]", "any of the expected providers");
    check(
        "[{resources: [secrets], providers: [{identity: {}, aescbc: {keys: []}}]}]",
        "more than one provider specified in a single element",
    );
    check("[{resources: [secrets], providers: [{kms: {name: x}}]}]", "KMS plugins are not called");
    check("[{resources: [secrets], providers: [{rot13: {}}]}]", "unknown field");
    let key = |key: &str, why: &str| {
        check(
            &format!("[{{resources: [secrets], providers: [{{aescbc: {{keys: [{key}]}}}}]}}]"),
            why,
        );
    };
    key("", "providers[0].aescbc.keys: Required value: at least one keys is required");
    key("{secret: c2VjcmV0}", "keys[0].name: Required value: name is a mandatory field for a key");
    key("{name: a}", "keys[0].secret: Required value: secret is a mandatory field for a key");
    key("{name: a, secret: \"c2VjcmV0?\"}", "secrets must be base64 encoded");
    key(
        "{name: a, secret: c2VjcmV0}",
        "Invalid value: \"REDACTED\": secret is not of the expected length, got 6, expected one of [16 24 32]",
    );
    key("{name: a, secret: c2VjcmV0, c2: [}", "cannot be used");
    let named = |resources: &str, why: &str| {
        check(&format!("[{{resources: {resources}, providers: [{{identity: {{}}}}]}}]"), why);
    };
    named("[secrets, secrets]", "the same resource cannot be specified multiple times");
    named("[secrets, \"*.\"]", "overlapping resources");
    named("[secrets, \"*.*\"]", "overlapping resources");
    named("[\"*\"]", "use '*.' to encrypt");
    named("[\"secrets.*\"]", "the same resource across groups");
    named("[Secrets]", "capital letters");
    named("[events.events.k8s.io]", "Use 'events' instead");
}

#[test]
fn the_first_entry_that_names_a_kind_decides() {
    let key = |name: &str| {
        format!("{{secretbox: {{keys: [{{name: {name}, secret: \"{}\"}}]}}}}", zeros(32))
    };
    let transformers = parse(&format!(
        "[{{resources: [secrets], providers: [{}]}}, {{resources: [\"*.apps\"], providers: [{}]}},
          {{resources: [configmaps], providers: [{{identity: {{}}}}]}}, {{resources: [\"*.\"], providers: [{}]}}]",
        key("one"),
        key("two"),
        key("three"),
    ))
    .unwrap();
    let check = |kind: &'static Kind, expected: &str| {
        let sealed =
            transformers.of(kind).map(|it| it.seal(KEY, Bytes::from_static(b"{}")).unwrap());
        let sealed = sealed.unwrap_or_default();
        assert_eq!(ciphers::name(&sealed).unwrap_or_default(), expected, "{}", kind.plural);
    };
    check(&kinds::SECRET, "the key \"one\" of secretbox");
    check(&kinds::DEPLOYMENT, "the key \"two\" of secretbox");
    check(&kinds::CONFIG_MAP, "");
    check(&kinds::POD, "the key \"three\" of secretbox");
    check(&kinds::ROLE, "");
}

#[test]
fn every_provider_and_key_length_reads_what_it_wrote() {
    for (provider, length) in [
        ("aesgcm", 16),
        ("aesgcm", 24),
        ("aesgcm", 32),
        ("aescbc", 16),
        ("aescbc", 24),
        ("aescbc", 32),
        ("secretbox", 32),
    ] {
        let keys = format!("{{keys: [{{name: k, secret: \"{}\"}}]}}", zeros(length));
        let all =
            parse(&format!("[{{resources: [secrets], providers: [{{{provider}: {keys}}}]}}]"));
        let all = all.unwrap();
        let it = all.of(&kinds::SECRET).unwrap();
        for text in ["", "{}", "sixteen bytes ok", &"long ".repeat(1000)] {
            let value = Bytes::copy_from_slice(text.as_bytes());
            let sealed = it.seal(KEY, value.clone()).unwrap();
            assert_ne!(sealed, it.seal(KEY, value).unwrap(), "{provider}: twice the same");
            let opened = it.open(KEY, &sealed).unwrap();
            assert_eq!((&*opened.value, opened.stale), (text.as_bytes(), false));
            // Elsewhere in the store, what is bound to its key is not read.
            assert_eq!(it.open(b"/other", &sealed).is_err(), provider == "aesgcm");
        }
    }
}

/// Values by other implementations, from a key of zeros and a nonce of zeros: NIST's test case 14 of GCM, OpenSSL, NaCl.
#[test]
fn what_another_server_wrote_is_read() {
    let hex = |text: &str| -> Vec<u8> {
        let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    };
    let check = |provider: &str, nonce: usize, sealed: &str, expected: &[u8]| {
        let prefix = format!("k8s:enc:{provider}:v1:k:").into_bytes();
        let stored = [prefix, vec![0; nonce], hex(sealed)].concat();
        let keys = format!("{{keys: [{{name: k, secret: \"{}\"}}]}}", zeros(32));
        let all =
            parse(&format!("[{{resources: [secrets], providers: [{{{provider}: {keys}}}]}}]"));
        let all = all.unwrap();
        let opened = all.of(&kinds::SECRET).unwrap().open(b"", &stored).unwrap();
        assert_eq!(*opened.value, *expected, "{provider}");
    };
    let gcm = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
    check("aesgcm", 12, gcm, &[0; 16]);
    let cbc = "2ae88052453e6162abcd7aa1fbad0cd288ccd4ae491477dc3cd11da3c9736044";
    check("aescbc", 16, cbc, br#"{"kind":"Secret"}"#);
    let secretbox = "b01fb48bdbb087d84099444f29d333f2bd1cd09690e1ec16c98d92bf3091e07510";
    check("secretbox", 24, secretbox, br#"{"kind":"Secret"}"#);
}

#[test]
fn identity_reads_what_is_plain_and_leaves_the_rest_to_those_behind_it() {
    let keys = format!("{{keys: [{{name: k, secret: \"{}\"}}]}}", zeros(32));
    let of = |providers: &str| {
        parse(&format!("[{{resources: [secrets], providers: [{providers}]}}]")).unwrap()
    };
    let (gcm, identity) = (format!("{{aesgcm: {keys}}}"), "{identity: {}}");
    let strict = of(&gcm);
    let sealed = strict.of(&kinds::SECRET).unwrap().seal(KEY, Bytes::from_static(b"{}")).unwrap();
    let check = |providers: &str, stored: &[u8], expected: Result<(&[u8], bool), &str>| {
        let all = of(providers);
        let opened = all.of(&kinds::SECRET).unwrap().open(KEY, stored);
        let found = opened.as_ref().map(|it| (&*it.value, it.stale)).map_err(|e| &e[..]);
        assert_eq!(found, expected, "{providers}");
    };
    check(&gcm, b"{}", Err("no matching prefix found"));
    check(identity, &sealed, Err("no matching prefix found"));
    check(identity, b"{}", Ok((&b"{}"[..], false)));
    check(&format!("{gcm}, {identity}"), b"{}", Ok((&b"{}"[..], true)));
    check(&format!("{gcm}, {identity}"), &sealed, Ok((&b"{}"[..], false)));
    check(&format!("{identity}, {gcm}"), &sealed, Ok((&b"{}"[..], true)));
    check(
        &gcm,
        b"k8s:enc:aesgcm:v1:other:abc",
        Err("no matching key was found for the provided AES transformer"),
    );
    let none = Encryption::none();
    let why = none.open_value(&kinds::SECRET, KEY, &sealed).unwrap_err();
    assert!(why.contains("identity transformer tried to read encrypted data"), "{why}");
}

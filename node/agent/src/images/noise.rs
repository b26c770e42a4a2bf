//! Names of images and manifests by chance: what a registry or a Pod's author may send.

use super::manifest::{Manifest, classify, pick};
use super::reference::{ImageName, is_sha256};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn names() {
    let whole = format!("registry.example.com:5000/team/app:v1@{DIGEST}");
    let good: &[&[u8]] = &[b"hello:v1", whole.as_bytes(), b"[::1]:5000/a", b"localhost/a-b_c.d"];
    let words = ["/", ":", "@", "..", "//", "%2f", "-", "_", "__", ".", "A", "[", "]", DIGEST];
    coracle_fuzz::bytes("image-names", good, &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(name) = ImageName::parse(text) else { return };
        // It becomes a part of URLs and of paths.
        assert!(!name.repository.contains("..") && !name.repository.starts_with('/'), "{text}");
        assert!(
            name.repository
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"/._-".contains(&b))
        );
        assert!(name.digest.as_deref().is_none_or(is_sha256));
        let again = ImageName::parse(&name.to_string()).expect("its own text");
        assert_eq!(again.to_string(), name.to_string(), "{text}");
        let _ = (name.place(), name.at("docker.io").to_string());
    });
}

#[test]
fn manifests() {
    let layer = format!(r#"{{"mediaType":"application/wasm","digest":"{DIGEST}","size":3}}"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{layer},"layers":[{layer}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{DIGEST}","size":3,"platform":{{"os":"wasip2","architecture":"wasm"}}}}]}}"#
    );
    let words = [
        DIGEST,
        "\"size\":-1",
        "\"size\":99999999999999999999",
        "\"layers\":",
        "[[[[",
        "null",
        "\"urls\":[\"a\"]",
        "\"annotations\":{\"a\":\"b\"}",
    ];
    coracle_fuzz::bytes("manifests", &[manifest.as_bytes(), index.as_bytes()], &words, |input| {
        let Ok(manifest) = Manifest::read(input) else { return };
        let _ = (manifest.is_index(), pick(&manifest).is_ok());
        let _ = (classify(&manifest, false).is_ok(), classify(&manifest, true).is_ok());
    });
}

use serde_json::json;

use super::*;

fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

fn layer(media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(1), "size": 10})
}

fn read(value: serde_json::Value) -> Manifest {
    Manifest::read(value.to_string().as_bytes()).unwrap()
}

fn manifest(config: &str, layers: &[&str]) -> Manifest {
    let layers: Vec<_> = layers.iter().map(|l| layer(l)).collect();
    read(json!({"schemaVersion": 2, "config": layer(config), "layers": layers}))
}

#[test]
fn every_wasm_media_type_is_a_component() {
    for (config, component) in [
        (WASM_CONFIG, WASM_LAYER),
        ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
        (SPIN_CONFIG, "application/vnd.wasm.content.layer.v1+wasm"),
        (IMAGE_CONFIGS[0], "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"),
        (IMAGE_CONFIGS[0], "application/vnd.module.wasm.content.layer.v1+wasm"),
        ("application/vnd.oci.empty.v1+json", WASM_LAYER),
    ] {
        match classify(&manifest(config, &[component]), false).unwrap() {
            Content::Artifact { component: found, config: kept } => {
                assert_eq!(found.media_type, component);
                assert_eq!(kept.is_some(), config == IMAGE_CONFIGS[0]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ordinary_images_are_told_by_their_layers() {
    let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    for config in IMAGE_CONFIGS {
        let content = classify(&manifest(config, &[gzip, zstd]), true).unwrap();
        assert!(
            matches!(content, Content::Image { compat: true, layers, .. } if layers.len() == 2)
        );
    }
}

#[test]
fn what_is_no_use_is_named() {
    let spin = "application/vnd.wasm.content.layer.v1+wasm";
    let files = "application/vnd.wasm.content.bundle.v1.tar+gzip";
    for (config, layers, wanted) in [
        (SPIN_CONFIG, &[spin, files][..], "Spin application with files"),
        (SPIN_CONFIG, &[spin, spin], "holds 2 Wasm components"),
        (
            "application/vnd.cncf.helm.config.v1+json",
            &["application/x"],
            "layers are of type application/x",
        ),
        (IMAGE_CONFIGS[0], &[], "layers are of type none"),
        (IMAGE_CONFIGS[0], &["application/x", "application/x"], "of type application/x"),
    ] {
        let error = classify(&manifest(config, layers), false).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn hostile_manifests_are_refused() {
    let many: Vec<_> = (0..=MAX_LAYERS).map(|_| layer(WASM_LAYER)).collect();
    for (text, wanted) in [
        ("[]".to_owned(), "not readable"),
        ("{}".to_owned(), "not readable"),
        (json!({"schemaVersion": 1}).to_string(), "only 2 is known"),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "not readable"),
        (" ".repeat(MAX_MANIFEST + 1), "is over"),
        (json!({"schemaVersion": 2, "layers": many}).to_string(), "more than 512 layers"),
        (
            json!({"schemaVersion": 2, "layers": [{"mediaType": "x", "digest": "sha256:../../x", "size": 1}]}).to_string(),
            "no sha256 digest",
        ),
        (
            json!({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "sha512:aa", "size": 1}]}).to_string(),
            "no sha256 digest",
        ),
        (
            json!({"schemaVersion": 2, "layers": [{"mediaType": "x", "digest": digest(1), "size": u64::MAX}]}).to_string(),
            "has more than",
        ),
        (
            json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": digest(1), "size": 99_000_000}}).to_string(),
            "configuration is over",
        ),
        (
            json!({"schemaVersion": 2, "layers": [{"mediaType": "x", "digest": digest(1), "size": -1}]}).to_string(),
            "not readable",
        ),
    ] {
        let error = Manifest::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let large = read(json!({"schemaVersion": 2, "layers": [
        {"mediaType": WASM_LAYER, "digest": digest(1), "size": MAX_WASM + 1},
    ]}));
    assert!(matches!(classify(&large, false), Err(Unfit::Limit(_))));
}

fn index(platforms: &[(&str, &str)]) -> Manifest {
    let manifests = platforms.iter().enumerate().map(|(n, (os, architecture))| {
        json!({
            "mediaType": MANIFEST, "digest": digest(n as u8), "size": 1,
            "platform": {"os": os, "architecture": architecture},
        })
    });
    read(
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests.collect::<Vec<_>>()}),
    )
}

#[test]
fn the_most_fitting_platform_is_picked() {
    let host = host_architecture();
    for (platforms, wanted) in [
        (&[("linux", host), ("wasi", "wasm")][..], 1),
        (&[("wasip1", "wasm"), ("wasip2", "wasm"), ("linux", host)], 1),
        (&[("linux", "s390x"), ("linux", host)], 1),
        (&[("unknown", "unknown"), ("wasi", "wasm32")], 1),
        (&[("linux", host), ("linux", "wasm")], 1),
    ] {
        let index = index(platforms);
        assert!(index.is_index());
        assert_eq!(pick(&index).unwrap().digest, digest(wanted), "{platforms:?}");
    }
    let error = pick(&index(&[("windows", "amd64"), ("unknown", "unknown")])).unwrap_err();
    assert!(error.to_string().contains("it is for windows/amd64"), "{error}");
    assert!(pick(&index(&[])).is_err());
    // crun's mark on an entry that says nothing else of Wasm.
    let mut marked = index(&[("linux", host), ("linux", "s390x")]);
    marked.manifests[1].annotations = Some([(COMPAT.to_owned(), "compat".to_owned())].into());
    let picked = pick(&marked).unwrap();
    assert!(picked.is_compat() && picked.digest == digest(1));
}

fn config(value: serde_json::Value) -> (ImageConfig, Run) {
    let config: ImageConfig = serde_json::from_value(value).unwrap();
    let run = config.config.clone().map(|c| Run::read(c).unwrap()).unwrap_or_default();
    (config, run)
}

#[test]
fn the_program_follows_from_the_words() {
    let linux = json!({"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/app.wasm"], "Cmd": ["x"]}});
    let wasi = json!({"os": "wasip1", "architecture": "wasm", "config": {"Entrypoint": ["app"], "WorkingDir": "/srv/"}});
    let shell = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]}});
    let cmd = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/cmd.wasm"]}});
    let nothing = json!({"os": "linux", "architecture": "amd64", "config": null});
    let words = |command, argument| Words { command, argument };
    for (value, given, compat, wanted) in [
        (&linux, words(None, None), false, Ok(Some("/app.wasm"))),
        (&linux, words(None, Some("/y.wasm")), false, Ok(Some("/app.wasm"))),
        (&linux, words(Some("/other.wasm"), None), false, Ok(Some("/other.wasm"))),
        (&linux, words(Some("sh"), None), false, Ok(None)),
        (&wasi, words(None, None), false, Ok(Some("/srv/app"))),
        (&wasi, words(Some("sh"), None), false, Err("command \"sh\" is no .wasm file")),
        (&shell, words(None, None), false, Ok(None)),
        (&shell, words(None, None), true, Ok(Some("/sh"))),
        (&cmd, words(None, None), false, Ok(Some("/cmd.wasm"))),
        (&cmd, words(None, Some("/y.wasm")), false, Ok(Some("/y.wasm"))),
        (&nothing, words(None, None), false, Err("no command specified")),
        (&nothing, words(Some("sh"), None), false, Ok(None)),
    ] {
        let (config, run) = config(value.clone());
        match (program(&config, &run, compat, given), wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found.as_deref(), wanted),
            (Err(found), Err(wanted)) => assert!(found.contains(wanted), "{found}"),
            (found, wanted) => panic!("{found:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn variants_are_those_that_this_processor_has() {
    let host = host_architecture();
    let best = host_variants()[0];
    let of = |variants: &[&str]| {
        let all = variants.iter().enumerate().map(|(n, variant)| {
            json!({"mediaType": MANIFEST, "digest": digest(n as u8), "size": 1,
                "platform": {"os": "linux", "architecture": host, "variant": variant}})
        });
        read(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": all.collect::<Vec<_>>()}))
    };
    assert_eq!(pick(&of(&["", best])).unwrap().digest, digest(1));
    assert_eq!(pick(&of(&[best, "v99"])).unwrap().digest, digest(0));
    assert_eq!(pick(&of(&["v99", ""])).unwrap().digest, digest(1));
    let error = pick(&of(&["v99", "v98"])).unwrap_err().to_string();
    let wanted = format!("it is for linux/{host}/v99, linux/{host}/v98");
    assert!(
        error.contains("no match for platform in manifest") && error.contains(&wanted),
        "{error}"
    );
}

#[test]
fn a_containers_configuration_is_read() {
    let (_, run) = config(json!({"config": {
        "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": ["PATH=/bin", "EMPTY=", "nothing", "A=b=c"], "User": "nginx:1000", "WorkingDir": "",
        "StopSignal": "SIGQUIT", "Volumes": {"/data": {}, "/cache": {}},
        "Labels": {"maintainer": "somebody"}, "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000_u64},
    }}));
    assert_eq!(run.entrypoint, ["/docker-entrypoint.sh"]);
    assert_eq!(run.cmd, ["nginx", "-g", "daemon off;"]);
    let env: Vec<_> = run.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c")]);
    assert_eq!((run.user.as_deref(), run.working_dir), (Some("nginx:1000"), None));
    assert_eq!(run.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(run.volumes, ["/cache", "/data"]);
    assert_eq!(run.labels["maintainer"], "somebody");
}

#[test]
fn configurations_have_limits() {
    let long = "x".repeat(MAX_WORD + 1);
    let many = vec!["x=y"; MAX_WORDS + 1];
    for (section, wanted) in [
        (json!({"Env": many}), "more than 4096 values in Env"),
        (json!({"Entrypoint": [long]}), "more than 131072 bytes in Entrypoint"),
        (json!({"Cmd": ["a\0b"]}), "zero byte in Cmd"),
        (json!({"Env": ["A=\0"]}), "zero byte in Env"),
        (json!({"User": "\0"}), "zero byte in User"),
        (json!({"Volumes": {"\0": {}}}), "zero byte in Volumes"),
    ] {
        let section: ConfigSection = serde_json::from_value(section).unwrap();
        let error = Run::read(section).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Damaged by chance, seeded: whatever comes of it, it is an answer.
#[test]
fn noise_is_read_without_harm() {
    let good = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": layer(IMAGE_CONFIGS[0]),
        "layers": [layer("application/vnd.oci.image.layer.v1.tar+gzip"), layer(WASM_LAYER)],
        "manifests": [{"mediaType": MANIFEST, "digest": digest(2), "size": 7,
            "platform": {"os": "linux", "architecture": "amd64", "variant": "v2"}}],
        "config2": {"Entrypoint": ["a"], "Env": ["A=b"], "Volumes": {"/x": {}}},
    })
    .to_string()
    .into_bytes();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % most
    };
    let mut read = 0;
    for _ in 0..5000 {
        let mut text = good.clone();
        for _ in 0..1 + below(3) {
            let (at, with) = (below(text.len()), below(good.len()));
            match below(4) {
                0 => text[at] = good[with],
                1 => drop(text.remove(at)),
                2 => text.insert(at, good[with]),
                _ => text[at] = b"0\"{}[],-9\\"[below(10)],
            }
        }
        if let Ok(manifest) = Manifest::read(&text) {
            read += 1;
            let _ = (pick(&manifest).is_ok(), classify(&manifest, false).is_ok());
        }
        if let Ok(config) = serde_json::from_slice::<ImageConfig>(&text) {
            let _ = config.config.map(Run::read);
        }
    }
    assert!(read > 500, "{read}");
}

use coracle_sandbox::{Image, ImageKind, ProblemCode};

use super::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_is_kept() {
    let host = TestHost::start().await;
    let first = host.client.prepare_image(&example("hello-v1")).await.unwrap();
    assert_eq!((first.kind, first.cached), (ImageKind::Http, false));
    assert!(first.exports.iter().any(|name| name.starts_with("wasi:http/incoming-handler@0.2")));

    let host = TestHost::start_in(host.end().await).await;
    let again = host.client.prepare_image(&example("hello-v1")).await.unwrap();
    assert!(again.cached);

    let folder = host.folder.path().join("data/compiled");
    let files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "cwasm"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o644);

    let folder = host.end().await;
    std::fs::write(&files[0], b"not what wasmtime wrote").unwrap();
    let host = TestHost::start_in(folder).await;
    assert!(!host.client.prepare_image(&example("hello-v1")).await.unwrap().cached);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_are_refused_by_name() {
    let host = TestHost::start().await;
    let check = async |file: &str, content: &[u8], code: ProblemCode, words: &[&str]| {
        let path = host.folder.path().join(file);
        std::fs::write(&path, content).unwrap();
        let error = host.client.prepare_image(&image(path)).await.unwrap_err();
        let problem = error.problem().unwrap_or_else(|| panic!("{file}: {error}")).clone();
        assert_eq!(problem.code, code, "{file}: {problem}");
        for word in words {
            assert!(problem.message.contains(word), "{file}: {problem} lacks {word}");
        }
    };
    let wat = |text: &str| wat::parse_str(text).unwrap();
    check("text", b"#!/bin/sh\n", ProblemCode::NotAComponent, &["not WebAssembly"]).await;
    let broken = [&wat("(component)")[..], b"broken"].concat();
    check("broken", &broken, ProblemCode::NotAComponent, &["not valid", "cut off"]).await;
    let core = wat("(module)");
    check("core", &core, ProblemCode::MissingExport, &["core", "_start", "wasm32-wasip2"]).await;
    let empty = wat("(component)");
    let words = ["nothing", "wasi:http/incoming-handler", "wasi:cli/run"];
    check("empty", &empty, ProblemCode::MissingExport, &words).await;
    let stranger = wat(r#"(component
        (import "acme:db/query@1.0.0" (instance (export "run" (func))))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#);
    check("stranger", &stranger, ProblemCode::UnknownImport, &["acme:db/query@1.0.0"]).await;

    let wrong = Image { digest: format!("sha256:{}", "0".repeat(64)), ..example("hello-v1") };
    let error = host.client.prepare_image(&wrong).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, ProblemCode::ImageNotFound);
    let gone = Image { path: "/no/such/file".into(), ..wrong };
    let error = host.client.prepare_image(&gone).await.unwrap_err();
    assert!(error.problem().unwrap().message.contains("/no/such/file"), "{error}");
    host.end().await;
}

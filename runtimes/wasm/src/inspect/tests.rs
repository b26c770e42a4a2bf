use coracle_sandbox::{ImageKind, ProblemCode};

use super::*;

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text")
}

fn example(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/prebuilt");
    std::fs::read(folder.join(format!("{name}.wasm"))).expect("a prebuilt example")
}

#[test]
fn examples_are_read() {
    let http = inspect(&example("hello-v1")).expect("a component");
    assert_eq!((http.form, http.kind), (Form::Component, Some(ImageKind::Http)));
    assert_eq!(http.wasi.as_deref(), Some("0.2"));
    assert!(http.imports.iter().any(|name| name.starts_with("wasi:http/types@0.2")), "{http:?}");
    assert!(http.missing.is_empty() && !http.concurrent, "{http:?}");
    assert!(
        http.memories >= 1 && http.memory_bytes >= 65536 && http.core_instances >= 1,
        "{http:?}"
    );
    let command = inspect(&example("hello-command")).expect("a component");
    assert_eq!(command.kind, Some(ImageKind::Command));
}

#[test]
fn core_modules_are_seen_as_what_they_become() {
    let program = wat(r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 3))))"#);
    let found = inspect(&program).expect("a program");
    assert_eq!((found.form, found.kind), (Form::CoreModule, Some(ImageKind::Command)));
    assert_eq!(found.wasi.as_deref(), Some("0.1"));
    assert!(found.imports.iter().any(|name| name.starts_with("wasi:cli/exit@0.2")), "{found:?}");

    // What cannot run is shown all the same.
    let library = inspect(&wat(r#"(module (import "env" "f" (func)))"#)).expect("a module");
    assert_eq!((library.kind, library.imports), (None, vec!["env".to_owned()]));
}

#[test]
fn what_is_not_offered_is_named() {
    let stranger = wat(r#"(component
        (import "acme:db/query@1.0.0" (instance (export "run" (func))))
        (import "wasi:cli/environment@0.2.3" (instance)))"#);
    let found = inspect(&stranger).expect("a component");
    assert_eq!(found.missing, ["acme:db/query@1.0.0"]);
    assert_eq!((found.imports.len(), found.kind), (2, None));
}

/// Their versions look like those of WASI 0.2, and they were once refused for that.
#[test]
fn what_is_offered_beyond_wasi_is_known() {
    let config = inspect(&example("hello-config")).expect("a component");
    for name in crate::instance::EXTRAS {
        assert!(config.imports.iter().any(|import| import == name), "{name}: {config:?}");
    }
    assert!(config.missing.is_empty(), "{config:?}");
}

#[test]
fn asynchronous_components_are_told_apart() {
    let text = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 0) (func (export "cb") (param i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $f async (canon lift (core func $i "f") async (callback (core func $i "cb"))))
        (export "f" (func $f)))"#;
    assert!(inspect(&wat(text)).expect("a component").concurrent);
}

/// Bad files, each with words of what is said about it.
#[test]
fn bad_files_are_refused_in_words() {
    let check = |name: &str, file: &[u8], words: &str| {
        let problem = match inspect(file) {
            Err(problem) => problem,
            Ok(found) => panic!("{name}: taken as {found:?}"),
        };
        assert_eq!(problem.code, ProblemCode::NotAComponent, "{name}: {problem}");
        assert!(problem.message.contains(words), "{name}: {problem} lacks {words:?}");
        assert!(
            problem.message.len() < 1_000,
            "{name}: {} bytes of message",
            problem.message.len()
        );
    };
    let hello = example("hello-v1");
    check("empty", b"", "empty");
    check("script", b"#!/bin/sh\n", "does not begin with");
    check("elf", b"\x7fELF\x02\x01\x01rest", "native program");
    check("gzip", b"\x1f\x8b\x08rest", "compressed");
    check("text", b"\n (component)", "text format");
    check("head", b"\0asm", "cut off");
    check("version", b"\0asm\x63\0\x07\0", "version");
    check("half", &hello[..hello.len() / 2], "cut off");
    check("tail", &[&hello[..], b"\x7f\x01"].concat(), "not valid");

    // What this very program compiled is native code, and stays out.
    let engine = wasmtime::Engine::default();
    let code = engine.precompile_component(&wat("(component)")).expect("it compiles");
    check("cwasm", &code, "never loaded");

    let many = |n: usize, item: &dyn Fn(usize) -> String| {
        let items: String = (0..n).map(item).collect();
        wat(&format!("(component {items})"))
    };
    check("imports", &many(1_001, &|n| format!("(import \"f{n}\" (func))")), "1000 imports");
    check("modules", &many(1_001, &|_| "(core module)".to_owned()), "1000 core modules");
    check("types", &many(200_001, &|_| "(type u8)".to_owned()), "200000 types");
    let nested = format!("{}{}", "(component ".repeat(17), ")".repeat(17));
    check("nested", &wat(&nested), "16 deep");
}

/// Text from a file reaches terminals and events: it must be short and harmless there.
#[test]
fn strangers_names_are_cut() {
    assert_eq!(shown("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    assert_eq!(shown(&"x".repeat(1_000)).len(), MAX_SHOWN);
}

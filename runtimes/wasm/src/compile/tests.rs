use std::path::Path;

use coracle_sandbox::{ImageKind, ProblemCode};

use super::*;

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text")
}

fn try_compile(
    wasm: &[u8],
    class: Option<&str>,
    limit: Option<u64>,
) -> Result<(CompiledImage, tempfile::TempDir), Problem> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("image.wasm");
    fs::write(&file, wasm).expect("written");
    let digest: String = Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect();
    let job = Job {
        digest: format!("sha256:{digest}"),
        wasm: file,
        out: folder.path().into(),
        class: class.map(str::to_owned),
        memory_limit: limit,
    };
    compile(&job).map(|made| (made, folder))
}

/// A command with this in its core module.
fn command(module: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
        (core module $m {module} (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#
    ))
}

#[test]
fn the_class_follows_the_need() {
    let check = |wasm: &[u8], limit: Option<u64>, class: &str| {
        let (made, folder) =
            try_compile(wasm, None, limit).unwrap_or_else(|e| panic!("{class}: {e}"));
        assert_eq!(made.code.keys().collect::<Vec<_>>(), [class]);
        let file = folder.path().join(&made.code[class]);
        assert_eq!(fs::metadata(file).expect("code").len(), made.bytes);
    };
    check(&command(""), None, "small");
    check(&command("(memory 1)"), Some(256 << 20), "small");
    check(&command("(memory 1)"), Some(257 << 20), "large");
    check(&command("(memory 5000)"), None, "large");
    check(&command("(table 60000 funcref)"), None, "large");
    check(&command(&"(memory 1)".repeat(3)), None, "large");
}

#[test]
fn what_fits_nowhere_is_refused() {
    for module in [
        "(table 200000 funcref)".to_owned(),
        "(memory 1)".repeat(9),
        "(table 1 funcref)".repeat(40),
    ] {
        let problem = try_compile(&command(&module), None, None).expect_err("too large");
        assert_eq!(problem.code, ProblemCode::NotAComponent);
        assert!(problem.message.contains("more than the largest instance"), "{problem}");
    }
    let problem = try_compile(&command(""), Some("tiny"), None).expect_err("no such class");
    assert_eq!(problem.code, ProblemCode::InvalidSpec);
}

#[test]
fn core_modules_are_adapted() {
    let program = wat(r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")))"#);
    let (made, _folder) = try_compile(&program, None, None).expect("it compiles");
    assert!(made.info.adapted);
    assert_eq!(made.info.kind, ImageKind::Command);

    let check = |module: &str, code: ProblemCode, words: &str| {
        let problem = try_compile(&wat(module), None, None).expect_err(module);
        assert_eq!(problem.code, code, "{problem}");
        assert!(problem.message.contains(words), "{problem}");
    };
    check("(module)", ProblemCode::MissingExport, "without an entry point");
    let foreign = r#"(module (import "gojs" "runtime.wasmExit" (func)) (func (export "_start")))"#;
    check(foreign, ProblemCode::UnknownImport, "GOOS=wasip1");
    let unknown = r#"(module (import "wasi_snapshot_preview1" "warp" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    check(unknown, ProblemCode::NotAComponent, "warp");
}

/// The agent compiles with an engine of one slot, hosts run with pools of thousands: code must be the same's.
#[test]
fn one_slot_or_many_the_code_fits() {
    let (made, folder) = try_compile(&command("(memory 1)"), None, None).expect("it compiles");
    let host = Class::new(ClassKind::Small, 32, true).expect("a class");
    let file = folder.path().join(&made.code["small"]);
    // SAFETY: written a moment ago by this program.
    unsafe { Component::deserialize_file(&host.engine, file) }.expect("it fits");
}

#[test]
fn the_file_must_be_what_its_digest_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = |digest: &str, wasm: &Path| Job {
        digest: digest.to_owned(),
        wasm: wasm.to_owned(),
        out: folder.path().into(),
        class: None,
        memory_limit: None,
    };
    let file = folder.path().join("image.wasm");
    fs::write(&file, command("")).expect("written");
    let zero = format!("sha256:{}", "0".repeat(64));
    for (digest, wasm, code) in [
        (zero.as_str(), file.as_path(), ProblemCode::ImageNotFound),
        (&zero, Path::new("/no/such/file"), ProblemCode::ImageNotFound),
        ("sha256:../../etc/passwd", &file, ProblemCode::InvalidSpec),
    ] {
        let problem = compile(&job(digest, wasm)).expect_err(digest);
        assert_eq!(problem.code, code, "{problem}");
    }
}

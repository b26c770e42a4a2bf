//! With a shell script in the compiler's place: what a run may do, and what becomes of it.

use std::os::unix::fs::PermissionsExt;

use coracle_sandbox::ImageKind;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Setup {
    folder: tempfile::TempDir,
    command: CompileCommand,
}

impl Setup {
    /// The script finds the digits of the digest in `$HEX`, the folder for the code in `$OUT`, and can `answer` for the class
    /// `small`. Each run adds a line to the file `runs`.
    fn new(script: &str) -> Setup {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("compiler");
        let runs = folder.path().join("runs");
        let text = format!(
            r#"#!/bin/sh
echo "$@" >> {}
CLASS=small
while [ $# -gt 0 ]; do
    case "$1" in --out) OUT=$2;; --digest) HEX=${{2#sha256:}};; --class) CLASS=$2;; esac
    shift
done
answer() {{
    echo '{{}}' > "$OUT/$HEX.info"
    echo code > "$OUT/$HEX-$CLASS-1.cwasm"
    echo "{{\"digest\":\"sha256:$HEX\",\"info\":{{\"kind\":\"Http\",\"imports\":[\"wasi:cli/stdout@0.2.0\"]}},\"code\":{{\"$CLASS\":\"$HEX-$CLASS-1.cwasm\"}},\"bytes\":5}}"
}}
{script}
"#,
            runs.display()
        );
        std::fs::write(&program, text).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("allowed");
        std::fs::create_dir(folder.path().join("compiled")).expect("a folder");
        std::fs::write(folder.path().join("image.wasm"), b"wasm").expect("written");
        let names = [("small", "small-1"), ("large", "large-1")];
        let command = CompileCommand {
            program,
            args: Vec::new(),
            user: None,
            names: names.map(|(class, name)| (class.to_owned(), name.to_owned())).into(),
            patience: |_| Duration::from_secs(20),
        };
        Setup { folder, command }
    }

    fn compiler(&self) -> Compiler {
        Compiler::open(self.folder.path().join("compiled"), self.command.clone()).expect("a folder")
    }

    fn image(&self) -> Image {
        let path = self.folder.path().join("image.wasm");
        Image { digest: format!("sha256:{HEX}"), path, media_type: String::new() }
    }

    fn runs(&self) -> usize {
        let runs = std::fs::read_to_string(self.folder.path().join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path().join("compiled")).expect("a folder");
        let mut names: Vec<String> =
            files.map(|file| file.expect("a file").file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    /// The record is written behind the answer's back.
    async fn recorded(&self) {
        while !self.files().iter().any(|name| name.ends_with(".json")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn an_image_is_compiled_once_even_for_the_next_agent() {
    let setup = Setup::new("sleep 0.1; answer");
    let compiler = setup.compiler();
    let image = setup.image();
    let all = futures::future::join_all((0..20).map(|_| compiler.ensure(&image, None))).await;
    let took = all.iter().filter(|one| one.as_ref().expect("ready").took.is_some()).count();
    assert_eq!((took, setup.runs()), (1, 1));
    assert_eq!(all[0].as_ref().expect("ready").image.info.kind, ImageKind::Http);
    setup.recorded().await;
    assert_eq!(
        setup.files(),
        [format!("{HEX}-small-1.cwasm"), format!("{HEX}.info"), format!("{HEX}.json")]
    );

    let next = setup.compiler();
    assert!(next.known(&image.digest).is_some());
    assert!(next.ensure(&image, None).await.expect("ready").took.is_none());
    assert_eq!(setup.runs(), 1);

    // Another class adds to it; the same class, asked for again, is made anew.
    let large = next.again(&image, Some("large"), None).await.expect("ready");
    assert_eq!(large.image.code.keys().collect::<Vec<_>>(), ["large", "small"]);
    next.again(&image, Some("large"), None).await.expect("ready");
    assert_eq!(setup.runs(), 3);

    next.forget(&image.digest);
    while !setup.files().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(next.known(&image.digest).is_none());
}

#[tokio::test]
async fn code_of_another_engine_is_made_anew_and_then_removed() {
    let mut setup = Setup::new("answer");
    setup.compiler().ensure(&setup.image(), None).await.expect("ready");
    setup.recorded().await;
    // The binary was upgraded: what it makes has another name.
    let script = std::fs::read_to_string(&setup.command.program).expect("the script");
    std::fs::write(&setup.command.program, script.replace("-1.cwasm", "-2.cwasm"))
        .expect("written");
    setup.command.names = [("small".to_owned(), "small-2".to_owned())].into();
    let compiler = setup.compiler();
    let image = setup.image();
    assert!(compiler.known(&image.digest).is_none());
    compiler.renew(&[], |digest| (digest == image.digest).then(|| image.clone())).await;
    assert!(compiler.known(&image.digest).is_some());
    // A host of the old program may still need its own.
    assert!(setup.files().contains(&format!("{HEX}-small-1.cwasm")));
    compiler.remove_dead().await;
    let code: Vec<String> = setup.files().into_iter().filter(|f| f.ends_with(".cwasm")).collect();
    assert_eq!(code, [format!("{HEX}-small-2.cwasm")]);
}

/// However a run ends, there is an answer in words, nothing is left behind, and the next image is none the worse.
#[tokio::test]
async fn every_bad_end_is_understood() {
    let problem = r#"echo '{"code":"UnknownImport","message":"imports acme:db"}'; exit 1"#;
    let check = async |script: &str, code: ProblemCode, words: &str, remembered: bool| {
        let setup = Setup::new(script);
        let compiler = setup.compiler();
        for _ in 0..2 {
            let found = compiler.ensure(&setup.image(), None).await.expect_err(script);
            assert_eq!(found.code, code, "{script}: {found}");
            assert!(found.message.contains(words), "{script}: {found} lacks {words:?}");
        }
        assert_eq!(setup.runs(), if remembered { 1 } else { 2 }, "{script}");
        assert!(setup.files().is_empty(), "{script}: {:?}", setup.files());
    };
    check(problem, ProblemCode::UnknownImport, "acme:db", true).await;
    check("kill -XCPU $$", ProblemCode::NoCapacity, "more than 20 seconds", true).await;
    check("kill -KILL $$", ProblemCode::NoCapacity, "more memory", true).await;
    let abort = "echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$";
    check(abort, ProblemCode::NoCapacity, "more memory", true).await;
    let panic = "echo \"thread 'main' panicked at x.rs:1\" >&2; exit 101";
    check(panic, ProblemCode::NotAComponent, "panicked", true).await;
    check("echo nonsense; echo oh >&2; exit 3", ProblemCode::Internal, "oh", false).await;
    // It answers for another image, names a file elsewhere, or a link to one.
    check("HEX=feed; answer", ProblemCode::Internal, "another image", false).await;
    let elsewhere = r#"answer | sed "s|$HEX-small-1.cwasm|$HEX/../../x.cwasm|""#;
    check(elsewhere, ProblemCode::Internal, "another image", false).await;
    let link = r#"A=$(answer); ln -sf /etc/passwd "$OUT/$HEX-small-1.cwasm"; echo "$A""#;
    check(link, ProblemCode::Internal, "left no code", false).await;
    check("yes | head -c 9000000; exit 0", ProblemCode::Internal, "ended with", false).await;
}

#[tokio::test]
async fn who_takes_too_long_is_ended() {
    let mut setup = Setup::new("exec sleep 60");
    setup.command.patience = |_| Duration::from_millis(100);
    let problem = setup.compiler().ensure(&setup.image(), None).await.expect_err("it sleeps");
    assert_eq!(problem.code, ProblemCode::NoCapacity, "{problem}");
    assert!(setup.files().is_empty(), "{:?}", setup.files());
}

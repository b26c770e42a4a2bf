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
    echo '{{"kind":"Http"}}' > "$OUT/$HEX.info"
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

/// Others want the cores too: one image at a time, at the lowest priority; what an agent that was killed had done is not done
/// again.
#[tokio::test]
async fn code_is_renewed_one_by_one_and_gone_on_with_after_a_kill() {
    let setup = Setup::new(
        r#"exec 9>>"$0.lock"
flock -n 9 || touch "$0.overlapped"
sleep 0.3 9>&-
nice >> "$0.nice"
answer"#,
    );
    let dir = setup.folder.path().join("compiled");
    let digests = ["a", "b", "c"].map(|digit| format!("sha256:{}", digit.repeat(64)));
    let record = |digest: &str| dir.join(format!("{}.json", &digest["sha256:".len()..]));
    for digest in &digests {
        let code = format!("{}-small-0.cwasm", &digest["sha256:".len()..]);
        let old = serde_json::json!({"digest": digest, "info": {"kind": "Http"}, "code": {"small": code}});
        std::fs::write(record(digest), old.to_string()).expect("written");
    }
    let file = |digest: &str| Some(Image { digest: digest.to_owned(), ..setup.image() });
    let first = setup.compiler();
    tokio::select! {
        () = first.renew(&digests[2..], file) => panic!("not killed"),
        () = async {
            // Until the second has begun, and what the first made is on disk.
            let written = || std::fs::read_to_string(record(&digests[2])).expect("a record");
            while setup.runs() < 2 || !written().contains("small-1") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    drop(first);
    // What is killed is there for a moment more, and must not be taken for one that runs beside the next.
    let lock = std::fs::File::open(setup.folder.path().join("compiler.lock")).expect("it began");
    while lock.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lock.unlock().expect("unlocked");
    let next = setup.compiler();
    assert!(next.known(&digests[2]).is_some(), "what is in use comes first");
    assert!(next.known(&digests[0]).is_none() && next.known(&digests[1]).is_none());
    next.renew(&[], file).await;
    assert!(digests.iter().all(|digest| next.known(digest).is_some()));
    assert_eq!(setup.runs(), 4, "one each, and the one that was killed");
    let beside = |ending: &str| setup.folder.path().join(format!("compiler.{ending}"));
    assert!(!beside("overlapped").exists());
    let nice = std::fs::read_to_string(beside("nice")).expect("told");
    assert!(nice.lines().count() >= 3 && nice.lines().all(|line| line == "19"), "{nice}");
}

/// What a host of an older program needs is made by that program, once, and is not taken for code of this one's.
#[tokio::test]
async fn an_older_programs_host_gets_code_of_its_own() {
    let setup = Setup::new("answer");
    let (image, compiler) = (setup.image(), setup.compiler());
    let names = BTreeMap::from([("small".to_owned(), "small-1".to_owned())]);
    let foreign = Foreign { program: setup.command.program.clone(), names };
    for took in [true, false] {
        let made = compiler.again(&image, None, Some(foreign.clone())).await.expect("ready");
        assert_eq!(made.took.is_some(), took);
        assert_eq!(made.image.code["small"], format!("{HEX}-small-1.cwasm"));
    }
    assert_eq!(setup.runs(), 1);
    assert!(compiler.known(&image.digest).is_none());
    compiler.again(&image, Some("large"), Some(foreign)).await.expect("ready");
    assert_eq!(setup.runs(), 2, "there is none of that class");
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

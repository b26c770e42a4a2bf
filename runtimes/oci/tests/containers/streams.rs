//! Programs in containers that run, attaching, and ports.

use std::time::Duration;

use coracle_sandbox::stream::{Input, Output, Session, Size};
use coracle_sandbox::{AttachSpec, ClientError, ExecSpec, ProblemCode, RunSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Host, PATIENCE};
use crate::host;

fn exec(args: &[&str], tty: bool) -> ExecSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    ExecSpec { args, stdin: true, stdout: true, stderr: !tty, tty }
}

/// What a session says to its end: output, errors, and the code.
async fn listen(session: &mut Session) -> (String, String, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let work = async {
        loop {
            match session.output.recv().await {
                Some(Output::Stdout(bytes)) => out.extend(bytes),
                Some(Output::Stderr(bytes)) => err.extend(bytes),
                Some(Output::Exit(code)) => return code,
                other => panic!("{other:?}"),
            }
        }
    };
    let code = tokio::time::timeout(PATIENCE, work).await.unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
}

async fn start(host: &Host, spec: &ExecSpec) -> Session {
    host.client.exec(&host.pod.id, "app", spec).await.unwrap()
}

#[tokio::test]
async fn programs_are_executed_with_streams_several_at_once() {
    let host = host!();
    host.launch(&host.shell("app", "sleep 1000")).await;
    let mut cat = start(&host, &exec(&["cat"], false)).await;
    let mut other =
        start(&host, &exec(&["sh", "-c", "echo out; echo err >&2; exit 7"], false)).await;
    assert_eq!(listen(&mut other).await, ("out\n".into(), "err\n".into(), 7));
    let long = "0123456789".repeat(20_000);
    for part in long.as_bytes().chunks(50_000) {
        cat.input.send(Input::Stdin(part.to_vec().into())).await.unwrap();
        // What comes back has to be read, as with every pipe.
        let mut back = 0;
        while back < part.len() {
            match cat.output.recv().await {
                Some(Output::Stdout(bytes)) => back += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
    }
    cat.input.send(Input::StdinEnd).await.unwrap();
    assert_eq!(listen(&mut cat).await, (String::new(), String::new(), 0));
    host.end().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_ends_with_its_user() {
    let host = host!();
    host.launch(&host.shell("app", "sleep 1000")).await;
    let mut shell = start(&host, &exec(&["sh"], true)).await;
    shell.input.send(Input::Resize(Size { columns: 99, rows: 33 })).await.unwrap();
    shell.input.send(Input::Stdin("tty; stty size; exit 6\n".into())).await.unwrap();
    let (out, _, code) = listen(&mut shell).await;
    assert!(out.contains("/dev/pts/") && out.contains("33 99"), "{out}");
    assert_eq!(code, 6);

    let shell = start(&host, &exec(&["sh", "-c", "sleep 4321"], true)).await;
    drop(shell);
    let until = tokio::time::Instant::now() + PATIENCE;
    while host.run("app", &["ps"]).await.output.contains("sleep 4321") {
        assert!(tokio::time::Instant::now() < until, "it outlives its terminal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.end().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_harms_nobody() {
    let host = host!();
    host.launch(&host.shell("app", "trap 'exit 0' TERM; while :; do sleep 0.1; done")).await;
    for _ in 0..5 {
        match host.client.exec(&host.pod.id, "app", &exec(&["nonsense"], false)).await {
            Err(ClientError::Problem(problem)) => {
                assert_eq!(problem.code, ProblemCode::StartFailed);
                assert_eq!(problem.exit_code, Some(127));
                let words = "OCI runtime exec failed: exec failed: unable to start container process: \
                             exec: \"nonsense\": executable file not found in $PATH";
                assert_eq!(problem.message, words);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(host.run("app", &["echo", "fine"]).await.output, "fine\n");
    let stop = coracle_sandbox::Stop { grace_seconds: 1000 };
    host.client.stop_container(&host.pod.id, "app", stop).await.unwrap();
    assert_eq!(host.ended("app").await.0, 0);
    host.end().await;
}

#[tokio::test]
async fn a_probe_has_a_code_a_time_and_little_output() {
    let host = host!();
    host.launch(&host.shell("app", "sleep 1000")).await;
    let result = host.run("app", &["sh", "-c", "echo a; echo b >&2; echo c; exit 2"]).await;
    assert_eq!((result.code, result.output.as_str(), result.timed_out), (2, "a\nb\nc\n", false));
    let much = host.run("app", &["sh", "-c", "yes | head -c 1000000"]).await;
    assert_eq!((much.code, much.output.len()), (0, 10 << 10));
    let args = ["sh", "-c", "sleep 5678"].map(String::from).to_vec();
    let slow = RunSpec { args, timeout_milliseconds: 200 };
    let slow = host.client.run(&host.pod.id, "app", &slow).await.unwrap();
    assert_eq!((slow.code, slow.timed_out), (137, true));
    assert!(!host.run("app", &["ps"]).await.output.contains("5678"));
    host.end().await;
}

#[tokio::test]
async fn whoever_attaches_takes_part() {
    let host = host!();
    let mut spec = host.shell("app", "while read line; do echo got $line; done; echo end; exit 9");
    let oci = spec.oci.as_mut().unwrap();
    (oci.stdin, oci.stdin_once) = (true, true);
    host.launch(&spec).await;
    let wanted = AttachSpec { stdin: true, stdout: true, stderr: true };
    let mut session = host.client.attach(&host.pod.id, "app", &wanted).await.unwrap();
    session.input.send(Input::Stdin("one\n".into())).await.unwrap();
    session.input.send(Input::StdinEnd).await.unwrap();
    let (out, _, code) = listen(&mut session).await;
    assert_eq!((out.as_str(), code), ("got one\nend\n", 9));
    assert_eq!(host.ended("app").await.2, "got one\nend\n");
    host.end().await;
}

#[tokio::test]
async fn ports_of_the_pod_are_reached() {
    let host = host!();
    // This Pod has the machine's network.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, closed) = (free(), free());
    host.launch(&host.shell("app", &format!("echo up; exec nc -ll -p {port} -e cat"))).await;
    host.said("app", "up").await;
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut stream = loop {
        match host.client.forward(&host.pod.id, port).await {
            Ok(stream) => break stream,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    match host.client.forward(&host.pod.id, closed).await.map(drop) {
        Err(ClientError::Problem(problem)) => {
            assert!(problem.message.contains(&closed.to_string()), "{problem}")
        }
        other => panic!("{other:?}"),
    }
    host.end().await;
}

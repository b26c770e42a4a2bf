//! Every command of kubectl, as people type them: the files of `transcripts` say what, and what there is to be seen.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coracle_test_cluster::tools::{self, Kubectl};
use coracle_test_cluster::{Cluster, Runtime, User, run};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::containers::{push_script, web};
use crate::context::{ClusterExt as _, Context, Outcome, SOON};

const TRANSCRIPTS: [&str; 4] = ["making", "changing", "looking", "entering"];
/// Between two tries of a line that may need them.
const PAUSE: Duration = Duration::from_millis(200);

/// A line, and what comes of it.
struct Step {
    line: String,
    fails: bool,
    /// What it says may come later.
    comes: bool,
    said: Vec<String>,
    unsaid: Vec<String>,
}

fn folder() -> PathBuf {
    tools::repository("tests/suite/transcripts")
}

fn read(name: &str) -> anyhow::Result<Vec<Step>> {
    let path = folder().join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let begun = [("$ ", false, false), ("!$ ", true, false), ("~$ ", false, true)]
            .into_iter()
            .find_map(|(mark, fails, comes)| Some((line.strip_prefix(mark)?, fails, comes)));
        if let Some((line, fails, comes)) = begun {
            let (said, unsaid) = Default::default();
            steps.push(Step { line: line.to_owned(), fails, comes, said, unsaid });
            continue;
        }
        let step = steps.last_mut().with_context(|| format!("{name}: nothing before {line:?}"))?;
        if let Some(more) = line.strip_prefix("> ") {
            step.line.push('\n');
            step.line.push_str(more);
        } else if let Some(unsaid) = line.strip_prefix("- ") {
            step.unsaid.push(unsaid.to_owned());
        } else {
            step.said.push(line.to_owned());
        }
    }
    Ok(steps)
}

/// Text with blanks as single ones: columns are as wide as what is in them.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Step {
    fn check(&self, succeeded: bool, output: &str) -> Outcome {
        ensure!(succeeded != self.fails, "it {}", if self.fails { "succeeds" } else { "fails" });
        let output = squeezed(output);
        for said in &self.said {
            ensure!(output.contains(&squeezed(said)), "it does not say {said:?}");
        }
        for unsaid in &self.unsaid {
            ensure!(!output.contains(&squeezed(unsaid)), "it says {unsaid:?}");
        }
        Ok(())
    }
}

/// Where a transcript is run: a folder with what its lines mention.
struct Shell<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

impl<'a> Shell<'a> {
    fn new(cluster: &'a Cluster, kubectl: &Kubectl) -> anyhow::Result<Self> {
        let name = format!("shell-{}", kubectl.minor.unwrap_or_default());
        let folder = cluster.home().join(name);
        std::fs::create_dir_all(folder.join("bin"))?;
        symlink(&kubectl.path, folder.join("bin/kubectl"))?;
        std::fs::copy(cluster.kubeconfig(), folder.join("kubeconfig"))?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["web.example".into()])?.self_signed(&key)?;
        std::fs::write(folder.join("tls.crt"), certificate.pem())?;
        std::fs::write(folder.join("tls.key"), key.serialize_pem())?;
        std::fs::write(folder.join("request.yaml"), request(&key)?)?;
        Ok(Self { cluster, folder })
    }

    fn command(&self, line: &str) -> Command {
        let mut path = std::ffi::OsString::from(self.folder.join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = self.cluster.kubectl_command(Path::new("bash"), &["-c", line]);
        command.current_dir(&self.folder).env("PATH", path);
        command.env("HOME", &self.folder).env("KUBECONFIG", self.folder.join("kubeconfig"));
        command.env("IMAGE", "web:v1").env("OTHER", "web:v2").env("COMMAND", "hello-command:v1");
        command.env("SHELL_IMAGE", "shell:v1");
        command
    }

    async fn follow(&self, step: &Step) -> Outcome {
        let begun = Instant::now();
        loop {
            let running = run(self.command(&step.line).into(), b"");
            let output = tokio::time::timeout(SOON * 3, running).await.context("too long")??;
            let said = output.stdout + &output.stderr;
            match step.check(output.status.success(), &said) {
                Ok(()) => return Ok(()),
                Err(_) if step.comes && begun.elapsed() < SOON => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.context(said)),
            }
        }
    }
}

/// A CertificateSigningRequest of a user named ann.
fn request(key: &KeyPair) -> anyhow::Result<String> {
    use base64::Engine as _;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "ann");
    let pem = params.serialize_request(key)?.pem()?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
    Ok(format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata:\n  name: ann\nspec:\n  \
         request: {encoded}\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n"
    ))
}

/// A transcript against a new cluster for each of the oldest and the newest kubectl.
async fn transcript(context: Arc<Context>, name: &str) -> Outcome {
    let steps = read(name)?;
    let mut all = tools::kubectls();
    let newest = all.split_off(all.len().saturating_sub(1));
    // Who the cluster's processes belong to is nothing that a kubectl sees.
    all.truncate(usize::from(context.user == User::Root));
    tools::kubectl()?;
    for kubectl in all.into_iter().chain(newest) {
        let cluster = context.up().await?;
        let shell = Shell::new(&cluster, &kubectl)?;
        if context.runtime == Runtime::Oci || name == "entering" {
            for (image, script) in [("web:v1", web("v1")), ("web:v2", web("v2"))] {
                if !push_script(&cluster, image, &script).await? {
                    return Ok(());
                }
            }
            let asleep = "trap 'exit 0' TERM; sleep 1000 & wait";
            push_script(&cluster, "shell:v1", asleep).await?;
        } else {
            cluster.push_all(&[("hello-v1", "web:v1"), ("hello-v2", "web:v2")]).await?;
        }
        cluster.push_guest("hello-command", "hello-command:v1").await?;
        for step in &steps {
            shell
                .follow(step)
                .await
                .with_context(|| format!("{}: {name}: $ {}", kubectl.path.display(), step.line))?;
        }
        cluster.stop().await?;
    }
    Ok(())
}

pub(crate) async fn making(context: Arc<Context>) -> Outcome {
    transcript(context, "making").await
}

pub(crate) async fn changing(context: Arc<Context>) -> Outcome {
    transcript(context, "changing").await
}

pub(crate) async fn looking(context: Arc<Context>) -> Outcome {
    transcript(context, "looking").await
}

pub(crate) async fn entering(context: Arc<Context>) -> Outcome {
    if context.user == User::Root { transcript(context, "entering").await } else { Ok(()) }
}

/// What a kubectl can do, by its own word: commands, and commands of those that have some.
fn commands_of(kubectl: &Path) -> anyhow::Result<BTreeSet<String>> {
    let ask = |args: &[&str]| {
        let output = Command::new(kubectl).arg("__complete").args(args).arg("").output()?;
        ensure!(output.status.success(), "{} completes nothing", kubectl.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.lines().filter(|line| !line.starts_with(':'));
        anyhow::Ok(words.filter_map(|l| Some(l.split_once('\t')?.0.to_owned())).collect::<Vec<_>>())
    };
    let mut found = BTreeSet::new();
    for command in ask(&[])? {
        let has_commands = [
            "apply",
            "auth",
            "certificate",
            "cluster-info",
            "config",
            "create",
            "rollout",
            "set",
            "top",
        ];
        if has_commands.contains(&command.as_str()) {
            found.extend(ask(&[&command])?.into_iter().map(|sub| format!("{command} {sub}")));
        }
        found.insert(command);
    }
    Ok(found)
}

#[test]
fn each_command_is_in_a_transcript() {
    let mut text = String::new();
    for name in TRANSCRIPTS {
        for step in read(name).expect("a transcript") {
            text.push_str(&step.line);
            text.push('\n');
        }
    }
    let kubectls = tools::kubectls();
    for kubectl in [kubectls.first(), kubectls.last()].into_iter().flatten() {
        let commands = commands_of(&kubectl.path).expect("its commands");
        assert!(commands.len() > 60, "{commands:?}");
        let is_there = |c: &&String| {
            [" ", "\n", ";"].iter().any(|end| text.contains(&format!("kubectl {c}{end}")))
        };
        let missing: Vec<_> = commands.iter().filter(|c| !is_there(c)).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", kubectl.path.display());
    }
}

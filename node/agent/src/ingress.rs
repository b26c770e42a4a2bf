//! Ingresses as this node serves them: watched, made into a table, told to the proxy's process.
//!
//! The process is there while there is an Ingress of ours to serve; it outlives the agent, and an agent that returns tells
//! it everything once it knows everything again. Until then it serves what it was told before. One of an older program gives
//! its sockets to one of the agent's own then ([`older`]). Which ports it has, the Node
//! tells in an annotation, from which the control plane writes Ingresses' addresses.

mod older;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::kinds::INGRESS_PORTS_ANNOTATION;
use coracle_ingress::config::{Applied, Certificate, Config, Update};
use coracle_ingress::table::{Complaint, Table};
use coracle_sandbox::Client;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use crate::events::Recorder;
use crate::host::{self, HostCommand};
use crate::hosts::folders;
use crate::objects::{Kind, Objects, References};
use crate::services::Services;

/// How often it is seen whether the process is there.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two sweeps of Secrets.
const SWEEP: u32 = 5;
/// Looks without an Ingress until the process is ended.
const QUIET: u32 = 30;
/// Pause between two updates: what comes in between is told together.
const PAUSE: Duration = Duration::from_millis(10);

/// How this node serves Ingresses.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program: the agent's own.
    pub program: PathBuf,
    /// The process's socket.
    pub socket: PathBuf,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where HTTPS is served.
    pub https: SocketAddr,
    /// Folder of its access log.
    pub logs: PathBuf,
    /// File of its own log.
    pub log: PathBuf,
    /// The namespace of this machine's Wasm Pods, if they have one.
    pub netns: Option<PathBuf>,
    /// The user that it becomes, where it can be one of its own.
    pub user: Option<u32>,
    /// Proxies whose `X-Forwarded-*` are believed.
    pub trusted: BTreeSet<(IpAddr, u8)>,
    /// Whether Ingresses are served at all.
    pub enabled: bool,
}

impl Settings {
    /// `sockets` are those of an older process, for HTTP and HTTPS.
    fn command(&self, sockets: Option<[OwnedFd; 2]>) -> HostCommand {
        let mut args: Vec<OsString> = vec!["host".into(), "ingress".into()];
        let mut add = |name: &str, value: OsString| args.extend([name.into(), value]);
        add("--socket", self.socket.clone().into());
        add("--http", self.http.to_string().into());
        add("--https", self.https.to_string().into());
        add("--logs", self.logs.clone().into());
        if let Some(netns) = &self.netns {
            add("--netns", netns.into());
        }
        if let Some(user) = self.user {
            add("--user", user.to_string().into());
        }
        if let Some([http, https]) = &sockets {
            add("--http-socket", http.as_raw_fd().to_string().into());
            add("--https-socket", https.as_raw_fd().to_string().into());
        }
        let shares = sockets.into_iter().flatten().collect();
        HostCommand { program: self.program.clone(), args, log: self.log.clone(), shares }
    }
}

/// What the agent has for it.
pub struct Parts {
    /// The API.
    pub client: kube::Client,
    /// This node.
    pub node: String,
    /// Services and their endpoints.
    pub services: Services,
    /// Who writes events.
    pub recorder: Recorder,
    /// The doors of the process's cgroups, opened when it starts.
    pub doors: Box<dyn Fn() -> Vec<File> + Send + Sync>,
}

/// The process's metrics; empty where there is none.
pub async fn metrics(socket: PathBuf) -> String {
    Client::new(socket).metrics().await.unwrap_or_else(|_| "# EOF\n".to_owned())
}

/// Ends the process.
pub async fn end(settings: &Settings) {
    host::end(&Client::new(settings.socket.clone())).await;
    older::end(&older::aside(&settings.socket)).await;
}

enum Item {
    Class(watcher::Event<IngressClass>),
    Ingress(watcher::Event<Ingress>),
}

/// A Secret, by namespace and name.
type Name = (String, String);
/// What was found for it: its certificate, or why there is none.
type Certified = Result<Arc<Certificate>, String>;

struct Follower {
    settings: Settings,
    parts: Parts,
    process: Client,
    table: Table,
    classes: BTreeMap<String, IngressClass>,
    classes_listed: bool,
    ingresses_listed: bool,
    /// There was an Ingress, of whatever class.
    any: bool,
    objects: Objects,
    /// Those that the table names; none while they are looked for.
    secrets: BTreeMap<Name, Option<Certified>>,
    found: mpsc::UnboundedSender<(Name, Certified)>,
    told: Config,
    /// 0 if the process may know something else than `told`.
    generation: u64,
    complaints: HashSet<Complaint>,
    running: bool,
    /// It is of another program than the agent, and that was not tried to be changed.
    outdated: bool,
    /// Its sockets were given to another, which was not told everything yet.
    succeeded: bool,
    announced: Option<String>,
    quiet: u32,
}

/// Serves Ingresses, for ever.
pub async fn follow(settings: Settings, parts: Parts) {
    older::recover(&settings.socket).await;
    let process = Client::new(settings.socket.clone());
    let known = process.info().await.ok();
    let outdated = match &known {
        Some(info) => host::is_other_program(info.pid).await,
        None => false,
    };
    let (found, mut results) = mpsc::unbounded_channel();
    let mut news = parts.services.news();
    let (objects, client) = (Objects::new(parts.client.clone()), parts.client.clone());
    let mut it = Follower {
        running: known.is_some(),
        outdated,
        succeeded: false,
        settings,
        parts,
        process,
        table: Table::default(),
        classes: BTreeMap::new(),
        classes_listed: false,
        ingresses_listed: false,
        any: false,
        objects: objects.clone(),
        secrets: BTreeMap::new(),
        found,
        told: Config::default(),
        generation: 0,
        complaints: HashSet::new(),
        announced: None,
        quiet: 0,
    };
    let config = watcher::Config::default();
    let classes: Api<IngressClass> = Api::all(client.clone());
    let mut classes = watcher(classes, config.clone()).map_ok(Item::Class).map_err(drop).boxed();
    let ingresses: Api<Ingress> = Api::all(client);
    let mut ingresses = watcher(ingresses, config).map_ok(Item::Ingress).map_err(drop).boxed();
    let (mut some_classes, mut some_ingresses) = (Vec::new(), HashSet::new());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0u32;
    loop {
        let item = tokio::select! {
            // There may be thousands of nodes: without an Ingress they need not know of classes.
            Some(item) = classes.next(), if it.any => Some(item),
            Some(item) = ingresses.next() => Some(item),
            Some((name, certified)) = results.recv() => {
                it.found(name, certified);
                None
            }
            changed = objects.changed() => {
                it.changed(changed.into_iter().filter(|(key, _)| key.kind == Kind::Secret).map(|(key, _)| (key.namespace, key.name)));
                None
            }
            _ = news.changed() => None,
            // A node without an Ingress is not woken.
            _ = look.tick(), if it.running || !it.table.is_empty() => {
                looks += 1;
                it.look(looks).await;
                None
            }
        };
        match item {
            Some(Ok(Item::Class(event))) => it.class(event, &mut some_classes),
            Some(Ok(Item::Ingress(event))) => it.ingress(event, &mut some_ingresses),
            // The server is away; the watcher tries again by itself.
            Some(Err(())) => tokio::time::sleep(Duration::from_millis(200)).await,
            None => {}
        }
        it.apply().await;
    }
}

impl Follower {
    fn class(&mut self, event: watcher::Event<IngressClass>, seen: &mut Vec<IngressClass>) {
        match event {
            watcher::Event::Init => return seen.clear(),
            watcher::Event::InitApply(class) => return seen.push(class),
            watcher::Event::InitDone => {
                self.classes = seen.drain(..).map(|class| (class.name_any(), class)).collect();
                self.classes_listed = true;
            }
            watcher::Event::Apply(class) => drop(self.classes.insert(class.name_any(), class)),
            watcher::Event::Delete(class) => drop(self.classes.remove(&class.name_any())),
        }
        self.table.classes(self.classes.values());
    }

    fn ingress(&mut self, event: watcher::Event<Ingress>, seen: &mut HashSet<Name>) {
        match event {
            watcher::Event::Init => seen.clear(),
            watcher::Event::InitApply(ingress) => {
                self.any = true;
                seen.insert((ingress.namespace().unwrap_or_default(), ingress.name_any()));
                self.table.put(Arc::new(ingress));
            }
            watcher::Event::InitDone => {
                self.table.retain(seen);
                self.ingresses_listed = true;
            }
            watcher::Event::Apply(ingress) => {
                self.any = true;
                self.table.put(Arc::new(ingress));
            }
            watcher::Event::Delete(ingress) => {
                self.table.remove(&ingress.namespace().unwrap_or_default(), &ingress.name_any());
            }
        }
    }

    /// Looks for a Secret; the answer comes by itself.
    fn find(&self, name: Name) {
        let (objects, found) = (self.objects.clone(), self.found.clone());
        tokio::spawn(async move {
            let wanted = References { secrets: [name.1.clone()].into(), ..References::default() };
            let sources = objects.sources(&holder(&name), &name.0, &wanted).await;
            let certified = sources.and_then(|sources| {
                let secret = sources.secrets.get(&name.1);
                secret.ok_or_else(|| "it does not exist".to_owned()).and_then(certificate)
            });
            let _ = found.send((name, certified));
        });
    }

    fn found(&mut self, name: Name, certified: Certified) {
        if let Some(known) = self.secrets.get_mut(&name) {
            *known = Some(certified);
        }
    }

    fn changed(&mut self, names: impl Iterator<Item = Name>) {
        for name in names.filter(|name| self.secrets.contains_key(name)) {
            self.find(name);
        }
    }

    /// Follows the Secrets that the table names, and no others.
    fn follow_secrets(&mut self) {
        let owned =
            |(namespace, name): &(&str, &str)| ((*namespace).to_owned(), (*name).to_owned());
        let wanted: BTreeSet<Name> = self.table.secrets().iter().map(owned).collect();
        let gone: Vec<Name> =
            self.secrets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in gone {
            self.objects.forget(&holder(&name));
            self.secrets.remove(&name);
        }
        for name in wanted {
            if !self.secrets.contains_key(&name) {
                self.find(name.clone());
                self.secrets.insert(name, None);
            }
        }
    }

    /// Everything that the process has to know; none while something is being looked for.
    fn wanted(&self) -> Option<Config> {
        let mut config = Config { hosts: self.table.hosts().clone(), ..Config::default() };
        for wanted in self.table.backends() {
            let backend = self.parts.services.backend(wanted)?;
            config.backends.insert(wanted.name(), Arc::new(backend));
        }
        for ((namespace, name), certified) in &self.secrets {
            if let Ok(certificate) = certified.as_ref()? {
                config.certificates.insert(format!("{namespace}/{name}"), certificate.clone());
            }
        }
        Some(config)
    }

    /// Whether the table is what it should be.
    fn knows_all(&self) -> bool {
        self.ingresses_listed && (self.classes_listed || !self.any)
    }

    /// Tells the process what is different, and people what cannot be had.
    async fn apply(&mut self) {
        if !self.knows_all() {
            return;
        }
        self.follow_secrets();
        if self.table.is_empty() && !self.running {
            return self.complain();
        }
        let Some(wanted) = self.wanted() else { return };
        self.complain();
        if !self.running && !self.start().await {
            return;
        }
        if self.outdated {
            self.succeed().await;
        }
        let mut update = wanted.since(&self.told);
        if self.generation != 0 && update.is_empty() {
            return;
        }
        if self.generation == 0 {
            update = wanted.since(&Config::default());
        }
        update.base = self.generation;
        // Unlike what any earlier agent said.
        let now = Timestamp::now().as_microsecond().unsigned_abs();
        update.generation = now.max(self.generation + 1);
        update.trusted = self.settings.trusted.clone();
        let asked = update.generation;
        match self.put(&update).await {
            Some(applied) if applied.generation == asked => {
                self.generation = asked;
                self.told = wanted;
                if std::mem::take(&mut self.succeeded) {
                    older::end(&older::aside(&self.settings.socket)).await;
                }
                self.announce(&applied).await;
                tokio::time::sleep(PAUSE).await;
            }
            // It was started anew, or is not there: told everything at the next look.
            _ => self.generation = 0,
        }
    }

    async fn put(&self, update: &Update) -> Option<Applied> {
        let told = self.process.put("/v1/config", update).await;
        told.inspect_err(|error| tracing::warn!(%error, "Ingresses are not up to date")).ok()
    }

    /// Puts a process of this program into the place of an older one's, which ends once the new one was told everything.
    async fn succeed(&mut self) {
        self.outdated = false;
        match self.start_successor().await {
            Ok(()) => {
                tracing::info!("a process of this program takes over the Ingresses' sockets");
                (self.succeeded, self.generation) = (true, 0);
            }
            Err(error) => {
                let message = format!(
                    "Ingresses are served by a process of an older program than the node's agent, and go on so: {error}. To have the new one, end that process, `coracle host ingress`; what it is serving then is lost"
                );
                tracing::warn!("{message}");
                self.parts.recorder.node(&self.parts.node, true, "OlderIngress", message);
            }
        }
    }

    async fn start_successor(&mut self) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let info = self.process.info().await.map_err(|error| told(&error))?;
        // A difference to what nobody has: it changes nothing.
        let nothing = Update { base: u64::MAX, ..Update::default() };
        let at: Applied =
            self.process.put("/v1/config", &nothing).await.map_err(|error| told(&error))?;
        let Settings { http, https, socket, .. } = &self.settings;
        for (wanted, there) in [(http.port(), at.http), (https.port(), at.https)] {
            if wanted != 0 && wanted != there {
                return Err(format!("it listens on port {there}, which is to be {wanted} now"));
            }
        }
        let sockets =
            older::sockets(info.pid, [at.http, at.https]).map_err(|error| told(&error))?;
        let aside = older::aside(socket);
        std::fs::rename(socket, &aside).map_err(|error| told(&error))?;
        // Connections that were kept lead to the older one.
        self.process = Client::new(socket.clone());
        let (doors, command) = ((self.parts.doors)(), self.settings.command(Some(sockets)));
        let Err(error) = host::ensure(&self.process, &command, doors).await else { return Ok(()) };
        std::fs::rename(&aside, socket).map_err(|error| told(&error))?;
        self.process = Client::new(socket.clone());
        Err(told(&error))
    }

    /// Starts the process; whether it is there.
    async fn start(&mut self) -> bool {
        self.generation = 0;
        if std::mem::take(&mut self.succeeded) {
            // The new one did not live to take over: the older one is still there.
            older::recover(&self.settings.socket).await;
            self.process = Client::new(self.settings.socket.clone());
        }
        if let Err(error) =
            folders::closed(&self.settings.logs, self.settings.user, self.settings.user)
        {
            tracing::warn!(%error, "the folder of Ingresses' access log cannot be made");
        }
        let doors = (self.parts.doors)();
        match host::ensure(&self.process, &self.settings.command(None), doors).await {
            Ok(_) => {
                self.running = true;
                self.quiet = 0;
            }
            Err(error) => {
                tracing::error!(%error, "Ingresses are not served on this node");
                let message = format!("Ingresses are not served: {error}");
                self.parts.recorder.node(&self.parts.node, true, "IngressFailed", message);
            }
        }
        self.running
    }

    /// Once a second: whether the process is there, and is needed.
    async fn look(&mut self, looks: u32) {
        if looks.is_multiple_of(SWEEP) {
            self.objects.sweep().await;
        }
        if self.running && self.process.info().await.is_err() {
            tracing::warn!("the process that serves Ingresses is gone");
            self.running = false;
        }
        self.quiet = if self.knows_all() && self.table.is_empty() { self.quiet + 1 } else { 0 };
        if self.running && self.quiet >= QUIET {
            end(&self.settings).await;
            (self.running, self.generation) = (false, 0);
            self.tell_node(None).await;
        }
    }

    /// Says on the Node where Ingresses are served.
    async fn announce(&mut self, applied: &Applied) {
        self.tell_node(Some(format!("{},{}", applied.http, applied.https))).await;
    }

    async fn tell_node(&mut self, ports: Option<String>) {
        if self.announced == ports {
            return;
        }
        let nodes: Api<Node> = Api::all(self.parts.client.clone());
        let patch = json!({"metadata": {"annotations": {INGRESS_PORTS_ANNOTATION: ports}}});
        match nodes.patch(&self.parts.node, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => self.announced = ports,
            Err(error) => {
                tracing::warn!(%error, "the Node does not tell where Ingresses are served")
            }
        }
    }

    /// Tells people once of each thing that an Ingress wants and does not get.
    fn complain(&mut self) {
        let mut all: HashSet<Complaint> = self.table.complaints().into_iter().collect();
        for ((namespace, name), certified) in &self.secrets {
            if let Some(Err(why)) = certified {
                let message =
                    format!("Secret \"{name}\" gives no certificate, another is served: {why}");
                all.extend(self.table.users((namespace, name), &message));
            }
        }
        for new in all.difference(&self.complaints) {
            let about = (new.namespace.clone(), new.name.clone(), new.uid.clone());
            self.parts.recorder.ingress(about, "IngressProblem", new.message.clone());
        }
        self.complaints = all;
    }
}

fn holder((namespace, name): &Name) -> String {
    format!("{namespace}/{name}")
}

fn certificate(secret: &Arc<Secret>) -> Certified {
    let text = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let data = data.ok_or_else(|| format!("it has no {key}"))?;
        String::from_utf8(data.0.clone()).map_err(|_| format!("its {key} is no text"))
    };
    let certificate = Certificate { chain: text("tls.crt")?, key: text("tls.key")? };
    coracle_ingress::check_certificate(&certificate.chain, &certificate.key)?;
    Ok(Arc::new(certificate))
}

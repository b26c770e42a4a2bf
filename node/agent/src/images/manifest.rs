//! Manifests: what a registry says an image is made of, and what this node can make of it.
//!
//! Pure. An index names manifests by platform and one is [`pick`]ed; a manifest is [`classify`]ed: an artifact whose layer
//! is the component itself, or an ordinary image in whose layers a `.wasm` file lies. Whatever a registry serves is taken
//! for hostile: sizes, counts and digests are checked before anything is fetched by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reference::is_sha256;

/// An OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker image manifest, which reads the same.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list, which reads like an index.
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What is asked for.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Config of a CNCF Wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Layer of a CNCF Wasm artifact.
pub const WASM_LAYER: &str = "application/wasm";

/// Largest manifest that is read, in bytes.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Largest image configuration that is read, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;
/// Largest Wasm file, in bytes.
pub const MAX_WASM: u64 = 512 << 20;
/// Largest layer that is fetched, in bytes.
const MAX_LAYER: u64 = 2 << 30;
/// Most layers of an image.
const MAX_LAYERS: usize = 512;
/// Most values of a list in an image's configuration.
const MAX_WORDS: usize = 4096;
/// Longest of them, in bytes: the kernel's limit on one argument.
const MAX_WORD: usize = 128 << 10;

/// Media types under which a Wasm component travels as a layer.
const WASM_LAYERS: &[&str] = &[
    WASM_LAYER,
    // Spin, and wasm-to-oci before it.
    "application/vnd.wasm.content.layer.v1+wasm",
    // runwasi.
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    // Older: core modules.
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
/// Config of a Spin application.
const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";
/// Configs that say how to run an image.
const IMAGE_CONFIGS: &[&str] =
    &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Marks ordinary images whose entrypoint is Wasm (crun, WasmEdge).
const COMPAT: &str = "module.wasm.image/variant";

/// A manifest or an index.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default)]
    pub media_type: String,
    /// The image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    /// The content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    /// Of an index: what it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
    /// For people and programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A reference to content by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For people and programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Whether an index says that its entrypoint is Wasm.
    pub fn is_compat(&self) -> bool {
        self.annotations.as_ref().is_some_and(|all| all.contains_key(COMPAT))
    }
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// `wasm`, `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `wasip2`, `wasi`, `linux`, …
    #[serde(default)]
    pub os: String,
    /// Of the architecture: `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An image's configuration, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ImageConfig {
    /// As in [`Platform`].
    #[serde(default)]
    pub architecture: String,
    /// As in [`Platform`].
    #[serde(default)]
    pub os: String,
    /// As in [`Platform`].
    #[serde(default)]
    pub variant: String,
    /// How to run it.
    #[serde(default)]
    pub config: Option<ConfigSection>,
    /// What the layers unpack to.
    #[serde(default)]
    pub rootfs: Option<RootFs>,
}

/// How an image says that it is run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigSection {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Digests of the layers as they unpack.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// In the layers' order.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// How an image is run unless the Pod says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `ENTRYPOINT`: overridden by `command`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `CMD`: overridden by `args`, and dropped by `command`.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Environment, overridden name by name.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Where it starts.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// As whom: `user`, `uid`, `user:group` or `uid:gid`, names being those of the image. Containers only.
    #[serde(default)]
    pub user: Option<String>,
    /// Signal that asks for the end: a name or a number. Containers only.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Folders that are to be volumes, by their paths in the image. Containers only.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// For people and programs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Run {
    /// Takes an image's own words over, within limits.
    ///
    /// # Errors
    /// [`Unfit::Limit`] names the field that is over one; [`Unfit::Unreadable`] one that no program can be given.
    pub fn read(section: ConfigSection) -> Result<Self, Unfit> {
        let env = section.env.unwrap_or_default().into_iter();
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        let run = Self {
            entrypoint: section.entrypoint.unwrap_or_default(),
            cmd: section.cmd.unwrap_or_default(),
            env: env.filter_map(|e| e.split_once('=').map(|(k, v)| (k.into(), v.into()))).collect(),
            working_dir: set(section.working_dir),
            user: set(section.user),
            stop_signal: set(section.stop_signal),
            volumes: section.volumes.unwrap_or_default().into_keys().collect(),
            labels: section.labels.unwrap_or_default(),
        };
        run.check()?;
        Ok(run)
    }

    fn check(&self) -> Result<(), Unfit> {
        let counts = [
            ("Entrypoint", self.entrypoint.len()),
            ("Cmd", self.cmd.len()),
            ("Env", self.env.len()),
            ("Volumes", self.volumes.len()),
            ("Labels", self.labels.len()),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count > MAX_WORDS) {
            let why = format!("its configuration has more than {MAX_WORDS} values in {field}");
            return Err(Unfit::Limit(why));
        }
        let env = self.env.iter().flat_map(|(name, value)| [("Env", name), ("Env", value)]);
        let words = (self.entrypoint.iter().map(|w| ("Entrypoint", w)))
            .chain(self.cmd.iter().map(|w| ("Cmd", w)))
            .chain(env)
            .chain(self.working_dir.iter().map(|w| ("WorkingDir", w)))
            .chain(self.user.iter().map(|w| ("User", w)))
            .chain(self.stop_signal.iter().map(|w| ("StopSignal", w)))
            .chain(self.volumes.iter().map(|w| ("Volumes", w)));
        for (field, word) in words {
            if word.len() > MAX_WORD {
                let why = format!(
                    "its configuration has a value of more than {MAX_WORD} bytes in {field}"
                );
                return Err(Unfit::Limit(why));
            }
            if word.contains('\0') {
                let why = format!("its configuration has a zero byte in {field}");
                return Err(Unfit::Unreadable(why));
            }
        }
        Ok(())
    }
}

/// What an image holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The component itself is a layer.
    Artifact {
        /// That layer.
        component: Descriptor,
        /// How to run it, where the image has such a configuration.
        config: Option<Descriptor>,
    },
    /// A root filesystem.
    Image {
        /// How to run it.
        config: Descriptor,
        /// Lowest first.
        layers: Vec<Descriptor>,
        /// It says that its entrypoint is Wasm, whatever its name.
        compat: bool,
    },
}

/// Why an image is of no use to this node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// Not a manifest.
    #[error("its manifest is not readable: {0}")]
    Unreadable(String),
    /// Over a limit.
    #[error("{0}")]
    Limit(String),
    /// Not made for this kind of machine.
    #[error("no match for platform in manifest: it is for {found}, and this node takes wasi/wasm and linux/{arch}", arch = host_architecture())]
    Platform {
        /// What it is made for.
        found: String,
    },
    /// Holds something else.
    #[error(
        "it holds neither a Wasm component nor files of a container: its layers are of type {found}"
    )]
    NoWasm {
        /// Media types that it has.
        found: String,
    },
    /// Holds more than one component.
    #[error(
        "it holds {count} Wasm components; a container runs one: push each as an image of its own"
    )]
    Several {
        /// How many.
        count: usize,
    },
    /// A Spin application with files.
    #[error(
        "it is a Spin application with files beside its component (layers of type {found}), which this node does not mount: put them into the component or into a volume"
    )]
    Assets {
        /// Media types that it has.
        found: String,
    },
}

/// Go's name of this machine's architecture.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// Variants of this machine's architecture that it runs, the best first. An empty one is the oldest.
fn host_variants() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => match amd64_level() {
            4.. => &["v4", "v3", "v2", "v1", ""],
            3 => &["v3", "v2", "v1", ""],
            2 => &["v2", "v1", ""],
            _ => &["v1", ""],
        },
        "aarch64" => &["v8", "8", ""],
        "arm" => &["v7", "7", "v6", "6", "v5", "5", ""],
        _ => &[""],
    }
}

/// The microarchitecture level of the x86-64 psABI.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt")) {
        return 1;
    }
    let third = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c");
    if !(third && has!("fma") && has!("lzcnt") && has!("movbe")) {
        return 2;
    }
    let fourth = has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    if fourth && has!("avx512dq") && has!("avx512vl") { 4 } else { 3 }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u8 {
    1
}

impl Platform {
    /// How well this machine's processor runs it, 0 being best; `None` if it cannot.
    pub fn rank(&self) -> Option<usize> {
        if self.os != "linux" || self.architecture != host_architecture() {
            return None;
        }
        host_variants().iter().position(|variant| *variant == self.variant)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl Manifest {
    /// Reads a manifest or an index.
    pub fn read(bytes: &[u8]) -> Result<Self, Unfit> {
        if bytes.len() > MAX_MANIFEST {
            return Err(Unfit::Limit(format!("its manifest is over {MAX_MANIFEST} bytes")));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Unfit::Unreadable(e.to_string()))?;
        if manifest.schema_version != 2 {
            let why = format!("schemaVersion is {}; only 2 is known", manifest.schema_version);
            return Err(Unfit::Unreadable(why));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(Unfit::Limit(format!("it has more than {MAX_LAYERS} layers")));
        }
        let all = manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests);
        if let Some(bad) = all.clone().find(|d| !is_sha256(&d.digest)) {
            return Err(Unfit::Unreadable(format!("\"{}\" is no sha256 digest", bad.digest)));
        }
        if let Some(large) = manifest.layers.iter().find(|d| d.size > MAX_LAYER) {
            let why = format!("its layer {} has more than {MAX_LAYER} bytes", large.digest);
            return Err(Unfit::Limit(why));
        }
        if manifest.config.as_ref().is_some_and(|config| config.size > MAX_CONFIG) {
            return Err(Unfit::Limit(format!("its configuration is over {MAX_CONFIG} bytes")));
        }
        Ok(manifest)
    }

    /// Whether it names manifests, not content.
    pub fn is_index(&self) -> bool {
        match self.media_type.as_str() {
            INDEX | DOCKER_INDEX => true,
            MANIFEST | DOCKER_MANIFEST => false,
            _ => self.config.is_none() && !self.manifests.is_empty(),
        }
    }

    fn is_compat(&self) -> bool {
        self.annotations.as_ref().is_some_and(|all| all.contains_key(COMPAT))
    }
}

/// The manifest of an index that suits this node best: made for WASI, the newest first, else for this machine.
pub fn pick(index: &Manifest) -> Result<&Descriptor, Unfit> {
    let rank = |d: &Descriptor| {
        let platform = d.platform.clone().unwrap_or_default();
        let wasm = platform.architecture.starts_with("wasm");
        match platform.os.as_str() {
            "wasip3" if wasm => Some((0, 0)),
            "wasip2" if wasm => Some((1, 0)),
            "wasi" | "wasip1" if wasm => Some((2, 0)),
            _ if d.is_compat() => Some((3, 0)),
            // Some builders know no WASI and leave the system out or say linux.
            _ if wasm => Some((4, 0)),
            "" if d.platform.is_none() => Some((6, 0)),
            _ => platform.rank().map(|rank| (5, rank)),
        }
    };
    let best = index.manifests.iter().filter_map(|d| Some((rank(d)?, d))).min_by_key(|(r, _)| *r);
    best.map(|(_, descriptor)| descriptor).ok_or_else(|| {
        let platforms = index.manifests.iter().filter_map(|d| d.platform.as_ref());
        // What says how an image was made (attestations) is for no machine.
        let known = platforms.filter(|p| p.os != "unknown").take(16);
        let mut found: Vec<String> = known.map(Platform::to_string).collect();
        found.dedup();
        Unfit::Platform {
            found: if found.is_empty() { "nothing".into() } else { found.join(", ") },
        }
    })
}

/// What a manifest's content is. `compat`: the index said that it is Wasm.
pub fn classify(manifest: &Manifest, compat: bool) -> Result<Content, Unfit> {
    let types = || {
        let mut types: Vec<&str> = manifest.layers.iter().map(|l| l.media_type.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        types.truncate(8);
        types.join(", ")
    };
    let is_wasm = |d: &&Descriptor| WASM_LAYERS.contains(&d.media_type.as_str());
    let components: Vec<&Descriptor> = manifest.layers.iter().filter(is_wasm).collect();
    let config = manifest.config.as_ref();
    let is_image = config.is_some_and(|c| IMAGE_CONFIGS.contains(&c.media_type.as_str()));
    match components.as_slice() {
        [component] => {
            if component.size > MAX_WASM {
                return Err(Unfit::Limit(format!(
                    "its Wasm layer of {} bytes is over the limit of {MAX_WASM}",
                    component.size
                )));
            }
            if config.is_some_and(|c| c.media_type == SPIN_CONFIG) && manifest.layers.len() > 1 {
                return Err(Unfit::Assets { found: types() });
            }
            Ok(Content::Artifact {
                component: (*component).clone(),
                config: config.filter(|_| is_image).cloned(),
            })
        }
        [] => match config {
            Some(config)
                if is_image
                    && !manifest.layers.is_empty()
                    && manifest.layers.iter().all(|l| Packing::of(&l.media_type).is_some()) =>
            {
                Ok(Content::Image {
                    config: config.clone(),
                    layers: manifest.layers.clone(),
                    compat: compat || manifest.is_compat(),
                })
            }
            _ => Err(Unfit::NoWasm {
                found: if types().is_empty() { "none".into() } else { types() },
            }),
        },
        several => Err(Unfit::Several { count: several.len() }),
    }
}

/// How a layer of files is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `tar`.
    Plain,
    /// `tar+gzip`.
    Gzip,
    /// `tar+zstd`.
    Zstd,
}

impl Packing {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "tar",
            Self::Gzip => "tar+gzip",
            Self::Zstd => "tar+zstd",
        }
    }

    /// By that word.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Plain, Self::Gzip, Self::Zstd].into_iter().find(|packing| packing.name() == name)
    }

    /// By media type; `None` if it is no layer of files.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(Self::Plain),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// First words of what a container gives: which file of an ordinary image is run can follow from them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a> {
    /// Of `command`.
    pub command: Option<&'a str>,
    /// Of `args`.
    pub argument: Option<&'a str>,
}

/// Which Wasm file of an ordinary image is run: the container's words first, then the image's own. `None` if it is no
/// Wasm by all that the image says: then the image is a root filesystem, of a container.
///
/// # Errors
/// When nothing says what to run, or an image that says it is Wasm is to run something else.
pub fn program(
    config: &ImageConfig,
    run: &Run,
    compat: bool,
    words: Words<'_>,
) -> Result<Option<String>, String> {
    let Words { command, argument } = words;
    let entrypoint = run.entrypoint.first().map(String::as_str);
    let word = command.or(entrypoint).or(argument).or(run.cmd.first().map(String::as_str));
    let wasm = config.architecture.starts_with("wasm") || config.os.starts_with("wasi");
    let Some(word) = word.filter(|w| !w.is_empty()) else {
        return Err(
            "no command specified: it names no entrypoint; give the container a command".to_owned()
        );
    };
    let named = word.ends_with(".wasm") || word.ends_with(".wat");
    if !named && (command.is_some() || !(wasm || compat)) {
        if wasm {
            return Err(format!(
                "it is for {}/{}, and the container's command \"{word}\" is no .wasm file",
                config.os, config.architecture
            ));
        }
        return Ok(None);
    }
    if word.starts_with('/') {
        return Ok(Some(word.to_owned()));
    }
    let dir = run.working_dir.as_deref().unwrap_or("/");
    Ok(Some(format!("{}/{word}", dir.trim_end_matches('/'))))
}

#[cfg(test)]
mod tests;

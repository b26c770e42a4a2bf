//! A definition as a server uses it, read from its object.

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::{self, Column};
use super::identity::kinds_by_version;
use super::json_path::JsonPath;
use super::structure::Structure;
use crate::json::Json;
use crate::kinds::Kind;
use crate::object::Object;
use crate::schema::{Schema, Schemas};
use crate::status::FieldError;

/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// One CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `crontabs.stable.example.com`: its name, and [`Kind::resource`] of its kinds.
    pub name: String,
    /// UID of its object, and generation: what its versions were compiled from.
    source: (String, i64),
    /// In the order in which discovery lists them: by how mature their names say they are.
    pub versions: Arc<[Version]>,
    /// Names accepted, so that it is served.
    pub established: bool,
    /// It is being deleted with all its objects: nothing new is created.
    pub terminating: bool,
    /// Of its names, those accepted.
    pub short_names: Arc<[String]>,
    /// As given.
    pub categories: Arc<[String]>,
    /// How objects come from one version to another.
    pub conversion: Arc<Conversion>,
}

/// One version of a definition.
#[derive(Debug)]
pub struct Version {
    /// The kind in this version.
    pub kind: &'static Kind,
    /// `CronTabList`
    pub list_kind: String,
    /// Clients may use it.
    pub served: bool,
    /// Objects are stored in it.
    pub storage: bool,
    /// What writers and readers are warned of.
    pub warning: Option<String>,
    /// Its schema.
    pub structure: Structure,
    /// Where replicas stand, if it has `/scale`.
    pub scale: Option<Scale>,
    /// Paths of fields that field selectors may name, such as `spec.color`.
    pub selectable: Vec<String>,
    schemas: Schemas,
    columns: Vec<Column>,
}

/// Where `/scale` finds and puts its numbers.
#[derive(Debug)]
pub struct Scale {
    /// `spec.replicas`, as names.
    pub spec: Vec<String>,
    /// `status.replicas`
    pub status: Vec<String>,
    /// Where the label selector's text is.
    pub selector: Option<Vec<String>>,
}

/// How objects come from one version to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook is asked.
    Webhook(Webhook),
}

/// `spec.conversion.webhook`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where it is, unless it is a Service.
    pub url: Option<String>,
    /// The Service it is.
    pub service: Option<Service>,
    /// Certificates, in PEM, of whom it is known by.
    pub ca_bundle: Vec<u8>,
    /// Versions of ConversionReview that it takes, by preference.
    pub review_versions: Vec<String>,
}

/// A Service that serves a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// The path of the webhook.
    pub path: String,
}

impl Definition {
    /// Reads a definition; what `known` has compiled is taken over where nothing changed.
    ///
    /// # Errors
    /// A schema that cannot be compiled, which validation has refused unless an older server stored it.
    pub fn read(object: &Object, known: Option<&Definition>) -> Result<Self, String> {
        let tree = object.value();
        let source = (object.meta.uid.clone(), object.meta.generation);
        let condition = |name: &str| {
            let conditions = tree.list(&["status", "conditions"]).iter();
            conditions.filter(|c| c.text(&["type"]) == name).any(|c| c.text(&["status"]) == "True")
        };
        let texts = |path: &[&str]| -> Arc<[String]> {
            tree.list(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (versions, conversion) = match known.filter(|known| known.source == source) {
            Some(known) => (known.versions.clone(), known.conversion.clone()),
            None => {
                let list_kind = tree.text(&["spec", "names", "listKind"]);
                let mut versions = kinds_by_version(&tree)
                    .map(|(version, kind)| Version::read(version, kind, list_kind))
                    .collect::<Result<Vec<_>, _>>()?;
                versions.sort_by(|a, b| Self::by_maturity(a.kind.version, b.kind.version));
                (versions.into(), Arc::new(Conversion::read(&tree)))
            }
        };
        Ok(Self {
            name: object.meta.name.clone(),
            source,
            versions,
            established: condition("Established"),
            terminating: object.is_deleting(),
            short_names: texts(&["status", "acceptedNames", "shortNames"]),
            categories: texts(&["status", "acceptedNames", "categories"]),
            conversion,
        })
    }

    /// The order of versions: `v10`, `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then the rest by the alphabet
    /// (`apimachinery/pkg/version/helpers.go`).
    pub fn by_maturity(one: &str, other: &str) -> Ordering {
        match (maturity(one), maturity(other)) {
            (Some(one), Some(other)) => other.cmp(&one),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => one.cmp(other),
        }
    }

    /// One of its versions.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.kind.version == name)
    }

    /// The version that clients use by that name.
    pub fn served(&self, name: &str) -> Option<&Version> {
        self.version(name).filter(|version| version.served && self.established)
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> Option<&Version> {
        self.versions.iter().find(|version| version.storage)
    }
}

impl Version {
    fn read(version: &Value, kind: &'static Kind, list_kind: &str) -> Result<Self, String> {
        let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let schema = version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&free);
        let structure = Structure::compile(schema)?;
        let schemas = Schemas::of_structure(kind, list_kind, &structure, schema);
        let scale = version.at(&["subresources", "scale"]).map(Scale::read);
        let warning = version.flag(&["deprecated"]).then(|| {
            let own = version.text(&["deprecationWarning"]);
            match own.is_empty() {
                true => format!("{} {} is deprecated", kind.api_version(), kind.kind),
                false => own.to_owned(),
            }
        });
        let selectable = version
            .list(&["selectableFields"])
            .iter()
            .map(|field| field.text(&["jsonPath"]).trim_start_matches('.').to_owned());
        Ok(Self {
            kind,
            list_kind: list_kind.to_owned(),
            served: version.flag(&["served"]),
            storage: version.flag(&["storage"]),
            warning,
            structure,
            scale,
            selectable: selectable.collect(),
            schemas,
            columns: Column::of_version(version),
        })
    }

    /// Checks a whole object of this version, with its defaults filled in; `old` is what it replaces.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.structure.validate(new, old)
    }

    /// The kind as server-side apply, patches and OpenAPI see it.
    pub fn schema(&self) -> Option<Schema<'_>> {
        self.schemas.by_gvk(self.kind.group, self.kind.version, self.kind.kind)
    }

    /// `columnDefinitions` of a Table.
    pub fn column_definitions(&self) -> Value {
        columns::definitions(&self.columns)
    }

    /// The cells of an object's row, which is of this version.
    pub fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        columns::cells(&self.columns, object, now)
    }
}

impl Scale {
    /// What the object of a definition says of the version that is stored.
    pub fn of(definition: &Object) -> Option<Self> {
        let tree = definition.value();
        let mut versions = tree.list(&["spec", "versions"]).iter();
        let stored = versions.find(|version| version.flag(&["storage"]))?;
        stored.at(&["subresources", "scale"]).map(Self::read)
    }

    /// How many replicas an object declares.
    pub fn replicas(&self, object: &Value) -> i64 {
        at(object, &self.spec).and_then(Value::as_i64).unwrap_or(0)
    }

    /// The text of the selector of its Pods, if it has one.
    pub fn selector<'v>(&self, object: &'v Value) -> Option<&'v str> {
        at(object, self.selector.as_deref()?)?.as_str().filter(|text| !text.is_empty())
    }

    /// The merge patch that declares so many replicas.
    pub fn resize(&self, replicas: i64) -> Value {
        let names = self.spec.iter().rev();
        names.fold(replicas.into(), |inner, name| {
            Value::Object([(name.clone(), inner)].into_iter().collect())
        })
    }

    fn read(scale: &Value) -> Self {
        let path = |name: &str| {
            let path = JsonPath::parse(scale.text(&[name])).ok()?;
            let fields = path.fields()?;
            (!fields.is_empty()).then(|| fields.into_iter().map(str::to_owned).collect())
        };
        Self {
            spec: path("specReplicasPath").unwrap_or_default(),
            status: path("statusReplicasPath").unwrap_or_default(),
            selector: path("labelSelectorPath"),
        }
    }
}

impl Conversion {
    fn read(definition: &Value) -> Self {
        if definition.text(&["spec", "conversion", "strategy"]) != "Webhook" {
            return Self::None;
        }
        let webhook = definition.at(&["spec", "conversion", "webhook"]).unwrap_or(&Value::Null);
        let config = webhook.at(&["clientConfig"]).unwrap_or(&Value::Null);
        let service = config.at(&["service"]).map(|service| Service {
            namespace: service.text(&["namespace"]).to_owned(),
            name: service.text(&["name"]).to_owned(),
            port: service.int(&["port"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            path: service.text(&["path"]).to_owned(),
        });
        let bundle = config.text(&["caBundle"]);
        let reviews = webhook.list(&["conversionReviewVersions"]).iter();
        Self::Webhook(Webhook {
            url: config.at(&["url"]).and_then(Value::as_str).map(str::to_owned),
            service,
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default(),
            review_versions: reviews.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

/// How stable, major, minor.
fn maturity(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().ok().filter(|_| !rest.starts_with('0'))?;
    let rest = &rest[end..];
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (level, minor) = match rest.strip_prefix("beta") {
        Some(minor) => (1, minor),
        None => (0, rest.strip_prefix("alpha")?),
    };
    Some((level, major, minor.parse().ok().filter(|_| !minor.starts_with('0'))?))
}

fn at<'v>(tree: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(tree, |tree, name| tree.get(name))
}

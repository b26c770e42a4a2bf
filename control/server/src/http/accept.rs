//! In which form the client wants objects (as they are, as rows of a Table, or their metadata only), and in which encoding.

use coracle_api::ApiError;
use coracle_api::schema::protobuf;
use http::HeaderMap;
use http::header::ACCEPT;

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Plain,
    /// `meta.k8s.io` Table.
    Table {
        /// `v1`, else `v1beta1`.
        v1: bool,
    },
    /// `PartialObjectMetadata` and its list.
    Metadata {
        /// `v1`, else `v1beta1`.
        v1: bool,
    },
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// The objects themselves exist in protobuf. Metadata alone always does, a Table never.
    pub(crate) protobuf: bool,
    /// It is a stream of events, which YAML has no form for.
    pub(crate) stream: bool,
    /// It has rows and metadata, as what is stored has.
    pub(crate) forms: bool,
}

impl Offer {
    /// JSON and YAML.
    pub(crate) const JSON: Self = Self { protobuf: false, stream: false, forms: true };
    /// What is only answered and never stored: reviews.
    pub(crate) const REVIEW: Self = Self { protobuf: true, stream: false, forms: false };

    /// What is served of it, as upstream lists it.
    fn listed(self) -> String {
        let all = [
            ("application/json", true),
            ("application/yaml", !self.stream),
            (protobuf::MEDIA_TYPE, self.protobuf),
        ];
        let stream = if self.stream { ";stream=watch" } else { "" };
        let served = all.into_iter().filter(|(_, is_served)| *is_served);
        served.map(|(media, _)| format!("{media}{stream}")).collect::<Vec<_>>().join(", ")
    }
}

/// The form and encoding that the client likes best of what is served (`negotiation.NegotiateOutputMediaType` upstream).
pub(crate) fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<(Form, Encoding), ApiError> {
    let lines = headers.get_all(ACCEPT).iter();
    let clauses = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    let mut clauses: Vec<Clause<'_>> = clauses.filter_map(Clause::parse).collect();
    if clauses.is_empty() {
        return Ok((Form::Plain, Encoding::Json));
    }
    // Stable: of what is liked as well, what is named first.
    clauses.sort_by_key(|clause| (u32::MAX - clause.quality, clause.media.ends_with('*')));
    clauses.iter().find_map(|clause| clause.choose(offer)).ok_or_else(|| {
        let listed = offer.listed();
        let why = format!("only the following media types are accepted: {listed}");
        ApiError::new(406, "NotAcceptable", why)
    })
}

/// Whether protobuf is liked best, where there is a choice between it and JSON: what is no object of a kind, such as errors.
pub(crate) fn prefers_protobuf(headers: &HeaderMap) -> bool {
    let named = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|text| text.contains(protobuf::MEDIA_TYPE))
    };
    headers.get_all(ACCEPT).iter().any(named)
        && negotiate(headers, Offer { protobuf: true, ..Offer::JSON })
            .is_ok_and(|(_, encoding)| encoding == Encoding::Protobuf)
}

/// One of the media types that the client takes.
struct Clause<'a> {
    media: &'a str,
    form: &'a str,
    version: &'a str,
    group: &'a str,
    /// Thousandths.
    quality: u32,
}

impl<'a> Clause<'a> {
    /// `None` for what is empty or refused by `q=0`.
    fn parse(clause: &'a str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let mut out = Self { media, form: "", version: "", group: "", quality: 1000 };
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => out.form = value,
                Some(("v", value)) => out.version = value,
                Some(("g", value)) => out.group = value,
                Some(("q", value)) => {
                    let quality = value.parse().unwrap_or(1.0_f32).clamp(0.0, 1.0);
                    out.quality = (quality * 1000.0) as u32;
                }
                _ => {}
            }
        }
        (out.quality > 0).then_some(out)
    }

    fn choose(&self, offer: Offer) -> Option<(Form, Encoding)> {
        let encoding = match self.media {
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" if !offer.stream => Encoding::Yaml,
            protobuf::MEDIA_TYPE => Encoding::Protobuf,
            _ => return None,
        };
        let v1 = self.version == "v1";
        let known = self.group == "meta.k8s.io" && (v1 || self.version == "v1beta1");
        let form = match self.form {
            "" => Form::Plain,
            _ if !offer.forms => return None,
            "Table" if known => Form::Table { v1 },
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Form::Metadata { v1 },
            _ => return None,
        };
        let served = match (form, encoding) {
            (_, Encoding::Json | Encoding::Yaml) | (Form::Metadata { .. }, _) => true,
            (Form::Plain, Encoding::Protobuf) => offer.protobuf,
            (Form::Table { .. }, Encoding::Protobuf) => false,
        };
        served.then_some((form, encoding))
    }
}

/// `meta.k8s.io/v1` or `…/v1beta1`.
pub(crate) fn meta_version(v1: bool) -> &'static str {
    if v1 { "meta.k8s.io/v1" } else { "meta.k8s.io/v1beta1" }
}

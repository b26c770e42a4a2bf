//! What a certificate signing request (PKCS #10, RFC 2986) asks for, as the API's validation, the approver and the signer
//! read it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::asn1_rs::BitString;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::verify::verify_signature;
use x509_parser::x509::AttributeTypeAndValue;

use crate::json::Json;

/// Signs client certificates of nodes.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs client certificates of anybody.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// What nodes' users begin with.
pub const NODE_USER: &str = "system:node:";
/// The group of all nodes.
pub const NODES: &str = "system:nodes";

/// A request whose signature holds: whoever made it has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The whole request, DER.
    pub der: Vec<u8>,
    /// The subject's common name; empty if it has none.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// How many attributes the subject has.
    pub attributes: usize,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it asks for names of other sorts.
    pub has_other_names: bool,
    /// The public key (SubjectPublicKeyInfo, DER).
    pub public_key: Vec<u8>,
}

impl Request {
    /// Of a CertificateSigningRequest.
    ///
    /// # Errors
    /// In upstream's words, what is wrong with `spec.request`.
    pub fn of(csr: &Value) -> Result<Self, String> {
        let pem = STANDARD.decode(csr.text(&["spec", "request"]));
        Self::parse(&pem.map_err(|_| "it is not base64".to_owned())?)
    }

    /// Reads PEM.
    ///
    /// # Errors
    /// When it is none, or its signature does not hold.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        const NO_PEM: &str = "PEM block type must be CERTIFICATE REQUEST";
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| NO_PEM.to_owned())?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(NO_PEM.to_owned());
        }
        let (_, request) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|e| format!("it is no certificate request: {e}"))?;
        request.verify_signature().map_err(|_| "its signature does not hold".to_owned())?;
        let info = &request.certification_request_info;
        let texts = |values: &mut dyn Iterator<Item = &AttributeTypeAndValue<'_>>| {
            values.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect::<Vec<_>>()
        };
        let mut it = Self {
            common_name: texts(&mut info.subject.iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(&mut info.subject.iter_organization()),
            attributes: info.subject.iter_attributes().count(),
            dns: Vec::new(),
            ips: Vec::new(),
            has_other_names: false,
            public_key: info.subject_pki.raw.to_vec(),
            der: Vec::new(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => it.dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => match address(bytes) {
                        Some(ip) => it.ips.push(ip),
                        None => it.has_other_names = true,
                    },
                    _ => it.has_other_names = true,
                }
            }
        }
        it.der = block.contents;
        Ok(it)
    }

    /// The node that it is for, if it is for a node's certificate by that signer, with those usages; otherwise what is in
    /// the way.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn node(&self, signer: &str, usages: &[&str]) -> Result<&str, &'static str> {
        if self.organizations != [NODES] {
            return Err("subject organization is not system:nodes");
        }
        let name = self.common_name.strip_prefix(NODE_USER).filter(|name| !name.is_empty());
        let name = name.ok_or("subject common name does not begin with system:node:")?;
        if self.has_other_names {
            return Err("only DNS and IP subjectAltNames are allowed");
        }
        let needed = if signer == NODE_CLIENT {
            if !self.dns.is_empty() || !self.ips.is_empty() {
                return Err("subjectAltNames are not allowed");
            }
            "client auth"
        } else {
            if self.dns.is_empty() && self.ips.is_empty() {
                return Err("DNS or IP subjectAltName is required");
            }
            "server auth"
        };
        let known = |usage: &&str| {
            *usage == needed || matches!(*usage, "digital signature" | "key encipherment")
        };
        let has = |usage: &str| usages.contains(&usage);
        if !usages.iter().all(known) || !has(needed) || !has("digital signature") {
            return Err("usages did not match");
        }
        Ok(name)
    }
}

/// `spec.usages` of a CertificateSigningRequest.
pub fn usages(csr: &Value) -> Vec<&str> {
    csr.list(&["spec", "usages"]).iter().filter_map(Value::as_str).collect()
}

/// Whether a CertificateSigningRequest has that condition.
pub fn has(csr: &Value, condition: &str) -> bool {
    csr.list(&["status", "conditions"]).iter().any(|c| c.text(&["type"]) == condition)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Annotation of a request that says which earlier certificate its sender has the key of: a machine whose certificate has
/// expired is told apart by it from another one that wants its name.
pub const RENEWS: &str = "coracle.dev/renews";

/// The annotation: an earlier certificate (DER), and the signature of the request (DER) by that certificate's key (ECDSA with
/// SHA-256, as X.509 has it).
pub fn renews(certificate: &[u8], signature: &[u8]) -> String {
    format!("{}.{}", STANDARD.encode(certificate), STANDARD.encode(signature))
}

/// Whether an annotation shows that who made `request` (DER) had, at whatever time, a certificate of the CA (DER) as that node.
pub fn proves(annotation: &str, ca: &[u8], node: &str, request: &[u8]) -> bool {
    let check = || {
        let (certificate, signature) = annotation.split_once('.')?;
        let certificate = STANDARD.decode(certificate).ok()?;
        let signature = STANDARD.decode(signature).ok()?;
        let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
        let (_, ca) = X509Certificate::from_der(ca).ok()?;
        certificate.verify_signature(Some(ca.public_key())).ok()?;
        let subject = certificate.subject();
        let text = |a: &AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
        let name = subject.iter_common_name().next().and_then(text)?;
        let group = subject.iter_organization().next().and_then(text)?;
        let is_it = group == NODES && name.strip_prefix(NODE_USER) == Some(node);
        // All keys here are P-256, the CA's and nodes' alike.
        let algorithm = &certificate.signature_algorithm;
        let signature = BitString::new(0, &signature);
        verify_signature(certificate.public_key(), algorithm, &signature, request).ok()?;
        is_it.then_some(())
    };
    check().is_some()
}

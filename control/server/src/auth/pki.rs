//! The cluster's CA and what it signs.
//!
//! ```text
//! pki/ca.{crt,key}           ten years
//! pki/apiserver.{crt,key}    the API server, one year, made anew when names or time ask for it
//! pki/admin.{crt,key}        CN=kubernetes-admin O=system:masters, one year
//! pki/kubelet-client.{crt,key}  the API server when it calls agents
//! pki/sa.key                 signs ServiceAccount tokens (ES256)
//! ```
//!
//! Keys are ECDSA P-256, files 0600.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::{AUTHENTICATED, Identity, MASTERS};

/// Lifetime of the CA.
const CA_LIFETIME: Duration = Duration::days(3650);
/// Lifetime of what it signs.
const LIFETIME: Duration = Duration::days(365);
/// A certificate with less left is made anew at start.
const RENEW: Duration = Duration::days(60);
/// Clocks of joining machines may be behind.
const SKEW: Duration = Duration::hours(1);

/// Under which names and addresses the API server is reached.
#[derive(Debug, Clone, Default)]
pub struct ServingNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// Keys and certificates of a cluster.
pub struct Pki {
    dir: PathBuf,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// Keys could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its content.
    #[error(
        "{path} is not usable ({why}); restore it from a backup, or remove the folder to make all certificates anew"
    )]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Pki {
    /// Reads the keys in `dir`, making what is missing or running out.
    pub fn open(dir: &Path, names: &ServingNames) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| PkiError::File { path: dir.into(), source })?;
        let path = dir.join("ca.crt");
        if !path.exists() {
            let key = generate(&path)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = subject("coracle-ca", &[]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            valid_for(&mut params, CA_LIFETIME);
            let cert = params.self_signed(&key).map_err(|e| content(&path, e))?;
            write(&dir.join("ca.key"), &key.serialize_pem())?;
            write(&path, &cert.pem())?;
        }
        let ca_pem = read(&path)?;
        let ca_der =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| content(&path, e))?;
        let key_path = dir.join("ca.key");
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| content(&key_path, e))?;
        let issuer = Issuer::from_ca_cert_der(&ca_der, key).map_err(|e| content(&path, e))?;
        let pki = Self { dir: dir.into(), ca_pem, ca_der, issuer };
        pki.serving(names)?;
        pki.client("admin", "kubernetes-admin", &[MASTERS])?;
        pki.client("kubelet-client", "kube-apiserver-kubelet-client", &[MASTERS])?;
        let path = dir.join("sa.key");
        if !path.exists() {
            write(&path, &generate(&path)?.serialize_pem())?;
        }
        Ok(pki)
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// SHA-256 of the CA's certificate, in hexadecimal.
    pub fn ca_hash(&self) -> String {
        hex(&Sha256::digest(&self.ca_der))
    }

    /// One of the pairs in the folder: `apiserver`, `admin`, `kubelet-client`.
    pub fn pair(&self, name: &str) -> Result<Pair, PkiError> {
        Ok(Pair {
            cert: read(&self.dir.join(format!("{name}.crt")))?,
            key: read(&self.dir.join(format!("{name}.key")))?,
        })
    }

    /// A pair as rustls wants it, the CA at the end of the chain (joining machines look for it there).
    pub fn rustls_pair(
        &self,
        name: &str,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let path = self.dir.join(name);
        let pair = self.pair(name)?;
        let cert =
            CertificateDer::from_pem_slice(pair.cert.as_bytes()).map_err(|e| content(&path, e))?;
        let key =
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| content(&path, e))?;
        Ok((vec![cert, self.ca_der.clone()], key))
    }

    /// The key that signs ServiceAccount tokens, PEM (PKCS #8).
    pub fn token_key(&self) -> Result<String, PkiError> {
        read(&self.dir.join("sa.key"))
    }

    /// An admin kubeconfig for the server at `url`.
    pub fn kubeconfig(&self, url: &str) -> Result<String, PkiError> {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let admin = self.pair("admin")?;
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: coracle\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {cert}\n    \
             client-key-data: {key}\ncontexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: admin\n\
             current-context: coracle\n",
            ca = encode(&self.ca_pem),
            cert = encode(&admin.cert),
            key = encode(&admin.key),
        ))
    }

    /// Signs a request for `name` in `groups`, and for `host` where it is to serve, whatever the request asks for.
    pub fn sign(
        &self,
        csr_pem: &str,
        name: &str,
        groups: &[&str],
        host: Option<&str>,
    ) -> Result<String, rcgen::Error> {
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(csr_pem)?;
        let params = &mut csr.params;
        params.distinguished_name = subject(name, groups);
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names.clear();
        params.extended_key_usages = match host {
            Some(host) => {
                params.subject_alt_names.push(SanType::DnsName(host.try_into()?));
                vec![ExtendedKeyUsagePurpose::ServerAuth]
            }
            None => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        valid_for(params, LIFETIME);
        Ok(csr.signed_by(&self.issuer)?.pem())
    }

    fn serving(&self, names: &ServingNames) -> Result<(), PkiError> {
        let path = self.dir.join("apiserver.crt");
        // What the certificate was made for, to see when it has to be made anew.
        let made_for = self.dir.join("apiserver.names");
        let wanted = format!("{:?}\n", names);
        if is_fresh(&path) && std::fs::read_to_string(&made_for).is_ok_and(|n| n == wanted) {
            return Ok(());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("kube-apiserver", &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in &names.dns {
            let name = name.as_str().try_into().map_err(|e| content(&path, e))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        self.make("apiserver", params)?;
        write(&made_for, &wanted)
    }

    fn client(&self, file: &str, name: &str, groups: &[&str]) -> Result<(), PkiError> {
        if is_fresh(&self.dir.join(format!("{file}.crt"))) {
            return Ok(());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.make(file, params)
    }

    fn make(&self, file: &str, mut params: CertificateParams) -> Result<(), PkiError> {
        let path = self.dir.join(format!("{file}.crt"));
        let key = generate(&path)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, LIFETIME);
        let cert = params.signed_by(&key, &self.issuer).map_err(|e| content(&path, e))?;
        write(&self.dir.join(format!("{file}.key")), &key.serialize_pem())?;
        write(&path, &cert.pem())
    }
}

/// User and groups of a client certificate: its common name and organizations.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let extra = BTreeMap::new();
    Some(Identity { user, uid: String::new(), groups, extra })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Writes a file that only its owner can read, in place of any older one at once.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| PkiError::File { path: path.into(), source })
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { path: path.into(), source })
}

fn generate(path: &Path) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|e| content(path, e))
}

fn subject(name: &str, groups: &[&str]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for group in groups {
        subject.push(DnType::OrganizationName, *group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn valid_for(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + lifetime;
}

fn is_fresh(path: &Path) -> bool {
    let Ok(pem) = std::fs::read(path) else { return false };
    let Ok(der) = CertificateDer::from_pem_slice(&pem) else { return false };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let left =
        certificate.validity().not_after.timestamp() - OffsetDateTime::now_utc().unix_timestamp();
    left > RENEW.whole_seconds()
}

fn content(path: &Path, why: impl std::fmt::Display) -> PkiError {
    PkiError::Content { path: path.into(), why: why.to_string() }
}

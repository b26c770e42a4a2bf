//! The cluster's CA and what it signs.
//!
//! ```text
//! pki/ca.{crt,key}           ten years
//! pki/apiserver.{crt,key}    the API server, made anew when names or time ask for it
//! pki/admin.{crt,key}        CN=kubernetes-admin O=system:masters, one year
//! pki/kubelet-client.{crt,key}  the API server when it calls agents
//! pki/sa.key                 signs ServiceAccount tokens (ES256)
//! ```
//!
//! Keys are ECDSA P-256, files 0600. What the CA signs for others, it signs for [`super::signer`].

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coracle_api::csr::Request;
use jiff::Timestamp;
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
/// Lifetime of the administrator's certificate, which people carry elsewhere.
const ADMIN_LIFETIME: Duration = Duration::days(365);
/// Clocks of joining machines may be so far behind, or a tenth of a certificate's lifetime.
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
    /// Signs what this server shows other API servers, and nothing else: who shows such a certificate is believed whatever it
    /// says of who makes a request.
    front_proxy: Issuer<'static, KeyPair>,
    names: ServingNames,
    lifetime: Duration,
}

/// A request cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The subject has something more than once, which would be lost.
    #[error(
        "the subject of the request names an attribute more than once: only one organization can be signed"
    )]
    Subject,
    /// The request or the key.
    #[error("the request cannot be signed: {0}")]
    Request(#[from] rcgen::Error),
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
    /// Reads the keys in `dir`, making what is missing or running out; what the server shows of itself lasts `lifetime` seconds.
    pub fn open(dir: &Path, names: &ServingNames, lifetime: u64) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| PkiError::File { path: dir.into(), source })?;
        let (ca_pem, ca_der, issuer) = authority(dir, "ca", "coracle-ca")?;
        let (_, _, front_proxy) = authority(dir, "front-proxy-ca", "front-proxy-ca")?;
        let lifetime = seconds(lifetime);
        let (dir, names) = (dir.to_owned(), names.clone());
        let pki = Self { dir, ca_pem, ca_der, issuer, front_proxy, names, lifetime };
        pki.renew()?;
        let path = pki.dir.join("sa.key");
        if !path.exists() {
            write(&path, &generate(&path)?.serialize_pem())?;
        }
        Ok(pki)
    }

    /// Makes anew what has less than a fifth of its time left; returns when the next one is due.
    pub fn renew(&self) -> Result<Timestamp, PkiError> {
        let due = [
            self.serving()?,
            self.client("admin", "kubernetes-admin", ADMIN_LIFETIME)?,
            self.client("kubelet-client", "kube-apiserver-kubelet-client", self.lifetime)?,
            self.front_proxy_client()?,
        ];
        Ok(due.into_iter().min().unwrap_or(Timestamp::MAX))
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

    /// The CA of what this server shows other API servers, PEM.
    pub fn front_proxy_ca(&self) -> Result<String, PkiError> {
        read(&self.dir.join("front-proxy-ca.crt"))
    }

    /// What this server shows other API servers, as rustls wants it.
    pub fn front_proxy(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let (mut chain, key) = self.rustls_pair("front-proxy-client")?;
        chain.truncate(1);
        Ok((chain, key))
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

    /// Signs a request as it is, for those usages and so many seconds; whether it may be signed is not looked at here.
    ///
    /// # Errors
    /// When the request has what cannot be signed.
    pub fn sign(
        &self,
        request: &Request,
        usages: &[&str],
        lifetime: u64,
    ) -> Result<String, SignError> {
        let der = request.der.as_slice().into();
        let mut csr = rcgen::CertificateSigningRequestParams::from_der(&der)?;
        let params = &mut csr.params;
        if params.distinguished_name.iter().count() != request.attributes {
            return Err(SignError::Subject);
        }
        params.is_ca = IsCa::NoCa;
        let has = |usage: &str| usages.contains(&usage);
        params.key_usages = [
            ("digital signature", KeyUsagePurpose::DigitalSignature),
            ("key encipherment", KeyUsagePurpose::KeyEncipherment),
        ]
        .into_iter()
        .filter_map(|(usage, purpose)| has(usage).then_some(purpose))
        .collect();
        params.extended_key_usages = [
            ("client auth", ExtendedKeyUsagePurpose::ClientAuth),
            ("server auth", ExtendedKeyUsagePurpose::ServerAuth),
        ]
        .into_iter()
        .filter_map(|(usage, purpose)| has(usage).then_some(purpose))
        .collect();
        valid_for(params, seconds(lifetime));
        Ok(csr.signed_by(&self.issuer)?.pem())
    }

    fn serving(&self) -> Result<Timestamp, PkiError> {
        let names = &self.names;
        let path = self.dir.join("apiserver.crt");
        // What the certificate was made for, to see when it has to be made anew.
        let made_for = self.dir.join("apiserver.names");
        let wanted = format!("{:?}\n", names);
        if let Some(due) = renewal(&path)
            && std::fs::read_to_string(&made_for).is_ok_and(|n| n == wanted)
        {
            return Ok(due);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("kube-apiserver", &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in &names.dns {
            let name = name.as_str().try_into().map_err(|e| content(&path, e))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        self.make("apiserver", params, self.lifetime, &self.issuer)?;
        write(&made_for, &wanted)?;
        Ok(renewal(&path).unwrap_or_else(Timestamp::now))
    }

    fn client(&self, file: &str, name: &str, lifetime: Duration) -> Result<Timestamp, PkiError> {
        let path = self.dir.join(format!("{file}.crt"));
        if let Some(due) = renewal(&path) {
            return Ok(due);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, &[MASTERS]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.make(file, params, lifetime, &self.issuer)?;
        Ok(renewal(&path).unwrap_or_else(Timestamp::now))
    }

    fn front_proxy_client(&self) -> Result<Timestamp, PkiError> {
        let path = self.dir.join("front-proxy-client.crt");
        if let Some(due) = renewal(&path) {
            return Ok(due);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("front-proxy-client", &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.make("front-proxy-client", params, self.lifetime, &self.front_proxy)?;
        Ok(renewal(&path).unwrap_or_else(Timestamp::now))
    }

    fn make(
        &self,
        file: &str,
        mut params: CertificateParams,
        lifetime: Duration,
        issuer: &Issuer<'static, KeyPair>,
    ) -> Result<(), PkiError> {
        let path = self.dir.join(format!("{file}.crt"));
        let key = generate(&path)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, lifetime);
        let cert = params.signed_by(&key, issuer).map_err(|e| content(&path, e))?;
        write(&self.dir.join(format!("{file}.key")), &key.serialize_pem())?;
        write(&path, &cert.pem())
    }
}

/// A CA of this cluster's, made if it is missing: its certificate, and what signs with it.
type Authority = (String, CertificateDer<'static>, Issuer<'static, KeyPair>);

fn authority(dir: &Path, file: &str, name: &str) -> Result<Authority, PkiError> {
    let path = dir.join(format!("{file}.crt"));
    let key_path = dir.join(format!("{file}.key"));
    if !path.exists() {
        let key = generate(&path)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        valid_for(&mut params, CA_LIFETIME);
        let cert = params.self_signed(&key).map_err(|e| content(&path, e))?;
        write(&key_path, &key.serialize_pem())?;
        write(&path, &cert.pem())?;
    }
    let pem = read(&path)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| content(&path, e))?;
    let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| content(&key_path, e))?;
    let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| content(&path, e))?;
    Ok((pem, der, issuer))
}

/// User and groups of a client certificate: its common name and organizations. Connections may outlive the certificate that
/// they began with; who shows one that has expired is nobody.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    if !certificate.validity().is_valid() {
        return None;
    }
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
    params.not_before = now - SKEW.min(lifetime / 10);
    params.not_after = now + lifetime;
}

fn seconds(count: u64) -> Duration {
    Duration::seconds(i64::try_from(count).unwrap_or(i64::MAX)).min(CA_LIFETIME)
}

/// When a certificate is to be made anew: after four fifths of its time. None if it is missing, or that is over.
fn renewal(path: &Path) -> Option<Timestamp> {
    let pem = std::fs::read(path).ok()?;
    let der = CertificateDer::from_pem_slice(&pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let due = Timestamp::from_second(from + (to - from) / 5 * 4).ok()?;
    let now = Timestamp::now();
    (due > now && from <= now.as_second()).then_some(due)
}

fn content(path: &Path, why: impl std::fmt::Display) -> PkiError {
    PkiError::Content { path: path.into(), why: why.to_string() }
}

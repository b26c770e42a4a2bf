//! The cluster's own CA and what it signs.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::AuthError;

const NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

pub(super) struct Pki {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    ca_pem: String,
    admin: (String, String),
}

fn failed(error: impl std::fmt::Display) -> AuthError {
    AuthError::Certificate(error.to_string())
}

impl Pki {
    pub(super) fn open(data: &Path, addresses: &[IpAddr]) -> Result<Self, AuthError> {
        let folder = data.join("pki");
        fs::create_dir_all(&folder)
            .map_err(|source| AuthError::File { path: folder.clone(), source })?;
        let (cert_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        if !key_path.exists() || !cert_path.exists() {
            let key = KeyPair::generate().map_err(failed)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "coracle");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            let cert = params.self_signed(&key).map_err(failed)?;
            write(&key_path, key.serialize_pem().as_bytes())?;
            write(&cert_path, cert.pem().as_bytes())?;
        }
        let read = |path: &PathBuf| {
            fs::read_to_string(path)
                .map_err(|source| AuthError::File { path: path.clone(), source })
        };
        let ca_pem = read(&cert_path)?;
        let ca_key = KeyPair::from_pem(&read(&key_path)?).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(failed)?;
        let ca = der(&ca_pem)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(failed)?;
        let roots = Arc::new(roots);

        let sans: Vec<SanType> = NAMES
            .iter()
            .map(|name| (*name).try_into().map(SanType::DnsName).map_err(failed))
            .chain(addresses.iter().map(|ip| Ok(SanType::IpAddress(*ip))))
            .collect::<Result<_, _>>()?;
        let (server_cert, server_key) =
            sign(&issuer, "kube-apiserver", &[], sans, ExtendedKeyUsagePurpose::ServerAuth)?;
        let verifier = WebPkiClientVerifier::builder(roots.clone())
            .allow_unauthenticated()
            .build()
            .map_err(failed)?;
        let mut server = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![der(&server_cert)?], private(&server_key))
            .map_err(failed)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let client_auth = ExtendedKeyUsagePurpose::ClientAuth;
        let (cert, key) = sign(
            &issuer,
            "system:kube-apiserver",
            &["system:masters"],
            Vec::new(),
            client_auth.clone(),
        )?;
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![der(&cert)?], private(&key))
            .map_err(failed)?;
        let (admin_cert, admin_key) =
            sign(&issuer, "admin", &["system:masters"], Vec::new(), client_auth)?;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            ca_pem,
            admin: (admin_cert, admin_key.serialize_pem()),
        })
    }

    pub(super) fn write_kubeconfig(&self, data: &Path, url: &str) -> Result<(), AuthError> {
        let encode = |text: &str| STANDARD.encode(text);
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: coracle\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\ncontexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: admin\n\
             current-context: coracle\n",
            encode(&self.ca_pem),
            encode(&self.admin.0),
            encode(&self.admin.1),
        );
        write(&data.join("admin.kubeconfig"), text.as_bytes())
    }
}

fn sign(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    groups: &[&str],
    sans: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, KeyPair), AuthError> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.subject_alt_names = sans;
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let cert = params.signed_by(&key, issuer).map_err(failed)?;
    Ok((cert.pem(), key))
}

fn der(pem: &str) -> Result<CertificateDer<'static>, AuthError> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), AuthError> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| AuthError::File { path: path.to_owned(), source })
}

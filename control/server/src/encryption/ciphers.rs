//! The providers: AES-GCM, AES-CBC, secretbox and none, each in upstream's form on the disk, byte for byte.
//!
//! ```text
//! k8s:enc:aesgcm:v1:NAME:     nonce (12)  ciphertext  tag (16)    bound to the key in the store
//! k8s:enc:aescbc:v1:NAME:     IV (16)     ciphertext, padded      not authenticated
//! k8s:enc:secretbox:v1:NAME:  nonce (24)  tag (16)  ciphertext
//! ```
//!
//! Source: `k8s.io/apiserver/pkg/storage/value`.

use std::borrow::Cow;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use rand::RngExt;
use zeroize::Zeroizing;

use super::Opened;

/// What all encrypted values begin with.
const ENCRYPTED: &[u8] = b"k8s:enc:";
const SHORT: &str = "the stored data was shorter than the required size";
const FORGED: &str = "cipher: message authentication failed";
const LENGTH: &str = "the key is not of the expected length";
const NONCE: usize = 12;
const LONG_NONCE: usize = 24;
const BLOCK: usize = 16;

/// The providers of a kind, in order: the first writes, all read.
pub(super) struct Transformer(pub(super) Vec<Provider>);

/// One of them.
pub(super) enum Provider {
    /// As it is.
    Identity,
    /// With one of its keys, of which the first writes.
    Keys(Algorithm, Vec<Key>),
}

/// How it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    AesGcm,
    AesCbc,
    Secretbox,
}

/// A key; wiped when it is let go.
pub(super) struct Key {
    /// Its name and a colon, as values have it.
    prefix: Vec<u8>,
    cipher: Cipher,
}

enum Cipher {
    Gcm128(Box<Aes128Gcm>),
    Gcm192(Box<AesGcm<Aes192, U12>>),
    Gcm256(Box<Aes256Gcm>),
    Cbc(Zeroizing<Vec<u8>>),
    Secretbox(Box<XSalsa20Poly1305>),
}

/// Reads what is not encrypted.
pub(super) fn plain(stored: &[u8]) -> Result<Opened<'_>, String> {
    if stored.starts_with(ENCRYPTED) {
        return Err("identity transformer tried to read encrypted data".to_owned());
    }
    Ok(Opened { value: Cow::Borrowed(stored), stale: false })
}

/// With what a value is encrypted, as it says itself: `the key "NAME" of PROVIDER`.
pub(super) fn name(stored: &[u8]) -> Option<String> {
    let mut parts = stored.strip_prefix(ENCRYPTED)?.splitn(4, |byte| *byte == b':');
    let (provider, _, key) = (parts.next()?, parts.next()?, parts.next()?);
    // Without a fourth part, what is there is no name.
    parts.next()?;
    Some(format!("the key \"{}\" of {}", key.escape_ascii(), provider.escape_ascii()))
}

impl Transformer {
    /// The value as the first provider writes it.
    pub(super) fn seal(&self, at: &[u8], value: Bytes) -> Result<Bytes, &'static str> {
        match self.0.first() {
            Some(Provider::Keys(algorithm, keys)) => {
                let key = keys.first().ok_or(LENGTH)?;
                let sealed = key.cipher.seal(at, &value)?;
                Ok([algorithm.prefix(), &key.prefix, &sealed].concat().into())
            }
            _ => Ok(value),
        }
    }

    /// What some provider reads.
    pub(super) fn open<'a>(&self, at: &[u8], stored: &'a [u8]) -> Result<Opened<'a>, String> {
        let mut problems: Vec<String> = Vec::new();
        for (i, provider) in self.0.iter().enumerate() {
            let read = match provider {
                // What is encrypted is for those behind it.
                Provider::Identity => match plain(stored) {
                    Ok(opened) => Ok(opened),
                    Err(_) => continue,
                },
                Provider::Keys(algorithm, keys) => match stored.strip_prefix(algorithm.prefix()) {
                    Some(rest) => algorithm.open(keys, at, rest),
                    None => continue,
                },
            };
            match read {
                Ok(opened) => return Ok(Opened { stale: opened.stale || i > 0, ..opened }),
                Err(why) if problems.contains(&why) => {}
                Err(why) => problems.push(why),
            }
        }
        Err(reduced(problems).unwrap_or_else(|| "no matching prefix found".to_owned()))
    }
}

/// As upstream prints several.
fn reduced(mut problems: Vec<String>) -> Option<String> {
    match problems.len() {
        0 | 1 => problems.pop(),
        _ => Some(format!("[{}]", problems.join(", "))),
    }
}

impl Algorithm {
    /// As the configuration has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    /// Bytes that keys may have.
    pub(super) fn sizes(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[32],
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::AesGcm => b"k8s:enc:aesgcm:v1:",
            Self::AesCbc => b"k8s:enc:aescbc:v1:",
            Self::Secretbox => b"k8s:enc:secretbox:v1:",
        }
    }

    fn open<'a>(self, keys: &[Key], at: &[u8], rest: &'a [u8]) -> Result<Opened<'a>, String> {
        let mut problems: Vec<String> = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let Some(sealed) = rest.strip_prefix(&key.prefix[..]) else { continue };
            match key.cipher.open(at, sealed) {
                Ok(value) => return Ok(Opened { value: Cow::Owned(value), stale: i > 0 }),
                // Names may be there twice.
                Err(why) => problems.push(why.to_owned()),
            }
        }
        Err(reduced(problems).unwrap_or_else(|| {
            let whose = if self == Self::Secretbox { "Secretbox" } else { "AES" };
            format!("no matching key was found for the provided {whose} transformer")
        }))
    }
}

impl Key {
    /// None if it has a length that the algorithm does not take.
    pub(super) fn new(algorithm: Algorithm, name: &str, secret: &[u8]) -> Option<Self> {
        if !algorithm.sizes().contains(&secret.len()) {
            return None;
        }
        let cipher = match (algorithm, secret.len()) {
            (Algorithm::AesCbc, _) => Cipher::Cbc(Zeroizing::new(secret.to_vec())),
            (Algorithm::Secretbox, _) => {
                Cipher::Secretbox(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?))
            }
            (Algorithm::AesGcm, 16) => {
                Cipher::Gcm128(Box::new(Aes128Gcm::new_from_slice(secret).ok()?))
            }
            (Algorithm::AesGcm, 24) => {
                Cipher::Gcm192(Box::new(AesGcm::new_from_slice(secret).ok()?))
            }
            (Algorithm::AesGcm, _) => {
                Cipher::Gcm256(Box::new(Aes256Gcm::new_from_slice(secret).ok()?))
            }
        };
        Some(Self { prefix: format!("{name}:").into_bytes(), cipher })
    }
}

impl Cipher {
    fn seal(&self, at: &[u8], value: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self {
            Self::Gcm128(cipher) => seal_with::<NONCE, _>(&**cipher, at, value),
            Self::Gcm192(cipher) => seal_with::<NONCE, _>(&**cipher, at, value),
            Self::Gcm256(cipher) => seal_with::<NONCE, _>(&**cipher, at, value),
            // Binds values to nothing, as upstream's.
            Self::Secretbox(cipher) => seal_with::<LONG_NONCE, _>(&**cipher, &[], value),
            Self::Cbc(key) => {
                let iv = rand::rng().random::<[u8; BLOCK]>();
                let sealed = match key.len() {
                    16 => cbc::Encryptor::<Aes128>::new_from_slices(key, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(value)),
                    24 => cbc::Encryptor::<Aes192>::new_from_slices(key, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(value)),
                    _ => cbc::Encryptor::<Aes256>::new_from_slices(key, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(value)),
                };
                Ok([&iv[..], &sealed.map_err(|_| LENGTH)?].concat())
            }
        }
    }

    fn open(&self, at: &[u8], sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self {
            Self::Gcm128(cipher) => open_with::<NONCE, _>(&**cipher, at, sealed),
            Self::Gcm192(cipher) => open_with::<NONCE, _>(&**cipher, at, sealed),
            Self::Gcm256(cipher) => open_with::<NONCE, _>(&**cipher, at, sealed),
            Self::Secretbox(cipher) => open_with::<LONG_NONCE, _>(&**cipher, &[], sealed),
            Self::Cbc(key) => {
                let (iv, sealed) = sealed.split_at_checked(BLOCK).ok_or(SHORT)?;
                if sealed.is_empty() {
                    return Err("invalid PKCS7 data (empty or not padded)");
                }
                if !sealed.len().is_multiple_of(BLOCK) {
                    return Err("the stored data is not a multiple of the block size");
                }
                let value = match key.len() {
                    16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv)
                        .map(|cipher| cipher.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
                    24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv)
                        .map(|cipher| cipher.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
                    _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv)
                        .map(|cipher| cipher.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
                };
                value.map_err(|_| LENGTH)?.map_err(|_| "invalid padding on input")
            }
        }
    }
}

fn seal_with<const N: usize, A: Aead>(
    cipher: &A,
    aad: &[u8],
    value: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let nonce = rand::rng().random::<[u8; N]>();
    let sealed = cipher
        .encrypt(<&Nonce<A>>::from(&nonce[..]), Payload { msg: value, aad })
        .map_err(|_| "the value is too long to be encrypted")?;
    Ok([&nonce[..], &sealed].concat())
}

fn open_with<const N: usize, A: Aead>(
    cipher: &A,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let (nonce, sealed) = sealed.split_at_checked(N).ok_or(SHORT)?;
    cipher.decrypt(nonce.into(), Payload { msg: sealed, aad }).map_err(|_| FORGED)
}

//! Certificates, keys and tokens of one control plane, made for it and removed with it.
//!
//! Input: the addresses at which the API server is reached. Output: files in one folder. Invariant:
//! clients can check the server against a certificate authority, as in any seed.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The token of a member of `system:masters`.
pub(super) const ADMIN: &str = "admin-of-the-tests";
/// Names by which pods know the API server.
const NAMES: [&str; 4] =
    ["localhost", "kubernetes", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// Paths of what was made.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Certificate of the authority, for clients.
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Signs the tokens of ServiceAccounts.
    pub(super) issuer_key: PathBuf,
    /// Checks them.
    pub(super) issuer_public_key: PathBuf,
    /// `--token-auth-file`
    pub(super) tokens: PathBuf,
}

impl Credentials {
    pub(super) fn make(folder: &Path, addresses: &[IpAddr]) -> Result<Credentials> {
        let (authority, issuer) = authority().context("cannot make a certificate authority")?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = server(addresses)
            .and_then(|server| server.signed_by(&key, &issuer))
            .context("cannot make a certificate")?;
        let issuer_key = KeyPair::generate().context("cannot make a key")?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        Ok(Credentials {
            authority: write("ca.crt", &authority)?,
            certificate: write("server.crt", &certificate.pem())?,
            key: write("server.key", &key.serialize_pem())?,
            issuer_key: write("issuer.key", &issuer_key.serialize_pem())?,
            issuer_public_key: write("issuer.pub", &issuer_key.public_key_pem())?,
            tokens: write("tokens.csv", &format!("{ADMIN},admin,admin,system:masters\n"))?,
        })
    }
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "control plane of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

fn server(addresses: &[IpAddr]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

//! A certificate authority of the cluster's own, and the server's certificate.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The CA certificate in PEM form and an acceptor for `127.0.0.1` and `localhost`.
pub(crate) fn make() -> io::Result<(String, TlsAcceptor)> {
    let fail = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let name = format!("embedded-cluster-ca-{}", crate::util::hex(8));
    ca.distinguished_name.push(DnType::CommonName, name);
    let ca_key = KeyPair::generate().map_err(|e| fail(&e))?;
    let ca = CertifiedIssuer::self_signed(ca, ca_key).map_err(|e| fail(&e))?;
    let names = ["127.0.0.1", "localhost", "::1"].map(str::to_string).to_vec();
    let mut server = CertificateParams::new(names).map_err(|e| fail(&e))?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.use_authority_key_identifier_extension = true;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(|e| fail(&e))?;
    let cert = server.signed_by(&key, &ca).map_err(|e| fail(&e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .map_err(|e| fail(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((ca.pem(), TlsAcceptor::from(Arc::new(config))))
}

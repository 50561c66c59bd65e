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
    // As Go's TLS of an API server: one ticket for each connection, and no memory of sessions.
    config.ticketer = ring::Ticketer::new().map_err(|e| fail(&e))?;
    config.send_tls13_tickets = 1;
    Ok((ca.pem(), TlsAcceptor::from(Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore};

    use super::*;

    #[tokio::test]
    async fn second_connection_resumes_the_session() {
        let (ca, acceptor) = make().expect("a server");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let name = ServerName::try_from("localhost").expect("a name");
            let (client, server) = tokio::join!(connector.connect(name, ours), acceptor.accept(theirs));
            let (mut client, mut server) = (client.expect("connected"), server.expect("accepted"));
            // The ticket comes before the first answer.
            server.write_all(b"answer").await.expect("written");
            server.flush().await.expect("sent");
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
        }
    }
}

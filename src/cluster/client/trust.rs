//! What `kube` refuses and other clients accept: an API server's certificate that is itself the trusted one, and a token
//! file that ends in a newline.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// A token is read again after this time, as `kube` does: a kubelet renews it long before it ends.
const TOKEN_AGE: Duration = Duration::from_secs(50);

/// Lets the server's certificate be one of the trusted ones itself, as OpenSSL and Go do. A certificate that may sign
/// others is no server's to webpki.
pub(super) fn trust_itself(tls: &mut ClientConfig, trusted: &[Vec<u8>]) {
    let mut roots = RootCertStore::empty();
    let trusted: Vec<CertificateDer<'static>> = trusted.iter().map(|der| der.clone().into()).collect();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let Ok(inner) = WebPkiServerVerifier::builder(Arc::new(roots)).build() else { return };
    tls.dangerous().set_certificate_verifier(Arc::new(SelfTrusting { inner, trusted }));
}

#[derive(Debug)]
struct SelfTrusting {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for SelfTrusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // webpki has checked the validity before.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if is_ca_as_server(&other) && self.trusted.iter().any(|one| one == end_entity) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_ca_as_server(other: &rustls::OtherError) -> bool {
    matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// A file with a bearer token, without the white space around it.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    known: Mutex<(Option<HeaderValue>, Instant)>,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(path: PathBuf) -> std::io::Result<Self> {
        let token = read(&path)?;
        Ok(Self { path, known: Mutex::new((token, Instant::now())) })
    }

    /// The request with the token. A file that cannot be read any more leaves the last token in use.
    pub(super) fn authorize<B>(&self, mut request: Request<B>) -> Request<B> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.1.elapsed() >= TOKEN_AGE {
            if let Ok(Some(token)) = read(&self.path) {
                known.0 = Some(token);
            }
            known.1 = Instant::now();
        }
        if let Some(token) = &known.0 {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        request
    }
}

fn read(path: &PathBuf) -> std::io::Result<Option<HeaderValue>> {
    let token = std::fs::read_to_string(path)?;
    let mut header = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok();
    if let Some(header) = &mut header {
        header.set_sensitive(true);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_file_is_sent_without_the_newline_at_its_end() {
        let path = std::env::temp_dir().join(format!("token-{}", std::process::id()));
        std::fs::write(&path, " of-the-file\r\n").expect("written");
        let file = TokenFile::new(path.clone()).expect("read");
        std::fs::remove_file(&path).expect("removed");
        let request = file.authorize(Request::new(()));
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer of-the-file");
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        assert!(TokenFile::new(path).is_err());
    }
}

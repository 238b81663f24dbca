//! TLS towards a daemon: our certificate, the authority to trust, or no verification when Docker's `--tls` says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::ClientError;

/// Which files TLS uses. A file that is absent is not an error when it was not named explicitly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// `--tls` without `--tlsverify`: encrypt, and believe any server.
    pub skip_verification: bool,
}

impl TlsFiles {
    /// The three files of their usual names in `directory`, as far as they exist.
    #[must_use]
    pub fn in_directory(directory: &Path, skip_verification: bool) -> Self {
        let file = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        Self {
            ca: file("ca.pem"),
            certificate: file("cert.pem"),
            key: file("key.pem"),
            skip_verification,
        }
    }

    /// Builds the rustls configuration.
    ///
    /// # Errors
    /// A file that cannot be read or holds no certificate or key.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, ClientError> {
        let bad = |path: &Path, why: &dyn std::fmt::Display| {
            ClientError::Configuration(format!("could not use {} for TLS: {why}", path.display()))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Configuration(error.to_string()))?;
        let builder = if self.skip_verification {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider)))
        } else {
            let mut roots = RootCertStore::empty();
            match &self.ca {
                Some(path) => {
                    let certificates =
                        CertificateDer::pem_file_iter(path).map_err(|error| bad(path, &error))?;
                    for certificate in certificates {
                        let certificate = certificate.map_err(|error| bad(path, &error))?;
                        roots.add(certificate).map_err(|error| bad(path, &error))?;
                    }
                }
                None => {
                    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                }
            }
            builder.with_root_certificates(roots)
        };
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(certificate)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| bad(certificate, &error))?;
                let private =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| bad(certificate, &error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

/// Accepts any server certificate, for `--tls` without verification.
#[derive(Debug)]
struct BelieveAnyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

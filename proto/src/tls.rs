//! Mutual TLS 1.3 for everybody: key files in, rustls configurations out.
//!
//! A server takes clients whose certificate chains to its CA; a client takes
//! a server whose certificate chains to its CA *and* names a collector of the
//! client's own trust domain. Host names play no part, so a collector may
//! move without new certificates.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject as _},
};

use crate::identity::{Identity, IdentityError, Role};

/// Where the three PEM files of an identity lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA certificates, one or more.
    pub ca: PathBuf,
    /// Own certificate, then any intermediates.
    pub certificate: PathBuf,
    /// Own private key.
    pub key: PathBuf,
}

/// Key files that cannot be used: what, where, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: check the path and its permissions", path.display())]
    Read {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not PEM, or holds nothing of its kind.
    #[error("the {what} {} holds no usable PEM section: `shrikectl pki issue` writes such files", path.display())]
    Pem {
        /// Which file.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A CA certificate that rustls does not take.
    #[error("the CA certificate {} is not a valid trust anchor", path.display())]
    Ca {
        /// Where.
        path: PathBuf,
        /// Why.
        source: RustlsError,
    },
    /// A certificate without a Shrike name.
    #[error("the certificate {} does not name a Shrike identity", path.display())]
    Identity {
        /// Where.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// A certificate for another role.
    #[error("the certificate {} is {identity}, expected one for the role {expected:?}", path.display())]
    Role {
        /// Where.
        path: PathBuf,
        /// As it is.
        identity: Identity,
        /// As it should be.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or rustls refuses them.
    #[error("the certificate {} and the key {} do not make an identity", certificate.display(), key.display())]
    Pair {
        /// Where the certificate lies.
        certificate: PathBuf,
        /// Where the key lies.
        key: PathBuf,
        /// Why.
        source: RustlsError,
    },
    /// The CA cannot verify clients.
    #[error("the CA {} cannot verify clients", path.display())]
    ClientVerifier {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

struct Loaded {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    identity: Identity,
}

/// Loads a server's configuration: TLS 1.3, client certificates required,
/// ALPN `h2`.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn server_config(files: &TlsFiles) -> Result<(ServerConfig, Identity), TlsError> {
    let loaded = load(files, &[Role::Collector])?;
    let verifier = WebPkiClientVerifier::builder_with_provider(
        loaded.roots,
        Arc::new(ring::default_provider()),
    )
    .build()
    .map_err(|source| TlsError::ClientVerifier {
        path: files.ca.clone(),
        source,
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(loaded.chain, loaded.key)
        .map_err(pair(files))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, loaded.identity))
}

/// Loads a client's configuration: TLS 1.3, ALPN `h2`, and only collectors of
/// the client's own trust domain are taken.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn client_config(
    files: &TlsFiles,
    roles: &'static [Role],
) -> Result<(ClientConfig, Identity), TlsError> {
    let loaded = load(files, roles)?;
    let provider = ring::default_provider();
    let verifier = CollectorVerifier {
        roots: loaded.roots,
        algorithms: provider.signature_verification_algorithms,
        domain: loaded.identity.domain().into(),
    };
    let mut config = client_builder(provider)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(loaded.chain, loaded.key)
        .map_err(pair(files))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, loaded.identity))
}

fn client_builder(
    provider: CryptoProvider,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
}

fn load(files: &TlsFiles, roles: &'static [Role]) -> Result<Loaded, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", &files.ca)? {
        roots.add(certificate).map_err(|source| TlsError::Ca {
            path: files.ca.clone(),
            source,
        })?;
    }
    let chain = certificates("certificate", &files.certificate)?;
    let identity = Identity::from_certificate(&chain[0]).map_err(|source| TlsError::Identity {
        path: files.certificate.clone(),
        source,
    })?;
    if !roles.contains(&identity.role()) {
        return Err(TlsError::Role {
            path: files.certificate.clone(),
            identity,
            expected: roles.first().map_or("none", |role| role.as_str()),
        });
    }
    let key = PrivateKeyDer::from_pem_slice(&read("key", &files.key)?).map_err(|source| {
        TlsError::Pem {
            what: "key",
            path: files.key.clone(),
            source,
        }
    })?;
    Ok(Loaded {
        roots: Arc::new(roots),
        chain,
        key,
        identity,
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| TlsError::Pem {
        what,
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(what, path)?)
        .collect::<Result<_, _>>()
        .map_err(error)?;
    if certificates.is_empty() {
        return Err(error(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

fn pair(files: &TlsFiles) -> impl FnOnce(RustlsError) -> TlsError {
    let (certificate, key) = (files.certificate.clone(), files.key.clone());
    move |source| TlsError::Pair {
        certificate,
        key,
        source,
    }
}

/// Takes servers that are a collector of one trust domain.
#[derive(Debug)]
struct CollectorVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    domain: Box<str>,
}

impl ServerCertVerifier for CollectorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let identity = Identity::from_certificate(end_entity)
            .map_err(|_| RustlsError::from(CertificateError::NotValidForName))?;
        if identity.role() == Role::Collector && identity.domain() == &*self.domain {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;

    struct Pki {
        folder: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Pki {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let ca = params.self_signed(&key).unwrap();
            fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
            Self {
                folder,
                issuer: Issuer::new(params, key),
            }
        }

        fn issue(&self, name: &str) -> TlsFiles {
            let stem = name.rsplit('/').next().unwrap();
            let files = TlsFiles {
                ca: self.folder.path().join("ca.pem"),
                certificate: self.folder.path().join(format!("{stem}.pem")),
                key: self.folder.path().join(format!("{stem}.key")),
            };
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            fs::write(&files.certificate, certificate.pem()).unwrap();
            fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }
    }

    /// Runs a handshake in memory and says whether both sides took it.
    fn handshake(server: ServerConfig, client: ClientConfig) -> Result<(), RustlsError> {
        let mut client = rustls::ClientConnection::new(
            Arc::new(client),
            ServerName::try_from("collector").unwrap(),
        )?;
        let mut server = rustls::ServerConnection::new(Arc::new(server))?;
        for _ in 0..8 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    const AGENT: &[Role] = &[Role::Agent];

    #[test]
    fn agent_and_collector_of_one_domain_meet() {
        let pki = Pki::new();
        let (server, _) = server_config(&pki.issue("spiffe://a.test/collector/main")).unwrap();
        let (client, identity) =
            client_config(&pki.issue("spiffe://a.test/agent/web-1"), AGENT).unwrap();
        assert_eq!(identity.id(), "web-1");
        handshake(server, client).unwrap();
    }

    #[test]
    fn collector_of_another_domain_is_refused() {
        let pki = Pki::new();
        let (server, _) = server_config(&pki.issue("spiffe://b.test/collector/main")).unwrap();
        let (client, _) = client_config(&pki.issue("spiffe://a.test/agent/web-1"), AGENT).unwrap();
        assert!(handshake(server, client).is_err());
    }

    #[test]
    fn certificate_of_another_ca_is_refused() {
        let (pki, other) = (Pki::new(), Pki::new());
        let (server, _) = server_config(&pki.issue("spiffe://a.test/collector/main")).unwrap();
        let mut files = other.issue("spiffe://a.test/agent/web-1");
        files.ca = pki.folder.path().join("ca.pem");
        let (client, _) = client_config(&files, AGENT).unwrap();
        assert!(handshake(server, client).is_err());
    }

    #[test]
    fn agent_certificate_cannot_serve() {
        let pki = Pki::new();
        assert!(matches!(
            server_config(&pki.issue("spiffe://a.test/agent/web-1")),
            Err(TlsError::Role { .. })
        ));
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let pki = Pki::new();
        let mut files = pki.issue("spiffe://a.test/agent/web-1");
        files.key = pki.issue("spiffe://a.test/agent/web-2").key;
        assert!(matches!(
            client_config(&files, AGENT),
            Err(TlsError::Pair { .. })
        ));
    }

    #[test]
    fn missing_and_malformed_files_are_named() {
        let pki = Pki::new();
        let files = pki.issue("spiffe://a.test/agent/web-1");
        let mut missing = files.clone();
        missing.key = pki.folder.path().join("nowhere.key");
        let message = client_config(&missing, AGENT).unwrap_err().to_string();
        assert!(message.contains("nowhere.key"), "{message}");

        fs::write(&files.certificate, "not a certificate").unwrap();
        assert!(matches!(
            client_config(&files, AGENT),
            Err(TlsError::Pem {
                what: "certificate",
                ..
            })
        ));
    }
}

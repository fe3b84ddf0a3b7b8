//! Who is on the other side: the SPIFFE-style name in a certificate's URI.
//!
//! `spiffe://DOMAIN/agent/ID`, `spiffe://DOMAIN/collector/ID` and
//! `spiffe://DOMAIN/admin/NAME`. A certificate has exactly one such name and
//! speaks for nobody else.

use std::{fmt, str::FromStr};

use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// What an identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node's agent.
    Agent,
    /// A collector.
    Collector,
    /// A person with `shrikectl`.
    Admin,
}

impl Role {
    /// Returns the path segment that stands for the role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Collector => "collector",
            Self::Admin => "admin",
        }
    }
}

/// A name of the form `spiffe://DOMAIN/ROLE/ID` (SPIFFE ID, section 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    domain: Box<str>,
    role: Role,
    id: Box<str>,
}

/// A certificate or name that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not `spiffe://DOMAIN/ROLE/ID`.
    #[error("{0:?} is not spiffe://DOMAIN/{{agent|collector|admin}}/ID")]
    Form(String),
    /// Not an X.509 certificate.
    #[error("not an X.509 certificate")]
    Certificate,
    /// Without or with several URI names.
    #[error("the certificate has {0} URI names, expected exactly one spiffe:// name")]
    UriCount(usize),
}

impl Identity {
    /// Builds an identity.
    ///
    /// # Errors
    /// [`IdentityError::Form`] when domain or ID has other bytes than
    /// `a-z0-9-._`, is empty or longer than 63 (ID) or 255 (domain).
    pub fn new(domain: &str, role: Role, id: &str) -> Result<Self, IdentityError> {
        let fits = |text: &str, longest: usize| {
            (1..=longest).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
        };
        if !fits(domain, 255) || !fits(id, 63) {
            return Err(IdentityError::Form(format!(
                "spiffe://{domain}/{}/{id}",
                role.as_str()
            )));
        }
        Ok(Self {
            domain: domain.into(),
            role,
            id: id.into(),
        })
    }

    /// Reads the identity from a DER certificate.
    ///
    /// # Errors
    /// [`IdentityError`] when it has none, or more than one URI name.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
        let uris: Vec<&str> = certificate
            .extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(names),
                _ => None,
            })
            .flat_map(|names| &names.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => uri.parse(),
            _ => Err(IdentityError::UriCount(uris.len())),
        }
    }

    /// Returns the trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the last segment: a node's, collector's or person's name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(value: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(value.chars().take(300).collect());
        let mut segments = value.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        let (Some(domain), Some(role), Some(id), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(form());
        };
        let role = match role {
            "agent" => Role::Agent,
            "collector" => Role::Collector,
            "admin" => Role::Admin,
            _ => return Err(form()),
        };
        Self::new(domain, role, id).map_err(|_| form())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/{}/{}",
            self.domain,
            self.role.as_str(),
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_three_parts_and_a_known_role() {
        let check = |value: &str, valid: bool| {
            assert_eq!(value.parse::<Identity>().is_ok(), valid, "{value:?}");
        };
        check("spiffe://example.org/agent/web-1", true);
        check("spiffe://example.org/collector/main", true);
        check("spiffe://example.org/admin/alice", true);
        check("spiffe://example.org/root/alice", false);
        check("spiffe://example.org/agent/", false);
        check("spiffe:///agent/web-1", false);
        check("spiffe://example.org/agent/web-1/x", false);
        check("spiffe://example.org/agent/Web", false);
        check("https://example.org/agent/web-1", false);
    }

    #[test]
    fn certificate_carries_its_name() {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(
            "spiffe://example.org/agent/web-1".try_into().unwrap(),
        )];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let identity = Identity::from_certificate(certificate.der()).unwrap();
        assert_eq!(identity.role(), Role::Agent);
        assert_eq!(identity.id(), "web-1");
    }

    #[test]
    fn certificate_without_a_name_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        assert_eq!(
            Identity::from_certificate(certificate.der()),
            Err(IdentityError::UriCount(0))
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Identity::from_certificate(&bytes).is_err());
        }
    }
}

//! A development PKI: one CA, and certificates with Shrike's names.
//!
//! Keys are ECDSA P-256 and readable by their owner only. Nothing is ever
//! overwritten. The CA's key lies unprotected beside the rest and nothing
//! revokes a certificate, which is why this is for development: names and
//! usages are those of production, the care for the key is not.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use shrike_proto::identity::{Identity, Role};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::{
    args::{PkiInitArgs, PkiIssueArgs, RoleWord},
    failure::{Exit, Failure},
    output::Output,
};

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// `pki init`
pub(crate) fn init(args: &PkiInitArgs, output: &Output) -> Result<Exit, Failure> {
    // Domains have the form that names need; any role and ID shows it.
    Identity::new(&args.domain, Role::Admin, "x").map_err(|_| {
        Failure::input(anyhow!(
            "trust domain {:?} is not valid: use 1 to 255 of a-z, 0-9, '-', '.' and '_'",
            args.domain
        ))
    })?;
    let certificate = args.dir.join(CA_CERTIFICATE);
    let key = args.dir.join(CA_KEY);
    refuse_to_overwrite(&[&certificate, &key])?;
    fs::create_dir_all(&args.dir).map_err(|error| {
        Failure::failed(error).doing(format!("cannot make {}", args.dir.display()))
    })?;
    let (certificate_pem, key_pem) =
        make_ca(&args.domain, args.days).context("cannot make the CA")?;
    write_pair(&certificate, &certificate_pem, &key, &key_pem)?;
    output.note(&format!(
        "made a development CA for {} in {}: keep {CA_KEY} to yourself",
        args.domain,
        args.dir.display()
    ));
    output.note(&format!(
        "next: shrikectl pki issue --dir {0} collector main && shrikectl pki issue --dir {0} admin \"$USER\"",
        args.dir.display()
    ));
    Ok(Exit::Ok)
}

/// `pki issue`
pub(crate) fn issue(args: &PkiIssueArgs, output: &Output) -> Result<Exit, Failure> {
    let ca = Ca::load(&args.dir)?;
    let role = match args.role {
        RoleWord::Agent => Role::Agent,
        RoleWord::Collector => Role::Collector,
        RoleWord::Admin => Role::Admin,
    };
    // Node names and the others have the same form; Identity allows a
    // leading punctuation mark that names do not.
    shrike_proto::id::NodeId::parse(&args.id).map_err(|_| {
        Failure::input(anyhow!(
            "{} name {:?} is not valid: use 1 to 63 of a-z, 0-9, '-', '.' and '_', starting with a letter or digit",
            role.as_str(),
            args.id
        ))
    })?;
    let identity = Identity::new(&ca.domain, role, &args.id).map_err(Failure::input)?;
    let stem = format!("{}-{}", role.as_str(), args.id);
    let certificate = args.dir.join(format!("{stem}.pem"));
    let key = args.dir.join(format!("{stem}.key"));
    refuse_to_overwrite(&[&certificate, &key])?;
    let (certificate_pem, key_pem) = ca
        .sign(&identity, args.days)
        .context("cannot issue the certificate")?;
    write_pair(&certificate, &certificate_pem, &key, &key_pem)?;
    output.note(&format!(
        "issued {identity} for {} days: {} and {}",
        args.days,
        certificate.display(),
        key.display()
    ));
    if role == Role::Admin {
        output.note(&format!(
            "next: shrikectl context set dev --collector HOST:7433 --ca {} --cert {} --key {}",
            args.dir.join(CA_CERTIFICATE).display(),
            certificate.display(),
            key.display()
        ));
    }
    Ok(Exit::Ok)
}

fn make_ca(domain: &str, days: u32) -> anyhow::Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Shrike development CA {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A signing authority's own SPIFFE ID has no path (X509-SVID, section 3.1).
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    set_validity(&mut params, days)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A CA that can sign.
struct Ca {
    domain: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn load(dir: &Path) -> Result<Self, Failure> {
        let certificate = dir.join(CA_CERTIFICATE);
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|error| {
                Failure::input(error)
                    .doing(format!("cannot read {}", path.display()))
                    .hint("`shrikectl pki init --dir DIR --domain DOMAIN` makes a CA")
            })
        };
        let certificate_pem = read(&certificate)?;
        let key = dir.join(CA_KEY);
        let key_pair = KeyPair::from_pem(&read(&key)?)
            .map_err(|error| Failure::input(error).doing(format!("{} is no key", key.display())))?;
        let domain = domain_of(&certificate_pem)
            .map_err(|error| Failure::input(error.context(certificate.display().to_string())))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key_pair).map_err(|error| {
            Failure::input(error).doing(format!("{} is no CA", certificate.display()))
        })?;
        Ok(Self { domain, issuer })
    }

    fn sign(&self, identity: &Identity, days: u32) -> anyhow::Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(identity.id());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match identity.role() {
            Role::Collector => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Agent | Role::Admin => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, days)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((
            params.signed_by(&key, &self.issuer)?.pem(),
            key.serialize_pem(),
        ))
    }
}

/// Reads the trust domain that `init` put into the CA certificate.
fn domain_of(pem: &str) -> anyhow::Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|_| anyhow!("it holds no certificate"))?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents)
        .map_err(|_| anyhow!("it holds no X.509 certificate"))?;
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names),
            _ => None,
        })
        .flat_map(|names| &names.general_names)
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
            _ => None,
        })
        .ok_or_else(|| anyhow!("it names no trust domain: was it made by `shrikectl pki init`?"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From yesterday, because clocks differ, until `days` from today.
fn set_validity(params: &mut CertificateParams, days: u32) -> anyhow::Result<()> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let moment = |date: Date| {
        Ok::<_, anyhow::Error>(date_time_ymd(
            date.year().into(),
            u8::try_from(date.month())?,
            u8::try_from(date.day())?,
        ))
    };
    params.not_before = moment(today.checked_sub(1.day())?)?;
    params.not_after = moment(today.checked_add(i64::from(days).days())?)?;
    Ok(())
}

fn refuse_to_overwrite(paths: &[&PathBuf]) -> Result<(), Failure> {
    match paths.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Failure::input(anyhow!(
            "{} exists and is not overwritten",
            path.display()
        ))
        .hint("move it away first, or use another name")),
    }
}

/// Writes key and certificate, or neither.
fn write_pair(
    certificate: &Path,
    certificate_pem: &str,
    key: &Path,
    key_pem: &str,
) -> Result<(), Failure> {
    write_new(key, key_pem, KEY_MODE)?;
    write_new(certificate, certificate_pem, CERTIFICATE_MODE).inspect_err(|_| {
        // A key without its certificate is of no use; the error is reported.
        let _ = fs::remove_file(key);
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write()
        .map_err(|error| Failure::failed(error).doing(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use shrike_proto::tls::{TlsFiles, client_config, server_config};

    use super::*;
    use crate::args::ColorWhen;

    fn init_in(dir: &Path) -> Result<Exit, Failure> {
        let args = PkiInitArgs {
            dir: dir.to_owned(),
            domain: "shrike.test".to_owned(),
            days: 10,
        };
        init(&args, &Output::new(ColorWhen::Never))
    }

    fn issue_in(dir: &Path, role: RoleWord, id: &str) -> Result<Exit, Failure> {
        let args = PkiIssueArgs {
            dir: dir.to_owned(),
            role,
            id: id.to_owned(),
            days: 10,
        };
        issue(&args, &Output::new(ColorWhen::Never))
    }

    fn files(dir: &Path, stem: &str) -> TlsFiles {
        TlsFiles {
            ca: dir.join(CA_CERTIFICATE),
            certificate: dir.join(format!("{stem}.pem")),
            key: dir.join(format!("{stem}.key")),
        }
    }

    #[test]
    fn issued_certificates_are_what_each_role_needs() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("pki");
        init_in(&dir).unwrap();
        issue_in(&dir, RoleWord::Collector, "main").unwrap();
        issue_in(&dir, RoleWord::Agent, "web-1").unwrap();
        issue_in(&dir, RoleWord::Admin, "alice").unwrap();
        let (_, collector) = server_config(&files(&dir, "collector-main")).unwrap();
        assert_eq!(collector.to_string(), "spiffe://shrike.test/collector/main");
        let (_, agent) = client_config(&files(&dir, "agent-web-1"), &[Role::Agent]).unwrap();
        assert_eq!(agent.to_string(), "spiffe://shrike.test/agent/web-1");
        let (_, admin) = client_config(&files(&dir, "admin-alice"), &[Role::Admin]).unwrap();
        assert_eq!(admin.to_string(), "spiffe://shrike.test/admin/alice");
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        init_in(folder.path()).unwrap();
        issue_in(folder.path(), RoleWord::Agent, "web-1").unwrap();
        for name in [CA_KEY, "agent-web-1.key"] {
            let mode = fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        init_in(folder.path()).unwrap();
        issue_in(folder.path(), RoleWord::Agent, "web-1").unwrap();
        let before = fs::read(folder.path().join(CA_KEY)).unwrap();
        assert!(init_in(folder.path()).is_err());
        assert!(issue_in(folder.path(), RoleWord::Agent, "web-1").is_err());
        assert_eq!(fs::read(folder.path().join(CA_KEY)).unwrap(), before);
    }

    #[test]
    fn bad_names_and_a_missing_ca_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(issue_in(folder.path(), RoleWord::Agent, "web-1").is_err());
        init_in(folder.path()).unwrap();
        for id in ["", "Web", "a/b", "../x", "-a", "a b"] {
            assert!(
                issue_in(folder.path(), RoleWord::Agent, id).is_err(),
                "{id:?}"
            );
        }
        fs::write(folder.path().join(CA_CERTIFICATE), "garbage").unwrap();
        assert!(issue_in(folder.path(), RoleWord::Agent, "web-2").is_err());
    }
}

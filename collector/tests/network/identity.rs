//! A certificate opens the door, and only to what its role may do.

use shrike_proto::{
    tls::TlsFiles,
    wire::{
        admin::{ListNodesRequest, QueryEventsRequest, node_service_client::NodeServiceClient},
        ingest::Hello,
    },
};
use tonic::Code;

use crate::{
    certificates::Pki,
    client::{Session, channel, hello, query, sealed},
    process::Home,
    site::Site,
};

async fn check_refused_at_the_door(address: &str, files: &TlsFiles) {
    let refused = Session::open(address, files, "node-a").await;
    assert!(refused.is_err(), "{:?} got in", files.certificate);
}

#[tokio::test]
async fn strangers_are_refused_at_the_door() {
    let (pki, other) = (Pki::new(), Pki::new());
    let home = Home::new(&pki);
    let collector = home.start();
    // A certificate of another CA, though the client trusts ours.
    let mut foreign = other.issue("agent/node-a");
    foreign.ca = pki.ca();
    check_refused_at_the_door(&collector.address, &foreign).await;
    // Ours, but of another trust domain: the client refuses us as well, so
    // what counts is that it does not get in.
    let elsewhere = pki.issue_uri("spiffe://b.test/agent/node-a");
    check_refused_at_the_door(&collector.address, &elsewhere).await;
    // The others do not notice.
    let agent = pki.issue("agent/node-a");
    let (mut session, _) = Session::open(&collector.address, &agent, "node-a")
        .await
        .unwrap();
    session.send_batch(sealed(1, 1)).await;
    assert_eq!(session.ack().await, 1);
}

#[tokio::test]
async fn client_without_a_certificate_is_refused() {
    use std::sync::Arc;
    let site = Site::start();
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(site.pki.ca()).unwrap();
    for certificate in
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(
            &pem,
        )
    {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let channel = shrike_proto::transport::channel(site.address(), Arc::new(config)).unwrap();
    assert!(
        NodeServiceClient::new(channel)
            .list_nodes(ListNodesRequest::default())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn agent_speaks_for_its_own_node_only() {
    let site = Site::start();
    let mut session = Session::connect(site.address(), &site.agent).await.unwrap();
    session
        .send_hello(Hello {
            node: "node-b".to_owned(),
            ..hello("node-a")
        })
        .await;
    let status = session.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("node-b"), "{status:?}");
}

#[tokio::test]
async fn roles_keep_to_their_services() {
    let site = Site::start();
    let status = query(site.address(), &site.agent, QueryEventsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let Err(status) = Session::open(site.address(), &site.admin, "alice").await else {
        panic!("an admin opened an event session");
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let nodes = NodeServiceClient::new(channel(site.address(), &site.admin))
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(nodes.nodes.is_empty());
}

#[tokio::test]
async fn bad_certificates_of_its_own_end_the_collector_with_2() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let home = Home::with_data_dir(folder, &pki.issue("agent/node-a"), data_dir, 1_000_000, "");
    let refused = home.command(&["run"]);
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        words.contains("expected one for the role \"collector\""),
        "{words}"
    );
}

#[test]
fn bad_configuration_ends_the_collector_with_2() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let home = Home::with_data_dir(
        folder,
        &pki.issue("collector/main"),
        data_dir,
        1_000_000,
        "lisen = 1",
    );
    let refused = home.command(&["config", "check"]);
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        words.contains("collector.toml:4:1: unknown field `lisen`"),
        "{words}"
    );
}

#[test]
fn config_check_prints_what_is_in_effect() {
    let home = Home::new(&Pki::new());
    let refused = home.command(&["config", "check"]);
    // The infrastructure's folder is gone, and with it the certificates.
    assert_eq!(refused.status.code(), Some(2));
    let pki = Pki::new();
    let home = Home::new(&pki);
    let checked = home.command(&["config", "check"]);
    assert_eq!(checked.status.code(), Some(0));
    let words = String::from_utf8_lossy(&checked.stdout);
    assert!(words.contains("handshake_timeout_ms = 1000"), "{words}");
    assert!(words.contains("spiffe://a.test/collector/main"), "{words}");
}

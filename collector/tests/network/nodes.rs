//! Nodes that are gone for good.

use shrike_proto::wire::admin::{
    ForgetNodeRequest, ListNodesRequest, PushPoliciesRequest,
    node_service_client::NodeServiceClient, policy_service_client::PolicyServiceClient,
};
use tonic::{Code, Status};

use crate::{
    client::{PATIENCE, channel, sealed},
    policies::{document, push},
    site::{NODE, Site},
};

async fn forget(site: &Site, node: &str) -> Result<(), Status> {
    let node = node.to_owned();
    let mut nodes = NodeServiceClient::new(channel(site.address(), &site.admin));
    nodes.forget_node(ForgetNodeRequest { node }).await?;
    Ok(())
}

async fn listed(site: &Site) -> Vec<String> {
    let mut nodes = NodeServiceClient::new(channel(site.address(), &site.admin));
    let listed = nodes.list_nodes(ListNodesRequest::default()).await.unwrap();
    let nodes = listed.into_inner().nodes;
    nodes.into_iter().map(|node| node.name).collect()
}

/// Returns the nodes that a push would touch.
async fn touched(site: &Site) -> Vec<String> {
    let mut policies = PolicyServiceClient::new(channel(site.address(), &site.admin));
    let rehearsal = PushPoliciesRequest {
        dry_run: true,
        ..push(0, vec![document("for-everybody", None)])
    };
    let pushed = policies.push_policies(rehearsal).await.unwrap();
    pushed.into_inner().nodes
}

#[tokio::test]
async fn forgotten_node_holds_up_no_push_and_its_events_stay() {
    let mut site = Site::start();
    let mut session = site.session().await;
    session.send_batch(sealed(1, 10)).await;
    assert_eq!(session.ack().await, 10);
    assert_eq!(touched(&site).await, [NODE]);

    let refused = forget(&site, NODE).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(listed(&site).await, [NODE]);
    drop(session);
    // The collector hears of the end a moment later.
    let forgotten = async {
        while let Err(status) = forget(&site, NODE).await {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
    assert!(listed(&site).await.is_empty());
    assert!(touched(&site).await.is_empty());

    site.restart();
    assert!(listed(&site).await.is_empty());
    assert!(site.sequences().await.into_iter().eq(1..=10));

    // What it sent before is not stored twice when it comes back after all.
    let mut session = site.session().await;
    session.send_batch(sealed(1, 10)).await;
    assert_eq!(session.ack().await, 10);
    assert_eq!(listed(&site).await, [NODE]);
    assert!(site.sequences().await.into_iter().eq(1..=10));
}

#[tokio::test]
async fn node_that_never_was_cannot_be_forgotten() {
    let site = Site::start();
    let unknown = forget(&site, "nobody").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.message(), "no node `nobody` is known");
    let nonsense = forget(&site, "no body").await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
}

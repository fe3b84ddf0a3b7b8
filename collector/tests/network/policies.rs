//! From a push to the agents and back.

use shrike_proto::{
    id::Generation,
    policy::PolicySet,
    tls::TlsFiles,
    wire::{
        admin::{
            DeletePolicyRequest, GetPolicyRequest, ListNodesRequest, ListPoliciesRequest,
            PolicyDocument, PushPoliciesRequest, WatchRolloutRequest, WatchRolloutResponse,
            node_service_client::NodeServiceClient, policy_service_client::PolicyServiceClient,
        },
        control::{
            ControlHello, Offer, PolicyState, PolicyStatus, StreamPoliciesRequest,
            StreamPoliciesResponse, control_service_client::ControlServiceClient,
            stream_policies_request, stream_policies_response,
        },
        event::Action,
        ingest::NodeInfo,
        policy::{Matcher, Mode, Policy, Rule, Trigger},
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    certificates::Pki,
    client::{PATIENCE, channel},
    process::Home,
    site::Site,
};

struct Agent {
    sender: mpsc::Sender<StreamPoliciesRequest>,
    offers: Streaming<StreamPoliciesResponse>,
}

impl Agent {
    async fn connect(
        address: &str,
        files: &TlsFiles,
        node: &str,
        role: &str,
        applied: Option<&PolicySet>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(8);
        let hello = ControlHello {
            node: node.to_owned(),
            info: Some(NodeInfo {
                labels: [("role".to_owned(), role.to_owned())].into(),
                ..NodeInfo::default()
            }),
            applied_generation: applied.map_or(0, |set| set.generation.0),
            applied_hash: applied.map(|set| set.hash().0.to_vec()).unwrap_or_default(),
            ..ControlHello::default()
        };
        sender
            .send(StreamPoliciesRequest {
                message: Some(stream_policies_request::Message::Hello(Box::new(hello))),
            })
            .await
            .unwrap();
        let offers = ControlServiceClient::new(channel(address, files))
            .stream_policies(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        Self { sender, offers }
    }

    async fn offer(&mut self) -> (PolicySet, Offer) {
        let message = timeout(PATIENCE, self.offers.message())
            .await
            .expect("an offer in time")
            .unwrap()
            .unwrap();
        let stream_policies_response::Message::Offer(offer) = message.message.unwrap();
        let set = PolicySet::try_from(offer.set.clone().unwrap()).unwrap();
        (set, offer)
    }

    async fn answer(&self, set: &PolicySet, state: PolicyState, reason: &str) {
        let status = PolicyStatus {
            generation: set.generation.0,
            state: state.into(),
            hash: set.hash().0.to_vec(),
            map_digest: Vec::new(),
            reason: reason.to_owned(),
        };
        self.sender
            .send(StreamPoliciesRequest {
                message: Some(stream_policies_request::Message::Status(status)),
            })
            .await
            .unwrap();
    }
}

pub fn document(name: &str, role: Option<&str>) -> PolicyDocument {
    PolicyDocument {
        policy: Some(Policy {
            name: name.to_owned(),
            mode: Mode::Enforce.into(),
            nodes: role
                .map(|role| [("role".to_owned(), role.to_owned())].into())
                .unwrap_or_default(),
            rules: vec![Rule {
                name: "no-netcat".to_owned(),
                trigger: Trigger::Exec.into(),
                matcher: Some(Matcher {
                    comm: vec!["nc".to_owned()],
                    ..Matcher::default()
                }),
                action: Action::Kill.into(),
                ..Rule::default()
            }],
        }),
        source: format!("# {name}"),
        ..PolicyDocument::default()
    }
}

pub fn push(parent: u64, documents: Vec<PolicyDocument>) -> PushPoliciesRequest {
    PushPoliciesRequest {
        parent_generation: parent,
        documents,
        dry_run: false,
    }
}

async fn last(
    policies: &mut PolicyServiceClient<Channel>,
    generation: u64,
) -> WatchRolloutResponse {
    let mut states = policies
        .watch_rollout(WatchRolloutRequest { generation })
        .await
        .unwrap()
        .into_inner();
    loop {
        let state = timeout(PATIENCE, states.message())
            .await
            .expect("a state in time")
            .unwrap()
            .expect("the last state is done");
        if state.done {
            return state;
        }
    }
}

#[tokio::test]
async fn push_reaches_the_nodes_that_it_selects() {
    let site = Site::start();
    let address = site.address();
    let admin = channel(address, &site.admin);
    let mut policies = PolicyServiceClient::new(admin.clone());
    let mut web = Agent::connect(address, &site.pki.issue("agent/web"), "web", "web", None).await;
    let mut db = Agent::connect(address, &site.pki.issue("agent/db"), "db", "db", None).await;
    // Both are known once they are listed.
    loop {
        let nodes = NodeServiceClient::new(admin.clone())
            .list_nodes(ListNodesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .nodes;
        if nodes.iter().filter(|node| node.control_connected).count() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    let pushed = policies
        .push_policies(push(0, vec![document("p", Some("web"))]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (pushed.generation, pushed.nodes),
        (1, vec!["web".to_owned()])
    );
    let (set, _) = web.offer().await;
    assert_eq!((set.generation, set.policies.len()), (Generation(1), 1));
    web.answer(&set, PolicyState::Received, "").await;
    web.answer(&set, PolicyState::Applied, "").await;
    let state = last(&mut policies, 1).await;
    assert_eq!(state.nodes.len(), 1);
    assert_eq!(state.nodes[0].applied_generation, 1);
    assert_eq!(state.nodes[0].state(), PolicyState::Applied);

    // The other node hears of a policy for everybody first.
    policies
        .push_policies(push(1, vec![document("all", None)]))
        .await
        .unwrap();
    let (set, _) = db.offer().await;
    assert_eq!((set.generation, set.policies.len()), (Generation(2), 1));
    db.answer(&set, PolicyState::Rejected, "no such hook").await;
    let (set, _) = web.offer().await;
    assert_eq!(set.policies.len(), 2);
    web.answer(&set, PolicyState::Applied, "").await;
    let state = last(&mut policies, 2).await;
    let of_db = state.nodes.iter().find(|node| node.node == "db").unwrap();
    assert_eq!(of_db.state(), PolicyState::Rejected);
    assert_eq!(of_db.reason, "no such hook");

    // A deletion is a generation like any other.
    let deleted = policies
        .delete_policy(DeletePolicyRequest {
            parent_generation: 2,
            name: "p".to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (deleted.generation, deleted.nodes),
        (3, vec!["web".to_owned()])
    );
    assert_eq!(web.offer().await.0.policies.len(), 1);
}

#[tokio::test]
async fn book_survives_a_crash_and_offers_on_connect() {
    let pki = Pki::new();
    let home = Home::new(&pki);
    let (agent, admin) = (pki.issue("agent/web"), pki.issue("admin/alice"));
    let mut collector = home.start();
    PolicyServiceClient::new(channel(&collector.address, &admin))
        .push_policies(push(0, vec![document("p", None)]))
        .await
        .unwrap();
    collector.kill();

    let collector = home.start();
    let mut policies = PolicyServiceClient::new(channel(&collector.address, &admin));
    let book = policies
        .list_policies(ListPoliciesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(book.generation, 1);
    assert_eq!(book.documents[0].source, "# p");
    assert_eq!(book.documents[0].pushed_by, "spiffe://a.test/admin/alice");
    let mut web = Agent::connect(&collector.address, &agent, "web", "web", None).await;
    let (set, _) = web.offer().await;
    assert_eq!(set.generation, Generation(1));

    // Who has it already is left alone, and hears of the next one only.
    drop(web);
    let mut web = Agent::connect(&collector.address, &agent, "web", "web", Some(&set)).await;
    policies
        .push_policies(push(1, vec![document("q", None)]))
        .await
        .unwrap();
    assert_eq!(web.offer().await.0.generation, Generation(2));
}

#[tokio::test]
async fn mistakes_of_a_push_are_told_apart() {
    let site = Site::start();
    let mut policies = PolicyServiceClient::new(channel(site.address(), &site.admin));
    let mut code = async |request| policies.push_policies(request).await.unwrap_err().code();
    assert_eq!(
        code(push(7, vec![document("p", None)])).await,
        Code::Aborted
    );
    assert_eq!(code(push(0, Vec::new())).await, Code::InvalidArgument);
    let mut idle = document("p", None);
    idle.policy.as_mut().unwrap().rules[0].action = Action::Unspecified.into();
    assert_eq!(code(push(0, vec![idle])).await, Code::InvalidArgument);
    let twice = vec![document("p", None), document("p", None)];
    assert_eq!(code(push(0, twice)).await, Code::InvalidArgument);
    let missing = policies
        .get_policy(GetPolicyRequest {
            name: "nowhere".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let unknown = policies
        .watch_rollout(WatchRolloutRequest { generation: 9 })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // A rehearsal changes nothing.
    let rehearsed = policies
        .push_policies(PushPoliciesRequest {
            dry_run: true,
            ..push(0, vec![document("p", None)])
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rehearsed.generation, 1);
    let book = policies
        .list_policies(ListPoliciesRequest {})
        .await
        .unwrap();
    assert_eq!(book.into_inner().generation, 0);
}

//! A small fleet: one collector on this machine's loopback, two virtual
//! machines with an agent each, and an administrator's `shrikectl`.
//!
//! Everything is done as a person would do it: `shrikectl pki` makes the
//! certificates, configuration files name them, programs are started and
//! stopped with signals.

mod collector;
mod ctl;
mod node;
mod process;
mod receiver;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use collector::Collector;
pub use ctl::{Ctl, NodeRow};
pub use node::Node;
pub use process::{Local, Ran};
pub use receiver::{Receiver, Span};

use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;

/// The trust domain of every certificate made here.
const DOMAIN: &str = "demo.shrike";

/// From the start of two agents to their sessions: loading the programs into
/// an emulated kernel is most of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(180);

/// An agent reports a changed ledger at least once a second.
const LEDGER_INTERVAL: Duration = Duration::from_millis(1500);

/// A fleet that runs; dropping it stops everything that it started.
pub struct Fleet {
    /// The nodes, stopped first.
    pub nodes: Vec<Node>,
    /// The collector.
    pub collector: Collector,
    /// Where spans go.
    pub receiver: Receiver,
    /// The administrator.
    pub ctl: Ctl,
    folder: tempfile::TempDir,
    /// How often it was settled, for a name each time.
    settled: AtomicU32,
}

/// The nodes that every fleet has: one for each kernel.
pub const NODES: [(&str, Kernel); 2] = [("node-a", Kernel::V6_1), ("node-b", Kernel::V6_12)];

impl Fleet {
    /// Starts everything and waits until both nodes are connected.
    ///
    /// `say` is told what happens, a line at a time.
    ///
    /// # Errors
    /// When any part does not come up.
    pub fn start(layout: &Layout, binaries: &Binaries, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("shrike-fleet-")
            .tempdir()
            .context("cannot create the fleet's folder")?;
        let pki = folder.path().join("pki");
        let port = free_port()?;
        let ctl = Ctl::new(&binaries.ctl, &pki, port);
        ctl.init_pki(DOMAIN)?;
        ctl.issue("collector", "main")?;
        ctl.issue("admin", "ada")?;
        for (name, _) in NODES {
            ctl.issue("agent", name)?;
        }
        say("certificates made: a CA, a collector, an administrator and two agents");

        let receiver = Receiver::start(layout, folder.path())?;
        let ctl = ctl.exporting_to(&receiver.endpoint("127.0.0.1"));
        let collector = Collector::start(
            &binaries.collector,
            folder.path(),
            &pki,
            port,
            Some(&receiver.endpoint("127.0.0.1")),
        )?;
        say(&format!("collector listens on 127.0.0.1:{port}"));

        let machines: Vec<Result<Node>> = thread::scope(|scope| {
            let boots: Vec<_> = NODES
                .iter()
                .map(|(name, kernel)| scope.spawn(|| Node::boot(layout, binaries, name, *kernel)))
                .collect();
            let join = |boot: thread::ScopedJoinHandle<'_, _>| boot.join().expect("boots return");
            boots.into_iter().map(join).collect()
        });
        let mut nodes = machines.into_iter().collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            say(&format!(
                "{} booted Linux {} in {:.1} s",
                node.name(),
                node.machine.release(),
                node.machine.boot_time().as_secs_f64()
            ));
        }
        for node in &mut nodes {
            node.enrol(&pki, port, &receiver)?;
            node.start_agent()?;
        }
        let fleet = Self {
            nodes,
            collector,
            receiver,
            ctl,
            folder,
            settled: AtomicU32::new(0),
        };
        fleet.wait_until_connected(CONNECT_TIMEOUT)?;
        say("both agents are connected");
        Ok(fleet)
    }

    /// The node with this name.
    ///
    /// # Panics
    /// When there is none: the names are ours.
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.expect("a node of the fleet")
    }

    /// The folder with certificates, configuration, store and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the certificates lie.
    pub fn pki(&self) -> PathBuf {
        self.folder.path().join("pki")
    }

    /// Waits until every node has both of its sessions.
    ///
    /// # Errors
    /// When that takes longer than `timeout`, with what the agents said.
    pub fn wait_until_connected(&self, timeout: Duration) -> Result<()> {
        let connected = poll(timeout, || {
            let Ok(nodes) = self.ctl.nodes() else {
                return Ok(None);
            };
            let up = self.nodes.iter().all(|node| {
                nodes.iter().any(|seen| {
                    seen.name == node.name() && seen.events_connected && seen.control_connected
                })
            });
            Ok(up.then_some(()))
        });
        connected.with_context(|| {
            let mut said = String::from("the agents did not connect");
            for node in &self.nodes {
                said.push_str(&format!("\n--- {}\n{}", node.name(), node.agent_said()));
            }
            said.push_str(&format!("\n--- collector\n{}", self.collector.said()));
            said
        })
    }

    /// Waits until everything that has happened on the nodes is stored or
    /// counted as lost, and their ledgers rest.
    ///
    /// A ledger that rests may only be late: so each node opens a file of its
    /// own first, and what came before that open has arrived when it has.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub fn settle(&self, timeout: Duration) -> Result<()> {
        let mark = format!(
            "/tmp/settled-{}",
            self.settled.fetch_add(1, Ordering::Relaxed)
        );
        for node in &self.nodes {
            node.machine.shell(&format!(": > {mark}"))?;
        }
        for node in &self.nodes {
            let filters = ["--node", node.name(), "--kind", "open", "--path", &mark];
            poll(timeout, || {
                Ok((!self.ctl.events(&filters)?.is_empty()).then_some(()))
            })
            .with_context(|| format!("what {} did does not arrive", node.name()))?;
        }
        let mut before = None;
        poll(timeout, || {
            let nodes = self.ctl.nodes()?;
            // What the agent itself opens is seen and left out, at any time.
            let totals: Vec<_> = nodes
                .iter()
                .map(|node| (node.stored, node.seen - node.filtered))
                .collect();
            let rests = nodes
                .iter()
                .all(|node| node.stored + node.lost_by_agent >= node.sequenced)
                && before.as_ref() == Some(&totals);
            before = Some(totals);
            if !rests {
                thread::sleep(LEDGER_INTERVAL);
            }
            Ok(rests.then_some(()))
        })
        .with_context(|| {
            format!(
                "the nodes' ledgers do not come to rest: {:#?}",
                self.ctl.nodes()
            )
        })
    }
}

/// Looks again and again until something is there.
///
/// # Errors
/// When it is not there in time, or looking fails.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(250);
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{} s went by", timeout.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// A loopback port that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

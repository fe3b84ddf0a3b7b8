//! A running collector with an agent's and an admin's certificate: what most
//! tests begin with.

use shrike_proto::tls::TlsFiles;

use crate::{
    certificates::Pki,
    client::{Session, sequences},
    process::{Collector, Home},
};

/// The agent's node.
pub const NODE: &str = "node-a";

pub struct Site {
    /// Ends before its home does.
    pub collector: Collector,
    pub home: Home,
    pub pki: Pki,
    pub agent: TlsFiles,
    pub admin: TlsFiles,
}

impl Site {
    pub fn start() -> Self {
        let pki = Pki::new();
        let home = Home::new(&pki);
        Self {
            collector: home.start(),
            home,
            agent: pki.issue(&format!("agent/{NODE}")),
            admin: pki.issue("admin/alice"),
            pki,
        }
    }

    pub fn address(&self) -> &str {
        &self.collector.address
    }

    /// Opens an event session of the agent.
    pub async fn session(&self) -> Session {
        let opened = Session::open(self.address(), &self.agent, NODE).await;
        opened.unwrap().0
    }

    /// Everything that is stored, by sequence number.
    pub async fn sequences(&self) -> Vec<u64> {
        sequences(self.address(), &self.admin).await
    }

    /// Cuts the collector's power and starts it again.
    pub fn restart(&mut self) {
        self.collector.kill();
        self.collector = self.home.start();
    }
}

//! Builds the collector from its configuration, and takes it down in order.
//!
//! Shutdown, written down once:
//!
//! 1. The door closes; sessions, tails and roll-out watches end with
//!    `UNAVAILABLE`, and agents keep what was not acknowledged.
//! 2. The server finishes what is being answered, for at most
//!    [`DRAIN_TIMEOUT`].
//! 3. The fleet stores the records of its nodes.
//! 4. The writer commits what is queued and ends; the store closes.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use shrike_proto::{
    identity::{Identity, Role},
    tls::{self, TlsError, TlsFiles},
    transport::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, MESSAGE_BYTES_MAX},
    wire::{
        FILE_DESCRIPTOR_SET,
        admin::{
            event_service_server::EventServiceServer, node_service_server::NodeServiceServer,
            policy_service_server::PolicyServiceServer,
        },
        control::control_service_server::ControlServiceServer,
        ingest::ingest_service_server::IngestServiceServer,
    },
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::Router},
};

use crate::{
    admin::{EventAdmin, NodeAdmin, PolicyAdmin},
    budget::Budget,
    chain::chain,
    config::{CollectorConfig, Limits},
    control::Control,
    fleet, health,
    ingest::{Ingest, Metered},
    listen::{self, peer::Only},
    policy,
    store::{
        Store, StoreError,
        disk::Disk,
        export::{self, ExportError},
        mend::{Mend, mend},
        retention::Retention,
        sled::Existing,
        upkeep,
        verify::Verification,
        writer::Writer,
    },
    tail::Tail,
};

/// Longest that answers under way may take at shutdown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams of one connection: an agent has one, a person's tool a few.
const CONCURRENT_STREAMS_MAX: u32 = 64;

/// Longest header list: ours are far below 1 KiB.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Damages named when the collector refuses to start; `store verify` lists
/// the others.
const DAMAGES_SHOWN: usize = 5;

/// A collector that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its store cannot be checked.
    #[error(transparent)]
    Check(#[from] ExportError),
    /// Its store is not whole.
    #[error("{}", damaged(data_dir, verification))]
    Damaged {
        /// The store's folder.
        data_dir: PathBuf,
        /// What is not whole.
        verification: Box<Verification>,
    },
    /// The schema for reflection cannot be used.
    #[error("cannot offer reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task of the start panicked.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

fn damaged(data_dir: &std::path::Path, verification: &Verification) -> String {
    let mut text = format!("the store {} is damaged:", data_dir.display());
    for damage in verification.damages.iter().take(DAMAGES_SHOWN) {
        text.push_str("\n  ");
        text.push_str(&damage.to_string());
    }
    let more = verification.damaged.saturating_sub(DAMAGES_SHOWN as u64);
    if more > 0 {
        text.push_str(&format!(
            "\n  and {more} more, which `shrike-collector store verify` lists"
        ));
    }
    text.push_str(&format!(
        "\nTo save what is whole, run\n  shrike-collector store export --data-dir {0} > events.ndjson\n\
         then move {0} away and start with an empty folder, or with a backup in it:\n  \
         shrike-collector store restore --data-dir {0} BACKUP",
        data_dir.display()
    ));
    text
}

/// A collector that runs.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    identity: Identity,
    stop: CancellationToken,
    tasks: TaskTracker,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    fleet: JoinHandle<()>,
    fleet_stop: CancellationToken,
    writer: Writer,
    writer_thread: thread::JoinHandle<()>,
}

/// Everything that is served, each for its role.
struct Services {
    ingest: Ingest,
    control: Control,
    nodes: NodeAdmin,
    events: EventAdmin,
    policies: PolicyAdmin,
}

impl Services {
    fn router(self, limits: &Limits) -> Result<Router, StartError> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let (agent, admin) = (Only(Role::Agent), Only(Role::Admin));
        Ok(Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_connection_window_size(limits.window_bytes())
            .initial_stream_window_size(limits.window_bytes())
            .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .add_service(InterceptedService::new(
                Metered::new(
                    IngestServiceServer::new(self.ingest),
                    Budget::new(limits.batch_memory_bytes()),
                ),
                agent,
            ))
            .add_service(InterceptedService::new(
                ControlServiceServer::new(self.control)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
                agent,
            ))
            .add_service(InterceptedService::new(
                NodeServiceServer::new(self.nodes),
                admin,
            ))
            .add_service(InterceptedService::new(
                EventServiceServer::new(self.events),
                admin,
            ))
            .add_service(InterceptedService::new(
                PolicyServiceServer::new(self.policies)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
                admin,
            ))
            .add_service(InterceptedService::new(reflection, admin)))
    }
}

impl Collector {
    /// Opens and verifies the store, and starts to listen.
    ///
    /// # Errors
    /// [`StartError`] says what cannot be used.
    pub async fn start(config: &CollectorConfig) -> Result<Self, StartError> {
        let (mut server_tls, identity) = tls::server_config(&TlsFiles::from(&config.tls))?;
        // A resumed session would skip the check of the client's certificate.
        server_tls.send_tls13_tickets = 0;
        let opening = config.data_dir.clone();
        let (store, verification) =
            tokio::task::spawn_blocking(move || open_store(opening)).await??;
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        let tail = Tail::default();
        let (nodes, book) = (fleet::load(&*store)?, policy::load(&*store)?);
        let (writer, writer_thread) = Writer::start(
            Arc::clone(&store),
            Disk::of(config.data_dir.clone(), config.low_disk_bytes),
            tail.clone(),
            verification.payload_bytes,
        )?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let fleet_stop = CancellationToken::new();
        let (fleet, fleet_task) = fleet::start(nodes, book, writer.clone(), fleet_stop.clone());
        for minute in &verification.loose {
            writer.loose().found(*minute);
        }
        tasks.spawn(upkeep::run(
            Arc::clone(&store),
            writer.clone(),
            Retention {
                days: config.retention.days,
                bytes_max: config.retention.bytes_max,
            },
            stop.clone(),
        ));
        let (reporter, health_service) = tonic_health::server::health_reporter();
        tasks.spawn(health::follow(reporter, writer.state(), stop.clone()));
        let services = Services {
            ingest: Ingest::new(writer.clone(), fleet.clone(), tasks.clone(), stop.clone()),
            control: Control::new(fleet.clone(), tasks.clone(), stop.clone()),
            nodes: NodeAdmin::new(fleet.clone(), Arc::clone(&store)),
            events: EventAdmin::new(Arc::clone(&store), tail, stop.clone()),
            policies: PolicyAdmin::new(fleet, stop.clone()),
        };
        let router = services.router(&config.limits)?.add_service(health_service);
        let incoming = listen::accept(
            listener,
            Arc::new(server_tls),
            identity.clone(),
            listen::Limits {
                connections_max: config.limits.connections_max,
                handshake_timeout: Duration::from_millis(config.limits.handshake_timeout_ms),
            },
            stop.clone(),
        );
        let server = tokio::spawn(
            router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()),
        );
        tracing::info!(%address, %identity, "listening");
        Ok(Self {
            address,
            identity,
            stop,
            tasks,
            server,
            fleet: fleet_task,
            fleet_stop,
            writer,
            writer_thread,
        })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes everything down in order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let mut server = self.server;
        match timeout(DRAIN_TIMEOUT, &mut server).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(error = chain(&error), "the server failed"),
            Ok(Err(error)) => tracing::error!(error = chain(&error), "the server failed"),
            Err(_) => {
                tracing::warn!("some answers took too long and were cut off");
                server.abort();
                let _ = server.await;
            }
        }
        if timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some sessions took too long to end");
        }
        self.fleet_stop.cancel();
        if self.fleet.await.is_err() {
            tracing::error!("the fleet's task failed");
        }
        self.writer.stop().await;
        let thread = self.writer_thread;
        let ended = timeout(DRAIN_TIMEOUT, async move {
            tokio::task::spawn_blocking(move || thread.join()).await
        })
        .await;
        match ended {
            Ok(Ok(Ok(()))) => tracing::info!("stopped"),
            Ok(Ok(Err(_)) | Err(_)) => tracing::error!("the writer failed"),
            // What was acknowledged is on disk all the same.
            Err(_) => tracing::warn!("the writer took too long to end"),
        }
    }
}

/// Opens the store, mends it where blocks are damaged, and refuses one that
/// cannot be mended.
fn open_store(data_dir: PathBuf) -> Result<(Arc<dyn Store>, Verification), StartError> {
    let started = Instant::now();
    let (store, mut verification) = export::check(&data_dir, Existing::OrNew)?;
    let Some(store) = store.filter(|_| verification.is_mendable()) else {
        return Err(StartError::Damaged {
            data_dir,
            verification: Box::new(verification),
        });
    };
    if !verification.is_whole() {
        for mend in mend(&store, &verification)? {
            tell(&mend);
        }
        verification = store.verify()?;
    }
    if !verification.is_whole() {
        return Err(StartError::Damaged {
            data_dir,
            verification: Box::new(verification),
        });
    }
    tracing::info!(
        data_dir = %data_dir.display(),
        blocks = verification.blocks,
        events = verification.events,
        milliseconds = started.elapsed().as_millis(),
        "the store is whole"
    );
    Ok((Arc::new(store), verification))
}

/// Says what was done for a damaged block.
fn tell(mend: &Mend) {
    match mend {
        Mend::FooterMade { block, why } => tracing::error!(
            why,
            "{block} is damaged: its footer was made anew from its events, of which none is lost"
        ),
        Mend::SetAside {
            block,
            why,
            runs,
            kept,
        } => {
            let lost: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            let lost = match lost {
                0 => "an unknown number of events".to_owned(),
                lost => format!("{lost} events"),
            };
            tracing::error!(
                why,
                kept = %kept.display(),
                "{block} is damaged: it was set aside, and {lost} became lost (store-missing)"
            );
        }
        Mend::Missing { stream, events } => tracing::error!(
            "{events} events of node {} epoch {} are in no block: they became lost (store-missing)",
            stream.node,
            stream.epoch
        ),
    }
}

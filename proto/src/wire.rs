//! The generated code of `proto/shrike/**/v1/*.proto`, and its descriptors.
//!
//! Only services and conversions touch these types.

#![expect(
    missing_docs,
    reason = "generated from the schema, which is documented"
)]
#![expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

// The generated code refers to other packages by their place in this tree.
mod generated {
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("shrike.admin.v1");
        }
    }
    pub mod control {
        pub mod v1 {
            tonic::include_proto!("shrike.control.v1");
        }
    }
    pub mod event {
        pub mod v1 {
            tonic::include_proto!("shrike.event.v1");
        }
    }
    pub mod ingest {
        pub mod v1 {
            tonic::include_proto!("shrike.ingest.v1");
        }
    }
    pub mod policy {
        pub mod v1 {
            tonic::include_proto!("shrike.policy.v1");
        }
    }
}

/// `shrike.admin.v1`: what the admin's CLI calls.
pub use generated::admin::v1 as admin;
/// `shrike.control.v1`: policy from the collector to an agent.
pub use generated::control::v1 as control;
/// `shrike.event.v1`: what a node's kernel reported.
pub use generated::event::v1 as event;
/// `shrike.ingest.v1`: events from an agent to the collector.
pub use generated::ingest::v1 as ingest;
/// `shrike.policy.v1`: what nodes enforce.
pub use generated::policy::v1 as policy;

/// The schema as an encoded `google.protobuf.FileDescriptorSet`, for
/// server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/shrike_descriptor.bin"));

//! What `shrikectl` calls: nodes, events and policies. Each service converts,
//! asks once, and says clearly what failed.

mod event;
mod node;
mod policy;

pub use event::EventAdmin;
pub use node::NodeAdmin;
pub use policy::PolicyAdmin;

use tonic::Status;

use crate::{
    chain::chain,
    fleet::FleetError,
    policy::BookError,
    store::writer::{NotStored, State},
};

fn status(error: FleetError) -> Status {
    let text = chain(&error);
    match error {
        FleetError::Stopping => Status::unavailable(text),
        FleetError::Book(BookError::Conflict { .. }) => Status::aborted(text),
        FleetError::Book(BookError::Unknown(_))
        | FleetError::UnknownGeneration(_)
        | FleetError::UnknownNode(_) => Status::not_found(text),
        FleetError::Connected(_) => Status::failed_precondition(text),
        FleetError::Book(
            BookError::Nothing
            | BookError::Twice(_)
            | BookError::SourceTooLong(_)
            | BookError::TooMany { .. }
            | BookError::TooBig { .. },
        ) => Status::invalid_argument(text),
        FleetError::NotStored(NotStored(State::NoRoom { .. })) => Status::resource_exhausted(text),
        FleetError::NotStored(NotStored(State::Healthy | State::Failed(_))) => {
            Status::unavailable(text)
        }
    }
}

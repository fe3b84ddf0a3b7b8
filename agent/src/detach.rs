//! `shrike-agent detach`: ends an enforcement that outlives its agent.

use crate::{
    args::DetachArgs,
    error::AgentError,
    kernel::{Pins, SensorError},
};

/// Removes everything that is pinned, and says what that was. Having nothing
/// to remove is fine.
///
/// # Errors
/// [`AgentError`] while an agent runs: it would have to be stopped first.
pub fn detach(args: &DetachArgs) -> Result<(), AgentError> {
    let Some(pins) = Pins::own_existing(&args.pin).map_err(SensorError::from)? else {
        println!("nothing is pinned at {}", args.pin.display());
        return Ok(());
    };
    let removed = pins.remove_all().map_err(SensorError::from)?;
    for path in &removed {
        println!("removed {}", path.display());
    }
    println!("nothing is recorded or enforced on this machine any more");
    Ok(())
}

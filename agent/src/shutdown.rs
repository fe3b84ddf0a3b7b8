//! In which order the agent stops: the one place where it is written down.
//!
//! ```text
//! 1. control    no policy is taken any more
//! 2. pipeline   hooks are detached, the ring is emptied, the queue delivered
//! 3. telemetry  spans of the two above are exported          (by the caller)
//! ```

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for one stage: more than the pipeline's own time-outs add up
/// to, so that it only ends what is stuck.
const STAGE_TIMEOUT: Duration = Duration::from_secs(14);

/// Tasks that stop together.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    /// Tells the stage's tasks to end.
    pub stop: CancellationToken,
    /// Holds the stage's tasks.
    pub tasks: TaskTracker,
}

impl Stage {
    /// Builds a stage without tasks.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }
}

/// Stops the stages one after the other, each only when the one before has
/// ended.
pub async fn stop_in_order(stages: &[Stage]) {
    for stage in stages {
        stage.stop.cancel();
        stage.tasks.close();
        if tokio::time::timeout(STAGE_TIMEOUT, stage.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!(stage = stage.name, "does not stop; going on without it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stages_end_one_after_the_other() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let stages = [Stage::new("control"), Stage::new("pipeline")];
        for (stage, work_ms) in stages.iter().zip([100, 1]) {
            let (log, stop, name) = (Arc::clone(&log), stage.stop.clone(), stage.name);
            stage.tasks.spawn(async move {
                stop.cancelled().await;
                log.lock().unwrap().push(format!("{name} stops"));
                tokio::time::sleep(Duration::from_millis(work_ms)).await;
                log.lock().unwrap().push(format!("{name} ended"));
            });
        }
        stop_in_order(&stages).await;
        assert_eq!(
            *log.lock().unwrap(),
            [
                "control stops",
                "control ended",
                "pipeline stops",
                "pipeline ended"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_stage_does_not_hold_the_next_one() {
        let stages = [Stage::new("stuck"), Stage::new("next")];
        stages[0].tasks.spawn(std::future::pending::<()>());
        let next = stages[1].stop.clone();
        stages[1].tasks.spawn(async move { next.cancelled().await });
        stop_in_order(&stages).await;
        assert!(stages[1].stop.is_cancelled());
        assert_eq!(stages[1].tasks.len(), 0);
    }
}

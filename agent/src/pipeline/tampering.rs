//! What somebody changed in the kernel behind the agent's back, as the
//! collector is told: among the hooks, as one that is not as it should be.

use shrike_proto::wire::ingest;

/// Name among the hooks.
const NAME: &str = "tampering";

/// What was found since the agent started.
#[derive(Debug, Default)]
pub(super) struct Tampering {
    times: u64,
    last: String,
}

impl Tampering {
    /// Takes in what an inspection found; says whether there is news. What
    /// cannot be mended is found again and again, and told once.
    pub(super) fn note(&mut self, found: &[String]) -> bool {
        if found.is_empty() {
            // The same thing once more is news.
            self.last.clear();
            return false;
        }
        let found = found.join("; ");
        if found == self.last {
            return false;
        }
        self.times += 1;
        self.last = found;
        true
    }

    /// Puts it among the hooks, in the place of what was told before.
    pub(super) fn tell(&self, hooks: &mut Vec<ingest::Hook>) {
        hooks.retain(|hook| hook.name != NAME);
        hooks.insert(
            0,
            ingest::Hook {
                name: NAME.to_owned(),
                attached_as: String::new(),
                error: format!(
                    "noticed {} times since the agent started, at last: {}",
                    self.times, self.last
                ),
                required: true,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_changed_is_told_once() {
        let mut tampering = Tampering::default();
        let pins = ["pins".to_owned()];
        assert!(!tampering.note(&[]));
        assert!(tampering.note(&pins));
        assert!(!tampering.note(&pins));
        assert!(!tampering.note(&[]));
        assert!(tampering.note(&pins), "mended, and done again");
        let mut hooks = vec![ingest::Hook::default()];
        tampering.tell(&mut hooks);
        tampering.tell(&mut hooks);
        assert_eq!(hooks.len(), 2);
        assert_eq!((hooks[0].name.as_str(), hooks[0].required), (NAME, true));
        assert!(hooks[0].error.contains("2 times") && hooks[0].error.contains("pins"));
    }
}

//! The report of what is attached where: for people at the start, and for
//! the collector in every hello.

use shrike_proto::wire::ingest;

use crate::kernel::HookState;

/// Returns the hooks as hellos carry them.
pub fn to_wire(hooks: &[HookState]) -> Vec<ingest::Hook> {
    hooks
        .iter()
        .map(|hook| ingest::Hook {
            name: hook.name.to_owned(),
            attached_as: hook.attached_as.to_owned(),
            error: hook.error.clone(),
            required: hook.required,
        })
        .collect()
}

/// Returns one line for each hook.
pub fn lines(hooks: &[HookState]) -> impl Iterator<Item = String> {
    let width = hooks.iter().map(|hook| hook.name.len()).max().unwrap_or(0);
    hooks.iter().map(move |hook| {
        let state = match (hook.attached_as, hook.required) {
            ("", true) => format!("MISSING: {}", hook.error),
            ("", false) => format!("not attached: {}", hook.error),
            (how, _) => how.to_owned(),
        };
        format!("hook {:width$}  {state}", hook.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_or_why_not() {
        let hook = |name, attached_as, error: &str, required| HookState {
            name,
            attached_as,
            error: error.to_owned(),
            required,
        };
        let hooks = [
            hook("do_filp_open", "kprobe", "", true),
            hook("a", "", "not on this kernel", false),
        ];
        assert_eq!(
            lines(&hooks).collect::<Vec<_>>(),
            [
                "hook do_filp_open  kprobe",
                "hook a             not attached: not on this kernel",
            ]
        );
        assert_eq!(to_wire(&hooks)[1].error, "not on this kernel");
    }
}

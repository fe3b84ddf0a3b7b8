//! Whether a block can be skipped: a term held against a footer, never
//! wrongly "skip".

use shrike_proto::{condition::Term, id::NodeId};

use crate::store::{
    block::{BlockKey, Footer, action_bit, kind_bit},
    bloom::{self, Tag},
};

/// Says whether the terms are about this node.
pub(super) fn selects_node(terms: &[Term], node: &NodeId) -> bool {
    terms.iter().all(|term| match term {
        Term::Nodes(nodes) => nodes.iter().any(|it| it == node.as_str()),
        Term::Kinds(_)
        | Term::Pids(_)
        | Term::Uids(_)
        | Term::Executables(_)
        | Term::Paths(_)
        | Term::PathPrefixes(_)
        | Term::Actions(_)
        | Term::Verdict
        | Term::Since(_)
        | Term::Until(_) => true,
    })
}

/// Says whether a block may hold an event of which the term is true.
pub(super) fn may_match(term: &Term, key: &BlockKey, footer: &Footer) -> bool {
    let mentions = |tag: Tag, value: &[u8]| footer.bloom.may_contain(bloom::hash(tag, value));
    // Only whole directories are hashed.
    let below = |path: &[u8]| match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => mentions(Tag::Directory, &path[..=slash]),
        None => true,
    };
    match term {
        Term::Nodes(nodes) => footer
            .runs(key)
            .iter()
            .any(|run| nodes.iter().any(|node| node == run.stream.node.as_str())),
        Term::Kinds(kinds) => kinds.iter().any(|kind| footer.kinds & kind_bit(*kind) != 0),
        Term::Pids(pids) => pids
            .iter()
            .any(|pid| mentions(Tag::Tgid, &pid.to_le_bytes())),
        Term::Uids(wanted) => footer
            .uids
            .as_ref()
            .is_none_or(|uids| uids.iter().any(|uid| wanted.contains(uid))),
        Term::Executables(exes) => exes.iter().any(|exe| mentions(Tag::Executable, exe)),
        Term::Paths(paths) | Term::PathPrefixes(paths) => paths.iter().any(|path| below(path)),
        Term::Actions(actions) => actions
            .iter()
            .any(|action| footer.actions & action_bit(*action) != 0),
        Term::Verdict => footer.actions != 0,
        Term::Since(since) => footer.time_max_unix_ns >= *since,
        Term::Until(until) => key.time_min_unix_ns < *until,
    }
}

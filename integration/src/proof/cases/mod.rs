//! Every attempt of the proof, by the table's classes.
//!
//! How each is carried out stands under the same name in the guest's
//! `proof/attempts`; a test there holds the two together.

mod changes;
mod names;
mod opens;
mod programs;

use super::case::Case;

/// Every case, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [names::CASES, opens::CASES, programs::CASES, changes::CASES]
        .into_iter()
        .flatten()
}

/// The case of that name.
pub fn find(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proof::case::Class;

    /// What a node carries (`shrike-agent-ebpf`, `plan.rs`).
    const RULES_MAX: usize = 256;

    #[test]
    fn names_are_unique_and_are_rules_names() {
        let mut names = HashSet::new();
        for case in all() {
            assert!(names.insert(case.name), "{} is there twice", case.name);
            let valid =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(case.name.bytes().all(valid), "{}", case.name);
        }
        assert!(names.len() <= RULES_MAX);
    }

    #[test]
    fn every_class_has_a_case() {
        for class in Class::ALL {
            assert!(all().any(|case| case.class == class), "{class:?}");
        }
    }

    #[test]
    fn no_exception_is_without_its_explanation() {
        for exception in all().flat_map(|case| case.exceptions).flatten() {
            assert!(exception.why.ends_with('.'), "{}", exception.why);
        }
    }
}

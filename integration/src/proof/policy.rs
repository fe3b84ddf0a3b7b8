//! The policy under which every attempt is made: a rule for each case, under
//! its name, so that an event says which case it is about.

use super::case::{Action, Case};
use super::cases;

/// The document, as `shrike-agent watch --policy` reads it.
pub fn document(action: Action) -> String {
    let mut text = String::from(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: proof}\nspec:\n  mode: enforce\n  \
         rules:\n",
    );
    for case in cases::all() {
        text.push_str(&format!("    - {}\n", rule(case, action)));
    }
    text
}

fn rule(case: &Case, action: Action) -> String {
    let (word, value) = case.matcher();
    let mut fields = vec![
        format!("name: {}", case.name),
        format!("on: {}", case.trigger.word()),
        format!("{word}: ['{value}']"),
    ];
    if !case.exempt.is_empty() {
        let programs: Vec<String> = case
            .exempt
            .iter()
            .map(|name| format!("'{}/{name}'", super::case::EXEMPT))
            .collect();
        fields.push(format!("unless: {{exe: [{}]}}", programs.join(", ")));
    }
    if case.is_unresolvable() {
        fields.push(format!("on_unknown: {}", action.word()));
    }
    fields.push(format!("action: {}", action.word()));
    format!("{{{}}}", fields.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_what_its_case_is_about() {
        let replaced = cases::find("replaced").expect("a case");
        assert_eq!(
            rule(replaced, Action::Kill),
            "{name: replaced, on: open, paths: ['/srv/proof/replaced/secret'], unless: {exe: \
             ['/srv/proof/exempt/mv']}, action: kill}"
        );
        let deep = cases::find("too-deep").expect("a case");
        assert_eq!(
            rule(deep, Action::Deny),
            "{name: too-deep, on: open, paths: ['/srv/proof/too-deep/guarded/'], on_unknown: \
             deny, action: deny}"
        );
    }
}

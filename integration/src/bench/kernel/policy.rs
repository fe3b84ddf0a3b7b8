//! A policy of a hundred rules like ones in use, none of which a load meets:
//! files, directories, command names, executables and exceptions.

use std::fmt::Write as _;

/// Where it lies in the machine.
pub(super) const PATH: &str = "/tmp/bench.yaml";

/// A hundred rules.
pub(super) fn document() -> String {
    let mut text = String::from(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: bench}\nspec:\n  mode: enforce\n  \
         rules:\n",
    );
    let mut add = |rule: String| writeln!(text, "    - {rule}").expect("a string takes everything");
    for index in 0..40 {
        add(format!(
            "{{name: file-{index}, on: open, paths: [/etc/secret-{index}, \
             /srv/app-{index}/key.pem], access: [read, write], action: kill}}"
        ));
    }
    for index in 0..20 {
        add(format!(
            "{{name: folder-{index}, on: open, paths: [/etc/private-{index}/, \
             /var/lib/app-{index}/data/], unless: {{exe: [/usr/sbin/app-{index}]}}, action: alert}}"
        ));
    }
    for index in 0..10 {
        add(format!(
            "{{name: reader-{index}, on: open, exe: [/opt/app-{index}/bin/reader], \
             access: [write], action: record}}"
        ));
    }
    for index in 0..15 {
        add(format!(
            "{{name: program-{index}, on: exec, paths: [/usr/bin/tool-{index}, /opt/tools-{index}/], \
             action: kill}}"
        ));
    }
    for index in 0..15 {
        add(format!(
            "{{name: command-{index}, on: exec, comm: [tool{index}, netcat{index}], action: kill}}"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_hundred_rules() {
        let rules = document().matches("{name: ").count() - 1;
        assert_eq!(rules, 100);
    }
}

//! The types that both sides share have the same layout in the object as they
//! have here: what the programs write is what the agent reads.
//!
//! The object's own debug information is compared, because that is what the
//! other compiler made of them; its BTF knows only types of maps.

use std::collections::BTreeMap;

use gimli::{AttributeValue, EndianSlice, LittleEndian, SectionId};
use object::{Object as _, ObjectSection as _};
use shrike_agent_ebpf::{
    counter::Counters,
    digest::{Digest, Key},
    guard_rail::{Kills, Program},
    offset::Offsets,
    plan::{Entry, Identities, InForce, PathDepths, Plan, RuleSet},
    record::{Change, Exec, ExecWithImage, Exit, Fork, Header, Image, Open, Process},
};

use super::OBJECT;

/// Size of a type, and the offsets of its fields by name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    bytes: u64,
    fields: BTreeMap<String, u64>,
}

type Reader = EndianSlice<'static, LittleEndian>;

/// Returns the shared types that the object knows, by module and name. One
/// that several units describe is there once for each of them.
fn layouts() -> Vec<(String, Layout)> {
    let file = object::File::parse(OBJECT).unwrap();
    // Nothing is linked behind it, so every relocation adds nothing to what
    // stands in its place already.
    let dwarf = gimli::Dwarf::load(|id: SectionId| -> Result<Reader, object::Error> {
        let section = file.section_by_name(id.name());
        let data = section.map_or(Ok(&[][..]), |section| section.data())?;
        Ok(EndianSlice::new(data, LittleEndian))
    })
    .unwrap();
    let mut found = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let mut path: Vec<(isize, String)> = Vec::new();
        let mut open: Option<(isize, String, Layout)> = None;
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs().unwrap() {
            let depth = entry.depth();
            path.retain(|(above, _)| *above < depth);
            if open.as_ref().is_some_and(|(above, ..)| *above >= depth) {
                found.extend(open.take().map(|(_, name, layout)| (name, layout)));
            }
            let name = match entry.attr_value(gimli::DW_AT_name) {
                Some(name) => dwarf.attr_string(&unit, name).unwrap().to_string_lossy(),
                None => continue,
            };
            match entry.tag() {
                gimli::DW_TAG_namespace => path.push((depth, name.into_owned())),
                gimli::DW_TAG_structure_type
                    if path.len() == 2 && path[0].1 == "shrike_agent_ebpf" =>
                {
                    let bytes = entry
                        .attr_value(gimli::DW_AT_byte_size)
                        .and_then(|size| size.udata_value())
                        .unwrap();
                    let fields = BTreeMap::new();
                    open = Some((
                        depth,
                        format!("{}::{name}", path[1].1),
                        Layout { bytes, fields },
                    ));
                }
                gimli::DW_TAG_member => {
                    if let Some((above, _, layout)) = &mut open
                        && *above + 1 == depth
                    {
                        let at = entry.attr_value(gimli::DW_AT_data_member_location);
                        let at = at.and_then(|at: AttributeValue<Reader>| at.udata_value());
                        layout.fields.insert(name.into_owned(), at.unwrap());
                    }
                }
                _ => {}
            }
        }
        found.extend(open.take().map(|(_, name, layout)| (name, layout)));
    }
    found
}

/// Returns the layout that this compiler gives a type. The pattern names all
/// of its fields, or it does not compile.
macro_rules! here {
    ($module:ident::$type:ident { $($field:ident),+ $(,)? }) => {{
        let _ = |it: $type| {
            let $type { $($field: _),+ } = it;
        };
        let fields = [$((stringify!($field), core::mem::offset_of!($type, $field))),+];
        here!(@ $module $type fields)
    }};
    ($module:ident::$type:ident(0)) => {{
        let fields = [("__0", core::mem::offset_of!($type, 0))];
        here!(@ $module $type fields)
    }};
    (@ $module:ident $type:ident $fields:ident) => {
        (
            concat!(stringify!($module), "::", stringify!($type)),
            Layout {
                bytes: size_of::<$type>() as u64,
                fields: $fields
                    .into_iter()
                    .map(|(name, at)| (name.to_owned(), at as u64))
                    .collect(),
            },
        )
    };
}

#[test]
fn shared_types_have_one_layout() {
    let there = layouts();
    let here = [
        here!(record::Header {
            length,
            kind,
            call,
            flags,
            cpu,
            result,
            cpu_sequence,
            boot_time_ns,
            generation,
            rule,
            action,
            outcome,
            signal_result,
            process,
        }),
        here!(record::Process {
            tgid,
            tid,
            start_boot_ns,
            parent_start_boot_ns,
            cgroup_id,
            parent_tgid,
            uid,
            gid,
            euid,
            egid,
            mount_namespace,
            comm,
        }),
        here!(record::Open {
            flags,
            mode,
            directory_fd,
            device,
            inode,
            asked_length,
            path_length,
            task_path_length,
            file_mode,
            links,
            owner_uid,
            owner_gid,
            padding,
        }),
        here!(record::Exec {
            flags,
            directory_fd,
            inode,
            device,
            asked_length,
            path_length,
            interpreter_length,
            argv_length,
            padding,
        }),
        here!(record::Fork {
            child_start_boot_ns,
            child_tgid,
            child_tid
        }),
        here!(record::Exit {
            wait_status,
            group_exit,
            repeated_opens
        }),
        here!(record::Change {
            inode,
            device,
            file_mode,
            mode,
            path_length,
            other_length,
            links,
            owner_uid,
            owner_gid,
        }),
        here!(record::ExecWithImage { exec, image }),
        here!(record::Image {
            permitted_before,
            effective_before,
            permitted,
            effective,
            script_inode,
            script_device,
            saved_uid,
            saved_gid,
            fs_uid,
            fs_gid,
            login_uid,
            session_id,
            pid_namespace,
            network_namespace,
            user_namespace,
            uts_namespace,
            ipc_namespace,
            cgroup_namespace,
            links,
            owner_uid,
            owner_gid,
            file_mode,
            script_length,
            directory_length,
            tty_length,
            environment_length,
            facts,
            padding,
        }),
        here!(counter::Counters {
            seen,
            submitted,
            filtered,
            repeated,
            lost_ring_full,
            lost_oversize,
            lost_pending_full,
            lost_unreadable,
            missed,
        }),
        here!(digest::Digest { a, b }),
        here!(digest::Key {
            a,
            b,
            slot,
            dimension
        }),
        here!(guard_rail::Program { inode, device }),
        here!(guard_rail::Kills { since_ns, count }),
        here!(plan::RuleSet(0)),
        here!(plan::InForce(0)),
        here!(plan::Identities(0)),
        here!(plan::PathDepths { exact, below }),
        here!(plan::Entry { rules, exceptions }),
        here!(plan::Plan {
            generation,
            flags,
            seed,
            open,
            exec,
            read,
            write,
            free,
            excepted,
            excepted_free,
            kill,
            deny,
            alert,
            ignore,
            observe,
            unknown_deny,
            unknown_kill,
            identities,
            path_depths,
            exe_depths,
        }),
    ];
    for (name, layout) in here {
        let described: Vec<&Layout> = there
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, layout)| layout)
            .collect();
        assert!(!described.is_empty(), "the object does not know {name}");
        for other in described {
            assert_eq!(*other, layout, "{name}");
        }
    }
}

#[test]
fn offsets_are_in_the_order_that_the_agent_fills_in() {
    let there = layouts();
    let (_, layout) = there
        .iter()
        .find(|(name, _)| name == "offset::Offsets")
        .unwrap();
    assert_eq!(layout.bytes, size_of::<Offsets>() as u64);
    let words = (0..layout.fields.len() as u64).map(|word| 4 * word);
    let mut found: Vec<u64> = layout.fields.values().copied().collect();
    found.sort_unstable();
    assert_eq!(found, words.collect::<Vec<_>>());
    assert_eq!(layout.bytes, 4 * layout.fields.len() as u64);
}

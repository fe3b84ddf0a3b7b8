//! Reads from encoded events what a block's footer needs, without building
//! them: a fifth of the time of decoding, which nobody needs before a query.
//!
//! A glance is sure or says nothing. When it gives a summary, the events are
//! exactly the expected ones, decode without error, and have that very
//! summary; for anything unusual (an unknown field, a message twice, a name
//! that is none) it gives none, and decoding has the last word.
//!
//! Field numbers are those of `shrike/event/v1/event.proto`, wire types those
//! of the protobuf encoding: 0 for a varint, 2 for a length and bytes.

use shrike_proto::{
    batch::BY_PLACE,
    event::{Action, Kind, Mention},
    id::{PolicyName, RuleName, SequenceNumber},
};

use crate::store::summary::Summary;

/// Looks over the `count` events from `first` on in an encoded event list.
pub fn glance(raw: &[u8], first: SequenceNumber, count: u32) -> Option<Summary> {
    let mut summary = Summary::new(raw.len());
    let mut expected = first.0;
    let mut events = Listed::of(raw);
    while let Some(event) = events.next()? {
        let event = glance_event(event)?;
        if event.sequence != BY_PLACE && event.sequence != expected {
            return None;
        }
        expected = expected.checked_add(1)?;
        summary.add(&event.mention);
    }
    (summary.count == count && count > 0).then_some(summary)
}

/// The events of an encoded list, one after the other.
pub struct Listed<'a>(Fields<'a>);

impl<'a> Listed<'a> {
    /// Begins with the first one.
    pub fn of(raw: &'a [u8]) -> Self {
        Self(Fields(raw))
    }

    /// Returns the next event, encoded; the inner `None` is the end, the outer
    /// one something else than an event.
    pub fn next(&mut self) -> Option<Option<&'a [u8]>> {
        match self.0.next()? {
            None => Some(None),
            Some((tag, value)) => Some(Some(value.bytes_if(tag == 1)?)),
        }
    }
}

/// What a glance at one event gives.
pub struct Glanced<'a> {
    /// Its number, or that it has the one of its place.
    pub sequence: u64,
    /// What it mentions.
    pub mention: Mention<'a>,
}

/// Looks over one encoded event; `None` for an unusual one.
pub fn glance_event(bytes: &[u8]) -> Option<Glanced<'_>> {
    let (mut sequence, mut time) = (0, 0);
    let (mut process, mut verdict, mut fact) = (None, None, None);
    let mut receipt = None;
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => sequence = value.varint()?,
            2 => time = value.varint()?.cast_signed(),
            3..=6 => drop(value.varint()?),
            7 => once(&mut process, glance_process(value.bytes()?)?)?,
            8 => once(&mut verdict, glance_verdict(value.bytes()?)?)?,
            16 => once(&mut fact, (Kind::Exec, Some(glance_exec(value.bytes()?)?)))?,
            17 => once(&mut fact, (Kind::Open, Some(glance_open(value.bytes()?)?)))?,
            18 => {
                check_fork(value.bytes()?)?;
                once(&mut fact, (Kind::Fork, None))?;
            }
            19 => {
                receipt = glance_exit(value.bytes()?)?;
                once(&mut fact, (Kind::Exit, None))?;
            }
            20 => once(
                &mut fact,
                (Kind::Change, Some(glance_change(value.bytes()?)?)),
            )?,
            // Alerts, too, are too rare to be worth it.
            _ => return None,
        }
    }
    let (process, (kind, path)) = (process?, fact?);
    Some(Glanced {
        sequence,
        mention: Mention {
            time_unix_ns: time,
            kind,
            action: verdict.or(receipt),
            tgid: process.tgid,
            uid: process.uid,
            exe: process.exe,
            path,
        },
    })
}

struct Process<'a> {
    tgid: u32,
    uid: u32,
    exe: &'a [u8],
}

fn glance_process(bytes: &[u8]) -> Option<Process<'_>> {
    let (mut tgid, mut uid, mut exe) = (0, 0, &[][..]);
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => tgid = value.varint_u32()?,
            6 => uid = value.varint_u32()?,
            2..=5 | 7..=9 | 11 | 17 => drop(value.varint()?),
            12 => exe = value.bytes()?,
            10 | 14 => drop(value.bytes()?),
            13 | 15 => drop(value.text()?),
            16 => check_ancestor(value.bytes()?)?,
            _ => return None,
        }
    }
    Some(Process { tgid, uid, exe })
}

fn check_ancestor(bytes: &[u8]) -> Option<()> {
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 | 2 => drop(value.varint()?),
            3 | 4 => drop(value.bytes()?),
            _ => return None,
        }
    }
    Some(())
}

fn glance_exec(bytes: &[u8]) -> Option<&[u8]> {
    let (mut asked, mut file) = (&[][..], None);
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => drop(value.text()?),
            2 | 7..=10 => drop(value.varint()?),
            3 => asked = value.bytes()?,
            4 => once(&mut file, glance_file(value.bytes()?)?)?,
            5 | 6 => drop(value.bytes()?),
            11 => check_image(value.bytes()?)?,
            _ => return None,
        }
    }
    Some(resolved_or(file, asked))
}

fn check_image(bytes: &[u8]) -> Option<()> {
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => drop(glance_file(value.bytes()?)?),
            2 | 3 => drop(value.bytes()?),
            4..=9 => drop(value.varint()?),
            10 | 11 => check_numbers(value.bytes()?, 2)?,
            12 => check_numbers(value.bytes()?, 7)?,
            13 => check_environment(value.bytes()?)?,
            _ => return None,
        }
    }
    Some(())
}

/// A message of numbers only, with tags up to `last`.
fn check_numbers(bytes: &[u8], last: u64) -> Option<()> {
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        if !(1..=last).contains(&tag) {
            return None;
        }
        value.varint()?;
    }
    Some(())
}

fn check_environment(bytes: &[u8]) -> Option<()> {
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => drop(value.bytes()?),
            2 => drop(value.varint()?),
            _ => return None,
        }
    }
    Some(())
}

fn glance_open(bytes: &[u8]) -> Option<&[u8]> {
    let (mut asked, mut file) = (&[][..], None);
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => drop(value.text()?),
            2 | 4 | 6..=9 => drop(value.varint()?),
            3 => asked = value.bytes()?,
            5 => once(&mut file, glance_file(value.bytes()?)?)?,
            _ => return None,
        }
    }
    Some(resolved_or(file, asked))
}

fn glance_change(bytes: &[u8]) -> Option<&[u8]> {
    let (mut operation, mut name, mut file) = (0, 0, None);
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => operation = value.varint()?,
            2 | 6 | 7 => drop(value.varint()?),
            3 => once(&mut file, glance_file(value.bytes()?)?)?,
            4 => name = value.varint()?,
            5 => drop(value.bytes()?),
            _ => return None,
        }
    }
    // The operations and names that this version knows: up to
    // OPERATION_SETXATTR and CHANGED_NAME_NEW.
    if !(1..=11).contains(&operation) || !(1..=2).contains(&name) {
        return None;
    }
    file
}

/// As `Fact::path` does.
fn resolved_or<'a>(file: Option<&'a [u8]>, asked: &'a [u8]) -> &'a [u8] {
    file.filter(|path| !path.is_empty()).unwrap_or(asked)
}

fn glance_file(bytes: &[u8]) -> Option<&[u8]> {
    let mut path = &[][..];
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => path = value.bytes()?,
            2..=4 | 6..=10 => drop(value.varint()?),
            5 => drop(value.bytes()?),
            _ => return None,
        }
    }
    Some(path)
}

fn check_fork(bytes: &[u8]) -> Option<()> {
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1..=3 => drop(value.varint()?),
            4 => drop(value.bytes()?),
            _ => return None,
        }
    }
    Some(())
}

/// Returns the action of the kill that it is the receipt of.
fn glance_exit(bytes: &[u8]) -> Option<Option<Action>> {
    let mut receipt = None;
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1..=4 => drop(value.varint()?),
            5 => once(&mut receipt, check_receipt(value.bytes()?)?)?,
            6 | 7 => drop(value.varint()?),
            _ => return None,
        }
    }
    Some(receipt.map(|()| Action::Kill))
}

fn check_receipt(bytes: &[u8]) -> Option<()> {
    let (mut policy, mut rule) = ("", "");
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            2 => policy = value.text()?,
            3 => rule = value.text()?,
            1 | 4..=7 => drop(value.varint()?),
            _ => return None,
        }
    }
    check_names(policy, rule)
}

fn glance_verdict(bytes: &[u8]) -> Option<Action> {
    let (mut action, mut policy, mut rule, mut outcome) = (0, "", "", 0);
    let mut fields = Fields(bytes);
    while let Some((tag, value)) = fields.next()? {
        match tag {
            1 => action = value.varint()?,
            2 => policy = value.text()?,
            3 => rule = value.text()?,
            4 => outcome = value.varint()?,
            5 | 6 => drop(value.varint()?),
            _ => return None,
        }
    }
    check_names(policy, rule)?;
    // The outcomes that this version knows: OUTCOME_NOTED to
    // OUTCOME_BREAKER_OPEN.
    if !(1..=10).contains(&outcome) {
        return None;
    }
    Action::from_wire(i32::try_from(action).ok()?, "verdict.action").ok()
}

fn check_names(policy: &str, rule: &str) -> Option<()> {
    PolicyName::parse(policy).ok()?;
    RuleName::parse(rule).ok()?;
    Some(())
}

/// A second one would have to be merged: that is unusual.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    match slot.replace(value) {
        None => Some(()),
        Some(_) => None,
    }
}

/// The value of a field.
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn varint(self) -> Option<u64> {
        match self {
            Self::Varint(value) => Some(value),
            Self::Bytes(_) => None,
        }
    }

    fn varint_u32(self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Varint(_) => None,
        }
    }

    fn bytes_if(self, expected: bool) -> Option<&'a [u8]> {
        if expected { self.bytes() } else { None }
    }

    fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// The fields of an encoded message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Returns the next field; the inner `None` is the end, the outer one
    /// something that is no field, or an unusual one.
    fn next(&mut self) -> Option<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, byte) in self.0.iter().enumerate() {
            // Ten bytes hold 64 bits with none to spare: unusual.
            if index == 9 {
                return if *byte <= 1 {
                    self.0 = &self.0[10..];
                    Some(value | u64::from(*byte) << 63)
                } else {
                    None
                };
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use shrike_proto::{
        batch,
        event::{
            Ancestor, Capabilities, Environment, Event, Exit, Fact, Image, Namespaces, Receipt,
            ResolvedPath,
        },
        id::Generation,
        wire::event as wire,
    };

    use super::*;
    use crate::sample;

    fn encode(events: &[Event]) -> Vec<u8> {
        wire::EventList {
            events: events.iter().cloned().map(Into::into).collect(),
        }
        .encode_to_vec()
    }

    /// Events with every field set somewhere.
    fn events(first: u64, count: u64) -> Vec<Event> {
        let mut events = sample::events(first, count);
        for event in &mut events {
            let process = &mut event.process;
            process.user = "röot".into();
            process.cgroup_path = b"/system.slice".as_slice().into();
            process.container_id = "c0ffee".into();
            process.from_proc = true;
            process.gid = u32::MAX;
            process.ancestors = vec![Ancestor {
                tgid: 1,
                start_boot_ns: u64::MAX,
                comm: b"init".as_slice().into(),
                exe: b"/sbin/init".as_slice().into(),
            }];
            if event.sequence.0.is_multiple_of(5) {
                event.time_unix_ns = -1;
            }
            match &mut event.fact {
                Fact::Open(open) => {
                    open.result = -2;
                    open.mode = 0o644;
                    if event.sequence.0.is_multiple_of(3) {
                        open.file = None;
                    }
                }
                Fact::Exit(exit) => {
                    *exit = Exit {
                        code: 1,
                        signal: 9,
                        core_dumped: true,
                        duration_ns: 5,
                        receipt: Some(Receipt {
                            generation: Generation(2),
                            policy: PolicyName::parse("p").unwrap(),
                            rule: RuleName::parse("r").unwrap(),
                            signal_result: -1,
                            died_by_it: true,
                            verdict_sequence: SequenceNumber(1),
                            after_ns: 3,
                        }),
                        repeated_opens: 7,
                        group_exit: true,
                    };
                }
                Fact::Exec(exec) => {
                    exec.argv_truncated = true;
                    exec.image = Some(Box::new(image()));
                }
                Fact::Change(change) => change.other_unresolved = true,
                Fact::Fork(_) | Fact::Alert(_) => {}
            }
        }
        events
    }

    #[test]
    fn events_numbered_by_their_place_have_the_same_summary() {
        let numbered = events(5, 40);
        let mut by_place = numbered.clone();
        for event in &mut by_place {
            event.sequence = SequenceNumber(BY_PLACE);
        }
        let raw = encode(&by_place);
        let (first, count) = (SequenceNumber(5), 40);
        let mut summary = glance(&raw, first, count).unwrap();
        let expected = glance(&encode(&numbered), first, count).unwrap();
        summary.raw_bytes = expected.raw_bytes;
        assert_eq!(summary, expected);
        assert_eq!(batch::decode(&raw, first, count).unwrap(), numbered);
    }

    fn image() -> Image {
        let capabilities = Capabilities {
            permitted: u64::MAX,
            effective: 1,
        };
        Image {
            script: Some(ResolvedPath {
                path: b"/opt/run.sh".to_vec(),
                ..ResolvedPath::default()
            }),
            working_directory: b"/srv".to_vec(),
            tty: b"pts/0".to_vec(),
            session_id: 1,
            login_uid: Some(0),
            saved_uid: 1,
            saved_gid: 2,
            fs_uid: 3,
            fs_gid: 4,
            capabilities,
            capabilities_before: Some(capabilities),
            namespaces: Namespaces {
                mount: 1,
                cgroup: u32::MAX,
                ..Namespaces::default()
            },
            environment: Some(Environment {
                names: vec![b"PATH".to_vec()],
                truncated: true,
            }),
        }
    }

    #[test]
    fn ordinary_events_need_no_decoding() {
        let events = events(7, 200);
        let raw = encode(&events);
        assert_eq!(
            glance(&raw, SequenceNumber(7), 200),
            Some(Summary::gather(&events, raw.len()))
        );
        assert_eq!(glance(&raw, SequenceNumber(8), 200), None);
        assert_eq!(glance(&raw, SequenceNumber(7), 199), None);
        assert_eq!(glance(&[], SequenceNumber(7), 0), None);
    }

    #[test]
    fn unusual_events_are_left_to_the_decoder() {
        let check = |change: &dyn Fn(&mut wire::Event)| {
            let mut event = wire::Event::from(events(3, 1).remove(0));
            change(&mut event);
            let raw = wire::EventList {
                events: vec![event],
            }
            .encode_to_vec();
            assert_eq!(glance(&raw, SequenceNumber(3), 1), None);
        };
        check(&|event| event.process = None);
        check(&|event| event.fact = None);
        check(&|event| event.fact = Some(wire::event::Fact::Change(wire::Change::default())));
        check(&|event| {
            event.verdict = Some(wire::Verdict {
                denied: true,
                action: 9,
                policy: "p".to_owned(),
                rule: "r".to_owned(),
                outcome: 1,
                signal_result: 0,
            });
        });
        check(&|event| {
            event.verdict = Some(wire::Verdict {
                denied: true,
                action: 1,
                policy: "No Name".to_owned(),
                rule: "r".to_owned(),
                outcome: 1,
                signal_result: 0,
            });
        });
        check(&|event| {
            event.verdict = Some(wire::Verdict {
                denied: true,
                action: 1,
                policy: "p".to_owned(),
                rule: "r".to_owned(),
                outcome: 99,
                signal_result: 0,
            });
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_a_glance_accepts_decodes_to_the_same_summary(
            first in 1..50u64,
            count in 1..4u64,
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..4),
        ) {
            let mut raw = encode(&events(first, count));
            for (at, byte, how) in changes {
                let at = at.index(raw.len());
                match how {
                    0 => raw[at] = byte,
                    1 => raw[at] ^= 1 << (byte % 8),
                    2 => raw.insert(at, byte),
                    _ => drop(raw.remove(at)),
                }
                if raw.is_empty() {
                    break;
                }
            }
            let first = SequenceNumber(first);
            let count = u32::try_from(count).unwrap();
            if let Some(summary) = glance(&raw, first, count) {
                let decoded = batch::decode(&raw, first, count).unwrap();
                prop_assert_eq!(summary, Summary::gather(&decoded, raw.len()));
            }
        }
    }
}

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use proptest::prelude::*;
use shrike_agent_ebpf::record::Header;

use super::*;

/// What the two rings hold; `None`: a record that is being copied in.
#[derive(Default)]
struct World {
    rings: [VecDeque<Option<Vec<u8>>>; 2],
    /// What happens the moment after somebody has looked at the first ring.
    then: Vec<(usize, Vec<u8>)>,
    pressed: bool,
}

struct Fake(Rc<RefCell<World>>, usize, Vec<u8>);

impl Source for Fake {
    fn head(&mut self) -> Head<'_> {
        let mut world = self.0.borrow_mut();
        let front = world.rings[self.1].front().cloned();
        if self.1 == 0 {
            for (ring, record) in std::mem::take(&mut world.then) {
                world.rings[ring].push_back(Some(record));
            }
        }
        match front {
            None => Head::Empty,
            Some(None) => Head::Busy,
            Some(Some(record)) => {
                self.2 = record;
                Head::Record(&self.2)
            }
        }
    }

    fn advance(&mut self) {
        self.0.borrow_mut().rings[self.1].pop_front();
    }

    fn is_pressed(&self) -> bool {
        self.0.borrow().pressed
    }
}

const TIME: usize = std::mem::offset_of!(Header, boot_time_ns);

fn record(time: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Header>()];
    bytes[TIME..TIME + 8].copy_from_slice(&time.to_ne_bytes());
    bytes
}

fn drained(world: World) -> Vec<u64> {
    let world = Rc::new(RefCell::new(world));
    let mut priority = Fake(Rc::clone(&world), 0, Vec::new());
    let mut opens = Fake(world, 1, Vec::new());
    let mut times = Vec::new();
    let taken = drain(&mut priority, &mut opens, |record| {
        times.push(u64::from_ne_bytes(
            record[TIME..TIME + 8].try_into().unwrap(),
        ));
    });
    assert_eq!(taken, times.len());
    times
}

fn world(priority: &[u64], opens: &[u64]) -> World {
    World {
        rings: [priority, opens]
            .map(|times| times.iter().map(|time| Some(record(*time))).collect()),
        ..World::default()
    }
}

proptest! {
    #[test]
    fn records_come_out_in_the_order_of_their_times(
        mut priority in prop::collection::vec(0..1000u64, 0..50),
        mut opens in prop::collection::vec(0..1000u64, 0..50),
    ) {
        priority.sort_unstable();
        opens.sort_unstable();
        let mut all = [priority.clone(), opens.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(drained(world(&priority, &opens)), all);
    }
}

#[test]
fn fork_that_arrives_between_two_looks_comes_before_the_childs_open() {
    // Nothing is there when the first ring is looked at; then a process is
    // made and opens a file before the second one is.
    let world = World {
        then: vec![(0, record(1)), (1, record(2))],
        ..World::default()
    };
    assert_eq!(drained(world), [1, 2]);
}

#[test]
fn ring_under_pressure_is_emptied_first() {
    let world = World {
        pressed: true,
        ..world(&[10, 11], &[1, 2])
    };
    assert_eq!(drained(world), [10, 11, 1, 2]);
}

#[test]
fn half_copied_record_holds_nobody_up_for_long() {
    let mut stuck = world(&[5, 6], &[]);
    stuck.rings[1].push_back(None);
    assert_eq!(drained(stuck), [5, 6]);
    let mut stuck = world(&[], &[5, 6]);
    stuck.rings[0].push_back(None);
    assert_eq!(drained(stuck), [5, 6]);
}

#[test]
fn one_call_takes_a_bounded_number() {
    let times: Vec<u64> = (0..RECORDS_PER_CALL_MAX as u64 + 7).collect();
    assert_eq!(drained(world(&times, &[])).len(), RECORDS_PER_CALL_MAX);
}

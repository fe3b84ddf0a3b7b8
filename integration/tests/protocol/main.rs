//! The two sides of the event protocol against each other: the agent's session
//! over a real spool on disk, the collector's session over a store that keeps
//! what it commits. In between, connections break, stay behind and deliver
//! late, agents and collectors die, machines boot, the agent's disk hangs; whatever
//! the order, every number is stored or lost, and none twice.
//!
//! A failure prints the steps that led to it, and the seed in
//! `proptest-regressions` replays them.

mod collector;
mod node;

use std::collections::HashSet;

use collector::Collector;
use node::Node;
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The hooks see so many events of a kind: 0 verdicts, 1 exits, 2 opens.
    Happen(u8, u8),
    /// Time goes by.
    Wait(u16),
    /// So many messages reach the collector, over a connection that may be an
    /// old one.
    Up(u8, u8),
    /// So many answers reach the agent.
    Down(u8),
    /// The store commits what is queued.
    Commit,
    /// The store has no room for what is queued.
    Later,
    /// The next batch that arrives is one that cannot be decoded.
    Spoil,
    /// The connection breaks, and the agent notices.
    Break,
    /// The connection breaks, and only the agent notices: what is on its way
    /// arrives later.
    HalfOpen,
    /// The agent is killed, and started again.
    KillAgent,
    /// The machine is booted.
    Boot,
    /// The collector dies: what it has not committed is gone.
    KillCollector,
    /// The agent's disk hangs, does so many things, and goes on.
    Hang,
    Creep(u8),
    GoOn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 1..12u8).prop_map(|(kind, count)| Step::Happen(kind, count)),
        6 => (1..3000u16).prop_map(Step::Wait),
        8 => (1..6u8, 0..3u8).prop_map(|(count, back)| Step::Up(count, back)),
        8 => (1..6u8).prop_map(Step::Down),
        6 => Just(Step::Commit),
        1 => Just(Step::Later),
        1 => Just(Step::Spoil),
        1 => Just(Step::Break),
        1 => Just(Step::HalfOpen),
        1 => Just(Step::KillAgent),
        1 => Just(Step::Boot),
        1 => Just(Step::KillCollector),
        2 => Just(Step::Hang),
        1 => (1..40u8).prop_map(Step::Creep),
        1 => Just(Step::GoOn),
    ]
}

struct World {
    node: Node,
    collector: Collector,
}

impl World {
    fn new() -> Self {
        Self {
            node: Node::new(),
            collector: Collector::default(),
        }
    }

    fn act(&mut self, step: &Step) {
        let Self { node, collector } = self;
        match step {
            Step::Happen(kind, count) => node.happen(*kind, *count),
            Step::Wait(ms) => node.wait((*ms).into()),
            Step::Up(count, back) => {
                for _ in 0..*count {
                    node.deliver_up(collector, usize::from(*back));
                }
            }
            Step::Down(count) => {
                for _ in 0..*count {
                    node.deliver_down();
                }
            }
            Step::Commit => collector.commit(node.wires()),
            Step::Later => collector.refuse(node.wires()),
            Step::Spoil => collector.spoil_next(),
            Step::Break => node.break_connection(true),
            Step::HalfOpen => node.break_connection(false),
            Step::KillAgent => node.restart(),
            Step::Boot => node.boot(),
            Step::KillCollector => {
                collector.die();
                node.lose_all_connections();
            }
            Step::Hang => node.hang(),
            Step::Creep(count) => node.creep(*count),
            Step::GoOn => node.go_on(),
        }
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        self.act(&Step::GoOn);
        for _ in 0..300 {
            self.act(&Step::Wait(2500));
            self.act(&Step::Up(100, 0));
            self.act(&Step::Commit);
            self.act(&Step::Down(100));
            if self.node.is_drained() {
                return;
            }
        }
        panic!("events are left over: {:?}", self.node);
    }
}

proptest! {
    #[test]
    fn every_number_is_stored_or_lost_and_none_twice(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.act(step);
        }
        world.settle();
        let mut ids = Vec::new();
        for (epoch, stored) in &world.collector.epochs {
            prop_assert_eq!(
                stored.ids.len() as u64 + stored.lost,
                stored.durable,
                "epoch {}",
                epoch
            );
            ids.extend_from_slice(&stored.ids);
        }
        let unique: HashSet<u64> = ids.iter().copied().collect();
        let twice = (ids.len() - unique.len()) as u64;
        prop_assert!(
            twice <= world.node.sent_and_held(),
            "{twice} events are stored twice"
        );
        // Only a refused batch costs events, and only if the refusal arrived.
        let lost: u64 = world.collector.epochs.values().map(|stored| stored.lost).sum();
        prop_assert!(lost <= world.collector.spoiled, "{lost} lost");
        prop_assert_eq!(unique.len() as u64 + lost, world.node.happened());
    }
}

//! Lines that leave together: those of one drain of the ring.
//!
//! Events become text where they are taken out of the ring, one after the
//! other, so that nothing of an event is kept and one write prints them all.

use shrike_proto::{
    event::{
        Event, TimeText,
        compact::{Colour, append_compact},
        json::append_json,
    },
    id::{Epoch, NodeId},
};

/// A page that grew beyond this in a burst gives its memory back.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The lines of some events.
#[derive(Debug, Default)]
pub struct Page {
    text: Vec<u8>,
    events: u64,
}

impl Page {
    /// Adds an event, whose line `write` appends.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.events += 1;
    }

    /// Returns the lines.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Returns how many events they tell.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Makes the page an empty one.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.events = 0;
    }
}

/// How the lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Compact(Colour),
    /// For programs.
    Json,
}

/// Writes events on pages.
#[derive(Debug)]
pub struct Writer {
    form: Form,
    node: NodeId,
    epoch: Epoch,
    clock: TimeText,
}

impl Writer {
    /// Starts writing for one node.
    pub fn new(form: Form, node: NodeId, epoch: Epoch) -> Self {
        Self {
            form,
            node,
            epoch,
            clock: TimeText::default(),
        }
    }

    /// Adds an event to a page.
    pub fn write(&mut self, page: &mut Page, event: &Event) {
        let Self {
            form,
            node,
            epoch,
            clock,
        } = self;
        page.add(|text| match form {
            Form::Compact(colour) => append_compact(text, clock, node, event, *colour),
            Form::Json => append_json(text, clock, node, *epoch, event),
        });
    }
}

//! What a query or tail says about itself at its end: how many events, and
//! whether that is all of them.

use shrike_proto::{
    escape::Terminal,
    event::WireError,
    ledger::LossReason,
    wire::{admin::QuerySummary, event::LossCount},
};

use crate::output::Output;

/// Counts that grow while events are printed.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) printed: u64,
    /// Events that the collector left out because we read too slowly.
    pub(crate) skipped: u64,
    unreadable: u64,
    first_unreadable: Option<WireError>,
    query: Option<QuerySummary>,
    limit: Option<u64>,
    following: bool,
}

impl Summary {
    pub(crate) fn follow(&mut self) {
        self.following = true;
    }

    pub(crate) fn end(&mut self, summary: QuerySummary, limit: Option<u64>) {
        self.query = Some(summary);
        self.limit = limit;
    }

    pub(crate) fn unreadable(&mut self, error: WireError) {
        self.unreadable += 1;
        self.first_unreadable.get_or_insert(error);
    }

    pub(crate) fn report(&self, output: &Output) {
        output.note(&self.to_string());
        if let Some(error) = &self.first_unreadable {
            output.warning(&format!(
                "{} events are of a form that this version cannot read (the first: {error})",
                self.unreadable
            ));
        }
    }

    /// Says for each cause what is missing. Whatever else the collector comes
    /// to know of a range (losses by hour, damaged blocks) is one more line
    /// here.
    fn gaps(&self) -> Vec<String> {
        let mut gaps: Vec<String> = self
            .query
            .iter()
            .flat_map(|query| &query.losses)
            .filter(|loss| loss.lost.iter().any(|loss| loss.count > 0))
            .map(|loss| format!("{} lost {}", Terminal::text(&loss.node), counts(&loss.lost)))
            .collect();
        if let Some(damaged) = self.query.as_ref().and_then(|query| query.damaged.as_ref()) {
            let plural = if damaged.blocks == 1 { "" } else { "s" };
            let first = damaged.named.first().map_or("", String::as_str);
            gaps.push(format!(
                "{} damaged block{plural} with {} events left out ({}): run `shrike-collector store verify`",
                damaged.blocks,
                damaged.events,
                Terminal::text(first)
            ));
        }
        if self.skipped > 0 {
            gaps.push(format!(
                "{} skipped because they were read too slowly: query them",
                self.skipped
            ));
        }
        gaps
    }

    fn completeness(&self) -> Option<String> {
        let gaps = self.gaps();
        if !gaps.is_empty() {
            return Some(format!("INCOMPLETE: {}", gaps.join("; ")));
        }
        let text = match (&self.query, self.limit) {
            _ if self.following => "nothing skipped",
            (None, _) => return None,
            (Some(_), Some(limit)) if self.printed >= limit => {
                "the limit was reached, there may be more"
            }
            (Some(query), _) if query.in_flight > 0 => {
                return Some(format!("complete but for {} on their way", query.in_flight));
            }
            (Some(_), _) => "complete",
        };
        Some(text.to_owned())
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.printed == 1 { "" } else { "s" };
        write!(f, "{} event{plural}", self.printed)?;
        if let Some(completeness) = self.completeness() {
            write!(f, " · {completeness}")?;
        }
        if let Some(query) = &self.query {
            let plural = if query.blocks_read == 1 { "" } else { "s" };
            write!(
                f,
                " · {} block{plural} read, {} skipped by their footers",
                query.blocks_read, query.blocks_pruned
            )?;
        }
        Ok(())
    }
}

fn counts(lost: &[LossCount]) -> String {
    let counts: Vec<String> = lost
        .iter()
        .filter(|loss| loss.count > 0)
        .map(|loss| {
            let reason = LossReason::from_wire(loss.reason).map_or("unknown", LossReason::as_str);
            format!("{} ({reason})", loss.count)
        })
        .collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use shrike_proto::wire::{
        admin::{DamagedBlocks, NodeLoss},
        event::LossReason as WireReason,
    };

    use super::*;

    #[test]
    fn completeness_is_said() {
        let check = |summary: &Summary, expect: &str| assert_eq!(summary.to_string(), expect);
        let mut summary = Summary {
            printed: 2,
            ..Summary::default()
        };
        summary.end(
            QuerySummary {
                matched: 2,
                blocks_read: 3,
                blocks_pruned: 4,
                damaged: None,
                losses: Vec::new(),
                in_flight: 0,
                next: None,
            },
            None,
        );
        check(
            &summary,
            "2 events · complete · 3 blocks read, 4 skipped by their footers",
        );
        summary.query.as_mut().unwrap().in_flight = 5;
        check(
            &summary,
            "2 events · complete but for 5 on their way · 3 blocks read, 4 skipped by their footers",
        );
        summary.query.as_mut().unwrap().in_flight = 0;
        summary.limit = Some(2);
        check(
            &summary,
            "2 events · the limit was reached, there may be more · 3 blocks read, 4 skipped by their footers",
        );
        summary.query.as_mut().unwrap().losses = vec![NodeLoss {
            node: "web-1".to_owned(),
            lost: vec![LossCount {
                reason: WireReason::KernelRingFull.into(),
                count: 9,
            }],
        }];
        check(
            &summary,
            "2 events · INCOMPLETE: web-1 lost 9 (kernel-ring-full) · 3 blocks read, 4 skipped by their footers",
        );
        let query = summary.query.as_mut().unwrap();
        query.losses.clear();
        query.damaged = Some(DamagedBlocks {
            blocks: 1,
            events: 7,
            named: vec!["block of node web-1: torn".to_owned()],
        });
        check(
            &summary,
            "2 events · INCOMPLETE: 1 damaged block with 7 events left out (block of node web-1: \
             torn): run `shrike-collector store verify` · 3 blocks read, 4 skipped by their footers",
        );
    }

    #[test]
    fn skipped_events_of_a_tail_are_said() {
        let mut summary = Summary {
            printed: 1,
            skipped: 5,
            ..Summary::default()
        };
        summary.follow();
        assert_eq!(
            summary.to_string(),
            "1 event · INCOMPLETE: 5 skipped because they were read too slowly: query them"
        );
        summary.skipped = 0;
        assert_eq!(summary.to_string(), "1 event · nothing skipped");
    }
}

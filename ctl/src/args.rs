//! The command line's words. Clap stays in this file.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};
use shrike_proto::{
    condition::{self, Condition},
    id::{NodeId, PolicyName},
};

use crate::time::{Moment, parse_duration, parse_moment};

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked
  1  it failed at run time
  2  bad input: usage, configuration, policy or certificate
  3  the policy was rolled out, but a node rejected it or did not confirm in time
  4  the collector could not be reached

Environment: SHRIKECTL_CONFIG, SHRIKECTL_CONTEXT, SHRIKECTL_COLLECTOR, SHRIKECTL_CA,
SHRIKECTL_CERT, SHRIKECTL_KEY, OTEL_EXPORTER_OTLP_ENDPOINT, NO_COLOR, SHRIKE_LOG.";

/// Sees what the nodes of a Shrike collector do, and says what they may do.
#[derive(Debug, Parser)]
#[command(name = "shrikectl", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Connection and output")]
pub struct Global {
    /// Configuration file with the contexts [default: $XDG_CONFIG_HOME/shrike/ctl.toml]
    #[arg(long, global = true, env = "SHRIKECTL_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath, hide_env = true)]
    pub config: Option<PathBuf>,
    /// Context to use instead of the current one
    #[arg(
        long,
        global = true,
        env = "SHRIKECTL_CONTEXT",
        value_name = "NAME",
        hide_env = true
    )]
    pub context: Option<String>,
    /// Collector's address, overrides the context's
    #[arg(
        long,
        global = true,
        env = "SHRIKECTL_COLLECTOR",
        value_name = "HOST:PORT",
        hide_env = true
    )]
    pub collector: Option<String>,
    /// CA certificate, overrides the context's
    #[arg(long, global = true, env = "SHRIKECTL_CA", value_name = "FILE", value_hint = ValueHint::FilePath, hide_env = true)]
    pub ca: Option<PathBuf>,
    /// Own certificate, overrides the context's
    #[arg(long, global = true, env = "SHRIKECTL_CERT", value_name = "FILE", value_hint = ValueHint::FilePath, hide_env = true)]
    pub cert: Option<PathBuf>,
    /// Own private key, overrides the context's
    #[arg(long, global = true, env = "SHRIKECTL_KEY", value_name = "FILE", value_hint = ValueHint::FilePath, hide_env = true)]
    pub key: Option<PathBuf>,
    /// Where to send OpenTelemetry traces, OTLP over gRPC: http://HOST:PORT
    #[arg(
        long,
        global = true,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide_env = true
    )]
    pub otlp_endpoint: Option<String>,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes, or show one with its hooks and ledger
    Nodes(NodesArgs),
    /// Show what became of everything that nodes counted, hour by hour: stored,
    /// left out, lost and where, or on its way
    Ledger(LedgerArgs),
    /// Show stored events, or follow what arrives
    Events(Box<EventsArgs>),
    /// Show a process: its ancestors, children, files and verdicts
    Processes(ProcessesArgs),
    /// Show what ran on a node as a tree of processes
    Tree(TreeArgs),
    /// Write stored events to a file, for other programs
    Export(ExportArgs),
    /// Push, show and delete policies, and see which node enforces what
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Keep the addresses and certificates of collectors under names
    Context {
        /// What to do.
        #[command(subcommand)]
        command: ContextCommand,
    },
    /// Make a development PKI: a CA and certificates for its roles
    Pki {
        /// What to do.
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How to print what is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How to print events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// One line each, for people.
    Compact,
    /// One JSON object a line.
    Json,
    /// One OCSF 1.2.0 object a line.
    Ocsf,
    /// One ECS 8.17.0 object a line.
    Ecs,
    /// RFC 4180, with a header line and a column for each field.
    Csv,
}

/// `nodes`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodesArgs {
    /// Show one node instead.
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// What else to do with nodes.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// Show one node: its hooks, its policy state and where its events went
    Show(NodeShowArgs),
    /// Take a node that is gone for good off the list; its events stay
    Forget(NodeForgetArgs),
}

const LEDGER_HELP: &str = "\
Each hour is one of the node's own clock:
  seen     = filtered + lost before it had a number + numbered
  numbered = stored + lost with a number + in flight
(at the end of an hour some records are on their way to a number).

Examples:
  shrikectl ledger --node web-1
  shrikectl ledger --since 7d -o json | jq 'select(.lost != {})'";

/// `ledger`.
#[derive(Debug, ClapArgs)]
#[command(after_help = LEDGER_HELP)]
pub struct LedgerArgs {
    /// Only this node; may be given several times
    #[arg(long = "node", value_name = "NODE")]
    pub nodes: Vec<NodeId>,
    /// From this hour on: a time (RFC 3339) or how long ago (90s, 5m, 2h30m, 1d)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment, default_value = "24h")]
    pub since: Moment,
    /// Before: a time (RFC 3339) or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Format: a table, or one JSON object for each node, epoch and hour, a line
    /// each
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// `nodes forget`.
#[derive(Debug, ClapArgs)]
pub struct NodeForgetArgs {
    /// The node's name
    pub node: NodeId,
}

/// `nodes show`.
#[derive(Debug, ClapArgs)]
pub struct NodeShowArgs {
    /// The node's name
    pub node: NodeId,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

const EVENTS_HELP: &str = "\
Examples:
  Who touched this file on any node in the last hour?
    shrikectl events --since 1h --path /etc/shadow
  What did root run, other than from cron?
    shrikectl events --since 1d --where 'kind == \"exec\" && uid == 0 && !(\"/usr/sbin/cron\" in ancestors)'
  What happens to it from now on, after the last five minutes?
    shrikectl events --since 5m --follow --path /etc/shadow
  The newest twenty; every verdict; a table for a spreadsheet:
    shrikectl events --last 20
    shrikectl events --since 1h --verdict
    shrikectl events --since 1h --node web-1 --kind exec -o csv > execs.csv

Values of one option are joined by \"or\", options by \"and\". A last line on stderr says how many
events there were and whether that is all of them. Ctrl-C ends the collector's work, too.";

const EVENTS_LONG_HELP: &str = "

--where takes a condition in the Common Expression Language (https://cel.dev):
  && || ! == != < <= > >= in + - * / %  ?:  [..]    \"text\"  5  true
  path.startsWith(\"/etc/\")  exe.endsWith(\"sh\")  comm.contains(\"x\")  path.matches(\"^/home/[^/]+/\")
  argv.exists(a, a == \"-c\")  argv.all(..)  argv.exists_one(..)  size(argv)  argv[0]
  time >= timestamp(\"2026-11-22T15:00:00Z\")  time.getHours() < 6  duration(\"5m\")
What an event does not have makes nothing true: exit_code != 0 finds exits only.
Joined by &&, comparisons of node, kind, time, pid, uid, exe, path and action with fixed values
skip what cannot match, as the options do.

Fields:
";

fn events_long_help() -> String {
    format!(
        "{EVENTS_HELP}{EVENTS_LONG_HELP}{}",
        condition::describe_fields()
    )
}

/// Which events are meant.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Which events")]
pub struct FilterArgs {
    /// Only these nodes
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub node: Vec<NodeId>,
    /// Only these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub kind: Vec<KindWord>,
    /// Not before: a time (RFC 3339) or how long ago (90s, 5m, 2h30m, 1d)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub since: Option<Moment>,
    /// Before: a time (RFC 3339) or how long ago (90s, 5m, 2h30m, 1d)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Only these process IDs
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Only these user IDs
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    pub uid: Vec<u32>,
    /// Only processes that run this executable (whole path)
    #[arg(long, value_name = "PATH")]
    pub exe: Vec<std::ffi::OsString>,
    /// Only opens, execs and changes of files whose path begins so
    #[arg(long, value_name = "PREFIX")]
    pub path: Vec<std::ffi::OsString>,
    /// Only events with a verdict, or with this action's verdict
    #[arg(long, value_name = "ACTION", num_args = 0..=1, default_missing_value = "any", value_delimiter = ',')]
    pub verdict: Vec<VerdictWord>,
    /// Only events that meet this condition (CEL); `events --help` describes it
    #[arg(long = "where", value_name = "CEL", value_parser = parse_condition)]
    pub condition: Option<String>,
}

/// `events`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EVENTS_HELP, after_long_help = events_long_help())]
pub struct EventsArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Print at most this many
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
    /// Print the newest first
    #[arg(long, conflicts_with = "follow")]
    pub newest: bool,
    /// Print the oldest first: what happens anyway
    #[arg(long, conflicts_with_all = ["newest", "last"])]
    pub oldest: bool,
    /// Print the newest COUNT, in the order they happened
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["limit", "newest"], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub last: Option<u64>,
    /// Go on with what arrives; with --since or --last, after what is stored
    #[arg(short, long, conflicts_with_all = ["limit", "until"])]
    pub follow: bool,
    /// Format
    #[arg(short, long, default_value = "compact")]
    pub output: EventFormat,
    /// No summary on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

const PROCESSES_HELP: &str = "\
Examples:
  shrikectl processes web-1 4312
  shrikectl processes web-1 4312 --since 1d --started 884213310021
  shrikectl processes web-1 4312 -o json | jq '.files[].path'

Where several processes had the number, they are listed with their starts, and the command ends
with 2.";

/// `processes`.
#[derive(Debug, ClapArgs)]
#[command(after_help = PROCESSES_HELP)]
pub struct ProcessesArgs {
    /// The node's name
    pub node: NodeId,
    /// The process ID
    pub pid: u32,
    /// Which process of that number: its start, as the list of them says
    #[arg(long, value_name = "START")]
    pub started: Option<u64>,
    /// Look no further back: a time (RFC 3339) or how long ago (90s, 5m, 2h30m, 1d)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub since: Option<Moment>,
    /// Look before: a time (RFC 3339) or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

const TREE_HELP: &str = "\
Examples:
  shrikectl tree web-1 --since 10m
  shrikectl tree web-1 --since 2026-11-22T15:00:00Z --until 2026-11-22T15:05:00Z --pid 4312";

/// `tree`.
#[derive(Debug, ClapArgs)]
#[command(after_help = TREE_HELP)]
pub struct TreeArgs {
    /// The node's name
    pub node: NodeId,
    /// Not before: a time (RFC 3339) or how long ago (90s, 5m, 2h30m, 1d)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment, default_value = "1h")]
    pub since: Moment,
    /// Before: a time (RFC 3339) or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Only this process and what is below it
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

const EXPORT_HELP: &str = "\
Examples:
  shrikectl export --since 1d --format parquet --output day.parquet
  duckdb -c \"select exe, count(*) from 'day.parquet' where kind = 'exec' group by 1 order by 2 desc\"
  shrikectl export --node web-1 --format ndjson | zstd > web-1.ndjson.zst

Columns of a Parquet file are the fields that `shrikectl events --help` lists.";

/// `export`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXPORT_HELP)]
pub struct ExportArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Format
    #[arg(long, default_value = "ndjson")]
    pub format: ExportFormat,
    /// File to write, replaced only when all is in it; left out: stdout
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// How to export events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet, one typed column for each field.
    Parquet,
}

/// Checks a condition with the code that the collector runs it with.
fn parse_condition(text: &str) -> Result<String, String> {
    match Condition::compile(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindWord {
    /// A program was executed.
    Exec,
    /// A file was opened.
    Open,
    /// A file was changed without being opened, under a rule.
    Change,
    /// A process was created.
    Fork,
    /// A process ended.
    Exit,
    /// A person must see this: for example a kill that was survived.
    Alert,
}

/// Which verdicts to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerdictWord {
    /// Every verdict.
    Any,
    /// Events that a rule marks.
    Record,
    /// Events that a person should see.
    Alert,
    /// Operations that were refused.
    Deny,
    /// Processes that were ended.
    Kill,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Add or replace policies, and follow each node until it enforces them
    Push(PushArgs),
    /// List the policies of the book
    List {
        /// Format
        #[arg(short, long, default_value = "table")]
        output: Format,
    },
    /// Print a policy as YAML
    Show {
        /// The policy's name
        name: PolicyName,
        /// Print it as it was pushed, comments and all
        #[arg(long)]
        source: bool,
    },
    /// Delete a policy, and follow each node until it has gone
    Delete {
        /// The policy's name
        name: PolicyName,
        /// How to wait.
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Show which generation each node shall enforce, and which it does
    Status {
        /// Format
        #[arg(short, long, default_value = "table")]
        output: Format,
    },
    /// Show what a push would change
    Diff {
        /// Policy files; `-` is stdin
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Check policy files without a collector
    Check {
        /// Policy files; `-` is stdin
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Print the JSON Schema of policy files, for editors
    Schema,
}

/// `policy push`.
#[derive(Debug, ClapArgs)]
pub struct PushArgs {
    /// Policy files; `-` is stdin
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Show what would change and which nodes it would touch, change nothing
    #[arg(long, conflicts_with_all = ["timeout", "no_wait"])]
    pub dry_run: bool,
    /// How to wait.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// How to wait for nodes.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct WaitArgs {
    /// How long to wait for the nodes
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub timeout: std::time::Duration,
    /// Do not wait for the nodes
    #[arg(long)]
    pub no_wait: bool,
    /// Format of the nodes' states; json: one object for each change, then a summary
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Keep --collector, --ca, --cert and --key under a name
    Set {
        /// The context's name
        name: String,
    },
    /// Make a context the current one
    Use {
        /// The context's name
        name: String,
    },
    /// List the contexts
    List,
    /// Forget a context
    Delete {
        /// The context's name
        name: String,
    },
}

const PKI_HELP: &str = "\
This is a development PKI: the CA's key lies unprotected beside its certificates, and nothing
revokes them. For production bring certificates of your own with the same names:
spiffe://DOMAIN/agent/NODE, spiffe://DOMAIN/collector/ID, spiffe://DOMAIN/admin/NAME.";

/// What to do with the development PKI.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a CA: DIR/ca.pem and DIR/ca.key
    #[command(after_help = PKI_HELP)]
    Init(PkiInitArgs),
    /// Issue a certificate: DIR/ROLE-ID.pem and DIR/ROLE-ID.key
    #[command(after_help = PKI_HELP)]
    Issue(PkiIssueArgs),
}

/// `pki init`.
#[derive(Debug, ClapArgs)]
pub struct PkiInitArgs {
    /// Folder of the PKI, made if it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Trust domain of every name, for example shrike.example.org
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// Days until the CA expires
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `pki issue`.
#[derive(Debug, ClapArgs)]
pub struct PkiIssueArgs {
    /// Folder of the PKI
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// What the certificate is for
    pub role: RoleWord,
    /// Name of the node, collector or person
    pub id: String,
    /// Days until the certificate expires
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// A role that a certificate can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// A node's agent; ID is the node's name.
    Agent,
    /// A collector.
    Collector,
    /// A person with shrikectl.
    Admin,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_argument_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn verdict_takes_an_action_or_none() {
        let check = |line: &[&str], expect: &[VerdictWord]| {
            let args = Args::try_parse_from([&["shrikectl", "events"], line].concat()).unwrap();
            let Command::Events(events) = args.command else {
                panic!("{line:?} is no events command")
            };
            assert_eq!(events.filter.verdict, expect, "{line:?}");
        };
        check(&[], &[]);
        check(&["--verdict"], &[VerdictWord::Any]);
        check(&["--verdict", "kill"], &[VerdictWord::Kill]);
        check(&["--verdict", "--follow"], &[VerdictWord::Any]);
        check(
            &["--verdict=alert,kill"],
            &[VerdictWord::Alert, VerdictWord::Kill],
        );
    }

    #[test]
    fn help_answers_who_touched_this_file() {
        let mut command = Args::command();
        let events = command.find_subcommand_mut("events").unwrap();
        let short = events.render_help().to_string();
        assert!(short.contains("Who touched this file on any node in the last hour?"));
        assert!(short.contains("shrikectl events --since 1h --path /etc/shadow"));
        let long = events.render_long_help().to_string();
        assert!(long.contains("path_as_asked"), "the fields are listed");
    }

    #[test]
    fn wrong_condition_is_shown_with_its_place() {
        let line = ["shrikectl", "events", "--where", "uid == 0 && exee == 1"];
        let text = Args::try_parse_from(line).unwrap_err().to_string();
        assert!(
            text.contains("\n  uid == 0 && exee == 1\n              ^^^^\n"),
            "{text}"
        );
        assert!(text.contains("did you mean `exe`?"), "{text}");
    }

    #[test]
    fn contradictions_are_usage_errors() {
        let check = |line: &[&str]| {
            let error = Args::try_parse_from([&["shrikectl"], line].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        };
        check(&["events", "--follow", "--newest"]);
        check(&["events", "--last", "3", "--limit", "4"]);
        check(&["events", "--since", "yesterday-ish"]);
        check(&["events", "--node", "Not A Node"]);
        check(&["events", "--where", "exee == 1"]);
        check(&["events", "--newest", "--oldest"]);
        check(&["events", "--until", "1h", "--follow"]);
        check(&["processes", "web-1"]);
        check(&["policy", "push"]);
        check(&["policy", "push", "--dry-run", "--no-wait", "p.yaml"]);
        check(&["policy", "show", "NO"]);
        check(&["nowhere"]);
    }
}

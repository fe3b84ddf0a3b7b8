//! After a demo that is kept: a prompt that runs commands on the nodes.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;

use crate::fleet::Fleet;
use crate::vm::Outcome;

/// Prints what to try and carries out commands until an empty line; without
/// anybody who could type one, until the process is ended.
pub(super) fn run(fleet: &Fleet) -> Result<()> {
    println!("\n== kept running. In another terminal:\n");
    for (name, value) in fleet.ctl.environment() {
        println!("  export {name}={value}");
    }
    let ctl = fleet.ctl.command(&[]);
    let ctl = ctl.get_program().to_string_lossy().into_owned();
    let policy = fleet.folder().join("protect-vault.yaml");
    println!("\n  {ctl} nodes");
    println!("  {ctl} events --follow");
    println!("  {ctl} policy push {}", policy.display());
    println!("\nHere: NODE COMMAND, for example `node-a cat /srv/vault/key`; an empty line stops.");
    let mut stdin = std::io::stdin().lock();
    loop {
        print!("> ");
        std::io::stdout().flush()?;
        let mut line = String::new();
        let read = stdin.read_line(&mut line)?;
        if read == 0 && !std::io::stdin().is_terminal() {
            // Started in the background: nobody can type, somebody may look.
            println!(
                "no input: running until process {} is ended",
                std::process::id()
            );
            loop {
                std::thread::park();
            }
        }
        if line.trim().is_empty() {
            return Ok(());
        }
        let (node, command) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let Some(node) = fleet.nodes.iter().find(|known| known.name() == node) else {
            let names: Vec<&str> = fleet.nodes.iter().map(|known| known.name()).collect();
            println!("no such node; there are {}", names.join(" and "));
            continue;
        };
        match node.machine.command("sh").args(["-c", command]).run() {
            Ok(ran) => {
                print!("{}{}", ran.stdout_text(), ran.stderr_text());
                match ran.outcome {
                    Outcome::Code(0) => {}
                    Outcome::Code(code) => println!("(exit code {code})"),
                    Outcome::Signal(signal) => println!("(ended by signal {signal})"),
                }
            }
            Err(error) => println!("{error:#}"),
        }
    }
}

//! Programs that must not outlive us.
//!
//! The kernel's parent-death signal follows the *thread* that started a
//! program, not the process: what a short-lived thread starts is killed as
//! soon as that thread is done. So one thread, which lives as long as the
//! process, starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex};
use std::thread;

use anyhow::{Context, Result};

use crate::outside;

/// A program to start, and where to hand it.
type Order = (Command, Sender<io::Result<Child>>);

static NURSERY: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, incoming) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in incoming {
            // Whoever asked may have panicked meanwhile.
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// A command that is killed when its starter's thread ends; only for
/// [`spawn`].
pub fn mortal(program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Starts a [`mortal`] command: it ends when this process does, however that
/// comes about.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: Command) -> Result<Child> {
    let shown = outside::shown(&command);
    let (reply, answer) = mpsc::channel();
    let orders = NURSERY.lock().expect("no holder panics").clone();
    orders
        .send((command, reply))
        .expect("the thread lives as long as the process");
    let child = answer.recv().expect("every order is answered");
    child.with_context(|| format!("cannot start {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_outlives_the_thread_that_asked_for_it() {
        let asking = thread::spawn(|| {
            let mut command = mortal("sleep".as_ref());
            command.arg("600");
            spawn(command).expect("sleep starts")
        });
        let mut child = asking.join().expect("it only asks");
        thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(child.try_wait().expect("it can be asked"), None);
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }
}

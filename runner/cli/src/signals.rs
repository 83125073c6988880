//! What the program does when it is told to stop.
//!
//! While stages run: interrupted once, they are asked to checkpoint and stop, and finished work stays; twice, everything stops
//! now, child processes included. Any other command stops the first time. `SIGTERM` and `SIGHUP` are the same with another exit code. Writing beyond a file size limit
//! (`SIGXFSZ`) becomes an ordinary error of the write.

use std::{
    fs, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
};

use natron_artifacts::Cancel;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpgrp, getpid},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    iterator::Signals,
};

use crate::failure::Failure;

/// How a run is told to stop.
#[derive(Clone)]
pub(crate) struct Stop {
    /// Set on the first signal.
    pub(crate) cancel: Cancel,
    received: Arc<AtomicI32>,
    /// Whether something runs that looks at `cancel`.
    is_gentle: Arc<AtomicBool>,
    say: Arc<Mutex<Box<Say>>>,
}

type Say = dyn Fn(&str) + Send;

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        // A handler instead of ignoring: children start with the default action again.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let stop = Self {
            cancel: Cancel::new(),
            received: Arc::new(AtomicI32::new(0)),
            is_gentle: Arc::new(AtomicBool::new(false)),
            say: Arc::new(Mutex::new(Box::new(crate::output::note))),
        };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let listener = stop.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    listener.receive(signal);
                }
            })?;
        Ok(stop)
    }

    /// From now on the first signal only sets `cancel`.
    pub(crate) fn gently(&self) {
        self.is_gentle.store(true, Ordering::SeqCst);
    }

    /// Sends what there is to say to `say` (above progress bars, say) instead of the standard error.
    pub(crate) fn say_through(&self, say: impl Fn(&str) + Send + 'static) {
        *self.say.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(say);
    }

    fn receive(&self, signal: i32) {
        let first = self
            .received
            .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_err() || !self.is_gentle.load(Ordering::SeqCst) {
            kill_children();
            signal_hook::low_level::exit(128 + if signal == SIGINT { SIGINT } else { SIGTERM });
        }
        self.cancel.set();
        let how = if signal == SIGINT {
            "interrupted"
        } else {
            "asked to terminate"
        };
        let say = self.say.lock().unwrap_or_else(PoisonError::into_inner);
        say(&format!(
            "{how}: running stages save their state and stop; finished ones stay (once more: stop now)"
        ));
    }

    /// The failure that the signal received means, if there was one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self.received.load(Ordering::SeqCst) {
            0 => None,
            SIGINT => Some(Failure::Interrupted),
            _ => Some(Failure::Terminated),
        }
    }
}

/// Kills all descendants, and the process groups that they lead.
fn kill_children() {
    let (own, own_group) = (getpid().as_raw(), getpgrp().as_raw());
    let processes = processes();
    let mut family = vec![own];
    let mut i = 0;
    while i < family.len() {
        let parent = family[i];
        for process in processes.iter().filter(|process| process.parent == parent) {
            if !family.contains(&process.id) {
                family.push(process.id);
                if process.group == own_group {
                    let _ = kill(Pid::from_raw(process.id), Signal::SIGKILL);
                } else if process.group > 1 {
                    let _ = killpg(Pid::from_raw(process.group), Signal::SIGKILL);
                }
            }
        }
        i += 1;
    }
}

struct Process {
    id: i32,
    parent: i32,
    group: i32,
}

/// All processes that `/proc` shows.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // The name, in parentheses, may hold anything: the fields start after the last one.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
            let parent = fields.next()?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            Some(Process { id, parent, group })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process() {
        let own = getpid().as_raw();
        let process = processes().into_iter().find(|process| process.id == own);

        assert_eq!(process.unwrap().group, getpgrp().as_raw());
    }
}

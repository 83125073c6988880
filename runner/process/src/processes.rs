//! The processes of the machine, as `/proc` shows them. Looked at only when something went wrong.

use std::{collections::BTreeSet, fs};

use nix::libc;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Dead, and not yet waited for.
    pub(crate) is_zombie: bool,
}

/// All processes.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // The name, in parentheses, may hold any bytes: the fields start after the last one.
            let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
            let stat = String::from_utf8_lossy(&stat);
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let is_zombie = matches!(fields.next()?, "Z" | "X" | "x");
            let mut number = || fields.next()?.parse().ok();
            Some(Process {
                id,
                parent: number()?,
                group: number()?,
                session: number()?,
                is_zombie,
            })
        })
        .collect()
}

/// The living descendants of `ancestor`.
pub(crate) fn descendants(ancestor: i32) -> Vec<Process> {
    let all = all();
    let mut family = BTreeSet::from([ancestor]);
    let mut found: Vec<Process> = Vec::new();
    loop {
        let before = family.len();
        for process in &all {
            if family.contains(&process.parent) && family.insert(process.id) && !process.is_zombie {
                found.push(*process);
            }
        }
        if family.len() == before {
            return found;
        }
    }
}

/// The living processes of `session`, and those whose environment holds `mark`, but ourselves.
pub(crate) fn strays(session: i32, mark: &[u8]) -> Vec<Process> {
    let own = std::process::id() as i32;
    all()
        .into_iter()
        .filter(|process| !process.is_zombie && process.id != own)
        .filter(|process| {
            process.session == session
                || fs::read(format!("/proc/{}/environ", process.id))
                    .is_ok_and(|text| text.split(|&b| b == 0).any(|variable| variable == mark))
        })
        .collect()
}

/// Kills `processes`, group by group so that none of them forks away, except the group `spared`.
pub(crate) fn kill(processes: &[Process], spared: i32) {
    let groups: BTreeSet<i32> = processes.iter().map(|process| process.group).collect();
    for group in groups {
        if group > 1 && group != spared {
            // SAFETY: a plain system call on integers.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
    for process in processes {
        // SAFETY: a plain system call on integers.
        unsafe { libc::kill(process.id, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process_below_its_parent() {
        let own = std::process::id() as i32;
        let process = all().into_iter().find(|process| process.id == own).unwrap();

        assert!(!process.is_zombie);
        let siblings = descendants(process.parent);
        assert!(siblings.contains(&process), "{siblings:?}");
    }
}

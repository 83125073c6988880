//! Control groups: one for each program that has limits, where the system lets us make them.
//!
//! Both kinds are used: the hierarchies `memory` and `pids` of version 1, or a folder of version 2 below our own. Where
//! neither can be written, limits are held by `setrlimit`, which counts address space instead of memory and a user's
//! processes instead of the program's.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{End, Limits, child::Members, processes};

/// What holds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// A control group: all processes of a program together.
    ControlGroup,
    /// `setrlimit`: each process, or each user, by itself.
    OwnLimit,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlGroup => "a control group",
            Self::OwnLimit => "a limit on the address space of each process",
        })
    }
}

/// What holds which limits on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mechanisms {
    /// Limits on memory.
    pub memory: Mechanism,
    /// Limits on the number of processes.
    pub processes: Mechanism,
    /// Where the control groups are made, if anywhere.
    pub folders: Vec<PathBuf>,
}

/// What holds which limits on this machine.
pub fn mechanisms() -> Mechanisms {
    let parents = parents();
    let mechanism = |parent: &Option<Parent>| match parent {
        Some(_) => Mechanism::ControlGroup,
        None => Mechanism::OwnLimit,
    };
    let mut folders: Vec<PathBuf> = [&parents.memory, &parents.processes]
        .into_iter()
        .flatten()
        .map(|parent| parent.folder.clone())
        .collect();
    folders.dedup();
    Mechanisms {
        memory: mechanism(&parents.memory),
        processes: mechanism(&parents.processes),
        folders,
    }
}

/// Where groups can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parent {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Parents {
    memory: Option<Parent>,
    processes: Option<Parent>,
}

/// Found out once; making and removing a group is the only sound test.
fn parents() -> &'static Parents {
    static PARENTS: OnceLock<Parents> = OnceLock::new();
    PARENTS.get_or_init(|| {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        find(
            &text("/proc/self/mountinfo"),
            &text("/proc/self/cgroup"),
            Path::new("/"),
        )
    })
}

/// Where groups can be made, from what `/proc` says of mounts and of our own groups. `root` is `/` but in tests.
fn find(mounts: &str, own: &str, root: &Path) -> Parents {
    let folder = |controller: Option<&str>| {
        let mount = mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let fields: Vec<&str> = before.split(' ').collect();
            let (top, point) = (fields.get(3)?, fields.get(4)?);
            let kind: Vec<&str> = after.split(' ').collect();
            let fits = match controller {
                Some(name) => {
                    kind.first() == Some(&"cgroup") && kind.last()?.split(',').any(|c| c == name)
                }
                None => kind.first() == Some(&"cgroup2"),
            };
            fits.then(|| (top.trim_end_matches('/'), *point))
        })?;
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let fits = match controller {
                Some(name) => controllers.split(',').any(|c| c == name),
                None => number == "0" && controllers.is_empty(),
            };
            fits.then_some(path)
        })?;
        let (top, point) = mount;
        // In a container the mount shows only a part of the hierarchy.
        let below = path.strip_prefix(top).unwrap_or("");
        let join = |below: &str| {
            let relative = format!("{point}{below}");
            root.join(relative.trim_start_matches('/'))
        };
        let full = join(below);
        Some(if full.is_dir() { full } else { join("") })
    };
    let version_1 = |controller: &str| {
        let folder = folder(Some(controller))?;
        can_make(&folder).then_some(Parent {
            folder,
            version: Version::One,
        })
    };
    let (mut memory, mut processes) = (version_1("memory"), version_1("pids"));
    if (memory.is_none() || processes.is_none())
        && let Some(folder) = folder(None)
    {
        let controllers = delegated(&folder);
        let parent = |controller: &str| {
            controllers.iter().any(|c| c == controller).then(|| Parent {
                folder: folder.clone(),
                version: Version::Two,
            })
        };
        memory = memory.or_else(|| parent("memory"));
        processes = processes.or_else(|| parent("pids"));
    }
    Parents { memory, processes }
}

/// The controllers that groups below `folder` have, once we have asked for those that we want.
fn delegated(folder: &Path) -> Vec<String> {
    if !can_make(folder) {
        return Vec::new();
    }
    let enabled = || -> Vec<String> {
        let text = fs::read_to_string(folder.join("cgroup.subtree_control"));
        let text = text.unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let wanted = ["memory", "pids"];
    let lacks = |found: &[String]| wanted.iter().any(|w| !found.iter().any(|f| f == w));
    if lacks(&enabled()) {
        let ask = || {
            for controller in wanted {
                let _ = fs::write(
                    folder.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        };
        ask();
        // A group with processes of its own cannot hand controllers down. If we and what we started are all that is in ours,
        // we make room.
        if lacks(&enabled())
            && let Ok(members) = fs::read_to_string(folder.join("cgroup.procs"))
        {
            let own = std::process::id() as i32;
            let family = processes::descendants(own);
            let is_ours = |id: i32| id == own || family.iter().any(|process| process.id == id);
            let members: Vec<&str> = members.split_whitespace().collect();
            let room = folder.join("natron-runner");
            if members.iter().all(|id| id.parse().is_ok_and(is_ours))
                && (fs::create_dir(&room).is_ok() || room.is_dir())
            {
                for id in members {
                    let _ = fs::write(room.join("cgroup.procs"), id);
                }
                ask();
            }
        }
    }
    enabled()
}

fn can_make(folder: &Path) -> bool {
    let probe = folder.join(format!("natron-probe-{}", std::process::id()));
    // Making it is not enough: whoever is not allowed to move processes into it gains nothing.
    let is_made = fs::create_dir(&probe).is_ok();
    let is_open = is_made
        && fs::OpenOptions::new()
            .write(true)
            .open(probe.join("cgroup.procs"))
            .is_ok();
    let _ = fs::remove_dir(&probe);
    is_open
}

/// The groups of one program. They are removed with this value, when nothing is left in them.
pub(crate) struct Group {
    memory: Option<Place>,
    processes: Option<Place>,
}

#[derive(Clone)]
struct Place {
    folder: PathBuf,
    version: Version,
}

impl Group {
    /// The groups that hold `limits`; nothing where there are no such limits or no control groups.
    pub(crate) fn create(limits: &Limits) -> Option<Self> {
        if limits.memory_bytes.is_none() && limits.processes.is_none() {
            return None;
        }
        Self::create_below(parents(), limits)
    }

    fn create_below(parents: &Parents, limits: &Limits) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("natron-{}-{n}", std::process::id());
        let make = |parent: &Option<Parent>| -> Option<Place> {
            let parent = parent.as_ref()?;
            let folder = parent.folder.join(&name);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => return None,
            }
            Some(Place {
                folder,
                version: parent.version,
            })
        };
        let mut group = Self {
            memory: None,
            processes: None,
        };
        if let Some(bytes) = limits.memory_bytes {
            group.memory = make(&parents.memory).filter(|place| place.limit_memory(bytes));
        }
        if let Some(processes) = limits.processes {
            group.processes = make(&parents.processes)
                .filter(|place| place.write("pids.max", &processes.to_string()));
        }
        (group.memory.is_some() || group.processes.is_some()).then_some(group)
    }

    pub(crate) fn holds_memory(&self) -> bool {
        self.memory.is_some()
    }

    pub(crate) fn holds_processes(&self) -> bool {
        self.processes.is_some()
    }

    /// The files that take in the program.
    pub(crate) fn members(&self) -> Members {
        let mut members: Members = self
            .places()
            .map(|place| place.folder.join("cgroup.procs"))
            .collect();
        members.dedup();
        members
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.memory.iter().chain(&self.processes)
    }

    /// The most memory that the group had.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let place = self.memory.as_ref()?;
        let file = match place.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        fs::read_to_string(place.folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// What the group says against the program, if anything.
    pub(crate) fn verdict(&self, limits: &Limits) -> Option<End> {
        let counted = |place: &Place, file: &str, name: &str| {
            let text = fs::read_to_string(place.folder.join(file)).unwrap_or_default();
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .any(|(key, count)| key == name && count.trim() != "0")
        };
        if let (Some(place), Some(limit_bytes)) = (&self.memory, limits.memory_bytes) {
            let file = match place.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            if counted(place, file, "oom_kill") {
                return Some(End::OutOfMemory {
                    limit_bytes,
                    peak_bytes: self.peak_bytes(),
                });
            }
        }
        if let (Some(place), Some(limit)) = (&self.processes, limits.processes)
            && counted(place, "pids.events", "max")
        {
            return Some(End::TooManyProcesses { limit });
        }
        None
    }
}

impl Place {
    fn write(&self, file: &str, text: &str) -> bool {
        fs::write(self.folder.join(file), text).is_ok()
    }

    fn limit_memory(&self, bytes: u64) -> bool {
        let bytes = bytes.to_string();
        match self.version {
            Version::One => {
                // Memory and swap together; not there on every system, and not above which nothing is limited.
                let is_limited = self.write("memory.limit_in_bytes", &bytes);
                self.write("memory.memsw.limit_in_bytes", &bytes);
                is_limited
            }
            Version::Two => {
                self.write("memory.swap.max", "0");
                self.write("memory.oom.group", "1");
                self.write("memory.max", &bytes)
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for place in self.places() {
            // The dead leave a group a moment after they were waited for.
            for _ in 0..50 {
                match fs::remove_dir(&place.folder) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{Channel, Program, run};

    /// A folder that looks like a file system of control groups.
    fn pretend(folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        root
    }

    #[test]
    fn finds_our_group_in_version_1_and_in_a_container() {
        let root = pretend(&["cg/memory/a/b", "cg/pids"]);
        let mounts = "30 25 0:26 / /cg/memory rw - cgroup cgroup rw,memory\n31 25 0:27 /docker/x /cg/pids rw - cgroup cgroup rw,pids\n";

        // Ordinary folders do not get a `cgroup.procs`, so nothing can be made in them.
        let own = "4:memory:/a/b\n5:pids:/docker/x\n";
        assert_eq!(find(mounts, own, root.path()), Parents::default());
        assert_eq!(
            fs::read_dir(root.path().join("cg/memory/a/b"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn version_2_gets_its_limits_in_files() {
        let root = pretend(&["g"]);
        let parent = Some(Parent {
            folder: root.path().join("g"),
            version: Version::Two,
        });
        let parents = Parents {
            memory: parent.clone(),
            processes: parent,
        };
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            processes: Some(7),
            ..Limits::default()
        };

        let group = Group::create_below(&parents, &limits).unwrap();
        let folder = group.memory.clone().unwrap().folder;
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("pids.max"), "7");
        assert_eq!(group.members(), [folder.join("cgroup.procs")]);
        assert_eq!(group.verdict(&limits), None);
        fs::write(folder.join("memory.events"), "oom 1\noom_kill 2\n").unwrap();
        fs::write(folder.join("memory.peak"), "1000000\n").unwrap();
        let expected = End::OutOfMemory {
            limit_bytes: 1 << 20,
            peak_bytes: Some(1_000_000),
        };
        assert_eq!(group.verdict(&limits), Some(expected));
        fs::write(folder.join("memory.events"), "oom 0\noom_kill 0\n").unwrap();
        fs::write(folder.join("pids.events"), "max 1\n").unwrap();
        assert_eq!(
            group.verdict(&limits),
            Some(End::TooManyProcesses { limit: 7 })
        );
    }

    fn limited(script: &str, limits: Limits) -> (crate::Ended, String) {
        let directory = tempfile::tempdir().unwrap();
        let mut program = Program::new(Path::new("/bin/sh"), directory.path());
        program.arguments = vec!["-c".into(), script.into()];
        let path = std::env::var_os("PATH").unwrap();
        program.environment.insert("PATH".into(), path);
        program.limits = limits;
        let text = RefCell::new(Vec::new());
        let ended = run(&program, &|| false, &mut |channel, bytes| {
            if channel == Channel::Errors {
                text.borrow_mut().extend_from_slice(bytes);
            }
        });
        (
            ended.unwrap(),
            String::from_utf8(text.into_inner()).unwrap(),
        )
    }

    #[test]
    fn a_program_that_wants_too_much_memory_ends() {
        let limits = Limits {
            memory_bytes: Some(32 << 20),
            ..Limits::default()
        };
        let (ended, text) = limited(
            "head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null; exit 0",
            limits,
        );

        match mechanisms().memory {
            Mechanism::ControlGroup => assert!(
                matches!(ended.end, End::OutOfMemory { limit_bytes, peak_bytes: Some(peak) } if limit_bytes == 32 << 20 && peak <= 33 << 20),
                "{ended:?}"
            ),
            Mechanism::OwnLimit => assert!(text.contains("exhausted"), "{text}"),
        }
    }

    #[test]
    fn a_fork_bomb_ends() {
        if mechanisms().processes == Mechanism::OwnLimit {
            return; // A limit per user would count whatever else its user runs.
        }
        let limits = Limits {
            processes: Some(50),
            ..Limits::default()
        };
        let (ended, _) = limited("bomb() { bomb | bomb & }; bomb; sleep 60", limits);

        assert_eq!(ended.end, End::TooManyProcesses { limit: 50 });
    }

    #[test]
    fn processor_time_is_limited() {
        let limits = Limits {
            cpu_seconds: Some(1),
            ..Limits::default()
        };
        let (ended, _) = limited("while :; do :; done", limits);

        assert!(matches!(ended.end, End::Killed(_)), "{ended:?}");
    }
}

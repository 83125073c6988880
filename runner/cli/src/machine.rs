//! What the machine offers.

use std::{
    env,
    fmt::Write as _,
    fs,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use natron_process::Mechanism;
use natron_runner::Workspace;
use natron_stages::cuda::{self, CudaError};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
};

use crate::units;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// It works, but slowly or not all of it.
    Warning,
    /// It does not work.
    Bad,
}

/// One thing about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How good it is.
    pub(crate) health: Health,
    /// What was found.
    pub(crate) text: String,
    /// What to do about it; may be empty.
    pub(crate) help: String,
}

impl Finding {
    fn new(name: &'static str, health: Health, text: impl Into<String>) -> Self {
        Self {
            name,
            health,
            text: text.into(),
            help: String::new(),
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// Everything that `natron doctor` looks at. The store is tried in the workspace's own folder.
pub(crate) fn findings(workspace: &Workspace, n_kinds: usize) -> Vec<Finding> {
    let version = env!("CARGO_PKG_VERSION");
    let built = if cfg!(debug_assertions) {
        ", a debug build: slow"
    } else {
        ""
    };
    let mut findings = vec![
        Finding::new(
            "natron",
            if cfg!(debug_assertions) {
                Health::Warning
            } else {
                Health::Good
            },
            format!(
                "{version} for {}-{}, {n_kinds} kinds of stages{built}",
                env::consts::ARCH,
                env::consts::OS
            ),
        ),
        processor(),
        threads(),
        memory(),
        gpu(),
        containment(),
    ];
    findings.extend(store(workspace));
    findings.push(surroundings());
    findings
}

#[cfg(target_arch = "x86_64")]
fn processor() -> Finding {
    let flags = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    let names: Vec<&str> = flags
        .iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| *name)
        .collect();
    let text = format!(
        "{}, {}",
        processor_name(),
        if names.is_empty() {
            "no SIMD that we use".into()
        } else {
            names.join(" ")
        }
    );
    if flags[0].1 && flags[1].1 {
        Finding::new("processor", Health::Good, text)
    } else {
        Finding::new("processor", Health::Warning, text)
            .help("without AVX2 and FMA results are right, but slow, and their last bits may differ from other machines'")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> Finding {
    Finding::new("processor", Health::Note, processor_name())
        .help("the same bits as elsewhere are promised for x86-64 with AVX2 and FMA only")
}

fn processor_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(
            || "unknown model".to_owned(),
            |(_, name)| name.trim().to_owned(),
        )
}

fn threads() -> Finding {
    let online = fs::read_to_string("/proc/cpuinfo").map_or(0, |text| {
        text.lines()
            .filter(|line| line.starts_with("processor"))
            .count()
    });
    match thread::available_parallelism() {
        Ok(n) if online > n.get() => Finding::new(
            "threads",
            Health::Note,
            format!("{n} of the machine's {online}"),
        )
        .help("limited by a control group or an affinity mask; --jobs asks for fewer"),
        Ok(n) => Finding::new("threads", Health::Good, n.to_string()),
        Err(error) => Finding::new(
            "threads",
            Health::Warning,
            format!("cannot be counted: {error}"),
        )
        .help("one will be used; --jobs asks for more"),
    }
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib << 10)
    };
    let (Some(total), Some(available)) = (field("MemTotal:"), field("MemAvailable:")) else {
        return Finding::new("memory", Health::Note, "unknown");
    };
    let limit = memory_limit().filter(|&limit| limit < total);
    let mut words = format!(
        "{} free of {}",
        units::bytes(available),
        units::bytes(total)
    );
    if let Some(limit) = limit {
        let _ = write!(
            words,
            ", limited to {} by a control group",
            units::bytes(limit)
        );
    }
    let usable = available.min(limit.unwrap_or(u64::MAX));
    if usable < 2 << 30 {
        Finding::new("memory", Health::Warning, words)
            .help("the full natron_v2 pipeline wants 2 GiB; the quick profile less")
    } else {
        Finding::new("memory", Health::Good, words)
    }
}

/// What holds the limits of processes that stages start.
fn containment() -> Finding {
    let found = natron_process::mechanisms();
    let folders: Vec<String> = found
        .folders
        .iter()
        .map(|folder| format!("`{}`", folder.display()))
        .collect();
    match (found.memory, found.processes) {
        (Mechanism::ControlGroup, Mechanism::ControlGroup) => Finding::new(
            "limits",
            Health::Good,
            format!("held by control groups below {}", folders.join(" and ")),
        ),
        (memory, processes) => {
            let by = |mechanism| match mechanism {
                Mechanism::ControlGroup => "by control groups",
                Mechanism::OwnLimit => "by setrlimit",
            };
            Finding::new(
                "limits",
                Health::Note,
                format!(
                    "of memory {}, of the number of processes {}",
                    by(memory),
                    by(processes)
                ),
            )
            .help("setrlimit counts the address space of each process, and all processes of a user; with a writable control group (systemd-run --user --scope -p Delegate=yes) a stage is limited as a whole")
        }
    }
}

fn memory_limit() -> Option<u64> {
    [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Kernels are compiled when they run, so a card is of use only together with NVRTC.
fn gpu() -> Finding {
    let cards = match cuda::cards() {
        Ok(cards) => cards,
        Err(CudaError::NoDriver) => {
            return Finding::new(
                "gpu",
                Health::Note,
                "no NVIDIA driver; everything runs on the processor",
            );
        }
        Err(error) => return Finding::new("gpu", Health::Warning, error.to_string()),
    };
    if cards.is_empty() {
        return Finding::new("gpu", Health::Note, "an NVIDIA driver, but no card");
    }
    let cards: Vec<String> = cards
        .iter()
        .map(|card| {
            let memory = units::bytes(card.memory_bytes as u64);
            format!("{} ({}, {memory})", card.name, card.architecture)
        })
        .collect();
    let cards = cards.join(", ");
    match cuda::nvrtc_version(&[]) {
        Some((major, minor)) => Finding::new(
            "gpu",
            Health::Good,
            format!("{cards}, NVRTC {major}.{minor}"),
        ),
        None => Finding::new(
            "gpu",
            Health::Warning,
            format!("{cards}, but `libnvrtc` was not found"),
        )
        .help("our kernels are compiled by NVRTC when they run: pip install nvidia-cuda-nvrtc, and name the folder of libnvrtc in NATRON_NVRTC or LD_LIBRARY_PATH"),
    }
}

/// Tries what the store needs in the nearest folder to the cache that exists.
fn store(workspace: &Workspace) -> Vec<Finding> {
    let cache = workspace.cache();
    let Some(folder) = cache.ancestors().find(|folder| folder.is_dir()) else {
        return vec![Finding::new(
            "store",
            Health::Bad,
            format!("`{}` has no folder above it", cache.display()),
        )];
    };
    let mut findings = vec![match write_latency(folder) {
        Ok(milliseconds) => {
            let text = format!(
                "`{}`: a small file is safe on the disk after {milliseconds:.1} ms",
                cache.display()
            );
            if milliseconds > 50.0 {
                Finding::new("store", Health::Warning, text)
                    .help("a slow disk: --cache or NATRON_CACHE can name another")
            } else {
                Finding::new("store", Health::Good, text)
            }
        }
        Err(error) => Finding::new(
            "store",
            Health::Bad,
            format!("cannot write in `{}`: {error}", folder.display()),
        )
        .help("--cache or NATRON_CACHE can name another folder"),
    }];
    findings.push(match locks_work(folder) {
        Ok(true) => Finding::new("locks", Health::Good, "file locks hold"),
        Ok(false) => Finding::new(
            "locks",
            Health::Bad,
            "a second lock of a locked file was granted",
        )
        .help("two runs at once would not notice each other: put the cache on a local disk"),
        Err(error) => Finding::new(
            "locks",
            Health::Bad,
            format!("files cannot be locked: {error}"),
        )
        .help("put the cache on a local disk"),
    });
    findings.push(match statvfs(folder) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let text = format!("{} free", units::bytes(free));
            if free < 1 << 30 {
                Finding::new("disk", Health::Warning, text)
                    .help("`natron gc` frees what no recent run needs")
            } else {
                Finding::new("disk", Health::Good, text)
            }
        }
        Err(error) => Finding::new("disk", Health::Note, format!("free space unknown: {error}")),
    });
    findings
}

/// The median time, in milliseconds, from creating a file of 4 KiB to its being flushed and renamed.
fn write_latency(folder: &Path) -> io::Result<f64> {
    const TRIES: usize = 7;
    let (temporary, path) = (probe(folder, "tmp"), probe(folder, "probe"));
    let mut times = Vec::with_capacity(TRIES);
    let result = (0..TRIES).try_for_each(|_| {
        let start = Instant::now();
        let mut file = File::create(&temporary)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(())
    });
    for leftover in [temporary, path] {
        let _ = fs::remove_file(leftover);
    }
    result.map(|()| {
        times.sort_by(f64::total_cmp);
        times[TRIES / 2]
    })
}

/// Whether a locked file refuses a second lock.
fn locks_work(folder: &Path) -> io::Result<bool> {
    let path = probe(folder, "lock");
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    let lock = |file: File| Flock::lock(file, FlockArg::LockExclusiveNonblock);
    let result = open().and_then(|file| {
        let held = lock(file).map_err(|(_, errno)| io::Error::from(errno))?;
        let second = lock(open()?);
        drop(held);
        Ok(second.is_err())
    });
    let _ = fs::remove_file(&path);
    result
}

fn probe(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".natron-doctor-{}-{name}", std::process::id()))
}

fn surroundings() -> Finding {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| "unset".to_owned());
    let text = format!(
        "TZ {}, LC_ALL {}, LANG {}",
        variable("TZ"),
        variable("LC_ALL"),
        variable("LANG")
    );
    Finding::new("locale", Health::Good, text)
        .help("results do not depend on these: times are UTC everywhere")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);

        let findings = findings(&workspace, 0);
        assert!(
            findings.iter().all(|finding| finding.health != Health::Bad),
            "{findings:?}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

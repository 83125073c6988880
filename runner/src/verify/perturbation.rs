//! What surrounds a stage and is changed on purpose when it is executed again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use natron_artifacts::Conditions;
use serde::{Serialize, Serializer};

use crate::did_you_mean;

/// One thing that a verification changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Perturbation {
    /// The folder that the stage works in.
    Path,
    /// How deep that folder lies.
    Depth,
    /// The time zone.
    TimeZone,
    /// The locale: letters, their order, how numbers and dates are written.
    Locale,
    /// The seed of Python's hashes, which decide the order of its sets.
    HashSeed,
    /// The order in which folders list their entries.
    FolderOrder,
    /// The number of threads.
    Threads,
    /// The clock.
    StartTime,
    /// The rights that new files do not get.
    Umask,
    /// The name of the machine, as far as it is in the environment.
    HostName,
    /// The path of the home folder.
    Home,
}

impl Perturbation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Path,
        Self::Depth,
        Self::TimeZone,
        Self::Locale,
        Self::HashSeed,
        Self::FolderOrder,
        Self::Threads,
        Self::StartTime,
        Self::Umask,
        Self::HostName,
        Self::Home,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Depth => "depth",
            Self::TimeZone => "time-zone",
            Self::Locale => "locale",
            Self::HashSeed => "hash-seed",
            Self::FolderOrder => "folder-order",
            Self::Threads => "threads",
            Self::StartTime => "start-time",
            Self::Umask => "umask",
            Self::HostName => "host-name",
            Self::Home => "home",
        }
    }

    /// How a stage that depends on it is mended.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Path | Self::Depth => {
                "keep absolute paths out of the output: write paths relative to the current folder"
            }
            Self::TimeZone => {
                "compute in UTC, or declare `with.environment = { TZ = \"UTC\" }`, which makes it part of the key"
            }
            Self::Locale => {
                "sort and format without the locale, or declare `with.environment = { LC_ALL = \"C.UTF-8\" }`, which makes it part of the key"
            }
            Self::HashSeed => {
                "sort sets before they are written, or declare `with.environment = { PYTHONHASHSEED = \"0\" }`, which makes it part of the key"
            }
            Self::FolderOrder => "sort the names that a folder lists",
            Self::Threads => {
                "collect the results of threads in a fixed order, or declare `resources.threads = \"one\"`"
            }
            Self::StartTime => "keep the clock out of the output",
            Self::Umask => "keep rights of files out of the output",
            Self::HostName => "keep the machine's name out of the output",
            Self::Home => "keep the home folder's path out of the output",
        }
    }
}

impl fmt::Display for Perturbation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Perturbation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The perturbations that `names` mean: `all`, `none`, or some of them.
///
/// # Errors
///
/// A name that is none, with the nearest one.
pub fn perturbations<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<Perturbation>, (String, Option<&'static str>)> {
    let mut found = BTreeSet::new();
    for name in names {
        match name {
            "all" => found.extend(Perturbation::ALL),
            "none" => {}
            name => {
                let known = Perturbation::ALL.into_iter();
                if let Some(perturbation) = known.clone().find(|p| p.name() == name) {
                    found.insert(perturbation);
                } else {
                    let names = known.map(Perturbation::name).chain(["all", "none"]);
                    return Err((name.to_owned(), did_you_mean(name, names)));
                }
            }
        }
    }
    Ok(found)
}

/// One of the conditions of an execution beside those of the recorded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Circumstance {
    /// What.
    pub what: Perturbation,
    /// How it was when the result was recorded, where that is known.
    pub recorded: Option<String>,
    /// How it was now.
    pub here: String,
    /// Whether it was changed on purpose.
    pub changed: bool,
    /// Why not, or how far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Time zones with odd offsets (UTC+12:45, -3:30, +5:45), by name and by rule for machines without a time zone database.
const TIME_ZONES: [(&str, &str); 3] = [
    (
        "Pacific/Chatham",
        "CHAST-12:45CHADT,M9.5.0/2:45,M4.1.0/3:45",
    ),
    ("America/St_Johns", "NST3:30NDT,M3.2.0,M11.1.0"),
    ("Asia/Kathmandu", "NPT-5:45"),
];

/// Locales that order or write letters and numbers in their own way, the oddest first.
const LOCALES: [&str; 8] = [
    "tr_TR", "et_EE", "da_DK", "cs_CZ", "de_DE", "fr_FR", "en_US", "en_GB",
];

/// Clocks that are ahead: another year, month, weekday and hour.
const CLOCKS: [&str; 2] = ["+400d13h", "+33d5h"];

const UMASKS: [u32; 2] = [0o077, 0o002];

const FAKETIME: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
];

/// What this machine has for perturbing.
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// Locales to choose from, in the order of use.
    locales: Vec<String>,
    /// Whether one of them orders letters unlike their codes.
    has_collation: bool,
    faketime: Option<PathBuf>,
    has_zones: bool,
}

impl Means {
    /// Looks around.
    pub fn find() -> Self {
        let listed = Command::new("locale")
            .arg("-a")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let listed = listed.map_or_else(|_| Vec::new(), |output| output.stdout);
        let faketime = FAKETIME.iter().map(PathBuf::from).find(|p| p.is_file());
        let has_zones = Path::new("/usr/share/zoneinfo").is_dir();
        Self::of(&String::from_utf8_lossy(&listed), faketime, has_zones)
    }

    fn of(locales: &str, faketime: Option<PathBuf>, has_zones: bool) -> Self {
        let installed: Vec<&str> = locales.lines().map(str::trim).collect();
        let is_utf8 = |name: &str| name.to_ascii_lowercase().replace('-', "").contains("utf8");
        let known = LOCALES.iter().filter_map(|wanted| {
            let matching = installed.iter().filter(|name| name.starts_with(wanted));
            matching.max_by_key(|name| is_utf8(name)).copied()
        });
        let is_plain = |name: &&str| {
            name.is_empty() || *name == "POSIX" || *name == "C" || name.starts_with("C.")
        };
        let other = installed.iter().find(|name| !is_plain(name)).copied();
        let mut found: Vec<String> = known.take(1).map(str::to_owned).collect();
        if found.is_empty() {
            found.extend(other.map(str::to_owned));
        }
        let has_collation = !found.is_empty();
        found.push("POSIX".to_owned());
        Self {
            locales: found,
            has_collation,
            faketime,
            has_zones,
        }
    }

    fn time_zone(&self, n: usize) -> &'static str {
        let (name, rule) = TIME_ZONES[n % TIME_ZONES.len()];
        if self.has_zones { name } else { rule }
    }

    fn locale(&self, n: usize) -> &str {
        match self.locales.as_slice() {
            [] => "POSIX",
            locales => &locales[n % locales.len()],
        }
    }
}

/// The environment that repetition number `n` gives to this process and to programs.
pub fn perturbed_environment(
    means: &Means,
    perturb: &BTreeSet<Perturbation>,
    n: usize,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
    for perturbation in perturb {
        match perturbation {
            Perturbation::TimeZone => {
                set("TZ", means.time_zone(n).to_owned());
            }
            Perturbation::Locale => {
                set("LC_ALL", means.locale(n).to_owned());
                set("LANG", means.locale(n).to_owned());
            }
            Perturbation::HashSeed => {
                set("PYTHONHASHSEED", (4242 + n).to_string());
            }
            Perturbation::HostName => {
                set("HOSTNAME", format!("elsewhere-{n}"));
            }
            _ => {}
        }
    }
    environment
}

/// What decides the conditions of one repetition.
pub(super) struct Wanted<'a> {
    pub(super) means: &'a Means,
    pub(super) perturb: &'a BTreeSet<Perturbation>,
    /// Which repetition, from 0.
    pub(super) n: usize,
    pub(super) seed: u64,
    /// The environment that the stage declares, which is part of its key.
    pub(super) declared: &'a BTreeMap<String, String>,
    /// Where the stage works.
    pub(super) folder: &'a Path,
    /// A folder of the repetition that the stage does not see.
    pub(super) aside: &'a Path,
    /// Why folders list their entries as before, if they do.
    pub(super) folder_order_note: Option<String>,
    pub(super) threads: usize,
    /// Threads when it was recorded; 0 where that is not known.
    pub(super) recorded_threads: u32,
    /// Whether the stage takes no other number of threads.
    pub(super) threads_are_fixed: bool,
    /// When it was recorded, as text.
    pub(super) recorded_start: String,
    pub(super) now: String,
}

impl Wanted<'_> {
    fn has(&self, what: Perturbation) -> bool {
        self.perturb.contains(&what)
    }

    fn umask(&self) -> Option<u32> {
        let mask = UMASKS[self.n % UMASKS.len()];
        self.has(Perturbation::Umask).then_some(mask)
    }

    /// The conditions, and what there is to say of them.
    pub(super) fn conditions(&self) -> (Conditions, Vec<Circumstance>) {
        let mut environment = perturbed_environment(self.means, self.perturb, self.n);
        // A locale has several variables; what the stage says of any of them must not be overruled.
        let declares_locale = self
            .declared
            .keys()
            .any(|name| name == "LANG" || name.starts_with("LC_"));
        if declares_locale {
            environment.retain(|name, _| name != "LANG" && name != "LC_ALL");
        }
        let mut circumstances = Vec::new();
        let variables = [
            (Perturbation::TimeZone, "TZ", "UTC"),
            (Perturbation::Locale, "LC_ALL", "C.UTF-8"),
            (Perturbation::HashSeed, "PYTHONHASHSEED", "0"),
            (Perturbation::HostName, "HOSTNAME", "not set"),
        ];
        for (what, name, usual) in variables {
            let is_declared = self.declared.contains_key(name)
                || (what == Perturbation::Locale && declares_locale);
            let declared = self.declared.get(name).map_or(usual, String::as_str);
            let perturbed = environment.get(name).filter(|_| !is_declared);
            let note = match what {
                _ if is_declared => Some("declared by the stage, part of its key".to_owned()),
                Perturbation::Locale if perturbed.is_some() && !self.means.has_collation => {
                    let text = "the character set only: no locale with another order of letters is installed";
                    Some(text.to_owned())
                }
                _ => None,
            };
            circumstances.push(Circumstance {
                what,
                recorded: Some(declared.to_owned()),
                here: perturbed.map_or(declared, String::as_str).to_owned(),
                changed: perturbed.is_some(),
                note,
            });
        }
        let has_order = self.has(Perturbation::FolderOrder);
        let folder_order = has_order.then(|| self.seed.wrapping_add(self.n as u64));
        circumstances.push(Circumstance {
            what: Perturbation::FolderOrder,
            recorded: Some("made by name".into()),
            here: if has_order {
                "made in a shuffled order".into()
            } else {
                "made by name".into()
            },
            changed: has_order && self.folder_order_note.is_none(),
            note: self.folder_order_note.clone().filter(|_| has_order),
        });
        self.place(&mut circumstances);
        self.clock(&mut environment, &mut circumstances);
        self.home(&mut environment, &mut circumstances);
        circumstances.sort_by_key(|c| c.what);
        let conditions = Conditions {
            environment,
            folder_order,
            umask: self.umask(),
            checkpoint_every: None,
        };
        (conditions, circumstances)
    }

    /// Folder, threads and umask.
    fn place(&self, circumstances: &mut Vec<Circumstance>) {
        let folder = self.folder.display().to_string();
        for what in [Perturbation::Path, Perturbation::Depth] {
            let depth = self.folder.components().count();
            circumstances.push(Circumstance {
                what,
                recorded: None,
                here: if what == Perturbation::Path {
                    folder.clone()
                } else {
                    format!("{depth} folders deep")
                },
                changed: self.has(what),
                note: None,
            });
        }
        let recorded = (self.recorded_threads > 0).then(|| self.recorded_threads.to_string());
        let here = self.threads.to_string();
        let changed = recorded.as_ref().is_none_or(|recorded| *recorded != here);
        circumstances.push(Circumstance {
            what: Perturbation::Threads,
            recorded,
            here,
            changed: changed && self.has(Perturbation::Threads) && !self.threads_are_fixed,
            note: self
                .threads_are_fixed
                .then(|| "the stage takes one thread".to_owned()),
        });
        circumstances.push(Circumstance {
            what: Perturbation::Umask,
            recorded: None,
            here: self
                .umask()
                .map_or_else(current_umask, |mask| format!("{mask:04o}")),
            changed: self.umask().is_some(),
            note: None,
        });
    }

    fn clock(
        &self,
        environment: &mut BTreeMap<String, String>,
        circumstances: &mut Vec<Circumstance>,
    ) {
        let is_wanted = self.has(Perturbation::StartTime);
        let declared = ["LD_PRELOAD", "FAKETIME"]
            .iter()
            .any(|name| self.declared.contains_key(*name));
        let (mut here, mut changed, mut note) = (self.now.clone(), false, None);
        match &self.means.faketime {
            Some(library) if is_wanted && !declared => {
                let shift = CLOCKS[self.n % CLOCKS.len()];
                environment.insert("LD_PRELOAD".into(), library.display().to_string());
                environment.insert("FAKETIME".into(), shift.into());
                environment.insert("DONT_FAKE_MONOTONIC".into(), "1".into());
                here = format!("{here} {shift}");
                changed = true;
                note = Some("for programs that load libfaketime; later anyway for all".into());
            }
            None if is_wanted => {
                note = Some("only later, not set: libfaketime is not installed".into());
            }
            _ => {}
        }
        circumstances.push(Circumstance {
            what: Perturbation::StartTime,
            recorded: Some(self.recorded_start.clone()),
            here,
            changed,
            note,
        });
    }

    /// The same home folder under another path.
    fn home(
        &self,
        environment: &mut BTreeMap<String, String>,
        circumstances: &mut Vec<Circumstance>,
    ) {
        let real = std::env::var("HOME").unwrap_or_default();
        let (mut here, mut changed, mut note) = (real.clone(), false, None);
        if self.declared.contains_key("HOME") {
            note = Some("declared by the stage, part of its key".into());
        } else if self.has(Perturbation::Home) {
            let link = self.aside.join(format!("home-{}", self.n));
            let target = if real.is_empty() { "/" } else { &real };
            let made = fs::create_dir_all(self.aside)
                .and_then(|()| std::os::unix::fs::symlink(target, &link));
            if made.is_ok() {
                here = link.display().to_string();
                environment.insert("HOME".into(), here.clone());
                changed = true;
                note = Some("another path to the same folder".into());
            } else {
                note = Some("no link to the home folder could be made".into());
            }
        }
        circumstances.push(Circumstance {
            what: Perturbation::Home,
            recorded: Some(real).filter(|real| !real.is_empty()),
            here,
            changed,
            note,
        });
    }
}

/// A folder that lists its entries in another order than those below `usual`, where one can be found.
///
/// Many file systems list by a hash of the names, so that the order in which entries are made does not matter there; one in
/// memory lists the other way. `Ok(None)` means that `usual` itself will do.
///
/// # Errors
///
/// Why there is none.
pub(super) fn folder_with_other_order(usual: &Path) -> Result<Option<tempfile::TempDir>, String> {
    let failed = |error: std::io::Error| format!("folders cannot be tried: {error}");
    let by_name = listing(usual, false).map_err(failed)?;
    if listing(usual, true).map_err(failed)? != by_name {
        return Ok(None);
    }
    let memory = Path::new("/dev/shm");
    let no =
        "this file system lists folders by a hash of the names, and there is no other to work on";
    let statistics = nix::sys::statvfs::statvfs(memory).map_err(|_| no.to_owned())?;
    let is_executable = !statistics
        .flags()
        .contains(nix::sys::statvfs::FsFlags::ST_NOEXEC);
    let free = statistics.blocks_available() as u64 * statistics.fragment_size() as u64;
    if !is_executable || free < LEAST_MEMORY_BYTES {
        return Err(no.to_owned());
    }
    sweep(memory);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(memory)
        .map_err(|_| no.to_owned())?;
    match listing(folder.path(), true) {
        Ok(other) if other != by_name => Ok(Some(folder)),
        _ => Err(no.to_owned()),
    }
}

/// Prefix of folders in memory; the process follows.
const PREFIX: &str = "natron-verify-";

/// Less free memory is left alone.
const LEAST_MEMORY_BYTES: u64 = 1 << 30;

/// What is larger is not brought into memory.
pub(super) const MOST_IN_MEMORY_BYTES: u64 = 256 << 20;

/// Removes what killed verifications left in memory.
fn sweep(memory: &Path) {
    for entry in fs::read_dir(memory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// How a folder below `above` lists 12 files that are made by name, or in another order.
fn listing(above: &Path, shuffled: bool) -> std::io::Result<Vec<std::ffi::OsString>> {
    let folder = tempfile::tempdir_in(above)?;
    let conditions = Conditions {
        folder_order: shuffled.then_some(1),
        ..Conditions::default()
    };
    for i in conditions.ordered((0..12).collect()) {
        fs::write(folder.path().join(format!("part-{i:02}.csv")), "")?;
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path())? {
        names.push(entry?.file_name());
    }
    Ok(names)
}

/// The umask of this process, in octal digits.
fn current_umask() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.map_or_else(|| "unknown".to_owned(), |mask| mask.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_say() {
        assert_eq!(perturbations(["all"]).unwrap().len(), 11);
        assert_eq!(perturbations(["none"]).unwrap().len(), 0);
        let two = perturbations(["locale", "home"]).unwrap();
        assert_eq!(
            two.into_iter().collect::<Vec<_>>(),
            [Perturbation::Locale, Perturbation::Home]
        );
        let unknown = perturbations(["timezone"]).unwrap_err();
        assert_eq!(unknown, ("timezone".to_owned(), Some("time-zone")));
    }

    #[test]
    fn the_oddest_locale_that_is_there_is_used() {
        let locales = |text: &str| Means::of(text, None, true).locales;

        assert_eq!(locales("C\nC.utf8\nPOSIX\n"), ["POSIX"]);
        assert_eq!(
            locales("C\nde_DE\nde_DE.utf8\nen_US.utf8\n"),
            ["de_DE.utf8", "POSIX"]
        );
        assert_eq!(locales("C\nsv_SE.utf8\n"), ["sv_SE.utf8", "POSIX"]);
        assert!(!Means::of("C\n", None, true).has_collation);
    }

    #[test]
    fn what_a_stage_declares_stays() {
        let declared = BTreeMap::from([
            ("TZ".to_owned(), "Asia/Tokyo".to_owned()),
            ("LC_NUMERIC".to_owned(), "de_DE".to_owned()),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let perturb = perturbations(["all"]).unwrap();
        let means = Means::of("tr_TR.utf8\n", Some("/lib/faketime.so".into()), true);
        let wanted = Wanted {
            means: &means,
            perturb: &perturb,
            n: 0,
            seed: 1,
            declared: &declared,
            folder: folder.path(),
            aside: folder.path(),
            folder_order_note: None,
            threads: 1,
            recorded_threads: 2,
            threads_are_fixed: false,
            recorded_start: "then".into(),
            now: "now".into(),
        };

        let (conditions, circumstances) = wanted.conditions();
        let names: Vec<&str> = conditions.environment.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "DONT_FAKE_MONOTONIC",
                "FAKETIME",
                "HOME",
                "HOSTNAME",
                "LD_PRELOAD",
                "PYTHONHASHSEED",
                "TZ"
            ]
        );
        let changed = |what| {
            circumstances
                .iter()
                .find(|c| c.what == what)
                .unwrap()
                .changed
        };
        assert_eq!(circumstances.len(), 11);
        assert!(!changed(Perturbation::TimeZone) && !changed(Perturbation::Locale));
        assert!(changed(Perturbation::Threads) && changed(Perturbation::StartTime));
        let home = fs::read_link(&conditions.environment["HOME"]).unwrap();
        assert_eq!(home, PathBuf::from(std::env::var("HOME").unwrap()));
    }
}

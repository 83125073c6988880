//! Random mutations of good bytes for every [reader](crate::readers). Without the guidance of coverage: for that the same
//! readers are targets of `cargo fuzz` in `runner/faults/fuzz`.
//!
//! Each reader runs in a process of its own with a limit on memory, so that an abort is a finding and not the end; the
//! sequence depends on the seed alone, and is repeated to find the bytes of an abort.

use std::{
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, setrlimit};
use serde_json::{Value, json};

use crate::{
    Checked, Dice, While,
    readers::{Desk, READERS, Reader, seeds},
    sweep::{Family, Plan, Tally},
};

/// Address space that a reader may take, in bytes: the program's own and that of a few hundred megabytes of data.
const MOST_MEMORY: u64 = 2 << 30;
/// Bytes longer than this are cut.
const LONGEST: usize = 1 << 16;
/// A reader that takes longer hangs.
const SLOWEST: Duration = Duration::from_secs(1);

/// What is to be fuzzed.
#[derive(Debug, Clone)]
pub struct Job {
    /// The reader.
    pub reader: Reader,
    /// How long.
    pub seconds: f64,
    /// At most so many executions.
    pub executions: u64,
    /// Decides the mutations.
    pub seed: u64,
    /// Where findings go.
    pub out: PathBuf,
    /// Write the bytes down before each execution, from this one on.
    pub careful_from: Option<u64>,
}

/// Fuzzes one reader in this process. The answer counts executions and lists findings.
pub fn fuzz(job: &Job) -> Checked<Value> {
    let folder = tempfile::Builder::new()
        .prefix("natron-fuzz-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .at("folder")?;
    let program = std::env::current_exe().at("the program")?;
    let corpus = seeds(&folder.path().join("seeds"), &program)?
        .remove(&job.reader)
        .unwrap_or_default();
    // Bytes that once were a finding are tried first.
    let desk = Desk::new(&folder.path().join("desk"))?;
    let _ = setrlimit(Resource::RLIMIT_AS, MOST_MEMORY, MOST_MEMORY);
    std::panic::set_hook(Box::new(|_| {}));
    fs::create_dir_all(&job.out).at("create")?;
    let mut dice = Dice::named(job.seed, job.reader.name());
    let started = Instant::now();
    let (mut executions, mut good, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    let mut findings: Vec<Value> = Vec::new();
    let mut pool = corpus.clone();
    while executions < job.executions && started.elapsed().as_secs_f64() < job.seconds {
        let bytes = if (executions as usize) < corpus.len() {
            corpus[executions as usize].clone()
        } else {
            mutated(&pool, &mut dice)
        };
        if job.careful_from.is_some_and(|from| executions >= from) {
            fs::write(
                job.out.join(format!("fuzz-{}-last.bin", job.reader.name())),
                &bytes,
            )
            .at("write")?;
        }
        if executions.is_multiple_of(1000) {
            // How far we are, for whoever repeats this after an abort.
            let _ = fs::write(
                job.out.join(format!("fuzz-{}.count", job.reader.name())),
                executions.to_string(),
            );
        }
        let before = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| desk.read(job.reader, &bytes)));
        let took = before.elapsed();
        slowest = slowest.max(took);
        let problem = match &result {
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                Some(format!("panicked: {}", text.unwrap_or("no message")))
            }
            Ok(Err(message)) if message.starts_with("WRONG") => Some(message.clone()),
            Ok(_) if took > SLOWEST => Some(format!("took {took:?}")),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            let path = job
                .out
                .join(format!("fuzz-{}-{}.bin", job.reader.name(), findings.len()));
            fs::write(&path, &bytes).at("write")?;
            findings.push(json!({ "why": problem, "bytes": path, "execution": executions }));
            if findings.len() >= 10 {
                break;
            }
        }
        if matches!(result, Ok(Ok(()))) {
            good += 1;
            if executions as usize >= corpus.len() && pool.len() < 400 && dice.once_in(50) {
                pool.push(bytes);
            }
        }
        executions += 1;
    }
    Ok(json!({
        "reader": job.reader.name(), "executions": executions, "accepted": good, "seconds": started.elapsed().as_secs_f64(),
        "slowest_ms": slowest.as_secs_f64() * 1000.0, "findings": findings,
    }))
}

const WORDS: [&[u8]; 30] = [
    b"nan",
    b"inf",
    b"-0",
    b"1e999",
    b"9223372036854775808",
    b"-1",
    b"0",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"\\",
    b"${",
    b"}}",
    b"\r\n",
    b",",
    b";",
    b"\xef\xbb\xbf",
    b"[[",
    b"= {",
    b"null",
    b"PAR1",
    b"ARROW1",
    b"\xf7NA",
];

/// A mutation of one of `pool`.
fn mutated(pool: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    if pool.is_empty() || dice.once_in(200) {
        return (0..dice.below(200))
            .map(|_| dice.next_u64() as u8)
            .collect();
    }
    let mut bytes = dice.pick(pool).clone();
    for _ in 0..=dice.below(6) {
        let n = bytes.len();
        let at = dice.below(n + 1);
        match dice.below(12) {
            0 | 1 if n > 0 => bytes[at.min(n - 1)] ^= 1 << dice.below(8),
            2 if n > 0 => bytes[at.min(n - 1)] = dice.next_u64() as u8,
            3 => bytes.truncate(at),
            4 => {
                let end = (at + 1 + dice.below(20)).min(n);
                bytes.drain(at.min(end)..end);
            }
            5 => {
                let end = (at + 1 + dice.below(60)).min(n);
                let part = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 | 7 => {
                let word = *dice.pick(&WORDS);
                bytes.splice(at..at, word.iter().copied());
            }
            8 => {
                let word = *dice.pick(&WORDS);
                let end = (at + word.len()).min(n);
                bytes.splice(at..end, word.iter().copied());
            }
            9 => {
                let other = dice.pick(pool);
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            10 if n >= 8 => {
                let at = dice.below(n - 7);
                let number = *dice.pick(&[0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 62, 255, 65_536]);
                let width = *dice.pick(&[2, 4, 8]);
                bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            _ => {
                let part: Vec<u8> = bytes
                    .iter()
                    .copied()
                    .skip(at)
                    .take(1 + dice.below(8))
                    .collect();
                let times = 1 << dice.below(10);
                bytes.splice(at..at, part.repeat(times));
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Runs the family: every reader for a share of the time.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "fuzz")?;
    let rounds = READERS.len().div_ceil(plan.threads) as f64;
    let share = plan.longest.as_secs_f64() / rounds * 0.95;
    let seconds = if plan.fast {
        2.0_f64.min(share)
    } else {
        share.min(3600.0)
    };
    let least = std::sync::Mutex::new(f64::INFINITY);
    family.each(READERS, |(reader, name)| {
        let answer = family.case(name, |_| in_process(plan, reader, seconds));
        if let Some(answer) = answer {
            family.count(
                &format!("executions of {name}"),
                answer["executions"].as_u64().unwrap_or(0),
            );
            let took = answer["seconds"].as_f64().unwrap_or(0.0);
            let mut least = least
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *least = least.min(took);
        } else {
            *least
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = 0.0;
        }
    });
    let least = least
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if least.is_finite() {
        family.count("least thousandths of an hour", (least / 3.6) as u64);
    }
    Ok(family.finish())
}

/// Fuzzes a reader in a process of its own, and looks for the bytes if it aborts.
fn in_process(plan: &Plan, reader: Reader, seconds: f64) -> Checked<Value> {
    let out = plan.out.join("fuzz");
    let start = |careful: Option<u64>, seconds: f64| {
        let mut command = Command::new(&plan.program);
        command.args([
            "fuzz",
            reader.name(),
            "--seed",
            &plan.seed.to_string(),
            "--seconds",
            &seconds.to_string(),
        ]);
        if let Some(from) = careful {
            command.args(["--careful-from", &from.to_string()]);
        }
        command
            .arg("--out")
            .arg(&out)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .at("start")
    };
    let output = start(None, seconds)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Ok(answer) = serde_json::from_str::<Value>(&text) else {
        let count = fs::read_to_string(out.join(format!("fuzz-{}.count", reader.name())))
            .unwrap_or_default();
        let again = start(count.trim().parse().ok().or(Some(0)), seconds * 2.0 + 10.0)?;
        let place = out.join(format!("fuzz-{}-last.bin", reader.name()));
        return Err(format!(
            "the process ended with {} (again: {}); bytes in {}",
            output.status,
            again.status,
            place.display()
        ));
    };
    match answer["findings"]
        .as_array()
        .and_then(|findings| findings.first())
    {
        None => Ok(answer),
        Some(first) => Err(format!("{}; bytes in {}", first["why"], first["bytes"])),
    }
}

/// Reads the bytes of a finding again.
pub fn again(reader: Reader, path: &Path) -> Checked<String> {
    let folder = tempfile::tempdir().at("folder")?;
    let bytes = fs::read(path).at("read")?;
    let desk = Desk::new(folder.path())?;
    let result = desk.read(reader, &bytes);
    Ok(match result {
        Ok(()) => "accepted".into(),
        Err(message) => format!("refused: {message}"),
    })
}

/// What the targets of `cargo fuzz` call.
pub fn fuzz_one(desk: &Desk, reader: Reader, bytes: &[u8]) {
    if let Err(message) = desk.read(reader, bytes) {
        assert!(!message.starts_with("WRONG"), "{message}");
    }
}

/// Writes the seeds of a reader as files, as `cargo fuzz` wants them.
pub fn write_seeds(reader: Reader, folder: &Path) -> Checked<usize> {
    let place = tempfile::tempdir().at("folder")?;
    let program = std::env::current_exe().at("the program")?;
    let all = seeds(place.path(), &program)?;
    fs::create_dir_all(folder).at("create")?;
    let list = all.get(&reader).map_or(&[][..], Vec::as_slice);
    for (n, bytes) in list.iter().enumerate() {
        let mut file = fs::File::create(folder.join(format!("seed-{n}"))).at("create")?;
        file.write_all(bytes).at("write")?;
    }
    Ok(list.len())
}

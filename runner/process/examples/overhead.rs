//! Measures what running a program costs beyond the program: `cargo run --release -p natron-process --example overhead`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use natron_process::{Program, run};
use nix::sys::resource::{UsageWho, getrusage};

const ROUNDS: u32 = 1000;

/// Processor time of this process and of the children that it waited for.
fn processor_time() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .flat_map(|usage| [usage.user_time(), usage.system_time()])
        .map(|time| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64))
        .sum()
}

#[expect(clippy::print_stdout, reason = "its only purpose")]
fn main() {
    let script = "cat in >out && echo x >>out";
    let directory = std::env::temp_dir().join(format!("natron-overhead-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary folder can be made");
    std::fs::write(directory.join("in"), "1\n").expect("it can be written");
    let mut program = Program::new(Path::new("/bin/sh"), &directory);
    program.arguments = vec!["-c".into(), script.into()];
    program
        .environment
        .insert("PATH".into(), "/usr/bin:/bin".into());
    let per_round = |elapsed: Duration| elapsed.as_secs_f64() * 1e6 / f64::from(ROUNDS);

    run(&program, &|| false, &mut |_, _| ()).expect("it runs");
    let (start, before) = (Instant::now(), processor_time());
    let mut of_programs = 0.0;
    for _ in 0..ROUNDS {
        let ended = run(&program, &|| false, &mut |_, _| ()).expect("it runs");
        of_programs += ended.cpu_seconds;
    }
    let wall = per_round(start.elapsed());
    let own = per_round(processor_time().saturating_sub(before));
    println!(
        "ours: {wall:.0} us wall, of which {own:.0} us processor time here and {:.0} us in the programs (keeper not counted)",
        of_programs * 1e6 / f64::from(ROUNDS)
    );

    let (start, before) = (Instant::now(), processor_time());
    for _ in 0..ROUNDS {
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .current_dir(&directory)
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }
    println!(
        "the standard library: {:.0} us wall, {:.0} us processor time with the programs",
        per_round(start.elapsed()),
        per_round(processor_time().saturating_sub(before))
    );
    let _ = std::fs::remove_dir_all(&directory);
}

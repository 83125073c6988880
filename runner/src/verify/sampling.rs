//! Which stages a verification repeats when it cannot repeat all.

use std::{collections::BTreeSet, str::FromStr, time::Duration};

use natron_artifacts::{Digest, Hasher};

/// Which of the stages that have a result are executed again.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Choice {
    /// All.
    #[default]
    All,
    /// Some at random.
    Sample(Sample),
    /// Those that fit into this time, the most valuable first.
    Budget(Duration),
}

/// How many stages a sample has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// This part of them, rounded up.
    Part(f64),
    /// This many.
    Count(usize),
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a part, as `0.2` or `20%`, or a number of stages, as `5`";
        let part = |text: &str, scale: f64| match text.trim().parse::<f64>() {
            Ok(part) if part > 0.0 && part <= scale => Ok(Self::Part(part / scale)),
            _ => Err(expected.to_owned()),
        };
        if let Some(percent) = text.strip_suffix('%') {
            return part(percent, 100.0);
        }
        match text.parse::<usize>() {
            Ok(count) if count > 0 => Ok(Self::Count(count)),
            Ok(_) => Err(expected.to_owned()),
            Err(_) => part(text, 1.0),
        }
    }
}

/// A stage to choose or not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    /// Position in the graph.
    pub(super) index: usize,
    /// Instance name.
    pub(super) name: String,
    /// Seconds that all its repetitions are expected to take.
    pub(super) seconds: f64,
    /// When its result was last confirmed, in milliseconds.
    pub(super) confirmed_ms: Option<u64>,
}

/// The positions that `choice` takes, and why the others are left out.
pub(super) fn choose(
    candidates: &[Candidate],
    choice: Choice,
    seed: u64,
) -> (BTreeSet<usize>, Vec<(usize, String)>) {
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    let mut chosen = BTreeSet::new();
    let mut left = Vec::new();
    match choice {
        Choice::All => chosen.extend(candidates.iter().map(|c| c.index)),
        Choice::Sample(sample) => {
            let n = match sample {
                Sample::Part(part) => (part * candidates.len() as f64).ceil() as usize,
                Sample::Count(n) => n,
            };
            ordered.sort_by_key(|c| lot(seed, &c.name));
            chosen.extend(ordered.iter().take(n).map(|c| c.index));
            let others = ordered.iter().skip(n);
            left.extend(others.map(|c| (c.index, "not in the sample".to_owned())));
        }
        Choice::Budget(budget) => {
            // Never confirmed comes before long ago, and of those the cheapest.
            ordered.sort_by(|a, b| {
                (a.confirmed_ms.unwrap_or(0))
                    .cmp(&b.confirmed_ms.unwrap_or(0))
                    .then(a.seconds.total_cmp(&b.seconds))
                    .then(a.name.cmp(&b.name))
            });
            let mut rest = budget.as_secs_f64();
            for candidate in ordered {
                if candidate.seconds <= rest {
                    rest -= candidate.seconds;
                    chosen.insert(candidate.index);
                } else {
                    let why = format!("would take {:.1} s more", candidate.seconds);
                    left.push((candidate.index, format!("over the budget: {why}")));
                }
            }
        }
    }
    left.sort();
    (chosen, left)
}

/// What decides where a stage stands in the sample: independent of the other stages, so that a new one moves none.
fn lot(seed: u64, name: &str) -> Digest {
    Hasher::new("natron verify sample v1")
        .part(&seed.to_le_bytes())
        .part(name.as_bytes())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let candidate = |index: usize, seconds: f64, confirmed_ms| Candidate {
            index,
            name: format!("s{index}"),
            seconds,
            confirmed_ms,
        };
        vec![
            candidate(0, 5.0, Some(900)),
            candidate(1, 5.0, Some(100)),
            candidate(2, 6.0, None),
            candidate(3, 1.0, None),
            candidate(4, 100.0, None),
        ]
    }

    #[test]
    fn reads_parts_and_counts() {
        assert_eq!("0.2".parse(), Ok(Sample::Part(0.2)));
        assert_eq!("20%".parse(), Ok(Sample::Part(0.2)));
        assert_eq!("1.0".parse(), Ok(Sample::Part(1.0)));
        assert_eq!("5".parse(), Ok(Sample::Count(5)));
        for text in ["0", "0.0", "-1", "1.5", "200%", "few", "NaN", ""] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_takes_the_never_confirmed_then_the_oldest() {
        let budget = |seconds: u64| {
            let choice = Choice::Budget(Duration::from_secs(seconds));
            choose(&candidates(), choice, 0)
        };
        let chosen = |seconds: u64| budget(seconds).0.into_iter().collect::<Vec<_>>();

        assert_eq!(chosen(0), [] as [usize; 0]);
        assert_eq!(chosen(1), [3]);
        assert_eq!(chosen(7), [2, 3]);
        assert_eq!(chosen(12), [1, 2, 3], "the older one");
        assert_eq!(chosen(117), [0, 1, 2, 3, 4]);
        let left = budget(16).1;
        assert_eq!(left.len(), 2);
        assert_eq!(left[1].1, "over the budget: would take 100.0 s more");
    }

    #[test]
    fn a_sample_has_its_size_and_its_seed() {
        let sample = |sample, seed| choose(&candidates(), Choice::Sample(sample), seed).0;

        for seed in 0..20 {
            assert_eq!(sample(Sample::Count(2), seed).len(), 2);
            assert_eq!(sample(Sample::Part(0.5), seed).len(), 3);
            assert_eq!(
                sample(Sample::Count(2), seed),
                sample(Sample::Count(2), seed)
            );
        }
        let all: BTreeSet<usize> = (0..20)
            .flat_map(|seed| sample(Sample::Count(1), seed))
            .collect();
        assert_eq!(all.len(), 5, "every stage has its turn");
    }
}

//! The learning rate of each step: linear warm-up, then constant, cosine or plateau; or one cycle.

use natron_kernels::math;
use serde::{Deserialize, Serialize};

use super::options::{ScheduleKind, TrainingOptions};

/// The one-cycle schedule starts at the highest learning rate divided by this.
const ONE_CYCLE_START: f64 = 25.0;

/// Share of all steps over which the one-cycle schedule rises where no warm-up is given.
const ONE_CYCLE_RISE: f64 = 0.3;

/// What the plateau schedule remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plateau {
    /// What the learning rate is multiplied by now.
    factor: f64,
    /// Epochs since the best loss.
    epochs_without_progress: u32,
    /// The best loss.
    best: Option<f64>,
}

impl Plateau {
    pub(crate) fn new() -> Self {
        Self {
            factor: 1.0,
            epochs_without_progress: 0,
            best: None,
        }
    }

    /// Takes the validation loss of the epoch `epoch`, counted from 0, into account.
    pub(crate) fn observe(&mut self, loss: f64, epoch: u32, options: &TrainingOptions) {
        if self.best.is_none_or(|best| loss < best) {
            self.best = Some(loss);
            self.epochs_without_progress = 0;
            return;
        }
        if options.is_warm_up(epoch) {
            return;
        }
        self.epochs_without_progress += 1;
        if self.epochs_without_progress > options.plateau_patience {
            self.factor *= options.plateau_factor;
            self.epochs_without_progress = 0;
        }
    }
}

/// The learning rate of `step` (from 0) of `epochs * steps_per_epoch`.
pub(crate) fn learning_rate(
    options: &TrainingOptions,
    plateau: &Plateau,
    step: u64,
    steps_per_epoch: u64,
) -> f64 {
    let highest = options.learning_rate;
    let lowest = options.minimum_learning_rate.min(highest);
    let total = f64::from(options.epochs) * steps_per_epoch as f64;
    let position = (step + 1) as f64;
    // `from` to `to` along half a cosine while `share` goes from 0 to 1.
    let glide = |from: f64, to: f64, share: f64| {
        let share = share.clamp(0.0, 1.0);
        to + 0.5 * (from - to) * (1.0 + math::cos(std::f64::consts::PI * share))
    };
    let mut warmup = options.warmup_epochs * steps_per_epoch as f64;
    if options.schedule == ScheduleKind::OneCycle {
        if options.warmup_epochs == 0.0 {
            warmup = ONE_CYCLE_RISE * total;
        }
        if position < warmup {
            return glide(highest / ONE_CYCLE_START, highest, position / warmup);
        }
    }
    if position < warmup {
        return highest * position / warmup;
    }
    match options.schedule {
        ScheduleKind::Constant => highest,
        ScheduleKind::Plateau => (highest * plateau.factor).max(lowest),
        ScheduleKind::Cosine | ScheduleKind::OneCycle => glide(
            highest,
            lowest,
            (position - warmup) / (total - warmup).max(1.0),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(schedule: ScheduleKind) -> TrainingOptions {
        TrainingOptions {
            epochs: 10,
            batch: 1,
            accumulation: 1,
            windows_per_epoch: None,
            learning_rate: 1.0,
            weight_decay: 0.0,
            clip_norm: None,
            warmup_epochs: 2.0,
            schedule,
            plateau_factor: 0.5,
            plateau_patience: 1,
            minimum_learning_rate: 0.2,
            early_stop_epochs: None,
            average_decay: None,
        }
    }

    #[test]
    fn one_cycle_rises_to_the_highest_rate_and_falls_to_the_lowest() {
        let options = TrainingOptions {
            warmup_epochs: 0.0,
            ..options(ScheduleKind::OneCycle)
        };
        let rate = |step| learning_rate(&options, &Plateau::new(), step, 10);

        assert!((rate(0) - 0.04).abs() < 0.01, "{}", rate(0));
        assert!((rate(14) - 0.52).abs() < 1e-12, "half way up: {}", rate(14));
        assert!((rate(29) - 1.0).abs() < 1e-12, "{}", rate(29));
        assert!(
            (rate(64) - 0.6).abs() < 1e-12,
            "half way down: {}",
            rate(64)
        );
        assert!((rate(99) - 0.2).abs() < 1e-12, "{}", rate(99));
    }

    #[test]
    fn warms_up_and_follows_the_cosine_to_its_minimum() {
        let rate = |step| learning_rate(&options(ScheduleKind::Cosine), &Plateau::new(), step, 5);

        assert!((rate(0) - 0.1).abs() < 1e-12);
        assert!((rate(8) - 0.9).abs() < 1e-12);
        assert!((rate(9) - 1.0).abs() < 1e-12);
        assert!((rate(29) - 0.6).abs() < 1e-12);
        assert!((rate(49) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn a_plateau_lowers_the_rate_after_its_patience_but_not_below_the_minimum() {
        let options = options(ScheduleKind::Plateau);
        let mut plateau = Plateau::new();
        let mut rates = Vec::new();
        for (epoch, loss) in [1.0, 1.1, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
            .into_iter()
            .enumerate()
        {
            plateau.observe(loss, 2 + epoch as u32, &options);
            rates.push(learning_rate(&options, &plateau, 100, 5));
        }

        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2]);
    }

    #[test]
    fn patience_does_not_count_epochs_of_the_warm_up() {
        let options = TrainingOptions {
            warmup_epochs: 4.5,
            plateau_patience: 0,
            ..options(ScheduleKind::Plateau)
        };
        let mut plateau = Plateau::new();
        let rates: Vec<f64> = (0..6)
            .map(|epoch| {
                plateau.observe(1.0 + f64::from(epoch), epoch, &options);
                learning_rate(&options, &plateau, 100, 5)
            })
            .collect();

        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.5, 0.25]);
    }
}

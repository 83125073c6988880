//! What the values of an expression are measured in, as far as that follows from how it is written.

use natron_kernels::indicators::catalog;

use super::tree::Binary;

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A written number: it takes the unit of whatever it is added to.
    Number,
    /// Prices to a power times volumes to a power; of both to the power 0, a ratio.
    Amount { price: i8, volume: i8 },
    /// 0 to 100, or -100 to 100.
    Percent,
    /// 0 or 1, or -1, 0 or 1.
    Flag,
    /// -100, -80, 0, 80 or 100.
    Pattern,
    /// Bars.
    Rows,
    /// Standard deviations from a mean.
    StandardDeviations,
    /// Entropy with the natural logarithm.
    Nats,
    /// Not known.
    Unknown,
}

impl Unit {
    pub(crate) const PRICE: Self = Self::Amount {
        price: 1,
        volume: 0,
    };
    pub(crate) const VOLUME: Self = Self::Amount {
        price: 0,
        volume: 1,
    };
    pub(crate) const RATIO: Self = Self::Amount {
        price: 0,
        volume: 0,
    };

    /// The unit's name in a table's schema; empty if it is not known.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amount {
                price: 0,
                volume: 0,
            } => "ratio",
            Self::Amount {
                price: 1,
                volume: 0,
            } => "price",
            Self::Amount {
                price: 2,
                volume: 0,
            } => "price squared",
            Self::Amount {
                price: 0,
                volume: 1,
            } => "volume",
            Self::Amount {
                price: 0,
                volume: 2,
            } => "volume squared",
            Self::Amount {
                price: 1,
                volume: 1,
            } => "turnover",
            Self::Percent => "percent",
            Self::Flag => "flag",
            Self::Pattern => "pattern",
            Self::Rows => "bars",
            Self::StandardDeviations => "standard deviations",
            Self::Nats => "nats",
            Self::Amount { .. } | Self::Number | Self::Unknown => "",
        }
    }

    /// That of an indicator's output whose first series has the unit `series`.
    pub(crate) fn of_output(unit: catalog::Unit, series: Self) -> Self {
        match unit {
            catalog::Unit::OfSeries => series,
            catalog::Unit::OfSeriesSquared => series.power(2.0),
            catalog::Unit::Price => Self::PRICE,
            catalog::Unit::Ratio => Self::RATIO,
            catalog::Unit::Percent => Self::Percent,
            catalog::Unit::Volume => Self::VOLUME,
            catalog::Unit::Turnover => Self::Amount {
                price: 1,
                volume: 1,
            },
            catalog::Unit::Flag => Self::Flag,
            catalog::Unit::Pattern => Self::Pattern,
            catalog::Unit::Rows => Self::Rows,
            catalog::Unit::StandardDeviations => Self::StandardDeviations,
            catalog::Unit::Nats => Self::Nats,
        }
    }

    /// That of a sum, a difference, or whichever of both.
    pub(crate) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Number, unit) | (unit, Self::Number) => unit,
            (one, other) if one == other => one,
            _ => Self::Unknown,
        }
    }

    #[expect(
        clippy::unnested_or_patterns,
        reason = "the first pattern that fits counts"
    )]
    fn times(self, other: Self) -> Self {
        match (self, other) {
            // The first that fits: a number leaves a share a share, and a share of what holds or not is a share.
            (Self::Number, unit)
            | (unit, Self::Number)
            | (Self::Flag, unit)
            | (unit, Self::Flag)
            | (Self::RATIO, unit)
            | (unit, Self::RATIO) => unit,
            (
                Self::Amount { price, volume },
                Self::Amount {
                    price: more_price,
                    volume: more_volume,
                },
            ) => Self::Amount {
                price: price.saturating_add(more_price),
                volume: volume.saturating_add(more_volume),
            },
            _ => Self::Unknown,
        }
    }

    fn over(self, other: Self) -> Self {
        match (self, other) {
            (unit, Self::Number | Self::RATIO) => unit,
            (Self::Number, Self::Amount { .. }) => Self::RATIO.over(other),
            (
                Self::Amount { price, volume },
                Self::Amount {
                    price: less_price,
                    volume: less_volume,
                },
            ) => Self::Amount {
                price: price.saturating_sub(less_price),
                volume: volume.saturating_sub(less_volume),
            },
            (one, other) if one == other && one != Self::Unknown => Self::RATIO,
            _ => Self::Unknown,
        }
    }

    /// That of a power with a written exponent.
    pub(crate) fn power(self, exponent: f64) -> Self {
        match self {
            Self::Number | Self::RATIO => self,
            Self::Amount { price, volume } => {
                let of = |unit: i8| {
                    let power = f64::from(unit) * exponent;
                    let is_whole = power.fract().abs() < f64::EPSILON && power.abs() < 100.0;
                    is_whole.then_some(power as i8)
                };
                match (of(price), of(volume)) {
                    (Some(price), Some(volume)) => Self::Amount { price, volume },
                    _ => Self::Unknown,
                }
            }
            _ => Self::Unknown,
        }
    }

    /// That of a logarithm and of what else only numbers without dimension should go through.
    pub(crate) fn of_function(self) -> Self {
        match self {
            Self::Number | Self::RATIO => Self::RATIO,
            _ => Self::Unknown,
        }
    }

    pub(crate) fn of_binary(operator: Binary, left: Self, right: Self) -> Self {
        match operator {
            // Two that hold are two.
            Binary::Plus if left == Self::Flag && right == Self::Flag => Self::Unknown,
            Binary::Plus | Binary::Minus => left.joined(right),
            Binary::Times => left.times(right),
            Binary::Over => left.over(right),
            Binary::Power => Self::Unknown,
            _ => Self::Flag,
        }
    }
}

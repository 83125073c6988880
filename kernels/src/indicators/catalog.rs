//! All indicators by name, with their definitions.

use super::program::{Builder, Input, Series};

/// A parameter of an indicator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Name, as `period`.
    pub name: &'static str,
    /// What it may be.
    pub range: Range,
    /// What it is when nothing is said.
    pub default: Option<f64>,
}

/// What a parameter may be, ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Whole numbers.
    Whole(u32, u32),
    /// Numbers.
    Real(f64, f64),
}

/// A column that an indicator gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Name, as `signal`; empty if it is the only one.
    pub name: &'static str,
    /// Unit.
    pub unit: Unit,
}

/// Unit of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// That of the first series given.
    OfSeries,
    /// That of the first series given, squared.
    OfSeriesSquared,
    /// Quote currency per unit, as the bars have it.
    Price,
    /// A share of a price, a range or a sum: no dimension.
    Ratio,
    /// 0 to 100, or -100 to 100.
    Percent,
    /// Units traded, as the bars have them.
    Volume,
    /// Price times volume.
    Turnover,
    /// 0 or 1, or -1, 0 or 1.
    Flag,
    /// -100, -80, 0, 80 or 100, as TA-Lib's candle patterns.
    Pattern,
    /// Rows.
    Rows,
    /// Standard deviations from a mean.
    StandardDeviations,
    /// Entropy with the natural logarithm.
    Nats,
}

/// What an indicator computes.
#[derive(Clone, Copy)]
pub struct Indicator {
    /// Name, as `rsi`.
    pub name: &'static str,
    /// The series that are written as its first arguments, by name.
    pub series: &'static [&'static str],
    /// The columns of the bars that it reads besides.
    pub bars: &'static [Input],
    /// What is written after the series.
    pub parameters: &'static [Parameter],
    /// What it gives.
    pub outputs: &'static [Output],
    /// The definition in a sentence or two: formula, seed, what happens where it is not defined.
    pub definition: &'static str,
    /// Who defined it.
    pub source: &'static str,
    /// Adds it to a program: series and parameters in the order above, all in their ranges.
    pub expand: fn(&mut Builder, &[Series], &[f64]) -> Vec<Series>,
}

impl std::fmt::Debug for Indicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indicator")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// All indicators, family by family.
pub fn catalog() -> impl Iterator<Item = &'static Indicator> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// The indicator of this name.
pub fn find(name: &str) -> Option<&'static Indicator> {
    catalog().find(|indicator| indicator.name == name)
}

const FAMILIES: &[&[Indicator]] = &[
    super::recurrence::averages::INDICATORS,
    super::recurrence::cascades::INDICATORS,
    super::recurrence::differences::INDICATORS,
    super::recurrence::direction::INDICATORS,
    super::recurrence::kama::INDICATORS,
    super::recurrence::oscillators::INDICATORS,
    super::recurrence::stops::INDICATORS,
    super::recurrence::sums::INDICATORS,
    super::order::INDICATORS,
    super::rank::INDICATORS,
    super::recurrence::volatility::INDICATORS,
    super::calendar::INDICATORS,
    super::candles::INDICATORS,
    super::entropy::INDICATORS,
    super::fractional::INDICATORS,
    super::greeks::INDICATORS,
    super::hurst::INDICATORS,
    super::profile::INDICATORS,
    super::sessions::INDICATORS,
    super::spectral::INDICATORS,
    super::patterns::INDICATORS,
    super::structure::INDICATORS,
    super::window::comoments::INDICATORS,
    super::window::deviation::INDICATORS,
    super::window::extremes::INDICATORS,
    super::window::moments::INDICATORS,
    super::window::oscillators::INDICATORS,
    super::window::ranges::INDICATORS,
    super::window::regression::INDICATORS,
    super::window::returns::INDICATORS,
    super::window::sums::INDICATORS,
    super::window::volume::INDICATORS,
];

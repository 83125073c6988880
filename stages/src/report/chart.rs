//! Line charts: SVG for the lines, which stretch with the page, and HTML for the words, which do not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::html::{escape, json as script_json};

/// Most points that a line keeps; more would be finer than a screen.
const MAX_POINTS: usize = 700;

/// One line. Points without a finite y break it.
pub(super) struct Line {
    /// Name in the legend and under the pointer.
    pub(super) name: String,
    /// CSS class that colours it: `s1`, `s2`, `s3`, `s4`, `muted`.
    pub(super) class: &'static str,
    /// y at each of the chart's x.
    pub(super) y: Vec<f64>,
    /// How it is drawn.
    pub(super) look: Look,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A solid line.
    Solid,
    /// A thin dashed line.
    Dashed,
    /// A line over a filled area down to zero.
    Area,
    /// A line with its points.
    Dots,
}

/// A chart.
pub(super) struct Chart<'a> {
    /// Unique among the charts of the page.
    pub(super) id: String,
    /// What it shows, for those who do not see it.
    pub(super) title: String,
    /// Positions on the horizontal axis, ascending.
    pub(super) x: Vec<f64>,
    /// What stands at tick positions of the horizontal axis.
    pub(super) x_ticks: Vec<(f64, String)>,
    /// What each x is called under the pointer.
    pub(super) x_names: Vec<String>,
    /// The lines.
    pub(super) lines: Vec<Line>,
    /// Whether the vertical axis is logarithmic.
    pub(super) log: bool,
    /// Vertical range that is shown at least.
    pub(super) at_least: Option<(f64, f64)>,
    /// A reference level.
    pub(super) reference: Option<f64>,
    /// How values are written.
    pub(super) format: &'a dyn Fn(f64) -> String,
    /// `tall`, `medium` or `small`.
    pub(super) size: &'static str,
}

impl Chart<'_> {
    /// The chart as HTML; nothing when no line has a point.
    pub(super) fn html(&self) -> String {
        let Some(y_axis) = self.y_axis() else {
            return String::new();
        };
        let (x_low, x_high) = (
            self.x.first().copied().unwrap_or(0.0),
            self.x.last().copied().unwrap_or(1.0),
        );
        let x_width = if x_high > x_low { x_high - x_low } else { 1.0 };
        let place = |x: f64| (x - x_low) / x_width;

        let mut grid = String::new();
        let mut labels = String::new();
        for (value, text) in y_axis.ticks(self.log, self.format) {
            let up = y_axis.place(value);
            let y = fraction(1.0 - up);
            let _ = write!(grid, "<path class=\"grid\" d=\"M0 {y}H1000\"/>");
            let _ = write!(
                labels,
                "<span class=\"ty\" style=\"bottom:{}%\">{}</span>",
                share(up),
                escape(&text)
            );
        }
        let reference = self.reference.filter(|level| y_axis.holds(*level));
        if let Some(level) = reference {
            let y = fraction(1.0 - y_axis.place(level));
            let _ = write!(grid, "<path class=\"reference\" d=\"M0 {y}H1000\"/>");
        }
        for (i, (x, text)) in self.x_ticks.iter().enumerate() {
            let minor = if i % 2 == 1 { " minor" } else { "" };
            let _ = write!(
                labels,
                "<span class=\"tx{minor}\" style=\"left:{}%\">{}</span>",
                share(place(*x)),
                escape(text)
            );
        }

        let keep = self.kept_points();
        let lines: String = self
            .lines
            .iter()
            .map(|line| svg_line(line, &keep, |i| place(self.x[i]), &y_axis))
            .collect();
        let legend: String = self
            .lines
            .iter()
            .filter(|_| self.lines.len() > 1)
            .map(|line| {
                let dashed = if line.look == Look::Dashed {
                    " dashed"
                } else {
                    ""
                };
                format!(
                    "<span class=\"key\"><i class=\"swatch {}{dashed}\"></i>{}</span>",
                    line.class,
                    escape(&line.name)
                )
            })
            .collect();
        let data = script_json(&self.hover_data(&keep, &y_axis, place));
        let (id, title, size) = (escape(&self.id), escape(&self.title), self.size);
        format!(
            "<figure class=\"chart {size}\" data-chart=\"{id}\"><div class=\"legend\">{legend}</div>\
             <div class=\"frame\"><div class=\"plot\">\
             <svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">{grid}{lines}</svg>\
             <div class=\"rule\"></div><div class=\"tip\"></div></div>{labels}</div>\
             <script type=\"application/json\" id=\"{id}\">{data}</script></figure>\n"
        )
    }

    /// Indices of the points that are drawn: all, or of each of many equal stretches those where some line is lowest or
    /// highest, so that no peak is lost.
    fn kept_points(&self) -> Vec<usize> {
        let n = self.x.len();
        if n <= MAX_POINTS {
            return (0..n).collect();
        }
        let per_bucket = 2 * self.lines.len().max(1);
        let n_buckets = (MAX_POINTS / per_bucket).max(1);
        let mut keep = vec![0, n - 1];
        for bucket in 0..n_buckets {
            let (from, to) = (bucket * n / n_buckets, (bucket + 1) * n / n_buckets);
            for line in &self.lines {
                let finite = || (from..to).filter(|&i| line.y[i].is_finite());
                keep.extend(finite().min_by(|&a, &b| line.y[a].total_cmp(&line.y[b])));
                keep.extend(finite().max_by(|&a, &b| line.y[a].total_cmp(&line.y[b])));
            }
        }
        keep.sort_unstable();
        keep.dedup();
        keep
    }

    fn y_axis(&self) -> Option<Scale> {
        let values = self.lines.iter().flat_map(|line| &line.y).copied();
        let values = values.filter(|v| v.is_finite() && (!self.log || *v > 0.0));
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        if low > high {
            return None;
        }
        if let Some((a, b)) = self.at_least {
            (low, high) = (low.min(a), high.max(b));
        }
        if self.log {
            let margin = ((high / low).max(1.002)).sqrt().sqrt().sqrt().sqrt();
            return Some(Scale {
                low: low / margin,
                high: high * margin,
                log: true,
            });
        }
        let margin = if high > low {
            0.04 * (high - low)
        } else {
            0.5 * high.abs().max(1e-6)
        };
        let fixed = self.at_least.is_some_and(|(a, b)| low >= a && high <= b);
        let margin = if fixed { 0.0 } else { margin };
        Some(Scale {
            low: low - margin,
            high: high + margin,
            log: false,
        })
    }

    fn hover_data(&self, keep: &[usize], y_axis: &Scale, place: impl Fn(f64) -> f64) -> Value {
        let rounded = |v: f64| (v * 10_000.0).round() / 10_000.0;
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                let text: Vec<Value> = keep
                    .iter()
                    .map(|&i| {
                        if line.y[i].is_finite() {
                            json!((self.format)(line.y[i]))
                        } else {
                            Value::Null
                        }
                    })
                    .collect();
                let at: Vec<Value> = keep
                    .iter()
                    .map(|&i| {
                        if line.y[i].is_finite() {
                            json!(rounded(y_axis.place(line.y[i])))
                        } else {
                            Value::Null
                        }
                    })
                    .collect();
                json!({"name": line.name, "class": line.class, "text": text, "at": at})
            })
            .collect();
        let x: Vec<f64> = keep.iter().map(|&i| rounded(place(self.x[i]))).collect();
        let names: Vec<&str> = keep.iter().map(|&i| self.x_names[i].as_str()).collect();
        json!({"x": x, "names": names, "lines": lines})
    }
}

/// The vertical axis.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// 0 at the bottom, 1 at the top.
    fn place(&self, value: f64) -> f64 {
        use natron_kernels::math::ln;
        let place = if self.log {
            ln(value / self.low) / ln(self.high / self.low)
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self, log: bool, format: &dyn Fn(f64) -> String) -> Vec<(f64, String)> {
        let values = if log && self.high / self.low > 2.5 {
            let decades = (-6..7).map(|e| natron_kernels::math::pow(10.0, f64::from(e)));
            decades
                .flat_map(|d| [1.0, 1.5, 2.0, 3.0, 5.0, 7.0].map(|m| m * d))
                .filter(|v| (self.low..=self.high).contains(v))
                .collect()
        } else {
            round_values(self.low, self.high, 5)
        };
        values
            .into_iter()
            .map(|v| (v, without_trailing_zeros(&format(v))))
            .collect()
    }
}

/// A written number without zeros at the end of its decimals; what follows the decimals stays.
fn without_trailing_zeros(text: &str) -> String {
    let Some((whole, rest)) = text.split_once('.') else {
        return text.to_owned();
    };
    let n_digits = rest.chars().take_while(char::is_ascii_digit).count();
    let (decimals, unit) = rest.split_at(n_digits);
    let decimals = decimals.trim_end_matches('0');
    let point = if decimals.is_empty() { "" } else { "." };
    format!("{whole}{point}{decimals}{unit}")
}

/// About `n` round values from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.
pub(super) fn round_values(low: f64, high: f64, n: usize) -> Vec<f64> {
    let raw = (high - low) / n as f64;
    if !(raw.is_finite() && raw > 0.0) {
        return vec![low];
    }
    let mut power = 1.0;
    while power * 10.0 <= raw {
        power *= 10.0;
    }
    while power > raw {
        power /= 10.0;
    }
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|&step| step >= raw)
        .unwrap_or(raw);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

fn svg_line(line: &Line, keep: &[usize], x: impl Fn(usize) -> f64, y_axis: &Scale) -> String {
    let mut runs: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for &i in keep {
        if line.y[i].is_finite() {
            let point = (fraction(x(i)), fraction(1.0 - y_axis.place(line.y[i])));
            if let Some(run) = runs.last_mut() {
                run.push(point);
            }
        } else {
            runs.push(Vec::new());
        }
    }
    let mut path = String::new();
    let mut area = String::new();
    let mut dots = String::new();
    let base = fraction(1.0 - y_axis.place(if y_axis.log { 1.0 } else { 0.0 }));
    for run in runs.iter().filter(|run| !run.is_empty()) {
        for (k, (x, y)) in run.iter().enumerate() {
            let _ = write!(path, "{}{x} {y}", if k == 0 { 'M' } else { 'L' });
            if line.look == Look::Dots {
                let _ = write!(dots, "M{x} {y}h0");
            }
        }
        if line.look == Look::Area {
            let (first, last) = (&run[0].0, &run[run.len() - 1].0);
            let _ = write!(area, "M{first} {base}");
            for (x, y) in run {
                let _ = write!(area, "L{x} {y}");
            }
            let _ = write!(area, "L{last} {base}Z");
        }
    }
    let class = line.class;
    let look = if line.look == Look::Dashed {
        " dashed"
    } else {
        ""
    };
    let mut out = String::new();
    if !area.is_empty() {
        let _ = write!(out, "<path class=\"area {class}\" d=\"{area}\"/>");
    }
    let _ = write!(out, "<path class=\"line {class}{look}\" d=\"{path}\"/>");
    if !dots.is_empty() {
        let _ = write!(out, "<path class=\"dots {class}\" d=\"{dots}\"/>");
    }
    out
}

/// A place of 0 to 1 on the drawing's 1000 units.
fn fraction(place: f64) -> String {
    let text = format!("{:.1}", place * 1000.0);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A place of 0 to 1 in percent.
pub(super) fn share(place: f64) -> String {
    format!("{:.2}", place * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_values_are_round() {
        assert_eq!(
            round_values(0.03, 0.97, 5),
            [0.2, 0.4, 0.600_000_000_000_000_1, 0.8]
        );
        assert_eq!(round_values(-7.0, 12.0, 4), [-5.0, 0.0, 5.0, 10.0]);
        assert_eq!(round_values(2.0, 2.0, 5), [2.0]);
    }

    #[test]
    fn ticks_have_no_trailing_zeros() {
        assert_eq!(without_trailing_zeros("5.00\u{2009}%"), "5\u{2009}%");
        assert_eq!(without_trailing_zeros("0.8500"), "0.85");
        assert_eq!(without_trailing_zeros("2.00e\u{2212}4"), "2e\u{2212}4");
        assert_eq!(without_trailing_zeros("100"), "100");
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut y = vec![1.0; 50_000];
        y[12_345] = 9.0;
        y[34_567] = -9.0;
        let n = y.len();
        let chart = Chart {
            id: "c".into(),
            title: "t".into(),
            x: (0..n).map(|i| i as f64).collect(),
            x_ticks: vec![],
            x_names: vec![String::new(); n],
            lines: vec![Line {
                name: "l".into(),
                class: "s1",
                y,
                look: Look::Solid,
            }],
            log: false,
            at_least: None,
            reference: None,
            format: &|v| format!("{v}"),
            size: "small",
        };
        let keep = chart.kept_points();

        assert!(keep.len() <= MAX_POINTS + 2);
        assert!(keep.contains(&12_345) && keep.contains(&34_567));
        assert!(chart.html().len() < 60_000);
    }
}

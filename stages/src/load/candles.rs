//! `uses = "load.candles"`: candles from whatever there is, so that one pipeline serves files and the simulator.

use std::collections::BTreeMap;

use natron_artifacts::{Schemas, Signature, Stage, StageContext, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bars::{BarPolicies, Order, TimeIs},
    columns::CandleColumns,
    csv::{Decimal, Delimiter, LoadCsv},
    interval::Interval,
    parquet::LoadParquet,
    synthetic::LoadSynthetic,
};

/// Candles from a CSV or Parquet file, or from the simulated market where no file is named.
///
/// A name that ends in `.parquet` is read as `load.parquet` reads it, any other as `load.csv` does. Outputs as of `load.csv`:
/// `candles` (table: `ts_ns`, `open`, `high`, `low`, `close`, `volume`) and `statistics` (metrics).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoadCandles {
    /// The file, relative to the workspace or absolute; empty for the simulated market. The file's content is part of the
    /// key; its path is not.
    path: String,
    /// The file's names of the columns, as `{ time = "Date", volume = "VolumeFrom" }`.
    columns: CandleColumns,
    /// Further columns of numbers to keep: their name in `candles`, then the file's name. Empty cells stay missing; the
    /// simulated market has none.
    extra: BTreeMap<String, String>,
    /// What stands between two cells of a text file.
    delimiter: Delimiter,
    /// What stands between whole and fraction in a text file.
    decimal: Decimal,
    /// Whether a text file has a header. Without one the columns are called `1`, `2`, ..., and the usual order is time,
    /// open, high, low, close, volume.
    header: bool,
    /// Lines of a text file to skip before the header, as some vendors put their address there.
    skip_lines: u32,
    /// Form of the times: `auto`, `unix_s`, `unix_ms`, `unix_us`, `unix_ns` or a pattern of strptime, as `%d.%m.%Y %H:%M`.
    /// `natron stages load.csv` says what `auto` reads.
    time_format: String,
    /// Offset of times that do not state theirs: `UTC` or as `+02:00`.
    time_zone: String,
    /// Which end of the bar the times stand for.
    time_is: TimeIs,
    /// Length of a bar, as `1h`; the median step of the file when not given.
    interval: Option<Interval>,
    /// In which order the bars are.
    order: Order,
    /// What to do about bars that break a rule.
    policies: BarPolicies,
    /// The simulated market, as of `load.synthetic`.
    synthetic: LoadSynthetic,
}

impl Default for LoadCandles {
    /// The simulated market, and files as `load.csv` takes them.
    fn default() -> Self {
        let csv = LoadCsv::default();
        Self {
            path: csv.path,
            columns: csv.columns,
            extra: csv.extra,
            delimiter: csv.delimiter,
            decimal: csv.decimal,
            header: csv.header,
            skip_lines: csv.skip_lines,
            time_format: csv.time_format,
            time_zone: csv.time_zone,
            time_is: csv.time_is,
            interval: csv.interval,
            order: csv.order,
            policies: csv.policies,
            synthetic: LoadSynthetic::default(),
        }
    }
}

impl LoadCandles {
    /// Nothing in a Parquet file answers to what describes text.
    fn check_text_parameters(&self) -> Result<(), StageError> {
        let given = [
            ("delimiter", self.delimiter != Delimiter::Auto),
            ("decimal", self.decimal != Decimal::Auto),
            ("header", !self.header),
            ("skip_lines", self.skip_lines != 0),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) if has_extension(&self.path, "parquet") => {
                let message = format!("`{name}` means nothing to a Parquet file");
                Err(StageError::parameter(name, message)
                    .with_help("leave it out; it is for text files"))
            }
            _ => Ok(()),
        }
    }

    fn chosen(&self) -> Box<dyn Stage> {
        let (path, columns, extra) = (self.path.clone(), self.columns.clone(), self.extra.clone());
        let (time_format, time_zone) = (self.time_format.clone(), self.time_zone.clone());
        let (time_is, interval, order) = (self.time_is, self.interval, self.order);
        let policies = self.policies.clone();
        if self.path.is_empty() {
            Box::new(self.synthetic.clone())
        } else if has_extension(&self.path, "parquet") {
            let file = LoadParquet {
                path,
                columns,
                extra,
                time_format,
                time_zone,
                time_is,
                interval,
                order,
                policies,
            };
            Box::new(file)
        } else {
            let file = LoadCsv {
                path,
                columns,
                extra,
                delimiter: self.delimiter,
                decimal: self.decimal,
                header: self.header,
                skip_lines: self.skip_lines,
                time_format,
                time_zone,
                time_is,
                interval,
                order,
                policies,
            };
            Box::new(file)
        }
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    std::path::Path::new(path)
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

impl Stage for LoadCandles {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        self.check_text_parameters()?;
        self.chosen().signature(inputs)
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        self.chosen().run(context)
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::StageContextParts;
    use serde_json::{Value, json};

    use super::*;

    fn candles(with: Value, directory: &std::path::Path) -> natron_artifacts::Artifact {
        let stage: LoadCandles = serde_json::from_value(with).unwrap();
        let signature = stage.signature(&Schemas::new()).unwrap();
        let mut parts = StageContextParts::for_test(directory);
        for source in &signature.sources {
            parts
                .sources
                .insert(source.name.clone(), directory.join(&source.path));
        }
        let mut context = StageContext::new(parts, signature);
        stage.run(&mut context).unwrap();
        context.finish().unwrap().remove("candles").unwrap()
    }

    #[test]
    fn without_a_file_the_market_is_simulated_and_with_one_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let text = "time,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,2,0.5,1.5,10\n2024-01-01T01:00:00Z,1.5,2,1,1,9\n";
        std::fs::write(directory.path().join("bars.csv"), text).unwrap();

        let natron_artifacts::Artifact::Table(simulated) = candles(json!({}), directory.path())
        else {
            panic!()
        };
        let natron_artifacts::Artifact::Table(read) =
            candles(json!({ "path": "bars.csv" }), directory.path())
        else {
            panic!()
        };
        assert_eq!(simulated.n_rows(), 4000);
        assert_eq!(read.f64("close").unwrap(), [1.5, 1.0].as_slice());
    }

    #[test]
    fn a_file_is_read_with_every_parameter_of_load_csv() {
        let directory = tempfile::tempdir().unwrap();
        let text = "www.vendor.example\n01.02.2024 00:00|1,5|2|1|1,75|10|3,5\n01.02.2024 01:00|1,75|2|1|1,25|9|4,5\n";
        std::fs::write(directory.path().join("bars.txt"), text).unwrap();
        let with = json!({
            "path": "bars.txt", "skip_lines": 1, "header": false, "delimiter": "pipe", "decimal": "comma",
            "time_format": "%d.%m.%Y %H:%M", "extra": { "spread": "7" },
        });

        let natron_artifacts::Artifact::Table(read) = candles(with, directory.path()) else {
            panic!()
        };

        assert_eq!(read.f64("close").unwrap(), [1.75, 1.25].as_slice());
        assert_eq!(read.f64("spread").unwrap(), [3.5, 4.5].as_slice());
    }

    #[test]
    fn takes_what_load_csv_takes() {
        let fields =
            |value: Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let own = fields(serde_json::to_value(LoadCandles::default()).unwrap());
        for name in fields(serde_json::to_value(LoadCsv::default()).unwrap()) {
            assert!(own.contains(&name), "`{name}` is missing");
        }
    }

    #[test]
    fn what_describes_text_is_refused_for_parquet() {
        let with = json!({ "path": "bars.parquet", "decimal": "comma" });
        let stage: LoadCandles = serde_json::from_value(with).unwrap();

        let error = stage.signature(&Schemas::new()).unwrap_err();
        assert!(
            matches!(&error, StageError::Parameters { parameter, .. } if parameter == "decimal"),
            "{error}"
        );
    }
}

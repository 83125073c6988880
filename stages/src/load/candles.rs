//! `uses = "load.candles"`: candles from whatever there is, so that one pipeline serves files and the simulator.

use natron_artifacts::{Schemas, Signature, Stage, StageContext, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bars::{BarPolicies, Order, TimeIs},
    columns::CandleColumns,
    csv::LoadCsv,
    interval::Interval,
    parquet::LoadParquet,
    synthetic::LoadSynthetic,
};

/// Candles from a CSV or Parquet file, or from the simulated market where no file is named.
///
/// A name that ends in `.parquet` is read as `load.parquet` reads it, any other as `load.csv` does. Outputs as of `load.csv`:
/// `candles` (table: `ts_ns`, `open`, `high`, `low`, `close`, `volume`) and `statistics` (metrics).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoadCandles {
    /// The file, relative to the workspace or absolute; empty for the simulated market. The file's content is part of the
    /// key; its path is not.
    path: String,
    /// The file's names of the columns, as `{ time = "Date", volume = "VolumeFrom" }`.
    columns: CandleColumns,
    /// Form of the times, as of `load.csv`.
    time_format: Option<String>,
    /// Offset of times that do not state theirs: `UTC` or as `+02:00`.
    time_zone: Option<String>,
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

impl LoadCandles {
    fn chosen(&self) -> Box<dyn Stage> {
        let time_format = self.time_format.clone().unwrap_or_else(|| "auto".into());
        let time_zone = self.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let (path, columns) = (self.path.clone(), self.columns.clone());
        let (time_is, interval, order) = (self.time_is, self.interval, self.order);
        let policies = self.policies.clone();
        if self.path.is_empty() {
            Box::new(self.synthetic.clone())
        } else if has_extension(&self.path, "parquet") {
            let file = LoadParquet {
                path,
                columns,
                time_format,
                time_zone,
                time_is,
                interval,
                order,
                policies,
                ..LoadParquet::default()
            };
            Box::new(file)
        } else {
            let file = LoadCsv {
                path,
                columns,
                time_format,
                time_zone,
                time_is,
                interval,
                order,
                policies,
                ..LoadCsv::default()
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
        self.chosen().signature(inputs)
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        self.chosen().run(context)
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::StageContextParts;

    use super::*;

    fn candles(path: &str, directory: &std::path::Path) -> natron_artifacts::Artifact {
        let stage = LoadCandles {
            path: path.into(),
            ..LoadCandles::default()
        };
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

        let natron_artifacts::Artifact::Table(simulated) = candles("", directory.path()) else {
            panic!()
        };
        let natron_artifacts::Artifact::Table(read) = candles("bars.csv", directory.path()) else {
            panic!()
        };
        assert_eq!(simulated.n_rows(), 4000);
        assert_eq!(read.f64("close").unwrap(), [1.5, 1.0].as_slice());
    }
}

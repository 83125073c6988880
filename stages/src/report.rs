//! `uses = "report"`: one HTML page about a whole run, complete in itself.
//!
//! All inputs may be left out; each section stands where its inputs do. Output `report`.

mod chart;
mod graph;
mod heads;
mod html;
mod provenance;
mod script;
mod strategies;
mod style;
mod training;
mod verdict;

use std::sync::Arc;

use natron_artifacts::{
    Artifact, Kind, Metrics, Model, PortSchema, Report as ReportArtifact, Schemas, Signature,
    Stage, StageContext, StageError, Table,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tables that may come in.
const TABLES: [&str; 4] = ["candles", "equity", "trades", "calibration"];

/// The metrics that may come in. Those of training stages show their series below `curves`.
const METRICS: [&str; 5] = ["evaluation", "labels", "pretrain", "finetune", "rl"];

/// Writes one HTML page about a run: verdict, equity, scores, calibration, training curves, trades, graph and provenance.
///
/// The page needs nothing beside itself, opens without network, follows the reader's light or dark setting and prints. It
/// shows what its inputs hold: `evaluation`, `equity`, `trades` and `calibration` of `evaluate`; `pretrain`, `finetune` and
/// `rl`, the metrics of these phases; `labels`, statistics of labels; `candles`; `model`. Each may be left out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// Heading of the page; the pipeline's name when empty.
    pub title: String,
    /// How many of the latest trades are listed.
    pub listed_trades: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            title: String::new(),
            listed_trades: 12,
        }
    }
}

/// What came in.
#[derive(Default)]
struct Sources {
    candles: Option<Arc<Table>>,
    equity: Option<Arc<Table>>,
    trades: Option<Arc<Table>>,
    calibration: Option<Arc<Table>>,
    evaluation: Option<Arc<Metrics>>,
    labels: Option<Arc<Metrics>>,
    pretrain: Option<Arc<Metrics>>,
    finetune: Option<Arc<Metrics>>,
    rl: Option<Arc<Metrics>>,
    model: Option<Arc<Model>>,
}

impl Sources {
    fn open(context: &StageContext) -> Result<Self, StageError> {
        let table = |port: &str| {
            context
                .optional(port)
                .map(|_| context.table(port))
                .transpose()
        };
        let metrics = |port: &str| {
            context
                .optional(port)
                .map(|_| context.metrics(port))
                .transpose()
        };
        Ok(Self {
            candles: table("candles")?,
            equity: table("equity")?,
            trades: table("trades")?,
            calibration: table("calibration")?,
            evaluation: metrics("evaluation")?,
            labels: metrics("labels")?,
            pretrain: metrics("pretrain")?,
            finetune: metrics("finetune")?,
            rl: metrics("rl")?,
            model: match context.optional("model") {
                Some(Artifact::Model(model)) => Some(Arc::clone(model)),
                _ => None,
            },
        })
    }

    /// A figure of the evaluation.
    fn figure(&self, path: &str) -> Option<f64> {
        self.evaluation.as_ref()?.get(path)
    }
}

impl Stage for Report {
    fn signature(&self, _inputs: &Schemas) -> Result<Signature, StageError> {
        let mut signature = Signature::new().with_lineage();
        for name in TABLES {
            signature = signature.optional_input(name, Kind::Table);
        }
        for name in METRICS {
            signature = signature.optional_input(name, Kind::Metrics);
        }
        Ok(signature
            .optional_input("model", Kind::Model)
            .output("report", PortSchema::of(Kind::Report)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let sources = Sources::open(context)?;
        let pipeline = context
            .lineage()
            .map_or("", |lineage| lineage.pipeline.as_str());
        let title = match (self.title.as_str(), pipeline) {
            ("", "") => "Report",
            ("", name) => name,
            (title, _) => title,
        };
        let sections = [
            verdict::html(title, &sources)?,
            strategies::curves(&sources)?,
            strategies::figures(&sources),
            heads::scores(&sources),
            heads::forward(&sources),
            heads::confusion(&sources),
            heads::reliability(&sources)?,
            strategies::trades(&sources, self.listed_trades as usize)?,
            training::curves(&sources),
            training::labels(&sources),
            provenance::targets(&sources),
            provenance::html(context),
        ];
        let html = page(title, &sections.concat());
        context.write("report", ReportArtifact { html })
    }
}

/// The page around its sections. The policy forbids whatever is not in the file.
fn page(title: &str, body: &str) -> String {
    let title = html::escape(title);
    let (style, script) = (style::STYLE, script::SCRIPT);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title} \u{b7} Natron report</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\
         <footer><p><strong>Research and education only.</strong> Nothing here is financial advice or a promise of profit. \
         Backtests use historical data, assume fills at the next open and know nothing of liquidity, outages or your taxes; \
         past results say little about future ones.</p>\
         <p>Made by Natron. The page holds no clock: the same inputs give the same bytes.</p></footer>\n\
         </main>\n<script>{script}</script>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use natron_artifacts::{Column, ColumnType, Lineage, LineageStage, StageContextParts};
    use serde_json::json;

    use super::*;
    use crate::evaluate::{
        Evaluate,
        tests::{World, evaluated},
    };

    fn lineage() -> Lineage {
        let stage = |name: &str, kind: &str, reads: &[&str]| LineageStage {
            name: name.into(),
            kind: kind.into(),
            parameters: json!({"seed": 42, "note": "<script>alert(1)</script>"}),
            reads: reads.iter().map(|&r| r.into()).collect(),
        };
        Lineage {
            pipeline: "natron_v2 <b>".into(),
            stages: vec![
                stage("candles", "load.synthetic", &[]),
                stage("features", "features", &["candles"]),
                stage("labels", "labels.natron_v2", &["candles", "features"]),
                stage("windows", "dataset", &["features", "labels"]),
                stage("pretrain", "pretrain", &["windows"]),
                stage("finetune", "finetune", &["pretrain", "windows"]),
                stage("rl", "rl", &["candles", "finetune", "windows"]),
                stage(
                    "evaluate",
                    "evaluate",
                    &["candles", "finetune", "rl", "windows"],
                ),
                stage(
                    "report",
                    "report",
                    &["candles", "evaluate", "finetune", "pretrain", "rl"],
                ),
            ],
        }
    }

    fn curves(n: usize, names: &[&str]) -> Metrics {
        let mut metrics = Metrics::new();
        for (k, name) in names.iter().enumerate() {
            let values: Vec<f64> = (0..n)
                .map(|i| 1.0 / (1.0 + 0.3 * i as f64) + 0.1 * k as f64)
                .collect();
            metrics
                .set_series(&format!("curves.{name}"), &values)
                .unwrap();
        }
        metrics.set("best_epoch", 7.0).unwrap();
        metrics
    }

    fn html(inputs: impl FnOnce(StageContextParts) -> StageContextParts) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = inputs(StageContextParts::for_test(directory.path()));
        parts.lineage = Some(lineage());
        let stage = Report::default();
        let mut context = StageContext::new(parts, stage.signature(&Schemas::new()).unwrap());
        stage.run(&mut context).unwrap();
        let Artifact::Report(report) = context.finish().unwrap().remove("report").unwrap() else {
            panic!("a report");
        };
        report.html.clone()
    }

    fn full() -> String {
        let world = World::new(6000, 0.6);
        let stage = Evaluate {
            bootstrap_resamples: 100,
            allow_short: true,
            ..Evaluate::default()
        };
        let mut outputs: BTreeMap<String, Artifact> = evaluated(&stage, &world);
        let mut labels = Metrics::new();
        for (label, share) in [("buy", 0.31), ("sell", 0.28)] {
            labels
                .set(&format!("shares.{label}.positive"), share)
                .unwrap();
            labels
                .set(
                    &format!("shares.{label}.correlation_with_next_return"),
                    -0.003,
                )
                .unwrap();
        }
        html(|parts| {
            parts
                .input("candles", world.candles)
                .input("evaluation", outputs.remove("metrics").unwrap())
                .input("equity", outputs.remove("equity").unwrap())
                .input("trades", outputs.remove("trades").unwrap())
                .input("calibration", outputs.remove("calibration").unwrap())
                .input("labels", labels)
                .input(
                    "pretrain",
                    curves(8, &["train_loss", "validation_loss", "train_contrastive"]),
                )
                .input(
                    "finetune",
                    curves(30, &["loss.train", "loss.validation", "learning_rate"]),
                )
                .input(
                    "rl",
                    curves(40, &["mean_reward", "entropy", "validation_sharpe_ratio"]),
                )
        })
    }

    #[test]
    fn shows_every_section_and_asks_nothing_of_the_network() {
        let page = full();
        if let Some(path) = std::env::var_os("NATRON_REPORT_OUT") {
            std::fs::write(path, &page).unwrap();
        }

        for id in [
            "verdict",
            "equity-section",
            "strategies",
            "heads",
            "forward",
            "confusion",
            "reliability",
            "trades",
            "training",
            "labels",
            "targets",
            "provenance",
        ] {
            assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
        }
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        for outside in ["http://", "https://", "src=", "@import", "url(", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("Research and education"));
        assert!(page.contains("functions of the same bar's inputs"));
        assert!(!page.contains("NaN") && !page.contains("inf%"));
    }

    #[test]
    fn names_never_become_markup() {
        let page = full();

        assert!(!page.contains("<script>alert"));
        assert!(page.contains("natron_v2 &lt;b&gt;"));
    }

    #[test]
    fn ids_are_unique() {
        let page = full();
        let mut ids: Vec<&str> = page
            .split(" id=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let n = ids.len();
        ids.sort_unstable();
        ids.dedup();

        assert_eq!(ids.len(), n);
    }

    #[test]
    fn stands_without_any_input() {
        let page = html(|parts| parts);

        assert!(page.contains("<section id=\"provenance\">"));
        assert!(!page.contains("<section id=\"heads\">"));
    }

    #[test]
    fn a_table_without_its_columns_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let odd = Table::builder()
            .f64(Column::new("x", ColumnType::F64), vec![1.0])
            .build()
            .unwrap();
        let parts = StageContextParts::for_test(directory.path()).input("equity", odd);
        let stage = Report::default();
        let mut context = StageContext::new(parts, stage.signature(&Schemas::new()).unwrap());

        let error = stage.run(&mut context).unwrap_err().to_string();
        assert!(error.contains("`ts_ns`"), "{error}");
    }
}

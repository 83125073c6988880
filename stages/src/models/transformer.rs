//! The multi-task transformer of Natron V2: a pre-norm encoder over windows of bars and four heads on its pooled state.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};
use natron_artifacts::{Model, StageError, Streams};
use natron_kernels::{
    attention::attention,
    dropout::Dropout,
    gelu::gelu,
    linear::linear,
    math,
    pooling::{mean_over_time, replace_rows, weighted_over_time},
    positions::{add_positions, sinusoids},
    residual::add_residual,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    inference::Inference,
    parameters::{Initial, Parameters, Specification},
    windows::WindowSource,
};

/// The name of this architecture in model cards.
pub const ARCHITECTURE: &str = "natron_v2.transformer";

/// Width of the hidden layer of each head.
const HEAD_WIDTH: usize = 128;

/// Windows that inference takes through the network at once.
pub(crate) const INFERENCE_BATCH: usize = 64;

/// The direction head's classes, in the order of their ids.
pub const DIRECTIONS: [&str; 3] = ["down", "up", "neutral"];

/// The regime head's classes, in the order of their ids.
pub const REGIMES: [&str; 6] = [
    "BULL_STRONG",
    "BULL_WEAK",
    "RANGE",
    "BEAR_WEAK",
    "BEAR_STRONG",
    "VOLATILE",
];

/// The heads and how many logits each has.
pub(crate) const HEADS: [(&str, usize); 4] =
    [("buy", 1), ("sell", 1), ("direction", 3), ("regime", 6)];

/// How the states of a window's bars become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The state of the last bar.
    Last,
    /// Their mean weighted by a learned softmax.
    Attention,
}

/// Sizes of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Features of a bar.
    pub inputs: usize,
    /// Width of the states.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub feed_forward: usize,
    /// Probability of dropout while training.
    pub dropout: f32,
    /// Length of a window, in bars.
    pub window_bars: usize,
    /// How the bars' states become one vector.
    pub pooling: Pooling,
}

impl TransformerConfig {
    /// Checks what the network could not be built from.
    ///
    /// # Errors
    ///
    /// The first size that makes no sense, as a parameter error.
    pub fn check(&self) -> std::result::Result<(), StageError> {
        for (name, size) in [
            ("d_model", self.d_model),
            ("heads", self.heads),
            ("layers", self.layers),
            ("feed_forward", self.feed_forward),
        ] {
            if size == 0 {
                return Err(StageError::parameter(
                    name,
                    format!("`{name}` must be at least 1"),
                ));
            }
        }
        if !self.d_model.is_multiple_of(self.heads) {
            let (d_model, heads) = (self.d_model, self.heads);
            return Err(StageError::parameter(
                "heads",
                format!("{heads} heads do not divide `d_model` = {d_model}"),
            )
            .with_help("choose a number of heads that divides `d_model`"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(StageError::parameter(
                "dropout",
                format!("{} is not a probability below 1", self.dropout),
            ));
        }
        Ok(())
    }

    /// Bytes that a training step on `windows` windows takes at most, about: activations that are kept for the backward
    /// pass, their gradients, parameters, gradients and moments.
    pub fn training_bytes(&self, windows: usize) -> u64 {
        let bar = self.layers * (10 * self.d_model + 2 * self.feed_forward)
            + 4 * self.d_model
            + 2 * self.inputs;
        let activations = windows * self.window_bars * bar;
        (4 * (activations + activations / 2 + 6 * self.classifier().count())) as u64
    }

    /// The parameters of the encoder, each name beginning with `encoder.`.
    pub fn encoder(&self) -> Specification {
        let mut s = Specification::default();
        s.add_linear("encoder.input", self.inputs, self.d_model);
        for layer in 0..self.layers {
            let name = layer_name(layer);
            s.add_norm(&format!("{name}.attention_norm"), self.d_model);
            s.add_linear(&format!("{name}.packed"), self.d_model, 3 * self.d_model);
            s.add_linear(&format!("{name}.projection"), self.d_model, self.d_model);
            s.add_norm(&format!("{name}.feed_forward_norm"), self.d_model);
            s.add_linear(&format!("{name}.up"), self.d_model, self.feed_forward);
            s.add_linear(&format!("{name}.down"), self.feed_forward, self.d_model);
        }
        s.add_norm("encoder.norm", self.d_model);
        if self.pooling == Pooling::Attention {
            // Without a bias: the softmax over the bars takes any constant away.
            s.add(
                "encoder.pooling.weight",
                &[1, self.d_model],
                Initial::XavierUniform,
            );
        }
        s
    }

    /// The parameters of the encoder and of the four heads.
    pub fn classifier(&self) -> Specification {
        let mut s = self.encoder();
        for (head, classes) in HEADS {
            s.add_linear(&format!("heads.{head}.hidden"), self.d_model, HEAD_WIDTH);
            s.add_linear(&format!("heads.{head}.output"), HEAD_WIDTH, classes);
        }
        s
    }
}

pub(crate) fn layer_name(layer: usize) -> String {
    format!("encoder.layers.{layer:02}")
}

/// One way through the network: training at a step, with dropout, or inference without.
///
/// Each place that drops takes the next site number, so one pass visits its places in a fixed order.
#[derive(Debug)]
pub struct Pass {
    probability: f32,
    seed: u64,
    step: u64,
    site: Cell<u64>,
}

impl Pass {
    /// A training step. What is dropped depends on `seed`, `step` and the place alone.
    pub fn training(probability: f32, seed: u64, step: u64) -> Self {
        Self {
            probability,
            seed,
            step,
            site: Cell::new(0),
        }
    }

    /// No dropout.
    pub fn inference() -> Self {
        Self::training(0.0, 0, 0)
    }

    /// The dropout of the next place.
    pub(crate) fn dropout(&self) -> Dropout {
        let site = self.site.get();
        self.site.set(site + 1);
        if self.probability > 0.0 {
            Dropout::new(self.probability, self.seed, self.step, site)
        } else {
            Dropout::NONE
        }
    }
}

/// Logits of the four heads, each \[windows, classes\].
#[derive(Debug, Clone)]
pub struct Logits {
    /// One logit: buy.
    pub buy: Tensor,
    /// One logit: sell.
    pub sell: Tensor,
    /// Down, up, neutral.
    pub direction: Tensor,
    /// The six regimes.
    pub regime: Tensor,
}

/// What the heads say of one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probabilities {
    /// Probability of a buy label.
    pub buy: f32,
    /// Probability of a sell label.
    pub sell: f32,
    /// Probabilities of down, up, neutral.
    pub direction: [f32; 3],
    /// Probabilities of the six regimes.
    pub regime: [f32; 6],
}

impl Probabilities {
    /// Mean of buy, sell, and the largest direction and regime probabilities.
    pub fn confidence(&self) -> f32 {
        let largest = |p: &[f32]| p.iter().copied().fold(0.0_f32, f32::max);
        (self.buy + self.sell + largest(&self.direction) + largest(&self.regime)) / 4.0
    }
}

/// The encoder, with whatever heads its parameters hold.
#[derive(Debug, Clone)]
pub struct Transformer {
    config: TransformerConfig,
    parameters: Parameters,
    positions: Arc<[f32]>,
}

impl Transformer {
    /// A network of this shape over `parameters`, which hold at least [`TransformerConfig::encoder`].
    ///
    /// # Errors
    ///
    /// See [`TransformerConfig::check`].
    pub fn new(
        config: TransformerConfig,
        parameters: Parameters,
    ) -> std::result::Result<Self, StageError> {
        config.check()?;
        let positions = sinusoids(config.window_bars, config.d_model).into();
        Ok(Self {
            config,
            parameters,
            positions,
        })
    }

    /// A classifier with fresh parameters.
    pub fn classifier(
        config: TransformerConfig,
        streams: Streams,
    ) -> std::result::Result<Self, StageError> {
        config.check()?;
        let parameters = Parameters::initialized(&config.classifier(), streams)?;
        Self::new(config, parameters)
    }

    /// The network of a model that `pretrain` or `finetune` made.
    ///
    /// # Errors
    ///
    /// When the card names another architecture or the tensors are not exactly those of the card's sizes.
    pub fn from_model(model: &Model) -> std::result::Result<Self, StageError> {
        let config = config_of(model)?;
        config.check()?;
        let has_heads = model.tensors.keys().any(|name| name.starts_with("heads."));
        let specification = if has_heads {
            config.classifier()
        } else {
            config.encoder()
        };
        let parameters = Parameters::from_stored(&specification, &model.tensors)?;
        Self::new(config, parameters)
    }

    /// Sizes.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same network for inference: no gradients, and memory is freed on the way.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self {
            parameters: self.parameters.frozen(),
            ..self.clone()
        }
    }

    /// Whether the four heads are there, or the encoder alone.
    pub fn has_heads(&self) -> bool {
        self.parameters.get("heads.buy.output.weight").is_ok()
    }

    /// The states of all bars. `x`: \[windows, bars, inputs\], result: \[windows, bars, width\].
    ///
    /// With `masked`, the embeddings of those bars (counted through all windows) are replaced by `token` \[width\].
    pub fn encode(
        &self,
        x: &Tensor,
        masked: Option<(&Tensor, &Arc<[usize]>)>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let p = &self.parameters;
        let mut h = p.linear("encoder.input", x)?;
        if let Some((token, rows)) = masked {
            h = replace_rows(&h, token, rows)?;
        }
        h = add_positions(&h, &self.positions, pass.dropout())?;
        for layer in 0..self.config.layers {
            let name = layer_name(layer);
            let normal = p.norm(&format!("{name}.attention_norm"), &h)?;
            let packed = p.linear(&format!("{name}.packed"), &normal)?;
            let mixed = attention(&packed, self.config.heads, pass.dropout())?;
            let mixed = p.linear(&format!("{name}.projection"), &mixed)?;
            h = add_residual(&mixed, &h, pass.dropout())?;
            let normal = p.norm(&format!("{name}.feed_forward_norm"), &h)?;
            let wide = gelu(&p.linear(&format!("{name}.up"), &normal)?, pass.dropout())?;
            h = add_residual(
                &p.linear(&format!("{name}.down"), &wide)?,
                &h,
                pass.dropout(),
            )?;
        }
        p.norm("encoder.norm", &h)
    }

    /// One vector a window. `states`: \[windows, bars, width\], result: \[windows, width\].
    pub fn pool(&self, states: &Tensor) -> Result<Tensor> {
        match self.config.pooling {
            Pooling::Mean => mean_over_time(states),
            Pooling::Last => states
                .narrow(1, self.config.window_bars - 1, 1)?
                .squeeze(1)?
                .contiguous(),
            Pooling::Attention => {
                let weight = self.parameters.get("encoder.pooling.weight")?;
                let no_bias = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
                weighted_over_time(states, &linear(states, weight, &no_bias)?)
            }
        }
    }

    /// The heads' logits. `pooled`: \[windows, width\].
    pub fn logits(&self, pooled: &Tensor, pass: &Pass) -> Result<Logits> {
        let head = |name: &str| {
            let hidden = gelu(
                &self
                    .parameters
                    .linear(&format!("heads.{name}.hidden"), pooled)?,
                pass.dropout(),
            )?;
            self.parameters
                .linear(&format!("heads.{name}.output"), &hidden)
        };
        Ok(Logits {
            buy: head("buy")?,
            sell: head("sell")?,
            direction: head("direction")?,
            regime: head("regime")?,
        })
    }

    /// [`Inference::embeddings`] of the network as it is now.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn embeddings(
        &self,
        source: &WindowSource,
        rows: &[usize],
        progress: impl FnMut(usize) -> std::result::Result<(), StageError>,
    ) -> std::result::Result<Vec<f32>, StageError> {
        Inference::new(self)?.embeddings(source, rows, progress)
    }

    /// [`Inference::predictions`] of the network as it is now.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn predictions(
        &self,
        source: &WindowSource,
        rows: &[usize],
        progress: impl FnMut(usize) -> std::result::Result<(), StageError>,
    ) -> std::result::Result<Vec<Probabilities>, StageError> {
        Inference::new(self)?.predictions(source, rows, progress)
    }

    /// [`Transformer::pool`] of the states of `n` windows.
    pub(crate) fn pool_states(&self, states: Vec<f32>, n: usize) -> Result<Tensor> {
        let shape = (n, self.config.window_bars, self.config.d_model);
        self.pool(&Tensor::from_vec(states, shape, &Device::Cpu)?)
    }

    /// What is added to the embedded bars of a window: \[bars, width\].
    pub(crate) fn positions(&self) -> &[f32] {
        &self.positions
    }

    /// `windows` as a tensor \[n, bars, inputs\].
    pub(crate) fn windows(&self, windows: &[f32]) -> Result<Tensor> {
        let TransformerConfig {
            window_bars,
            inputs,
            ..
        } = self.config;
        let n = windows.len() / (window_bars * inputs);
        Tensor::from_slice(windows, (n, window_bars, inputs), &Device::Cpu)
    }

    /// Checks that the network can read the windows of `source`.
    ///
    /// # Errors
    ///
    /// When their width or length differs.
    pub fn check_source(&self, source: &WindowSource) -> std::result::Result<(), StageError> {
        let TransformerConfig {
            inputs,
            window_bars,
            ..
        } = self.config;
        if source.features().len() != inputs {
            let found = source.features().len();
            return Err(StageError::data(format!(
                "the model reads {inputs} features, the matrix has {found}"
            )));
        }
        if source.window_bars() != window_bars {
            let found = source.window_bars();
            return Err(StageError::data(format!(
                "the model reads windows of {window_bars} bars, not {found}"
            )));
        }
        Ok(())
    }
}

/// The sizes in a model's card.
///
/// # Errors
///
/// When the card names another architecture or its sizes do not parse.
pub fn config_of(model: &Model) -> std::result::Result<TransformerConfig, StageError> {
    if model.card.architecture != ARCHITECTURE {
        let found = &model.card.architecture;
        return Err(StageError::data(format!(
            "the model is a `{found}`, expected a `{ARCHITECTURE}`"
        )));
    }
    let config: TransformerConfig = serde_json::from_value(model.card.hyper_parameters.clone())
        .map_err(|e| StageError::data(format!("the model card's sizes: {e}")))?;
    if config.inputs != model.card.features.len() {
        let (inputs, features) = (config.inputs, model.card.features.len());
        return Err(StageError::data(format!(
            "the model card names {features} features for {inputs} inputs"
        )));
    }
    Ok(config)
}

/// What the outputs of a classifier are called, by head, in the order of the logits.
pub(crate) fn head_names() -> BTreeMap<String, Vec<String>> {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    [
        ("buy".to_owned(), names(&["buy"])),
        ("sell".to_owned(), names(&["sell"])),
        ("direction".to_owned(), names(&DIRECTIONS)),
        ("regime".to_owned(), names(&REGIMES)),
    ]
    .into()
}

/// The softmax of the first `N` logits.
pub(crate) fn softmax<const N: usize>(logits: &[f32]) -> [f32; N] {
    let largest = logits[..N]
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let powers: [f64; N] = std::array::from_fn(|i| math::exp(f64::from(logits[i] - largest)));
    let total: f64 = powers.iter().sum();
    powers.map(|p| (p / total) as f32)
}

#[cfg(test)]
pub(crate) mod tests {
    use natron_artifacts::{Digest, ModelCard};
    use serde_json::Value;

    use super::*;

    pub(crate) fn small(pooling: Pooling) -> TransformerConfig {
        TransformerConfig {
            inputs: 7,
            d_model: 16,
            heads: 4,
            layers: 2,
            feed_forward: 24,
            dropout: 0.1,
            window_bars: 12,
            pooling,
        }
    }

    pub(crate) fn source() -> WindowSource {
        let mut stream = Streams::new(1).stream("values");
        let values = (0..40 * 7).map(|_| stream.normal() as f32).collect();
        WindowSource::new(values, (0..7).map(|i| format!("f{i}")).collect(), 12).unwrap()
    }

    fn model(network: &Transformer) -> Model {
        Model {
            card: ModelCard {
                architecture: ARCHITECTURE.into(),
                hyper_parameters: serde_json::to_value(network.config()).unwrap(),
                features: source().features().to_vec(),
                feature_plan: Value::Null,
                scaler: None,
                window_bars: 12,
                label_horizon_bars: 3,
                heads: head_names(),
                trained_on: Digest::of(b"test"),
                made_by: "finetune".into(),
                extra: BTreeMap::new(),
            },
            tensors: network.parameters().to_stored().unwrap(),
        }
    }

    #[test]
    fn has_as_many_parameters_as_the_published_network() {
        let published = TransformerConfig {
            inputs: 95,
            d_model: 256,
            heads: 8,
            layers: 6,
            feed_forward: 1024,
            dropout: 0.1,
            window_bars: 96,
            pooling: Pooling::Mean,
        };

        assert_eq!(published.classifier().count(), 4_896_651);
    }

    #[test]
    fn a_window_alone_gives_the_bits_it_gives_in_a_batch() {
        let rows: Vec<usize> = (11..40).collect();
        for pooling in [Pooling::Mean, Pooling::Last, Pooling::Attention] {
            let network = Transformer::classifier(small(pooling), Streams::new(3)).unwrap();

            let together = network.predictions(&source(), &rows, |_| Ok(())).unwrap();

            for (row, prediction) in rows.iter().zip(&together) {
                let alone = network.predictions(&source(), &[*row], |_| Ok(())).unwrap();
                assert_eq!(alone[0], *prediction, "{pooling:?} at row {row}");
            }
            let embeddings = network.embeddings(&source(), &rows, |_| Ok(())).unwrap();
            assert_eq!(embeddings.len(), rows.len() * 16);
        }
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let rows: Vec<usize> = (11..40).collect();
        let network = Transformer::classifier(small(Pooling::Mean), Streams::new(3)).unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| network.embeddings(&source(), &rows, |_| Ok(())).unwrap())
        };

        let one = with(1);

        assert_eq!(one, with(2));
        assert_eq!(one, with(4));
    }

    #[test]
    fn survives_the_transport_through_a_model() {
        let network = Transformer::classifier(small(Pooling::Attention), Streams::new(3)).unwrap();
        let model = model(&network);

        let again = Transformer::from_model(&model).unwrap();

        let of = |network: &Transformer| network.predictions(&source(), &[20], |_| Ok(())).unwrap();
        assert_eq!(of(&again), of(&network));
        let mut other = model.clone();
        other.card.architecture = "lstm".into();
        assert!(
            Transformer::from_model(&other)
                .unwrap_err()
                .to_string()
                .contains("is a `lstm`")
        );
        let mut thin = model;
        thin.card.features.pop();
        assert!(
            Transformer::from_model(&thin)
                .unwrap_err()
                .to_string()
                .contains("6 features for 7 inputs")
        );
    }

    #[test]
    fn probabilities_sum_to_one() {
        let network = Transformer::classifier(small(Pooling::Mean), Streams::new(3)).unwrap();

        let p = network.predictions(&source(), &[20], |_| Ok(())).unwrap()[0];

        assert!((p.direction.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((p.regime.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(p.confidence() > 0.0 && p.confidence() < 1.0);
    }
}

//! The transformer ready to predict again and again: weights packed once, no graph, results of a batch equal to single ones.

use natron_artifacts::StageError;
use natron_kernels::{
    inference::{Encoder, EncoderLayer, Linear, Norm, Reads, gelu, mean_over_time},
    math, to_vec,
};

use super::{
    tensor_error,
    transformer::{
        HEADS, INFERENCE_BATCH, Pooling, Probabilities, Transformer, TransformerConfig, layer_name,
        softmax,
    },
    windows::WindowSource,
};

/// A network of [`Transformer`]'s shape and bits that only predicts.
#[derive(Debug)]
pub struct Inference {
    encoder: Encoder,
    /// Hidden and output layer of each of [`HEADS`]; none for an encoder alone.
    heads: Option<[[Linear; 2]; 4]>,
    /// The network itself, for what it does once a window.
    network: Transformer,
}

impl Inference {
    /// Packs the weights of `network` as they are now.
    ///
    /// # Errors
    ///
    /// When the network lacks a parameter of its shape.
    pub fn new(network: &Transformer) -> Result<Self, StageError> {
        let values = |name: &str| -> Result<Vec<f32>, StageError> {
            let parameter = network.parameters().get(name).map_err(tensor_error)?;
            to_vec(parameter).map_err(tensor_error)
        };
        let linear = |name: &str| -> Result<Linear, StageError> {
            Ok(Linear::new(
                &values(&format!("{name}.weight"))?,
                &values(&format!("{name}.bias"))?,
            ))
        };
        let norm = |name: &str| -> Result<Norm, StageError> {
            Ok(Norm {
                gain: values(&format!("{name}.gain"))?,
                shift: values(&format!("{name}.shift"))?,
            })
        };
        let layers = (0..network.config().layers).map(|layer| {
            let part = |part: &str| format!("{}.{part}", layer_name(layer));
            Ok(EncoderLayer {
                attention_norm: norm(&part("attention_norm"))?,
                packed: linear(&part("packed"))?,
                projection: linear(&part("projection"))?,
                feed_forward_norm: norm(&part("feed_forward_norm"))?,
                up: linear(&part("up"))?,
                down: linear(&part("down"))?,
            })
        });
        let head = |(name, _): (&str, usize)| -> Result<[Linear; 2], StageError> {
            Ok([
                linear(&format!("heads.{name}.hidden"))?,
                linear(&format!("heads.{name}.output"))?,
            ])
        };
        let heads = if network.has_heads() {
            let [buy, sell, direction, regime] = HEADS;
            Some([head(buy)?, head(sell)?, head(direction)?, head(regime)?])
        } else {
            None
        };
        Ok(Self {
            encoder: Encoder::new(
                linear("encoder.input")?,
                network.positions().to_vec(),
                layers.collect::<Result<_, StageError>>()?,
                norm("encoder.norm")?,
                network.config().heads,
            ),
            heads,
            network: network.frozen(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &TransformerConfig {
        self.network.config()
    }

    /// Whether the four heads are there, or the encoder alone.
    pub fn has_heads(&self) -> bool {
        self.heads.is_some()
    }

    /// Embeddings of the windows that end at `rows`: the pooled states, row-major \[rows, width\].
    ///
    /// No dropout; a window's bits do not depend on the others of the call. The windows must be complete
    /// ([`WindowSource::check`]). `progress` is told how many windows are done and may stop the computation.
    ///
    /// # Errors
    ///
    /// When the windows have another width or length than the network, or `progress` stops.
    pub fn embeddings(
        &self,
        source: &WindowSource,
        rows: &[usize],
        mut progress: impl FnMut(usize) -> Result<(), StageError>,
    ) -> Result<Vec<f32>, StageError> {
        self.network.check_source(source)?;
        let width = self.config().d_model;
        let mut out = Vec::with_capacity(rows.len() * width);
        for batch in rows.chunks(INFERENCE_BATCH) {
            out.extend(self.embed(&source.gather(batch), batch.len())?);
            progress(out.len() / width)?;
        }
        Ok(out)
    }

    /// What the heads say of the windows that end at `rows`; conditions as for [`Inference::embeddings`].
    ///
    /// # Errors
    ///
    /// As for [`Inference::embeddings`], and without heads.
    pub fn predictions(
        &self,
        source: &WindowSource,
        rows: &[usize],
        mut progress: impl FnMut(usize) -> Result<(), StageError>,
    ) -> Result<Vec<Probabilities>, StageError> {
        self.network.check_source(source)?;
        let Some(heads) = &self.heads else {
            return Err(StageError::data("the model is an encoder without heads"));
        };
        let mut out = Vec::with_capacity(rows.len());
        for batch in rows.chunks(INFERENCE_BATCH) {
            let pooled = self.embed(&source.gather(batch), batch.len())?;
            let [buy, sell, direction, regime] = heads.each_ref().map(|[hidden, output]| {
                let mut wide = vec![0.0; batch.len() * hidden.outputs()];
                hidden.apply(&pooled, &mut wide);
                gelu(&mut wide);
                let mut logits = vec![0.0; batch.len() * output.outputs()];
                output.apply(&wide, &mut logits);
                logits
            });
            let yes = |x: f32| math::sigmoid(f64::from(x)) as f32;
            out.extend((0..batch.len()).map(|i| Probabilities {
                buy: yes(buy[i]),
                sell: yes(sell[i]),
                direction: softmax(&direction[i * 3..]),
                regime: softmax(&regime[i * 6..]),
            }));
            progress(out.len())?;
        }
        Ok(out)
    }

    /// The pooled states of `n` windows.
    fn embed(&self, windows: &[f32], n: usize) -> Result<Vec<f32>, StageError> {
        let TransformerConfig {
            d_model,
            window_bars,
            pooling,
            ..
        } = *self.config();
        let mut pooled = vec![0.0; n * d_model];
        if pooling == Pooling::Last {
            self.encoder.encode(windows, &mut pooled, Reads::Last);
            return Ok(pooled);
        }
        let mut states = vec![0.0; n * window_bars * d_model];
        self.encoder.encode(windows, &mut states, Reads::All);
        match pooling {
            Pooling::Mean => mean_over_time(&states, d_model, window_bars, &mut pooled),
            Pooling::Last | Pooling::Attention => {
                pooled = self
                    .network
                    .pool_states(states, n)
                    .and_then(|pooled| to_vec(&pooled))
                    .map_err(tensor_error)?;
            }
        }
        Ok(pooled)
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Streams;

    use super::*;
    use crate::models::transformer::{
        Pass,
        tests::{small, source},
    };

    #[test]
    fn predicts_the_bits_of_the_network_that_trains() {
        let rows: Vec<usize> = (11..40).collect();
        for pooling in [Pooling::Mean, Pooling::Last, Pooling::Attention] {
            for layers in [1, 3] {
                let config = TransformerConfig {
                    layers,
                    ..small(pooling)
                };
                let network = Transformer::classifier(config, Streams::new(3)).unwrap();
                let inference = Inference::new(&network).unwrap();
                let x = network.windows(&source().gather(&rows)).unwrap();
                let states = network.encode(&x, None, &Pass::inference()).unwrap();
                let pooled = network.pool(&states).unwrap();
                let logits = network.logits(&pooled, &Pass::inference()).unwrap();

                let embeddings = inference.embeddings(&source(), &rows, |_| Ok(())).unwrap();
                let predictions = inference.predictions(&source(), &rows, |_| Ok(())).unwrap();

                assert_eq!(embeddings, to_vec(&pooled).unwrap(), "{pooling:?}");
                let buy = to_vec(&logits.buy).unwrap();
                for (prediction, logit) in predictions.iter().zip(buy) {
                    let expected = math::sigmoid(f64::from(logit)) as f32;
                    assert_eq!(prediction.buy.to_bits(), expected.to_bits());
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_windows_of_a_call_change_a_bit() {
        // Long enough that a window is shared out among threads.
        let config = TransformerConfig {
            window_bars: 100,
            ..small(Pooling::Mean)
        };
        let values = {
            let mut stream = Streams::new(1).stream("values");
            (0..130 * 7).map(|_| stream.normal() as f32).collect()
        };
        let features = (0..7).map(|i| format!("f{i}")).collect();
        let source = WindowSource::new(values, features, 100).unwrap();
        let network = Transformer::classifier(config, Streams::new(3)).unwrap();
        let rows: Vec<usize> = (99..130).collect();
        let with = |threads: usize, rows: &[usize]| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let inference = Inference::new(&network).unwrap();
            pool.install(|| inference.embeddings(&source, rows, |_| Ok(())).unwrap())
        };

        let one = with(1, &rows);

        assert_eq!(one, with(3, &rows));
        for (k, row) in rows.iter().enumerate() {
            assert_eq!(with(4, &[*row]), one[k * 16..][..16]);
        }
    }
}

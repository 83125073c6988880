//! Where the columns of a plan are computed.

use std::convert::Infallible;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use natron_artifacts::{StageContext, StageError};
use natron_kernels::bars::Bars;
use natron_kernels::cuda::Gpu;
use natron_kernels::indicators::cuda::{NoTwin, Plan, Shape, Word, run};
use natron_kernels::indicators::engine::Columns;
use natron_kernels::indicators::program::Program;

use super::parameters::Device;
use super::plan::FeaturePlan;

/// With `device = "auto"`, series of fewer values (rows times columns) are computed on the processor.
///
/// Estimated, not yet measured on a card: opening a card and loading the code takes about 0.3 s, and then a value takes about
/// 1 ns, most of it on its way back, where one thread of a processor takes 2 ns. A threshold by the clock, or by the number
/// of threads, would let results depend on them.
const FEWEST_VALUES: usize = 1 << 28;

/// Who computes the programs of a plan.
pub(super) trait Computer {
    /// What can go wrong.
    type Error;

    /// Every output of `program` on a whole series.
    fn compute<T: Word>(
        &self,
        program: &Program,
        bars: Bars<'_>,
        columns: &[&[f64]],
    ) -> Result<Vec<Vec<T>>, Self::Error>;
}

/// The processor.
pub(super) struct Processor;

impl Computer for Processor {
    type Error = Infallible;

    fn compute<T: Word>(
        &self,
        program: &Program,
        bars: Bars<'_>,
        columns: &[&[f64]],
    ) -> Result<Vec<Vec<T>>, Infallible> {
        Ok(Columns::of(program, bars, columns).into_vecs())
    }
}

/// An NVIDIA card, and the processor for what does not pay there.
pub(super) struct Card {
    gpu: Gpu,
    /// Where compiled code is kept.
    code: PathBuf,
    /// Series of fewer values are left to the processor.
    fewest_values: usize,
}

impl Card {
    /// The card that the stage was granted, if it was granted one.
    pub(super) fn granted(
        context: &StageContext,
        device: Device,
    ) -> Result<Option<Self>, StageError> {
        let Some(&id) = context.device().ordinals().first() else {
            return if device == Device::Cuda {
                Err(failed(
                    "`device` is `cuda`, and the stage was granted no GPU",
                ))
            } else {
                Ok(None)
            };
        };
        let gpu = Gpu::open_visible(id).map_err(failed)?;
        context.log(&format!(
            "on GPU {id}: {} ({})",
            gpu.name().map_err(failed)?,
            gpu.architecture()
        ));
        Ok(Some(Self {
            gpu,
            code: code_folder(context.workspace()),
            fewest_values: if device == Device::Cuda {
                0
            } else {
                FEWEST_VALUES
            },
        }))
    }
}

pub(super) fn failed(error: impl Display) -> StageError {
    StageError::resource(format!(
        "{error}; say `device = \"cpu\"`, or look at what `natron doctor` says of GPUs"
    ))
}

fn code_folder(workspace: &Path) -> PathBuf {
    workspace.join(".natron/cuda")
}

/// Whether a series of `rows` rows is computed on the card: nothing but its size decides.
fn pays(rows: usize, columns: usize, fewest_values: usize) -> bool {
    rows.saturating_mul(columns) >= fewest_values
}

impl Computer for Card {
    type Error = StageError;

    fn compute<T: Word>(
        &self,
        program: &Program,
        bars: Bars<'_>,
        columns: &[&[f64]],
    ) -> Result<Vec<Vec<T>>, StageError> {
        if !pays(bars.len(), program.n_outputs(), self.fewest_values) {
            let Ok(columns) = Processor.compute(program, bars, columns);
            return Ok(columns);
        }
        let mut shape = Shape {
            is_single: T::IS_SINGLE,
            ..Shape::default()
        };
        let of_card = self.gpu.shared_bytes().map_err(failed)?;
        shape.shared_bytes = shape.shared_bytes.min(of_card);
        let plan = Plan::new(program, shape).map_err(|missing| refusal(&missing))?;
        run(
            &self.gpu,
            &plan,
            bars,
            columns,
            &[0, bars.len()],
            Some(&self.code),
        )
        .map_err(failed)
    }
}

fn refusal(missing: &NoTwin) -> StageError {
    StageError::parameter("device", missing.to_string())
}

/// Refuses plans that a GPU cannot compute.
pub(super) fn check_twins(plan: &FeaturePlan) -> Result<(), StageError> {
    for program in plan.programs() {
        Plan::new(program, Shape::default()).map_err(|missing| refusal(&missing))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{DeviceGrant, Signature, StageContextParts};

    use super::*;

    #[test]
    fn only_the_size_of_a_series_decides_where_it_is_computed() {
        assert!(pays(1 << 20, 1 << 8, FEWEST_VALUES));
        assert!(!pays((1 << 20) - 1, 1 << 8, FEWEST_VALUES));
        assert!(pays(usize::MAX, 2, FEWEST_VALUES));
        assert!(pays(0, 0, 0), "`cuda` is never overruled");
    }

    #[test]
    fn a_card_that_is_not_there_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let error = |grant: DeviceGrant| {
            let mut parts = StageContextParts::for_test(directory.path());
            parts.device = grant;
            let context = StageContext::new(parts, Signature::new());
            let granted = Card::granted(&context, Device::Cuda);
            granted.err().unwrap().to_string()
        };

        assert!(
            error(DeviceGrant::Cpu)
                .starts_with("`device` is `cuda`, and the stage was granted no GPU")
        );
        let missing = error(DeviceGrant::Cuda(1000));
        assert!(missing.contains("natron doctor"), "{missing}");
    }
}

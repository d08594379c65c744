//! QERA: LoRA begins at what quantizing the base loses, weighed by the inputs of each layer.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use faer::Mat;
use flametune_quant::BaseLinear;

use super::eva::InputObserver;
use super::init;
use crate::base;
use crate::check::invalid;
use crate::error::Result;
use crate::inject::{each_named, remove};
use crate::random::{Stream, text_key};
use crate::selection::AdapterPass;
use crate::slots::{LinearMethod, NamedAdapter, SlotModule, Slots};
use crate::svd;

/// Singular directions beyond the rank that the search carries along, and its rounds: four of each
/// leave the found error within 1 % of the least.
const SPARE: usize = 8;
const ROUNDS: usize = 4;

/// The name of the observers while they are in the dense model.
const WATCH: &str = "qera";

/// Begins a LoRA adapter over a quantized base where its layers' outputs are nearest to those of the
/// dense base.
///
/// With `E = W − Q` of a layer and the mean squares `mⱼ` of its inputs, the factors take the best
/// approximation of rank `r` of `E·S`, `S = diag(√m)`:
///
/// ```text
/// s·B·A = Uᵣ·Σᵣ·Vᵣᵀ·S⁻¹,   U·Σ·Vᵀ = E·S
/// ```
///
/// which makes `‖(E − s·B·A)·S‖²`, the mean square of the output error for inputs that do not
/// correlate, as small as it can be. The adapter belongs to the quantized base: over the dense one it
/// adds an error instead of taking one out, as LoftQ's does.
///
/// ```text
/// QeraInit::begin ─→ ( forward pass of the dense model with QeraInit::pass ─→ QeraInit::update )*
///                 ─→ QeraInit::finish
/// ```
///
/// # Source
/// - Zhang et al. 2024, QERA, arXiv:2410.06040, the approximate solution
#[derive(Debug)]
pub struct QeraInit {
    layers: BTreeMap<String, Watched>,
}

/// What is known of the inputs of one layer.
#[derive(Debug)]
struct Watched {
    observer: InputObserver,
    /// Sums of squares, a number for each input channel.
    squares: Vec<f64>,
    rows: usize,
}

/// What an initialisation by [`QeraInit`] came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QeraReport {
    /// Layers whose factors were set.
    pub layers: usize,
    /// `‖E·S‖ ÷ ‖W·S‖` over all of them: the error of the quantized base.
    pub before: f64,
    /// The same with the adapter.
    pub after: f64,
}

/// Sums of squares over layers.
#[derive(Debug, Default)]
struct Sums {
    layers: usize,
    weight: f64,
    before: f64,
    after: f64,
}

impl QeraInit {
    /// Puts observers on all linear layers of the dense model.
    ///
    /// # Errors
    /// [`Error::NameTaken`](crate::Error) when it has an adapter called `qera`, and
    /// [`Error::InvalidConfig`](crate::Error) for a model without linear layers.
    pub fn begin<M: Slots>(dense: &mut M) -> Result<Self> {
        dense.adapters().check_new(WATCH)?;
        let mut layers = BTreeMap::new();
        dense.visit_slots(&mut |slot| {
            let SlotModule::Linear(linear) = slot.module else {
                return;
            };
            let observer = InputObserver::new();
            linear.adapters.push(NamedAdapter {
                method: LinearMethod::Observer(observer.clone()),
                name: WATCH.to_owned(),
                trainable: false,
            });
            let watched = Watched {
                observer,
                squares: vec![0.0; linear.base.get().d_in()],
                rows: 0,
            };
            layers.insert(slot.path.to_owned(), watched);
        });
        if layers.is_empty() {
            return Err(invalid(
                "target_modules",
                "the model has no linear layer".to_owned(),
            ));
        }
        let config = super::LoraConfig::default();
        dense.adapters_mut().insert(WATCH, config.into());
        Ok(Self { layers })
    }

    /// The pass with which the next batch goes through the dense model.
    pub fn pass(&self) -> AdapterPass {
        AdapterPass::one(WATCH)
    }

    /// Takes in what the layers saw of the last batch: the rows for which `counts` is true, one for
    /// each token in the order of the batch. Padding must not count.
    ///
    /// Layers that see other rows than the model's tokens, as a head on the last ones may, are left out.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error) when no layer saw as many rows as `counts` has.
    pub fn update(&mut self, counts: &[bool]) -> Result<()> {
        let kept = counts.iter().filter(|&&count| count).count();
        let mut seen = 0;
        for watched in self.layers.values_mut() {
            let Some(input) = watched.observer.take() else {
                continue;
            };
            if input.dims()[0] != counts.len() {
                continue;
            }
            seen += 1;
            watched.rows += kept;
            let device = input.device();
            let mask: Vec<f32> = counts
                .iter()
                .map(|&count| f32::from(u8::from(count)))
                .collect();
            let mask = Tensor::<1>::from_floats(mask.as_slice(), &device).unsqueeze_dim::<2>(1);
            let input = input.cast(DType::F32);
            let sums = (input.clone() * input * mask).sum_dim(0).into_data();
            for (sum, new) in watched.squares.iter_mut().zip(sums.iter::<f64>()) {
                *sum += new;
            }
        }
        if seen == 0 {
            let reason = format!("no layer saw the {} rows of the batch", counts.len());
            return Err(invalid("target_modules", reason));
        }
        Ok(())
    }

    /// Sets the factors of the LoRA adapter `name` of the quantized model, and takes the observers out
    /// of the dense one.
    ///
    /// Layers that are not quantized, and those that saw nothing, keep the factors they have.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error) when no layer under the adapter is quantized, and when a
    /// decomposition does not converge.
    pub fn finish<M: Slots>(
        self,
        dense: &mut M,
        quantized: &mut M,
        name: &str,
    ) -> Result<QeraReport> {
        remove(dense, WATCH)?;
        let mut weights = BTreeMap::new();
        dense.visit_slots(&mut |slot| {
            if let SlotModule::Linear(linear) = slot.module
                && let BaseLinear::Dense(base) = linear.base.get()
            {
                weights.insert(slot.path.to_owned(), base.weight.val());
            }
        });
        let (mut sums, mut outcome) = (Sums::default(), Ok(()));
        quantized.visit_slots(&mut |slot| {
            let SlotModule::Linear(linear) = slot.module else {
                return;
            };
            let (Some(weight), Some(scales), BaseLinear::Quant(layer)) = (
                weights.remove(slot.path),
                self.scales(slot.path),
                linear.base.get(),
            ) else {
                return;
            };
            for part in linear.adapters.iter_mut() {
                let LinearMethod::Lora(lora) = &mut part.method else {
                    continue;
                };
                if part.name != name || outcome.is_err() {
                    continue;
                }
                let weight = scaled(svd::to_host(weight.clone()), &scales);
                let error = &weight - scaled(svd::to_host(layer.dequantize()), &scales);
                let stream = Stream::new(&[text_key(slot.path)]);
                match reconstruct(&error, lora.r(), stream) {
                    Ok((a, b)) => {
                        sums.layers += 1;
                        sums.weight += weight.squared_norm_l2();
                        sums.before += error.squared_norm_l2();
                        sums.after += (&error - &b * &a).squared_norm_l2();
                        let (a, b) = unscaled(&a, &b, &scales);
                        let place = (&base::device(linear.base.get()), DType::F32);
                        let (a, b) = init::balanced(&a, &b, lora.scaling, place);
                        (lora.lora_a, lora.lora_b) = (Param::from_tensor(a), Param::from_tensor(b));
                    }
                    Err(error) => outcome = Err(error),
                }
            }
        });
        outcome?;
        if sums.layers == 0 {
            let reason = format!("no quantized layer is under the adapter `{name}`");
            return Err(invalid("target_modules", reason));
        }
        each_named(quantized, name, true);
        Ok(QeraReport {
            layers: sums.layers,
            before: (sums.before / sums.weight).sqrt(),
            after: (sums.after / sums.weight).sqrt(),
        })
    }

    /// Root mean squares of a layer's input channels; channels that are nearly silent count as a
    /// ten-thousandth of the loudest, so that their factors stay finite.
    fn scales(&self, path: &str) -> Option<Vec<f64>> {
        let watched = self.layers.get(path).filter(|watched| watched.rows > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
        let rows = watched.rows as f64;
        let roots: Vec<f64> = watched
            .squares
            .iter()
            .map(|sum| (sum / rows).sqrt())
            .collect();
        let loudest = roots.iter().copied().fold(0.0, f64::max);
        let usable = loudest > 0.0 && roots.iter().all(|root| root.is_finite());
        usable.then(|| roots.iter().map(|root| root.max(1e-4 * loudest)).collect())
    }
}

/// `M·S`.
fn scaled(mut matrix: Mat<f64>, scales: &[f64]) -> Mat<f64> {
    for (column, scale) in matrix.col_iter_mut().zip(scales) {
        column.iter_mut().for_each(|x| *x *= scale);
    }
    matrix
}

/// Nearly the best factors `A [r, d_in]` and `B [d_out, r]` of a matrix `[d_out, d_in]`.
fn reconstruct(matrix: &Mat<f64>, r: usize, stream: Stream) -> Result<(Mat<f64>, Mat<f64>)> {
    let width = r + SPARE;
    if width >= matrix.nrows().min(matrix.ncols()) {
        return svd::best_factors(matrix, r);
    }
    let q = svd::subspace(matrix, width, ROUNDS, stream);
    let (a, b) = svd::best_factors(&(q.transpose() * matrix), r)?;
    Ok((a, &q * &b))
}

/// `A·S⁻¹` with rows of length one, and `B` with their lengths.
fn unscaled(a: &Mat<f64>, b: &Mat<f64>, scales: &[f64]) -> (Mat<f64>, Mat<f64>) {
    let a = Mat::from_fn(a.nrows(), a.ncols(), |k, j| a[(k, j)] / scales[j]);
    let lengths: Vec<f64> = (0..a.nrows())
        .map(|k| a.row(k).norm_l2().max(f64::MIN_POSITIVE))
        .collect();
    (
        Mat::from_fn(a.nrows(), a.ncols(), |k, j| a[(k, j)] / lengths[k]),
        Mat::from_fn(b.nrows(), b.ncols(), |i, k| b[(i, k)] * lengths[k]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error matrix with falling singular values, and inputs of very different loudness.
    fn case(rows: usize, columns: usize) -> (Mat<f64>, Vec<f64>) {
        let stream = Stream::new(&[text_key("qera test")]);
        let at = |i: usize, j: usize| stream.normal((i * columns + j) as u64);
        let matrix = Mat::from_fn(rows, columns, at);
        let scales = (0..columns).map(|j| 0.05 + (j % 7) as f64).collect();
        (matrix, scales)
    }

    #[test]
    fn the_weighed_error_is_nearly_the_least_that_a_rank_can_leave() {
        for (rows, columns, r) in [(40, 60, 4), (61, 33, 8), (6, 9, 4)] {
            let (error, scales) = case(rows, columns);
            let weighed = scaled(error.clone(), &scales);
            let (a, b) = reconstruct(&weighed, r, Stream::new(&[1])).unwrap();
            let (a, b) = unscaled(&a, &b, &scales);
            let left = scaled(&error - &b * &a, &scales).squared_norm_l2();
            let all = weighed.thin_svd().unwrap();
            let least: f64 = all.S().column_vector().iter().skip(r).map(|s| s * s).sum();
            // Eckart and Young: no factors leave less; the search is allowed 1 % more on this flat
            // spectrum, and is exact where it takes all directions.
            assert!(left >= least * (1.0 - 1e-12), "{left} {least}");
            assert!(left <= least * 1.01, "{left} {least}");
            // Factors that are best without the weighing are worse.
            let (a, b) = svd::best_factors(&error, r).unwrap();
            let plain = scaled(&error - &b * &a, &scales).squared_norm_l2();
            assert!(plain > left, "{plain} {left}");
        }
    }
}

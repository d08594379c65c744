//! From gradients to new parameters.

mod clip;
mod gradients;
mod groups;
mod moment_file;
mod moments;
mod rounding;
mod rule;
mod store;
mod trained;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};

pub use clip::{clip_factor, global_norm};
pub use gradients::GradientSum;
pub use groups::groups;
pub use moments::{BLOCK_SIZE_8BIT, MIN_8BIT_SIZE, Moments};
pub use rule::{Rule, StepSize};

pub(crate) use trained::trained;

use gradients::numbers;
use rounding::stochastic_bf16;
use store::Store;

use crate::error::Result;
use crate::random::mixed;

/// How one parameter deviates from the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamGroup {
    /// Multiplies the learning rate (LoRA+: above 1 for B).
    pub lr_ratio: f64,
    /// The decoupled weight decay.
    pub weight_decay: f64,
}

/// An update rule with the averages of every parameter it has seen.
///
/// Averages live in host memory, whatever the device of the parameters is: on a GPU that is the
/// offload of optimizer states, on the CPU no copy is made.
/// [`page_to`](Self::page_to) moves them into a file, of which one page is in memory; the numbers
/// are the same to the bit.
/// They are kept by the path of the parameter in the module tree, which is what makes a checkpoint
/// of them readable.
///
/// Updates are computed in f32.
/// A parameter of bf16 is rounded up or down at random afterwards, so that updates far below the
/// distance of its neighbours move it as often as they should; the random numbers are functions of
/// seed, step, parameter and place.
/// No copy of it in f32 is kept.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    seed: u64,
    step: u64,
    store: Store,
}

impl Optimizer {
    /// An optimizer that has taken no step.
    pub fn new(rule: Rule) -> Self {
        Self::from_parts(rule, 0, BTreeMap::new())
    }

    /// Puts stored parts together.
    pub fn from_parts(rule: Rule, step: u64, moments: BTreeMap<String, Vec<Moments>>) -> Self {
        Self {
            rule,
            seed: 0,
            step,
            store: Store::Memory(moments),
        }
    }

    /// The same with random numbers of another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// One that has taken `step` steps and keeps its averages as this one does, but has none yet.
    pub(crate) fn emptied(&self, step: u64) -> Result<Self> {
        Ok(Self {
            rule: self.rule,
            seed: self.seed,
            step,
            store: self.store.emptied()?,
        })
    }

    /// Moves the averages into a file in `folder`; it goes with the optimizer.
    ///
    /// # Units
    /// - memory: at most two pages of 1 MiB at a time beside the parameter
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be made or written.
    pub fn page_to(&mut self, folder: &Path) -> Result<()> {
        let empty = Store::Memory(BTreeMap::new());
        self.store = std::mem::replace(&mut self.store, empty).paged(folder)?;
        Ok(())
    }

    /// The update rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The paths of the parameters that have averages.
    pub fn parameters(&self) -> Vec<String> {
        self.store.parameters()
    }

    /// Average `index` of a parameter, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when its file cannot be read.
    pub fn moment(&self, parameter: &str, index: usize) -> Result<Option<Cow<'_, Moments>>> {
        self.store.moment(parameter, index)
    }

    /// Takes in the averages of a parameter.
    pub(crate) fn insert(&mut self, parameter: &str, moments: Vec<Moments>) -> Result<()> {
        self.store.insert(parameter, moments)
    }

    /// The bytes of all averages.
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// The bytes of averages that are in memory at once.
    pub fn resident_bytes(&self) -> usize {
        self.store.resident_bytes()
    }

    /// Moves every parameter that has a gradient; `group` is asked with its path.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when averages that live in a file cannot be read or
    /// written; some parameters have moved then, and others have not.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: &GradientSum,
        lr: f64,
        group: &dyn Fn(&str) -> ParamGroup,
    ) -> Result<M> {
        let (module, result) = self.step_keeping(module, gradients, lr, group);
        result.map(|()| module)
    }

    /// [`step`](Self::step) that gives the module back whatever happens.
    pub(crate) fn step_keeping<M: Module>(
        &mut self,
        module: M,
        gradients: &GradientSum,
        lr: f64,
        group: &dyn Fn(&str) -> ParamGroup,
    ) -> (M, Result<()>) {
        self.step += 1;
        let mut stepper = Stepper {
            path: Vec::new(),
            optimizer: self,
            gradients,
            lr,
            group,
            result: Ok(()),
        };
        let module = module.map(&mut stepper);
        (module, stepper.result)
    }

    /// Chooses the random numbers of this step for a parameter.
    fn key(&self, path: &str) -> u64 {
        let step = mixed(self.seed, self.step);
        path.bytes().fold(step, |key, byte| mixed(key, byte.into()))
    }

    fn update(
        &mut self,
        path: &str,
        (param, gradient): (&mut [f32], &[f32]),
        lr: f64,
        group: ParamGroup,
    ) -> Result<()> {
        let by = StepSize {
            lr: lr * group.lr_ratio,
            weight_decay: group.weight_decay,
            step: self.step,
        };
        self.store.update(&self.rule, path, (param, gradient), by)
    }
}

struct Stepper<'a> {
    path: Vec<String>,
    optimizer: &'a mut Optimizer,
    gradients: &'a GradientSum,
    lr: f64,
    group: &'a dyn Fn(&str) -> ParamGroup,
    result: Result<()>,
}

impl ModuleMapper for Stepper<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.get(param.id) else {
            return param;
        };
        if self.result.is_err() {
            return param;
        }
        let (id, tensor, mapper) = param.consume();
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let (autodiff, shape) = (device.is_autodiff(), tensor.dims());
        let tensor = if autodiff { tensor.inner() } else { tensor };
        let plain = tensor.device();
        let mut values = numbers(tensor);
        let path = self.path.join(".");
        let group = (self.group)(&path);
        self.result = self
            .optimizer
            .update(&path, (&mut values, gradient), self.lr, group);
        let data = match dtype {
            DType::BF16 => {
                let rounded = stochastic_bf16(&values, self.optimizer.key(&path));
                TensorData::new(rounded, shape)
            }
            _ => TensorData::new(values, shape),
        };
        let tensor = Tensor::<D>::from_data(data, (&plain, dtype));
        let tensor = if autodiff {
            Tensor::from_inner(tensor).require_grad()
        } else {
            tensor
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;
    use flametune_testkit::assert_close;

    use super::*;

    #[derive(Module, Debug)]
    struct Line {
        weight: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }

    fn line() -> Line {
        let device = Device::flex().autodiff();
        let frozen = Param::from_tensor(Tensor::from_floats([5.0, 5.0], &device));
        Line {
            weight: Param::from_tensor(Tensor::from_floats([1.0, -2.0], &device)),
            frozen: frozen.set_require_grad(false),
        }
    }

    fn loss(line: &Line, x: f32) -> Tensor<1> {
        (line.weight.val() * line.frozen.val() * x).sum()
    }

    fn everything(_: &str) -> ParamGroup {
        ParamGroup {
            lr_ratio: 1.0,
            weight_decay: 0.0,
        }
    }

    #[test]
    fn micro_batches_add_up_to_one_batch() {
        let line = line();
        let mut parts = GradientSum::new();
        for x in [0.25, 0.75] {
            parts.add(&line, &mut loss(&line, x).backward());
        }
        let mut whole = GradientSum::new();
        whole.add(&line, &mut loss(&line, 1.0).backward());
        assert_eq!(parts.len(), 1);
        assert_eq!(parts.get(line.weight.id), whole.get(line.weight.id));
        assert_eq!(whole.get(line.weight.id), Some([5.0, 5.0].as_slice()));
        assert!((whole.norm() - 50.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_step_moves_trainable_parameters_and_keeps_them_trainable() {
        let mut optimizer = Optimizer::new(Rule::default());
        let mut line = line();
        for _ in 0..2 {
            let mut gradients = GradientSum::new();
            gradients.add(&line, &mut loss(&line, 1.0).backward());
            line = optimizer.step(line, &gradients, 0.1, &everything).unwrap();
        }
        // A constant gradient moves AdamW by lr a step.
        let tolerance = flametune_testkit::tol::f32();
        assert_close(
            &line.weight.val().into_data(),
            &[0.8_f32, -2.2],
            tolerance,
            "weight",
        );
        assert_close(
            &line.frozen.val().into_data(),
            &[5.0_f32, 5.0],
            tolerance,
            "frozen",
        );
        assert_eq!(optimizer.steps(), 2);
        assert_eq!(optimizer.parameters(), ["weight"]);
        assert_eq!(optimizer.bytes(), 2 * 2 * 4);
    }

    #[test]
    fn groups_change_learning_rate_and_decay() {
        let mut optimizer = Optimizer::new(Rule::default());
        let line = line();
        let mut gradients = GradientSum::new();
        gradients.add(&line, &mut loss(&line, 1.0).backward());
        let group = |path: &str| {
            assert_eq!(path, "weight");
            ParamGroup {
                lr_ratio: 2.0,
                weight_decay: 0.5,
            }
        };
        let line = optimizer.step(line, &gradients, 0.1, &group).unwrap();
        // p - 0.2·0.5·p - 0.2
        let expected = [1.0 - 0.1 - 0.2_f32, -2.0 + 0.2 - 0.2];
        let tolerance = flametune_testkit::tol::f32();
        assert_close(
            &line.weight.val().into_data(),
            &expected,
            tolerance,
            "weight",
        );
    }

    #[test]
    fn updates_far_below_the_neighbours_of_bf16_move_it_as_they_would_move_f32() {
        const LEN: usize = 4096;
        let device = Device::flex().autodiff();
        let ones = Tensor::<1>::ones([LEN], (&device, DType::BF16));
        let line = Line {
            weight: Param::from_tensor(ones),
            frozen: Param::from_tensor(Tensor::ones([1], &device)).set_require_grad(false),
        };
        let run = |mut line: Line, seed: u64| {
            let mut optimizer = Optimizer::new(Rule::default()).with_seed(seed);
            for _ in 0..200 {
                let mut gradients = GradientSum::new();
                gradients.add_one(line.weight.id, vec![1.0; LEN]);
                line = optimizer.step(line, &gradients, 1e-5, &everything).unwrap();
            }
            let values: Vec<f32> = line.weight.val().into_data().iter::<f32>().collect();
            (line, values)
        };
        let (moved, values) = run(line.clone(), 1);
        assert_eq!(moved.weight.val().dtype(), DType::BF16);
        assert!(moved.weight.val().is_require_grad());
        let mean = values.iter().sum::<f32>() / LEN as f32;
        // 200 updates of 1e-5, and none of them is as large as half of 2⁻⁸. The mean deviates by
        // √(200·1e-5·2⁻⁸ / 4096) = 4.4e-5; four of them.
        assert!((mean - 0.998).abs() < 1.8e-4, "{mean}");
        assert_eq!(run(line.clone(), 1).1, values);
        assert_ne!(run(line, 2).1, values);
    }

    #[test]
    fn clipping_brings_the_norm_down() {
        let line = line();
        let mut gradients = GradientSum::new();
        gradients.add(&line, &mut loss(&line, 1.0).backward());
        let before = gradients.clip(1.0);
        assert!((before - 50.0_f64.sqrt()).abs() < 1e-9);
        assert!((gradients.norm() - 1.0).abs() < 1e-6);
    }
}

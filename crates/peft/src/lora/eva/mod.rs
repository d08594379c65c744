//! EVA: `A` begins with the directions in which the inputs of a layer vary most.

mod config;
mod incremental;
mod observer;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use faer::Mat;

pub use config::EvaConfig;
pub use observer::InputObserver;

use self::incremental::IncrementalPca;
use super::{InitLoraWeights, LoraConfig};
use crate::base;
use crate::check::invalid;
use crate::config::PeftConfig;
use crate::error::Result;
use crate::inject::{each_named, place, remove, resolve};
use crate::random::{Stream, text_key};
use crate::selection::AdapterPass;
use crate::slots::{LinearMethod, NamedAdapter, SlotModule, Slots};
use crate::svd;
use crate::targets::{Patterns, TargetModules};

/// Begins a LoRA adapter with EVA (explained variance adaptation).
///
/// The rows of `A` are the principal directions of a layer's inputs, `B` is zero. The ranks are handed
/// out anew: among the directions of all layers those that explain most of their layer's variance win,
/// at most `rho · r` a layer. A layer that wins none is not adapted.
///
/// ```text
/// EvaInit::begin ─→ ( forward pass over a batch with EvaInit::pass ─→ EvaInit::update )* ─→ EvaInit::finish
/// ```
///
/// Until `finish` the model has an adapter of that name which adds nothing; [`remove`](crate::remove)
/// takes it out when no more is wanted of it.
///
/// # Source
/// - Paischer et al. 2024, Explained Variance Adaptation, arXiv:2410.07170
/// - reference: peft `tuners/lora/eva.py`; golden `fixtures/peft/init_eva`
/// - differs: ties of explained variance go to the module that comes first; the caller decides how many
///   batches there are, where PEFT goes on until every direction that counts has settled
///
/// # Examples
/// ```
/// use flametune_peft::{AdapterPass, EvaInit, LoraConfig, Result, Slots};
///
/// fn begin<M: Slots>(
///     model: &mut M,
///     config: &LoraConfig,
///     batches: &[Vec<u32>],
///     forward: impl Fn(&M, &[u32], &AdapterPass),
/// ) -> Result<()> {
///     let mut eva = EvaInit::begin(model, "summary", config, 0)?;
///     for batch in batches {
///         forward(model, batch, &eva.pass());
///         if eva.update(&vec![true; batch.len()])? {
///             break;
///         }
///     }
///     eva.finish(model)
/// }
/// ```
#[derive(Debug)]
pub struct EvaInit {
    name: String,
    config: LoraConfig,
    options: EvaConfig,
    seed: u64,
    modules: Vec<Observed>,
    /// The ranks as they stand.
    ranks: Vec<usize>,
    grouped: bool,
}

/// A layer whose inputs are looked at.
#[derive(Debug)]
struct Observed {
    path: String,
    r: usize,
    d_in: usize,
    observer: InputObserver,
    /// The module with the same input that is looked at in its place.
    leader: Option<usize>,
    /// The most directions that it may win.
    most: usize,
    pca: IncrementalPca,
    converged: Vec<bool>,
    settled: bool,
}

impl EvaInit {
    /// Puts observers on the layers that `config` names, as an adapter called `name`.
    ///
    /// # Errors
    /// Those of [`inject`](crate::inject), without the one for EVA.
    pub fn begin<M: Slots>(
        model: &mut M,
        name: &str,
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        let config = LoraConfig {
            init_lora_weights: InitLoraWeights::Eva,
            eva_config: Some(config.eva()),
            ..config.clone()
        };
        model.adapters().check_new(name)?;
        let wanted: PeftConfig = config.clone().into();
        let rows = resolve(model, &wanted)?.modules;
        let ranks: BTreeMap<String, usize> = rows
            .into_iter()
            .filter(|row| row.method == "lora")
            .filter_map(|row| Some((row.path, row.r?)))
            .collect();
        let options = config.eva();
        let mut modules = Vec::new();
        model.visit_slots(&mut |slot| {
            let SlotModule::Linear(linear) = slot.module else {
                return;
            };
            let Some(&r) = ranks.get(slot.path) else {
                return;
            };
            let observer = InputObserver::new();
            linear.adapters.push(NamedAdapter {
                method: LinearMethod::Observer(observer.clone()),
                name: name.to_owned(),
                trainable: false,
            });
            let d_in = linear.base.get().d_in();
            let most = components(r, options.rho).min(d_in);
            modules.push(Observed {
                path: slot.path.to_owned(),
                r,
                d_in,
                observer,
                leader: None,
                most,
                pca: IncrementalPca::new(most, Stream::new(&[text_key(slot.path)])),
                converged: vec![false; most],
                settled: false,
            });
        });
        model.adapters_mut().insert(name, wanted);
        if modules.is_empty() {
            remove(model, name)?;
            let reason = "names no linear layer, whose inputs EVA looks at".to_owned();
            return Err(invalid("target_modules", reason));
        }
        Ok(Self {
            name: name.to_owned(),
            ranks: modules.iter().map(|module| module.most).collect(),
            config,
            options,
            seed,
            modules,
            grouped: false,
        })
    }

    /// The pass with which the next batch goes through the model.
    pub fn pass(&self) -> AdapterPass {
        AdapterPass::one(self.name.clone())
    }

    /// Takes in what the layers saw of the last batch: the rows for which `counts` is true, one for
    /// each token, in the order of the batch. Padding must not count, nor with `use_label_mask` what is
    /// not supervised.
    ///
    /// Returns whether every direction that counts has settled, so that more batches would change
    /// little. A batch with fewer rows than a layer has directions is left out there.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error) when a layer saw another number of rows than `counts` has,
    /// and when a decomposition does not converge.
    pub fn update(&mut self, counts: &[bool]) -> Result<bool> {
        if !self.grouped {
            self.group()?;
        }
        for at in 0..self.modules.len() {
            let module = &mut self.modules[at];
            let Some(input) = module.observer.take().filter(|_| module.leader.is_none()) else {
                continue;
            };
            let rows = counted(&module.path, input, counts)?;
            if let Some(cosines) = module.pca.add(&rows)? {
                let tau = self.options.tau;
                module.converged = cosines.into_iter().map(|cosine| cosine >= tau).collect();
            }
        }
        if self.leaders().all(|module| module.pca.found.is_some()) {
            self.ranks = self.shares();
        }
        let mut all = true;
        for (module, &rank) in self.modules.iter_mut().zip(&self.ranks) {
            if module.leader.is_none() {
                module.settled = module
                    .converged
                    .iter()
                    .take(rank)
                    .all(|&converged| converged);
                module.observer.set_active(!module.settled);
                all &= module.settled;
            }
        }
        Ok(all)
    }

    /// Takes the observers out and puts the adapter in their place.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error) when no batch had enough rows, and those of
    /// [`inject`](crate::inject). The model has no adapter of that name then.
    pub fn finish<M: Slots>(self, model: &mut M) -> Result<()> {
        remove(model, &self.name)?;
        if let Some(module) = self.leaders().find(|module| module.pca.found.is_none()) {
            let reason = format!(
                "needs a batch of at least {} tokens that count, for the inputs of `{}`",
                module.most, module.path
            );
            return Err(invalid("eva_config", reason));
        }
        let config = self.shared_out(model)?;
        place(model, &self.name, &config.clone().into(), self.seed)?;
        let begun: BTreeMap<&str, Mat<f64>> = (0..self.modules.len())
            .map(|at| (self.modules[at].path.as_str(), self.directions(at)))
            .collect();
        model.visit_slots(&mut |slot| {
            let (SlotModule::Linear(linear), Some(a)) = (slot.module, begun.get(slot.path)) else {
                return;
            };
            let device = base::device(linear.base.get());
            for part in linear
                .adapters
                .iter_mut()
                .filter(|part| part.name == self.name)
            {
                if let LinearMethod::Lora(lora) = &mut part.method {
                    lora.lora_a = Param::from_tensor(svd::to_device(a, (&device, DType::F32)));
                }
            }
        });
        each_named(model, &self.name, !config.common.inference_mode);
        Ok(())
    }

    fn leaders(&self) -> impl Iterator<Item = &Observed> {
        self.modules.iter().filter(|module| module.leader.is_none())
    }

    /// Finds the layers that see the same numbers, of which the first stands for all.
    fn group(&mut self) -> Result<()> {
        let mut known: BTreeMap<(u64, usize, usize), usize> = BTreeMap::new();
        for at in 0..self.modules.len() {
            let module = &self.modules[at];
            let Some(input) = module.observer.take() else {
                let reason = format!("`{}` saw nothing of the batch", module.path);
                return Err(invalid("target_modules", reason));
            };
            let values = input.clone().into_data();
            let digest = values.iter::<f64>().fold(0u64, |hash, x| {
                (hash.rotate_left(5) ^ x.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            });
            let key = (digest, values.num_elements(), module.d_in);
            let leader = *known.entry(key).or_insert(at);
            if leader == at {
                module.observer.put(input);
            } else {
                self.modules[at].leader = Some(leader);
                self.modules[at].observer.set_active(false);
                let most = self.modules[leader].most.max(self.modules[at].most);
                self.modules[leader].most = most;
            }
        }
        for at in 0..self.modules.len() {
            let most = self.modules[self.leader(at)].most;
            let module = &mut self.modules[at];
            module.most = most;
            module.converged = vec![false; most];
            let stream = Stream::new(&[text_key(&module.path)]);
            module.pca = IncrementalPca::new(most, stream);
            self.ranks[at] = most;
        }
        self.grouped = true;
        Ok(())
    }

    fn leader(&self, at: usize) -> usize {
        self.modules[at].leader.unwrap_or(at)
    }

    /// The directions of each module among the best of all, as many as their ranks allow together.
    fn shares(&self) -> Vec<usize> {
        let budget: usize = self.modules.iter().map(|module| module.r).sum();
        // Leaders first, as the reference lists them.
        let mut order: Vec<usize> = (0..self.modules.len()).collect();
        order.sort_by_key(|&at| self.modules[at].leader.is_some());
        let mut all: Vec<(f64, usize)> = Vec::new();
        for at in order {
            let explained = self.modules[self.leader(at)].pca.explained();
            all.extend(explained.into_iter().map(|share| (share, at)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut ranks = vec![0; self.modules.len()];
        for &(_, at) in all.iter().take(budget) {
            ranks[at] += 1;
        }
        for at in 0..ranks.len() {
            let leader = self.leader(at);
            if ranks[leader] < ranks[at] {
                ranks.swap(leader, at);
            }
        }
        ranks
    }

    /// The first directions of a module, as many as it has won.
    fn directions(&self, at: usize) -> Mat<f64> {
        let rank = self.ranks[at];
        match &self.modules[self.leader(at)].pca.found {
            None => Mat::zeros(rank, self.modules[at].d_in),
            Some((lengths, directions)) => {
                Mat::from_fn(rank, directions.ncols(), |k, j| match self.options.whiten {
                    true => directions[(k, j)] / lengths[k].sqrt(),
                    false => directions[(k, j)],
                })
            }
        }
    }

    /// The configuration with the ranks that were won, and the scalings that go with them.
    fn shared_out<M: Slots>(&self, model: &M) -> Result<LoraConfig> {
        let rows = resolve(model, &self.config.clone().into())?.modules;
        let observed: BTreeSet<&str> = self.modules.iter().map(|m| m.path.as_str()).collect();
        let lora = rows.iter().filter(|row| row.method == "lora");
        let others = lora.filter(|row| !observed.contains(row.path.as_str()));
        let mut config = self.config.clone();
        config.rank_pattern.clear();
        config.alpha_pattern.clear();
        let mut targets = Vec::new();
        let alphas = Patterns::new("alpha_pattern", &self.config.alpha_pattern)?;
        for (module, &rank) in self
            .modules
            .iter()
            .zip(&self.ranks)
            .filter(|(_, rank)| **rank > 0)
        {
            let mut alpha = alphas.get(&module.path).unwrap_or(self.config.lora_alpha);
            if rank != module.r && self.options.adjust_scaling_factors {
                #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
                let ratio = rank as f64 / module.r as f64;
                alpha *= ratio;
            }
            if rank != config.r {
                config.rank_pattern.insert(module.path.clone(), rank);
            }
            if alpha.to_bits() != config.lora_alpha.to_bits() {
                config.alpha_pattern.insert(module.path.clone(), alpha);
            }
            targets.push(module.path.clone());
        }
        for row in others {
            if let Some(r) = row.r.filter(|&r| r != config.r) {
                config.rank_pattern.insert(row.path.clone(), r);
            }
            if let Some(alpha) = alphas.get(&row.path) {
                config.alpha_pattern.insert(row.path.clone(), alpha);
            }
            targets.push(row.path.clone());
        }
        config.target_modules = Some(TargetModules::list(targets));
        Ok(config)
    }
}

/// `rho · r`, to the nearest whole number, ties to even.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank, whose product saturates"
)]
fn components(r: usize, rho: f64) -> usize {
    (r as f64 * rho).round_ties_even() as usize
}

/// The rows of an input that count.
fn counted(path: &str, input: Tensor<2>, counts: &[bool]) -> Result<Mat<f64>> {
    let [rows, _] = input.dims();
    if rows != counts.len() {
        let (got, path) = (counts.len(), path.to_owned());
        let reason = format!("`{path}` saw {rows} rows of the batch, and {got} were marked");
        return Err(invalid("target_modules", reason));
    }
    let all = svd::to_host(input);
    let kept: Vec<usize> = (0..rows).filter(|&row| counts[row]).collect();
    Ok(Mat::from_fn(kept.len(), all.ncols(), |i, j| {
        all[(kept[i], j)]
    }))
}

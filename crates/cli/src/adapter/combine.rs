//! `flametune adapter combine`: one adapter from several.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::{DType, Device};
use clap::Args;
use flametune_lm::LoadOptions;
use flametune_peft::{
    CombinationType, CombineOptions, MajoritySign, add_weighted_adapter, load_adapter, save_adapter,
};

use super::passport;
use crate::model;

/// Combine LoRA adapters of one base into a new one.
///
/// Examples:
///
///   flametune adapter combine ./sql=0.7 ./chat=0.3 --output ./both --base ./my-model --kind ties \
///       --density 0.5
///   flametune adapter combine ./c=1 ./b=1 ./a=-1 --output ./analogy --base ./my-model --kind cat
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Combine {
    /// Folders of adapters with their weights; the weight is 1 where none is given
    #[arg(required = true, value_name = "FOLDER[=WEIGHT]")]
    adapters: Vec<String>,

    /// The folder to write
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,

    /// The base: a model folder, a .gguf file, or the name of a fetched model; without it the one
    /// that the first adapter names
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune, and the last four with _svd
    #[arg(long, default_value = "linear", value_name = "KIND")]
    kind: CombinationType,

    /// The rank of the result, for kinds with svd; the largest of the adapters' without it
    #[arg(long, value_name = "R")]
    rank: Option<usize>,

    /// The share of numbers that is kept, for kinds that drop some
    #[arg(long, value_name = "P")]
    density: Option<f64>,

    /// Elect signs by their number instead of by the sum
    #[arg(long)]
    by_frequency: bool,

    /// Chooses what dare drops
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl Combine {
    pub(super) fn run(&self) -> Result<()> {
        let parts = self.adapters.iter().map(|text| weighted(text));
        let parts = parts.collect::<Result<Vec<(PathBuf, f64)>>>()?;
        let Some((first, _)) = parts.first() else {
            bail!("no adapter was given");
        };
        let checkpoint = super::base(self.base.as_deref(), first)?;
        let options = LoadOptions::new(&Device::flex(), DType::F32, DType::F32);
        let mut model = model::load(&checkpoint, &options)?;
        let names: Vec<String> = (0..parts.len())
            .map(|index| format!("part {index}"))
            .collect();
        for (name, (folder, _)) in names.iter().zip(&parts) {
            load_adapter(&mut model, name, folder)
                .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
            passport::check(folder, &checkpoint, &model)
                .with_context(|| format!("cannot combine {}", folder.display()))?;
        }
        let weights = names.iter().zip(&parts);
        let adapters: Vec<(&str, f64)> = weights
            .map(|(name, &(_, weight))| (name.as_str(), weight))
            .collect();
        let combine = CombineOptions {
            svd_rank: self.rank,
            density: self.density,
            majority_sign_method: match self.by_frequency {
                true => MajoritySign::Frequency,
                false => MajoritySign::Total,
            },
            seed: self.seed,
            ..CombineOptions::new(self.kind)
        };
        add_weighted_adapter(&mut model, &adapters, super::NAME, &combine)?;
        save_adapter(&model, super::NAME, &self.output).context("cannot write the adapter")?;
        let count = parts.len();
        writeln!(
            io::stderr(),
            "{}: {count} adapters combined by {}",
            self.output.display(),
            self.kind
        )?;
        Ok(())
    }
}

/// A folder and the weight after its last `=`, where that is a number.
fn weighted(text: &str) -> Result<(PathBuf, f64)> {
    match text.rsplit_once('=') {
        None => Ok((text.into(), 1.0)),
        Some((folder, weight)) => match weight.parse::<f64>() {
            Ok(weight) => Ok((folder.into(), weight)),
            Err(_) => bail!("`{text}`: the weight after `=` must be a number, got `{weight}`"),
        },
    }
}

//! `flametune chat`: a dialogue in the terminal.

use anyhow::Result;
use clap::Args;

use crate::adapter::AdapterArgs;
use crate::device::DeviceArgs;
use crate::generate::{Generate, SamplingArgs};
use crate::model;
use crate::quantize::QuantizeArgs;

/// Chat with a model in the terminal; the same as `generate --chat`.
///
/// Examples:
///
///   flametune chat
///   flametune chat --adapter runs/qlora/adapter --temperature 0.7
///   flametune chat ./my-model --system "Answer in one sentence."
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Chat {
    /// A model folder, a .gguf file, or the name of a fetched model
    #[arg(default_value = model::DEFAULT_MODEL)]
    model: String,

    /// What the system message says
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// A built-in chat template or a template file, in place of the model's own
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    quantize: QuantizeArgs,

    #[command(flatten)]
    adapter: AdapterArgs,

    /// Leave out the line of figures behind each answer
    #[arg(long, short)]
    quiet: bool,
}

impl Chat {
    pub(crate) fn run(self) -> Result<()> {
        let generate = Generate {
            model: self.model,
            prompt: Vec::new(),
            chat: true,
            system: self.system,
            template: self.template,
            sampling: self.sampling,
            device: self.device,
            quantize: self.quantize,
            adapter: self.adapter,
            quiet: self.quiet,
        };
        generate.run()
    }
}

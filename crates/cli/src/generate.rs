//! `flametune generate`: continue a prompt, or chat.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_data::{ChatTemplate, Message, TextStream, Tokenizer};
use flametune_infer::{
    Control, Event, FinishReason, Generator, Request, SamplingParams, StopStrings,
};
use flametune_lm::{AdapterPass, CausalLm};

use crate::adapter::AdapterArgs;
use crate::device::DeviceArgs;
use crate::quantize::QuantizeArgs;
use crate::{model, text};

/// Continue a prompt, or chat with a model.
///
/// Examples:
///
///   flametune generate --chat
///   flametune generate --prompt "The capital of France is" --max-tokens 20
///   flametune generate --quantize nf4 --double-quant --prompt "Once upon a time"
///   flametune generate --adapter runs/qlora/adapter --chat
///   flametune generate ./my-model --chat --prompt "Write a haiku" --temperature 0.8 --seed 7
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Generate {
    /// A model folder, a .gguf file, or the name of a fetched model
    #[arg(default_value = model::DEFAULT_MODEL)]
    pub(crate) model: String,

    /// Text to continue; several make a batch. Without it, standard input is read
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,

    /// Speak through the chat template: a dialogue, or one answer per --prompt
    #[arg(long, short)]
    pub(crate) chat: bool,

    /// What the system message of a chat says
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,

    /// A built-in chat template or a template file, in place of the model's own
    #[arg(long, value_name = "NAME|FILE", requires = "chat")]
    pub(crate) template: Option<String>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,

    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,

    /// Leave out the line of figures at the end
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How tokens are chosen and when to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Longest continuation, in tokens
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_tokens: usize,

    /// Randomness; 0 always takes the most likely token
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "T",
        allow_negative_numbers = true
    )]
    temperature: f32,

    /// Choose among the K most likely tokens; 0 for all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,

    /// Choose among the fewest tokens that hold the probability P together
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "P",
        allow_negative_numbers = true
    )]
    top_p: f32,

    /// Drop tokens less likely than P times the most likely one
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "P",
        allow_negative_numbers = true
    )]
    min_p: f32,

    /// Divide the scores of tokens already seen; 1 for off
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "X",
        allow_negative_numbers = true
    )]
    repetition_penalty: f32,

    /// Subtract from the scores of tokens already written
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "X",
        allow_negative_numbers = true
    )]
    presence_penalty: f32,

    /// Subtract from the scores of tokens for each time they were written
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "X",
        allow_negative_numbers = true
    )]
    frequency_penalty: f32,

    /// The same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Stop where this text comes up; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    fn params(&self, tokenizer: &Tokenizer) -> Result<SamplingParams> {
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop_token_ids: tokenizer.special().eos_ids.clone(),
            ..SamplingParams::default()
        };
        params.validate()?;
        Ok(params)
    }
}

impl Generate {
    pub(crate) fn run(&self) -> Result<()> {
        let checkpoint = model::open(&self.model)?;
        let options = self.device.load_options(&checkpoint)?;
        let options = self.quantize.apply(options)?;
        let tokenizer = text::tokenizer(&checkpoint).context("cannot read the tokenizer")?;
        let template = if self.chat {
            Some(text::chat_template(&tokenizer, self.template.as_deref())?)
        } else {
            None
        };
        let params = self.sampling.params(&tokenizer)?;
        StopStrings::new(&self.sampling.stop)?;
        let mut model = model::load(&checkpoint, &options)?;
        let pass = self.adapter.load(&mut model, &checkpoint)?;
        // The mapped file would count as memory in use for as long as it is open.
        drop(checkpoint);
        tokenizer.check_against(model.vocab_size())?;
        let session = Session {
            model: &model,
            pass,
            tokenizer: &tokenizer,
            params,
            args: self,
        };
        match &template {
            Some(template) if self.prompt.is_empty() => session.dialogue(template),
            _ => session.answer_prompts(template.as_ref()),
        }
    }
}

struct Session<'a> {
    model: &'a CausalLm,
    pass: AdapterPass,
    tokenizer: &'a Tokenizer,
    params: SamplingParams,
    args: &'a Generate,
}

/// What became of one request.
struct Answer {
    text: String,
    tokens: usize,
    reason: FinishReason,
}

impl Session<'_> {
    /// Answers each prompt once, all of them as one batch.
    fn answer_prompts(&self, template: Option<&ChatTemplate>) -> Result<()> {
        let prompts = if self.args.prompt.is_empty() {
            vec![read_stdin()?]
        } else {
            self.args.prompt.clone()
        };
        let ids = prompts
            .iter()
            .map(|prompt| match template {
                None => Ok(self.tokenizer.encode(prompt, true)?),
                Some(template) => {
                    let mut messages = self.opening();
                    messages.push(Message::user(prompt.as_str()));
                    text::encode_chat(template, self.tokenizer, &messages)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let single = ids.len() == 1;
        let answers = self.generate(ids, single)?;
        if !single {
            let mut out = io::stdout().lock();
            for (prompt, answer) in prompts.iter().zip(&answers) {
                writeln!(out, "=== {prompt}\n{}\n", answer.text)?;
            }
        }
        Ok(())
    }

    /// Reads turns from standard input until it ends.
    fn dialogue(&self, template: &ChatTemplate) -> Result<()> {
        let stdin = io::stdin();
        let interactive = stdin.is_terminal();
        if interactive {
            writeln!(
                io::stderr(),
                "Chat with {}. An empty line or Ctrl-D ends it.",
                self.args.model
            )?;
        }
        let mut messages = self.opening();
        loop {
            if interactive {
                write!(io::stderr(), "\n> ")?;
                io::stderr().flush()?;
            }
            let mut line = String::new();
            let read = stdin
                .lock()
                .read_line(&mut line)
                .context("cannot read standard input")?;
            let line = line.trim();
            if read == 0 || (interactive && line.is_empty()) {
                return Ok(());
            }
            if line.is_empty() {
                continue;
            }
            messages.push(Message::user(line));
            let ids = text::encode_chat(template, self.tokenizer, &messages)?;
            let answer = self.generate(vec![ids], true)?.swap_remove(0);
            messages.push(Message::assistant(answer.text));
        }
    }

    fn opening(&self) -> Vec<Message> {
        self.args
            .system
            .iter()
            .map(|system| Message::system(system.as_str()))
            .collect()
    }

    /// Continues the prompts as one batch; `stream` writes the only one's text as it comes.
    fn generate(&self, prompts: Vec<Vec<u32>>, stream: bool) -> Result<Vec<Answer>> {
        let prompt_tokens: usize = prompts.iter().map(Vec::len).sum();
        let mut rows = prompts
            .iter()
            .map(|_| Row::new(self.tokenizer, &self.args.sampling.stop))
            .collect::<Result<Vec<_>>>()?;
        let requests: Vec<Request> = prompts
            .into_iter()
            .zip(0..)
            .map(|(prompt, index)| Request::new(prompt, self.params.clone()).with_index(index))
            .collect();
        let started = Instant::now();
        let mut first_token = None;
        let mut failure = None;
        let generator = Generator::new(self.model).with_pass(self.pass.clone());
        let outputs = generator.generate_with(&requests, |event| {
            let Event::Token { request, token, .. } = event else {
                return Control::Continue;
            };
            first_token.get_or_insert_with(|| started.elapsed());
            rows[request].push(token, stream).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Control::Stop
            })
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        let elapsed = started.elapsed();
        let answers = rows
            .into_iter()
            .zip(&outputs)
            .map(|(row, output)| {
                Ok(Answer {
                    text: row.finish(stream)?,
                    tokens: output.tokens.len(),
                    reason: output.finish_reason,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        if stream {
            writeln!(io::stdout())?;
        }
        if !self.args.quiet {
            let tokens = answers.iter().map(|answer| answer.tokens).sum();
            let figures = Figures {
                prompt_tokens,
                tokens,
                prefill: first_token.unwrap_or(elapsed),
                elapsed,
            };
            writeln!(io::stderr(), "{}", figures.line(&answers))?;
        }
        Ok(answers)
    }
}

/// The text of one request as it grows.
struct Row<'a> {
    stream: TextStream<'a>,
    stops: StopStrings,
    text: String,
    stopped: bool,
}

impl<'a> Row<'a> {
    fn new(tokenizer: &'a Tokenizer, stop: &[String]) -> Result<Self> {
        Ok(Self {
            stream: tokenizer.text_stream(true),
            stops: StopStrings::new(stop)?,
            text: String::new(),
            stopped: false,
        })
    }

    fn push(&mut self, token: u32, show: bool) -> Result<Control> {
        let piece = self.stream.push(token)?;
        let scan = self.stops.push(&piece);
        self.stopped = scan.matched.is_some();
        emit(&mut self.text, &scan.text, show)?;
        Ok(if self.stopped {
            Control::Stop
        } else {
            Control::Continue
        })
    }

    /// Adds what was held back, and returns the whole text.
    fn finish(self, show: bool) -> Result<String> {
        let Self {
            stream,
            mut stops,
            mut text,
            stopped,
        } = self;
        if !stopped {
            let scan = stops.push(&stream.finish()?);
            emit(&mut text, &scan.text, show)?;
            if scan.matched.is_none() {
                emit(&mut text, &stops.finish(), show)?;
            }
        }
        Ok(text)
    }
}

/// Adds `piece` to `text`, and shows it.
fn emit(text: &mut String, piece: &str, show: bool) -> io::Result<()> {
    text.push_str(piece);
    if show && !piece.is_empty() {
        let mut out = io::stdout().lock();
        out.write_all(piece.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// The figures of one generation.
struct Figures {
    prompt_tokens: usize,
    tokens: usize,
    prefill: Duration,
    elapsed: Duration,
}

impl Figures {
    fn line(&self, answers: &[Answer]) -> String {
        let rate = |tokens: usize, time: Duration| {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            f64::from(tokens) / time.as_secs_f64().max(1e-9)
        };
        // The first token of each row comes out of the prefill.
        let decoded = self.tokens.saturating_sub(answers.len());
        let end = match answers {
            [answer] => match answer.reason {
                FinishReason::Length => ", ended at --max-tokens",
                FinishReason::ContextFull => ", ended at the model's context length",
                FinishReason::StopToken(_) | FinishReason::Stopped => "",
            },
            _ => "",
        };
        format!(
            "[prompt {} tokens, {:.0} tok/s; answer {} tokens, {:.1} tok/s{end}]",
            self.prompt_tokens,
            rate(self.prompt_tokens, self.prefill),
            self.tokens,
            rate(decoded, self.elapsed.saturating_sub(self.prefill)),
        )
    }
}

fn read_stdin() -> Result<String> {
    if io::stdin().is_terminal() {
        bail!("nothing to continue: give --prompt TEXT, or --chat for a dialogue");
    }
    let text = io::read_to_string(io::stdin()).context("cannot read standard input")?;
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() {
        bail!("standard input holds no prompt");
    }
    Ok(text)
}

//! From the text of a recipe to a checked one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use flametune_peft::{AdaLoraConfig, InitLoraWeights, PeftConfig};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Table;

use super::Recipe;
use super::nearest::nearest;

/// Reads a recipe; `sets` are overrides `section.key=value`.
pub(crate) fn read(name: &str, text: &str, sets: &[String]) -> Result<Recipe> {
    let recipe: Recipe = parse(name, text, sets)?;
    if let Some(adapter) = &recipe.adapter {
        check_adapter(name, text, adapter, &recipe)?;
    }
    recipe
        .validate()
        .map_err(|error| anyhow!("{name}: {error}"))?;
    Ok(recipe)
}

/// Reads a recipe of any kind, unchecked beyond its keys and their types.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, text: &str, sets: &[String]) -> Result<T> {
    let mut table: Table =
        toml::from_str(text).map_err(|error| anyhow!(described(name, text, &error)))?;
    for set in sets {
        apply(&mut table, set)?;
    }
    match table.try_into::<T>() {
        Ok(recipe) => Ok(recipe),
        // Only an error in the text itself has a line.
        Err(error) => match toml::from_str::<T>(text) {
            Err(in_text) if in_text.message() == error.message() => {
                bail!(described(name, text, &in_text))
            }
            _ => bail!(described(name, text, &error)),
        },
    }
}

/// An error with the line it stands on, and the nearest key to an unknown one.
pub(crate) fn described(name: &str, text: &str, error: &toml::de::Error) -> String {
    let place = match error.span() {
        Some(span) => format!("{name}:{}", line_at(text, span.start)),
        None => name.to_owned(),
    };
    let message = error.message().trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match quoted.next() {
        Some(key) if is_unknown => {
            let what = if message.starts_with("unknown field") {
                "key"
            } else {
                "value"
            };
            format!("{place}: {}", unknown(what, key, quoted.collect()))
        }
        _ => format!("{place}: {message}"),
    }
}

fn unknown(what: &str, key: &str, known: Vec<&str>) -> String {
    let all = known.join(", ");
    match nearest(key, known) {
        Some(near) => format!("unknown {what} `{key}`; did you mean `{near}`? (known: {all})"),
        None => format!("unknown {what} `{key}` (known: {all})"),
    }
}

/// The number of the line that byte `at` is on, from 1.
fn line_at(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// Sets one key; a value that is no TOML is a text.
pub(crate) fn apply(table: &mut Table, set: &str) -> Result<()> {
    let Some((path, value)) = set.split_once('=') else {
        bail!("--set {set}: expected section.key=value");
    };
    let value = match toml::from_str::<Table>(&format!("value = {value}")) {
        Ok(mut parsed) => parsed.remove("value"),
        Err(_) => None,
    };
    let text = || toml::Value::String(set[path.len() + 1..].to_owned());
    let value = value.unwrap_or_else(text);
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let Some(last) = keys.pop().filter(|last| !last.is_empty()) else {
        bail!("--set {set}: expected section.key=value");
    };
    let not_a_section = |key: &str| anyhow!("--set {set}: `{key}` is no section");
    let mut place = table;
    let mut keys = keys.into_iter().peekable();
    while let Some(key) = keys.next() {
        let entry = place
            .entry(key)
            .or_insert_with(|| toml::Value::Table(Table::new()));
        place = match entry {
            toml::Value::Table(inner) => inner,
            toml::Value::Array(items) => {
                let index = keys.next().unwrap_or_default();
                let item = index.parse::<usize>().ok().and_then(|i| items.get_mut(i));
                match item {
                    Some(toml::Value::Table(inner)) => inner,
                    _ => return Err(not_a_section(&format!("{key}.{index}"))),
                }
            }
            _ => return Err(not_a_section(key)),
        };
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// The method, where the recipe names none.
const PEFT_TYPE: &str = "LORA";

/// The task of a classifier, and the module that is its head.
const CLASSIFIER_TASK: &str = "SEQ_CLS";
const HEAD: &str = "classifier";

/// The configuration of the adapter section, as `adapter_config.json` has it.
///
/// `steps` are those of the run, where they are known: AdaLoRA's `total_step`.
pub(crate) fn peft_config(
    adapter: &BTreeMap<String, Value>,
    task_type: &str,
    name: &str,
    steps: Option<usize>,
) -> Result<PeftConfig> {
    let mut fields: Map<String, Value> = adapter.clone().into_iter().collect();
    fields
        .entry("peft_type")
        .or_insert_with(|| PEFT_TYPE.into());
    fields
        .entry("task_type")
        .or_insert_with(|| task_type.into());
    if task_type == CLASSIFIER_TASK {
        // A new head is worth nothing until it is trained, and is stored with the adapter.
        fields
            .entry("modules_to_save")
            .or_insert_with(|| vec![HEAD].into());
    }
    let mut config = PeftConfig::from_json(Value::Object(fields), Path::new(name))?;
    if let PeftConfig::AdaLora(config) = &mut config {
        plan_steps(config, steps)?;
    }
    config.validate()?;
    Ok(config)
}

/// Gives a schedule of ranks the steps of the run, or while these are unknown the fewest that it
/// can have.
fn plan_steps(config: &mut AdaLoraConfig, steps: Option<usize>) -> Result<()> {
    match (config.total_step, steps) {
        (Some(given), Some(steps)) if given != steps => bail!(
            "total_step is {given}, and the run takes {steps} steps; without total_step it is \
             those of the run"
        ),
        (None, None) => {
            let around = config.tinit.saturating_add(config.tfinal);
            config.total_step = Some(around.saturating_add(1));
        }
        (None, Some(steps)) => config.total_step = Some(steps),
        _ => {}
    }
    Ok(())
}

/// Checks the keys of the adapter section against those that the method writes.
///
/// PEFT's files keep unknown keys, which in a recipe are typing errors.
fn check_adapter(
    name: &str,
    text: &str,
    adapter: &BTreeMap<String, Value>,
    recipe: &Recipe,
) -> Result<()> {
    let place = |key: &str| match adapter_line(text, key) {
        Some(line) => format!("{name}:{line}"),
        None => name.to_owned(),
    };
    let peft_type = adapter.get("peft_type").and_then(Value::as_str);
    let peft_type = peft_type.unwrap_or(PEFT_TYPE);
    let bare = Value::Object(Map::from_iter([("peft_type".to_owned(), peft_type.into())]));
    let known = PeftConfig::from_json(bare, Path::new(name))
        .map_err(|error| anyhow!("{}: {error}", place("peft_type")))?
        .to_json();
    let known: Vec<&str> = match known.as_object() {
        Some(fields) => fields.keys().map(String::as_str).collect(),
        None => Vec::new(),
    };
    for key in adapter.keys() {
        if !known.contains(&key.as_str()) {
            bail!("{}: {}", place(key), unknown("key", key, known));
        }
    }
    let config = peft_config(adapter, recipe.task_type(), name, recipe.schedule.max_steps)
        .map_err(|error| anyhow!("{}: {error:#}", place("")))?;
    if let (PeftConfig::Lora(lora), Some(_)) = (&config, &recipe.classifier)
        && lora.init_lora_weights == InitLoraWeights::Eva
    {
        let place = place("init_lora_weights");
        bail!("{place}: init_lora_weights = \"eva\" is of language models, not of classifiers");
    }
    if recipe.quant.is_some_and(|quant| quant.reconstruct) {
        let begins = matches!(&config, PeftConfig::Lora(lora)
            if lora.init_lora_weights == InitLoraWeights::Kaiming && !lora.use_dora);
        if !begins || recipe.classifier.is_some() {
            bail!(
                "{name}: quant.reconstruct sets the factors of LoRA on a language model, with \
                 init_lora_weights = true and without DoRA"
            );
        }
    }
    Ok(())
}

/// The line of `key` in the section `[adapter]`; of the section itself without a key.
fn adapter_line(text: &str, key: &str) -> Option<usize> {
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.starts_with("[adapter]");
            if inside && key.is_empty() {
                return Some(number);
            }
        } else if inside && line.split('=').next().map(str::trim) == Some(key) {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
[model]
path = \"m\"

[adapter]
r = 4
target_modules = \"all-linear\"

[data]
sources = [{ paths = [\"a.jsonl\"] }]

[run]
output = \"out\"
";

    fn refused(text: &str, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        read("r.toml", text, &sets).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_comes_with_its_line_and_the_nearest_one() {
        for (from, to, expected) in [
            (
                "path =",
                "pth =",
                "r.toml:3: unknown key `pth`; did you mean `path`?",
            ),
            (
                "[run]",
                "[runn]",
                "r.toml:12: unknown key `runn`; did you mean `run`?",
            ),
            (
                "r = 4",
                "lora_alfa = 4",
                "r.toml:6: unknown key `lora_alfa`; did you mean `lora_alpha`?",
            ),
            (
                "paths =",
                "path =",
                "unknown key `path`; did you mean `paths`?",
            ),
            (
                "output =",
                "zzz = 1\noutput =",
                "r.toml:13: unknown key `zzz` (known: output",
            ),
        ] {
            let error = refused(&TEXT.replace(from, to), &[]);
            assert!(
                error.starts_with(expected) || error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn wrong_values_come_with_their_line() {
        for (from, to, expected) in [
            ("path = \"m\"", "path = 3", "r.toml:3: invalid type"),
            ("r = 4", "r = \"four\"", "r.toml"),
            ("r = 4", "r = 0", "r.toml:5: r must be"),
            ("output = \"out\"", "", "missing field `output`"),
            ("[run]", "[run", "r.toml:12: "),
            (
                "[data]",
                "[data]\ntrain_on = \"asistant\"",
                "unknown value `asistant`; did you mean `assistant`?",
            ),
        ] {
            let error = refused(&TEXT.replace(from, to), &[]);
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn overrides_set_keys_of_any_type() {
        let sets = [
            "model.path=other",
            "optim.learning_rate=0.01",
            "schedule.max_steps=7",
            "adapter.target_modules=[\"q_proj\"]",
            "data.sources.0.take=5",
        ];
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let recipe = read("r.toml", TEXT, &sets).unwrap();
        assert_eq!(recipe.model.path, "other");
        assert_eq!(recipe.train_config(3).unwrap().max_steps, 7);
        assert_eq!(recipe.data.sources[0].take, Some(5));
        assert_eq!(recipe.adapter.unwrap()["target_modules"][0], "q_proj");
    }

    #[test]
    fn wrong_overrides_are_refused() {
        for (set, expected) in [
            ("optim.learning_rat=1", "did you mean `learning_rate`?"),
            ("optim", "expected section.key=value"),
            ("model.path.x=1", "`path` is no section"),
            ("data.sources.9.take=1", "`sources.9` is no section"),
            (
                "optim.learning_rate=-1",
                "learning_rate must be finite and not negative",
            ),
            ("schedule.epochs=0", "schedule.epochs must be above 0"),
            ("run.result=best", "need data.validation"),
        ] {
            let error = refused(TEXT, &[set]);
            assert!(error.contains(expected), "{set}: {error}");
        }
    }

    #[test]
    fn a_schedule_of_ranks_is_that_of_the_run() {
        let text = TEXT.replace("r = 4", "peft_type = \"ADALORA\"\ntinit = 3\ntfinal = 2");
        let read = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
            read("r.toml", &text, &sets)
        };
        let section = read(&[]).unwrap().adapter.unwrap();
        let config = |steps| peft_config(&section, "CAUSAL_LM", "r.toml", steps);
        let PeftConfig::AdaLora(planned) = config(Some(40)).unwrap() else {
            panic!("AdaLoRA")
        };
        assert_eq!(planned.total_step, Some(40));
        for (sets, expected) in [
            (
                &["adapter.total_step=9", "schedule.max_steps=10"][..],
                "r.toml:5: total_step is 9, and the run takes 10 steps",
            ),
            (
                &["schedule.max_steps=5"],
                "r.toml:5: total_step must exceed tinit + tfinal, got 5, 3 and 2",
            ),
        ] {
            let error = read(sets).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = config(Some(4)).unwrap_err().to_string();
        assert!(error.contains("total_step must exceed"), "{error}");
    }

    #[test]
    fn quantized_weights_are_not_trained_themselves() {
        let full = TEXT.replace("[adapter]\nr = 4\ntarget_modules = \"all-linear\"", "");
        assert!(read("r.toml", &full, &[]).is_ok());
        let rounding = "optim.stochastic_rounding=true";
        let error = refused(&full, &[rounding]);
        assert!(error.contains("needs model.dtype = \"bf16\""), "{error}");
        let error = refused(TEXT, &[rounding, "model.dtype=bf16"]);
        assert!(error.contains("is of full fine-tuning"), "{error}");
        let error = refused(&full, &["quant.kind=nf4"]);
        assert!(error.contains("[quant] needs an [adapter]"), "{error}");
    }
}

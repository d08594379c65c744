//! Which modules a configuration names.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::slots::SlotRole;

/// The word for every linear layer but the head.
const ALL_LINEAR: &str = "all-linear";

/// Names of near misses that an error lists.
const NEAR: usize = 5;

/// The modules that an adapter goes on.
///
/// # Source
/// - reference: peft `tuners/tuners_utils.py::check_target_module_exists`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Whole names, or their ends after a dot.
    List(Vec<String>),
    /// A regular expression that matches whole names.
    Regex(String),
    /// Every linear layer but the head.
    AllLinear,
}

impl TargetModules {
    /// Whole names, or their ends after a dot.
    pub fn list<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::List(names.into_iter().map(Into::into).collect())
    }
}

impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(names) => names.serialize(serializer),
            Self::Regex(pattern) => pattern.serialize(serializer),
            Self::AllLinear => ALL_LINEAR.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match OneOrMany::<String>::deserialize(deserializer)? {
            OneOrMany::One(text) if text.eq_ignore_ascii_case(ALL_LINEAR) => Self::AllLinear,
            OneOrMany::One(text) => Self::Regex(text),
            OneOrMany::Many(names) => Self::List(names),
        })
    }
}

/// One value, or a list of them, as PEFT's configurations allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// The part of a configuration that chooses modules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Targeting<'a> {
    pub(crate) target_modules: Option<&'a TargetModules>,
    pub(crate) exclude_modules: Option<&'a TargetModules>,
    pub(crate) layers_to_transform: Option<&'a OneOrMany<usize>>,
    pub(crate) layers_pattern: Option<&'a OneOrMany<String>>,
    pub(crate) modules_to_save: &'a [String],
    /// Names of heads that PEFT lists without looking whether they are there.
    pub(crate) optional_heads: &'static [&'static str],
}

impl Targeting<'_> {
    /// For methods that have places of their own.
    pub(crate) const NOTHING: Self = Self {
        target_modules: None,
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: None,
        modules_to_save: &[],
        optional_heads: &[],
    };
}

/// A module that may be chosen.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) path: String,
    pub(crate) role: SlotRole,
    /// `[d_out, d_in]` of a linear layer.
    pub(crate) linear: Option<[usize; 2]>,
    pub(crate) is_embedding: bool,
}

/// What a module is to an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing.
    Untouched,
    /// The method goes on it.
    Adapted,
    /// A full copy of it is trained.
    Saved,
}

/// Decides for every module, in order.
///
/// # Errors
/// [`Error::NoMatch`] for every name or pattern that matches nothing, [`Error::InvalidPattern`],
/// [`Error::InvalidConfig`] for options that exclude each other.
pub(crate) fn choose(targeting: &Targeting<'_>, modules: &[Candidate]) -> Result<Vec<Choice>> {
    let matcher = Matcher::new(targeting)?;
    matcher.check(targeting, modules)?;
    modules
        .iter()
        .map(|module| matcher.choice(module))
        .collect()
}

/// Whether `path` is `name`, or ends with it after a dot.
pub(crate) fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

enum Names<'a> {
    List(&'a [String]),
    Whole(Regex),
    AllLinear,
    Nothing,
}

impl<'a> Names<'a> {
    fn new(field: &'static str, target: Option<&'a TargetModules>) -> Result<Self> {
        Ok(match target {
            None => Self::Nothing,
            Some(TargetModules::List(names)) => Self::List(names),
            Some(TargetModules::AllLinear) => Self::AllLinear,
            Some(TargetModules::Regex(pattern)) => {
                Self::Whole(compile(field, pattern, &format!("^(?:{pattern})$"))?)
            }
        })
    }

    fn matches(&self, module: &Candidate) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| is_end(&module.path, name)),
            Self::Whole(pattern) => pattern.is_match(&module.path),
            Self::AllLinear => module.linear.is_some() && module.role == SlotRole::Inner,
            Self::Nothing => false,
        }
    }
}

pub(crate) fn compile(field: &'static str, pattern: &str, whole: &str) -> Result<Regex> {
    Regex::new(whole).map_err(|source| Error::InvalidPattern {
        field,
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

struct Matcher<'a> {
    targets: Names<'a>,
    excluded: Names<'a>,
    saved: &'a [String],
    layers: Option<(&'a [usize], Vec<Regex>)>,
}

impl<'a> Matcher<'a> {
    fn new(targeting: &Targeting<'a>) -> Result<Self> {
        let targets = Names::new("target_modules", targeting.target_modules)?;
        let layers = targeting
            .layers_to_transform
            .map(OneOrMany::as_slice)
            .filter(|layers| !layers.is_empty());
        let patterns = targeting
            .layers_pattern
            .map(OneOrMany::as_slice)
            .filter(|patterns| !patterns.is_empty());
        let exclusive = |field| Error::InvalidConfig {
            field,
            reason: "cannot be combined with a target_modules that is one string".to_owned(),
        };
        if matches!(targets, Names::Whole(_)) {
            if targeting.layers_to_transform.is_some() {
                return Err(exclusive("layers_to_transform"));
            }
            if targeting.layers_pattern.is_some() {
                return Err(exclusive("layers_pattern"));
            }
        }
        if patterns.is_some() && targeting.layers_to_transform.is_none() {
            return Err(Error::InvalidConfig {
                field: "layers_pattern",
                reason: "needs layers_to_transform".to_owned(),
            });
        }
        let regexes = |patterns: &[String]| {
            patterns
                .iter()
                .map(|p| {
                    compile(
                        "layers_pattern",
                        p,
                        &format!(r"^(?:.*?\.)??(?:{p})\.(\d+)\."),
                    )
                })
                .collect::<Result<Vec<_>>>()
        };
        let layers = match (layers, patterns) {
            (None, _) => None,
            // The first number in the name is the layer's, a later one an expert's.
            (Some(layers), None) => {
                let any = compile("layers_pattern", "", r"^.*?\.[^.]*\.(\d+)\.")?;
                Some((layers, vec![any]))
            }
            (Some(layers), Some(patterns)) => Some((layers, regexes(patterns)?)),
        };
        Ok(Self {
            targets,
            excluded: Names::new("exclude_modules", targeting.exclude_modules)?,
            saved: targeting.modules_to_save,
            layers,
        })
    }

    fn is_saved(&self, module: &Candidate) -> bool {
        self.saved.iter().any(|name| is_end(&module.path, name))
    }

    fn layer(&self, path: &str) -> Option<usize> {
        let (_, patterns) = self.layers.as_ref()?;
        let captured = patterns.iter().find_map(|pattern| pattern.captures(path))?;
        captured.get(1)?.as_str().parse().ok()
    }

    fn in_layers(&self, path: &str) -> bool {
        match (&self.layers, &self.targets) {
            (None, _) => true,
            // A module named in full is meant, whatever its layer.
            (Some(_), Names::List(names)) if names.iter().any(|name| name == path) => true,
            (Some((layers, _)), _) => self
                .layer(path)
                .is_some_and(|layer| layers.contains(&layer)),
        }
    }

    fn choice(&self, module: &Candidate) -> Result<Choice> {
        Ok(if self.is_saved(module) {
            Choice::Saved
        } else if !self.excluded.matches(module)
            && self.targets.matches(module)
            && self.in_layers(&module.path)
        {
            Choice::Adapted
        } else {
            Choice::Untouched
        })
    }

    /// Checks that every name and pattern matches something.
    fn check(&self, targeting: &Targeting<'_>, modules: &[Candidate]) -> Result<()> {
        let paths: Vec<&str> = modules.iter().map(|module| module.path.as_str()).collect();
        let none = |field, pattern: &str| no_match(field, pattern, &paths);
        let unmatched = |name: &&String| !paths.iter().any(|path| is_end(path, name));
        for (field, names, given) in [
            ("target_modules", &self.targets, targeting.target_modules),
            ("exclude_modules", &self.excluded, targeting.exclude_modules),
        ] {
            match (names, given) {
                (Names::List(names), _) => {
                    if let Some(name) = names.iter().find(unmatched) {
                        return Err(none(field, name));
                    }
                }
                (Names::Whole(_), Some(TargetModules::Regex(pattern)))
                    if !modules.iter().any(|module| names.matches(module)) =>
                {
                    return Err(none(field, pattern));
                }
                _ => {}
            }
        }
        let optional = |name: &&String| !targeting.optional_heads.contains(&name.as_str());
        if let Some(name) = self.saved.iter().filter(optional).find(unmatched) {
            return Err(none("modules_to_save", name));
        }
        if let Some((layers, _)) = &self.layers {
            let present: BTreeSet<usize> =
                paths.iter().filter_map(|path| self.layer(path)).collect();
            if let Some(layer) = layers.iter().find(|layer| !present.contains(layer)) {
                return Err(Error::NoMatch {
                    field: "layers_to_transform",
                    pattern: layer.to_string(),
                    near: present.iter().map(ToString::to_string).collect(),
                });
            }
        }
        Ok(())
    }
}

/// The value that a pattern gives a module: the first key, in order, that matches the whole name
/// or its end after a dot.
///
/// # Source
/// - reference: peft `utils/other.py::get_pattern_key`
pub(crate) struct Patterns<V> {
    entries: Vec<(Regex, V)>,
}

impl<V: Copy> Patterns<V> {
    pub(crate) fn new(field: &'static str, map: &BTreeMap<String, V>) -> Result<Self> {
        let entries = map
            .iter()
            .map(|(key, &value)| {
                let regex = compile(field, key, &format!(r"^(?:.*\.)?(?:{key})$"))?;
                Ok((regex, value))
            })
            .collect::<Result<_>>()?;
        Ok(Self { entries })
    }

    pub(crate) fn get(&self, path: &str) -> Option<V> {
        let entry = self.entries.iter().find(|(regex, _)| regex.is_match(path));
        entry.map(|&(_, value)| value)
    }

    /// Checks that every key matches one of these modules.
    pub(crate) fn check(
        &self,
        field: &'static str,
        map: &BTreeMap<String, V>,
        paths: &[&str],
    ) -> Result<()> {
        for ((regex, _), key) in self.entries.iter().zip(map.keys()) {
            if !paths.iter().any(|path| regex.is_match(path)) {
                return Err(no_match(field, key, paths));
            }
        }
        Ok(())
    }
}

/// The rank of each module and the numerator of its scaling.
pub(crate) struct Ranks {
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
    default: (usize, f64),
}

impl Ranks {
    /// `rank_pattern` and `alpha_pattern` over their defaults, for these modules.
    ///
    /// # Errors
    /// [`Error::InvalidPattern`]; [`Error::NoMatch`] for a pattern that matches none of them.
    pub(crate) fn new(
        (r, rank_pattern): (usize, &BTreeMap<String, usize>),
        (alpha, alpha_pattern): (f64, &BTreeMap<String, f64>),
        paths: &[&str],
    ) -> Result<Self> {
        let ranks = Patterns::new("rank_pattern", rank_pattern)?;
        let alphas = Patterns::new("alpha_pattern", alpha_pattern)?;
        ranks.check("rank_pattern", rank_pattern, paths)?;
        alphas.check("alpha_pattern", alpha_pattern, paths)?;
        Ok(Self {
            ranks,
            alphas,
            default: (r, alpha),
        })
    }

    pub(crate) fn get(&self, path: &str) -> (usize, f64) {
        let (r, alpha) = self.default;
        (
            self.ranks.get(path).unwrap_or(r),
            self.alphas.get(path).unwrap_or(alpha),
        )
    }
}

/// The error for a name that matches nothing, with the most similar names there are.
pub(crate) fn no_match(field: &'static str, pattern: &str, paths: &[&str]) -> Error {
    let wanted = pattern.rsplit('.').next().unwrap_or(pattern);
    let ends: BTreeSet<&str> = paths
        .iter()
        .filter_map(|path| path.rsplit('.').next())
        .collect();
    let mut near: Vec<(usize, &str)> = ends
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .collect();
    near.sort_unstable();
    Error::NoMatch {
        field,
        pattern: pattern.to_owned(),
        near: near
            .into_iter()
            .take(NEAR)
            .map(|(_, name)| name.to_owned())
            .collect(),
    }
}

/// The number of characters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;

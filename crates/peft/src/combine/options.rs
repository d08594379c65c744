//! How adapters are combined.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The ways to combine adapters, under PEFT's names.
///
/// Those without `svd` work on the factors `A` and `B` apart, which needs equal ranks and only
/// approximates the combined update; `cat` keeps all factors side by side and is exact; those with
/// `svd` work on the updates `B·A` and keep the best factors of the wanted rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CombinationType {
    /// Weighted sum of the factors.
    Linear,
    /// All factors side by side.
    Cat,
    /// Weighted sum of the updates.
    Svd,
    /// Trim, elect signs, average what agrees (Yadav et al. 2023, arXiv:2306.01708, §4).
    Ties,
    /// The same on the updates.
    TiesSvd,
    /// Drop at random and rescale (Yu et al. 2023, DARE, arXiv:2311.03099, §3), then sum.
    DareLinear,
    /// The same on the updates.
    DareLinearSvd,
    /// Drop at random and rescale, elect signs, average what agrees.
    DareTies,
    /// The same on the updates.
    DareTiesSvd,
    /// Keep the largest numbers, then sum.
    MagnitudePrune,
    /// The same on the updates.
    MagnitudePruneSvd,
}

impl CombinationType {
    const ALL: &[(&str, Self)] = &[
        ("linear", Self::Linear),
        ("cat", Self::Cat),
        ("svd", Self::Svd),
        ("ties", Self::Ties),
        ("ties_svd", Self::TiesSvd),
        ("dare_linear", Self::DareLinear),
        ("dare_linear_svd", Self::DareLinearSvd),
        ("dare_ties", Self::DareTies),
        ("dare_ties_svd", Self::DareTiesSvd),
        ("magnitude_prune", Self::MagnitudePrune),
        ("magnitude_prune_svd", Self::MagnitudePruneSvd),
    ];

    /// PEFT's name.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(_, kind)| *kind == self);
        entry.map_or("", |(name, _)| name)
    }

    /// Whether it works on the updates instead of the factors.
    pub(super) fn is_svd(self) -> bool {
        self.name().ends_with("svd")
    }

    /// Whether a density must be given.
    pub(super) fn is_sparse(self) -> bool {
        !matches!(self, Self::Linear | Self::Cat | Self::Svd)
    }
}

impl fmt::Display for CombinationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CombinationType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let entry = Self::ALL.iter().find(|(name, _)| *name == text);
        entry.map(|&(_, kind)| kind).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            Error::InvalidConfig {
                field: "combination_type",
                reason: format!("must be one of {}, got `{text}`", known.join(", ")),
            }
        })
    }
}

/// How the sign of a number is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MajoritySign {
    /// By the sum of the numbers.
    #[default]
    Total,
    /// By the number of signs.
    Frequency,
}

/// How adapters are combined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CombineOptions {
    /// The way.
    pub combination_type: CombinationType,
    /// The rank of the result, for the ways with `svd`; the largest of the adapters when absent.
    pub svd_rank: Option<usize>,
    /// The share of numbers that is kept, for the ways that drop some.
    pub density: Option<f64>,
    /// How signs are elected, for the ways with `ties`.
    pub majority_sign_method: MajoritySign,
    /// Chooses what `dare` drops.
    pub seed: u64,
}

impl CombineOptions {
    /// The defaults of a way.
    pub fn new(combination_type: CombinationType) -> Self {
        Self {
            combination_type,
            svd_rank: None,
            density: None,
            majority_sign_method: MajoritySign::Total,
            seed: 0,
        }
    }

    /// The density, checked.
    pub(super) fn density(&self) -> Result<f64> {
        if !self.combination_type.is_sparse() {
            return Ok(1.0);
        }
        let invalid = |got: String| Error::InvalidConfig {
            field: "density",
            reason: format!("must be in (0, 1] for {}, got {got}", self.combination_type),
        };
        match self.density {
            None => Err(invalid("none".to_owned())),
            Some(density) if density > 0.0 && density <= 1.0 => Ok(density),
            Some(density) => Err(invalid(density.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for &(name, kind) in CombinationType::ALL {
            assert_eq!(name.parse::<CombinationType>().unwrap(), kind);
            assert_eq!(kind.to_string(), name);
        }
        assert!("sum".parse::<CombinationType>().is_err());
    }

    #[test]
    fn a_density_is_needed_where_numbers_are_dropped() {
        let mut options = CombineOptions::new(CombinationType::Ties);
        for bad in [None, Some(0.0), Some(1.5), Some(f64::NAN)] {
            options.density = bad;
            assert!(matches!(
                options.density(),
                Err(Error::InvalidConfig { .. })
            ));
        }
        options.density = Some(0.5);
        assert_eq!(options.density().unwrap(), 0.5);
        assert_eq!(
            CombineOptions::new(CombinationType::Cat).density().unwrap(),
            1.0
        );
    }
}

//! Who may depend on whom, as data, against what `cargo metadata` says.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use xshell::{Shell, cmd};

use super::Finding;

/// One crate and the crates of this workspace that it may use.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
}

/// The layers from the bottom up, without the prefix `flametune-`.
const LAYERS: &[Layer] = &[
    Layer {
        name: "kernels",
        may_use: &[],
    },
    Layer {
        name: "testkit",
        may_use: &[],
    },
    Layer {
        name: "quant",
        may_use: &["kernels"],
    },
    Layer {
        name: "peft",
        may_use: &["kernels", "quant"],
    },
    Layer {
        name: "data",
        may_use: &[],
    },
    Layer {
        name: "lm",
        may_use: &["kernels", "quant", "peft"],
    },
    Layer {
        name: "train",
        may_use: &["kernels", "quant", "peft", "lm", "data"],
    },
    Layer {
        name: "infer",
        may_use: &["kernels", "quant", "peft", "lm"],
    },
    Layer {
        name: "align",
        may_use: &["kernels", "peft", "lm", "data", "train", "infer"],
    },
    Layer {
        name: "eval",
        may_use: &["lm", "data", "infer"],
    },
    Layer {
        name: "serve",
        may_use: &["data", "infer"],
    },
    Layer {
        name: "cli",
        may_use: EVERYTHING,
    },
    Layer {
        name: "benches",
        may_use: EVERYTHING,
    },
    // It checks and builds the others, so it must build when they do not.
    Layer {
        name: "xtask",
        may_use: &[],
    },
];

const EVERYTHING: &[&str] = &[
    "kernels", "quant", "peft", "data", "lm", "train", "infer", "align", "eval", "serve",
];

/// The crate that every other may use, in its tests only.
const TEST_SUPPORT: &str = "testkit";

/// Outside crates that only some of ours may name.
struct Reserved {
    /// Beginning of the package's name.
    prefix: &'static str,
    only_in: &'static [&'static str],
    reason: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        prefix: "cubecl",
        only_in: &["kernels"],
        reason: GPU,
    },
    Reserved {
        prefix: "cubek",
        only_in: &["kernels"],
        reason: GPU,
    },
    Reserved {
        prefix: "burn-cubecl",
        only_in: &["kernels"],
        reason: GPU,
    },
    Reserved {
        prefix: "anyhow",
        only_in: &["xtask", "cli", "testkit", "benches"],
        reason: "libraries have typed errors",
    },
    Reserved {
        prefix: "ureq",
        only_in: &["xtask", "cli"],
        reason: DOWNLOADS,
    },
    Reserved {
        prefix: "hf-hub",
        only_in: &["xtask", "cli"],
        reason: DOWNLOADS,
    },
];

const GPU: &str = "GPU code lives in one crate";
const DOWNLOADS: &str = "only an explicit fetch command downloads";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
    /// The folder of a dependency that is one of ours.
    path: Option<String>,
}

/// Compares the workspace's dependencies with the tables above.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let text = cmd!(
        shell,
        "cargo metadata --no-deps --offline --format-version 1"
    )
    .quiet()
    .read()?;
    let metadata = serde_json::from_str(&text).context("reading the output of cargo metadata")?;
    Ok(findings(&metadata))
}

fn findings(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = short(&package.name);
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            findings.push(Finding::new(
                &package.name,
                "has no row in the table of layers",
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let complaint = if dependency.path.is_some() {
                inside(layer, dependency)
            } else {
                outside(layer, dependency)
            };
            findings.extend(complaint.map(|text| Finding::new(&package.name, text)));
        }
    }
    findings
}

fn inside(layer: &Layer, dependency: &Dependency) -> Option<String> {
    let used = short(&dependency.name);
    let in_tests_only = dependency.kind.as_deref() == Some("dev");
    if used == TEST_SUPPORT {
        return (!in_tests_only).then(|| format!("may use {used} as a dev-dependency only"));
    }
    if layer.may_use.contains(&used) {
        return None;
    }
    let allowed = match layer.may_use {
        [] => "none of our crates".to_owned(),
        names => names.join(", "),
    };
    Some(format!("must not depend on {used}; it may use {allowed}"))
}

fn outside(layer: &Layer, dependency: &Dependency) -> Option<String> {
    let reserved = RESERVED
        .iter()
        .find(|row| dependency.name.starts_with(row.prefix))?;
    (!reserved.only_in.contains(&layer.name)).then(|| {
        format!(
            "must not depend on {}, which only {} may: {}",
            dependency.name,
            reserved.only_in.join(", "),
            reserved.reason
        )
    })
}

fn short(package: &str) -> &str {
    package.strip_prefix("flametune-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings for one package with one dependency, `ours` being a crate of the workspace.
    fn said(package: &str, dependency: &str, kind: Option<&str>, ours: bool) -> Vec<String> {
        let metadata = serde_json::json!({"packages": [{
            "name": package,
            "dependencies": [{
                "name": dependency,
                "kind": kind,
                "path": ours.then_some("/somewhere"),
            }],
        }]});
        let metadata = serde_json::from_value(metadata).unwrap();
        findings(&metadata)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_lower_layer_is_allowed_and_a_higher_one_is_not() {
        assert!(said("flametune-lm", "flametune-peft", None, true).is_empty());
        assert_eq!(
            said("flametune-quant", "flametune-lm", None, true),
            ["flametune-quant: must not depend on lm; it may use kernels"]
        );
        assert_eq!(
            said("flametune-serve", "flametune-eval", Some("dev"), true),
            ["flametune-serve: must not depend on eval; it may use data, infer"]
        );
    }

    #[test]
    fn test_support_is_for_tests_only() {
        assert!(said("flametune-lm", "flametune-testkit", Some("dev"), true).is_empty());
        assert_eq!(
            said("flametune-lm", "flametune-testkit", None, true),
            ["flametune-lm: may use testkit as a dev-dependency only"]
        );
    }

    #[test]
    fn reserved_crates_stay_where_they_belong() {
        assert!(said("flametune-kernels", "cubecl", None, false).is_empty());
        assert!(said("flametune-cli", "anyhow", None, false).is_empty());
        assert_eq!(
            said("flametune-quant", "cubecl-core", None, false),
            [
                "flametune-quant: must not depend on cubecl-core, which only kernels may: \
              GPU code lives in one crate"
            ]
        );
        assert_eq!(said("flametune-lm", "anyhow", Some("dev"), false).len(), 1);
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(
            said("flametune-utils", "serde", None, false),
            ["flametune-utils: has no row in the table of layers"]
        );
    }

    #[test]
    fn the_table_has_no_cycle_and_names_only_its_own_rows() {
        for (position, layer) in LAYERS.iter().enumerate() {
            for used in layer.may_use {
                let below = LAYERS.iter().position(|row| row.name == *used).unwrap();
                assert!(
                    below < position,
                    "{} uses {used}, which is not below it",
                    layer.name
                );
            }
        }
    }
}

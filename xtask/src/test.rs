//! `cargo xtask test`: the test suites, through `cargo nextest` where it is installed.

use anyhow::Result;
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::check::FEATURES;
use crate::console;
use crate::workspace::{self, Package};

/// Which tests to run; without arguments all of them.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only this crate, by folder (`lm`) or full name; may be repeated
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
    /// Only this kind of test
    #[arg(long, conflicts_with = "filters")]
    tier: Option<Tier>,
    /// Only tests whose full name contains this text
    #[arg(value_name = "NAME")]
    filters: Vec<String>,
}

/// Kinds of tests, told apart by where they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Tests beside the code they test: numbers worked out by hand
    Unit,
    /// Modules named `golden`: numbers of the reference implementations, from fixtures/
    Golden,
}

impl Tier {
    fn arguments(self, has_library: bool) -> &'static [&'static str] {
        match self {
            Self::Unit if has_library => &["--lib", "--bins"],
            Self::Unit => &["--bins"],
            Self::Golden => &["golden::"],
        }
    }
}

/// Runs the tests; the last line printed is the test runner's summary.
pub(crate) fn run(args: &Args) -> Result<()> {
    let shell = workspace::shell()?;
    let root = workspace::root();
    let packages = args
        .packages
        .iter()
        .map(|named| workspace::package(&root, named))
        .collect::<Result<Vec<_>>>()?;
    let nextest = has_nextest(&shell);
    if !nextest {
        console::note("cargo-nextest is not installed: using `cargo test`");
    }

    // Every part runs, so that one failure does not hide another.
    let mut failed = Vec::new();
    for step in plan(args, &packages, nextest) {
        console::heading(step.title);
        let arguments = &step.arguments;
        if cmd!(shell, "cargo {arguments...}").run().is_err() {
            failed.push(step.title);
        }
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn has_nextest(shell: &Shell) -> bool {
    cmd!(shell, "cargo nextest --version")
        .quiet()
        .ignore_stderr()
        .read()
        .is_ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    title: &'static str,
    arguments: Vec<String>,
}

/// The cargo commands to run, documentation tests first: they have the shorter report.
fn plan(args: &Args, packages: &[Package], nextest: bool) -> Vec<Step> {
    let everything = args.tier.is_none() && args.filters.is_empty();
    let libraries = packages
        .iter()
        .filter(|package| package.has_library)
        .collect::<Vec<_>>();
    let has_library = packages.is_empty() || !libraries.is_empty();
    let mut steps = Vec::new();

    if everything && has_library {
        let mut arguments = to_strings(&["test", "--doc", "--no-fail-fast"]);
        arguments.extend(selection(&libraries));
        steps.push(Step {
            title: "documentation tests",
            arguments,
        });
    }

    let runner: &[&str] = if nextest {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    let mut arguments = to_strings(runner);
    arguments.push("--no-fail-fast".to_owned());
    arguments.extend(selection(&packages.iter().collect::<Vec<_>>()));
    match args.tier {
        Some(tier) => arguments.extend(to_strings(tier.arguments(has_library))),
        None if !nextest && everything => arguments.push("--tests".to_owned()),
        None => {}
    }
    if !args.filters.is_empty() {
        // `cargo test` itself takes one filter; the test binaries take any number.
        arguments.push("--".to_owned());
        arguments.extend(args.filters.iter().cloned());
    }
    steps.push(Step {
        title: "tests",
        arguments,
    });
    steps
}

/// `--workspace` or a `-p` for each package, with the features that go with them.
fn selection(packages: &[&Package]) -> Vec<String> {
    let mut arguments = Vec::new();
    for package in packages {
        arguments.extend(["-p".to_owned(), package.name.clone()]);
    }
    if packages.is_empty() {
        arguments.push("--workspace".to_owned());
    }
    if packages.is_empty() || packages.iter().any(|package| package.name == "xtask") {
        arguments.extend(to_strings(&["--features", FEATURES]));
    }
    arguments
}

fn to_strings(arguments: &[&str]) -> Vec<String> {
    arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(args: &Args, packages: &[Package], nextest: bool) -> Vec<String> {
        plan(args, packages, nextest)
            .iter()
            .map(|step| step.arguments.join(" "))
            .collect()
    }

    fn package(name: &str, has_library: bool) -> Package {
        Package {
            name: name.to_owned(),
            has_library,
        }
    }

    #[test]
    fn everything_is_documentation_tests_then_the_runner() {
        let args = Args::default();
        let doc = "test --doc --no-fail-fast --workspace --features xtask/hub,flametune-cli/wgpu,flametune-serve/otel";
        assert_eq!(
            commands(&args, &[], true),
            [
                doc,
                "nextest run --no-fail-fast --workspace --features xtask/hub,flametune-cli/wgpu,flametune-serve/otel"
            ]
        );
        assert_eq!(
            commands(&args, &[], false),
            [
                doc,
                "test --no-fail-fast --workspace --features xtask/hub,flametune-cli/wgpu,flametune-serve/otel --tests"
            ]
        );
    }

    #[test]
    fn a_package_without_a_library_has_no_documentation_tests() {
        let args = Args::default();
        assert_eq!(
            commands(&args, &[package("xtask", false)], true),
            [
                "nextest run --no-fail-fast -p xtask --features xtask/hub,flametune-cli/wgpu,flametune-serve/otel"
            ]
        );
        assert_eq!(
            commands(
                &args,
                &[package("xtask", false), package("flametune-lm", true)],
                true
            ),
            [
                "test --doc --no-fail-fast -p flametune-lm",
                "nextest run --no-fail-fast -p xtask -p flametune-lm --features xtask/hub,flametune-cli/wgpu,flametune-serve/otel"
            ]
        );
    }

    #[test]
    fn tiers_and_names_leave_the_documentation_tests_out() {
        let lm = [package("flametune-lm", true)];
        let tier = |tier| Args {
            tier: Some(tier),
            ..Args::default()
        };
        assert_eq!(
            commands(&tier(Tier::Unit), &lm, true),
            ["nextest run --no-fail-fast -p flametune-lm --lib --bins"]
        );
        assert_eq!(
            commands(&tier(Tier::Golden), &lm, false),
            ["test --no-fail-fast -p flametune-lm golden::"]
        );
        let named = Args {
            filters: vec!["rope".to_owned(), "yarn".to_owned()],
            ..Args::default()
        };
        assert_eq!(
            commands(&named, &lm, false),
            ["test --no-fail-fast -p flametune-lm -- rope yarn"]
        );
    }
}

//! A Python environment with exactly the pinned requirements, built once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{console, workspace};

const REQUIREMENTS: &str = "benches/peers/requirements.txt";

/// What is built from source, and left out where that fails.
const OPTIONAL: &str = "benches/peers/optional.txt";

/// Names an interpreter that already has the requirements.
const VARIABLE: &str = "FLAMETUNE_PEER_PYTHON";

/// The interpreter of an environment with the requirements, which is built if need be.
pub(crate) fn python(shell: &Shell) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let python = PathBuf::from(python);
        ensure!(
            python.is_file(),
            "{VARIABLE}: there is no {}",
            python.display()
        );
        console::note(&format!("{VARIABLE}: {}", python.display()));
        return Ok(python);
    }
    let [requirements, optional] =
        [REQUIREMENTS, OPTIONAL].map(|file| workspace::root().join(file));
    let folder = workspace::cache_dir()?.join("peers");
    let python = folder.join("bin").join("python");
    if is_ready(&folder, &requirements)? && python.is_file() {
        console::note(&format!("as it should be: {}", folder.display()));
        return Ok(python);
    }
    build(shell, &folder, &python, &requirements, &optional)
        .with_context(|| format!("building {}", folder.display()))?;
    Ok(python)
}

fn build(
    shell: &Shell,
    folder: &Path,
    python: &Path,
    requirements: &Path,
    optional: &Path,
) -> Result<()> {
    // What stays from a build that was cut short is of no use.
    shell.remove_path(folder)?;
    cmd!(shell, "python3 -m venv {folder}")
        .run()
        .context("on Debian or Ubuntu: apt-get install python3-venv")?;
    let install = |file: &Path| {
        cmd!(
            shell,
            "{python} -m pip install --disable-pip-version-check --requirement {file}"
        )
        .run()
    };
    install(requirements)?;
    if let Err(error) = install(optional) {
        console::warning(&format!(
            "{OPTIONAL}: {error}; its cases run without a peer (it needs a C++ compiler)"
        ));
    }
    fs::copy(requirements, stamp(folder))?;
    Ok(())
}

/// Whether the environment was built to the end from these requirements.
fn is_ready(folder: &Path, requirements: &Path) -> Result<bool> {
    let wanted = fs::read(requirements).context(REQUIREMENTS)?;
    Ok(fs::read(stamp(folder)).is_ok_and(|built_from| built_from == wanted))
}

/// A copy of the requirements, put there last.
fn stamp(folder: &Path) -> PathBuf {
    folder.join("requirements.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_ready_when_it_was_built_from_the_same_requirements() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, requirements) = (dir.path().join("peers"), dir.path().join("wanted.txt"));
        fs::create_dir(&folder).unwrap();
        fs::write(&requirements, "torch==1\n").unwrap();
        assert!(!is_ready(&folder, &requirements).unwrap());
        fs::write(stamp(&folder), "torch==0\n").unwrap();
        assert!(!is_ready(&folder, &requirements).unwrap());
        fs::write(stamp(&folder), "torch==1\n").unwrap();
        assert!(is_ready(&folder, &requirements).unwrap());
    }
}

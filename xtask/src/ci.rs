//! `cargo xtask ci`: what a fresh machine needs, then `check` and `test`.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{check, console, fetch, test, workspace};

/// Prepares the machine as far as it can, then runs all checks and tests.
pub(crate) fn run() -> Result<()> {
    let shell = workspace::shell()?;
    console::heading("toolchain");
    add_components(&shell)?;
    console::heading("Vulkan device in software");
    install_vulkan(&shell);
    console::heading("model");
    if let Err(error) = fetch::default_asset() {
        console::warning(&format!(
            "the default model could not be fetched: {error:#}\n\
             tests that want real weights have nothing to load; all others run"
        ));
    }
    check::run()?;
    test::run(&test::Args::default())
}

/// Adds rustfmt and clippy where the toolchain was installed without them.
fn add_components(shell: &Shell) -> Result<()> {
    cmd!(shell, "rustc --version").run()?;
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if cmd!(shell, "cargo {tool} --version")
            .ignore_stderr()
            .run()
            .is_err()
        {
            cmd!(shell, "rustup component add {component}")
                .run()
                .with_context(|| format!("`cargo {tool}` is missing and could not be added"))?;
        }
    }
    Ok(())
}

/// Where Vulkan drivers announce themselves on Linux.
const VULKAN_DRIVERS: &[&str] = &[
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/etc/vulkan/icd.d",
];

/// Installs lavapipe where no Vulkan driver is found and this process may do so.
///
/// Without a device the GPU tests have nothing to run on, which is said but is no failure.
fn install_vulkan(shell: &Shell) {
    if !cfg!(target_os = "linux") {
        console::note("not Linux: leaving the graphics drivers as they are");
        return;
    }
    if let Some(driver) = first_driver(VULKAN_DRIVERS.iter().map(Path::new)) {
        console::note(&format!("found {driver}"));
        return;
    }
    let is_root = cmd!(shell, "id -u")
        .quiet()
        .read()
        .is_ok_and(|id| id == "0");
    let has_apt = cmd!(shell, "apt-get --version")
        .quiet()
        .ignore_stdout()
        .run()
        .is_ok();
    if !(is_root && has_apt) {
        console::warning(
            "no Vulkan driver found: GPU tests have no device here\n\
             on Debian or Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1",
        );
        return;
    }
    let installed = cmd!(shell, "apt-get update --quiet").run().and_then(|()| {
        cmd!(
            shell,
            "apt-get install --yes --quiet --no-install-recommends mesa-vulkan-drivers libvulkan1"
        )
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()
    });
    if let Err(error) = installed {
        console::warning(&format!(
            "lavapipe could not be installed, GPU tests have no device here: {error}"
        ));
    }
}

fn first_driver<'a>(folders: impl Iterator<Item = &'a Path>) -> Option<String> {
    folders
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_a_json_file_in_any_of_the_folders() {
        let dir = tempfile::tempdir().unwrap();
        let (absent, present) = (dir.path().join("absent"), dir.path().join("icd.d"));
        std::fs::create_dir(&present).unwrap();
        std::fs::write(present.join("README"), "").unwrap();
        let folders = || [absent.as_path(), present.as_path()].into_iter();
        assert_eq!(first_driver(folders()), None);
        std::fs::write(present.join("lvp_icd.json"), "{}").unwrap();
        assert!(first_driver(folders()).unwrap().ends_with("lvp_icd.json"));
    }
}

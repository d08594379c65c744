//! Relative links of Markdown files lead to files of this repository.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use crate::workspace;

/// Follows the relative links of every Markdown file.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in workspace::files(root)?
        .iter()
        .filter(|path| path.ends_with(".md"))
    {
        let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
        for (line, target) in links(&text) {
            if let Some(problem) = broken(root, path, &target) {
                findings.push(Finding::new(format!("{path}:{line}"), problem));
            }
        }
    }
    Ok(findings)
}

/// What is wrong with a link, if anything is.
fn broken(root: &Path, from: &str, target: &str) -> Option<String> {
    let path = target.split('#').next().unwrap_or_default();
    let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
    if path.is_empty() || is_elsewhere {
        return None;
    }
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    match inside(folder, path) {
        None => Some(format!("link `{target}` leads out of the repository")),
        Some(path) if !root.join(&path).exists() => Some(format!("link `{target}` leads nowhere")),
        Some(_) => None,
    }
}

/// `folder` followed by `path`, with `..` resolved, while that stays inside.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut parts = Vec::new();
    for part in folder.join(path).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.into_iter().collect())
}

/// Line numbers and targets of the links `[text](target)` and `[name]: target` outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_fence = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
            continue;
        }
        if in_fence {
            continue;
        }
        let line = without_code(line);
        for (start, _) in line.match_indices("](") {
            links.extend(target(&line[start + 2..]).map(|target| (index + 1, target)));
        }
        if let Some((_, definition)) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        {
            links.extend(
                definition
                    .split_whitespace()
                    .next()
                    .map(|t| (index + 1, t.to_owned())),
            );
        }
    }
    links
}

/// The target at the start of `rest`, which begins just after `](`.
fn target(rest: &str) -> Option<String> {
    let mut depth = 1;
    let end = rest.char_indices().find_map(|(position, c)| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (depth == 0).then_some(position)
    })?;
    let target = rest[..end].split_whitespace().next()?;
    Some(
        target
            .trim_start_matches('<')
            .trim_end_matches('>')
            .to_owned(),
    )
}

/// The line without its `code spans`.
fn without_code(line: &str) -> String {
    let parts = line.split('`').collect::<Vec<_>>();
    // An odd number of backticks leaves the last one as text.
    let closed = parts.len() - usize::from(parts.len() % 2 == 0);
    parts
        .iter()
        .enumerate()
        .filter(|(index, _)| index % 2 == 0 || *index >= closed)
        .map(|(_, part)| *part)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{said, tree};
    use super::*;

    #[test]
    fn links_that_resolve_pass() {
        let page = "[a](../README.md) [b](guide.md#part \"title\") ![c](img_(1).svg) [d](#here)\n\
                    [e](https://example.org/x) [f](mailto:a@b.c) [g](.)\n\n[h]: ../README.md\n";
        let dir = tree(&[
            ("README.md", "[docs](docs/page.md), [folder](docs/)"),
            ("docs/page.md", page),
            ("docs/guide.md", ""),
            ("docs/img_(1).svg", ""),
        ]);
        assert_eq!(said(check, &dir), Vec::<String>::new());
    }

    #[test]
    fn links_to_nothing_and_out_of_the_repository_are_found() {
        let dir = tree(&[(
            "docs/page.md",
            "first\n[a](absent.md#x) [b](../../outside.md)\n[c]: ../gone.md\n",
        )]);
        assert_eq!(
            said(check, &dir),
            [
                "docs/page.md:2: link `absent.md#x` leads nowhere",
                "docs/page.md:2: link `../../outside.md` leads out of the repository",
                "docs/page.md:3: link `../gone.md` leads nowhere",
            ]
        );
    }

    #[test]
    fn code_is_no_link() {
        let page = "`[a](gone.md)` and a lone ` before [b](here.md)\n```text\n[c](gone.md)\n```\n";
        assert_eq!(links(page), [(1, "here.md".to_owned())]);
    }
}

//! Mount paths and the directories that stand for them.

use std::path::{Path, PathBuf};

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Path inside the container, without a trailing slash.
    pub path: String,
    /// Directory or file on this machine.
    pub target: PathBuf,
}

/// All mounts of a container, the longest path first.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Vec<Mount>);

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-~+@%/}):".contains(&byte) || byte >= 0x80
}

fn continues(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-~+@%".contains(&byte) || byte >= 0x80
}

impl Mounts {
    /// Sorts the mounts.
    pub(super) fn new(mut mounts: Vec<Mount>) -> Self {
        mounts.retain(|m| m.path.len() > 1);
        mounts.sort_by_key(|m| std::cmp::Reverse(m.path.len()));
        Mounts(mounts)
    }

    /// The place of a container path, if it lies in a mount.
    pub(super) fn resolve(&self, path: &str) -> Option<PathBuf> {
        self.0.iter().find_map(|m| {
            let rest = path.strip_prefix(m.path.as_str())?;
            if rest.is_empty() {
                Some(m.target.clone())
            } else {
                let rest = rest.strip_prefix('/')?;
                Some(m.target.join(rest))
            }
        })
    }

    /// Rewrites every mount path in a command or argument, at path boundaries only.
    pub(super) fn rewrite(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        let mut at = 0;
        while let Some(found) = memchr::memchr(b'/', &bytes[at..]) {
            let start = at + found;
            // After `:` only a list of paths (`/a:/b`, `X=/a:/b`) is meant, never `scheme://` or `host:/`.
            let before = start.checked_sub(1).map(|i| bytes[i]);
            let boundary = match before {
                Some(b':') => list_colon(&bytes[..start - 1]),
                Some(b) => !word(b),
                None => true,
            };
            let hit = boundary
                .then(|| {
                    self.0.iter().find(|m| {
                        bytes[start..].starts_with(m.path.as_bytes())
                            && bytes.get(start + m.path.len()).is_none_or(|b| !continues(*b))
                    })
                })
                .flatten();
            match hit {
                Some(m) => {
                    out.push_str(&text[copied..start]);
                    out.push_str(&m.target.to_string_lossy());
                    at = start + m.path.len();
                    copied = at;
                }
                None => at = start + 1,
            }
        }
        out.push_str(&text[copied..]);
        out
    }

    /// Rewrites an environment value only if all of it is one path, or a colon-separated list of paths.
    pub(super) fn rewrite_value(&self, value: &str) -> String {
        let parts: Vec<&str> = value.split(':').collect();
        let all_paths = parts
            .iter()
            .all(|p| p.starts_with('/') && !p.bytes().any(|b| b.is_ascii_whitespace() || b == b'"'));
        if !all_paths {
            return value.to_string();
        }
        parts
            .iter()
            .map(|p| self.resolve(p).map_or_else(|| (*p).to_string(), show))
            .collect::<Vec<_>>()
            .join(":")
    }
}

fn list_colon(before: &[u8]) -> bool {
    let word_start = before
        .iter()
        .rposition(|b| b.is_ascii_whitespace() || b"'\"=;|&(<>".contains(b))
        .map_or(0, |i| i + 1);
    before.get(word_start) == Some(&b'/')
}

fn show(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// Joins a container path to a root directory, ignoring `..`.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    let mut out = root.to_path_buf();
    for part in path.split('/') {
        if !matches!(part, "" | "." | "..") {
            out.push(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Mounts {
        Mounts::new(vec![
            Mount { path: "/paperclip".into(), target: "/d/pvc".into() },
            Mount { path: "/tmp/prompt".into(), target: "/d/e".into() },
            Mount { path: "/paperclip/sub".into(), target: "/d/s".into() },
        ])
    }

    #[test]
    fn mount_paths_in_arguments_are_mapped() {
        for (from, to) in [
            (
                "cat /tmp/prompt/prompt.txt | claude '--add-dir' '/paperclip/x'",
                "cat /d/e/prompt.txt | claude '--add-dir' '/d/pvc/x'",
            ),
            ("printf '%s' \"$P\" > /tmp/prompt/prompt.txt", "printf '%s' \"$P\" > /d/e/prompt.txt"),
            ("/paperclip", "/d/pvc"),
            ("/paperclip/sub/x /paperclip/subway", "/d/s/x /d/pvc/subway"),
            ("/paperclips /tmp/prompt-secret", "/paperclips /tmp/prompt-secret"),
            (
                "$HOME/paperclip ${X}/paperclip https://h/paperclip ./paperclip",
                "$HOME/paperclip ${X}/paperclip https://h/paperclip ./paperclip",
            ),
            ("A=/paperclip:/tmp/prompt x:/paperclip", "A=/d/pvc:/d/e x:/paperclip"),
            ("--dir=/paperclip/é", "--dir=/d/pvc/é"),
        ] {
            assert_eq!(mounts().rewrite(from), to);
        }
    }

    #[test]
    fn mount_paths_in_environment_values_are_mapped() {
        for (from, to) in [
            ("/paperclip", "/d/pvc"),
            ("/paperclip/a:/usr/bin", "/d/pvc/a:/usr/bin"),
            ("see /paperclip", "see /paperclip"),
            ("/paperclip is the place", "/paperclip is the place"),
            ("{\"cwd\":\"/paperclip\"}", "{\"cwd\":\"/paperclip\"}"),
            ("", ""),
            ("/paperclipx", "/paperclipx"),
        ] {
            assert_eq!(mounts().rewrite_value(from), to);
        }
    }

    #[test]
    fn path_below_a_root_cannot_leave_it() {
        assert_eq!(below(Path::new("/r"), "/a/../b"), Path::new("/r/a/b"));
    }
}

//! The command line of the agent's container.

use super::{EndToken, rtk_setup_commands, supervisor};
use crate::request::Request;

/// Where the CLI finds the skills and instructions of the agent's prompt bundle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BundlePaths<'a> {
    /// The directory with the skills.
    pub(crate) add_dir: &'a str,
    /// The file with the instructions, if the agent has any.
    pub(crate) instructions_file: Option<&'a str>,
}

/// The arguments of the Claude CLI. `mcp_file` holds the MCP servers, if the run has any: then no others are used.
pub(crate) fn claude_args(request: &Request, bundle: Option<BundlePaths<'_>>, mcp_file: &str) -> Vec<String> {
    let config = &request.config;
    let resumed = !request.session_id.is_empty();
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));

    add(&["--print", "-", "--output-format", "stream-json", "--verbose"]);
    if resumed {
        add(&["--resume", &request.session_id]);
    }
    if config.dangerously_skip_permissions {
        add(&["--dangerously-skip-permissions"]);
    }
    if !config.model.is_empty() {
        add(&["--model", &config.model]);
    }
    if !config.effort.is_empty() {
        add(&["--effort", &config.effort]);
    }
    if let Some(turns) = config.max_turns_per_run {
        add(&["--max-turns", &turns.to_string()]);
    }
    // A resumed session has its instructions already.
    let bundled = bundle.and_then(|bundle| bundle.instructions_file).filter(|path| !path.is_empty());
    if let Some(path) = bundled.or(config.instructions_file_path.as_deref())
        && !resumed
    {
        add(&["--append-system-prompt-file", path]);
    }
    if !request.mcp_servers.is_empty() {
        add(&["--mcp-config", mcp_file, "--strict-mcp-config"]);
    }
    if let Some(bundle) = bundle {
        add(&["--add-dir", bundle.add_dir]);
    }
    args.extend(config.extra_args.iter().cloned());
    args
}

/// What runs in the agent's container: the CLI with the prompt as its input, after the set-up of rtk where that is
/// enabled.
///
/// Kubernetes replaces `$(NAME)` in it by the value of a variable. Only `extraArgs` can contain that, and
/// there it is the one way to refer to a variable, since the shell sees each argument quoted: it is left in
/// place.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CliCommand {
    setup: Option<String>,
    cli: String,
    prompt_file: String,
}

impl CliCommand {
    /// The command with these arguments of the CLI.
    pub(crate) fn new(request: &Request, claude_args: &[String], prompt_file: &str) -> Self {
        let quoted: Vec<String> = claude_args.iter().map(|arg| quote(arg)).collect();
        let config = &request.config;
        Self {
            setup: config.enable_rtk.then(|| rtk_setup_commands(config.rtk_max_output_bytes)),
            cli: format!("claude {}", quoted.join(" ")),
            prompt_file: prompt_file.to_owned(),
        }
    }

    /// For `sh -c`: the CLI behind a pipe, as in 0.1.49. Such a CLI gets no signal.
    pub(crate) fn piped(&self) -> String {
        let pipe = format!("cat {} | {}", self.prompt_file, self.cli);
        match &self.setup {
            Some(setup) => format!("{setup} && {pipe}"),
            None => pipe,
        }
    }

    /// For `sh -c`: the CLI under a shell that forwards SIGTERM to it and says its end (see [`EndToken`]).
    pub(crate) fn supervised(&self, token: &EndToken) -> String {
        supervisor::supervised(self.setup.as_deref(), &self.cli, &self.prompt_file, token)
    }
}

/// One word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Splits as `sh` does, for words made of single-quoted parts and escaped characters.
    fn split(line: &str) -> Option<Vec<String>> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                ' ' => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match chars.next()? {
                            '\'' => break,
                            inside => word.push(inside),
                        }
                    }
                }
                '\\' => word.get_or_insert_default().push(chars.next()?),
                _ => return None,
            }
        }
        words.extend(word);
        Some(words)
    }

    #[test]
    fn quote_makes_one_word() {
        for (word, want) in
            [("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$(x) `y` \"z\"", "'$(x) `y` \"z\"'")]
        {
            assert_eq!(quote(word), want);
        }
    }

    proptest! {
        #[test]
        fn shell_splits_quoted_words_back(words in prop::collection::vec("\\PC{0,12}|['\\\\ \n$\"`]{0,6}", 0..6)) {
            let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line), Some(words));
        }
    }
}

//! The command line of the agent's container.

use super::{EndToken, rtk_setup_commands, supervisor};
use crate::expansion::{Piece, pieces};
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
    if !request.mcp_servers.is_empty() || !config.mcp_servers.is_empty() {
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
/// These are scripts as the shell is to see them: what Kubernetes would replace in a command is escaped by the manifest.
/// In `extraArgs`, `$(NAME)` is the one way to refer to a variable, since the shell sees each argument quoted. The shell
/// inserts its value, as data: were it Kubernetes, a value with a quote in it would become part of the script.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CliCommand {
    setup: Option<String>,
    /// `claude` and the arguments that the adapter makes.
    cli: String,
    /// The configured arguments, quoted.
    extra: Vec<String>,
    prompt_file: String,
}

/// Where the configured arguments of the CLI are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtraArgs<'a> {
    /// In the command.
    Inline,
    /// In a file that the command reads (see [`CliCommand::args_file`]).
    File(&'a str),
}

impl CliCommand {
    /// The command with these arguments of the CLI, of which the configured ones are the last. `is_defined` says whether the
    /// container certainly has a variable.
    pub(crate) fn new(
        request: &Request,
        claude_args: &[String],
        prompt_file: &str,
        is_defined: impl Fn(&str) -> bool,
    ) -> Self {
        let config = &request.config;
        let (own, extra) = claude_args.split_at(claude_args.len().saturating_sub(config.extra_args.len()));
        let own: Vec<String> = own.iter().map(|arg| quote(arg)).collect();
        Self {
            setup: config.enable_rtk.then(|| rtk_setup_commands(config.rtk_max_output_bytes)),
            cli: format!("claude {}", own.join(" ")),
            extra: extra.iter().map(|arg| quote_expanding(arg, &is_defined)).collect(),
            prompt_file: prompt_file.to_owned(),
        }
    }

    /// The shell script that sets the configured arguments; `None` when there are none.
    pub(crate) fn args_file(&self) -> Option<String> {
        (!self.extra.is_empty()).then(|| format!("set -- {}\n", self.extra.join(" ")))
    }

    /// For `sh -c`: the CLI behind a pipe, as in 0.1.49. Such a CLI gets no signal.
    pub(crate) fn piped(&self, extra: ExtraArgs<'_>) -> String {
        let pipe = format!("cat {} | {}", self.prompt_file, self.cli(extra));
        match self.setup(extra) {
            Some(setup) => format!("{setup} && {pipe}"),
            None => pipe,
        }
    }

    /// For `sh -c`: the CLI under a shell that forwards SIGTERM to it and says its end (see [`EndToken`]).
    pub(crate) fn supervised(&self, token: &EndToken, extra: ExtraArgs<'_>) -> String {
        supervisor::supervised(self.setup(extra).as_deref(), &self.cli(extra), &self.prompt_file, token)
    }

    fn cli(&self, extra: ExtraArgs<'_>) -> String {
        match extra {
            _ if self.extra.is_empty() => self.cli.clone(),
            ExtraArgs::Inline => format!("{} {}", self.cli, self.extra.join(" ")),
            ExtraArgs::File(_) => format!("{} \"$@\"", self.cli),
        }
    }

    fn setup(&self, extra: ExtraArgs<'_>) -> Option<String> {
        let read_args = match extra {
            ExtraArgs::File(path) if !self.extra.is_empty() => Some(format!(". {path}")),
            _ => None,
        };
        let steps: Vec<String> = read_args.into_iter().chain(self.setup.clone()).collect();
        (!steps.is_empty()).then(|| steps.join(" && "))
    }
}

/// One word for a POSIX shell, which replaces each `$(NAME)` in it by the value of that variable, or leaves it as it is where
/// there is none. `$$` is one `$`, as Kubernetes has it.
fn quote_expanding(word: &str, is_defined: impl Fn(&str) -> bool) -> String {
    let quoted = pieces(word).into_iter().map(|piece| match piece {
        Piece::Text(text) => quote(&text),
        Piece::Reference(name) if !is_shell_name(name) => quote(&format!("$({name})")),
        Piece::Reference(name) if is_defined(name) => format!("\"${name}\""),
        Piece::Reference(name) => format!("\"${{{name}-\\$({name})}}\""),
    });
    let quoted: String = quoted.collect();
    if quoted.is_empty() { quote("") } else { quoted }
}

/// Whether a shell can refer to a variable of this name.
fn is_shell_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
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

    #[test]
    fn shell_inserts_variables_of_extra_args_as_data() {
        let words = [
            ("$(SET)", "it's $(date) \"x\""),
            ("a $(SET)'b", "a it's $(date) \"x\"'b"),
            ("$(UNSET)", "$(UNSET)"),
            ("$(not-a-name)", "$(not-a-name)"),
            ("$$(SET) $$5 $5", "$(SET) $5 $5"),
            ("", ""),
            ("$()", "$()"),
        ];
        let quoted: Vec<String> =
            words.iter().map(|(word, _)| quote_expanding(word, |name| name == "SET")).collect();
        let script = format!("printf '%s\\n' {}", quoted.join(" "));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .env("SET", "it's $(date) \"x\"")
            .env_remove("UNSET")
            .output()
            .expect("sh");
        let want: Vec<&str> = words.iter().map(|(_, want)| *want).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), want.join("\n") + "\n");
        assert_eq!(quoted[0], "\"$SET\"");
    }

    proptest! {
        #[test]
        fn shell_splits_quoted_words_back(words in prop::collection::vec("\\PC{0,12}|['\\\\ \n$\"`]{0,6}", 0..6)) {
            let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(&line), Some(words));
        }
    }
}

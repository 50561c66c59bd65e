//! The first process of the agent's container: a small POSIX shell that starts the CLI, forwards SIGTERM to it, and
//! prints one last line when it has ended.
//!
//! A client learns of a container's end from the pod's status 0.2 to 1.1 s late, and from the Job 2 to 3 s late; a line
//! of the log arrives at once. The last line carries a token of the Job, so that no other run's line passes for it. The
//! agent itself runs as the same user and can print it: then its own run is over early, and nothing else.

use std::fmt;

/// The last line up to its exit code. A `system` event, so that a reader that does not know it passes over it.
const BEFORE_CODE: &str = r#"{"type":"system","subtype":"paperclip_end","exit_code":"#;
/// What stands between exit code and token.
const BEFORE_TOKEN: &str = r#","token":""#;
/// What follows the token.
const AFTER_TOKEN: &str = r#""}"#;
/// The length of a token: 128 bits in hexadecimal.
const TOKEN_LEN: usize = 32;

/// What distinguishes the last line of one Job from that of any other.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EndToken(String);

// Whoever knows it can print the line.
impl fmt::Debug for EndToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndToken")
    }
}

impl EndToken {
    /// A token of this text; `None` unless it is 32 of `[0-9a-f]`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == TOKEN_LEN && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// The token as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The exit code that a line says, if it is exactly the last line of this Job.
    pub(crate) fn exit_code(&self, line: &[u8]) -> Option<u8> {
        let rest = line.strip_prefix(BEFORE_CODE.as_bytes())?;
        let rest = rest.strip_suffix(AFTER_TOKEN.as_bytes())?.strip_suffix(self.0.as_bytes())?;
        let code = std::str::from_utf8(rest.strip_suffix(BEFORE_TOKEN.as_bytes())?).ok()?;
        let parsed: u8 = code.parse().ok()?;
        // One way to write each code: no sign, no leading zero.
        (parsed.to_string() == code).then_some(parsed)
    }
}

/// The shell command that runs `cli`, once `setup` has succeeded, and prints the last line with `token`.
///
/// - The directory for temporary files is made where the variables name one.
/// - The trap is set before anything else: the first process of a container does not die of a signal that it does not
///   handle, so one that came earlier would be lost.
/// - A trapped signal ends `wait` with a status of its own, so the shell waits until a `wait` was not interrupted. Of a CLI
///   that it has waited for already, `wait` knows nothing more: 127.
/// - SIGINT arrives as SIGTERM, because a command in the background ignores SIGINT.
/// - A shell says on stderr that a command was killed, which is not the CLI's output: `wait` is silent.
/// - The line begins after a newline of its own, because the CLI's last line may lack one.
pub(super) fn supervised(setup: Option<&str>, cli: &str, prompt_file: &str, token: &EndToken) -> String {
    let setup = setup.unwrap_or(":");
    let token = token.as_str();
    [
        "c= s= t= r=127",
        "stop() { s=1 t=1; [ -z \"$c\" ] || kill -s TERM \"$c\" 2>/dev/null; }",
        "trap stop TERM INT",
        "[ -z \"$PAPERCLIP_SCRATCH_DIR\" ] || mkdir -p \"$PAPERCLIP_SCRATCH_DIR\" 2>/dev/null",
        &format!("if {setup}; then"),
        "if [ -n \"$s\" ]; then r=143; else",
        &format!("{cli} < {prompt_file} &"),
        "c=$! t=1",
        "[ -z \"$s\" ] || kill -s TERM \"$c\" 2>/dev/null",
        "while [ -n \"$t\" ]; do t=; wait \"$c\" 2>/dev/null; n=$?; [ \"$n\" = 127 ] || r=$n; done",
        "fi; else r=$?; fi",
        &format!("printf '\\n{BEFORE_CODE}%s{BEFORE_TOKEN}%s{AFTER_TOKEN}\\n' \"$r\" {token}"),
        "exit \"$r\"",
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn token() -> EndToken {
        EndToken::parse("0123456789abcdef0123456789abcdef").expect("a token")
    }

    fn line(code: &str, token: &str) -> String {
        format!(r#"{{"type":"system","subtype":"paperclip_end","exit_code":{code},"token":"{token}"}}"#)
    }

    #[test]
    fn last_line_is_recognised_by_exact_shape_and_token() {
        let token = token();
        for (code, read) in [("0", Some(0)), ("7", Some(7)), ("143", Some(143)), ("255", Some(255))] {
            assert_eq!(token.exit_code(line(code, token.as_str()).as_bytes()), read);
        }
        let good = line("0", token.as_str());
        let bad = [
            line("256", token.as_str()),
            line("-1", token.as_str()),
            line("+1", token.as_str()),
            line("00", token.as_str()),
            line("", token.as_str()),
            line("0", "0123456789abcdef0123456789abcdee"),
            line("0", ""),
            format!(" {good}"),
            format!("{good} "),
            format!("{good}\r"),
            format!("x{good}"),
            format!("{good}{good}"),
            good.replace(':', ": "),
            good[..good.len() - 1].to_owned(),
            String::new(),
        ];
        for bad in &bad {
            assert_eq!(token.exit_code(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn token_is_thirty_two_hexadecimal_digits() {
        assert!(EndToken::parse("0123456789abcdef0123456789abcdef").is_some());
        for text in
            ["", "0123456789abcdef0123456789abcde", "0123456789ABCDEF0123456789ABCDEF", "'; rm -rf / #"]
        {
            assert!(EndToken::parse(text).is_none(), "{text}");
        }
    }

    /// The shells of this machine that a container's image may have.
    fn shells() -> Vec<Vec<&'static str>> {
        let all = [vec!["dash"], vec!["bash", "--posix"], vec!["busybox", "sh"]];
        let runs = |shell: &Vec<&str>| {
            let probe = Command::new(shell[0]).args(&shell[1..]).args(["-c", ":"]).output();
            probe.is_ok_and(|output| output.status.success())
        };
        let found: Vec<_> = all.into_iter().filter(runs).collect();
        assert!(!found.is_empty(), "a POSIX shell is needed");
        found
    }

    fn start(shell: &[&str], setup: Option<&str>, cli: &str) -> std::process::Child {
        let script = supervised(setup, cli, "/dev/null", &token());
        assert!(!script.contains("$(") && !script.contains("$$"), "{script}");
        Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    }

    fn run(shell: &[&str], setup: Option<&str>, cli: &str) -> (Option<i32>, String) {
        let output = start(shell, setup, cli).wait_with_output().expect("ends");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    }

    #[test]
    fn every_shell_keeps_output_and_exit_code() {
        for shell in shells() {
            for (setup, cli, code, printed) in [
                (None, "sh -c 'echo done'", 0, "done\n"),
                (None, "sh -c 'printf half; exit 3'", 3, "half"),
                (Some("echo ready"), "sh -c 'cat; echo done'", 0, "ready\ndone\n"),
                (Some("sh -c 'exit 9'"), "sh -c 'echo never'", 9, ""),
                (None, "no-such-command-of-this-test 2>/dev/null", 127, ""),
            ] {
                let (exit, output) = run(&shell, setup, cli);
                let last = line(&code.to_string(), token().as_str());
                assert_eq!((exit, output), (Some(code), format!("{printed}\n{last}\n")), "{shell:?}: {cli}");
            }
        }
    }

    #[test]
    fn every_shell_forwards_sigterm_and_waits_for_the_cli() {
        // The CLI prints that it is ready, and takes a moment to end once it has the signal.
        let cli = |code: u8| {
            format!(
                "sh -c 'trap \"sleep 0.2; echo saved; exit {code}\" TERM; echo ready; while :; do sleep 0.05; done'"
            )
        };
        for shell in shells() {
            for (signal, code) in [("TERM", 0), ("TERM", 143), ("INT", 5)] {
                let mut child = start(&shell, None, &cli(code));
                let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
                let mut ready = String::new();
                std::io::BufRead::read_line(&mut stdout, &mut ready).expect("read");
                assert_eq!(ready, "ready\n");
                let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
                assert!(killed.expect("kill").success());
                let mut rest = String::new();
                std::io::Read::read_to_string(&mut stdout, &mut rest).expect("read");
                let last = line(&code.to_string(), token().as_str());
                assert_eq!(rest, format!("saved\n\n{last}\n"), "{shell:?} {signal}");
                assert_eq!(child.wait().expect("ends").code(), Some(i32::from(code)));
            }
        }
    }

    #[test]
    fn cli_that_cannot_handle_sigterm_ends_with_143() {
        for shell in shells() {
            let mut child = start(&shell, None, "sh -c 'echo ready; exec sleep 60'");
            let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
            std::io::BufRead::read_line(&mut stdout, &mut String::new()).expect("read");
            let killed = Command::new("kill").arg(child.id().to_string()).status();
            assert!(killed.expect("kill").success());
            let ended = child.wait_with_output().expect("ends");
            assert_eq!((ended.status.code(), ended.stderr), (Some(143), Vec::new()), "{shell:?}");
        }
    }

    proptest! {
        #[test]
        fn no_other_text_is_the_last_line(text in "\\PC*") {
            prop_assert_eq!(token().exit_code(text.as_bytes()), None);
        }
    }
}

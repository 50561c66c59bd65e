//! Scripted containers: generated log lines instead of a process.
//!
//! A container is scripted when the first word of its command is [`COMMAND`], with the script as the second, or
//! when its variable [`VARIABLE`] is a script. In a pod with a container of the second kind no process runs at
//! all: its init containers end at once, and so do other containers without a script of their own.

use super::env::Env;
use crate::load::Lateness;
use crate::logs::{Chunk, LogBuffer};
use crate::time::now_ns;
use crate::util::{list_at, str_at};
use bytes::BytesMut;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// First word of the command of a scripted container.
pub(super) const COMMAND: &str = "simulator:emit";
/// Variable with the script of a container whose command the test does not choose.
pub(super) const VARIABLE: &str = "SIMULATOR_EMIT";

/// What a scripted container does.
#[derive(Debug, Clone)]
pub(super) struct Script {
    lines: u64,
    bytes: usize,
    per_second: f64,
    /// Its exit code.
    pub exit_code: i32,
    start_delay: Duration,
    texts: Vec<String>,
    last: Option<String>,
    fill: String,
}

/// The script of a pod's container, if it has one; `env` is what the container would get.
pub(super) fn of(
    pod: &Value,
    container: &Value,
    words: &[String],
    env: &Env,
) -> Option<Result<Script, String>> {
    if words.first().is_some_and(|w| w == COMMAND) {
        return Some(Script::parse(words.get(1).map_or("", String::as_str)));
    }
    let scripted = |c: &Value| list_at(c, "/env").iter().any(|v| v["name"] == VARIABLE);
    if scripted(container) {
        return Some(Script::parse(env.get(VARIABLE).unwrap_or_default()));
    }
    list_at(pod, "/spec/containers").iter().any(scripted).then(|| Script::parse("{}"))
}

impl Script {
    /// Parses `{lines, bytes, perSecond, exitCode, text, fill, last, startDelayMs}`.
    ///
    /// `text` is one line or several that take turns; in it `{n}` is the line's number from 0, `{n8}` the same
    /// with eight digits, `{us}` the time in microseconds since the epoch and `{pad}` what makes the line `bytes`
    /// long (without it the end of the line is filled): `fill` as often as it fits whole, then `x`. `last` is one
    /// more line, after all others.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let v: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let number = |key: &str| v.get(key).and_then(Value::as_u64);
        let texts: Vec<String> = match v.get("text") {
            Some(Value::String(s)) => vec![s.clone()],
            Some(Value::Array(list)) => {
                list.iter().map(|l| l.as_str().map_or_else(|| l.to_string(), str::to_string)).collect()
            }
            _ => Vec::new(),
        };
        let default_lines = if texts.is_empty() { 0 } else { texts.len() as u64 };
        Ok(Script {
            lines: number("lines").unwrap_or(default_lines),
            bytes: number("bytes").unwrap_or(0) as usize,
            per_second: v.get("perSecond").and_then(Value::as_f64).unwrap_or(0.0),
            exit_code: v.get("exitCode").and_then(Value::as_i64).unwrap_or(0) as i32,
            start_delay: Duration::from_millis(number("startDelayMs").unwrap_or(0)),
            texts,
            fill: str_at(&v, "/fill").to_string(),
            last: v.get("last").and_then(Value::as_str).map(str::to_string),
        })
    }

    fn line(&self, n: u64, out: &mut BytesMut) {
        let start = out.len();
        if self.texts.is_empty() {
            let stamp = now_ns() / 1000;
            let _ = write!(out, "{{\"type\":\"emit\",\"n\":{n},\"us\":{stamp},\"pad\":\"");
            let tail = b"\"}\n";
            self.fill(out, (start + self.bytes).saturating_sub(tail.len()));
            out.extend_from_slice(tail);
            return;
        }
        let text = &self.texts[(n % self.texts.len() as u64) as usize];
        // What stands behind the padding is written last, so that its length is known.
        let (head, tail) = text.split_once("{pad}").unwrap_or((text, ""));
        expand(head, n, out);
        let mut end = BytesMut::new();
        expand(tail, n, &mut end);
        self.fill(out, (start + self.bytes).saturating_sub(end.len() + 1));
        out.extend_from_slice(&end);
        out.extend_from_slice(b"\n");
    }

    /// Fills up to a length.
    fn fill(&self, out: &mut BytesMut, length: usize) {
        while !self.fill.is_empty() && out.len() + self.fill.len() <= length {
            out.extend_from_slice(self.fill.as_bytes());
        }
        if out.len() < length {
            out.resize(length, b'x');
        }
    }

    /// Writes the log; dropping the future stops it.
    pub(super) async fn run(&self, log: &LogBuffer, lateness: &Lateness) {
        tokio::time::sleep(self.start_delay).await;
        let begin = Instant::now();
        let mut sent = 0;
        let mut chunks = Vec::new();
        while sent < self.lines {
            let due = if self.per_second > 0.0 {
                let elapsed = begin.elapsed().as_secs_f64();
                lateness.note(elapsed - sent as f64 / self.per_second);
                ((elapsed * self.per_second) as u64 + 1).min(self.lines)
            } else {
                (sent + 256).min(self.lines)
            };
            let mut buffer = BytesMut::with_capacity((due - sent) as usize * (self.bytes + 64));
            for n in sent..due {
                self.line(n, &mut buffer);
                take(&mut buffer, &mut chunks);
            }
            sent = due;
            log.push(&mut chunks);
            if self.per_second <= 0.0 {
                tokio::task::yield_now().await;
            } else if sent < self.lines {
                let next = begin + Duration::from_secs_f64(sent as f64 / self.per_second);
                let tick = Instant::now() + Duration::from_millis(5);
                tokio::time::sleep_until(next.max(tick)).await;
            }
        }
        if let Some(last) = &self.last {
            let mut buffer = BytesMut::new();
            expand(last, self.lines, &mut buffer);
            buffer.extend_from_slice(b"\n");
            take(&mut buffer, &mut chunks);
            log.push(&mut chunks);
        }
    }
}

/// Writes a text with its placeholders replaced.
fn expand(text: &str, n: u64, out: &mut BytesMut) {
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{n}") {
            let _ = write!(out, "{n}");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{n8}") {
            let _ = write!(out, "{n:08}");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{us}") {
            let _ = write!(out, "{}", now_ns() / 1000);
            rest = after;
        } else {
            out.extend_from_slice(b"{");
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Cuts the line in the buffer as the container runtime does.
fn take(buffer: &mut BytesMut, chunks: &mut Vec<Chunk>) {
    let mut line = buffer.split().freeze();
    let stamp = now_ns();
    while line.len() > crate::logs::CHUNK + 1 {
        let data = line.split_to(crate::logs::CHUNK);
        chunks.push(Chunk { stamp, data });
    }
    chunks.push(Chunk { stamp, data: line });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_have_the_requested_size() {
        let s = Script::parse(r#"{"lines":1,"bytes":100}"#).expect("valid");
        let mut out = BytesMut::new();
        s.line(7, &mut out);
        assert_eq!(out.len(), 100);
        let v: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(v["n"], 7);
    }

    #[test]
    fn text_template_fills_in_numbers_and_padding() {
        let s =
            Script::parse(r#"{"text":["a{n}{x}","b","{pad}:{n8}"],"bytes":13,"fill":"yz"}"#).expect("valid");
        let mut out = BytesMut::new();
        s.line(0, &mut out);
        s.line(1, &mut out);
        s.line(5, &mut out);
        assert_eq!(&out[..], b"a0{x}yzyzyzx\nbyzyzyzyzyzx\nyzx:00000005\n");
        assert_eq!(s.lines, 3);
    }

    #[test]
    fn scripted_container_makes_its_whole_pod_scripted() {
        // Its value may be in a Secret.
        let claude = json!({"name": "claude", "env": [{"name": VARIABLE, "valueFrom": {}}]});
        let env = Env(vec![(VARIABLE.to_string(), "{\"lines\":3}".to_string())]);
        let init = json!({"name": "init"});
        let scripted = json!({"spec": {"initContainers": [init], "containers": [claude]}});
        let lines = |pod: &Value, c: &Value| of(pod, c, &[], &env).map(|s| s.map(|s| s.lines));
        assert_eq!(lines(&scripted, &claude), Some(Ok(3)));
        assert_eq!(lines(&scripted, &init), Some(Ok(0)));
        assert_eq!(lines(&json!({"spec": {"containers": [init]}}), &init), None);
    }
}

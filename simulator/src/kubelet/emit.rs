//! Scripted containers: generated log lines instead of a process.

use crate::logs::{Chunk, LogBuffer};
use crate::time::now_ns;
use bytes::BytesMut;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// First word of the command of a scripted container.
pub const COMMAND: &str = "simulator:emit";

/// What a scripted container does.
#[derive(Debug, Clone)]
pub struct Script {
    lines: u64,
    bytes: usize,
    per_second: f64,
    /// Its exit code.
    pub exit_code: i32,
    start_delay: Duration,
    texts: Vec<String>,
}

impl Script {
    /// Parses `{lines, bytes, perSecond, exitCode, text, startDelayMs}`.
    pub fn parse(text: &str) -> Result<Self, String> {
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
        })
    }

    fn line(&self, n: u64, out: &mut BytesMut) {
        let start = out.len();
        let stamp = now_ns() / 1000;
        let pad = |out: &mut BytesMut, tail: &[u8]| {
            let want = (start + self.bytes).saturating_sub(tail.len());
            if out.len() < want {
                out.resize(want, b'x');
            }
            out.extend_from_slice(tail);
        };
        if self.texts.is_empty() {
            let _ = write!(out, "{{\"type\":\"emit\",\"n\":{n},\"us\":{stamp},\"pad\":\"");
            pad(out, b"\"}\n");
            return;
        }
        let text = &self.texts[(n % self.texts.len() as u64) as usize];
        let mut rest = text.as_str();
        while let Some(at) = rest.find('{') {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{n}") {
                let _ = write!(out, "{n}");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{us}") {
                let _ = write!(out, "{stamp}");
                rest = after;
            } else {
                out.extend_from_slice(b"{");
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest.as_bytes());
        pad(out, b"\n");
    }

    /// Writes the log; dropping the future stops it.
    pub async fn run(&self, log: &LogBuffer) {
        tokio::time::sleep(self.start_delay).await;
        let begin = Instant::now();
        let mut sent = 0;
        let mut chunks = Vec::new();
        while sent < self.lines {
            let due = if self.per_second > 0.0 {
                let so_far = begin.elapsed().as_secs_f64() * self.per_second;
                (so_far as u64 + 1).min(self.lines)
            } else {
                (sent + 256).min(self.lines)
            };
            let mut buffer = BytesMut::with_capacity((due - sent) as usize * (self.bytes + 64));
            for n in sent..due {
                self.line(n, &mut buffer);
                let mut line = buffer.split().freeze();
                let stamp = now_ns();
                while line.len() > crate::logs::CHUNK + 1 {
                    let data = line.split_to(crate::logs::CHUNK);
                    chunks.push(Chunk { stamp, data });
                }
                chunks.push(Chunk { stamp, data: line });
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_size_asked_for() {
        let s = Script::parse(r#"{"lines":1,"bytes":100}"#).expect("valid");
        let mut out = BytesMut::new();
        s.line(7, &mut out);
        assert_eq!(out.len(), 100);
        let v: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(v["n"], 7);
    }

    #[test]
    fn templates() {
        let s = Script::parse(r#"{"text":["a{n}{x}","b"],"bytes":8}"#).expect("valid");
        let mut out = BytesMut::new();
        s.line(0, &mut out);
        s.line(1, &mut out);
        assert_eq!(&out[..], b"a0{x}xx\nbxxxxxx\n");
        assert_eq!(s.lines, 2);
    }
}

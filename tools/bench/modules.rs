//! Row (f) of docs/benchmarks.md: the pure modules alone, on one core, and the speed of the memory beside them. One
//! iteration is one body of a log of [`LINES`] lines of 1.2 KB; the counts of allocations are for all of its lines.
//!
//! `cargo bench --no-default-features --bench modules` (with the binding, only Node can link it).

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use paperclip_adapter_claude_k8s::claude::Tally;
use paperclip_adapter_claude_k8s::manifest::{self, Prepared, SelfPod};
use paperclip_adapter_claude_k8s::request::Request;
use paperclip_adapter_claude_k8s::stream::{LineSplitter, Resume, Stamp, Verdict};
use serde_json::json;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const LINES: usize = 10_000;
const LINE_BYTES: usize = 1_200;
/// The most that a TLS record holds, so a body arrives in pieces of this size.
const PIECE: usize = 16 * 1024;

fn main() {
    divan::main();
}

/// What the lines of a body are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// As in a transcript: tool calls, their results, some text; one in eight is not ASCII.
    Mixed,
    /// Tool results, with the escapes that source code has in JSON.
    ToolResult,
    /// The assistant's text, all different.
    Text,
    /// Not JSON.
    Plain,
}

const FILL: &str =
    r#"    let total = items.iter().map(|item| item.price).sum::<u64>();\n    println!(\"{total}\");\n"#;

fn line(kind: Kind, n: usize) -> String {
    let end = format!(r#""session_id":"5f0c8a52-5b7e-4a41-9d53-0c5b0a6d1f11","uuid":"{n:08}"}}"#);
    let assistant = |content: (String, &str)| {
        let usage = r#""stop_reason":null,"usage":{"input_tokens":12,"output_tokens":34}},"#;
        let head = format!(
            r#"{{"type":"assistant","message":{{"id":"msg_{n:08}","type":"message","role":"assistant","model":"claude-opus-4-8","content":[{}"#,
            content.0
        );
        (head, format!(r#"{}],{usage}"parent_tool_use_id":null,{end}"#, content.1))
    };
    let text = || assistant((format!(r#"{{"type":"text","text":"Step {n:08}: "#), r#""}"#));
    let tool = || {
        assistant((
            format!(r#"{{"type":"tool_use","id":"toolu_{n:08}","name":"Bash","input":{{"command":""#),
            r#""}}"#,
        ))
    };
    let result = |text: &str| {
        let head = format!(
            r#"{{"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"toolu_{n:08}","type":"tool_result","content":"{text}"#
        );
        (head, format!(r#""}}]}},"parent_tool_use_id":null,{end}"#))
    };
    let (mut head, tail) = match (kind, n % 8) {
        (Kind::Plain, _) => (format!("line {n} "), String::new()),
        (Kind::Text, _) | (Kind::Mixed, 0) => text(),
        (Kind::Mixed, 1 | 4 | 6) => tool(),
        (Kind::Mixed, 3) => result(r"naïve café ✓ — 1 passed\n"),
        (Kind::ToolResult | Kind::Mixed, _) => result(""),
    };
    while head.len() + FILL.len() + tail.len() < LINE_BYTES {
        head.push_str(FILL);
    }
    let rest = LINE_BYTES - 1 - head.len() - tail.len();
    head.extend(std::iter::repeat_n('x', rest));
    head + &tail + "\n"
}

/// A body without stamps.
fn output(kind: Kind) -> Vec<u8> {
    (0..LINES).flat_map(|n| line(kind, n).into_bytes()).collect()
}

/// A body as the kubelet sends it, a line each 50 µs.
fn body(kind: Kind) -> Vec<u8> {
    let stamped = |n: usize| {
        let stamp = Stamp::from_nanos(1_767_323_045_000_000_000 + 50_000 * n as i64);
        format!("{stamp} {}", line(kind, n)).into_bytes()
    };
    (0..LINES).flat_map(stamped).collect()
}

fn per_line(bytes: usize) -> (BytesCount, ItemsCount) {
    (BytesCount::new(bytes), ItemsCount::new(LINES))
}

/// Splits a body as it arrives.
fn each_line(body: &[u8], mut f: impl FnMut(&[u8])) {
    let mut splitter = LineSplitter::new();
    for piece in body.chunks(PIECE) {
        splitter.push(piece, |line, _| f(line));
    }
}

/// The speed of this machine's memory.
mod memory {
    use super::*;

    #[divan::bench]
    fn copy(bencher: Bencher) {
        let from = output(Kind::Mixed);
        let mut to = vec![0; from.len()];
        bencher.counter(BytesCount::new(from.len())).bench_local(|| {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        });
    }

    #[divan::bench]
    fn sum(bencher: Bencher) {
        let from = output(Kind::Mixed);
        bencher.counter(BytesCount::new(from.len())).bench_local(|| {
            let (words, _) = black_box(&from).as_chunks::<8>();
            words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
        });
    }
}

/// Bytes into lines.
#[divan::bench]
fn split(bencher: Bencher) {
    let body = output(Kind::Mixed);
    let (bytes, lines) = per_line(body.len());
    bencher.counter(bytes).counter(lines).bench_local(|| {
        let mut count = 0;
        each_line(black_box(&body), |line| count += usize::from(!line.is_empty()));
        count
    });
}

/// Lines into what a result needs: UTF-8 is checked, JSON is parsed.
#[divan::bench(args = [Kind::Mixed, Kind::ToolResult, Kind::Text, Kind::Plain])]
fn split_and_parse(bencher: Bencher, kind: Kind) {
    let body = output(kind);
    let (bytes, lines) = per_line(body.len());
    bencher.counter(bytes).counter(lines).bench_local(|| {
        let mut tally = Tally::new();
        each_line(black_box(&body), |line| drop(tally.line(line, 0)));
        tally.so_far().lines
    });
}

/// Lines with their stamps, remembered for a resume.
#[divan::bench]
fn split_and_resume(bencher: Bencher) {
    let body = body(Kind::Mixed);
    let (bytes, lines) = per_line(body.len());
    bencher.counter(bytes).counter(lines).bench_local(|| {
        let mut resume = Resume::new();
        resume.begin_body();
        let mut count = 0;
        each_line(black_box(&body), |line| {
            count += usize::from(matches!(resume.line(line, true), Verdict::Deliver(_)));
        });
        count
    });
}

/// A body that repeats delivered lines.
#[divan::bench]
fn split_and_resume_in_overlap(bencher: Bencher) {
    let body = body(Kind::Mixed);
    let (bytes, lines) = per_line(body.len());
    let mut resume = Resume::new();
    resume.begin_body();
    each_line(&body, |line| assert!(matches!(resume.line(line, true), Verdict::Deliver(_))));
    resume.end_body(false);
    bencher.counter(bytes).counter(lines).bench_local(|| {
        resume.begin_body();
        let mut count = 0;
        each_line(black_box(&body), |line| {
            count += usize::from(matches!(resume.line(line, true), Verdict::Duplicate));
        });
        resume.end_body(false);
        count
    });
}

/// All of it, as in a run.
#[divan::bench]
fn split_resume_and_parse(bencher: Bencher) {
    let body = body(Kind::Mixed);
    let (bytes, lines) = per_line(body.len());
    bencher.counter(bytes).counter(lines).bench_local(|| {
        let (mut resume, mut tally) = (Resume::new(), Tally::new());
        resume.begin_body();
        each_line(black_box(&body), |line| {
            if let Verdict::Deliver(text) = resume.line(line, true) {
                tally.line(text, 0);
            }
        });
        tally.so_far().lines
    });
}

/// The host's JSON into the JSON of a Job.
#[divan::bench]
fn manifest(bencher: Bencher) {
    let request = json!({
        "runId": "3c1b2c9e-8d3c-4a57-9d70-6d7f1c6d2b11",
        "agent": {"id": "0b9f3a3e-0e6f-4a52-b1f0-9b6b7c1f2a01", "companyId": "company-1", "name": "Ada"},
        "runtime": {"sessionId": null, "sessionParams": null},
        "config": {"model": "claude-opus-4-8", "env": {"TEAM": "a"}, "labels": "team=a\nstage=b",
            "resources.limits.cpu": "2000m", "extraArgs": ["--debug"]},
        "context": {"taskId": "task-1", "issueId": "task-1", "wakeReason": "on_demand",
            "paperclipWorkspace": {"cwd": "/paperclip/work", "workspaceId": "w-1"}, "paperclipWake": {"reason": "x"}},
        "tmpDir": "/tmp",
    })
    .to_string();
    let self_pod: SelfPod = read(json!({
        "namespace": "paperclip", "image": "paperclip/agent:1", "pvcClaimName": "paperclip-data",
        "imagePullSecrets": [{"name": "registry"}],
        "inheritedEnv": {"PAPERCLIP_API_URL": "http://paperclip:3100", "ANTHROPIC_MODEL": "claude-opus-4-8"},
    }));
    let prepared: Prepared = read(json!({
        "baseEnv": {"PAPERCLIP_AGENT_ID": "agent-1", "PAPERCLIP_COMPANY_ID": "company-1"},
        "bootstrapPrompt": "", "heartbeatPrompt": "Work. ".repeat(500), "skills": [],
    }));
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        let request = Request::parse(black_box(&request)).expect("a request");
        let manifest = manifest::build(&request, &self_pod, &prepared, None).expect("a manifest");
        serde_json::to_vec(&manifest.job).expect("JSON")
    });
}

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("readable")
}

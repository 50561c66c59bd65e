//! The fake Messages API as a process.
#![allow(missing_docs)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_anthropic-api");

struct Api {
    child: Child,
    address: String,
}

impl Api {
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(PROGRAM)
            .envs(variables.iter().map(|(name, value)| (format!("ANTHROPIC_STAND_IN_{name}"), value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fake API");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("JSON");
        let address =
            ready["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("a url").to_owned();
        Api { child, address }
    }

    /// Status and body of one request, the body put together from its chunks.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut tcp = TcpStream::connect(&self.address).expect("a connection");
        write!(
            tcp,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a request");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body =
            if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
        (status, head.to_ascii_lowercase(), body)
    }

    fn message(&self, key: &str, body: &Value) -> (u16, String, String) {
        let headers = format!("x-api-key: {key}\r\nanthropic-version: 2023-06-01\r\n");
        self.ask("POST", "/v1/messages?beta=true", &headers, &body.to_string())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It ends with its stdin.
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("an end");
        if !std::thread::panicking() {
            assert!(status.success());
        }
    }
}

fn unchunked(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        whole.push_str(&rest[..size]);
        text = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    whole
}

fn hello(stream: bool) -> Value {
    json!({
        "model": "claude-x", "max_tokens": 64, "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    })
}

#[test]
fn answer_is_streamed_or_whole() {
    let api = Api::start(&[]);
    let (status, head, body) = api.message("k", &hello(true));
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/event-stream") && head.contains("request-id: req_01"),
        "{head}"
    );
    let names: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names.first(), Some(&"message_start"));
    assert_eq!(names.last(), Some(&"message_stop"));
    let (status, _, body) = api.message("k", &hello(false));
    let message: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &message["content"][0]["text"]), (200, &json!(r#"Heard: ["hello"]"#)));
}

#[test]
fn refused_request_is_answered_and_recorded() {
    let directory = std::env::temp_dir().join(format!("anthropic-api-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("record.jsonl");
    let api = Api::start(&[("KEY", "right"), ("RECORD", file.to_str().expect("a path"))]);
    let refused = |(status, head, body): (u16, String, String)| {
        let error: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(error["type"], "error");
        assert!(head.contains("x-should-retry: false"), "{head}");
        (status, error["error"]["type"].as_str().expect("a type").to_owned())
    };
    assert_eq!(refused(api.message("wrong", &hello(true))), (401, "authentication_error".into()));
    assert_eq!(refused(api.message("right", &json!({}))), (400, "invalid_request_error".into()));
    assert_eq!(refused(api.ask("GET", "/v1/models", "", "")), (404, "not_found_error".into()));
    let (status, error) = refused(api.ask("POST", "/v1/messages", "x-api-key: right\r\n", "{}"));
    assert_eq!((status, error.as_str()), (400, "invalid_request_error"));
    assert_eq!(api.ask("HEAD", "/", "", "").0, 200);
    assert_eq!(api.message("right", &hello(true)).0, 200);
    let text = std::fs::read_to_string(&file).expect("a record");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let statuses: Vec<u64> = records.iter().filter_map(|record| record["status"].as_u64()).collect();
    assert_eq!(statuses, [401, 400, 404, 400, 200, 200]);
    assert_eq!(records[5]["messages"][0]["content"], "hello");
    assert_eq!(records[5]["usage"]["input_tokens"], 120);
    drop(api);
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[test]
fn overload_ends_after_its_requests() {
    let api = Api::start(&[("ERROR", "overloaded_error"), ("ERRORS", "1")]);
    let (status, head, body) = api.message("k", &hello(true));
    assert_eq!(status, 529);
    assert!(head.contains("x-should-retry: true") && body.contains("overloaded_error"), "{head} {body}");
    assert_eq!(api.message("k", &hello(true)).0, 200);
    let api = Api::start(&[("ERROR", "overloaded_error"), ("ERROR_IN_STREAM", "1")]);
    let (status, _, body) = api.message("k", &hello(true));
    let names: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!((status, names), (200, vec!["message_start", "content_block_start", "ping", "error"]));
    // A whole answer has no stream to break.
    assert_eq!(api.message("k", &hello(false)).0, 529);
}

fn under_it(script: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn child_program_gets_address_and_input_and_sets_the_exit() {
    let mut child =
        under_it(r#"read -r line; echo "$line $ANTHROPIC_BASE_URL"; exit 7"#).spawn().expect("a program");
    child.stdin.take().expect("stdin").write_all(b"said\n").expect("input");
    let output = child.wait_with_output().expect("an end");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("said http://127.0.0.1:"), "{text}");
    assert_eq!(output.status.code(), Some(7));
    let killed = under_it("kill -s KILL $$").output().expect("an end");
    assert_eq!(killed.status.code(), Some(137));
    let missing = Command::new(PROGRAM).args(["--", "/no/such/program"]).output().expect("an end");
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));
}

#[test]
fn signal_is_passed_to_the_child_program() {
    let mut child = under_it("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done")
        .spawn()
        .expect("a program");
    let mut output = BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("a signal");
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "up\nbye\n");
    assert_eq!(child.wait().expect("an end").code(), Some(9));
}

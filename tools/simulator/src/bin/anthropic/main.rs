//! A fake of the Anthropic Messages API, on loopback, for the real `claude` CLI.
//!
//! ```text
//! anthropic-api [--port N]                     serves until its stdin ends or a signal comes; prints {"url": …}
//! anthropic-api [--port N] -- PROGRAM ARGS…    runs PROGRAM with ANTHROPIC_BASE_URL set to itself, and ends with it
//! ```
//!
//! The second form runs it in a pod: `claude` there is a one-line script that runs the real CLI under it. Standard input and output are the CLI's own, signals are passed on, and the exit code is the CLI's
//! (128 and the signal's number when one killed it).
//!
//! It takes `POST /v1/messages`, streamed or not, checks key and conversation as the API does, and answers by scenario
//! and by the conversation so far. Between requests it keeps only their number. Each request and its answer are written
//! to a file, one JSON object per line.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `ANTHROPIC_STAND_IN_SCENARIO` | `text` | `text`, `thinking`, `tools` or `background` |
//! | `ANTHROPIC_STAND_IN_KEY` | any but an empty one | the key that is accepted |
//! | `ANTHROPIC_STAND_IN_ERROR` | none | error type to answer with, such as `overloaded_error` |
//! | `ANTHROPIC_STAND_IN_ERRORS` | all | how many requests get it, from the first on |
//! | `ANTHROPIC_STAND_IN_ERROR_IN_STREAM` | off | 1: it comes as an event in a stream that began well |
//! | `ANTHROPIC_STAND_IN_SECONDS` | 0 | how long the streaming of an answer takes |
//! | `ANTHROPIC_STAND_IN_RECORD` | none | the file |

mod api;
mod reply;

use api::{ApiError, Conversation, Credentials, ErrorType};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reply::Scenario;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: anthropic-api [--port N] [-- PROGRAM ARGS...]";
const PREFIX: &str = "ANTHROPIC_STAND_IN_";
/// The API's own limit.
const MOST_BODY: usize = 32 << 20;
/// The events that come before one that breaks a stream: the message has begun, and its first block.
const BEFORE_ERROR: usize = 3;

// ---------------------------------------------------------------- settings

#[derive(Debug, PartialEq)]
struct Settings {
    scenario: Scenario,
    key: Option<String>,
    failure: Option<Failure>,
    duration: Duration,
    record: Option<PathBuf>,
}

#[derive(Debug, PartialEq)]
struct Failure {
    kind: ErrorType,
    times: u64,
    in_stream: bool,
}

impl Settings {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty());
        let bad = |name: &str, value: &str| format!("{PREFIX}{name}: {value:?} cannot be used");
        let scenario = match variable("SCENARIO") {
            None => Scenario::Text,
            Some(name) => Scenario::named(&name).ok_or_else(|| bad("SCENARIO", &name))?,
        };
        let times = match variable("ERRORS") {
            None => u64::MAX,
            Some(n) => n.parse().map_err(|_| bad("ERRORS", &n))?,
        };
        let in_stream = match variable("ERROR_IN_STREAM").as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => return Err(bad("ERROR_IN_STREAM", other)),
        };
        let failure = match variable("ERROR") {
            None => None,
            Some(name) => {
                let kind = ErrorType::named(&name).ok_or_else(|| bad("ERROR", &name))?;
                Some(Failure { kind, times, in_stream })
            }
        };
        let duration = match variable("SECONDS") {
            None => Duration::ZERO,
            Some(n) => n
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| bad("SECONDS", &n))?,
        };
        Ok(Settings {
            scenario,
            key: variable("KEY"),
            failure,
            duration,
            record: variable("RECORD").map(Into::into),
        })
    }
}

// ---------------------------------------------------------------- answers

type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

struct Server {
    settings: Settings,
    /// How many requests for a message came.
    asked: AtomicU64,
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let request_id = fresh("req_");
        let (head, body) = request.into_parts();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let credentials =
            Credentials { api_key: header("x-api-key"), authorization: header("authorization") };
        let mut record = json!({
            "method": head.method.as_str(), "path": head.uri.path(),
            "retry": header("x-stainless-retry-count"), "session": header("x-claude-code-session-id"),
        });
        let outcome = match (&head.method, head.uri.path()) {
            (&Method::POST, "/v1/messages") => {
                let version = header("anthropic-version").is_some();
                self.message(credentials, version, body, &mut record).await
            }
            // Some clients check with HEAD whether the server answers.
            (&Method::HEAD, _) => {
                self.note(&mut record, 200);
                return response(200, &request_id, "text/plain", Either::Left(Full::default()));
            }
            _ => Err(ApiError::plain(ErrorType::NotFound)),
        };
        let (message, stream) = match outcome {
            Ok(found) => found,
            Err(error) => return self.refuse(&error, &request_id, &mut record),
        };
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let failure = self.settings.failure.as_ref().filter(|failure| turn < failure.times);
        let error = failure.map(|failure| ApiError::plain(failure.kind));
        match error {
            Some(error) if !stream || failure.is_none_or(|failure| !failure.in_stream) => {
                self.refuse(&error, &request_id, &mut record)
            }
            error => {
                record["error"] = error.as_ref().map(|error| error.kind.name()).into();
                if error.is_none() {
                    record["usage"] = message["usage"].clone();
                }
                self.note(&mut record, 200);
                if !stream {
                    let text = Bytes::from(message.to_string());
                    return response(200, &request_id, "application/json", Either::Left(text.into()));
                }
                let mut events = reply::events(&message);
                if let Some(error) = error {
                    events.truncate(BEFORE_ERROR);
                    events.push(error.to_json(&request_id));
                }
                let (sender, channel) = Channel::new(1);
                let pause = self.settings.duration / u32::try_from(events.len()).unwrap_or(u32::MAX);
                tokio::spawn(send(events, sender, pause));
                response(200, &request_id, "text/event-stream; charset=utf-8", Either::Right(channel))
            }
        }
    }

    /// Takes or refuses a request for a message.
    async fn message(
        &self,
        credentials: Credentials<'_>,
        version: bool,
        body: Incoming,
        record: &mut Value,
    ) -> Result<(Value, bool), ApiError> {
        credentials.check(self.settings.key.as_deref())?;
        let invalid =
            |message: &str| ApiError { kind: ErrorType::InvalidRequest, message: message.to_owned() };
        if !version {
            return Err(invalid("anthropic-version: header is required"));
        }
        let whole = Limited::new(body, MOST_BODY).collect().await;
        let bytes = whole.map_err(|_| ApiError::plain(ErrorType::RequestTooLarge))?.to_bytes();
        let body: Value =
            serde_json::from_slice(&bytes).map_err(|_| invalid("The request body is not valid JSON"))?;
        record["model"] = body["model"].clone();
        record["messages"] = body["messages"].clone();
        record["system"] = body["system"].clone();
        record["effort"] = body["output_config"]["effort"].clone();
        record["tools"] = body["tools"]
            .as_array()
            .map(|tools| tools.iter().map(|tool| tool["name"].clone()).collect())
            .unwrap_or_default();
        let conversation = Conversation::of(&body)?;
        Ok((reply::message(self.settings.scenario, &conversation, fresh), conversation.stream))
    }

    fn refuse(&self, error: &ApiError, request_id: &str, record: &mut Value) -> Response<Body> {
        let status = error.kind.status();
        record["error"] = error.kind.name().into();
        record["message"] = error.message.clone().into();
        self.note(record, status);
        let text = Bytes::from(error.to_json(request_id).to_string());
        let mut answer = response(status, request_id, "application/json", Either::Left(text.into()));
        let retry = if error.kind.worth_a_retry() { "true" } else { "false" };
        answer.headers_mut().insert("x-should-retry", hyper::header::HeaderValue::from_static(retry));
        answer
    }

    fn note(&self, record: &mut Value, status: u16) {
        record["status"] = status.into();
        let Some(path) = &self.settings.record else { return };
        let line = format!("{record}\n");
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("anthropic-api: {}: {error}", path.display());
        }
    }
}

fn response(status: u16, request_id: &str, kind: &str, body: Body) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("cache-control", "no-cache")
        .header("request-id", request_id)
        .body(body)
        .unwrap_or_else(|error| unreachable!("headers of known values: {error}"))
}

/// Sends the events at an even pace while the client listens.
async fn send(events: Vec<Value>, mut to: Sender<Bytes, Infallible>, pause: Duration) {
    for event in events {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if to.send_data(Bytes::from(reply::wire(&event))).await.is_err() {
            return;
        }
    }
}

/// A new id, such as `msg_01…`.
fn fresh(prefix: &str) -> String {
    let mut bytes = [0; 11];
    if let Err(error) = getrandom::fill(&mut bytes) {
        unreachable!("the system has no randomness: {error}");
    }
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}01{digits}")
}

// ---------------------------------------------------------------- the process

async fn serve(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            // Out of file descriptors: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = tcp.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

/// Resolves with each signal that ends programs.
struct Signals([(tokio::signal::unix::Signal, Signal); 3]);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals([
            (signal(SignalKind::terminate())?, Signal::SIGTERM),
            (signal(SignalKind::interrupt())?, Signal::SIGINT),
            (signal(SignalKind::hangup())?, Signal::SIGHUP),
        ]))
    }

    async fn next(&mut self) -> Signal {
        let [(term, term_signal), (int, int_signal), (hup, hup_signal)] = &mut self.0;
        tokio::select! {
            _ = term.recv() => *term_signal,
            _ = int.recv() => *int_signal,
            _ = hup.recv() => *hup_signal,
        }
    }
}

async fn run_program(program: &[String], url: &str, mut signals: Signals) -> io::Result<ExitCode> {
    let mut child = Command::new(&program[0])
        .args(&program[1..])
        .env("ANTHROPIC_BASE_URL", url)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program[0])))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            signal = signals.next() => {
                if let Some(pid) = pid {
                    // It may have ended in this very moment.
                    let _ = kill(pid, signal);
                }
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

async fn stdin_eof() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 256];
    while matches!(input.read(&mut buffer).await, Ok(n) if n > 0) {}
}

/// Port and, where there is one, the program with its arguments.
fn arguments(mut args: impl Iterator<Item = String>) -> Result<(u16, Option<Vec<String>>), String> {
    let mut port = 0;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--port" => {
                let value = args.next().ok_or("--port needs a value")?;
                port = value.parse().map_err(|_| format!("--port: {value:?} is not a port"))?;
            }
            "--" => {
                let program: Vec<String> = args.collect();
                return if program.is_empty() {
                    Err("-- needs a program".into())
                } else {
                    Ok((port, Some(program)))
                };
            }
            _ => return Err(format!("unknown argument {arg:?}; {USAGE}")),
        }
    }
    Ok((port, None))
}

async fn run(port: u16, program: Option<Vec<String>>, settings: Settings) -> io::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(serve(Arc::new(Server { settings, asked: AtomicU64::new(0) }), listener));
    let code = match program {
        Some(program) => run_program(&program, &url, signals).await,
        None => {
            println!("{}", json!({ "url": url }));
            tokio::select! {
                _ = signals.next() => {}
                () = stdin_eof() => {}
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    serving.abort();
    code
}

fn main() -> ExitCode {
    let fail = |why: String| {
        eprintln!("anthropic-api: {why}");
        ExitCode::from(2)
    };
    let read = arguments(std::env::args().skip(1))
        .and_then(|arguments| Ok((arguments, Settings::read(|name| std::env::var(name).ok())?)));
    let ((port, program), settings) = match read {
        Ok(read) => read,
        Err(why) => return fail(why),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error.to_string()),
    };
    let done = runtime.block_on(run(port, program, settings));
    // A blocked read of stdin must not hold the process.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(|name| {
            let found = variables.iter().find(|(key, _)| name.strip_prefix(PREFIX) == Some(key));
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn settings_are_read_from_variables_and_bad_ones_named() {
        let plain = settings(&[("KEY", "")]).expect("settings");
        assert_eq!((plain.scenario, plain.key, plain.failure), (Scenario::Text, None, None));
        let overloaded = settings(&[("ERROR", "overloaded_error"), ("ERRORS", "2"), ("SECONDS", "0.5")]);
        let overloaded = overloaded.expect("settings");
        let failure = Failure { kind: ErrorType::Overloaded, times: 2, in_stream: false };
        assert_eq!(overloaded.failure, Some(failure));
        assert_eq!(overloaded.duration, Duration::from_millis(500));
        for (name, value) in [
            ("SCENARIO", "opera"),
            ("ERROR", "teapot_error"),
            ("ERRORS", "-1"),
            ("ERROR_IN_STREAM", "maybe"),
            ("SECONDS", "-1"),
        ] {
            let why = settings(&[(name, value)]).expect_err("a complaint");
            assert!(why.contains(name) && why.contains(value), "{why}");
        }
    }

    #[test]
    fn arguments_after_two_dashes_belong_to_the_program() {
        let read = |args: &[&str]| arguments(args.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(read(&[]), Ok((0, None)));
        let program = Some(vec!["claude".to_owned(), "--port".to_owned(), "-".to_owned()]);
        assert_eq!(read(&["--port", "8080", "--", "claude", "--port", "-"]), Ok((8080, program)));
        for args in [&["--port"][..], &["--port", "x"], &["--"], &["claude"]] {
            assert!(read(args).is_err(), "{args:?}");
        }
    }
}

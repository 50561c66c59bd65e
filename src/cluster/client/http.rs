//! Requests to an API server: sent, limited, their answers collected, their failures made errors.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WARNING};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use kube::client::Body;
use serde::de::DeserializeOwned;

use crate::cluster::permissions::Permissions;
use crate::cluster::{ApiError, ApiErrorKind, Gate, MOST_WARNINGS};

/// How long a server may take until its response headers (seconds stand for a slow API, not for a dead one).
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// This many requests may be in flight at once, watches and logs apart.
const MOST_REQUESTS: usize = 32;
/// This many of them may check silent logs: thousands of runs have one, and do not wait for the answer.
const MOST_LOG_CHECKS: usize = 2;
/// How long a request waits in line for that. Thousands of runs that start at once make a line of several seconds.
pub(super) const LINE_LIMIT: Duration = Duration::from_secs(10);
/// The same for a deletion: what a run leaves behind does not wait for those that start.
const LINE_LIMIT_OF_DELETIONS: Duration = Duration::from_secs(1);

/// Most bytes of an answer: lists of some thousand Jobs or pods. A longer one would fill the host's memory.
const MOST_ANSWER: usize = 64 * 1024 * 1024;
/// How much is read of an answer that is an error; a `Status` object is far smaller.
const MOST_ERROR: usize = 256 * 1024;

/// The longest wait that a server can ask for. Of more no run would see the end, and a clock cannot hold all of it.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Of each warning of a server this much is kept.
const MOST_WARNING_CHARACTERS: usize = 2_000;

pub(super) const JSON: &str = "application/json";
pub(super) const JSON_PATCH: &str = "application/json-patch+json";

/// Sends requests to one API server.
pub(super) struct ApiClient {
    client: kube::Client,
    /// Host and port, as messages name the server.
    pub(super) host: String,
    gate: Gate,
    /// For the checks of silent logs.
    pub(super) log_checks: Gate,
    permissions: Permissions,
}

impl ApiClient {
    pub(super) fn new(client: kube::Client, host: String) -> Self {
        Self {
            client,
            host,
            gate: Gate::new(MOST_REQUESTS),
            log_checks: Gate::new(MOST_LOG_CHECKS),
            permissions: Permissions::default(),
        }
    }

    /// Sends a request; an answer of 2xx is returned at its headers, any other becomes an error.
    pub(super) async fn send(
        &self,
        attempt: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let started = Instant::now();
        let method = request.method().clone();
        // Without the query, which may hold more than a log should.
        let uri = request.uri().clone();
        let access = access(&request);
        let result = self.permissions.judge(&access, self.send_unlogged(attempt, request).await);
        let (method, path, ms) = (method.as_str(), uri.path(), started.elapsed().as_millis());
        match &result {
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(request = attempt, status, ms, method, path, "answered");
            }
            Err(error) => {
                let status = error.code;
                tracing::debug!(request = attempt, status, ms, method, path, error = error.message, "failed");
            }
        }
        result
    }

    async fn send_unlogged(&self, attempt: &str, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let response = tokio::time::timeout(ANSWER_LIMIT, self.client.send(request))
            .await
            .map_err(|_| {
                ApiError::local(
                    ApiErrorKind::Timeout,
                    attempt,
                    format!("no answer from {} within {} s", self.host, ANSWER_LIMIT.as_secs()),
                )
            })?
            .map_err(|error| self.failed(attempt, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        // Of an error text that breaks off its beginning counts.
        let mut body = Vec::new();
        let read = read_body(response.into_body(), MOST_ERROR, &mut body);
        let _ = tokio::time::timeout(ANSWER_LIMIT, read).await;
        Err(ApiError::from_answer(attempt, status.as_u16(), retry_after, &body))
    }

    /// The whole body of an answer.
    pub(super) async fn collect(&self, attempt: &str, response: Response<Body>) -> Result<Vec<u8>, ApiError> {
        let mut body = Vec::new();
        let read = read_body(response.into_body(), MOST_ANSWER, &mut body);
        let read = tokio::time::timeout(ANSWER_LIMIT, read).await;
        match read {
            Ok(Ok(true)) => Ok(body),
            Ok(Ok(false)) => Err(ApiError::local(
                ApiErrorKind::Decode,
                attempt,
                format!("the answer of {} to `{attempt}` is longer than {MOST_ANSWER} bytes", self.host),
            )),
            Ok(Err(error)) => Err(self.failed(attempt, error)),
            Err(_) => Err(ApiError::local(
                ApiErrorKind::Timeout,
                attempt,
                format!(
                    "the answer of {} did not arrive whole within {} s",
                    self.host,
                    ANSWER_LIMIT.as_secs()
                ),
            )),
        }
    }

    /// An error without an answer: host, port and the deepest cause.
    fn failed(&self, attempt: &str, error: impl std::error::Error + Send + Sync + 'static) -> ApiError {
        let text = format!("request to {} failed, reason: {}", self.host, causes(&error));
        let unsent = is_connect(&error);
        ApiError { unsent, ..ApiError::local(ApiErrorKind::Connection, attempt, text) }.with_source(error)
    }

    /// Sends a request and decodes its answer. `body` comes with its content type.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        attempt: &str,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<T, ApiError> {
        self.ask_with_headers(attempt, method, path, body).await.map(|(answer, _)| answer)
    }

    /// The same, with the headers of the answer.
    pub(super) async fn ask_with_headers<T: DeserializeOwned>(
        &self,
        attempt: &str,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<(T, HeaderMap), ApiError> {
        let (body, headers) = self.fetch(attempt, method, path, body).await?;
        let answer = serde_json::from_slice(&body).map_err(|error| {
            let text = format!("the answer of {} to `{attempt}` could not be read: {error}", self.host);
            ApiError::local(ApiErrorKind::Decode, attempt, text).with_source(error)
        })?;
        Ok((answer, headers))
    }

    /// Sends a request once it is its turn, and collects its answer.
    pub(super) async fn fetch(
        &self,
        attempt: &str,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<(Vec<u8>, HeaderMap), ApiError> {
        let is_deletion = method == Method::DELETE;
        let request = request(attempt, method, path, body)?;
        let patience = if is_deletion { LINE_LIMIT_OF_DELETIONS } else { LINE_LIMIT };
        // On the heap: every stage of a run that may ask something would be larger by it.
        let answer = Box::pin(async {
            let mut response = self.send(attempt, request).await?;
            let headers = std::mem::take(response.headers_mut());
            Ok((self.collect(attempt, response).await?, headers))
        });
        self.gate.pass(patience, answer).await
    }

    /// The error of a body that breaks after its headers; `what` names the body.
    pub(super) fn broken(
        &self,
        attempt: String,
        what: &'static str,
    ) -> impl Fn(kube::Error) -> ApiError + Send + use<> {
        let host = self.host.clone();
        move |error| {
            let text = format!("the {what} of {host} broke: {}", causes(&error));
            ApiError::local(ApiErrorKind::Connection, attempt.as_str(), text).with_source(error)
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, attempt: &str, path: &str) -> Result<T, ApiError> {
        self.ask(attempt, Method::GET, path, None).await
    }
}

/// How long a server asks to wait, in whole seconds, and at most [`MOST_RETRY_AFTER`] of them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MOST_RETRY_AFTER))
}

/// Appends a body to `bytes`, up to this number of them. Returns whether that was the whole body.
async fn read_body<B: HttpBody<Data = Bytes> + Unpin>(
    mut body: B,
    most: usize,
    bytes: &mut Vec<u8>,
) -> Result<bool, B::Error> {
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let kept = data.len().min(most - bytes.len());
        bytes.extend_from_slice(&data[..kept]);
        if kept < data.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A request; `attempt` names it in errors.
pub(super) fn request(
    attempt: &str,
    method: Method,
    path: &str,
    body: Option<(&'static str, Vec<u8>)>,
) -> Result<Request<Body>, ApiError> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, JSON)
        .header(USER_AGENT, concat!("paperclip-adapter-claude-k8s/", env!("CARGO_PKG_VERSION")));
    let bytes = match body {
        Some((kind, bytes)) => {
            builder = builder.header(CONTENT_TYPE, kind);
            bytes
        }
        None => Vec::new(),
    };
    builder.body(Body::from(bytes)).map_err(|error| {
        ApiError::local(ApiErrorKind::BadRequest, attempt, format!("cannot ask for {path}: {error}"))
            .with_source(error)
    })
}

/// What a request asks for, as an authorizer sees it: verb, resource and namespace. Objects of all names count as one.
fn access<T>(request: &Request<T>) -> String {
    let uri = request.uri();
    let is_watch = uri.query().is_some_and(|query| query.contains("watch=true"));
    let verb = if is_watch { "WATCH" } else { request.method().as_str() };
    let mut segments: Vec<&str> = uri.path().split('/').collect();
    let namespaces = segments.iter().position(|segment| *segment == "namespaces");
    // namespaces/{namespace}/{resource}/{name}/{subresource}
    if let Some(name) = namespaces.and_then(|at| segments.get_mut(at + 3)) {
        *name = "*";
    }
    format!("{verb} {}", segments.join("/"))
}

/// The texts of the `Warning` headers (RFC 7234): `299 - "text"`, several of them in one header or in several.
pub(super) fn warnings(headers: &HeaderMap) -> Vec<String> {
    let mut texts = Vec::new();
    for header in headers.get_all(WARNING) {
        let header = String::from_utf8_lossy(header.as_bytes());
        let mut rest = header.as_ref();
        while let Some((text, behind)) = quoted(rest) {
            let text: String = text.trim().chars().take(MOST_WARNING_CHARACTERS).collect();
            if !text.is_empty() && !texts.contains(&text) && texts.len() < MOST_WARNINGS {
                texts.push(text);
            }
            // A date in quotes may follow.
            let behind = behind.trim_start();
            let behind =
                if behind.starts_with('"') { quoted(behind).map_or("", |(_, rest)| rest) } else { behind };
            rest = behind.split_once(',').map_or("", |(_, next)| next);
        }
    }
    texts
}

/// The first quoted string of a text without its backslashes, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let start = text.find('"')? + 1;
    let mut out = String::new();
    let mut escaped = false;
    for (at, character) in text[start..].char_indices() {
        match character {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return Some((out, &text[start + at + 1..])),
            _ => {
                out.push(character);
                escaped = false;
            }
        }
    }
    None
}

pub(super) fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    // Typed objects and JSON values always serialise: their keys are strings.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A path segment or query value: everything but unreserved characters is escaped.
pub(super) fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Whether the connection itself could not be made.
fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        next = error.source();
    }
    false
}

/// An error and its causes in one line, without the layers that only say that something below them failed.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if let Some(last) = parts.last_mut()
            && let Some(head) = last.strip_suffix(&text)
        {
            *last = head.trim_end_matches([':', ' ']).to_owned();
        }
        parts.push(text);
        next = error.source();
    }
    parts.retain(|part| !part.is_empty() && part != "client error (Connect)" && part != "ServiceError");
    parts.dedup();
    parts.join(": ").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    #[test]
    fn warnings_are_read_from_their_headers() {
        let mut headers = HeaderMap::new();
        for value in [
            r#"299 - "would violate PodSecurity \"restricted\": x" "Sun, 29 Nov 2026 00:00:00 GMT", 299 kube "b, c""#,
            r#"299 - "b, c""#,
            r#"299 - "unfinished"#,
            "299 - \"tab\there\"",
        ] {
            headers.append(WARNING, value.parse().expect("a value"));
        }
        let expected = ["would violate PodSecurity \"restricted\": x", "b, c", "tab\there"];
        assert_eq!(warnings(&headers), expected);
        for n in 0..20 {
            headers.append(WARNING, format!("299 - \"{n}\"").parse().expect("a value"));
        }
        assert_eq!(warnings(&headers).len(), MOST_WARNINGS);
    }

    #[test]
    fn retry_after_has_a_limit() {
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("18446744073709551615", Some(3600)),
            ("-1", None),
            ("99999999999999999999", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a value"))]);
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[tokio::test]
    async fn body_is_read_up_to_its_limit() {
        let pieces =
            || futures::stream::iter((0..10).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"12345"))));
        let body = || StreamBody::new(pieces().map(|piece| piece.map(Frame::data)));
        for (most, whole) in [(49, false), (50, true), (0, false), (7, false)] {
            let mut bytes = Vec::new();
            assert_eq!(read_body(body(), most, &mut bytes).await.ok(), Some(whole), "{most}");
            assert_eq!(bytes.len(), most, "{most}");
        }
    }

    #[test]
    fn access_is_verb_resource_and_namespace() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/namespaces/n/pods?labelSelector=a", "GET /api/v1/namespaces/n/pods"),
            (Method::GET, "/api/v1/namespaces/n/pods?watch=true&x=1", "WATCH /api/v1/namespaces/n/pods"),
            (
                Method::GET,
                "/api/v1/namespaces/n/pods/p/log?follow=true",
                "GET /api/v1/namespaces/n/pods/*/log",
            ),
            (Method::GET, "/api/v1/namespaces/n", "GET /api/v1/namespaces/n"),
            (
                Method::DELETE,
                "/apis/batch/v1/namespaces/n/jobs/j",
                "DELETE /apis/batch/v1/namespaces/n/jobs/*",
            ),
            (Method::POST, "/apis/batch/v1/namespaces/n/jobs", "POST /apis/batch/v1/namespaces/n/jobs"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).expect("a request");
            assert_eq!(access(&request), expected);
        }
    }

    #[test]
    fn selectors_and_names_are_escaped() {
        assert_eq!(escaped("paperclip.io/agent-id=a,b"), "paperclip.io%2Fagent-id%3Da%2Cb");
    }
}

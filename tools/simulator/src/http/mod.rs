//! Requests: who asks, what for, what goes wrong on purpose, and the record of it.

mod api;
mod body;
mod control;
mod logs;
mod requests;
mod watch;

pub(crate) use requests::RequestLog;

use crate::Sim;
use crate::authz::{Attributes, User};
use crate::faults::{Effect, RequestInfo};
use crate::kinds::{self, Kind, NAMESPACE};
use crate::server::Connection;
use crate::status::{ApiError, ApiResult};
use crate::util::percent_decode;
use body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use serde_json::Value;
use std::sync::Arc;

const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Query parameters in order.
#[derive(Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(raw: &str) -> Self {
        Query(
            raw.split('&')
                .filter(|p| !p.is_empty())
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    (percent_decode(k, true), percent_decode(v, true))
                })
                .collect(),
        )
    }

    /// A parameter that is present and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Whether a parameter is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    /// A number; a malformed one is a 400.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> ApiResult<Option<T>> {
        self.get(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    ApiError::bad_request(format!("invalid value {v:?} for query parameter {name}"))
                })
            })
            .transpose()
    }
}

/// The resource a path names.
struct Target {
    kind: &'static Kind,
    namespace: String,
    name: String,
    subresource: String,
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<String> = path.trim_matches('/').split('/').map(|p| percent_decode(p, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", ns, rest @ ..] if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") => {
            (*ns, rest)
        }
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [p] => (*p, "", ""),
        [p, n] => (*p, *n, ""),
        [p, n, s] => (*p, *n, *s),
        _ => return None,
    };
    let kind = kinds::find(group, version, plural)?;
    let fits = kind.namespaced || namespace.is_empty();
    let scoped = !kind.namespaced || !namespace.is_empty() || name.is_empty();
    let known = subresource.is_empty()
        || kind.subresources.contains(&subresource)
        || kind == &NAMESPACE && subresource == "finalize";
    (fits && scoped && known && !(rest.len() > 1 && name.is_empty())).then(|| Target {
        kind,
        namespace: namespace.to_string(),
        name: name.to_string(),
        subresource: subresource.to_string(),
    })
}

fn verb(method: &Method, t: &Target, query: &Query) -> &'static str {
    match (method, t.name.is_empty()) {
        (&Method::GET | &Method::HEAD, true) if query.flag("watch") => "watch",
        (&Method::GET | &Method::HEAD, true) => "list",
        (&Method::GET | &Method::HEAD, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => "",
    }
}

/// A JSON answer.
fn json(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut r = Response::new(Body::full(body));
    *r.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r
}

fn value(code: u16, v: &Value) -> Response<Body> {
    json(code, v.to_string())
}

fn failure(e: &ApiError) -> Response<Body> {
    let mut r = value(e.code, &e.status());
    if let Some(secs) = e.retry_after {
        r.headers_mut().insert("retry-after", secs.into());
    }
    r
}

fn plain(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut r = json(code, text);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    r
}

/// Everything a handler needs to know about one request.
struct Call {
    sim: Arc<Sim>,
    connection: Arc<Connection>,
    info: RequestInfo,
    query: Query,
    effect: Effect,
    content_type: String,
}

/// Answers one request.
pub(crate) async fn answer(
    sim: &Arc<Sim>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, incoming) = request.into_parts();
    let header = |name| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let path = head.uri.path().to_string();
    let raw_query = head.uri.query().unwrap_or("").to_string();
    let query = Query::parse(&raw_query);
    let target = target(&path);
    let user = sim.authz.user(header(AUTHORIZATION));
    let control = path.starts_with("/simulator/") || path == "/simulator";
    let mut info = RequestInfo {
        verb: head.method.as_str().to_ascii_lowercase(),
        user: user.as_ref().map_or(String::new(), |u| u.name.clone()),
        container: query.get("container").unwrap_or("").to_string(),
        path: path.clone(),
        query: raw_query,
        agent: header(USER_AGENT).unwrap_or("").to_string(),
        ..RequestInfo::default()
    };
    if let Some(t) = &target {
        describe_target(&mut info, t, &head.method, &query);
    }
    let content_type = header(CONTENT_TYPE).unwrap_or("").to_string();
    let read = async {
        Limited::new(incoming, BODY_LIMIT).collect().await.map(Collected::to_bytes).map_err(|_| {
            ApiError::new(
                413,
                "RequestEntityTooLarge",
                format!("Request entity too large: limit is {BODY_LIMIT}"),
            )
        })
    };
    if control {
        return match read.await.and_then(|body| control_body(user, &body)) {
            Ok(body) => control::answer(sim, head.method.as_str(), &path, &query, &body),
            Err(e) => failure(&e),
        };
    }
    let seq = sim.requests.begin(&info);
    let effect = sim.faults.pick(&info);
    // Also of a request that is refused: a client that is still sending its body when the answer comes sees the
    // connection break, and not the answer. A real API server reads what is left before it closes.
    let body = if effect.refuse { Ok(Bytes::new()) } else { read.await };
    if !effect.delay.is_zero() {
        tokio::time::sleep(effect.delay).await;
    }
    if effect.refuse {
        connection.reset();
        std::future::pending::<()>().await;
    }
    let outcome = async {
        if let Some(e) = &effect.status {
            return Err(e.clone());
        }
        let user = user?;
        if let Some(doc) = kinds::discovery(&path, &sim.address) {
            return discovery(&head.method, &user, &path, &doc);
        }
        if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
            return Ok(plain(200, "ok"));
        }
        let Some(t) = &target else {
            return Err(ApiError::no_such_path());
        };
        authorize(&user, &info.verb, t)?;
        let body = body?;
        let call = Call {
            sim: sim.clone(),
            connection: connection.clone(),
            info: info.clone(),
            query,
            effect,
            content_type,
        };
        api::answer(call, t, &user, &body).await
    }
    .await;
    let response = outcome.unwrap_or_else(|e| failure(&e));
    sim.requests.end(seq, response.status().as_u16());
    response
}

/// The body of a control request, which only the administrator may send.
fn control_body(user: ApiResult<Arc<User>>, body: &Bytes) -> ApiResult<Value> {
    if !user?.admin {
        return Err(ApiError::new(403, "Forbidden", "the control API is for the admin token"));
    }
    control::parse(body)
}

/// Adds what a request is about, as faults match it.
fn describe_target(info: &mut RequestInfo, t: &Target, method: &Method, query: &Query) {
    info.verb = verb(method, t, query).to_string();
    info.resource = t.kind.plural.to_string();
    info.subresource.clone_from(&t.subresource);
    info.namespace.clone_from(&t.namespace);
    info.name.clone_from(&t.name);
    if t.name.is_empty() && info.verb != "create" {
        let field = query.get("fieldSelector").unwrap_or("");
        if let Some(name) = field.strip_prefix("metadata.name=") {
            info.name = name.trim_start_matches('=').to_string();
        }
    }
}

fn discovery(method: &Method, user: &User, path: &str, doc: &Value) -> ApiResult<Response<Body>> {
    if method != Method::GET && method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    if user.name == "system:anonymous" && path != "/version" {
        return Err(ApiError::new(
            403,
            "Forbidden",
            format!("forbidden: User \"system:anonymous\" cannot get path \"{path}\""),
        ));
    }
    Ok(value(200, doc))
}

fn authorize(user: &User, verb: &str, t: &Target) -> ApiResult<()> {
    let namespace = if t.kind == &NAMESPACE && !t.name.is_empty() { &t.name } else { &t.namespace };
    let attributes = Attributes {
        verb,
        group: t.kind.group,
        resource: t.kind.plural,
        subresource: &t.subresource,
        namespace,
        name: &t.name,
    };
    // Every user may review its own permissions.
    if t.kind.is_review() || user.allows(&attributes) { Ok(()) } else { Err(attributes.denied(&user.name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_paths_are_parsed() {
        let t = target("/apis/batch/v1/namespaces/n/jobs/j/status").expect("known");
        assert_eq!((t.kind.plural, t.namespace.as_str(), t.name.as_str()), ("jobs", "n", "j"));
        assert!(target("/api/v1/namespaces/n").is_some_and(|t| t.kind == &NAMESPACE && t.name == "n"));
        assert!(target("/api/v1/pods").is_some_and(|t| t.namespace.is_empty()));
        for bad in [
            "/api/v1/pods/x",
            "/api/v1/namespaces/n/nodes",
            "/api/v1/namespaces/n/pods/x/exec",
            "/api/v1/namespaces/n/widgets",
            "/apis/batch/v1beta1/jobs",
            "/nonsense",
        ] {
            assert!(target(bad).is_none(), "{bad}");
        }
    }
}

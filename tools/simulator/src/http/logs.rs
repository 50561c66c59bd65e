//! `pods/log`.

use super::{Body, Call, plain};
use crate::kinds::POD;
use crate::logs::{LogOptions, LogReader, Progress};
use crate::server::Connections;
use crate::status::{ApiError, ApiResult};
use crate::store::Object;
use crate::time;
use crate::util::{list_at, lock, str_at};
use bytes::BytesMut;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

const PIECE: usize = 128 * 1024;

fn options(call: &Call) -> ApiResult<LogOptions> {
    let q = &call.query;
    let mut since = None;
    if let Some(secs) = q.number::<i64>("sinceSeconds")? {
        if secs < 1 {
            let text = "PodLogOptions.\"\" is invalid: sinceSeconds: Invalid value: must be greater than 0";
            return Err(ApiError::new(422, "Invalid", text));
        }
        since = Some(time::now_ns() - secs * 1_000_000_000);
    }
    if let Some(text) = q.get("sinceTime") {
        if since.is_some() {
            let text = "PodLogOptions.\"\" is invalid: <nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
            return Err(ApiError::new(422, "Invalid", text));
        }
        let secs = time::parse_rfc3339(text).ok_or_else(|| {
            ApiError::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse"
            ))
        })?;
        since = Some(secs * 1_000_000_000);
    }
    Ok(LogOptions {
        follow: q.flag("follow"),
        timestamps: q.flag("timestamps"),
        since,
        tail: q.number("tailLines")?,
        limit: q.number("limitBytes")?,
    })
}

fn container<'a>(call: &'a Call, pod: &'a Object) -> ApiResult<&'a str> {
    let names =
        |p: &str| -> Vec<&str> { list_at(&pod.value, p).iter().map(|c| str_at(c, "/name")).collect() };
    let (mains, inits) = (names("/spec/containers"), names("/spec/initContainers"));
    match call.query.get("container") {
        None if mains.len() == 1 => Ok(mains[0]),
        None => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name,
                mains.join(" ")
            );
            if !inits.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
        Some(name) if mains.contains(&name) || inits.contains(&name) => Ok(name),
        Some(name) => {
            Err(ApiError::bad_request(format!("container {name} is not valid for pod {}", pod.name)))
        }
    }
}

fn status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|k| list_at(&pod["status"], &format!("/{k}")))
        .find(|s| s["name"] == container)
}

/// Answers a log request.
pub(super) async fn answer(call: Call, pod: &Object) -> ApiResult<Response<Body>> {
    let options = options(&call)?;
    let name = container(&call, pod)?.to_string();
    if let Some(text) = &call.effect.log_text {
        return Ok(plain(200, text.clone()));
    }
    // A pod without a node has an empty log.
    if str_at(&pod.value, "/spec/nodeName").is_empty() {
        return Ok(plain(200, ""));
    }
    if call.query.flag("previous") {
        let text = format!("previous terminated container {name:?} in pod {:?} not found", pod.name);
        return Err(ApiError::bad_request(text));
    }
    let waiting = |s: &Value| s.pointer("/state/waiting/reason").and_then(Value::as_str).map(str::to_string);
    let status = status(&pod.value, &name);
    let restarted = status.is_some_and(|s| s["restartCount"].as_u64().unwrap_or(0) > 0);
    let reason = status.map_or(Some("ContainerCreating".to_string()), waiting);
    if let Some(reason) = reason.filter(|_| !restarted) {
        let why = match reason.as_str() {
            "ErrImagePull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            other => other,
        };
        return Err(ApiError::bad_request(format!(
            "container {name:?} in pod {:?} is waiting to start: {why}",
            pod.name
        )));
    }
    call.sim.kubelet.awake().await;
    let log = call
        .sim
        .kubelet
        .run_of(&pod.uid)
        .and_then(|r| r.log(&name))
        .ok_or_else(|| ApiError::not_found(&POD, &pod.name))?;
    let (body, mut sender) = Body::stream(call.connection.clone(), call.effect.stream);
    let guard = Connections::stream(
        &call.sim,
        json!({
            "type": "log", "namespace": pod.namespace, "name": pod.name, "container": name,
            "follow": options.follow, "userAgent": call.info.agent, "user": call.info.user,
            "query": call.info.query,
        }),
    );
    let sim = call.sim.clone();
    let check = lock(&sim.settings).log_check();
    tokio::spawn(async move {
        let _guard = guard;
        let mut reader = LogReader::new(options);
        let mut out = BytesMut::with_capacity(PIECE);
        if sender.begin().await.is_err() {
            return;
        }
        loop {
            let progress = tokio::select! {
                p = reader.wait(&log, &mut out, PIECE, check) => p,
                () = sender.closed() => return,
            };
            tokio::select! {
                () = sim.kubelet.awake() => {}
                () = sender.closed() => return,
            }
            if !out.is_empty() && sender.send(out.split().freeze()).await.is_err() {
                return;
            }
            if progress == Progress::End {
                return;
            }
            if out.capacity() < PIECE {
                out.reserve(PIECE);
            }
        }
    });
    let mut r = Response::new(body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(r)
}

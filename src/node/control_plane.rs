//! Asks Paperclip's own API for the status of a run.

use std::sync::OnceLock;
use std::time::Duration;

use http::Request;
use http::header::{ACCEPT, AUTHORIZATION};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::run::{StatusAnswer, StatusQuery};

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<bytes::Bytes>>;

/// How long an answer may take; a run asks again 15 s later.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A run object is a few KiB; a larger body is not one.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

fn client() -> Option<&'static HttpClient> {
    static CLIENT: OnceLock<Option<HttpClient>> = OnceLock::new();
    CLIENT
        .get_or_init(|| {
            let tls = hyper_rustls::HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .ok()?
                .https_or_http()
                .enable_http1()
                .build();
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(60))
                .build(tls);
            Some(client)
        })
        .as_ref()
}

/// The status of a run; [`StatusAnswer::Unreachable`] when there is no answer in time.
pub(super) async fn run_status(query: StatusQuery<'_>) -> StatusAnswer {
    tokio::time::timeout(TIMEOUT, answer(query)).await.ok().flatten().unwrap_or(StatusAnswer::Unreachable)
}

async fn answer(query: StatusQuery<'_>) -> Option<StatusAnswer> {
    let request = Request::get(format!("{}/api/heartbeat-runs/{}", query.api_url, query.run_id))
        .header(AUTHORIZATION, format!("Bearer {}", query.token))
        .header(ACCEPT, "application/json")
        .body(Empty::new())
        .ok()?;
    let response = client()?.request(request).await.ok()?;
    if !response.status().is_success() {
        return Some(StatusAnswer::Refused(response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.ok()?.to_bytes();
    let run: serde_json::Value = serde_json::from_slice(&body).ok()?;
    Some(StatusAnswer::Status(run.get("status").and_then(|status| status.as_str()).map(str::to_owned)))
}

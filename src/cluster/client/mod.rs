//! The cluster over HTTPS: one `kube` client per kubeconfig, and every request written out once.
//!
//! `kube` reads kubeconfigs, authenticates and sets TLS up. The requests themselves are made here rather than
//! through its typed `Api`, because that drops `Retry-After`, retries silently, rounds `sinceTime` up and ends a
//! Job without its pods by default.

mod log_stream;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::client::{Body, ConfigExt as _};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower::{BoxError, ServiceBuilder};

use self::log_stream::request::{Answer, Connector, OwnBody, OwnConnection, Transport};
use self::log_stream::socket::Socket;
use self::log_stream::tls;
use super::{
    AccessQuestion, ApiError, ApiErrorKind, Cluster, Clusters, LogBody, LogQuery, LogRead, ReadResult,
    WatchBody, WatchKind, WatchQuery, log_of,
};

/// How long a server may take until its response headers (seconds stand for a slow API, not for a dead one).
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// So many requests are under way at once, watches and logs apart, where the server answers in time: each would have
/// a connection and a TLS handshake of its own, and a server serves them no sooner. A request waits for its turn
/// for [`TURN_LIMIT`] at most, so that a slow server holds up nobody but those it serves.
const MOST_REQUESTS: usize = 32;
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// TCP keep-alive: finds a dead peer under an idle log or watch.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Where a pod finds its own account.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A client is built anew this long before its exec plugin's certificate ends.
const RENEWAL_MARGIN_SEC: i64 = 60;

/// The clusters of this process, by kubeconfig path (`""`: the one it runs in) and in-cluster address.
#[derive(Default)]
pub struct KubeClusters {
    known: Mutex<HashMap<String, Arc<KubeCluster>>>,
}

impl Clusters for KubeClusters {
    type Cluster = KubeCluster;

    async fn cluster(
        &self,
        kubeconfig: Option<&str>,
        env: &BTreeMap<String, String>,
    ) -> Result<Arc<KubeCluster>, ApiError> {
        // The modification time stands for the contents: a rewritten kubeconfig is read again.
        let key = match kubeconfig {
            Some(path) => {
                let changed = tokio::fs::metadata(path).await.and_then(|meta| meta.modified()).ok();
                format!("{path}\n{changed:?}")
            }
            None => format!(
                "\n{}:{}",
                env.get("KUBERNETES_SERVICE_HOST").map_or("", String::as_str),
                env.get("KUBERNETES_SERVICE_PORT").map_or("", String::as_str)
            ),
        };
        if let Some(cluster) = self.lock().get(&key)
            && !cluster.expires_soon()
        {
            return Ok(cluster.clone());
        }
        let config = match kubeconfig {
            Some(path) => config_from_file(path).await?,
            None => config_in_cluster(env)?,
        };
        let cluster = Arc::new(KubeCluster::new(config, env)?);
        let mut known = self.lock();
        // Runs that start together share one client, and so its watches.
        if let Some(other) = known.get(&key).filter(|other| !other.expires_soon()) {
            return Ok(other.clone());
        }
        // What the file said before is of no use to anybody but the runs that go on with it.
        let file = |key: &str| key.rsplit_once('\n').map(|(path, _)| path.to_owned());
        known.retain(|other, _| file(other) != file(&key));
        known.insert(key, cluster.clone());
        Ok(cluster)
    }
}

impl KubeClusters {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<KubeCluster>>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn config_from_file(path: &str) -> Result<kube::Config, ApiError> {
    let attempt = "read the kubeconfig";
    let setup = |text: String| ApiError::local(ApiErrorKind::Setup, attempt, text);
    // Node's wording: hosts and operators know this line from the existing package.
    tokio::fs::metadata(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => setup(format!("ENOENT: no such file or directory, open '{path}'")),
        std::io::ErrorKind::PermissionDenied => setup(format!("EACCES: permission denied, open '{path}'")),
        _ => setup(format!("cannot read the kubeconfig {path}: {error}")),
    })?;
    let described =
        |error: &dyn std::error::Error| setup(format!("cannot use the kubeconfig {path}: {}", causes(error)));
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| described(&error))?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| described(&error))
}

fn config_in_cluster(env: &BTreeMap<String, String>) -> Result<kube::Config, ApiError> {
    let attempt = "find the cluster this process runs in";
    let setup = |text: String| ApiError::local(ApiErrorKind::Setup, attempt, text);
    let (Some(host), Some(port)) = (env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT"))
    else {
        return Err(setup(
            "Invalid URL: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; this process does \
             not run in a cluster, so the adapter config needs a `kubeconfig` path"
                .to_owned(),
        ));
    };
    let scheme = if matches!(port.as_str(), "80" | "8080" | "8001") { "http" } else { "https" };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
    let url = format!("{scheme}://{host}:{port}");
    let uri = url.parse().map_err(|error| setup(format!("Invalid URL {url}: {error}")))?;
    let mut config = kube::Config::new(uri);
    config.root_cert_file = Some(PathBuf::from(format!("{ACCOUNT_DIR}/ca.crt")));
    config.auth_info = AuthInfo { token_file: Some(format!("{ACCOUNT_DIR}/token")), ..AuthInfo::default() };
    Ok(config)
}

/// One cluster: a client with its own connections.
pub struct KubeCluster {
    client: kube::Client,
    turns: Semaphore,
    host: String,
    valid_until: Option<jiff::Timestamp>,
}

impl KubeCluster {
    /// A client for this configuration. Nothing is sent.
    fn new(config: kube::Config, env: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let setup = |error: &dyn std::error::Error| {
            ApiError::local(
                ApiErrorKind::Setup,
                "set up the Kubernetes client",
                format!("cannot set up the Kubernetes client: {}", causes(error)),
            )
        };
        // Several TLS providers may be linked into one process; ours is named, not guessed.
        let _ = tls::provider().install_default();
        let host = format!(
            "{}:{}",
            config.cluster_url.host().unwrap_or("?"),
            config.cluster_url.port_u16().unwrap_or(if config.cluster_url.scheme_str() == Some("http") {
                80
            } else {
                443
            })
        );
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_connect_timeout(config.connect_timeout.or(Some(Duration::from_secs(30))));

        let mut http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        http.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(60));
        let base = config.base_uri_layer();
        let auth = config.auth_layer().map_err(|error| setup(&error))?;
        let headers = config.extra_headers_layer().map_err(|error| setup(&error))?;
        let stack =
            ServiceBuilder::new().layer(base).option_layer(auth).layer(headers).map_err(BoxError::from);
        let namespace = config.default_namespace.clone();
        let proxy = config
            .proxy_url
            .clone()
            .filter(|_| !goes_direct(config.cluster_url.host().unwrap_or_default(), &no_proxy(env)));
        let tls = Arc::new(config.rustls_client_config().map_err(|error| setup(&error))?);
        let name = config.tls_server_name.clone().map(ServerName::try_from).transpose();
        let name = name.map_err(|error| setup(&error))?;
        let client = match proxy {
            None => {
                let connector = Connector { tcp, tls, name };
                let pool = http.build(connector.for_pool());
                kube::Client::new(stack.service(Transport { pool, connector }), namespace)
            }
            Some(proxy) if proxy.scheme_str() == Some("http") => {
                let connector = Connector { tcp: Tunnel::new(proxy, tcp), tls, name };
                let pool = http.build(connector.for_pool());
                kube::Client::new(stack.service(Transport { pool, connector }), namespace)
            }
            Some(proxy) => {
                return Err(ApiError::local(
                    ApiErrorKind::Setup,
                    "set up the Kubernetes client",
                    format!(
                        "cannot use the proxy {proxy}: only http:// proxies are supported (see HTTPS_PROXY, \
                         NO_PROXY and the kubeconfig's proxy-url)"
                    ),
                ));
            }
        };
        // The client that `kube` builds by itself is the one place that runs exec plugins for their expiry;
        // certificates from plugins are rare, so the price of a second, unused client is fine.
        let valid_until = match &config.auth_info.exec {
            Some(_) => kube::Client::try_from(config).ok().and_then(|client| *client.valid_until()),
            None => None,
        };
        Ok(Self { client, turns: Semaphore::new(MOST_REQUESTS), host, valid_until })
    }

    fn expires_soon(&self) -> bool {
        self.valid_until
            .is_some_and(|until| until.as_second() - jiff::Timestamp::now().as_second() < RENEWAL_MARGIN_SEC)
    }

    /// The turn of a request whose answer is short, to be held until it is there.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(TURN_LIMIT, self.turns.acquire()).await.ok()?.ok()
    }

    /// Sends a request; an answer of 2xx is returned at its headers, any other becomes an error.
    async fn send(&self, attempt: &str, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let started = std::time::Instant::now();
        let result = self.send_unlogged(attempt, request).await;
        let ms = started.elapsed().as_millis();
        match &result {
            Ok(response) => {
                tracing::debug!(request = attempt, status = response.status().as_u16(), ms, "answered");
            }
            Err(error) => {
                tracing::debug!(request = attempt, status = error.code, ms, error = error.message, "failed");
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
            .map_err(|error| self.failed(attempt, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        let body = self.collect(attempt, response).await.unwrap_or_default();
        Err(ApiError::from_answer(attempt, status.as_u16(), retry_after, &body))
    }

    async fn collect(&self, attempt: &str, response: Response<Body>) -> Result<Vec<u8>, ApiError> {
        let collected = tokio::time::timeout(ANSWER_LIMIT, response.into_body().collect()).await;
        match collected {
            Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
            Ok(Err(error)) => Err(self.failed(attempt, &error)),
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
    fn failed(&self, attempt: &str, error: &dyn std::error::Error) -> ApiError {
        ApiError::local(
            ApiErrorKind::Connection,
            attempt,
            format!("request to {} failed, reason: {}", self.host, causes(error)),
        )
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        attempt: &str,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<T, ApiError> {
        let request = request(attempt, method, path, body)?;
        let turn = self.turn().await;
        let response = self.send(attempt, request).await?;
        let body = self.collect(attempt, response).await?;
        drop(turn);
        serde_json::from_slice(&body).map_err(|error| {
            ApiError::local(
                ApiErrorKind::Decode,
                attempt,
                format!("the answer of {} to `{attempt}` could not be read: {error}", self.host),
            )
        })
    }

    /// How the break of a body that goes on after its headers is told; `what` names it.
    fn broken(
        &self,
        attempt: String,
        what: &'static str,
    ) -> impl Fn(&dyn std::error::Error) -> ApiError + Send + use<> {
        let host = self.host.clone();
        move |error| {
            let text = format!("the {what} of {host} broke: {}", causes(error));
            ApiError::local(ApiErrorKind::Connection, attempt.as_str(), text)
        }
    }

    async fn get<T: DeserializeOwned>(&self, attempt: &str, path: &str) -> Result<T, ApiError> {
        self.ask(attempt, Method::GET, path, None).await
    }
}

/// A log on a connection of its own.
struct FollowedLog<B> {
    answer: Answer<Socket>,
    broken: B,
}

impl<B: Fn(&dyn std::error::Error) -> ApiError + Send> LogRead for FollowedLog<B> {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.answer.poll_readable(context)
    }

    fn try_read(&mut self, take: &mut dyn FnMut(&[u8])) -> ReadResult {
        self.answer.try_read(take).map_broken(|error| (self.broken)(error.as_ref()))
    }

    fn pause(&mut self) {
        self.answer.pause();
    }
}

fn request(
    attempt: &str,
    method: Method,
    path: &str,
    body: Option<(&'static str, Vec<u8>)>,
) -> Result<Request<Body>, ApiError> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, "application/json")
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
    })
}

fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    // Typed objects and JSON values always serialise: their keys are strings.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A path segment or query value: everything but unreserved characters is escaped.
fn escaped(text: &str) -> String {
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

fn jobs(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{}/jobs", escaped(namespace))
}

fn core(namespace: &str, resource: &str) -> String {
    format!("/api/v1/namespaces/{}/{resource}", escaped(namespace))
}

fn collection(kind: WatchKind, namespace: &str) -> String {
    match kind {
        WatchKind::Jobs => jobs(namespace),
        WatchKind::Pods => core(namespace, "pods"),
    }
}

/// An error and its causes in one line, without the layers that only say that something below them failed.
fn causes(error: &dyn std::error::Error) -> String {
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

fn no_proxy(env: &BTreeMap<String, String>) -> String {
    ["NO_PROXY", "no_proxy"].iter().find_map(|name| env.get(*name).cloned()).unwrap_or_default()
}

/// Whether `NO_PROXY` exempts this host: `*`, an exact name or address, or a domain suffix with or without its dot.
fn goes_direct(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let name = entry.rsplit_once(':').map_or(entry.as_str(), |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { entry.as_str() }
        });
        let domain = name.trim_start_matches("*.").trim_start_matches('.');
        !domain.is_empty()
            && (domain == "*"
                || host == domain
                || host.ends_with(&format!(".{domain}"))
                || in_range(&host, name))
    })
}

/// Whether an IPv4 address lies in a range written as `a.b.c.d/n`.
fn in_range(host: &str, range: &str) -> bool {
    let Some((net, bits)) = range.split_once('/') else { return false };
    let (Ok(host), Ok(net), Ok(bits)) =
        (host.parse::<std::net::Ipv4Addr>(), net.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>())
    else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits)).unwrap_or(0);
    bits <= 32 && u32::from(host) & mask == u32::from(net) & mask
}

#[derive(serde::Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";

impl Cluster for KubeCluster {
    async fn list_jobs(&self, namespace: &str, selector: &str) -> Result<Vec<Job>, ApiError> {
        let path = format!("{}?labelSelector={}", jobs(namespace), escaped(selector));
        let list: List<Job> = self.get(&format!("list jobs in {namespace}"), &path).await?;
        Ok(list.items)
    }

    async fn get_job(&self, namespace: &str, name: &str) -> Result<Job, ApiError> {
        let path = format!("{}/{}", jobs(namespace), escaped(name));
        self.get(&format!("get job {namespace}/{name}"), &path).await
    }

    async fn create_job(&self, namespace: &str, job: &Job) -> Result<Job, ApiError> {
        let attempt = format!("create job {namespace}/{}", job.metadata.name.as_deref().unwrap_or("?"));
        self.ask(&attempt, Method::POST, &jobs(namespace), Some((JSON, encoded(job)))).await
    }

    async fn patch_job(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        let path = format!("{}/{}", jobs(namespace), escaped(name));
        let attempt = format!("patch job {namespace}/{name}");
        self.ask::<Value>(&attempt, Method::PATCH, &path, Some((JSON_PATCH, encoded(patch)))).await?;
        Ok(())
    }

    async fn delete_job(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), ApiError> {
        let path = format!("{}/{}", jobs(namespace), escaped(name));
        // Without a policy the API server would orphan the pods of a batch/v1 Job.
        let mut options = json!({"propagationPolicy": "Background"});
        if let Some(uid) = uid {
            options["preconditions"] = json!({"uid": uid});
        }
        let attempt = format!("delete job {namespace}/{name}");
        self.ask::<Value>(&attempt, Method::DELETE, &path, Some((JSON, encoded(&options)))).await?;
        Ok(())
    }

    async fn create_secret(&self, namespace: &str, secret: &Secret) -> Result<(), ApiError> {
        let attempt = format!("create secret {namespace}/{}", secret.metadata.name.as_deref().unwrap_or("?"));
        let path = core(namespace, "secrets");
        self.ask::<Value>(&attempt, Method::POST, &path, Some((JSON, encoded(secret)))).await?;
        Ok(())
    }

    async fn patch_secret(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        let path = format!("{}/{}", core(namespace, "secrets"), escaped(name));
        let attempt = format!("patch secret {namespace}/{name}");
        self.ask::<Value>(&attempt, Method::PATCH, &path, Some((JSON_PATCH, encoded(patch)))).await?;
        Ok(())
    }

    async fn delete_secret(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let path = format!("{}/{}", core(namespace, "secrets"), escaped(name));
        let attempt = format!("delete secret {namespace}/{name}");
        self.ask::<Value>(&attempt, Method::DELETE, &path, None).await?;
        Ok(())
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        let path = format!("{}/{}", core(namespace, "pods"), escaped(name));
        self.get(&format!("get pod {namespace}/{name}"), &path).await
    }

    async fn list_pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, ApiError> {
        let path = format!("{}?labelSelector={}", core(namespace, "pods"), escaped(selector));
        let list: List<Pod> = self.get(&format!("list pods in {namespace}"), &path).await?;
        Ok(list.items)
    }

    async fn list_for_watch(
        &self,
        kind: WatchKind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<u8>, ApiError> {
        let attempt = format!("list {} in {namespace}", kind.resource());
        let path = format!("{}?labelSelector={}", collection(kind, namespace), escaped(selector));
        let response = self.send(&attempt, request(&attempt, Method::GET, &path, None)?).await?;
        self.collect(&attempt, response).await
    }

    async fn watch(
        &self,
        kind: WatchKind,
        namespace: &str,
        query: &WatchQuery,
    ) -> Result<WatchBody, ApiError> {
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&labelSelector={}&timeoutSeconds={}",
            collection(kind, namespace),
            escaped(&query.selector),
            query.timeout.as_secs().max(1)
        );
        if let Some(version) = &query.resource_version {
            path.push_str("&resourceVersion=");
            path.push_str(&escaped(version));
        }
        let attempt = format!("watch {} in {namespace}", kind.resource());
        let request = request(&attempt, Method::GET, &path, None)?;
        let response = self.send(&attempt, request).await?;
        let broken = self.broken(attempt, "watch");
        Ok(response
            .into_body()
            .into_data_stream()
            .map(move |piece| piece.map_err(|error| broken(&error)))
            .boxed())
    }

    async fn open_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &LogQuery,
    ) -> Result<LogBody, ApiError> {
        let mut path = format!(
            "{}/{}/log?container={}&timestamps=true",
            core(namespace, "pods"),
            escaped(pod),
            escaped(container)
        );
        if query.follow {
            path.push_str("&follow=true");
        }
        if let Some(since) = &query.since_time {
            path.push_str("&sinceTime=");
            path.push_str(&escaped(since));
        }
        let attempt = format!("read the log of pod {namespace}/{pod}");
        let mut request = request(&attempt, Method::GET, &path, None)?;
        if query.follow {
            request.extensions_mut().insert(OwnConnection);
        }
        let mut response = self.send(&attempt, request).await?;
        let broken = self.broken(attempt, "log stream");
        Ok(match response.extensions_mut().remove::<OwnBody>().and_then(OwnBody::take) {
            Some(answer) => Box::new(FollowedLog { answer, broken }),
            None => log_of(
                response
                    .into_body()
                    .into_data_stream()
                    .map(move |piece| piece.map_err(|error| broken(&error))),
            ),
        })
    }

    async fn get_namespace(&self, name: &str) -> Result<(), ApiError> {
        let path = format!("/api/v1/namespaces/{}", escaped(name));
        self.get::<Value>(&format!("get namespace {name}"), &path).await.map(drop)
    }

    async fn get_secret(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let path = format!("{}/{}", core(namespace, "secrets"), escaped(name));
        self.get::<Value>(&format!("get secret {namespace}/{name}"), &path).await.map(drop)
    }

    async fn claim_access_modes(&self, namespace: &str, name: &str) -> Result<Vec<String>, ApiError> {
        let path = format!("{}/{}", core(namespace, "persistentvolumeclaims"), escaped(name));
        let attempt = format!("get persistentvolumeclaim {namespace}/{name}");
        let claim: PersistentVolumeClaim = self.get(&attempt, &path).await?;
        Ok(claim.spec.and_then(|spec| spec.access_modes).unwrap_or_default())
    }

    async fn can_i(&self, question: AccessQuestion<'_>) -> Result<bool, ApiError> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(question.group.to_owned()),
                    resource: Some(question.resource.to_owned()),
                    verb: Some(question.verb.to_owned()),
                    namespace: Some(question.namespace.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let attempt = format!("review access to {} {}", question.verb, question.resource);
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer: SelfSubjectAccessReview =
            self.ask(&attempt, Method::POST, path, Some((JSON, encoded(&review)))).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_names_are_escaped_for_the_wire() {
        assert_eq!(escaped("paperclip.io/agent-id=a,b"), "paperclip.io%2Fagent-id%3Da%2Cb");
    }

    #[test]
    fn no_proxy_is_matched_against_the_cluster_not_the_proxy() {
        for (host, list, direct) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.1.2.3", "10.0.0.0/8,localhost", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("api.example.org", ".example.org", true),
            ("api.example.org", "example.org:6443", true),
            ("badexample.org", "example.org", false),
            ("anything", "*", true),
            ("anything", "", false),
        ] {
            assert_eq!(goes_direct(host, list), direct, "{host} with NO_PROXY={list}");
        }
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_reads_as_node_says_it() {
        let error = config_from_file("/no/such/kubeconfig").await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("ENOENT: no such file or directory, open '/no/such/kubeconfig'"));
    }

    #[tokio::test]
    async fn a_kubeconfig_has_one_client_also_when_runs_start_together_and_none_for_what_it_said_before() {
        let path = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        let write = |port: u16, age: u64| {
            let text = format!(
                r#"{{"clusters":[{{"name":"c","cluster":{{"server":"http://127.0.0.1:{port}"}}}}],
                    "contexts":[{{"name":"c","context":{{"cluster":"c","user":"u"}}}}],
                    "users":[{{"name":"u","user":{{}}}}],"current-context":"c"}}"#
            );
            std::fs::write(&path, text).expect("written");
            let file = std::fs::File::options().append(true).open(&path).expect("there");
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).expect("set");
        };
        let clusters = KubeClusters::default();
        let (name, env) = (path.to_str(), BTreeMap::new());
        write(1, 10);
        let asked = (0..8).map(|_| clusters.cluster(name, &env));
        let got = futures::future::try_join_all(asked).await.expect("a client");
        assert!(got.iter().all(|one| Arc::ptr_eq(one, &got[0])), "one for all");
        for (port, age) in [(2, 9), (3, 8)] {
            write(port, age);
            let renewed = clusters.cluster(name, &env).await.expect("a client");
            assert_eq!(renewed.host, format!("127.0.0.1:{port}"));
            assert_eq!(clusters.lock().len(), 1);
        }
        let before = Arc::downgrade(&got[0]);
        drop(got);
        assert!(before.upgrade().is_none(), "gone with its last run");
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn outside_a_cluster_the_error_says_what_to_do() {
        let error =
            config_in_cluster(&BTreeMap::new()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("KUBERNETES_SERVICE_HOST") && error.contains("kubeconfig"), "{error}");
    }
}

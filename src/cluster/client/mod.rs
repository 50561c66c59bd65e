//! The cluster over HTTPS: one `kube` client per kubeconfig, and every request written out once.
//!
//! `kube` reads kubeconfigs, authenticates and sets TLS up ([`config`]); the connections are hyper's. The requests
//! are written here ([`http`]) rather than with kube's typed `Api`, whose errors are `Status` objects without the
//! answer's `Retry-After` header; whose default client retries 429, 503 and 504 by itself, POSTs included, so that a
//! caller with a time budget does not notice; which rounds `sinceTime` to the nearest second, which may skip lines; and
//! whose default deletion leaves the policy to the API server, which keeps the pods of a batch/v1 Job. A followed log
//! has a dedicated connection ([`log_stream`]).

mod config;
mod http;
mod log_stream;
mod trust;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use ::http::Method;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Secret};
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Value, json};

use self::http::{ApiClient, JSON, JSON_PATCH, LINE_LIMIT, encoded, escaped, request, warnings};
use self::log_stream::request::DedicatedConnection;
use self::log_stream::{FollowedLog, PacedSocket};
use super::{
    AccessReview, ApiError, Cluster, Clusters, CreatedJob, LogBody, LogQuery, MOST_EVENTS, MOST_OBJECTS,
    WatchBody, WatchKind, WatchQuery, log_from_stream,
};

/// How much is read of a log's last line: its timestamp, which has at most 35 bytes, and a space.
const LAST_LINE_BYTES: usize = 64;

/// A client is built anew this long before its exec plugin's certificate ends.
const RENEWAL_MARGIN_SEC: i64 = 60;

/// The clusters of this process, by kubeconfig path (`""`: the one it runs in) and in-cluster address.
#[derive(Default)]
pub(crate) struct KubeClusters {
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
            Some(path) => config::from_file(path).await?,
            None => config::in_cluster(env)?,
        };
        let cluster = Arc::new(KubeCluster::new(config, env)?);
        let mut known = self.lock();
        // Runs that start together share one client, and so its watches.
        if let Some(other) = known.get(&key).filter(|other| !other.expires_soon()) {
            return Ok(other.clone());
        }
        // A client of the file's earlier contents serves only the runs that use it already.
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

/// One cluster: a client with its own connections.
pub(crate) struct KubeCluster {
    api: ApiClient,
    valid_until: Option<jiff::Timestamp>,
}

impl KubeCluster {
    /// A client for this configuration. Nothing is sent.
    fn new(config: kube::Config, env: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let api = ApiClient::new(config::client(&config, env)?, config::address(&config));
        Ok(Self { api, valid_until: config::valid_until(config) })
    }

    fn expires_soon(&self) -> bool {
        self.valid_until
            .is_some_and(|until| until.as_second() - jiff::Timestamp::now().as_second() < RENEWAL_MARGIN_SEC)
    }
}

fn jobs(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{}/jobs", escaped(namespace))
}

fn core(namespace: &str, resource: &str) -> String {
    format!("/api/v1/namespaces/{}/{resource}", escaped(namespace))
}

fn log_path(namespace: &str, pod: &str, container: &str) -> String {
    let (pod, container) = (escaped(pod), escaped(container));
    format!("{}/{pod}/log?container={container}&timestamps=true", core(namespace, "pods"))
}

fn collection(kind: WatchKind, namespace: &str) -> String {
    match kind {
        WatchKind::Jobs => jobs(namespace),
        WatchKind::Pods => core(namespace, "pods"),
    }
}

#[derive(serde::Deserialize)]
struct List<T> {
    /// `null` is how Go encodes a list that was never filled.
    #[serde(bound(deserialize = "T: Deserialize<'de>"), deserialize_with = "bounded", default = "Vec::new")]
    items: Vec<T>,
}

/// The objects of a list, or `null`; more than [`MOST_OBJECTS`] of them are an error.
fn bounded<'de, T: Deserialize<'de>, D: Deserializer<'de>>(list: D) -> Result<Vec<T>, D::Error> {
    struct Objects<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST_OBJECTS} objects")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut objects = Vec::new();
            while let Some(object) = list.next_element()? {
                if objects.len() == MOST_OBJECTS {
                    return Err(A::Error::custom(format_args!("it has more than {MOST_OBJECTS} objects")));
                }
                objects.push(object);
            }
            Ok(objects)
        }
    }
    list.deserialize_any(Objects(PhantomData))
}

impl Cluster for KubeCluster {
    async fn list_jobs(&self, namespace: &str, selector: &str) -> Result<Vec<Job>, ApiError> {
        let path = format!("{}?labelSelector={}", jobs(namespace), escaped(selector));
        let list: List<Job> = self.api.get(&format!("list jobs in {namespace}"), &path).await?;
        Ok(list.items)
    }

    async fn get_job(&self, namespace: &str, name: &str) -> Result<Job, ApiError> {
        let path = format!("{}/{}", jobs(namespace), escaped(name));
        self.api.get(&format!("get job {namespace}/{name}"), &path).await
    }

    async fn create_job(&self, namespace: &str, job: &Job) -> Result<CreatedJob, ApiError> {
        let attempt = format!("create job {namespace}/{}", job.metadata.name.as_deref().unwrap_or("?"));
        let body = Some((JSON, encoded(job)));
        let (job, headers) =
            self.api.ask_with_headers(&attempt, Method::POST, &jobs(namespace), body).await?;
        Ok(CreatedJob { job, warnings: warnings(&headers) })
    }

    async fn try_job(&self, namespace: &str, job: &Job) -> Result<Vec<String>, ApiError> {
        let attempt = format!("dry run of job {namespace}/{}", job.metadata.name.as_deref().unwrap_or("?"));
        let (path, body) = (format!("{}?dryRun=All", jobs(namespace)), Some((JSON, encoded(job))));
        let (_, headers) = self.api.ask_with_headers::<Value>(&attempt, Method::POST, &path, body).await?;
        Ok(warnings(&headers))
    }

    async fn try_pod(&self, namespace: &str, pod: &Pod) -> Result<(), ApiError> {
        let attempt = format!("dry run of pod {namespace}/{}", pod.metadata.name.as_deref().unwrap_or("?"));
        let path = format!("{}?dryRun=All", core(namespace, "pods"));
        self.api.ask::<Value>(&attempt, Method::POST, &path, Some((JSON, encoded(pod)))).await?;
        Ok(())
    }

    async fn patch_job(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        let path = format!("{}/{}", jobs(namespace), escaped(name));
        let attempt = format!("patch job {namespace}/{name}");
        self.api.ask::<Value>(&attempt, Method::PATCH, &path, Some((JSON_PATCH, encoded(patch)))).await?;
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
        self.api.ask::<Value>(&attempt, Method::DELETE, &path, Some((JSON, encoded(&options)))).await?;
        Ok(())
    }

    async fn create_secret(&self, namespace: &str, secret: &Secret) -> Result<(), ApiError> {
        let attempt = format!("create secret {namespace}/{}", secret.metadata.name.as_deref().unwrap_or("?"));
        let path = core(namespace, "secrets");
        self.api.ask::<Value>(&attempt, Method::POST, &path, Some((JSON, encoded(secret)))).await?;
        Ok(())
    }

    async fn delete_secret(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let path = format!("{}/{}", core(namespace, "secrets"), escaped(name));
        let attempt = format!("delete secret {namespace}/{name}");
        self.api.ask::<Value>(&attempt, Method::DELETE, &path, None).await?;
        Ok(())
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        let path = format!("{}/{}", core(namespace, "pods"), escaped(name));
        self.api.get(&format!("get pod {namespace}/{name}"), &path).await
    }

    async fn list_pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, ApiError> {
        let path = format!("{}?labelSelector={}", core(namespace, "pods"), escaped(selector));
        let list: List<Pod> = self.api.get(&format!("list pods in {namespace}"), &path).await?;
        Ok(list.items)
    }

    async fn list_events(&self, namespace: &str, uid: &str) -> Result<Vec<Event>, ApiError> {
        let selector = escaped(&format!("involvedObject.uid={uid}"));
        let path = format!("{}?fieldSelector={selector}&limit={MOST_EVENTS}", core(namespace, "events"));
        let list: List<Event> = self.api.get(&format!("list events in {namespace}"), &path).await?;
        Ok(list.items.into_iter().take(MOST_EVENTS).collect())
    }

    async fn list_for_watch(
        &self,
        kind: WatchKind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<u8>, ApiError> {
        let attempt = format!("list {} in {namespace}", kind.resource());
        let path = format!("{}?labelSelector={}", collection(kind, namespace), escaped(selector));
        let response = self.api.send(&attempt, request(&attempt, Method::GET, &path, None)?).await?;
        self.api.collect(&attempt, response).await
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
        let response = self.api.send(&attempt, request).await?;
        let broken = self.api.broken(attempt, "watch");
        Ok(response.into_body().into_data_stream().map(move |piece| piece.map_err(&broken)).boxed())
    }

    async fn open_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &LogQuery,
    ) -> Result<LogBody, ApiError> {
        let mut path = log_path(namespace, pod, container);
        if query.follow {
            path.push_str("&follow=true");
        }
        if let Some(since) = &query.since_time {
            path.push_str("&sinceTime=");
            path.push_str(&escaped(since));
        }
        let attempt = format!("read the log of pod {namespace}/{pod}");
        let mut request = request(&attempt, Method::GET, &path, None)?;
        // Also where it is not followed: of a pooled connection's body only a few lines wait for a reader that pauses.
        request.extensions_mut().insert(DedicatedConnection);
        let mut response = Box::pin(self.api.send(&attempt, request)).await?;
        let broken = self.api.broken(attempt.clone(), "log stream");
        let socket = response.extensions_mut().remove::<PacedSocket>();
        let body = response.into_body().map_err(broken);
        Ok(match socket {
            Some(socket) => Box::new(FollowedLog::new(attempt, body.boxed_unsync(), socket)),
            None => log_from_stream(body.into_data_stream()),
        })
    }

    async fn last_log_line(&self, namespace: &str, pod: &str, container: &str) -> Result<Vec<u8>, ApiError> {
        let path =
            format!("{}&tailLines=1&limitBytes={LAST_LINE_BYTES}", log_path(namespace, pod, container));
        let attempt = format!("read the last line of the log of pod {namespace}/{pod}");
        let answer = self.api.fetch(&attempt, Method::GET, &path, None);
        Ok(self.api.log_checks.pass(LINE_LIMIT, answer).await?.0)
    }

    async fn get_namespace(&self, name: &str) -> Result<bool, ApiError> {
        let path = format!("/api/v1/namespaces/{}", escaped(name));
        let namespace = self.api.get::<Value>(&format!("get namespace {name}"), &path).await?;
        Ok(!namespace["metadata"]["deletionTimestamp"].is_null())
    }

    async fn get_secret(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let path = format!("{}/{}", core(namespace, "secrets"), escaped(name));
        self.api.get::<Value>(&format!("get secret {namespace}/{name}"), &path).await.map(drop)
    }

    async fn claim_access_modes(&self, namespace: &str, name: &str) -> Result<Vec<String>, ApiError> {
        let path = format!("{}/{}", core(namespace, "persistentvolumeclaims"), escaped(name));
        let attempt = format!("get persistentvolumeclaim {namespace}/{name}");
        let claim: PersistentVolumeClaim = self.api.get(&attempt, &path).await?;
        Ok(claim.spec.and_then(|spec| spec.access_modes).unwrap_or_default())
    }

    async fn can_i(&self, question: AccessReview<'_>) -> Result<bool, ApiError> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(question.group.to_owned()),
                    resource: Some(question.resource.to_owned()),
                    verb: Some(question.verb.to_owned()),
                    namespace: Some(question.namespace.to_owned()),
                    name: Some(question.name.to_owned()).filter(|name| !name.is_empty()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let attempt = format!("review access to {} {}", question.verb, question.resource);
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer: SelfSubjectAccessReview =
            self.api.ask(&attempt, Method::POST, path, Some((JSON, encoded(&review)))).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::ReadResult;

    #[test]
    fn list_has_a_limit() {
        let read = |items: &str| {
            let list =
                serde_json::from_str::<List<Value>>(&format!(r#"{{"kind":"JobList","items":{items}}}"#));
            list.map(|list| list.items.len()).map_err(|error| error.to_string())
        };
        let of = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!((read("null"), read("[]"), read(&of(MOST_OBJECTS))), (Ok(0), Ok(0), Ok(MOST_OBJECTS)));
        let error = read(&of(MOST_OBJECTS + 1)).expect_err("too many");
        assert!(error.starts_with("it has more than 10000 objects"), "{error}");
        assert!(serde_json::from_str::<List<Value>>("{}").is_ok_and(|list| list.items.is_empty()));
        assert!(read("7").is_err());
    }

    /// A kubeconfig for a server on this port of loopback.
    fn kubeconfig(port: u16) -> String {
        format!(
            r#"{{"clusters":[{{"name":"c","cluster":{{"server":"http://127.0.0.1:{port}"}}}}],
                "contexts":[{{"name":"c","context":{{"cluster":"c","user":"u"}}}}],
                "users":[{{"name":"u","user":{{}}}}],"current-context":"c"}}"#
        )
    }

    /// A server that answers each request with this number of lines, each in a chunk of its own; returns its port.
    fn serve_lines(lines: usize) -> u16 {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    connection.read_exact(&mut byte).expect("a request");
                    head.extend(byte);
                }
                let start: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let body = [start, &b"5\r\nline\n\r\n".repeat(lines), b"0\r\n\r\n"].concat();
                // A reader that has enough closes the connection.
                let _ = connection.write_all(&body);
            }
        });
        port
    }

    #[tokio::test]
    async fn log_that_is_there_is_read_in_few_pauses() {
        const LINES: usize = 4_000;
        let path = std::env::temp_dir().join(format!("kubeconfig-log-{}", std::process::id()));
        std::fs::write(&path, kubeconfig(serve_lines(LINES))).expect("written");
        let clusters = KubeClusters::default();
        let cluster = clusters.cluster(path.to_str(), &BTreeMap::new()).await.expect("a client");
        for follow in [true, false] {
            let query = LogQuery { follow, since_time: None };
            let mut log = cluster.open_log("n", "p", "c", &query).await.expect("a log");
            let (mut bytes, mut pauses) = (0, 0);
            loop {
                match log.try_read(&mut |read| bytes += read.len()) {
                    ReadResult::End => break,
                    ReadResult::Broken(error) => panic!("{error}"),
                    ReadResult::Data { all: false } => {}
                    ReadResult::Data { all: true } | ReadResult::Pending => {
                        pauses += 1;
                        log.pause();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            assert_eq!(bytes, 5 * LINES);
            assert!(pauses < LINES / 40, "followed: {follow}, pauses: {pauses}");
        }
        std::fs::remove_file(&path).expect("removed");
    }

    #[tokio::test]
    async fn kubeconfig_has_one_client_until_it_is_rewritten() {
        let path = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        let write = |port: u16, age: u64| {
            std::fs::write(&path, kubeconfig(port)).expect("written");
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
            assert_eq!(renewed.api.host, format!("127.0.0.1:{port}"));
            assert_eq!(clusters.lock().len(), 1);
        }
        let before = Arc::downgrade(&got[0]);
        drop(got);
        assert!(before.upgrade().is_none(), "gone with its last run");
        std::fs::remove_file(&path).expect("removed");
    }
}

//! A small client for the tests.
#![allow(dead_code, missing_docs)]

use bytes::Bytes;
use embedded_cluster::{Cluster, Options};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub(crate) struct Client {
    port: u16,
    token: String,
    tls: TlsConnector,
}

pub(crate) struct Stream {
    pub status: u16,
    body: Incoming,
    buffer: Vec<u8>,
    pub broken: bool,
}

impl Client {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Client::with_token(cluster, &cluster.token)
    }

    pub(crate) fn with_token(cluster: &Cluster, token: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(cluster.ca_pem.as_bytes()).expect("a certificate"))
            .expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client { port: cluster.port, token: token.to_string(), tls: TlsConnector::from(Arc::new(config)) }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<hyper::Response<Incoming>, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|e| text(&e))?;
        let name = ServerName::try_from("127.0.0.1").map_err(|e| text(&e))?;
        let tls = self.tls.connect(name, tcp).await.map_err(|e| text(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let kind = match (method, body.is_array()) {
            ("PATCH", true) => "application/json-patch+json",
            ("PATCH", false) => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("user-agent", "test")
            .header("content-type", kind);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| text(&e))?;
        sender.send_request(request).await.map_err(|e| text(&e))
    }

    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value), String> {
        let response = self.send(method, path, &body).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((status, value))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.try_call(method, path, body).await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call("GET", path, Value::Null).await.1
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, v) = self.call("POST", path, body).await;
        assert!(status < 300, "{path}: {status} {v}");
        v
    }

    /// Creates an object; returns the status and the warnings.
    pub(crate) async fn warnings(&self, path: &str, body: Value) -> (u16, Vec<String>) {
        let response = self.send("POST", path, &body).await.expect("an answer");
        let texts = response.headers().get_all("warning").iter();
        let texts = texts.map(|v| v.to_str().expect("text").to_string()).collect();
        (response.status().as_u16(), texts)
    }

    pub(crate) async fn control(&self, path: &str, body: Value) -> Value {
        self.post(&format!("/simulator/{path}"), body).await
    }

    pub(crate) async fn fault(&self, matching: Value, action: Value) {
        self.control("faults", json!({"match": matching, "action": action})).await;
    }

    pub(crate) async fn stream(&self, path: &str) -> Stream {
        let response = self.send("GET", path, &Value::Null).await.expect("an answer");
        Stream {
            status: response.status().as_u16(),
            body: response.into_body(),
            buffer: Vec::new(),
            broken: false,
        }
    }

    /// Polls until the check holds.
    pub(crate) async fn until(&self, path: &str, check: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let v = self.get(path).await;
            if check(&v) {
                return v;
            }
            assert!(Instant::now() < end, "{path} never came to be as expected: {v:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The only pod of a Job.
    pub(crate) async fn pod_of(&self, job: &str) -> Value {
        let path = format!("{PODS}?labelSelector=job-name%3D{job}");
        let list = self.until(&path, |v| !v["items"].as_array().is_none_or(Vec::is_empty)).await;
        list["items"][0].clone()
    }

    /// Path of the only pod of a Job.
    pub(crate) async fn pod_path(&self, job: &str) -> String {
        let pod = self.pod_of(job).await;
        format!("{PODS}/{}", pod["metadata"]["name"].as_str().expect("a name"))
    }

    /// Path of the only pod of a Job, once its container runs.
    pub(crate) async fn running(&self, job: &str) -> String {
        let path = self.pod_path(job).await;
        self.until(&path, |p| p["status"]["containerStatuses"][0]["state"]["running"].is_object()).await;
        path
    }
}

impl Stream {
    /// The next line, or `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => {
                    self.broken = true;
                    return None;
                }
                None => return None,
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(5), self.line())
            .await
            .expect("an event in time")
            .expect("an event");
        serde_json::from_str(&line).expect("JSON")
    }

    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(line) = self.line().await {
            out.push(line);
        }
        if !self.buffer.is_empty() {
            out.push(String::from_utf8_lossy(&self.buffer).into_owned());
        }
        out
    }
}

pub(crate) const JOBS: &str = "/apis/batch/v1/namespaces/paperclip/jobs";
pub(crate) const PODS: &str = "/api/v1/namespaces/paperclip/pods";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/paperclip/secrets";

pub(crate) async fn start() -> (Cluster, Client) {
    let cluster =
        Cluster::start(Options { condition_lag_ms: 20, ..Options::default() }).await.expect("a cluster");
    let client = Client::new(&cluster);
    (cluster, client)
}

/// A Job that runs one shell command.
pub(crate) fn job(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "claude", "image": "agent:1", "command": ["sh", "-c", script]}],
        }}},
    })
}

pub(crate) fn has(v: &Value, condition: &str) -> bool {
    v["status"]["conditions"]
        .as_array()
        .is_some_and(|l| l.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}

pub(crate) fn reason<'a>(v: &'a Value, condition: &str) -> &'a str {
    v["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == condition)
        .and_then(|c| c["reason"].as_str())
        .unwrap_or("")
}

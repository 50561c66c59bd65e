//! How a cluster is reached: kubeconfig or service account, proxy, TLS and the connections' settings.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt as _;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use rustls::pki_types::ServerName;
use tower::util::MapRequestLayer;
use tower::{BoxError, ServiceBuilder};

use super::http::causes;
use super::log_stream::request::{Connect, Connector, Transport};
use super::trust::{self, TokenFile};
use crate::cluster::{ApiError, ApiErrorKind};

/// TCP keep-alive: finds a dead peer under an idle log or watch.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The largest kubeconfig, in bytes.
const MAX_KUBECONFIG: u64 = 1 << 20;
/// Where a pod finds its own service account.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The configuration in a kubeconfig file: its current context.
pub(super) async fn from_file(path: &str) -> Result<kube::Config, ApiError> {
    let attempt = "read the kubeconfig";
    let setup = |text: String| ApiError::local(ApiErrorKind::Setup, attempt, text);
    // Node's wording: hosts and operators know this line from the existing package.
    let file = tokio::fs::metadata(path).await.map_err(|error| {
        let text = match error.kind() {
            std::io::ErrorKind::NotFound => format!("ENOENT: no such file or directory, open '{path}'"),
            std::io::ErrorKind::PermissionDenied => format!("EACCES: permission denied, open '{path}'"),
            _ => format!("cannot read the kubeconfig {path}: {error}"),
        };
        setup(text).with_source(error)
    })?;
    if !file.is_file() || file.len() > MAX_KUBECONFIG {
        return Err(setup(format!(
            "cannot use the kubeconfig {path}: it is not a regular file of at most {MAX_KUBECONFIG} bytes"
        )));
    }
    let unusable = |error: KubeconfigError| {
        setup(format!("cannot use the kubeconfig {path}: {}", what_is_wrong(&error)))
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)
}

/// What is wrong with a kubeconfig, without any of its text: the path may name another file of the host, and the message is
/// shown to who chose it.
fn what_is_wrong(error: &KubeconfigError) -> String {
    let fixed = match error {
        KubeconfigError::Parse(error) => {
            let line = error.location().map_or_else(String::new, |at| format!(" (line {})", at.line()));
            return format!("it is not the YAML of a kubeconfig{line}");
        }
        KubeconfigError::ReadConfig(error, _) => return error.to_string(),
        KubeconfigError::CurrentContextNotSet => "it has no current context",
        KubeconfigError::LoadContext(_) => "its current context is not in it",
        KubeconfigError::LoadClusterOfContext(_) => "the cluster of its current context is not in it",
        KubeconfigError::MissingClusterUrl => "its cluster has no server",
        KubeconfigError::ParseClusterUrl(_) => "the server of its cluster is not a URL",
        KubeconfigError::ParseProxyUrl(_) => "its proxy-url is not a URL",
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "its certificate authority cannot be read"
        }
        KubeconfigError::LoadClientCertificate(_) => "its client certificate cannot be read",
        KubeconfigError::LoadClientKey(_) => "its client key cannot be read",
        _ => "its parts do not fit together",
    };
    fixed.to_owned()
}

/// The configuration of the cluster that this process runs in.
pub(super) fn in_cluster(env: &BTreeMap<String, String>) -> Result<kube::Config, ApiError> {
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
    let uri = url.parse().map_err(|error: http::uri::InvalidUri| {
        setup(format!("Invalid URL {url}: {error}")).with_source(error)
    })?;
    let mut config = kube::Config::new(uri);
    config.root_cert_file = Some(PathBuf::from(format!("{ACCOUNT_DIR}/ca.crt")));
    config.auth_info = AuthInfo { token_file: Some(format!("{ACCOUNT_DIR}/token")), ..AuthInfo::default() };
    Ok(config)
}

/// The API server's host and port, as messages name it.
pub(super) fn address(config: &kube::Config) -> String {
    let url = &config.cluster_url;
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", url.host().unwrap_or("?"))
}

/// When the certificate of this configuration's exec plugin ends, if it has one.
///
/// Only the client that `kube` builds by itself runs exec plugins for their expiry. Certificates from plugins are
/// rare, so the price of a second, unused client is fine.
pub(super) fn valid_until(config: kube::Config) -> Option<jiff::Timestamp> {
    config.auth_info.exec.as_ref()?;
    *kube::Client::try_from(config).ok()?.valid_until()
}

/// A client for this configuration. Nothing is sent.
pub(super) fn client(
    config: &kube::Config,
    env: &BTreeMap<String, String>,
) -> Result<kube::Client, ApiError> {
    // Several TLS providers may be linked into one process; ours is named, not guessed. A second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut tls = config.rustls_client_config().map_err(cannot_set_up)?;
    // The trust of a pod's own service account is a file that kube reads again.
    if let Some(trusted) = config.root_cert.as_deref().filter(|_| config.root_cert_file.is_none())
        && !config.accept_invalid_certs
    {
        trust::trust_itself(&mut tls, trusted);
    }
    let tls = Arc::new(tls);
    let name = config.tls_server_name.clone().map(ServerName::try_from).transpose();
    let name = name.map_err(cannot_set_up)?;
    let tcp = tcp(config);
    let proxy = config.proxy_url.clone().filter(|_| !goes_direct(&config.cluster_url, env));
    match proxy {
        None => stack(config, Connector { tcp, tls, name }),
        Some(proxy) if proxy.scheme_str() == Some("http") => {
            stack(config, Connector { tcp: Tunnel::new(proxy, tcp), tls, name })
        }
        Some(proxy) => Err(ApiError::local(
            ApiErrorKind::Setup,
            "set up the Kubernetes client",
            format!(
                "cannot use the proxy {}://{}: only http:// proxies are supported (see HTTPS_PROXY, NO_PROXY and \
                 the kubeconfig's proxy-url)",
                // Not its user and password.
                proxy.scheme_str().unwrap_or_default(),
                proxy.host().unwrap_or_default()
            ),
        )),
    }
}

fn cannot_set_up(error: impl std::error::Error + Send + Sync + 'static) -> ApiError {
    let text = format!("cannot set up the Kubernetes client: {}", causes(&error));
    ApiError::local(ApiErrorKind::Setup, "set up the Kubernetes client", text).with_source(error)
}

fn tcp(config: &kube::Config) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE / 3));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_connect_timeout(config.connect_timeout.or(Some(Duration::from_secs(30))));
    tcp
}

/// `kube`'s middlewares over our own connections.
fn stack<T>(config: &kube::Config, connector: Connector<T>) -> Result<kube::Client, ApiError>
where
    T: Connect,
{
    let mut pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(60));
    let pool = pool.build(connector.for_pool());
    let (config, token) = token_file(config)?;
    let auth = config.auth_layer().map_err(cannot_set_up)?;
    let headers = config.extra_headers_layer().map_err(cannot_set_up)?;
    let stack = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .option_layer(token.map(|file| MapRequestLayer::new(move |request| file.authorize(request))))
        .layer(headers)
        .map_err(BoxError::from)
        .service(Transport { pool, connector });
    Ok(kube::Client::new(stack, config.default_namespace.clone()))
}

/// Takes the token file out of a configuration where its token is the one that counts, because `kube` sends what is in
/// it with the newline at its end.
fn token_file(config: &kube::Config) -> Result<(Cow<'_, kube::Config>, Option<Arc<TokenFile>>), ApiError> {
    let auth = &config.auth_info;
    let basic = auth.username.is_some() && auth.password.is_some();
    let Some(path) = auth.token_file.as_ref().filter(|_| !basic && auth.token.is_none()) else {
        return Ok((Cow::Borrowed(config), None));
    };
    let file = TokenFile::new(PathBuf::from(path)).map_err(|error| {
        let text =
            format!("cannot set up the Kubernetes client: failed to read token file '{path}': {error}");
        ApiError::local(ApiErrorKind::Setup, "set up the Kubernetes client", text).with_source(error)
    })?;
    let mut config = config.clone();
    (config.auth_info.token_file, config.auth_info.exec) = (None, None);
    Ok((Cow::Owned(config), Some(Arc::new(file))))
}

/// Whether `NO_PROXY` exempts the cluster from the proxy: `*`, an address, a range of addresses, or a domain with all
/// below it.
fn goes_direct(cluster: &http::Uri, env: &BTreeMap<String, String>) -> bool {
    let no_proxy = ["NO_PROXY", "no_proxy"].iter().find_map(|name| env.get(*name)).map_or("", String::as_str);
    let entries: Vec<&str> = no_proxy.split(',').map(plain_entry).collect();
    // The matcher takes `*` for a domain, and an address has none.
    if entries.contains(&"*") {
        return true;
    }
    // Which proxy is exempted does not matter to the matcher, only that there is one.
    let matcher = Matcher::builder().all("http://proxy").no(entries.join(",")).build();
    let cluster = format!("https://{}", cluster.host().unwrap_or_default()).parse();
    cluster.is_ok_and(|cluster| matcher.intercept(&cluster).is_none())
}

/// An entry of `NO_PROXY` as hyper's matcher reads it, which knows neither ports nor `*.example.org`.
fn plain_entry(entry: &str) -> &str {
    let entry = entry.trim();
    let host = match entry.rsplit_once(':') {
        // More than one colon: an IPv6 address.
        Some((host, port)) if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => entry,
    };
    if host.starts_with("*.") { &host[1..] } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_exempts_the_cluster_not_the_proxy() {
        for (host, list, direct) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1:6443", true),
            ("10.1.2.3", "10.0.0.0/8,localhost", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("[fd00::1]", "fd00::1", true),
            ("[fd00::1]", "localhost, fd00::/8", true),
            ("[fe00::1]", "fd00::/8", false),
            ("api.example.org", ".example.org", true),
            ("api.example.org", "*.example.org", true),
            ("api.example.org", "EXAMPLE.org", true),
            ("api.example.org", "example.org:6443", true),
            ("example.org", ".example.org", true),
            ("badexample.org", "example.org", false),
            ("anything", "*", true),
            ("10.0.0.1", "*", true),
            ("[fd00::1]", "localhost, *", true),
            ("anything", "", false),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let env = BTreeMap::from([(name.to_owned(), list.to_owned())]);
                let cluster = format!("https://{host}:6443").parse().expect("an address");
                assert_eq!(goes_direct(&cluster, &env), direct, "{host} with {name}={list}");
            }
        }
    }

    #[tokio::test]
    async fn password_of_a_proxy_is_in_no_error_text() {
        for (proxy, shown) in [
            (
                "https://user:hunter2@proxy.example:3128/hunter2",
                "cannot use the proxy https://proxy.example: ",
            ),
            ("socks5://hunter2@10.0.0.1:1080?hunter2", "cannot use the proxy socks5://10.0.0.1: "),
        ] {
            let mut config = kube::Config::new("https://10.0.0.2:6443".parse().expect("an address"));
            config.proxy_url = Some(proxy.parse().expect("an address"));
            let error = client(&config, &BTreeMap::new()).err().expect("refused").to_string();
            assert!(error.starts_with(shown) && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn password_of_a_proxy_in_a_kubeconfig_is_in_no_error_text() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        // A proxy that refuses, and one that is not there.
        let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = proxy.local_addr().expect("bound").port();
        let refusing = tokio::spawn(async move {
            while let Ok((mut socket, _)) = proxy.accept().await {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
            }
        });
        let path = std::env::temp_dir().join(format!("kubeconfig-proxy-{}", std::process::id()));
        for address in [
            format!("http://user:hunter2@127.0.0.1:{port}"),
            "http://user:hunter2@127.0.0.1:1".to_owned(),
            "http://user:hunter2@no-such-host.invalid:3128".to_owned(),
            "http://user:%68unter2@127.0.0.1:1".to_owned(),
            "http://user:hunter2@hunter2@127.0.0.1:1".to_owned(),
            "http://user:hunter2@127.0.0.1:hunter2".to_owned(),
            "http://user:hunter2 @127.0.0.1".to_owned(),
            "user:hunter2@127.0.0.1:1".to_owned(),
            "socks5h://user:hunter2@127.0.0.1:1".to_owned(),
            "http://user:hunter2@".to_owned(),
        ] {
            let kubeconfig = serde_json::json!({
                "clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.2:6443", "proxy-url": address}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            });
            std::fs::write(&path, kubeconfig.to_string()).expect("written");
            let name = path.to_str().expect("text");
            let error = match from_file(name).await {
                Err(error) => error,
                Ok(config) => match client(&config, &BTreeMap::new()) {
                    Err(error) => error,
                    Ok(client) => super::super::http::ApiClient::new(client, self::address(&config))
                        .get::<serde_json::Value>("read the version", "/version")
                        .await
                        .expect_err(&address),
                },
            };
            let error = format!("{error} {error:?}");
            assert!(!error.contains("unter2"), "{address}: {error}");
        }
        refusing.abort();
        std::fs::remove_file(&path).expect("removed");
    }

    #[tokio::test]
    async fn missing_kubeconfig_is_reported_in_node_words() {
        let error = from_file("/no/such/kubeconfig").await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("ENOENT: no such file or directory, open '/no/such/kubeconfig'"));
    }

    #[tokio::test]
    async fn broken_kubeconfig_is_named_without_its_text() {
        let path = std::env::temp_dir().join(format!("kubeconfig-broken-{}", std::process::id()));
        let name = path.to_str().expect("text");
        let context =
            r#""contexts":[{"name":"c","context":{"cluster":"s3cret","user":"u"}}],"current-context":"#;
        for (text, want) in [
            ("root:s3cret:0:0\n- s3cret: [\n".to_owned(), "it is not the YAML of a kubeconfig (line "),
            ("s3cret\n".to_owned(), "it is not the YAML of a kubeconfig"),
            ("current-context: s3cret\n".to_owned(), "its current context is not in it"),
            (format!(r#"{{{context}"c"}}"#), "the cluster of its current context is not in it"),
            (
                format!(
                    r#"{{"clusters":[{{"name":"s3cret","cluster":{{"server":"s3cret: :"}}}}],{context}"c"}}"#
                ),
                "the server of its cluster is not a URL",
            ),
        ] {
            std::fs::write(&path, &text).expect("written");
            let error =
                from_file(name).await.err().map(|error| format!("{error} {error:?}")).unwrap_or_default();
            assert!(
                error.starts_with(&format!("cannot use the kubeconfig {name}: {want}")),
                "{text}: {error}"
            );
            assert!(!error.contains("s3cret"), "{error}");
        }
        std::fs::remove_file(&path).expect("removed");
        let folder = std::env::temp_dir();
        let error = from_file(folder.to_str().expect("text")).await.err().map(|error| error.to_string());
        assert!(error.unwrap_or_default().contains("it is not a regular file"));
    }

    #[test]
    fn outside_a_cluster_the_error_says_what_to_do() {
        let error = in_cluster(&BTreeMap::new()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("KUBERNETES_SERVICE_HOST") && error.contains("kubeconfig"), "{error}");
    }
}

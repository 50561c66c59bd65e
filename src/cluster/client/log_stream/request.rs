//! A request on a dedicated connection, whose answer is read by the task that waits for it.
//!
//! A log is a line per TLS record and per HTTP chunk. A client with a pool has a task for each connection, which hands
//! chunk after chunk to the task that wants them: each line wakes two tasks. Here there is no such task: the reader
//! polls the connection itself.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service};

use super::record_reader::RecordReader;
use super::socket::PacedSocket;

/// Limits a response head, and how much of a body is buffered.
const HTTP_BUFFER_BYTES: usize = 64 * 1024;

type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// In the extensions of a request: it needs a dedicated connection.
#[derive(Clone, Copy)]
pub(crate) struct DedicatedConnection;

/// Makes TCP connections, directly or through a proxy.
pub(crate) trait Connect:
    Service<Uri, Response = TokioIo<TcpStream>, Error: Into<BoxError>, Future: Send + Unpin>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Connect for T where
    T: Service<Uri, Response = TokioIo<TcpStream>, Error: Into<BoxError>, Future: Send + Unpin>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Makes connections, with TLS where the address asks for it; `T` makes those of TCP.
#[derive(Clone)]
pub(crate) struct Connector<T> {
    pub(crate) tcp: T,
    pub(crate) tls: Arc<ClientConfig>,
    /// Whose certificate the server must have, where that is not the host of the address.
    pub(crate) name: Option<ServerName<'static>>,
}

impl<T: Connect> Connector<T> {
    /// Makes the same connections for a pool.
    pub(crate) fn for_pool(&self) -> HttpsConnector<T> {
        let builder =
            HttpsConnectorBuilder::new().with_tls_config(ClientConfig::clone(&self.tls)).https_or_http();
        match &self.name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
            None => builder,
        }
        .enable_http1()
        .wrap_connector(self.tcp.clone())
    }

    /// Sends a request without a body on a new connection; resolves at the response headers. The answer's extensions
    /// have its [`PacedSocket`].
    pub(super) async fn send(mut self, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        let uri = request.uri().clone();
        let tls = if uri.scheme() == Some(&Scheme::HTTPS) {
            let host = uri.host().unwrap_or_default();
            let name = match self.name {
                Some(name) => name,
                None => ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?,
            };
            Some((TlsConnector::from(self.tls), name))
        } else {
            None
        };
        poll_fn(|context| self.tcp.poll_ready(context)).await.map_err(Into::into)?;
        let socket = PacedSocket::new(self.tcp.call(uri).await.map_err(Into::into)?.into_inner());
        let mut response = exchange(socket.clone(), tls, request).await?;
        response.extensions_mut().insert(socket);
        Ok(response)
    }
}

/// Sends a request, over TLS to the server of this name if there is one; resolves at the response headers.
pub(super) async fn exchange<I>(
    io: I,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    request: Request<Body>,
) -> Result<Response<AnswerBody>, BoxError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = RecordReader::new(io);
    match tls {
        Some((tls, name)) => speak_http(tls.connect(name, io).await?, request).await,
        None => speak_http(io, request).await,
    }
}

async fn speak_http<I>(io: I, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, mut connection) =
        http1::Builder::new().max_buf_size(HTTP_BUFFER_BYTES).handshake(TokioIo::new(io)).await?;
    let mut response = pin!(sender.send_request(in_origin_form(request)?));
    let mut open = true;
    let response = poll_fn(|context| {
        if open && let Poll::Ready(end) = Pin::new(&mut connection).poll(context) {
            open = false;
            end?;
        }
        response.as_mut().poll(context)
    })
    .await?;
    let connection = open.then_some(connection);
    Ok(response.map(|incoming| DedicatedBody { connection, incoming }.map_err(Into::into).boxed_unsync()))
}

/// The request as HTTP/1.1 wants it on the wire; it is the only one of its connection.
fn in_origin_form(mut request: Request<Body>) -> Result<Request<Body>, BoxError> {
    let authority = request.uri().authority().ok_or("the address of the request names no host")?;
    let host = HeaderValue::from_str(authority.as_str())?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse()?;
    request.headers_mut().entry(HOST).or_insert(host);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// A response body that drives its connection: reading it is what reads the socket.
struct DedicatedBody<C> {
    /// `None` once it is over.
    connection: Option<C>,
    incoming: Incoming,
}

impl<C: Future<Output = hyper::Result<()>> + Unpin> HttpBody for DedicatedBody<C> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // An error of the connection is also the body's.
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(context).is_ready()
        {
            self.connection = None;
        }
        Pin::new(&mut self.incoming).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}

/// Sends requests through a pool of connections, and those marked [`DedicatedConnection`] each on one of its own.
#[derive(Clone)]
pub(crate) struct Transport<P, T> {
    pub(crate) pool: P,
    pub(crate) connector: Connector<T>,
}

impl<P, B, T> Service<Request<Body>> for Transport<P, T>
where
    P: Service<Request<Body>, Response = Response<B>>,
    P::Error: Into<BoxError>,
    P::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    T: Connect,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.pool.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.extensions().get::<DedicatedConnection>().is_some() {
            return Box::pin(self.connector.clone().send(request));
        }
        let answer = self.pool.call(request);
        Box::pin(async move {
            Ok(answer.await.map_err(Into::into)?.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }
}

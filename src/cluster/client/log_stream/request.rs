//! A request on a connection of its own, whose answer is read by whoever waits for it.
//!
//! A log is a line per TLS record and per HTTP chunk. A client with a pool has a task for each connection, which hands
//! chunk after chunk to the task that wants them: for each line two tasks are woken. Here there is no such task, and
//! the reader looks at the connection itself when it is time to.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tower::{BoxError, Service};

use super::framing::Framing;
use super::socket::{Arrived, Connection, READ_BYTES, Socket, Wire};
use super::tls::Tls;
use crate::cluster::ReadResult;

/// An answer's head may be this long.
const HEAD_BYTES: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// In the extensions of a request: it is to have a connection of its own.
#[derive(Clone, Copy)]
pub(in crate::cluster::client) struct OwnConnection;

/// In the extensions of an answer that is a success on a connection of its own: its body, which the answer itself does
/// not have then.
#[derive(Clone)]
pub(in crate::cluster::client) struct OwnBody(Arc<Mutex<Option<Answer<Socket>>>>);

impl OwnBody {
    /// The body, once.
    pub(in crate::cluster::client) fn take(self) -> Option<Answer<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// How connections are made; `T` makes those of TCP.
#[derive(Clone)]
pub(in crate::cluster::client) struct Connector<T> {
    pub(in crate::cluster::client) tcp: T,
    pub(in crate::cluster::client) tls: Arc<ClientConfig>,
    /// Whose certificate the server must have, where that is not the host of the address.
    pub(in crate::cluster::client) name: Option<ServerName<'static>>,
}

impl<T: Clone> Connector<T> {
    /// The same for a pool.
    pub(in crate::cluster::client) fn for_pool(&self) -> HttpsConnector<T> {
        let builder =
            HttpsConnectorBuilder::new().with_tls_config(ClientConfig::clone(&self.tls)).https_or_http();
        match &self.name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
            None => builder,
        }
        .enable_http1()
        .wrap_connector(self.tcp.clone())
    }
}

impl<T> Connector<T>
where
    T: Service<Uri, Response = TokioIo<TcpStream>>,
    T::Error: Into<BoxError>,
{
    /// A connection to the server of this address, ready for a request.
    async fn connect(mut self, to: Uri) -> Result<Connection<Socket>, BoxError> {
        let tls = if to.scheme() == Some(&Scheme::HTTPS) {
            let host = to.host().unwrap_or_default();
            let name = match self.name {
                Some(name) => name,
                None => ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?,
            };
            Some(Tls::new(self.tls, name)?)
        } else {
            None
        };
        poll_fn(|context| self.tcp.poll_ready(context)).await.map_err(Into::into)?;
        let socket = Socket::Watched(self.tcp.call(to).await.map_err(Into::into)?.into_inner());
        Ok(match tls {
            Some(tls) => Connection::secured(socket, tls).await?,
            None => Connection::plain(socket),
        })
    }
}

/// Sends requests through a pool of connections, and those marked [`OwnConnection`] each on one of its own.
#[derive(Clone)]
pub(in crate::cluster::client) struct Transport<P, T> {
    pub(in crate::cluster::client) pool: P,
    pub(in crate::cluster::client) connector: Connector<T>,
}

impl<P, B, T> Service<Request<Body>> for Transport<P, T>
where
    P: Service<Request<Body>, Response = Response<B>>,
    P::Error: Into<BoxError>,
    P::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    T: Service<Uri, Response = TokioIo<TcpStream>> + Clone + Send + 'static,
    T::Error: Into<BoxError>,
    T::Future: Send,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.pool.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.extensions().get::<OwnConnection>().is_some() {
            let connector = self.connector.clone();
            Box::pin(async move {
                let connection = connector.connect(request.uri().clone()).await?;
                let (response, answer) = exchange(connection, request).await?;
                Ok(with_body(response, answer))
            })
        } else {
            let answer = self.pool.call(request);
            Box::pin(async move {
                Ok(answer.await.map_err(Into::into)?.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }
    }
}

/// A success is read by whoever asked; what else there is to say is short and read as any other answer.
fn with_body(response: Response<()>, answer: Answer<Socket>) -> Response<AnswerBody> {
    if response.status().is_success() {
        let mut response = response.map(|()| Empty::new().map_err(|never| match never {}).boxed_unsync());
        response.extensions_mut().insert(OwnBody(Arc::new(Mutex::new(Some(answer)))));
        return response;
    }
    let frames = futures::stream::try_unfold(answer, |mut answer| async move {
        let mut bytes = Vec::new();
        loop {
            match answer.try_read(|part| bytes.extend_from_slice(part)) {
                ReadResult::Data { .. } => return Ok(Some((Frame::data(Bytes::from(bytes)), answer))),
                ReadResult::End => return Ok(None),
                ReadResult::Broken(error) => return Err(error),
                ReadResult::Pending => poll_fn(|context| answer.poll_readable(context)).await,
            }
        }
    });
    response.map(|()| StreamBody::new(frames).boxed_unsync())
}

/// Sends a request that has no body; resolves with the head of its answer.
async fn exchange<W: Wire>(
    mut connection: Connection<W>,
    request: Request<Body>,
) -> Result<(Response<()>, Answer<W>), BoxError> {
    connection.write_all(&head_of(request)?).await?;
    read_head(connection).await
}

fn head_of(request: Request<Body>) -> Result<Vec<u8>, BoxError> {
    let (mut parts, _) = request.into_parts();
    let authority = parts.uri.authority().ok_or("the address of the request names no host")?;
    let host = HeaderValue::from_str(authority.as_str())?;
    parts.headers.entry(HOST).or_insert(host);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut head = format!("{} {target} HTTP/1.1\r\n", parts.method).into_bytes();
    for (name, value) in &parts.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// The head of the answer, and its body.
async fn read_head<W: Wire>(mut connection: Connection<W>) -> Result<(Response<()>, Answer<W>), BoxError> {
    let mut arrived = Vec::new();
    loop {
        let read = connection.try_read(|part| arrived.extend_from_slice(part))?;
        while let Some((length, response)) = parse_head(&arrived)? {
            arrived.drain(..length);
            // Interim answers announce the one that counts.
            if !response.status().is_informational() {
                let framing = Framing::of(&response)?;
                return Ok((response, Answer { connection, framing, early: arrived, end: None }));
            }
        }
        if arrived.len() > HEAD_BYTES + READ_BYTES {
            return Err("the head of the answer is too long".into());
        }
        match read {
            Arrived::Nothing => poll_fn(|context| connection.poll_readable(context)).await,
            Arrived::Closed => return Err("the connection was closed before there was an answer".into()),
            Arrived::All | Arrived::Part => {}
        }
    }
}

fn parse_head(arrived: &[u8]) -> Result<Option<(usize, Response<()>)>, BoxError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(arrived)? else { return Ok(None) };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.code.unwrap_or_default())?;
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        response.headers_mut().append(name, HeaderValue::from_bytes(header.value)?);
    }
    Ok(Some((length, response)))
}

/// The body of an answer whose head was read.
pub(in crate::cluster::client) struct Answer<W> {
    connection: Connection<W>,
    framing: Framing,
    /// What came together with the head.
    early: Vec<u8>,
    /// How it ended, once it has.
    end: Option<Result<(), BoxError>>,
}

impl<W: Wire> Answer<W> {
    pub(in crate::cluster::client) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.end.is_some() || !self.early.is_empty() {
            return Poll::Ready(());
        }
        self.connection.poll_readable(context)
    }

    pub(in crate::cluster::client) fn pause(&mut self) {
        self.connection.wire.pause();
    }

    /// Hands on what has arrived, in any number of pieces; never waits. A connection that breaks or an answer that is
    /// malformed is an error once, after all that came before it.
    pub(in crate::cluster::client) fn try_read(
        &mut self,
        mut take: impl FnMut(&[u8]),
    ) -> ReadResult<BoxError> {
        let mut bytes = 0;
        let mut take = |part: &[u8]| {
            bytes += part.len();
            take(part);
        };
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            self.end = self.framing.read(&early, &mut take).err().map(Err);
        }
        let mut all = false;
        if self.end.is_none() && !self.framing.is_over() {
            let mut malformed = None;
            let arrived = self.connection.try_read(|part| {
                if malformed.is_none() {
                    malformed = self.framing.read(part, &mut take).err();
                }
            });
            let cut = || "the connection was closed before the end of the answer".into();
            self.end = match (malformed, arrived) {
                (Some(error), _) => Some(Err(error)),
                (None, Err(error)) => Some(Err(error.into())),
                (None, Ok(Arrived::Closed)) if self.framing == Framing::Open => Some(Ok(())),
                (None, Ok(Arrived::Closed)) => Some(Err(cut())),
                (None, Ok(arrived)) => {
                    all = arrived != Arrived::Part;
                    None
                }
            };
        }
        if self.end.is_none() && self.framing.is_over() {
            self.end = Some(Ok(()));
        }
        match &mut self.end {
            _ if bytes > 0 => ReadResult::Data { all: all && self.end.is_none() },
            None => ReadResult::Pending,
            Some(end) => match std::mem::replace(end, Ok(())) {
                Ok(()) => ReadResult::End,
                Err(error) => ReadResult::Broken(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;

    use super::super::tls::tests::configs;
    use super::*;
    use futures::FutureExt as _;
    use hyper_util::client::legacy::connect::HttpConnector;
    use proptest::prelude::*;
    use rustls::version::TLS13;
    use rustls::{ServerConnection, StreamOwned};

    /// What an answer that arrives in these pieces is: its status, and its body or the error it ends with.
    fn read(pieces: &[&[u8]]) -> Result<(u16, Result<Vec<u8>, String>), String> {
        let wire = Arriving(pieces.iter().map(|piece| piece.to_vec()).collect());
        let head = read_head(Connection::plain(wire)).now_or_never().expect("nothing to wait for");
        let (response, mut answer) = head.map_err(|error| error.to_string())?;
        let mut body = Vec::new();
        let end = loop {
            match answer.try_read(|part| body.extend_from_slice(part)) {
                ReadResult::End => break Ok(body),
                ReadResult::Broken(error) => break Err(error.to_string()),
                ReadResult::Pending | ReadResult::Data { .. } => {}
            }
        };
        assert!(matches!(answer.try_read(|_| panic!("the body is over")), ReadResult::End));
        Ok((response.status().as_u16(), end))
    }

    /// A connection on which these pieces arrive, each read by itself and not at once, and then its end.
    struct Arriving(VecDeque<Vec<u8>>);

    impl io::Read for Arriving {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.0.pop_front() else { return Ok(0) };
            if piece.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let rest = piece.split_off(piece.len().min(into.len()));
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
            self.0.push_front(Vec::new());
            into[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    impl io::Write for Arriving {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Wire for Arriving {
        fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn pause(&mut self) {}
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_body_ends_where_its_head_says() {
        let length: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more";
        assert_eq!(read(&[length]), Ok((200, Ok(b"hello".to_vec()))));
        let open: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhello";
        assert_eq!(read(&[open, b" again"]), Ok((200, Ok(b"hello again".to_vec()))));
        let none: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(&[none]), Ok((204, Ok(Vec::new()))));
        let rest: &[u8] = b"5;name=\"v\"\r\nhello\r\nA \r\n0123456789\r\n0\r\nExpires: 0\r\n\r\nnext";
        assert_eq!(read(&[CHUNKED, rest]), Ok((200, Ok(b"hello0123456789".to_vec()))));
        let interim: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(read(&[interim, length]), Ok((200, Ok(b"hello".to_vec()))));
    }

    #[test]
    fn an_answer_that_is_cut_off_or_none_is_an_error() {
        let closed = "the connection was closed before the end of the answer";
        for rest in [&b""[..], b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5"] {
            assert_eq!(read(&[CHUNKED, rest]), Ok((200, Err(closed.to_owned()))), "{rest:?}");
        }
        let length: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel";
        assert_eq!(read(&[length]), Ok((200, Err(closed.to_owned()))));
        for rest in [&b"\r\n"[..], b"x\r\n", b"-1\r\n", b"5\r\nhello!", b"12345678901234567\r\n"] {
            let (_, end) = read(&[CHUNKED, rest]).expect("a head");
            assert!(end.is_err_and(|error| error.starts_with("malformed chunk")), "{rest:?}");
        }
        assert_eq!(read(&[]), Err("the connection was closed before there was an answer".to_owned()));
        assert!(read(&[b"SSH-2.0-OpenSSH\r\n"]).is_err());
        assert!(read(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"]).is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; HEAD_BYTES + READ_BYTES]].concat();
        assert_eq!(read(&[&endless]), Err("the head of the answer is too long".to_owned()));
    }

    #[test]
    fn a_request_is_written_as_the_server_is_to_read_it() {
        let request = Request::get("https://10.0.0.1:6443/api/v1/pods/p/log?follow=true")
            .header("authorization", "Bearer t")
            .body(Body::empty())
            .expect("a request");
        let head = String::from_utf8(head_of(request).expect("a head")).expect("text");
        assert_eq!(
            head,
            "GET /api/v1/pods/p/log?follow=true HTTP/1.1\r\nauthorization: Bearer t\r\n\
             host: 10.0.0.1:6443\r\nconnection: close\r\n\r\n"
        );
    }

    /// An answer over a connection of its own, to a server with a certificate for `localhost`.
    async fn fetched(scheme: &str, name: Option<&str>) -> Result<Vec<u8>, String> {
        use std::io::{Read as _, Write as _};

        let (server, client) = configs(&TLS13);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let secured = scheme == "https";
        let served = std::thread::spawn(move || {
            let (tcp, _) = listener.accept().expect("a connection");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nline";
            let mut request = [0; 1_024];
            if secured {
                let session = ServerConnection::new(Arc::new(server)).expect("a session");
                let mut tls = StreamOwned::new(session, tcp);
                // A client that knows better hangs up.
                if tls.read(&mut request).is_ok() {
                    tls.write_all(answer).expect("room");
                }
            } else {
                let mut tcp = tcp;
                tcp.read(&mut request).and_then(|_| tcp.write_all(answer)).expect("a client");
            }
        });
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let name = name.map(|name| ServerName::try_from(name.to_owned()).expect("a name"));
        let connector = Connector { tcp, tls: Arc::new(client), name };
        let uri: Uri = format!("{scheme}://{address}/log").parse().expect("an address");
        let outcome = async {
            let connection = connector.connect(uri.clone()).await?;
            let request = Request::get(uri).body(Body::empty())?;
            let (_, mut answer) = exchange(connection, request).await?;
            let mut body = Vec::new();
            loop {
                match answer.try_read(|part| body.extend_from_slice(part)) {
                    ReadResult::End => return Ok(body),
                    ReadResult::Broken(error) => return Err(error),
                    ReadResult::Data { .. } => {}
                    ReadResult::Pending => poll_fn(|context| answer.poll_readable(context)).await,
                }
            }
        };
        let outcome = outcome.await.map_err(|error: BoxError| error.to_string());
        served.join().expect("no panic");
        outcome
    }

    #[tokio::test]
    async fn a_server_must_have_the_certificate_of_its_address_or_of_the_name_that_is_set() {
        assert_eq!(fetched("https", Some("localhost")).await, Ok(b"line".to_vec()));
        assert_eq!(fetched("http", None).await, Ok(b"line".to_vec()));
        for name in [None, Some("elsewhere")] {
            let error = fetched("https", name).await.expect_err("another's certificate");
            assert!(error.contains("certificate"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn chunks_are_undone_wherever_they_are_split(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1usize..30, 1..60),
        ) {
            let mut wire = CHUNKED.to_vec();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut pieces = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            pieces.retain(|piece| !piece.is_empty());
            prop_assert_eq!(read(&pieces), Ok((200, Ok(chunks.concat()))));
        }
    }
}

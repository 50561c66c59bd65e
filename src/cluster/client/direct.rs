//! A request on a connection of its own, whose answer is read by whoever waits for it.
//!
//! A log is a line per TLS record and per HTTP chunk. A client with a pool has a task for each connection, which hands
//! chunk after chunk to the task that wants them: for each line two tasks are woken. Here there is no such task, and
//! all that has arrived is one piece.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::try_unfold;
use futures::{FutureExt as _, Stream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tower::{BoxError, Service};

/// So much room a read has at least.
const READ_BYTES: usize = 16 * 1024;
/// What has arrived is gathered into pieces up to this size.
const PIECE_BYTES: usize = 64 * 1024;
/// An answer's head may be this long.
const HEAD_BYTES: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// In the extensions of a request: it is to have a connection of its own.
#[derive(Clone, Copy)]
pub(super) struct OwnConnection;

/// Sends requests through a pool of connections, and those marked [`OwnConnection`] each on one of its own.
#[derive(Clone)]
pub(super) struct Transport<P, C> {
    pub(super) pool: P,
    pub(super) connector: C,
}

impl<P, B, C> Service<Request<Body>> for Transport<P, C>
where
    P: Service<Request<Body>, Response = Response<B>>,
    P::Error: Into<BoxError>,
    P::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.pool.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.extensions().get::<OwnConnection>().is_some() {
            Box::pin(exchange(self.connector.clone(), request))
        } else {
            let answer = self.pool.call(request);
            Box::pin(async move {
                Ok(answer.await.map_err(Into::into)?.map(|body| body.map_err(Into::into).boxed_unsync()))
            })
        }
    }
}

/// Sends a request that has no body; resolves with the head of its answer.
async fn exchange<C>(mut connector: C, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError>
where
    C: Service<Uri>,
    C::Response: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
{
    poll_fn(|context| connector.poll_ready(context)).await.map_err(Into::into)?;
    let stream = connector.call(request.uri().clone()).await.map_err(Into::into)?;
    let mut stream = TokioIo::new(stream);
    stream.write_all(&head_of(request)?).await?;
    stream.flush().await?;
    let mut arrived = BytesMut::new();
    let (response, framing) = read_head(&mut stream, &mut arrived).await?;
    let body = Box::new(Answer { stream, arrived, framing, closed: None });
    Ok(response.map(|()| StreamBody::new(frames(body)).boxed_unsync()))
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

/// The head of the answer; `arrived` keeps what came after it.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    arrived: &mut BytesMut,
) -> Result<(Response<()>, Framing), BoxError> {
    loop {
        if let Some((length, response)) = parse_head(arrived)? {
            arrived.advance(length);
            // Interim answers announce the one that counts.
            if !response.status().is_informational() {
                let framing = Framing::of(&response)?;
                return Ok((response, framing));
            }
            continue;
        }
        if arrived.len() > HEAD_BYTES {
            return Err("the head of the answer is too long".into());
        }
        arrived.reserve(READ_BYTES);
        if stream.read_buf(arrived).await? == 0 {
            return Err("the connection was closed before there was an answer".into());
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

/// An answer whose head was read.
struct Answer<S> {
    stream: S,
    arrived: BytesMut,
    framing: Framing,
    /// How the connection ended, once it has.
    closed: Option<std::io::Result<()>>,
}

fn frames<S: AsyncRead + Unpin + Send + 'static>(
    answer: Box<Answer<S>>,
) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    try_unfold(answer, |mut answer| async move {
        Ok(answer.next().await?.map(|piece| (Frame::data(piece), answer)))
    })
}

impl<S: AsyncRead + Unpin> Answer<S> {
    /// All that has arrived, once something has; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            let piece = self.framing.take(&mut self.arrived)?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            if self.framing.is_over() {
                return Ok(None);
            }
            match self.closed.take() {
                None => self.read().await,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(())) if self.framing == Framing::Open => return Ok(None),
                Some(Ok(())) => return Err("the connection was closed before the end of the answer".into()),
            }
        }
    }

    /// Waits until something has arrived, and takes what else is there.
    async fn read(&mut self) {
        let mut read = {
            self.arrived.reserve(READ_BYTES);
            self.stream.read_buf(&mut self.arrived).await
        };
        while read.as_ref().is_ok_and(|read| *read > 0) && self.arrived.len() < PIECE_BYTES {
            self.arrived.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.arrived).now_or_never() {
                None => return,
                Some(more) => read = more,
            }
        }
        match read {
            Ok(0) => self.closed = Some(Ok(())),
            Ok(_) => {}
            Err(error) => self.closed = Some(Err(error)),
        }
    }
}

/// Where a body ends (RFC 9112, section 6.3), and how far it was read.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    Open,
}

impl Framing {
    fn of(response: &Response<()>) -> Result<Self, BoxError> {
        if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Framing::Length(0));
        }
        if let Some(coding) = response.headers().get(TRANSFER_ENCODING) {
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Ok(Framing::Chunked(Chunked::START));
            }
            return Err(format!("the answer has the unknown transfer coding {coding:?}").into());
        }
        match response.headers().get(CONTENT_LENGTH) {
            Some(length) => Ok(Framing::Length(length.to_str()?.trim().parse()?)),
            None => Ok(Framing::Open),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunked::End))
    }

    /// Takes what is there of the body out of what has arrived.
    fn take(&mut self, arrived: &mut BytesMut) -> Result<Bytes, BoxError> {
        match self {
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
                *left -= here as u64;
                Ok(arrived.split_to(here).freeze())
            }
            Framing::Open => Ok(arrived.split().freeze()),
            Framing::Chunked(chunked) => {
                let (read, kept) = chunked.unwrap(arrived)?;
                let piece = arrived.split_to(kept).freeze();
                arrived.advance(read - kept);
                Ok(piece)
            }
        }
    }
}

/// Where in a chunked body (RFC 9112, section 7.1) the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunked {
    /// In the line that begins a chunk; what follows its hexadecimal digits is passed over.
    Size { size: u64, digits: u8, passed: bool },
    /// Before so many bytes of data.
    Data(u64),
    /// At the line break after the data.
    DataEnd,
    /// In the lines after the last chunk.
    Trailer { blank: bool },
    /// After the end.
    End,
}

impl Chunked {
    const START: Self = Chunked::Size { size: 0, digits: 0, passed: false };

    /// Moves the data to the front. Returns how many bytes were read, and how many of them were data.
    fn unwrap(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), BoxError> {
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() {
            match self {
                Chunked::End => break,
                Chunked::Data(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - read);
                    bytes.copy_within(read..read + here, kept);
                    (read, kept) = (read + here, kept + here);
                    *left -= here as u64;
                    if *left == 0 {
                        *self = Chunked::DataEnd;
                    }
                }
                _ => {
                    *self = self.after(bytes[read]).ok_or_else(|| {
                        format!("malformed chunk in the answer ({self:?}, {})", bytes[read])
                    })?;
                    read += 1;
                }
            }
        }
        Ok((read, kept))
    }

    /// The place after a byte that is no data; `None` where it may not stand.
    fn after(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Chunked::Size { digits: 1.., size: 0, .. }, b'\n') => Chunked::Trailer { blank: true },
            (Chunked::Size { digits: 1.., size, .. }, b'\n') => Chunked::Data(size),
            (Chunked::Size { size, digits, passed: false }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map(u64::from)?;
                Chunked::Size {
                    size: size.checked_mul(16)? + digit,
                    digits: digits.checked_add(1)?,
                    passed: false,
                }
            }
            (Chunked::Size { size, digits: digits @ 1.., passed }, _)
                if passed || matches!(byte, b'\r' | b';' | b' ' | b'\t') =>
            {
                Chunked::Size { size, digits, passed: true }
            }
            (Chunked::DataEnd, b'\r') => Chunked::DataEnd,
            (Chunked::DataEnd, b'\n') => Chunked::START,
            (Chunked::Trailer { blank: true }, b'\n') => Chunked::End,
            (Chunked::Trailer { .. }, b'\n') => Chunked::Trailer { blank: true },
            (Chunked::Trailer { blank }, _) => Chunked::Trailer { blank: blank && byte == b'\r' },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an answer that arrives in these pieces is: its status, and its body or the error it ends with.
    fn read(pieces: &[&[u8]]) -> Result<(u16, Result<Vec<u8>, String>), String> {
        let mut stream = arriving(pieces);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut arrived = BytesMut::new();
            let (response, framing) =
                read_head(&mut stream, &mut arrived).await.map_err(|error| error.to_string())?;
            let mut answer = Answer { stream, arrived, framing, closed: None };
            let mut body = Vec::new();
            let end = loop {
                match answer.next().await {
                    Ok(Some(piece)) => body.extend_from_slice(&piece),
                    Ok(None) => break Ok(body),
                    Err(error) => break Err(error.to_string()),
                }
            };
            Ok((response.status().as_u16(), end))
        })
    }

    /// A connection on which these pieces arrive, each read by itself, and then its end.
    fn arriving<'a>(pieces: &[&'a [u8]]) -> impl AsyncRead + Unpin + use<'a> {
        let mut all: Box<dyn AsyncRead + Unpin + 'a> = Box::new(tokio::io::empty());
        for piece in pieces.iter().rev() {
            all = Box::new(tokio::io::AsyncReadExt::chain(*piece, all));
        }
        all
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
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; HEAD_BYTES]].concat();
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

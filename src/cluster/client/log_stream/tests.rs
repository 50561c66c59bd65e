//! Followed logs against servers of this process: over TCP, and over TLS in memory with damaged bytes.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use kube::client::Body;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tower::BoxError;

use super::request::{Connector, exchange};
use super::*;
use crate::cluster::ApiErrorKind;
use crate::cluster::client::http::causes;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Configurations of a server with a certificate for `localhost`, and of a client that trusts it.
fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Bytes that a server sends at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// The first of the handshake.
    First,
    /// What follows of the handshake, alerts and closing.
    Other,
    /// The record of a part of the answer, by its index.
    Part(usize),
}

/// A server that answers one request with these parts, each in a TLS record, on a connection whose bytes `change` may
/// change. It closes the connection when the client is silent for a second.
async fn serve_tls(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    config: Arc<ServerConfig>,
    parts: &[Vec<u8>],
    mut change: impl FnMut(Flight, &mut Vec<u8>, &mut ServerConnection),
) {
    let mut tls = ServerConnection::new(config).expect("a session");
    let mut send = |tls: &mut ServerConnection, flight| {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).expect("memory");
        }
        change(flight, &mut bytes, tls);
        bytes
    };
    let mut flight = Flight::First;
    let mut request = Vec::new();
    let mut arrived = vec![0; 4_096];
    // A client that hangs up early is not an error of a server.
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(Duration::from_secs(1), io.read(&mut arrived)).await
    {
        tls.read_tls(&mut &arrived[..count]).expect("memory");
        let sound = tls.process_new_packets().is_ok();
        let bytes = send(&mut tls, flight);
        flight = Flight::Other;
        if io.write_all(&bytes).await.is_err() || !sound {
            return;
        }
        let _ = tls.reader().read_to_end(&mut request);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            for (index, part) in parts.iter().enumerate() {
                tls.writer().write_all(part).expect("room");
                let bytes = send(&mut tls, Flight::Part(index));
                if io.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            tls.send_close_notify();
            let bytes = send(&mut tls, Flight::Other);
            let _ = io.write_all(&bytes).await;
        }
    }
}

fn log_request(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).expect("a request")
}

/// What a client reads that connects to `localhost` in memory, with an error where there was one. The connection holds
/// `room` bytes at once.
async fn fetched(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    room: usize,
    parts: &[Vec<u8>],
    change: impl FnMut(Flight, &mut Vec<u8>, &mut ServerConnection),
) -> (Vec<u8>, Option<BoxError>) {
    let (ours, theirs) = tokio::io::duplex(room);
    let name = ServerName::try_from("localhost").expect("a name");
    let read = async {
        let mut text = Vec::new();
        let tls = Some((TlsConnector::from(client), name));
        let mut body = match exchange(ours, tls, log_request("https://localhost/log")).await {
            Ok(response) => response.into_body(),
            Err(error) => return (text, Some(error)),
        };
        loop {
            match body.frame().await {
                Some(Ok(frame)) => text.extend_from_slice(&frame.into_data().expect("data")),
                Some(Err(error)) => return (text, Some(error)),
                None => return (text, None),
            }
        }
    };
    let read = async { tokio::time::timeout(Duration::from_secs(600), read).await.expect("an end") };
    tokio::join!(read, serve_tls(theirs, server, parts, change)).0
}

/// The number of TLS records in these bytes.
fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        count += 1;
    }
    count
}

/// Reads an answer of two lines with each byte of one flight damaged in turn, a bit of each.
async fn with_every_byte_damaged(version: &'static SupportedProtocolVersion, damaged: Flight) {
    let (server, client) = configs(version);
    let parts = [[HEAD, &chunk(b"first\n")].concat(), chunk(b"second\n"), LAST_CHUNK.to_vec()];
    let whole = b"first\nsecond\n";
    let (mut position, mut unnoticed) = (0, 0);
    loop {
        let mut seen = 0;
        let (text, error) = fetched(server.clone(), client.clone(), 70_000, &parts, |flight, bytes, _| {
            if flight == damaged {
                seen = records(bytes);
                match bytes.get_mut(position) {
                    Some(byte) => *byte ^= 1 << (position % 8),
                    None => seen = 0,
                }
            }
        })
        .await;
        assert!(whole.starts_with(&text), "byte {position} of {damaged:?} gave a wrong text: {text:?}");
        if seen == 0 {
            assert!(position > 20 && error.is_none(), "all bytes were damaged in turn: {error:?}");
            return;
        }
        if error.is_none() {
            // The version in a record's header is there for old middleboxes; what it says changes nothing.
            unnoticed += 1;
            assert_eq!(text, whole, "byte {position} of {damaged:?} cut the text");
            assert!(unnoticed <= 2 * seen, "byte {position} of {damaged:?} went unnoticed, too");
        }
        position += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_tls13_handshake_is_a_broken_connection() {
    with_every_byte_damaged(&TLS13, Flight::First).await;
}

#[tokio::test(start_paused = true)]
async fn damaged_tls12_handshake_is_a_broken_connection() {
    with_every_byte_damaged(&TLS12, Flight::First).await;
}

#[tokio::test(start_paused = true)]
async fn damaged_record_is_a_broken_connection() {
    for version in [&TLS13, &TLS12] {
        for part in [0, 1, 2] {
            with_every_byte_damaged(version, Flight::Part(part)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn text_arrives_whole_however_its_records_are_cut() {
    let lines: Vec<Vec<u8>> =
        [0, 1, 100, 5_000, 16_000].map(|length| (0..=length).map(|n| (n % 251) as u8).collect()).to_vec();
    let mut parts = vec![HEAD.to_vec()];
    parts.extend(lines.iter().map(|line| chunk(line)));
    parts.push(LAST_CHUNK.to_vec());
    for version in [&TLS13, &TLS12] {
        for room in [97, 1_000, 70_000] {
            let (server, client) = configs(version);
            let (text, error) = fetched(server, client, room, &parts, |_, _, _| {}).await;
            assert!(error.is_none(), "{error:?}");
            assert!(text == lines.concat());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn new_keys_are_taken() {
    let (server, client) = configs(&TLS13);
    let parts = [[HEAD, &chunk(b"old, ")].concat(), chunk(b"new, "), chunk(b"newer"), LAST_CHUNK.to_vec()];
    let (text, error) = fetched(server, client, 70_000, &parts, |flight, _, tls| {
        if matches!(flight, Flight::Part(_)) {
            tls.refresh_traffic_keys().expect("open");
        }
    })
    .await;
    assert_eq!((text.as_slice(), error.is_none()), (&b"old, new, newer"[..], true), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn end_that_tls_does_not_announce_is_an_error() {
    let (server, client) = configs(&TLS13);
    // Without a length a body ends with its connection.
    let parts = [b"HTTP/1.1 200 OK\r\n\r\nhalf a log".to_vec()];
    let (text, error) = fetched(server, client, 70_000, &parts, |flight, bytes, _| {
        // The alert that would announce it.
        if flight == Flight::Other && bytes.len() < 30 {
            bytes.clear();
        }
    })
    .await;
    assert_eq!(text, b"half a log");
    assert!(error.is_some(), "cut");
}

#[tokio::test(start_paused = true)]
async fn unknown_server_is_refused() {
    for version in [&TLS13, &TLS12] {
        let (server, _) = configs(version);
        let (_, stranger) = configs(version);
        let (text, error) = fetched(server, stranger, 70_000, &[], |_, _, _| {}).await;
        assert!(text.is_empty());
        assert!(causes(error.expect("refused").as_ref()).contains("certificate"));
    }
}

/// A log that is followed over TCP. `scheme` and `name` are the client's; `serve` gets the request's connection.
async fn followed<S: Future<Output = ()> + Send + 'static>(
    scheme: &str,
    name: Option<&str>,
    serve: impl FnOnce(TcpStream, Arc<ServerConfig>) -> S,
) -> Result<FollowedLog, BoxError> {
    let (server, tls) = configs(&TLS13);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("{scheme}://{}/log", listener.local_addr()?);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let name = name.map(|name| ServerName::try_from(name.to_owned()).expect("a name"));
    let sent = Connector { tcp, tls, name }.send(log_request(&uri));
    let accepted =
        async { drop(tokio::spawn(serve(listener.accept().await.expect("a connection").0, server))) };
    let (sent, ()) = tokio::join!(sent, accepted);
    let mut response = sent?;
    let socket = response.extensions_mut().remove::<PacedSocket>().expect("its socket");
    let broken = |error: BoxError| ApiError::local(ApiErrorKind::Connection, "read", causes(error.as_ref()));
    Ok(FollowedLog::new("read".to_owned(), response.into_body().map_err(broken).boxed_unsync(), socket))
}

/// Answers a request with these pieces, each sent by itself, and closes the connection. Returns the request.
async fn serve_plain(mut io: TcpStream, pieces: Vec<Vec<u8>>) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(io.read_buf(&mut request).await.expect("open"), 0);
    }
    for piece in pieces {
        io.write_all(&piece).await.expect("a reader");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    String::from_utf8(request).expect("text")
}

/// A log to its end, read with a pause after each read that has found all there was.
async fn read_to_end(log: &mut FollowedLog) -> (Vec<u8>, Result<(), String>) {
    let mut text = Vec::new();
    loop {
        let mut bytes = 0;
        let read = log.try_read(&mut |part| {
            bytes += part.len();
            text.extend_from_slice(part);
        });
        assert!(bytes < 2 * READ_BYTES, "a read has a limit");
        match read {
            ReadResult::End => return (text, Ok(())),
            ReadResult::Broken(error) => return (text, Err(error.message)),
            ReadResult::Data { all: true } => {
                log.pause();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            ReadResult::Data { all: false } => {}
            ReadResult::Pending => {
                let ready = poll_fn(|context| log.poll_ready(context));
                tokio::time::timeout(Duration::from_secs(10), ready).await.expect("something arrives");
            }
        }
    }
}

#[tokio::test]
async fn server_needs_the_certificate_of_its_address_or_name() {
    let parts = || vec![[HEAD, &chunk(b"line"), LAST_CHUNK].concat()];
    let serve = |io, server| async move { serve_tls(io, server, &parts(), |_, _, _| {}).await };
    let mut log = followed("https", Some("localhost"), serve).await.expect("a log");
    assert_eq!(read_to_end(&mut log).await, (b"line".to_vec(), Ok(())));
    for name in [None, Some("elsewhere")] {
        let error = followed("https", name, serve).await.err().expect("another's certificate");
        assert!(causes(error.as_ref()).contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn request_is_sent_as_a_server_reads_it() {
    let (request, got) = tokio::sync::oneshot::channel();
    let serve = |io, _| async {
        let _ = request.send(serve_plain(io, vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()]).await);
    };
    let mut log = followed("http", None, serve).await.expect("a log");
    assert_eq!(read_to_end(&mut log).await, (Vec::new(), Ok(())));
    let lines: Vec<String> = got.await.expect("a request").lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "GET /log HTTP/1.1");
    assert!(lines.contains(&"connection: close".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("host: 127.0.0.1:")), "{lines:?}");
}

#[tokio::test]
async fn body_ends_where_its_head_says() {
    for (pieces, wanted) in [
        (&[&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more"[..]][..], "hello"),
        (&[b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"], "hello"),
        (&[b"HTTP/1.0 200 OK\r\n\r\nhello", b" again"], "hello again"),
        (
            &[HEAD, b"5;name=\"v\"\r\nhello\r\nA ", b"\r\n0123456789\r\n0\r\nExpires: 0\r\n\r\nnext"],
            "hello0123456789",
        ),
    ] {
        let sent = pieces.iter().map(|piece| piece.to_vec()).collect();
        let mut log =
            followed("http", None, |io, _| async { drop(serve_plain(io, sent).await) }).await.expect("a log");
        let (text, end) = read_to_end(&mut log).await;
        assert_eq!((String::from_utf8_lossy(&text).as_ref(), end), (wanted, Ok(())), "{pieces:?}");
    }
}

#[tokio::test]
async fn answer_that_is_cut_or_malformed_is_an_error() {
    for rest in [
        &b""[..],
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5",
        b"x\r\n",
        b"-1\r\n",
        b"5\r\nhello!",
        b"12345678901234567\r\n",
    ] {
        let sent = vec![HEAD.to_vec(), rest.to_vec()];
        let mut log =
            followed("http", None, |io, _| async { drop(serve_plain(io, sent).await) }).await.expect("a log");
        let (text, end) = read_to_end(&mut log).await;
        assert!(b"hello".starts_with(&text[..]) && end.is_err(), "{rest:?}: {text:?}, {end:?}");
        assert!(
            matches!(log.try_read(&mut |_| panic!("the body is over")), ReadResult::End),
            "reported once"
        );
    }
    let length = vec![b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_vec()];
    let mut log =
        followed("http", None, |io, _| async { drop(serve_plain(io, length).await) }).await.expect("a log");
    let (text, end) = read_to_end(&mut log).await;
    assert_eq!((text.as_slice(), end.is_err()), (&b"hel"[..], true));
    for answer in [&b""[..], b"SSH-2.0-OpenSSH\r\n"] {
        let sent = vec![answer.to_vec()];
        let log = followed("http", None, |io, _| async { drop(serve_plain(io, sent).await) }).await;
        assert!(log.is_err(), "{answer:?}");
    }
}

#[tokio::test]
async fn flooding_log_is_read_in_limited_pieces() {
    let line: Vec<u8> = (0..1_200).map(|n| (n % 251) as u8).collect();
    for scheme in ["http", "https"] {
        let parts: Vec<Vec<u8>> = std::iter::once(HEAD.to_vec())
            .chain((0..2_000).map(|_| chunk(&line)))
            .chain([LAST_CHUNK.to_vec()])
            .collect();
        let serve = |io, server| async move {
            match scheme {
                "https" => serve_tls(io, server, &parts, |_, _, _| {}).await,
                _ => drop(serve_plain(io, vec![parts.concat()]).await),
            }
        };
        let mut log = followed(scheme, Some("localhost"), serve).await.expect("a log");
        let (text, end) = read_to_end(&mut log).await;
        assert_eq!(end, Ok(()));
        assert!(text == line.repeat(2_000), "{scheme}: {} bytes", text.len());
    }
}

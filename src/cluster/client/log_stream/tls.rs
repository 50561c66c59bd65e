//! TLS over buffers of our own: records are decrypted where they were read, and their text is handed on from there.
//!
//! rustls checks, decrypts and keeps the protocol, but copies each record before it is decrypted and again after, into
//! buffers that it makes for that. With its unbuffered interface the first copy is gone; as for the second,
//! [`provider`]'s ciphers note where the text of a record lies and show rustls its first byte only. What rustls then
//! hands out as a text of one byte is the one that was noted.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{
    CipherSuiteCommon, ClientConfig, ConnectionTrafficSecrets, ContentType, SupportedCipherSuite,
    Tls13CipherSuite,
};

thread_local! {
    /// Addresses of the texts that were decrypted, while somebody wants them.
    static OPENED: RefCell<Option<Vec<Range<usize>>>> = const { RefCell::new(None) };
}

/// ring's ciphers, through which [`Tls`] learns where a text lies. Used without it they are ring's.
pub(in crate::cluster::client) fn provider() -> CryptoProvider {
    /// Once per process, because suites are for ever.
    static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
        let suites = rustls::crypto::ring::default_provider().cipher_suites;
        suites.into_iter().map(noting_suite).collect()
    });
    CryptoProvider { cipher_suites: SUITES.clone(), ..rustls::crypto::ring::default_provider() }
}

/// TLS 1.2 stays as it is: its records' texts are copied.
fn noting_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { return suite };
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: Box::leak(Box::new(NotingAead(suite.aead_alg))),
        quic: None,
    })))
}

struct NotingAead(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for NotingAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(NotingDecrypter(self.0.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct NotingDecrypter(Box<dyn MessageDecrypter>);

impl MessageDecrypter for NotingDecrypter {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, rustls::Error> {
        let plain = self.0.decrypt(message, sequence)?;
        if plain.typ != ContentType::ApplicationData || plain.payload.is_empty() {
            return Ok(plain);
        }
        let noted = OPENED.with_borrow_mut(|opened| {
            let begin = plain.payload.as_ptr().addr();
            opened.as_mut().map(|opened| opened.push(begin..begin + plain.payload.len())).is_some()
        });
        // Not empty: of empty ones rustls takes only a few.
        Ok(if noted { InboundPlainMessage { payload: &plain.payload[..1], ..plain } } else { plain })
    }
}

/// Whether a text was noted.
fn is_noted() -> bool {
    OPENED.with_borrow(|opened| opened.as_ref().is_some_and(|opened| !opened.is_empty()))
}

/// The client's end of a connection: bytes in, bytes out, no socket.
pub(in crate::cluster::client) struct Tls {
    session: UnbufferedClientConnection,
    /// The handshake is over.
    open: bool,
    /// What was read of a record (or of a message in many) that is not complete.
    begun: Vec<u8>,
    /// What is to be sent.
    pub(in crate::cluster::client) unsent: Vec<u8>,
    /// Room for [`OPENED`].
    noted: Vec<Range<usize>>,
}

/// What the other side's bytes have led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster::client) enum Side {
    Open,
    /// It has said that nothing follows.
    Closed,
}

/// What rustls has made of some bytes.
enum Step {
    /// There is another step to be made.
    On,
    /// The same, and so many texts were noted.
    Texts(usize),
    Over(Side),
}

impl Tls {
    /// A connection to be opened; its first message waits to be sent.
    pub(in crate::cluster::client) fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        let mut tls = Self { session, open: false, begun: Vec::new(), unsent: Vec::new(), noted: Vec::new() };
        tls.read(&mut [], |_| {})?;
        Ok(tls)
    }

    pub(in crate::cluster::client) fn is_open(&self) -> bool {
        self.open
    }

    /// What stands before the next bytes that are [`Tls::read`].
    pub(in crate::cluster::client) fn begun(&self) -> &[u8] {
        &self.begun
    }

    /// Reads what has arrived, after what had [`Tls::begun`], and hands on the text of it. There may be something to be
    /// sent after that.
    ///
    /// # Errors
    /// The bytes are not what the other side may send; what came before that was handed on.
    pub(in crate::cluster::client) fn read(
        &mut self,
        records: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Side> {
        let base = records.as_ptr().addr();
        let mut from = 0;
        let side = loop {
            OPENED.set(Some(std::mem::take(&mut self.noted)));
            let (discard, step) = self.step(&mut records[from..], &mut take);
            let mut noted = OPENED.take().unwrap_or_default();
            from += discard;
            if let Ok(Step::Texts(count)) = step {
                for text in noted.iter().take(count) {
                    take(&records[text.start - base..text.end - base]);
                }
            }
            noted.clear();
            self.noted = noted;
            match step {
                Ok(Step::On | Step::Texts(_)) => {}
                Ok(Step::Over(side)) => break Ok(side),
                Err(error) => break Err(error),
            }
        };
        self.begun = records[from..].to_vec();
        if side.is_err()
            && let Ok(ConnectionState::EncodeTlsData(alert)) = self.session.process_tls_records(&mut []).state
        {
            // Tells the other side why, if it can be told.
            let _ = encode(alert, &mut self.unsent);
        }
        side
    }

    /// One step, and how many bytes are done with after it.
    fn step(&mut self, records: &mut [u8], take: &mut impl FnMut(&[u8])) -> (usize, io::Result<Step>) {
        let UnbufferedStatus { discard, state } = self.session.process_tls_records(records);
        let step = match state {
            Err(error) => Err(invalid(error)),
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.unsent).map(|()| Step::On),
            // Whoever reads sends `unsent` before anything else.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::On)
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut noted = 0;
                loop {
                    match traffic.next_record() {
                        Some(Ok(_)) if is_noted() => noted += 1,
                        Some(Ok(record)) => take(record.payload),
                        Some(Err(error)) => break Err(invalid(error)),
                        None => break Ok(Step::Texts(noted)),
                    }
                }
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                self.open = true;
                Ok(Step::Over(Side::Open))
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Over(Side::Open)),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Over(Side::Closed)),
            Ok(state) => Err(invalid(format!("TLS is in an unexpected state: {state:?}"))),
        };
        (discard, step)
    }

    /// Queues a text to be sent; the connection must be open.
    pub(in crate::cluster::client) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut self.begun);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return Err(ErrorKind::NotConnected.into());
        };
        append(&mut self.unsent, |room| match traffic.encrypt(text, room) {
            Err(EncryptError::InsufficientSize(more)) => Err(Some(more)),
            encrypted => encrypted.map_err(|_| None),
        })?;
        self.begun.drain(..discard);
        Ok(())
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn encode(mut data: EncodeTlsData<'_, ClientConnectionData>, unsent: &mut Vec<u8>) -> io::Result<()> {
    append(unsent, |room| match data.encode(room) {
        Err(EncodeError::InsufficientSize(more)) => Err(Some(more)),
        encoded => encoded.map_err(|_| None),
    })
}

/// Appends what `write` writes into the room it is given, which it may say is too small.
fn append(
    to: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> io::Result<()> {
    let begin = to.len();
    loop {
        match write(&mut to[begin..]) {
            Ok(written) => {
                to.truncate(begin + written);
                return Ok(());
            }
            Err(Some(more)) if more.required_size > to.len() - begin => {
                to.resize(begin + more.required_size, 0);
            }
            Err(_) => return Err(io::Error::other("TLS has nothing left to encrypt with")),
        }
    }
}

#[cfg(test)]
pub(in crate::cluster::client) mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};
    use std::task::{Context, Poll};

    use futures::FutureExt as _;
    use proptest::prelude::*;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::version::{TLS12, TLS13};
    use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::super::socket::{Arrived, Connection, Wire};
    use super::*;

    /// Configurations of a server with a certificate for `localhost`, and of a client that knows it.
    pub(in crate::cluster::client) fn configs(
        version: &'static SupportedProtocolVersion,
    ) -> (ServerConfig, ClientConfig) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        (server, client_config(roots, version))
    }

    fn client_config(roots: RootCertStore, version: &'static SupportedProtocolVersion) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn localhost() -> ServerName<'static> {
        ServerName::try_from("localhost").expect("a name")
    }

    /// A server in memory, as the socket to it: what it sends is read in pieces of at most these lengths, in turn.
    struct Peer {
        server: ServerConnection,
        sent: VecDeque<u8>,
        pieces: Vec<usize>,
        reads: usize,
        /// Reads that found nothing, one after the other.
        idle: usize,
        gone: bool,
        error: Option<rustls::Error>,
    }

    impl Peer {
        fn new(config: ServerConfig, pieces: Vec<usize>) -> Self {
            let server = ServerConnection::new(Arc::new(config)).expect("a server");
            Self { server, sent: VecDeque::new(), pieces, reads: 0, idle: 0, gone: false, error: None }
        }

        fn send(&mut self, text: &[u8]) {
            for part in text.chunks(10_000) {
                self.server.writer().write_all(part).expect("room");
                self.collect();
            }
        }

        fn collect(&mut self) {
            while self.server.wants_write() {
                let mut bytes = Vec::new();
                self.server.write_tls(&mut bytes).expect("memory");
                self.sent.extend(bytes);
            }
        }
    }

    impl io::Read for Peer {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.idle = if self.sent.is_empty() { self.idle + 1 } else { 0 };
            assert!(self.idle < 10, "both sides wait for each other");
            if self.sent.is_empty() && !self.gone {
                return Err(ErrorKind::WouldBlock.into());
            }
            let piece = self.pieces[self.reads % self.pieces.len()].min(into.len());
            self.reads += 1;
            self.sent.read(&mut into[..piece])
        }
    }

    impl io::Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut rest = bytes;
            while !rest.is_empty() {
                self.server.read_tls(&mut rest)?;
                if let Err(error) = self.server.process_new_packets() {
                    self.error = Some(error);
                    break;
                }
            }
            self.collect();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Wire for &mut Peer {
        fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
            (**self).poll_readable(context)
        }

        fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<()> {
            (**self).poll_writable(context)
        }

        fn pause(&mut self) {}
    }

    impl Wire for Peer {
        fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn pause(&mut self) {}
    }

    fn connect(peer: Peer, config: ClientConfig) -> io::Result<Connection<Peer>> {
        let tls = Tls::new(Arc::new(config), localhost())?;
        Connection::secured(peer, tls).now_or_never().expect("nothing to wait for")
    }

    /// Everything until there is nothing more for now, and how that ended.
    fn read_all(connection: &mut Connection<Peer>) -> (Vec<u8>, io::Result<Arrived>) {
        let mut text = Vec::new();
        loop {
            poll_fn(|context| connection.poll_readable(context)).now_or_never().expect("ready");
            match connection.try_read(|part| text.extend_from_slice(part)) {
                Ok(Arrived::All | Arrived::Part) => {}
                end => return (text, end),
            }
        }
    }

    fn requested(connection: &mut Connection<Peer>, text: &[u8]) {
        connection.write_all(text).now_or_never().expect("nothing to wait for").expect("sound");
        let mut got = vec![0; text.len()];
        connection.wire.server.reader().read_exact(&mut got).expect("the request");
        assert_eq!(got, text);
    }

    fn text_of(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn texts_arrive_whole_wherever_their_records_are_cut(
            texts in prop::collection::vec(0usize..60_000, 0..6),
            pieces in prop::collection::vec(prop_oneof![1usize..40, 1_000usize..70_000], 1..6),
            newest in any::<bool>(),
        ) {
            let (server, client) = configs(if newest { &TLS13 } else { &TLS12 });
            let mut connection = connect(Peer::new(server, pieces), client).expect("a connection");
            requested(&mut connection, b"GET /");
            let mut wanted = Vec::new();
            for bytes in texts {
                let text = text_of(bytes);
                connection.wire.send(&text);
                wanted.extend(text);
            }
            let (text, end) = read_all(&mut connection);
            prop_assert!(text == wanted);
            prop_assert_eq!(end.expect("sound"), Arrived::Nothing);
            connection.wire.server.send_close_notify();
            connection.wire.collect();
            prop_assert_eq!(read_all(&mut connection).1.expect("sound"), Arrived::Closed);
        }
    }

    #[test]
    fn a_text_is_handed_on_from_where_its_record_was_read() {
        let (server, client) = configs(&TLS13);
        let mut peer = Peer::new(server, vec![70_000]);
        let mut tls = Tls::new(Arc::new(client), localhost()).expect("a client");
        let mut read = |peer: &mut Peer, take: &mut dyn FnMut(&[u8], Range<*const u8>)| {
            peer.write_all(&std::mem::take(&mut tls.unsent)).expect("memory");
            let mut records = [tls.begun(), peer.sent.make_contiguous()].concat();
            peer.sent.clear();
            let place = records.as_ptr_range();
            tls.read(&mut records, |text| take(text, place.clone())).expect("sound");
            tls.is_open() && tls.unsent.is_empty()
        };
        while !read(&mut peer, &mut |_, _| panic!("nothing was said")) {}
        peer.send(&text_of(40_000));
        let mut bytes = 0;
        read(&mut peer, &mut |text, place| {
            assert!(place.contains(&text.as_ptr()));
            bytes += text.len();
        });
        assert_eq!(bytes, 40_000);
    }

    #[test]
    fn an_end_that_tls_does_not_tell_is_an_error() {
        let (server, client) = configs(&TLS13);
        let mut connection = connect(Peer::new(server, vec![4_096]), client).expect("a connection");
        connection.wire.send(b"half a log");
        connection.wire.gone = true;
        let (text, end) = read_all(&mut connection);
        assert_eq!(text, b"half a log");
        assert_eq!(end.expect_err("cut").kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_damaged_record_is_an_error_after_all_that_was_sound_and_the_other_side_is_told() {
        for version in [&TLS13, &TLS12] {
            let (server, client) = configs(version);
            let mut connection = connect(Peer::new(server, vec![70_000]), client).expect("a connection");
            requested(&mut connection, b"GET /");
            let (text, _) = read_all(&mut connection);
            assert!(text.is_empty());
            connection.wire.send(b"sound");
            let sound = connection.wire.sent.len();
            connection.wire.send(b"damaged");
            connection.wire.sent[sound + 20] ^= 1;
            connection.wire.send(b"after it");
            let (text, end) = read_all(&mut connection);
            assert_eq!(text, b"sound");
            let error = end.expect_err("damaged");
            let reason = error.get_ref().and_then(|error| error.downcast_ref());
            assert_eq!(reason, Some(&rustls::Error::DecryptError));
            let alert = rustls::AlertDescription::BadRecordMac;
            assert_eq!(connection.wire.error, Some(rustls::Error::AlertReceived(alert)));
        }
    }

    #[test]
    fn new_keys_are_taken_and_answered() {
        let (server, client) = configs(&TLS13);
        let mut connection = connect(Peer::new(server, vec![30, 7_000]), client).expect("a connection");
        connection.wire.send(b"old keys, ");
        for _ in 0..3 {
            connection.wire.server.refresh_traffic_keys().expect("open");
            connection.wire.send(b"new keys, ");
        }
        let (text, end) = read_all(&mut connection);
        assert_eq!(text, b"old keys, new keys, new keys, new keys, ");
        assert_eq!(end.expect("sound"), Arrived::Nothing);
        requested(&mut connection, b"with new keys too");
        assert_eq!(connection.wire.error, None);
    }

    #[test]
    fn an_unknown_server_gets_no_request_and_is_told() {
        for version in [&TLS13, &TLS12] {
            let (server, _) = configs(version);
            let (_, stranger) = configs(version);
            let mut peer = Peer::new(server, vec![4_096]);
            let tls = Tls::new(Arc::new(stranger), localhost()).expect("a client");
            let refused = Connection::secured(&mut peer, tls).now_or_never().expect("nothing to wait for");
            let error = refused.err().expect("an unknown server");
            let reason = error.get_ref().and_then(|error| error.downcast_ref());
            assert!(matches!(reason, Some(rustls::Error::InvalidCertificate(_))), "{error}");
            assert!(matches!(peer.error, Some(rustls::Error::AlertReceived(_))), "{:?}", peer.error);
        }
    }

    #[test]
    fn who_speaks_before_the_handshake_is_over_is_refused() {
        let (mut server, client) = configs(&TLS13);
        server.send_half_rtt_data = true;
        let mut peer = Peer::new(server, vec![70_000]);
        peer.server.writer().write_all(b"HTTP/1.1 200 OK\r\n").expect("room");
        let error = connect(peer, client).err().expect("too early");
        assert_eq!(error.to_string(), "the other side spoke before the TLS handshake was over");
    }

    #[test]
    fn with_other_connections_the_ciphers_change_nothing() {
        let (server, client) = configs(&TLS13);
        let mut peer = Peer::new(server, vec![70_000]);
        let mut other = rustls::ClientConnection::new(Arc::new(client), localhost()).expect("a client");
        for _ in 0..4 {
            while other.wants_write() {
                other.write_tls(&mut peer).expect("memory");
            }
            while !peer.sent.is_empty() {
                other.read_tls(&mut peer).expect("memory");
                other.process_new_packets().expect("sound");
            }
        }
        assert!(!other.is_handshaking());
        let wanted = text_of(12_345);
        peer.send(&wanted);
        let mut text = vec![0; wanted.len()];
        while !peer.sent.is_empty() {
            other.read_tls(&mut peer).expect("memory");
            other.process_new_packets().expect("sound");
        }
        other.reader().read_exact(&mut text).expect("the whole text");
        assert_eq!(text, wanted);
    }
}

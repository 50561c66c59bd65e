//! Where the body of an HTTP answer ends, and what of the bytes of its connection belongs to it.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use tower::BoxError;

/// Where a body ends (RFC 9112, section 6.3), and how far it was read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cluster::client) enum Framing {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    Open,
}

impl Framing {
    pub(in crate::cluster::client) fn of(response: &Response<()>) -> Result<Self, BoxError> {
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

    pub(in crate::cluster::client) fn is_over(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunked::End))
    }

    /// Reads the next bytes of the connection and hands on what is body of them, without copying it.
    pub(in crate::cluster::client) fn read(
        &mut self,
        bytes: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<(), BoxError> {
        match self {
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                body(&bytes[..here]);
            }
            Framing::Open => body(bytes),
            Framing::Chunked(chunked) => chunked.read(bytes, body)?,
        }
        Ok(())
    }
}

/// Where in a chunked body (RFC 9112, section 7.1) the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster::client) enum Chunked {
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

    fn read(&mut self, mut bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<(), BoxError> {
        while let Some((first, rest)) = bytes.split_first() {
            match self {
                Chunked::End => break,
                Chunked::Data(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= here as u64;
                    if *left == 0 {
                        *self = Chunked::DataEnd;
                    }
                    data(&bytes[..here]);
                    bytes = &bytes[here..];
                }
                _ => {
                    *self = self
                        .after(*first)
                        .ok_or_else(|| format!("malformed chunk in the answer ({self:?}, {first})"))?;
                    bytes = rest;
                }
            }
        }
        Ok(())
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

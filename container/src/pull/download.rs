//! The bytes of a blob, over as many connections as it takes.

use std::io::{self, Read};

use ureq::http::{Response, header};
use ureq::{Body, BodyReader};

use super::client::{Asked, Failed};
use super::error::PullError;
use super::registry::Registry;

/// Reads a blob. Where a transfer breaks off it goes on, as often as the client's patience allows
/// for the whole of it.
pub(super) struct Download<'a> {
    registry: &'a Registry,
    path: String,
    what: String,
    size_bytes: u64,
    position: u64,
    attempt: u32,
    body: Option<BodyReader<'static>>,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        path: String,
        what: String,
        size_bytes: u64,
    ) -> Download<'a> {
        Download { registry, path, what, size_bytes, position: 0, attempt: 1, body: None }
    }

    fn open(&self) -> Result<BodyReader<'static>, Failed> {
        let asked =
            Asked { what: &self.what, path: &self.path, accept: None, from_byte: self.position };
        let response = self.registry.client.try_get(&asked)?;
        let begins_at = self.begins_at(&response)?;
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| begins_at.checked_add(length) != Some(self.size_bytes)) {
            let why = format!("it has not the {} bytes of its manifest", self.size_bytes);
            return Err(self.registry.client.lie(&self.what, why).into());
        }
        let mut body = response.into_body().into_reader();
        // A server that cannot go on in the middle begins again.
        let skipped = io::copy(&mut (&mut body).take(self.position - begins_at), &mut io::sink());
        match skipped {
            Ok(count) if count == self.position - begins_at => Ok(body),
            Ok(_) => Err(Failed::Transient(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(Failed::Transient(error)),
        }
    }

    /// Which byte the answer begins with.
    fn begins_at(&self, response: &Response<Body>) -> Result<u64, PullError> {
        if response.status() == 200 {
            return Ok(0);
        }
        let range = response.headers().get(header::CONTENT_RANGE);
        let begins = range.and_then(|value| {
            value.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
        });
        if begins != Some(self.position) {
            let why = "it is another part of the file".to_owned();
            return Err(self.registry.client.lie(&self.what, why));
        }
        Ok(self.position)
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize, Failed> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let count = body.read(buffer).map_err(Failed::Transient)?;
        if count == 0 && self.position < self.size_bytes && !buffer.is_empty() {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer broke off");
            return Err(Failed::Transient(error));
        }
        self.position += count as u64;
        self.body = Some(body);
        Ok(count)
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let client = &self.registry.client;
        loop {
            let error = match self.read_once(buffer) {
                Ok(count) => return Ok(count),
                Err(Failed::Final(error)) => error,
                Err(Failed::Transient(source)) if self.attempt >= client.patience.attempts => {
                    client.unreachable(&self.what, source)
                }
                Err(Failed::Transient(_)) => {
                    client.pause(self.attempt);
                    self.attempt += 1;
                    continue;
                }
            };
            return Err(self.registry.keep(error));
        }
    }
}

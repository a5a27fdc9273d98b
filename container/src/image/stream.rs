//! A layer's archive: decompressed, hashed and counted in one pass.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::intake::{CHUNK_BYTES, Intake, Tally};
use super::layer_error::LayerError;
use super::limits::UnpackLimits;

/// The largest window of a zstd frame, which is memory: what the reference decoder allows
/// (RFC 8878, section 3.1.1.1.2, recommends 8 MiB at least).
const ZSTD_WINDOW_MAX_BYTES: u64 = 128 << 20;

/// The uncompressed bytes of a layer.
pub(crate) struct Stream<'a> {
    decoder: Decoder<'a>,
    tally: &'a Tally,
    limits: UnpackLimits,
    hasher: Sha256,
    bytes: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

enum Decoder<'a> {
    Plain(BufReader<Intake<'a>>),
    Gzip(Box<MultiGzDecoder<BufReader<Intake<'a>>>>),
    Zstd(ZstdFrames<BufReader<Intake<'a>>>),
}

impl<'a> Stream<'a> {
    /// Begins to read; the kind of compression is told by the first bytes, for what documents say
    /// of it is not always so.
    pub(crate) fn new(
        intake: Intake<'a>,
        tally: &'a Tally,
        limits: UnpackLimits,
    ) -> Result<Stream<'a>, LayerError> {
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, intake);
        let decoder = match compression(reader.fill_buf().map_err(LayerError::Read)?)? {
            Compression::None => Decoder::Plain(reader),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Zstd => Decoder::Zstd(ZstdFrames::Between(Some(reader))),
        };
        Ok(Stream {
            decoder,
            tally,
            limits,
            hasher: Sha256::new(),
            bytes: 0,
            buffer: vec![0; CHUNK_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        })
    }

    /// How many bytes have been taken.
    pub(crate) fn position(&self) -> u64 {
        self.bytes - (self.end - self.start) as u64
    }

    /// The next bytes, at least one if there are any.
    pub(crate) fn fill(&mut self) -> Result<&[u8], LayerError> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            while self.end < self.buffer.len() {
                let space = self.buffer.get_mut(self.end..).unwrap_or_default();
                match self.decoder.read(space) {
                    Ok(0) => break,
                    Ok(count) => self.end += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(LayerError::Read(error)),
                }
            }
            self.count()?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Fills the whole of `bytes`, or as much as there is; returns how much that was.
    pub(crate) fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while let Some(space @ [_, ..]) = bytes.get_mut(filled..) {
            let available = self.fill()?;
            let count = available.len().min(space.len());
            if count == 0 {
                break;
            }
            for (to, from) in space.iter_mut().zip(available) {
                *to = *from;
            }
            self.consume(count);
            filled += count;
        }
        Ok(filled)
    }

    /// Reads to the end of both streams and returns the digest of the uncompressed one.
    pub(crate) fn finish(mut self) -> Result<Digest, LayerError> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let mut intake = self.decoder.into_intake();
        if let Some(intake) = &mut intake {
            intake.drain(&mut self.buffer).map_err(LayerError::Read)?;
        }
        Ok(Digest::finish(self.hasher))
    }

    fn count(&mut self) -> Result<(), LayerError> {
        let new = self.buffer.get(..self.end).unwrap_or_default();
        self.hasher.update(new);
        self.bytes += new.len() as u64;
        let UnpackLimits { bytes, ratio, .. } = self.limits;
        if self.bytes > bytes {
            return Err(LayerError::Limit { what: "bytes", limit: bytes });
        }
        let allowed = self.tally.bytes().saturating_mul(ratio);
        if self.bytes > UnpackLimits::RATIO_FROM_BYTES && self.bytes > allowed {
            return Err(LayerError::Limit { what: "times its compressed size", limit: ratio });
        }
        Ok(())
    }
}

impl<'a> Decoder<'a> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(reader) => reader.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(frames) => frames.read(buffer),
        }
    }

    fn into_intake(self) -> Option<Intake<'a>> {
        match self {
            Decoder::Plain(reader) => Some(reader.into_inner()),
            Decoder::Gzip(decoder) => Some(decoder.into_inner().into_inner()),
            Decoder::Zstd(ZstdFrames::Between(reader)) => reader.map(BufReader::into_inner),
            Decoder::Zstd(ZstdFrames::Within(decoder)) => Some(decoder.into_inner().into_inner()),
        }
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

fn compression(first: &[u8]) -> Result<Compression, LayerError> {
    match first {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // RFC 8878, sections 3.1.1 and 3.1.2.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', ..] => Err(LayerError::Compression("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(LayerError::Compression("xz")),
        _ => Ok(Compression::None),
    }
}

/// Frames one after the other, some of which are to be skipped (RFC 8878, section 3.1).
enum ZstdFrames<R: Read> {
    Between(Option<R>),
    Within(Box<StreamingDecoder<R, FrameDecoder>>),
}

impl<R: BufRead> ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                ZstdFrames::Within(decoder) => match decoder.read(buffer)? {
                    0 => {
                        let before = std::mem::replace(self, ZstdFrames::Between(None));
                        if let ZstdFrames::Within(decoder) = before {
                            *self = ZstdFrames::Between(Some(decoder.into_inner()));
                        }
                    }
                    count => return Ok(count),
                },
                ZstdFrames::Between(reader) => {
                    let Some(mut next) = reader.take() else { return Ok(0) };
                    if !skip(&mut next)? {
                        *reader = Some(next);
                        return Ok(0);
                    }
                    let decoder =
                        StreamingDecoder::new_with_max_window_size(next, ZSTD_WINDOW_MAX_BYTES)
                            .map_err(io::Error::other)?;
                    *self = ZstdFrames::Within(Box::new(decoder));
                }
            }
        }
    }
}

/// Passes over skippable frames; whether something follows.
fn skip(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        match reader.fill_buf()? {
            [] => return Ok(false),
            [0x50..=0x5f, ..] => {
                let mut header = [0; 8];
                reader.read_exact(&mut header)?;
                let [_, 0x2a, 0x4d, 0x18, length @ ..] = header else {
                    return Err(io::Error::other("this is no zstd frame"));
                };
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut reader.take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            _ => return Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// The digest of the whole, and how many compressed bytes were seen.
    fn through(bytes: &[u8], limits: UnpackLimits) -> Result<(Digest, u64), LayerError> {
        let tally = Tally::default();
        let mut source = bytes;
        let intake = Intake::new(&mut source, None, &tally, &|_| {});
        let digest = Stream::new(intake, &tally, limits)?.finish()?;
        assert_eq!(tally.digest(), Digest::of(bytes));
        Ok((digest, tally.bytes()))
    }

    #[test]
    fn test_stream_of_every_compression_gives_the_same_bytes() {
        let plain: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8).collect();
        let (half, rest) = plain.split_at(333_333);
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(half)].concat();
        for packed in [
            plain.clone(),
            gzip(&plain),
            [gzip(half), gzip(rest)].concat(),
            zstd(&plain),
            [zstd(half), zstd(rest)].concat(),
            [&skippable[..], &zstd(rest)].concat(),
        ] {
            let (digest, bytes) = through(&packed, UnpackLimits::default()).unwrap();
            assert_eq!((digest, bytes), (Digest::of(&plain), packed.len() as u64));
        }
    }

    #[test]
    fn test_stream_of_a_bomb_returns_limit() {
        let bomb = gzip(&vec![0; 80 << 20]);
        let limits = UnpackLimits::default();
        assert!(matches!(through(&bomb, limits), Err(LayerError::Limit { limit: 200, .. })));
        let limits = UnpackLimits { bytes: 1 << 20, ..limits };
        let error = through(&bomb, limits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it unpacks to more than 1048576 bytes: a decompression bomb, or raise the limit"
        );
    }

    #[test]
    fn test_stream_of_truncated_and_foreign_bytes_returns_an_error() {
        let plain = vec![1; 100_000];
        for packed in [gzip(&plain), zstd(&plain)] {
            let cut = &packed[..packed.len() - 9];
            assert!(matches!(through(cut, UnpackLimits::default()), Err(LayerError::Read(_))));
        }
        let error = through(b"BZh91AY", UnpackLimits::default()).unwrap_err();
        assert!(error.to_string().contains("bzip2"), "{error}");
    }
}

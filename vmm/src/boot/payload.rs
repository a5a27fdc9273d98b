//! Unpacking a kernel's payload, whose compression its first bytes tell.

use std::io::{self, Read};

use thiserror::Error;

/// No kernel is larger; bounds what a few hostile bytes can make of themselves.
const UNPACKED_MAX_BYTES: usize = 256 << 20;
/// What its decoder may take for a dictionary: Linux compresses with one of 128 MiB at most
/// (scripts/xz_wrap.sh).
const XZ_MAX_KIB: u32 = 256 << 10;
/// Linux puts the unpacked size behind every payload (scripts/Makefile.lib, `size_append`); gzip
/// ends in it by itself.
const SIZE_BYTES: usize = 4;

const GZIP: &[u8] = b"\x1f\x8b";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// The legacy frame (lz4_Frame_format.md), which `lz4 -l` makes.
const LZ4: &[u8] = b"\x02\x21\x4c\x18";
const LZ4_BLOCK_BYTES: usize = 8 << 20;
const ELF: &[u8] = b"\x7fELF";

/// Why a payload cannot be unpacked.
#[derive(Debug, Error)]
pub(super) enum PayloadError {
    #[error(
        "its payload begins with {0:02x?}, which is neither gzip, xz, zstd nor LZ4: configure the kernel with CONFIG_KERNEL_ZSTD=y, or give its `vmlinux`"
    )]
    Unknown(Vec<u8>),
    #[error("its {format} payload is damaged ({error}): copy or build it again")]
    Damaged { format: &'static str, error: io::Error },
    #[error("its payload unpacks to more than {} MiB: this is no kernel", UNPACKED_MAX_BYTES >> 20)]
    TooLarge,
    #[error("its payload has {found} bytes, but says it has {told}: copy or build it again")]
    Size { found: usize, told: u32 },
    #[error("its payload is not an ELF file: is it a kernel for x86-64?")]
    NotElf,
}

/// The ELF kernel inside `packed`.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let body_bytes = packed.len().saturating_sub(SIZE_BYTES);
    let (body, told) = packed.split_at(body_bytes);
    let told = told.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (format, unpacked) = if packed.starts_with(GZIP) {
        ("gzip", take(flate2::read::GzDecoder::new(packed)))
    } else if packed.starts_with(XZ) {
        ("xz", take(lzma_rust2::XzReader::new_mem_limit(body, false, XZ_MAX_KIB)))
    } else if packed.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(body).map_err(io::Error::other);
        ("zstd", decoder.and_then(take))
    } else if packed.starts_with(LZ4) {
        ("LZ4", lz4(&body[LZ4.len().min(body.len())..]))
    } else {
        return Err(PayloadError::Unknown(packed.iter().take(6).copied().collect()));
    };
    let unpacked = unpacked.map_err(|error| PayloadError::Damaged { format, error })?;
    if unpacked.len() > UNPACKED_MAX_BYTES {
        return Err(PayloadError::TooLarge);
    }
    if unpacked.len() as u64 != u64::from(told) {
        return Err(PayloadError::Size { found: unpacked.len(), told });
    }
    if !unpacked.starts_with(ELF) {
        return Err(PayloadError::NotElf);
    }
    Ok(unpacked)
}

/// Reads at most one byte more than a kernel may have.
fn take(decoder: impl Read) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    decoder.take(UNPACKED_MAX_BYTES as u64 + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Blocks of at most 8 MiB unpacked, each behind its packed size, to the end.
fn lz4(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let mut buffer = vec![0; LZ4_BLOCK_BYTES];
    while let Some((size, rest)) = blocks.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let block = rest.get(..size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes =
            lz4_flex::block::decompress_into(block, &mut buffer).map_err(io::Error::other)?;
        unpacked.extend_from_slice(&buffer[..bytes]);
        if unpacked.len() > UNPACKED_MAX_BYTES {
            break;
        }
        blocks = &rest[size..];
    }
    Ok(unpacked)
}

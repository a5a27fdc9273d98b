use std::io::{Read, Write};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use super::*;

/// What is packed: no ELF but for its first bytes, which is all that unpacking asks.
fn elf() -> Vec<u8> {
    let mut elf = b"\x7fELF".to_vec();
    elf.extend((0..300_000_u32).map(|index| (index.wrapping_mul(index) >> 7) as u8));
    elf
}

/// Packs by the system's own tool, as the kernel's build does; `None` where it is not installed.
fn pack(tool: &str, arguments: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let mut packed = Vec::new();
    child.stdout.take()?.read_to_end(&mut packed).ok()?;
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success(), "{tool}");
    Some(packed)
}

fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend((size as u32).to_le_bytes());
    packed
}

/// A legacy LZ4 frame of one block.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(bytes);
    let mut frame = b"\x02\x21\x4c\x18".to_vec();
    frame.extend((block.len() as u32).to_le_bytes());
    frame.extend(block);
    frame
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 2 * 512];
    image[SETUP_SECTORS] = 1;
    image[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
    image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&100_u32.to_le_bytes());
    image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4]
        .copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.resize(1024 + 100, 0x90);
    image.extend(payload);
    image
}

fn unpack_bytes(image: &[u8]) -> Result<Vec<u8>, BootError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    let unpacked = unpack_bzimage(file.path())?.unwrap();
    let mut bytes = vec![0; unpacked.metadata().unwrap().len() as usize];
    unpacked.read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

/// A payload in each format that can be made here: LZ4 always, the others by their tools.
fn payloads(content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let sized = |packed| with_size(packed, content.len());
    let mut payloads = vec![("LZ4", sized(lz4(content)))];
    payloads.extend(pack("gzip", &["-9n"], content).map(|packed| ("gzip", packed)));
    let xz = pack("xz", &["--check=crc32", "--x86", "--lzma2=dict=1MiB"], content);
    payloads.extend(xz.map(|packed| ("xz", sized(packed))));
    payloads.extend(pack("zstd", &["-q", "-19"], content).map(|packed| ("zstd", sized(packed))));
    payloads
}

#[test]
fn test_unpack_every_format_returns_the_elf() {
    let elf = elf();
    for (format, payload) in payloads(&elf) {
        assert!(unpack_bytes(&bzimage(&payload)).unwrap() == elf, "{format}");
    }
}

#[test]
fn test_unpack_damaged_or_cut_payload_returns_error() {
    for (format, payload) in payloads(&elf()) {
        let mut cut = bzimage(&payload);
        cut.truncate(cut.len() - 1);
        let error = unpack_bytes(&cut).unwrap_err();
        assert!(matches!(error, BootError::Truncated { .. }), "{format}: {error}");
        let half = bzimage(&payload[..payload.len() / 2]);
        let error = unpack_bytes(&half).unwrap_err();
        assert!(matches!(error, BootError::BadBzImage { .. }), "{format}: {error}");
        let mut other_size = payload.clone();
        *other_size.last_mut().unwrap() ^= 1;
        let error = unpack_bytes(&bzimage(&other_size)).unwrap_err();
        assert!(error.to_string().contains("build it again"), "{format}: {error}");
    }
}

#[test]
fn test_unpack_bomb_is_stopped_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    let block = lz4(&zeros)[4..].to_vec();
    let mut bomb = b"\x02\x21\x4c\x18".to_vec();
    for _ in 0..40 {
        bomb.extend(&block);
    }
    let error = unpack_bytes(&bzimage(&with_size(bomb, 40 * zeros.len()))).unwrap_err();
    assert!(error.to_string().contains("more than 256 MiB"), "{error}");
}

#[test]
fn test_unpack_other_content_returns_its_reason() {
    let text = b"no kernel at all".repeat(10);
    let error = unpack_bytes(&bzimage(&with_size(lz4(&text), text.len()))).unwrap_err();
    assert!(error.to_string().contains("not an ELF"), "{error}");
    let error = unpack_bytes(&bzimage(b"BZh91AY&SY")).unwrap_err();
    assert!(error.to_string().contains("neither gzip"), "{error}");
    let error = unpack_bytes(&bzimage(b"")).unwrap_err();
    assert!(error.to_string().contains("neither gzip"), "{error}");
    let mut old = bzimage(&with_size(lz4(&elf()), elf().len()));
    old[VERSION] = 0x07;
    let error = unpack_bytes(&old).unwrap_err();
    assert!(error.to_string().contains("2.07"), "{error}");
    let mut script = NamedTempFile::new().unwrap();
    script.write_all(b"#!/bin/sh\n").unwrap();
    assert!(unpack_bzimage(script.path()).unwrap().is_none());
}

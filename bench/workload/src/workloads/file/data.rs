//! One large file, read and written in blocks.

use alloc::string::String;
use alloc::vec::Vec;

use super::pattern::Pattern;
use super::{Settings, deep};
use crate::clock::timed;
use crate::random::Random;
use crate::sys::{File, Mapping, c_path};
use crate::{Context, Errno, Error, Report, Unit};

const APPEND_BYTES: usize = 4096;
/// Each read of `deepread` has a buffer of its own; a box may be small.
const DEEP_BYTES_MAX: usize = 64 << 20;

/// The file, and a buffer aligned for direct transfers. The file is removed on drop.
pub(super) struct DataFile {
    file: File,
    path: String,
    buffer: Mapping,
    bytes: u64,
    seed: u64,
}

impl DataFile {
    /// Creates and fills the file, and brings it to the device.
    pub(super) fn create(scratch: &str, settings: &Settings) -> Result<DataFile, Error> {
        let path = alloc::format!("{scratch}/tare-data");
        let block_bytes = settings.block_bytes.max(settings.stream_block_bytes).max(APPEND_BYTES);
        let buffer = Mapping::anonymous(block_bytes).on("mmap", "a buffer")?;
        let file =
            File::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).on("open", &path)?;
        let (bytes, seed) = (settings.file_bytes as u64, settings.seed);
        let mut data = DataFile { file, path, buffer, bytes, seed };
        data.write_all(settings.stream_block_bytes, 0)?;
        data.file.sync().on("fsync", &data.path)?;
        if settings.is_direct {
            data.file.set_direct().on("fcntl(O_DIRECT)", &data.path)?;
        }
        Ok(data)
    }

    /// Does the operations asked for, in the order of their declaration.
    pub(super) fn run(&mut self, settings: &Settings, report: &mut Report) -> Result<(), Error> {
        let blocks = self.bytes / settings.block_bytes as u64;
        let mut random = Random::new(settings.seed);
        let mut offsets = || -> Vec<u64> {
            let offset = |_| random.below(blocks) * settings.block_bytes as u64;
            (0..settings.count).map(offset).collect()
        };
        let (read_offsets, write_offsets, deep_offsets) = (offsets(), offsets(), offsets());
        let first = self.pattern(0);
        let mut cached_bytes = Vec::new();

        if settings.wants("seqread") {
            cached_bytes.push(self.set_cache(settings)?);
            let read_ns = self.read_all(settings.stream_block_bytes, first)?;
            let rate = self.per_second(read_ns);
            report.record("seqread_bytes_per_s", Unit::BytesPerSecond, [rate])?;
        }
        if settings.wants("randread") {
            cached_bytes.push(self.set_cache(settings)?);
            let mut samples = Vec::with_capacity(read_offsets.len());
            for offset in read_offsets {
                samples.push(self.read_block(settings.block_bytes, offset, first)?);
            }
            report.record("randread_ns", Unit::Nanoseconds, samples)?;
        }
        if settings.wants("deepread") {
            cached_bytes.push(self.set_cache(settings)?);
            let Settings { block_bytes, depth, .. } = *settings;
            let file = (&self.file, self.path.as_str());
            let fitting = (DEEP_BYTES_MAX / block_bytes).max(1);
            let offsets = &deep_offsets[..deep_offsets.len().min(fitting)];
            let samples = deep::read(file, block_bytes, depth, offsets, first)?;
            report.record("deepread_ns", Unit::Nanoseconds, samples)?;
        }
        if !cached_bytes.is_empty() {
            report.record("cached_bytes", Unit::Bytes, cached_bytes)?;
        }
        if settings.wants("seqwrite") {
            let write_ns = self.write_all(settings.stream_block_bytes, 1)?;
            let (synced, sync_ns) = timed(|| self.file.sync());
            synced.on("fsync", &self.path)?;
            self.read_all(settings.stream_block_bytes, self.pattern(1))?;
            let (rate, sync_rate) =
                (self.per_second(write_ns), self.per_second(write_ns + sync_ns));
            report.record("seqwrite_bytes_per_s", Unit::BytesPerSecond, [rate])?;
            report.record("seqwrite_sync_bytes_per_s", Unit::BytesPerSecond, [sync_rate])?;
        }
        if settings.wants("randwrite") {
            let mut samples = Vec::with_capacity(write_offsets.len());
            for offset in &write_offsets {
                samples.push(self.write_block(settings.block_bytes, *offset, self.pattern(2))?);
            }
            for offset in write_offsets {
                self.read_block(settings.block_bytes, offset, self.pattern(2))?;
            }
            report.record("randwrite_ns", Unit::Nanoseconds, samples)?;
        }
        if settings.wants("fsync") {
            report.record(
                "fsync_ns",
                Unit::Nanoseconds,
                self.append(settings.count.div_ceil(8))?,
            )?;
        }
        Ok(())
    }

    fn pattern(&self, generation: u64) -> Pattern {
        Pattern { seed: self.seed, generation }
    }

    fn per_second(&self, total_ns: f64) -> f64 {
        self.bytes as f64 / total_ns * 1e9
    }

    /// Brings the page cache into the declared state and measures what it holds.
    fn set_cache(&self, settings: &Settings) -> Result<f64, Error> {
        if settings.is_cold {
            self.file.drop_cache().on("posix_fadvise", &self.path)?;
        }
        let bytes =
            Mapping::cached_bytes(&self.file, settings.file_bytes).on("mincore", &self.path)?;
        Ok(bytes as f64)
    }

    /// Time in `pread`, in nanoseconds; comparing the content is not in it.
    fn read_all(&mut self, block_bytes: usize, pattern: Pattern) -> Result<f64, Error> {
        let mut total_ns = 0.0;
        for offset in (0..self.bytes).step_by(block_bytes) {
            total_ns += self.read_block(block_bytes, offset, pattern)?;
        }
        Ok(total_ns)
    }

    /// Time in `pwrite`, in nanoseconds; making the content is not in it.
    fn write_all(&mut self, block_bytes: usize, generation: u64) -> Result<f64, Error> {
        let mut total_ns = 0.0;
        for offset in (0..self.bytes).step_by(block_bytes) {
            total_ns += self.write_block(block_bytes, offset, self.pattern(generation))?;
        }
        Ok(total_ns)
    }

    fn read_block(&mut self, bytes: usize, offset: u64, pattern: Pattern) -> Result<f64, Error> {
        let block = &mut self.buffer.as_mut()[..bytes];
        let (result, read_ns) = timed(|| self.file.read_at(block, offset));
        let read = result.on("pread", at(&self.path, offset))?;
        check_read(&self.path, block, read, offset, pattern)?;
        Ok(read_ns)
    }

    fn write_block(&mut self, bytes: usize, offset: u64, pattern: Pattern) -> Result<f64, Error> {
        let block = &mut self.buffer.as_mut()[..bytes];
        pattern.fill(block, offset);
        let (result, write_ns) = timed(|| self.file.write_at(block, offset));
        match result.on("pwrite", at(&self.path, offset))? {
            written if written == bytes => Ok(write_ns),
            // What a full disk does to the last write that still fits in part.
            _ => Err(Errno(libc::ENOSPC)).on("pwrite", at(&self.path, offset)),
        }
    }

    /// Appends `times` blocks, each followed by an fsync, whose times it returns.
    fn append(&mut self, times: usize) -> Result<Vec<f64>, Error> {
        let mut samples = Vec::with_capacity(times);
        for index in 0..times {
            let offset = self.bytes + (index * APPEND_BYTES) as u64;
            self.write_block(APPEND_BYTES, offset, self.pattern(3))?;
            let (synced, sync_ns) = timed(|| self.file.sync());
            synced.on("fsync", &self.path)?;
            samples.push(sync_ns);
        }
        Ok(samples)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if let Ok(path) = c_path(&self.path) {
            // SAFETY: `path` is NUL-terminated.
            unsafe { libc::unlink(path.as_ptr()) };
        }
    }
}

/// Checks that a whole block was read, and what was written.
pub(super) fn check_read(
    path: &str,
    block: &[u8],
    read: usize,
    offset: u64,
    pattern: Pattern,
) -> Result<(), Error> {
    let bytes = block.len();
    if read != bytes {
        return Err(Error::Wrong {
            what: "length of a read",
            expected: alloc::format!("{bytes} bytes at {offset} of {path}"),
            got: alloc::format!("{read}"),
        });
    }
    if !pattern.matches(block, offset) {
        return Err(Error::Wrong {
            what: "content of a file",
            expected: alloc::format!("what was written at {offset} of {path}"),
            got: "something else".into(),
        });
    }
    Ok(())
}

pub(super) fn at(path: &str, offset: u64) -> String {
    alloc::format!("{path} at {offset}")
}

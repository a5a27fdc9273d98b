//! Random reads with several in flight.

use alloc::vec::Vec;

use super::data::{at, check_read};
use super::pattern::Pattern;
use crate::clock::now_ns;
use crate::sys::{Aio, Completion, File, Mapping, Request};
use crate::{Context, Error};

/// Reads blocks at `offsets`, `depth` of them at a time: each that ends makes room for the next.
///
/// Returns the time between ends, in nanoseconds, as the mean over each `depth` reads: what one
/// costs. Every read has a buffer of its own, so that all can be compared after the last.
pub(super) fn read(
    (file, path): (&File, &str),
    block_bytes: usize,
    depth: usize,
    offsets: &[u64],
    pattern: Pattern,
) -> Result<Vec<f64>, Error> {
    let mut memory = Mapping::anonymous(offsets.len() * block_bytes).on("mmap", "buffers")?;
    // No page of them is to be made while the clock runs.
    memory.as_mut().fill(0);
    let blocks = memory.as_mut().chunks_exact_mut(block_bytes).zip(offsets).enumerate();
    let mut requests: Vec<Request> = blocks
        .map(|(index, (block, offset))| Request::read(file, &raw mut *block, *offset, index))
        .collect();
    let list: Vec<*mut Request> = requests.iter_mut().map(|request| &raw mut *request).collect();
    let mut lengths = alloc::vec![0; offsets.len()];
    let mut completions = alloc::vec![Completion::default(); depth];
    let mut samples = Vec::with_capacity(offsets.len() / depth + 1);
    let aio = Aio::new(depth).on("io_setup", path)?;
    let (mut submitted, mut ended) = (0, 0);
    let (mut last_ended, mut last_ns) = (0, now_ns());
    while ended < list.len() {
        let room = (ended + depth).min(list.len());
        if submitted < room {
            // SAFETY: the buffers lie in `memory`, which outlives `aio`, and are not looked at
            // before the last completion; the context does not outlive them.
            let taken = unsafe { aio.submit(&list[submitted..room]) };
            submitted += taken.on("io_submit", path)?;
        }
        for completion in aio.wait(&mut completions).on("io_getevents", path)? {
            let offset = offsets[completion.tag()];
            lengths[completion.tag()] = completion.moved().on("read", at(path, offset))?;
            ended += 1;
        }
        if ended - last_ended >= depth || ended == list.len() {
            let now_ns = now_ns();
            samples.push((now_ns - last_ns) as f64 / (ended - last_ended) as f64);
            (last_ended, last_ns) = (ended, now_ns);
        }
    }
    drop(aio);
    let blocks = memory.as_mut().chunks_exact(block_bytes);
    for ((block, &offset), &read) in blocks.zip(offsets).zip(&lengths) {
        check_read(path, block, read, offset, pattern)?;
    }
    Ok(samples)
}

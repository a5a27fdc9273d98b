//! A descriptor chain as lists of buffers in this process, checked against every rule of
//! section 2.7.

use std::ptr;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::Broken;

/// One descriptor of a table (section 2.7.5).
pub(super) const DESCRIPTOR_BYTES: usize = size_of::<Descriptor>();

/// The buffers of one chain: first those that the device reads, then those that it writes.
///
/// Kept from request to request, so that serving one allocates nothing.
#[derive(Debug)]
pub(super) struct Buffers {
    list: Vec<libc::iovec>,
    readable: usize,
    limit: usize,
}

// SAFETY: the addresses belong to no thread. They are used only between `add` and the end of the
// same request. The guest memory they point into is mapped until then: it is borrowed by the caller,
// or the device that has requests in flight ends them before the memory goes.
unsafe impl Send for Buffers {}

impl Buffers {
    /// For chains of at most `limit` descriptors.
    pub(super) fn new(limit: u16) -> Buffers {
        let limit = usize::from(limit);
        Buffers { list: Vec::with_capacity(limit), readable: 0, limit }
    }

    /// Forgets all buffers.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.readable = 0;
    }

    /// Adds the buffers of the chain that begins at `head` of `table`. Empty ones are left out.
    ///
    /// An indirect table is followed although the feature is not offered: the driver breaks a rule
    /// that protects it, not us.
    pub(super) fn add(
        &mut self,
        memory: &GuestMemoryMmap,
        table: VolatileSlice<'_>,
        head: u16,
    ) -> Result<(), Broken> {
        let (mut table, mut indirect) = (table, false);
        let mut index = usize::from(head);
        let mut room = u32::MAX;
        let mut count = 0;
        loop {
            // Read once: the driver may write to it meanwhile.
            let descriptor = table.get_ref::<Descriptor>(index * DESCRIPTOR_BYTES);
            let descriptor = descriptor.map_err(|_| Broken::Cut)?.load();
            let length = descriptor.len() as usize;
            if descriptor.refers_to_indirect_table() {
                if indirect || !length.is_multiple_of(DESCRIPTOR_BYTES) {
                    return Err(Broken::Cut);
                }
                table = memory.get_slice(descriptor.addr(), length).map_err(|_| Broken::Cut)?;
                (index, indirect) = (0, true);
                continue;
            }
            // No chain has more (section 2.7.5.2).
            room = room.checked_sub(descriptor.len()).ok_or(Broken::Cut)?;
            let readable = !descriptor.is_write_only();
            if readable && self.readable != self.list.len() {
                return Err(Broken::Order);
            }
            if length != 0 {
                // A buffer may not cross the PCI hole: what is one range for the guest is two.
                let slice = memory.get_slice(descriptor.addr(), length);
                let iov_base = slice.map_err(|_| Broken::Buffer)?.ptr_guard_mut().as_ptr().cast();
                self.list.push(libc::iovec { iov_base, iov_len: length });
                self.readable += usize::from(readable);
            }
            if !descriptor.has_next() {
                return Ok(());
            }
            count += 1;
            if count >= self.limit.min(table.len() / DESCRIPTOR_BYTES) {
                return Err(Broken::Endless);
            }
            index = descriptor.next().into();
        }
    }

    /// Drops the first `count` writable buffers.
    pub(super) fn drop_writable(&mut self, count: usize) {
        self.list.drain(self.readable..self.readable + count);
    }

    /// Copies the first `N` readable bytes out, wherever the driver has put them (section 2.7.4:
    /// framing is the driver's choice).
    pub(super) fn take_front<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        if total(self.readable()) < N as u64 {
            return Err(Broken::Frame);
        }
        gather(self.readable(), 0, &mut bytes);
        advance(&mut self.list[..self.readable], N);
        Ok(bytes)
    }

    /// Takes the last writable byte away, for the request's status.
    pub(super) fn take_last(&mut self) -> Result<Status, Broken> {
        let last = self.list[self.readable..].last_mut().ok_or(Broken::Frame)?;
        // No buffer is empty.
        last.iov_len -= 1;
        // SAFETY: the buffer has `iov_len + 1` bytes, so this is its last one.
        Ok(Status(unsafe { last.iov_base.cast::<u8>().add(last.iov_len) }))
    }

    /// The buffers that the device reads.
    pub(super) fn readable(&self) -> &[libc::iovec] {
        &self.list[..self.readable]
    }

    /// The buffers that the device writes.
    pub(super) fn writable(&self) -> &[libc::iovec] {
        &self.list[self.readable..]
    }

    /// Makes one transfer to the writable buffers and, where these are full, to `spare`.
    pub(super) fn with_spare<T>(
        &mut self,
        spare: &mut [u8],
        transfer: impl FnOnce(&[libc::iovec]) -> T,
    ) -> T {
        let iov_base = spare.as_mut_ptr().cast();
        self.list.push(libc::iovec { iov_base, iov_len: spare.len() });
        let result = transfer(self.writable());
        self.list.pop();
        result
    }

    /// As `readable`, for a transfer that consumes them.
    pub(super) fn readable_mut(&mut self) -> &mut [libc::iovec] {
        &mut self.list[..self.readable]
    }

    /// As `writable`, for a transfer that consumes them.
    pub(super) fn writable_mut(&mut self) -> &mut [libc::iovec] {
        &mut self.list[self.readable..]
    }
}

/// The guest's byte that takes a request's status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status(*mut u8);

// SAFETY: as for `Buffers`.
unsafe impl Send for Status {}

impl Status {
    /// Tells the guest.
    pub(super) fn set(self, status: u8) {
        // SAFETY: the address came from `take_last` within this request, whose guest memory is
        // still mapped; a byte has no alignment, and what the guest does to it meanwhile is its own
        // affair.
        unsafe { self.0.write_volatile(status) }
    }
}

/// Bytes in all of `buffers`.
pub(super) fn total(buffers: &[libc::iovec]) -> u64 {
    buffers.iter().map(|buffer| buffer.iov_len as u64).sum()
}

/// Drops the first `count` bytes; the buffers they were in are left empty.
pub(super) fn advance(buffers: &mut [libc::iovec], mut count: usize) {
    for buffer in buffers {
        let part = count.min(buffer.iov_len);
        // SAFETY: `part` bytes are within the buffer.
        buffer.iov_base = unsafe { buffer.iov_base.cast::<u8>().add(part) }.cast();
        buffer.iov_len -= part;
        count -= part;
        if count == 0 {
            break;
        }
    }
}

/// Drops all but the first `count` bytes; the buffers they were in are left empty.
pub(super) fn cut(buffers: &mut [libc::iovec], mut count: usize) {
    for buffer in buffers {
        buffer.iov_len = buffer.iov_len.min(count);
        count -= buffer.iov_len;
    }
}

/// Copies bytes of guest memory, from `skip` on, until `bytes` is full; false if there are too few.
pub(super) fn gather(buffers: &[libc::iovec], skip: usize, bytes: &mut [u8]) -> bool {
    each(buffers, skip, bytes.len(), |guest, at, length| {
        // SAFETY: `each` hands out ranges within a buffer of guest memory, which is mapped, and
        // within `bytes`; host memory and guest memory never overlap.
        unsafe { ptr::copy_nonoverlapping(guest, bytes.as_mut_ptr().add(at), length) }
    })
}

/// Copies `bytes` to guest memory, from `skip` on; false if there is too little room.
pub(super) fn scatter(buffers: &[libc::iovec], skip: usize, bytes: &[u8]) -> bool {
    each(buffers, skip, bytes.len(), |guest, at, length| {
        // SAFETY: as in `gather`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().add(at), guest, length) }
    })
}

/// Cuts `length` bytes of `buffers`, from `skip` on, into contiguous parts.
fn each(
    buffers: &[libc::iovec],
    mut skip: usize,
    length: usize,
    mut copy: impl FnMut(*mut u8, usize, usize),
) -> bool {
    let mut done = 0;
    for buffer in buffers {
        if done == length {
            break;
        }
        if skip >= buffer.iov_len {
            skip -= buffer.iov_len;
            continue;
        }
        let part = (buffer.iov_len - skip).min(length - done);
        // SAFETY: `skip` is less than the buffer's length.
        copy(unsafe { buffer.iov_base.cast::<u8>().add(skip) }, done, part);
        skip = 0;
        done += part;
    }
    done == length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(parts: &mut [Vec<u8>]) -> Vec<libc::iovec> {
        parts
            .iter_mut()
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
            .collect()
    }

    #[test]
    fn test_gather_and_scatter_across_buffers() {
        let mut parts = vec![vec![1, 2, 3], vec![], vec![4], vec![5, 6, 7, 8]];
        let list = buffers(&mut parts);
        let mut bytes = [0; 5];
        assert!(gather(&list, 2, &mut bytes));
        assert_eq!(bytes, [3, 4, 5, 6, 7]);
        assert!(!gather(&list, 4, &mut bytes));
        assert!(scatter(&list, 3, &[9, 9]));
        assert!(!scatter(&list, 7, &[9, 9]));
        assert_eq!(parts[2], [9]);
        assert_eq!(parts[3], [9, 6, 7, 9]);
    }

    #[test]
    fn test_advance_leaves_the_rest() {
        let mut parts = vec![vec![1, 2, 3], vec![4, 5]];
        let mut list = buffers(&mut parts);
        advance(&mut list, 4);
        assert_eq!(total(&list), 1);
        let mut byte = [0];
        assert!(gather(&list, 0, &mut byte));
        assert_eq!(byte, [5]);
    }
}

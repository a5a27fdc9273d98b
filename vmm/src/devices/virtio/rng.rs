//! The entropy device (section 5.4): random bytes of the host's kernel, for the asking.

use std::io;

use super::chain::{Buffers, scatter, total};
use super::{Broken, Device, Queues};

/// Descriptors in its queue.
const QUEUE_SIZE: u16 = 64;
/// What one request gets at most: Linux asks for 64 bytes. getrandom(2) gives up to 256 without
/// being interrupted.
const REQUEST_BYTES: usize = 256;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Rng {
    buffers: Buffers,
}

impl Rng {
    pub(crate) fn new() -> Rng {
        Rng { buffers: Buffers::new(QUEUE_SIZE) }
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_RNG
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn negotiated(&mut self, _features: u64) {}

    fn config(&self) -> &[u8] {
        &[]
    }

    fn notified(&mut self, index: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let memory = queues.memory;
        let Some(queue) = queues.get(index) else { return Ok(()) };
        for _ in 0..queue.size() {
            let Some(head) = queue.pop(memory, &mut self.buffers)? else { break };
            let mut bytes = [0; REQUEST_BYTES];
            let wanted = total(self.buffers.writable()).min(REQUEST_BYTES as u64) as usize;
            let bytes = &mut bytes[..wanted];
            // A request that the host cannot serve is used with a length of 0: the driver asks
            // again. All of `bytes` fits.
            let served = fill(bytes).is_ok() && scatter(self.buffers.writable(), 0, bytes);
            queue.push(memory, head, if served { wanted as u32 } else { 0 })?;
        }
        if queue.listen(memory)? {
            queues.again(index);
        }
        Ok(())
    }
}

/// Fills at most 256 bytes from the host's generator, without waiting for it to be seeded.
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the bytes are valid for writing of their length.
    let got =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if usize::try_from(got) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::super::Virtqueue;
    use super::{Broken, Device, QUEUE_SIZE, Queues, Rng as Entropy};

    const TABLE: u64 = 0x1000;
    const AVAILABLE: u64 = 0x4000;
    const USED: u64 = 0x5000;
    const DATA: u64 = 0x1_0000;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    const NEXT: u16 = VRING_DESC_F_NEXT as u16;

    struct Bench {
        memory: GuestMemoryMmap,
        queues: [Virtqueue; 1],
        rng: Entropy,
    }

    impl Bench {
        fn new() -> Bench {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let mut queue = Virtqueue::new(QUEUE_SIZE);
            queue.set_table(Some(TABLE as u32), None);
            queue.set_available_ring(Some(AVAILABLE as u32), None);
            queue.set_used_ring(Some(USED as u32), None);
            queue.set_ready(&memory, true).unwrap();
            Bench { memory, queues: [queue], rng: Entropy::new() }
        }

        /// Offers one chain; how many bytes the device says it wrote.
        fn offer(&mut self, chain: &[(u64, u32, u16, u16)]) -> Result<u32, Broken> {
            for (index, &(address, length, flags, next)) in (0_u64..).zip(chain) {
                let at = TABLE + 16 * index;
                self.memory.write_obj(address, GuestAddress(at)).unwrap();
                self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
                self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
                self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
            }
            self.memory.write_obj(1_u16, GuestAddress(AVAILABLE + 2)).unwrap();
            self.rng.notified(0, &mut Queues::new(&self.memory, &mut self.queues))?;
            Ok(self.memory.read_obj(GuestAddress(USED + 8)).unwrap())
        }

        fn data(&self, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
            bytes
        }
    }

    #[test]
    fn test_request_is_filled_with_other_bytes_each_time() {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut bench = Bench::new();
            assert_eq!(
                bench.offer(&[(DATA, 40, WRITE | NEXT, 1), (DATA + 40, 24, WRITE, 0)]),
                Ok(64)
            );
            assert_eq!(bench.data(65)[64], 0, "nothing behind the buffer");
            seen.push(bench.data(64));
        }
        assert_ne!(seen[0], seen[1]);
        assert_ne!(seen[0], [0; 64]);
    }

    #[test]
    fn test_request_larger_than_the_limit_gets_the_limit() {
        let mut bench = Bench::new();
        assert_eq!(bench.offer(&[(DATA, 4096, WRITE, 0)]), Ok(256));
        assert_eq!(bench.data(4096)[256..], [0; 3840]);
    }

    #[test]
    fn test_request_without_room_is_used_empty() {
        assert_eq!(Bench::new().offer(&[(DATA, 64, 0, 0)]), Ok(0));
    }

    #[test]
    fn test_broken_chains_stop_the_device() {
        let looping = [(DATA, 8, WRITE | NEXT, 0)];
        assert_eq!(Bench::new().offer(&looping), Err(Broken::Endless));
        assert_eq!(Bench::new().offer(&[(1 << 30, 8, WRITE, 0)]), Err(Broken::Buffer));
        let order = [(DATA, 8, WRITE | NEXT, 1), (DATA, 8, 0, 0)];
        assert_eq!(Bench::new().offer(&order), Err(Broken::Order));
    }

    proptest! {
        #[test]
        fn test_any_descriptors_are_safe(
            chain in prop::collection::vec(
                (
                    prop_oneof![0_u64..1 << 20, any::<u64>()],
                    prop_oneof![0_u32..4096, any::<u32>()],
                    0_u16..8,
                    prop_oneof![0_u16..8, any::<u16>()],
                ),
                1..8,
            ),
        ) {
            let _ = Bench::new().offer(&chain);
        }
    }
}

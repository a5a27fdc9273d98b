//! A guest that becomes the template of others.
//!
//! It stops at one instruction: a write to our VMM's renewal port (`vmm/src/devices/renewal.rs` has
//! the port and its record). Whoever goes on from there, in the first guest or in a copy, then asks
//! who it is: copies must not draw the same random numbers, nor live at the template's time. The host
//! may have a message for it, too: the words of another job than the template's.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr;

use tare_workload::{Context, Errno, Error};

use crate::ioport;

const PORT: u16 = 0xE00;
const RECORD_BYTES: usize = 64;
/// The host sends no longer message.
const MESSAGE_MAX_BYTES: usize = 64 << 10;
/// Where the random bytes are in a record: identity and seed, both of which are good.
const RANDOM_BYTES: usize = 48;
/// Linux, include/uapi/linux/random.h: `_IOW('R', 3, int[2])` and `_IO('R', 7)`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// /dev/random (Documentation/admin-guide/devices.txt).
const RANDOM_DEVICE: libc::dev_t = libc::makedev(1, 8);
const RANDOM_NODE: &core::ffi::CStr = c"/.random";

/// Stops here, to be copied.
///
/// # Errors
/// No access to the port.
pub(crate) fn park() -> Result<(), Errno> {
    ioport::allow(PORT, 1)?;
    // SAFETY: just allowed; a VMM other than ours has nothing there.
    unsafe { ioport::write(PORT, 1) };
    Ok(())
}

/// Takes on the identity that the host gives; its message, which may be empty.
///
/// # Errors
/// A VMM without the port, or a kernel that does not take the time or the entropy.
pub(crate) fn renew() -> Result<Vec<u8>, Error> {
    let mut record = [0; RECORD_BYTES];
    // SAFETY: `park` was allowed to use the port.
    unsafe { ioport::read_all(PORT, &mut record) };
    let (random, rest) = record.split_at(RANDOM_BYTES);
    let (now_ns, rest) = rest.split_at(8);
    let (_cid, length) = rest.split_at(4);
    if random.iter().all(|&byte| byte == 0xFF) {
        return Err(Errno(libc::ENODEV)).on("renew", "this guest: its VMM has no renewal port");
    }
    let now_ns = now_ns.try_into().map_or(0, u64::from_le_bytes);
    set_clock(now_ns).on("set", "the clock of a restored guest")?;
    add_entropy(random).on("add", "entropy to /dev/random of a restored guest")?;
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    if length > MESSAGE_MAX_BYTES {
        return Err(Errno(libc::EMSGSIZE)).on("read", "the host's message to a restored guest");
    }
    let mut message = vec![0; length];
    // SAFETY: as above.
    unsafe { ioport::read_all(PORT, &mut message) };
    Ok(message)
}

fn set_clock(now_ns: u64) -> Result<(), Errno> {
    let now = libc::timespec {
        tv_sec: (now_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (now_ns % 1_000_000_000).cast_signed(),
    };
    // SAFETY: `now` is valid for reading.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) })
}

/// Mixes the bytes into the kernel's generator and has it start anew, for all its users.
fn add_entropy(bytes: &[u8]) -> Result<(), Errno> {
    /// `struct rand_pool_info` (include/uapi/linux/random.h).
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; RANDOM_BYTES],
    }
    let mut pool = Pool { bits: 0, size: 0, bytes: [0; RANDOM_BYTES] };
    let count = bytes.len().min(RANDOM_BYTES);
    pool.bytes[..count].copy_from_slice(&bytes[..count]);
    pool.size = count as libc::c_int;
    pool.bits = pool.size * 8;
    // A node of its own: /dev may not be there yet.
    // SAFETY: the name is a C string, the descriptor is this function's own, and `pool` is valid
    // for reading and says its true size.
    unsafe {
        check(libc::mknod(RANDOM_NODE.as_ptr(), libc::S_IFCHR | 0o600, RANDOM_DEVICE))?;
        let fd = libc::open(RANDOM_NODE.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let opened = check(fd);
        libc::unlink(RANDOM_NODE.as_ptr());
        opened?;
        let result = check(libc::ioctl(fd, RNDADDENTROPY as _, &raw const pool))
            .and_then(|()| check(libc::ioctl(fd, RNDRESEEDCRNG as _, ptr::null::<libc::c_void>())));
        libc::close(fd);
        result
    }
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(()) }
}

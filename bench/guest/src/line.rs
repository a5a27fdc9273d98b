//! The socket of a command's standard streams.

use tare_workload::{Context, Errno, Error, Line};

/// The host's CID (vsock(7)).
const HOST_CID: u32 = 2;

/// Opens it, or takes it over. No program that is executed from here inherits it.
pub(crate) fn open(line: Line) -> Result<i32, Error> {
    match line {
        Line::Fd(fd) => {
            // SAFETY: touches no memory.
            check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).on("fcntl", line)?;
            Ok(fd)
        }
        Line::Vsock(port) => {
            // SAFETY: touches no memory.
            let fd = check(unsafe {
                libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
            });
            let fd = fd.on("socket", "AF_VSOCK (CONFIG_VIRTIO_VSOCKETS)")?;
            // SAFETY: plain numbers, for which zero is a value.
            let mut address: libc::sockaddr_vm = unsafe { core::mem::zeroed() };
            address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
            address.svm_cid = HOST_CID;
            address.svm_port = port;
            let length = size_of_val(&address) as libc::socklen_t;
            // SAFETY: `address` is valid for reading of `length`.
            check(unsafe { libc::connect(fd, (&raw const address).cast(), length) })
                .on("connect", alloc::format!("the host's {line}"))?;
            Ok(fd)
        }
    }
}

fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

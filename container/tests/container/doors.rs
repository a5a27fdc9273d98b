//! Ways out of a box, each as a function that tries it: `Ok` if the way is open.
//!
//! They are harmless where they succeed: what would change something is only opened, or asked for
//! with arguments that are found wrong after permission has been checked.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixStream};

use libc::c_long;

/// What of the host's the box is told of, to look for.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// A process.
    pub(crate) pid: i32,
    /// The name of an abstract socket.
    pub(crate) socket: String,
    /// A TCP port of its loopback interface.
    pub(crate) port: u16,
    /// The key of a piece of shared memory.
    pub(crate) key: i32,
    /// A file.
    pub(crate) file: String,
}

/// Whether the same attempt succeeds for root outside of any box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Always: what is shut is the box's doing.
    Works,
    /// On some hosts: the kernel may lack it, or itself refuse it.
    Depends,
}
use Control::{Depends, Works};

pub(crate) struct Door {
    pub(crate) name: &'static str,
    pub(crate) control: Control,
    pub(crate) attempt: fn(&Outside) -> io::Result<()>,
}

const fn door(
    name: &'static str,
    control: Control,
    attempt: fn(&Outside) -> io::Result<()>,
) -> Door {
    Door { name, control, attempt }
}

pub(crate) const DOORS: &[Door] = &[
    door("mount a tmpfs", Works, |_| mount(c"tmpfs", c"/tmp", c"tmpfs", 0, c"")),
    door("bind the root elsewhere", Works, |_| mount(c"/", c"/tmp", c"", libc::MS_BIND, c"")),
    door("remount /proc/sys writable", Depends, |_| {
        mount(c"", c"/proc/sys", c"", libc::MS_REMOUNT | libc::MS_BIND, c"")
    }),
    door("remount / with devices", Works, |_| {
        mount(c"", c"/", c"", libc::MS_REMOUNT | libc::MS_BIND, c"")
    }),
    door("mount the host's cgroups", Depends, |_| mount(c"x", c"/tmp", c"cgroup", 0, c"memory")),
    door("mount the host's cgroups (2)", Depends, |_| mount(c"x", c"/tmp", c"cgroup2", 0, c"")),
    door("unmount what masks /proc", Depends, |_| {
        call(libc::SYS_umount2, [address(c"/proc/sysrq-trigger"), 0, 0, 0, 0])
    }),
    door("open a file system", Works, |_| call(libc::SYS_fsopen, [address(c"tmpfs"), 0, 0, 0, 0])),
    door("clone a mount", Works, |_| {
        call(libc::SYS_open_tree, [libc::AT_FDCWD as usize, address(c"/"), 1, 0, 0])
    }),
    door("change the root", Works, |_| {
        past(call(libc::SYS_pivot_root, [address(c"/tmp"), address(c"/tmp"), 0, 0, 0]))
    }),
    door("core_pattern", Depends, |_| writable("/proc/sys/kernel/core_pattern")),
    door("modprobe's path", Depends, |_| writable("/proc/sys/kernel/modprobe")),
    door("sysctl of memory", Works, |_| writable("/proc/sys/vm/overcommit_memory")),
    door("binfmt_misc", Depends, |_| writable("/proc/sys/fs/binfmt_misc/register")),
    door("sysrq-trigger", Depends, |_| writable("/proc/sysrq-trigger")),
    door("/sys", Works, |_| writable("/sys/class/net/lo/mtu")),
    door("uevent_helper", Depends, |_| writable("/sys/kernel/uevent_helper")),
    door("release_agent", Depends, |_| writable("/sys/fs/cgroup/memory/release_agent")),
    door("kernel memory", Depends, |_| readable("/proc/kcore")),
    door("keys of the host", Depends, |_| readable("/proc/keys")),
    door("timers of the host", Depends, |_| readable("/proc/timer_list")),
    door("see a process", Works, |o| fs::metadata(format!("/proc/{}", o.pid)).map(drop)),
    door("read a process's environment", Works, |o| readable(&format!("/proc/{}/environ", o.pid))),
    door("root directory of a process", Works, |o| {
        fs::read_dir(format!("/proc/{}/root/", o.pid)).map(drop)
    }),
    door("trace a process", Works, |o| {
        call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, o.pid as usize, 0, 0, 0])
    }),
    door("memory of a process", Works, |o| {
        let mut byte = 0u8;
        let here = [(&raw mut byte).expose_provenance(), 1];
        let there = [1usize, 1];
        let [here, there] = [&here, &there].map(|vector| vector.as_ptr().expose_provenance());
        past(call(libc::SYS_process_vm_readv, [o.pid as usize, here, 1, there, 1]))
    }),
    door("signal a process", Works, |o| call(libc::SYS_kill, [o.pid as usize, 0, 0, 0, 0])),
    door("pidfd of a process", Works, |o| call(libc::SYS_pidfd_open, [o.pid as usize, 0, 0, 0, 0])),
    door("node of the kernel's log", Works, |_| node(libc::S_IFCHR, 1, 11, "/tmp")),
    door("node of memory", Depends, |_| node(libc::S_IFCHR, 1, 1, "/tmp")),
    door("node of a disk", Depends, |_| node(libc::S_IFBLK, 254, 0, "/tmp")),
    door("node in /dev", Depends, |_| node(libc::S_IFCHR, 1, 11, "/dev")),
    door("node in /dev/shm", Depends, |_| node(libc::S_IFCHR, 1, 11, "/dev/shm")),
    door("add a key", Works, |_| {
        past(call(libc::SYS_add_key, [address(c"user"), address(c"tare"), 0, 0, -4i32 as usize]))
    }),
    door("session keyring", Works, |_| call(libc::SYS_keyctl, [0, -3i32 as usize, 0, 0, 0])),
    door("request a key", Works, |_| {
        past(call(libc::SYS_request_key, [address(c"user"), address(c"tare"), 0, 0, 0]))
    }),
    door("new user namespace", Works, |_| fork_with(libc::CLONE_NEWUSER)),
    door("new user namespace (unshare)", Works, |_| unshare(libc::CLONE_NEWUSER)),
    door("new mount namespace", Works, |_| fork_with(libc::CLONE_NEWNS)),
    door("new network namespace", Works, |_| unshare(libc::CLONE_NEWNET)),
    door("new user namespace (clone3)", Works, |_| {
        let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        forked(|| {
            // SAFETY: without a stack it is a fork.
            unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) }
        })
    }),
    door("enter a namespace", Works, |_| {
        let file = File::open("/proc/self/ns/net")?;
        call(libc::SYS_setns, [file.as_raw_fd() as usize, 0, 0, 0, 0])
    }),
    door("open by handle", Depends, |_| by_handle()),
    door("chroot and climb", Works, |o| climb(&o.file)),
    door("inherited descriptor", Works, |_| inherited()),
    door("load a module", Works, |_| past(call(libc::SYS_finit_module, [99, 0, 99, 0, 0]))),
    door("load a module (image)", Works, |_| past(call(libc::SYS_init_module, [0, 0, 0, 0, 0]))),
    door("remove a module", Works, |_| {
        past(call(
            libc::SYS_delete_module,
            [address(c"no such"), libc::O_NONBLOCK as usize, 0, 0, 0],
        ))
    }),
    door("another kernel", Depends, |_| past(call(libc::SYS_kexec_load, [0, 0, 0, 0xffff, 0]))),
    door("reboot", Works, |_| past(call(libc::SYS_reboot, [1, 2, 3, 0, 0]))),
    door("bpf", Works, |_| {
        // An array of one number: type, size of its keys, of its values, how many.
        let map = [2u32, 4, 4, 1, 0, 0, 0, 0];
        call(libc::SYS_bpf, [0, map.as_ptr().expose_provenance(), size_of_val(&map), 0, 0])
    }),
    door("perf events", Works, |_| past(call(libc::SYS_perf_event_open, [0, 0, 0, 0, 0]))),
    door("userfaultfd", Works, |_| call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0])),
    door("io_uring", Works, |_| past(call(libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]))),
    door("kernel's log", Works, |_| call(libc::SYS_syslog, [10, 0, 0, 0, 0])),
    door("ports", Depends, |_| call(libc::SYS_ioperm, [0x80, 1, 1, 0, 0])),
    door("clock", Works, |_| call(libc::SYS_settimeofday, [0, 0, 0, 0, 0])),
    door("host name", Works, |_| call(libc::SYS_sethostname, [address(c"x"), 1, 0, 0, 0])),
    door("priority", Works, |_| call(libc::SYS_setpriority, [0, 0, -5i32 as usize, 0, 0])),
    door("hypervisor's sockets", Depends, |_| call(libc::SYS_socket, [40, 1, 0, 0, 0])),
    door("kernel's cryptography", Depends, |_| call(libc::SYS_socket, [38, 5, 0, 0, 0])),
    door("type into a terminal", Depends, |_| {
        call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, address(c"x"), 0, 0])
    }),
    door("abstract socket", Works, |o| {
        let address = SocketAddr::from_abstract_name(&o.socket)?;
        UnixStream::connect_addr(&address).map(drop)
    }),
    door("loopback of the host", Works, |o| TcpStream::connect(("127.0.0.1", o.port)).map(drop)),
    door("shared memory", Works, |o| call(libc::SYS_shmget, [o.key as usize, 0, 0, 0, 0])),
    door("the program's file", Works, |_| {
        let mode = fs::metadata("/proc/self/exe")?.permissions();
        fs::set_permissions("/proc/self/exe", mode)
    }),
];

fn address(text: &'static CStr) -> usize {
    text.as_ptr().expose_provenance()
}

fn call(number: c_long, a: [usize; 5]) -> io::Result<()> {
    // SAFETY: numbers, null pointers and C strings, as each door's call takes them.
    match unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], 0usize) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Found wrong after permission has been checked is open.
fn past(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::ESRCH) => Err(error),
            _ => Ok(()),
        },
        ok => ok,
    }
}

fn mount(source: &CStr, at: &CStr, kind: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    let data = data.as_ptr().cast();
    // SAFETY: C strings.
    match unsafe { libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn writable(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).map(drop)
}

/// Whether there is something in it.
fn readable(path: &str) -> io::Result<()> {
    match io::Read::read(&mut File::open(path)?, &mut [0; 64])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn node(kind: u32, major: u32, minor: u32, directory: &str) -> io::Result<()> {
    let path = format!("{directory}/tare-door-{}", std::process::id());
    let name = CString::new(path.as_str()).map_err(io::Error::other)?;
    // SAFETY: a C string and numbers.
    if unsafe { libc::mknod(name.as_ptr(), kind | 0o600, libc::makedev(major, minor)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let opened =
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).map(drop);
    fs::remove_file(&path)?;
    opened
}

/// Runs `fork`, in whose child this ends at once.
fn forked(fork: impl Fn() -> c_long) -> io::Result<()> {
    match fork() {
        // SAFETY: ends the child, which is a copy of this process.
        0 => unsafe { libc::_exit(0) },
        1.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fork_with(flags: i32) -> io::Result<()> {
    // SAFETY: without a stack it is a fork.
    forked(|| unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })
}

/// In a child: of a process with threads the user namespace cannot be changed.
fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: the child only asks, and tells by its exit status.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(i32::from(libc::unshare(flags) != 0));
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
    }
}

fn by_handle() -> io::Result<()> {
    // struct file_handle: size, type, then up to 128 bytes.
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount = 0i32;
    let (root, handle) = (File::open("/")?, handle.as_mut_ptr().expose_provenance());
    let mount = (&raw mut mount).expose_provenance();
    call(libc::SYS_name_to_handle_at, [libc::AT_FDCWD as usize, address(c"/"), handle, mount, 0])?;
    call(libc::SYS_open_by_handle_at, [root.as_raw_fd() as usize, handle, 0, 0, 0])
}

/// The classic: a root below the working directory leaves that outside.
fn climb(file: &str) -> io::Result<()> {
    let _ = fs::create_dir("/tmp/tare-door");
    std::os::unix::fs::chroot("/tmp/tare-door")?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")?;
    let _ = fs::remove_dir("/tmp/tare-door");
    fs::metadata(file).map(drop)
}

/// Anything but the standard streams, and the directory that is read to know.
fn inherited() -> io::Result<()> {
    let others = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let says = fs::read_link(entry.path()).unwrap_or_default();
            let says = says.to_string_lossy();
            // The test runner of the box makes what is anonymous and what is a pipe.
            let own = ["anon_inode:", "pipe:", "socket:"].iter().any(|kind| says.starts_with(kind));
            !matches!(name.as_str(), "0" | "1" | "2") && !own && !says.ends_with("/fd")
        })
        .count();
    if others > 0 { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// So that the mode of a program can be set by whoever owns it.
pub(crate) fn is_executable(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0)
}

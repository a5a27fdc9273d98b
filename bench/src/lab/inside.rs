//! PID 1 of the emulated host: set it up, run the order, send out what it left, end the machine.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::{env, fs, process};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::machine::EXIT_CODE_ENTRY;
use super::port::{self, Port};
use super::{DISK_DIR, OUT_DIR, delivery};

/// Where the initramfs holds the order; see `image.rs`, which writes it.
pub(super) const ORDER_FILE: &str = "/tare/order";
/// Kernel modules, in the order in which they must be loaded.
pub(super) const MODULES_DIR: &str = "/tare/modules";
const MKE2FS: &str = "/usr/sbin/mke2fs";
const RAM_DISK: &str = "/dev/ram0";
/// One disk of 768 MiB; it takes memory as it is written to.
const DISK_PARAMETERS: &CStr = c"rd_nr=1 rd_size=786432";

/// A line on it asks for the order's end.
const STOP_PORT: &str = "/dev/ttyS1";

/// Commands that any host has, where the lab has busybox.
const BUSYBOX: &str = "/bin/busybox";
const COMMANDS: [&str; 5] = ["/bin/chown", "/bin/false", "/bin/sh", "/bin/sleep", "/bin/true"];

const NEW_ROOT: &str = "/newroot";

/// True where this process should be [`main`]: PID 1 with an order to carry out.
pub fn is_here() -> bool {
    process::id() == 1 && Path::new(ORDER_FILE).exists()
}

/// Runs as PID 1 and never returns: the machine ends with the order's exit code.
pub fn main() -> ! {
    if let Err(error) = port::allow() {
        eprintln!("tare lab: no access to the debug ports: {error}");
        process::exit(1);
    }
    if let Err(error) = carry_out() {
        let _ = writeln!(Port(port::STDERR), "tare lab: {error}");
    }
    port::exit()
}

fn carry_out() -> io::Result<()> {
    mount_new_root()?;
    mount_kernel_file_systems()?;
    link_commands()?;
    load_modules()?;
    let _for_all_guests = delivery::deliver_once()?;
    raise_loopback()?;
    mount_disk()?;
    let code = run_order()?;
    send_archive(code)
}

/// pivot_root(2) refuses to leave the initramfs, so containers need a root that is a real mount.
/// What the initramfs holds appears there at the same places.
fn mount_new_root() -> io::Result<()> {
    fs::create_dir(NEW_ROOT)?;
    mount_fs("tmpfs", NEW_ROOT, "mode=755,size=75%")?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let path = entry.path();
        // /dev is the kernel's own and gets its file system below.
        if !entry.file_type()?.is_dir() || path == Path::new(NEW_ROOT) || path == Path::new("/dev")
        {
            continue;
        }
        let target = Path::new(NEW_ROOT).join(entry.file_name());
        fs::create_dir(&target)?;
        mount(Some(&path), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    env::set_current_dir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    env::set_current_dir("/")
}

fn mount_kernel_file_systems() -> io::Result<()> {
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", DISK_DIR, OUT_DIR] {
        fs::create_dir_all(directory)?;
    }
    mount_fs("proc", "/proc", "")?;
    mount_fs("sysfs", "/sys", "")?;
    mount_fs("devtmpfs", "/dev", "mode=755")?;
    fs::create_dir_all("/dev/shm")?;
    mount_fs("tmpfs", "/dev/shm", "")?;
    fs::create_dir_all("/dev/pts")?;
    mount_fs("devpts", "/dev/pts", "ptmxmode=666")?;
    mount_fs("cgroup2", "/sys/fs/cgroup", "")
}

fn mount_fs(kind: &str, target: &str, options: &str) -> io::Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .map_err(|errno| io::Error::other(format!("cannot mount {kind} on {target}: {errno}")))
}

fn link_commands() -> io::Result<()> {
    if !Path::new(BUSYBOX).exists() {
        return Ok(());
    }
    COMMANDS
        .iter()
        .filter(|command| !Path::new(command).exists())
        .try_for_each(|command| symlink(BUSYBOX, command))
}

/// A host talks with itself by it.
fn raise_loopback() -> io::Result<()> {
    let raised = tare_container::raise_interface("lo", Ipv4Addr::LOCALHOST, 8);
    raised.map_err(io::Error::other)
}

/// Gives the order a disk for its temporary files: ext4 on a RAM disk, as a machine has it. On a tmpfs, where fsync does
/// nothing and O_DIRECT means nothing, a box without a disk of its own would look too good.
fn mount_disk() -> io::Result<()> {
    if !Path::new(MKE2FS).exists() {
        return Ok(());
    }
    let options = "hash_seed=01020304-0506-0708-090a-0b0c0d0e0f10,lazy_itable_init=0,nodiscard";
    let made = Command::new(MKE2FS)
        // The features of the guests' disks (tare-kernels, ext4.rs): the boxes differ, not these.
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode,^metadata_csum,^64bit"])
        .args(["-U", "01020304-0506-0708-090a-0b0c0d0e0f10", "-E", options, RAM_DISK])
        .status()?;
    if !made.success() {
        return Err(io::Error::other(format!("{MKE2FS} {RAM_DISK}: {made}")));
    }
    mount(Some(RAM_DISK), DISK_DIR, Some("ext4"), MsFlags::empty(), None::<&str>)?;
    fs::set_permissions(DISK_DIR, fs::Permissions::from_mode(0o1777))?;
    fs::remove_dir(Path::new(DISK_DIR).join("lost+found"))
}

fn load_modules() -> io::Result<()> {
    let mut modules: Vec<_> =
        fs::read_dir(MODULES_DIR)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    modules.sort();
    for module in modules {
        let file = fs::File::open(&module)?;
        let is_disk = module.to_string_lossy().ends_with("-brd.ko");
        let parameters = if is_disk { DISK_PARAMETERS } else { c"" };
        nix::kmod::finit_module(&file, parameters, nix::kmod::ModuleInitFlags::empty())
            .map_err(|errno| io::Error::other(format!("module {}: {errno}", module.display())))?;
    }
    Ok(())
}

/// The order as it is stored: the number of arguments, the program, its arguments, and its
/// environment as `key=value`, each ended by a zero byte.
pub(super) fn encode_order(
    program: &str,
    arguments: &[OsString],
    environment: &[(String, String)],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut item = |text: &OsStr| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    };
    item(OsStr::new(&arguments.len().to_string()));
    item(OsStr::new(program));
    arguments.iter().for_each(|argument| item(argument));
    environment.iter().for_each(|(key, value)| item(OsStr::new(&format!("{key}={value}"))));
    bytes
}

/// Program, arguments, environment.
type Decoded = (OsString, Vec<OsString>, Vec<(String, String)>);

fn decode_order(bytes: &[u8]) -> Option<Decoded> {
    let text = bytes.strip_suffix(&[0])?;
    let mut items = text.split(|byte| *byte == 0);
    let count: usize = std::str::from_utf8(items.next()?).ok()?.parse().ok()?;
    let program = OsString::from_vec(items.next()?.to_vec());
    let arguments: Vec<_> =
        items.by_ref().take(count).map(|item| OsString::from_vec(item.to_vec())).collect();
    let environment = items
        .map(|item| {
            let (key, value) = std::str::from_utf8(item).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    (arguments.len() == count).then_some((program, arguments, environment))
}

/// Returns the order's exit code; 128 + n where signal n ended it.
fn run_order() -> io::Result<i32> {
    let (program, arguments, environment) = decode_order(&fs::read(ORDER_FILE)?)
        .ok_or_else(|| io::Error::other("the order is garbled"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(OUT_DIR)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        forward(stdout, stderr, child.id())?;
    }
    let status = child.wait()?;
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(125))
}

/// Passes both streams on until the order and all that it started have closed them. When the host
/// asks for it, by the second serial port, the order gets SIGINT: once, for a second ends it at once.
fn forward(mut stdout: ChildStdout, mut stderr: ChildStderr, order: u32) -> io::Result<()> {
    let mut open = [true, true];
    let mut buffer = [0u8; 4096];
    let mut stop = fs::File::options().read(true).custom_flags(libc::O_NOCTTY).open(STOP_PORT).ok();
    while open.contains(&true) {
        let mut polled = Vec::with_capacity(3);
        for (index, fd) in [stdout.as_fd(), stderr.as_fd()].into_iter().enumerate() {
            if open[index] {
                polled.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        polled.extend(stop.as_ref().map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)));
        poll(&mut polled, PollTimeout::NONE)?;
        let ready: Vec<i32> = polled
            .iter()
            .filter(|fd| fd.any().unwrap_or(false))
            .map(|fd| fd.as_fd().as_raw_fd())
            .collect();
        for fd in ready {
            if stop.as_ref().is_some_and(|stop| stop.as_raw_fd() == fd) {
                stop = None;
                // SAFETY: a signal to a child that has not been waited for; touches no memory.
                unsafe { libc::kill(order.cast_signed(), libc::SIGINT) };
                continue;
            }
            let is_stdout = fd == stdout.as_raw_fd();
            let count =
                if is_stdout { stdout.read(&mut buffer)? } else { stderr.read(&mut buffer)? };
            let (index, port) = if is_stdout { (0, port::STDOUT) } else { (1, port::STDERR) };
            open[index] = count > 0;
            Port(port).write_all(&buffer[..count])?;
        }
    }
    Ok(())
}

/// The exit code goes last: an archive without one was cut short.
fn send_archive(code: i32) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(1 << 16, Port(port::ARCHIVE)));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all(".", OUT_DIR)?;
    let text = code.to_string();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, EXIT_CODE_ENTRY, text.as_bytes())?;
    archive.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_order_round_trips_with_empty_arguments_and_environment() {
        let arguments = vec![OsString::from("a b"), OsString::new(), OsString::from("--x=1")];
        let environment =
            vec![("PATH".to_owned(), "/bin".to_owned()), ("EMPTY".to_owned(), String::new())];
        let bytes = encode_order("/tare/bin/tare", &arguments, &environment);
        assert_eq!(
            decode_order(&bytes),
            Some((OsString::from("/tare/bin/tare"), arguments, environment))
        );
    }

    #[test]
    fn test_decode_order_truncated_returns_none() {
        let bytes = encode_order("/p", &[OsString::from("one"), OsString::from("two")], &[]);
        assert_eq!(decode_order(&bytes[..bytes.len() - 5]), None);
        assert_eq!(decode_order(b""), None);
        assert_eq!(decode_order(b"x\0/p\0"), None);
    }
}

//! The box's own terminal: made inside, from the box's `/dev/pts`; its other end is sent out.

use std::os::fd::{AsRawFd, OwnedFd};

use super::files;
use super::mount::{OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE, attach_at};
use crate::error::{Error, Stage};
use crate::script::{Reg, Script};
use crate::spec::Spec;
use crate::terminal::{Terminal, control_message};

/// A pair of terminal ends of the box: the register of the program's end. `socket` takes the other;
/// what must stay open for that goes to `kept`.
pub(super) fn make(
    script: &mut Script,
    spec: &Spec,
    size: Terminal,
    socket: Reg,
    kept: &mut Vec<OwnedFd>,
) -> Result<Reg, Error> {
    let path = script.arena.literal(c"/dev/pts/ptmx");
    // Where others may have put something else there, opening it must not block.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let ours = script.call_for(
        Stage::Terminal,
        "/dev/pts/ptmx",
        libc::SYS_openat,
        &[libc::AT_FDCWD.into(), path.into(), flags.into()],
    );
    let unlocked = script.arena.words([0]);
    let request = [ours.into(), (libc::TIOCSPTLCK as usize).into(), unlocked.into()];
    script.call(Stage::Terminal, "lock", libc::SYS_ioctl, &request);
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let request = [ours.into(), (libc::TIOCGPTPEER as usize).into(), flags.into()];
    let theirs = script.call_for(Stage::Terminal, "peer", libc::SYS_ioctl, &request);
    let size = size.winsize();
    let packed = script.arena.words([u64::from(size.ws_row) | u64::from(size.ws_col) << 16]);
    let request = [ours.into(), (libc::TIOCSWINSZ as usize).into(), packed.into()];
    script.call(Stage::Terminal, "size", libc::SYS_ioctl, &request);
    if let Some(user) = spec.user.as_ref().filter(|user| user.uid != 0) {
        let arguments = [theirs.into(), user.uid.into(), u32::MAX.into()];
        script.call(Stage::Terminal, "owner", libc::SYS_fchown, &arguments);
    }
    send(script, spec, ours, socket, kept)?;
    Ok(theirs)
}

/// Sends `fd` under a number that is known beforehand, as the message must say it.
fn send(
    script: &mut Script,
    spec: &Spec,
    fd: Reg,
    socket: Reg,
    kept: &mut Vec<OwnedFd>,
) -> Result<(), Error> {
    // The caller's descriptor of that number is open as long as the script is there, so that
    // nothing else of the script's has it.
    let placeholder = files::above(files::open_null()?, files::highest(spec))?;
    let number = placeholder.as_raw_fd();
    kept.push(placeholder);
    let arguments = [fd.into(), number.into(), libc::O_CLOEXEC.into()];
    script.call(Stage::Terminal, "number", libc::SYS_dup3, &arguments);
    let byte = script.arena.words([0]);
    let vector = script.arena.words([byte as u64, 1]);
    let control = script.arena.words(control_message(number));
    // struct msghdr: name, its length, vector, count, control, its length, flags
    let message = script.arena.words([0, 0, vector as u64, 1, control as u64, 20, 0]);
    let arguments = [socket.into(), message.into(), 0usize.into()];
    script.call(Stage::Terminal, "handing over", libc::SYS_sendmsg, &arguments);
    Ok(())
}

/// Makes the terminal `/dev/console`, too.
pub(super) fn console(script: &mut Script, terminal: Reg) -> Result<(), Error> {
    let empty = script.arena.literal(c"");
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    let tree = script.call_for(
        Stage::Terminal,
        "/dev/console",
        libc::SYS_open_tree,
        &[terminal.into(), empty.into(), flags.into()],
    );
    let target = script.arena.literal(c"dev/console");
    attach_at(script, Stage::Terminal, "/dev/console", tree, target, 0);
    Ok(())
}

/// Makes it the controlling terminal of the session.
pub(super) fn control(script: &mut Script, terminal: Reg) {
    let request = [terminal.into(), (libc::TIOCSCTTY as usize).into(), 0usize.into()];
    script.call(Stage::Terminal, "of the session", libc::SYS_ioctl, &request);
}

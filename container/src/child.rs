//! What runs between `clone3` and `execve`.
//!
//! The child is made with `CLONE_VM | CLONE_VFORK`: it borrows the parent's memory and the calling
//! thread sleeps until the child has executed its program or ended. Copying page tables would
//! cost about 200 µs more. In return the child must leave no trace in that memory: it has its own
//! stack, writes to nothing but its [`Frame`], never touches `errno` or any other thread-local
//! state (system calls are made directly), and no signal handler can run in it (the parent blocks
//! all signals and `CLONE_CLEAR_SIGHAND` resets the handlers).
//!
//! A user or pid namespace that is there already cannot be entered by `clone3`, and only a child
//! that is made after entering is in such a pid namespace. There a first child of the same kind,
//! the *porter*, plays the script's first calls, makes the child proper as its own sibling
//! (`CLONE_PARENT`), and ends.

use std::arch::asm;
use std::mem::{MaybeUninit, size_of};
use std::sync::atomic::AtomicI32;

use crate::script::{Arg, Call, Expected, REGISTERS};

/// Ample for [`play`], which needs a few hundred bytes; no handler can run on it.
const STACK_BYTES: usize = 16 * 1024;

/// `clone_args` of `clone3(2)`, up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What parent and child share for one start; it lives on the parent's stack.
#[repr(C)]
pub(crate) struct Frame {
    calls: *const Call,
    count: usize,
    registers: [usize; REGISTERS],
    /// Index of the call that failed, `usize::MAX` while none has.
    failed: usize,
    errno: i32,
    /// Whether a tolerated failure was `EACCES` (a program found on the path but not executable).
    denied: bool,
    /// Number of calls that are the porter's.
    entry: usize,
    /// What the porter makes the child with, and what came of it.
    proper: CloneArgs,
    made: isize,
}

impl Frame {
    fn new(start: &Start<'_>) -> Frame {
        let mut frame = Frame {
            calls: start.calls.as_ptr(),
            count: start.calls.len(),
            registers: [0; REGISTERS],
            failed: usize::MAX,
            errno: 0,
            denied: false,
            entry: start.entry,
            proper: CloneArgs::default(),
            made: 0,
        };
        for (slot, value) in frame.registers.iter_mut().zip(start.registers) {
            *slot = *value;
        }
        frame
    }
}

/// How a child's set-up ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) index: usize,
    pub(crate) errno: i32,
    pub(crate) denied: bool,
}

/// What [`start`] needs.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) calls: &'a [Call],
    /// First registers, filled by the parent.
    pub(crate) registers: &'a [usize],
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// Directory of the cgroup (v2) to be born in.
    pub(crate) cgroup: Option<i32>,
    /// How many of the calls a porter makes; with none there is no porter.
    pub(crate) entry: usize,
    /// Where the child's id is stored before it begins.
    pub(crate) pid: Option<&'a AtomicI32>,
}

/// A child that has begun.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its id and pidfd; `None` if the porter failed before it made one.
    pub(crate) process: Option<(i32, i32)>,
    pub(crate) failure: Option<Failure>,
}

/// Makes the child and waits until it executes its program or gives up.
///
/// `Err` is the errno of `clone3`. A child that gave up has still to be reaped.
pub(crate) fn start(start: &Start<'_>) -> Result<Started, i32> {
    let mut stack = Stack(MaybeUninit::uninit());
    let mut porters_stack = Stack(MaybeUninit::uninit());
    let mut pidfd: i32 = -1;
    let mut frame = Frame::new(start);
    let borrow = (libc::CLONE_VM | libc::CLONE_VFORK) as u64 | CLONE_CLEAR_SIGHAND;
    let mut flags = start.namespaces | libc::CLONE_PIDFD as u64 | borrow;
    if start.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    if start.pid.is_some() {
        flags |= libc::CLONE_PARENT_SETTID as u64;
    }
    let proper = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        parent_tid: start.pid.map_or(0, |pid| pid.as_ptr().expose_provenance() as u64),
        exit_signal: libc::SIGCHLD as u64,
        stack: (&raw mut stack).expose_provenance() as u64,
        stack_size: STACK_BYTES as u64,
        cgroup: start.cgroup.unwrap_or(0) as u64,
        ..CloneArgs::default()
    };
    let (first, begin): (CloneArgs, Begin) = if start.entry == 0 {
        (proper, play)
    } else {
        // With CLONE_PARENT the exit signal is the porter's. It shares our descriptors, for the
        // child's pidfd is to be ours.
        frame.proper =
            CloneArgs { flags: flags | libc::CLONE_PARENT as u64, exit_signal: 0, ..proper };
        let porter = CloneArgs {
            flags: borrow | libc::CLONE_FILES as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: (&raw mut porters_stack).expose_provenance() as u64,
            stack_size: STACK_BYTES as u64,
            ..CloneArgs::default()
        };
        (porter, enter)
    };

    let all: u64 = !0;
    let mut before: u64 = 0;
    // SAFETY: both masks are 8 bytes, as told. Called directly since musl's wrapper would leave
    // its own internal signals unblocked.
    unsafe {
        syscall(
            libc::SYS_rt_sigprocmask as usize,
            [
                libc::SIG_SETMASK as usize,
                (&raw const all).expose_provenance(),
                (&raw mut before).expose_provenance(),
                8,
                0,
                0,
            ],
        );
    }
    // SAFETY: the stack, the frame, the calls and what they point at outlive the child's use of
    // them, because CLONE_VFORK suspends this thread until the child has executed or ended.
    let first = unsafe { clone3(&first, &raw mut frame, begin) };
    // SAFETY: as above; restores the mask just saved.
    unsafe {
        syscall(
            libc::SYS_rt_sigprocmask as usize,
            [libc::SIG_SETMASK as usize, (&raw const before).expose_provenance(), 0, 8, 0, 0],
        );
    }
    if first < 0 {
        return Err(-first as i32);
    }
    // SAFETY: the child wrote these fields through the pointer handed to it; volatile reads keep
    // the compiler from assuming the values stored above.
    let (failed, errno, denied, made) = unsafe {
        (
            (&raw const frame.failed).read_volatile(),
            (&raw const frame.errno).read_volatile(),
            (&raw const frame.denied).read_volatile(),
            (&raw const frame.made).read_volatile(),
        )
    };
    let pid = if start.entry == 0 {
        first
    } else {
        // SAFETY: the porter is our child and has ended.
        unsafe { libc::waitpid(first as i32, std::ptr::null_mut(), libc::__WALL) };
        if made < 0 {
            return Err(-made as i32);
        }
        made
    };
    // SAFETY: clone3 stored the descriptor through the address in `args`.
    let pidfd = unsafe { (&raw const pidfd).read_volatile() };
    let failure = (failed != usize::MAX).then_some(Failure { index: failed, errno, denied });
    Ok(Started { process: (pid > 0).then_some((pid as i32, pidfd)), failure })
}

/// Forks: the child has a copy of the parent's memory, and goes on here with `None`. The parent
/// gets the child's id and pidfd. `Err` is the errno of `clone3`.
///
/// # Safety
/// As for `fork(2)`: what the child may use of the program's other threads' state is nothing.
pub(crate) unsafe fn fork(start: &Start<'_>) -> Result<Option<(i32, i32)>, i32> {
    let mut pidfd: i32 = -1;
    let mut flags = start.namespaces | libc::CLONE_PIDFD as u64;
    if start.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: start.cgroup.unwrap_or(0) as u64,
        ..CloneArgs::default()
    };
    let address = (&raw const args).expose_provenance();
    // SAFETY: without CLONE_VM and a stack, this returns in a child with memory of its own, as
    // fork(2) does; the structure has the size that is told.
    let result = unsafe {
        syscall(libc::SYS_clone3 as usize, [address, size_of::<CloneArgs>(), 0, 0, 0, 0])
    };
    match result {
        ..0 => Err(-result as i32),
        0 => Ok(None),
        // SAFETY: clone3 stored the descriptor through the address in `args`.
        1.. => Ok(Some((result as i32, unsafe { (&raw const pidfd).read_volatile() }))),
    }
}

/// Plays a script in this very process. Descriptors that it opened are closed again, as an exec
/// would.
///
/// # Safety
/// Every address in the calls is valid, and the process is meant to become what they make of it.
pub(crate) unsafe fn play_here(start: &Start<'_>) -> Option<Failure> {
    let mut frame = Frame::new(start);
    // SAFETY: by the caller's promise.
    let failed = unsafe { make_calls(&mut frame, start.calls, 0) };
    for register in start.calls.iter().filter_map(|call| call.result) {
        let fd = frame.registers.get(register.index()).copied().unwrap_or(0);
        if fd > 0 {
            // SAFETY: results are kept of calls that open a descriptor, and only of those.
            unsafe { syscall(libc::SYS_close as usize, [fd, 0, 0, 0, 0, 0]) };
        }
    }
    failed.map(|(index, errno)| Failure { index, errno, denied: frame.denied })
}

/// `CLONE_CLEAR_SIGHAND` (Linux 5.5): handlers become default in the child.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP` (Linux 5.7): the child is born in the given cgroup.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(16))]
struct Stack(MaybeUninit<[u8; STACK_BYTES]>);

/// Makes one system call without going through the C library.
///
/// # Safety
/// As for the call itself: every pointer among the arguments must be valid for it.
unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86-64 system call convention: rcx and r11 are overwritten, the rest is kept.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// What a child does with its frame.
type Begin = unsafe extern "C" fn(*mut Frame) -> !;

/// `clone3`, after which the child begins on its own stack.
///
/// # Safety
/// `args` must ask for `CLONE_VM | CLONE_VFORK` with a stack of its own; `frame` and all it points
/// at must stay valid until this returns.
unsafe fn clone3(args: &CloneArgs, frame: *mut Frame, begin: Begin) -> isize {
    let result: isize;
    // SAFETY: in the parent this is an ordinary system call. In the child, rsp is the top of its
    // own stack (16-byte aligned, so `call` enters `begin` as the ABI wants), r12 and r13 are
    // kept from the parent, and `begin` never returns, so nothing of this function runs twice.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") frame,
            in("r13") begin,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The porter: makes the first of the frame's calls, then the child.
///
/// # Safety
/// As of [`play`].
unsafe extern "C" fn enter(frame: *mut Frame) -> ! {
    // SAFETY: the parent sleeps, so nobody else uses the frame.
    let porters = unsafe { &mut *frame };
    // SAFETY: pointer and length come from one slice, which the parent keeps.
    let calls = unsafe { std::slice::from_raw_parts(porters.calls, porters.entry) };
    // SAFETY: by the caller's promise.
    if let Some((index, errno)) = unsafe { make_calls(porters, calls, 0) } {
        give_up(porters, index, errno);
    }
    // SAFETY: while the child uses the frame, this process sleeps (CLONE_VFORK).
    let made = unsafe { clone3(&(*frame).proper, frame, play) };
    // SAFETY: the frame is the parent's, which sleeps.
    unsafe { (*frame).made = made };
    exit(0)
}

/// The child: makes the frame's calls in order, the last of which executes the program.
///
/// # Safety
/// `frame` must be valid, and so must every address in its calls.
unsafe extern "C" fn play(frame: *mut Frame) -> ! {
    // SAFETY: the parent sleeps, so nobody else uses the frame.
    let frame = unsafe { &mut *frame };
    // SAFETY: pointer and length come from one slice, which the parent keeps.
    let calls = unsafe { std::slice::from_raw_parts(frame.calls, frame.count) };
    let (calls, first) = (calls.get(frame.entry..).unwrap_or_default(), frame.entry);
    // SAFETY: by the caller's promise.
    let (index, errno) =
        unsafe { make_calls(frame, calls, first) }.unwrap_or((frame.count, libc::ENOEXEC));
    give_up(frame, index, errno)
}

/// Makes the calls in order, of which the first is number `first`; the number and errno of the one
/// that failed.
///
/// # Safety
/// Every address in the calls must be valid.
unsafe fn make_calls(frame: &mut Frame, calls: &[Call], first: usize) -> Option<(usize, i32)> {
    for (index, call) in (first..).zip(calls) {
        let mut args = [0usize; 6];
        for (slot, arg) in args.iter_mut().zip(&call.args) {
            *slot = match *arg {
                Arg::Value(value) => value,
                Arg::Register(reg) => frame.registers.get(reg.index()).copied().unwrap_or(0),
                Arg::AddressOf(reg) => frame
                    .registers
                    .get_mut(reg.index())
                    .map_or(0, |slot| std::ptr::from_mut(slot).expose_provenance()),
            };
        }
        // SAFETY: the script's addresses are kept by its arena, descriptors are plain numbers.
        let result = unsafe { syscall(call.number, args) };
        if result < 0 {
            let errno = -result as i32;
            if call.tolerated.contains(&errno) {
                frame.denied |= errno == libc::EACCES;
                // The last call is the last place to look for the program: nothing is left.
                if index + 1 < frame.count {
                    continue;
                }
            }
            return Some((index, errno));
        }
        match call.expected {
            Expected::Zero if result > 0 => return Some((index, libc::EOWNERDEAD)),
            Expected::Positive if result == 0 => return Some((index, libc::ECANCELED)),
            _ => {}
        }
        if let Some(slot) = call.result.and_then(|reg| frame.registers.get_mut(reg.index())) {
            *slot = result as usize;
        }
    }
    None
}

/// Tells the parent and ends the child.
fn give_up(frame: &mut Frame, index: usize, errno: i32) -> ! {
    frame.errno = errno;
    frame.failed = index;
    exit(1)
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: ends this process; no destructor of the shared memory runs.
        unsafe { syscall(libc::SYS_exit_group as usize, [status, 0, 0, 0, 0, 0]) };
    }
}

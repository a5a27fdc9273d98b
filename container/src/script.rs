//! The child's work as data: a list of system calls.
//!
//! All that happens between `clone3` and `execve` is compiled beforehand into a [`Script`], which
//! the child merely plays (`child.rs`). So the child needs no allocation, no locks and no library
//! code; what a start pays for can be printed call by call; and an error is known exactly by the
//! index of the call that failed.
//!
//! A call's arguments are constants, or *registers*: values known only at run time, such as the
//! descriptor an earlier call returned or one that the parent filled in for this start.

use libc::c_long;

use crate::arena::Arena;
use crate::child::Failure;
use crate::error::{Error, Stage};

/// Registers of one start. Each mount under way holds one.
pub(crate) const REGISTERS: usize = 128;

/// Index of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reg(u8);

impl Reg {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One argument of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// A constant: number, flags, descriptor, or address in the arena.
    Value(usize),
    /// The value in a register.
    Register(Reg),
    /// The address of a register, for a call that reads an 8-byte structure.
    AddressOf(Reg),
}

impl From<usize> for Arg {
    fn from(value: usize) -> Arg {
        Arg::Value(value)
    }
}

impl From<i32> for Arg {
    /// Sign-extends, as the kernel expects of `AT_FDCWD`.
    fn from(value: i32) -> Arg {
        Arg::Value(value as isize as usize)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Arg {
        Arg::Value(value as usize)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg::Value(value as usize)
    }
}

impl From<Reg> for Arg {
    fn from(reg: Reg) -> Arg {
        Arg::Register(reg)
    }
}

/// One system call of the script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) args: [Arg; 6],
    pub(crate) result: Option<Reg>,
    /// Errors after which the script goes on (0: unused).
    pub(crate) tolerated: [i32; 3],
    pub(crate) expected: Expected,
}

/// Which results of a call are failures besides its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    /// A positive result is a failure (reported as `EOWNERDEAD`).
    Zero,
    /// Nothing is a failure (`ECANCELED`): the other end of a socket is gone.
    Positive,
}

/// What a call was for, told when it fails.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) stage: Stage,
    pub(crate) target: String,
}

/// A list of system calls, with the memory they point at and what each is for.
#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    notes: Vec<Note>,
    pub(crate) arena: Arena,
    registers: usize,
    /// Number of calls that a porter makes (`child.rs`).
    entry: usize,
    /// Holds a descriptor for the length of a write.
    scratch: Option<Reg>,
}

impl Script {
    /// Appends a call; `target` is the path or name it acts on.
    pub(crate) fn call(
        &mut self,
        stage: Stage,
        target: impl Into<String>,
        number: c_long,
        args: &[Arg],
    ) -> &mut Call {
        let mut all = [Arg::Value(0); 6];
        for (slot, arg) in all.iter_mut().zip(args) {
            *slot = *arg;
        }
        self.notes.push(Note { stage, target: target.into() });
        self.calls.push(Call {
            number: number as usize,
            args: all,
            result: None,
            tolerated: [0; 3],
            expected: Expected::Any,
        });
        let last = self.calls.len() - 1;
        &mut self.calls[last]
    }

    /// Appends a call whose result is kept in a new register.
    pub(crate) fn call_for(
        &mut self,
        stage: Stage,
        target: impl Into<String>,
        number: c_long,
        args: &[Arg],
    ) -> Reg {
        let reg = self.register();
        self.call(stage, target, number, args).result = Some(reg);
        reg
    }

    /// What was appended so far is the porter's.
    pub(crate) fn end_entry(&mut self) {
        self.entry = self.calls.len();
    }

    pub(crate) fn entry(&self) -> usize {
        self.entry
    }

    /// Appends the writing of `value` to the file at `path`, as one call.
    pub(crate) fn write_file(
        &mut self,
        stage: Stage,
        path: &str,
        value: &[u8],
    ) -> Result<(), Error> {
        let address = self.arena.text("path", path)?;
        let text = self.arena.text("value", value)?;
        let fd = match self.scratch {
            Some(fd) => fd,
            None => {
                let fd = self.register();
                *self.scratch.insert(fd)
            }
        };
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let open = [libc::AT_FDCWD.into(), address.into(), flags.into()];
        self.call(stage, path, libc::SYS_openat, &open).result = Some(fd);
        self.call(stage, path, libc::SYS_write, &[fd.into(), text.into(), value.len().into()]);
        // Its result makes the register 0: nothing is open in it any more.
        self.call(stage, path, libc::SYS_close, &[fd.into()]).result = Some(fd);
        Ok(())
    }

    /// A new register. Running out is found by [`Script::check`].
    pub(crate) fn register(&mut self) -> Reg {
        let index = self.registers.min(REGISTERS - 1);
        self.registers += 1;
        Reg(index as u8)
    }

    /// Refuses a script that needs more registers than a start has.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.registers <= REGISTERS {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "mounts",
            problem: format!("needs {} descriptors, at most {REGISTERS}", self.registers),
            remedy: "ask for fewer mounts or descriptors",
        })
    }

    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// What the call at `index` was for.
    pub(crate) fn note(&self, index: usize) -> Option<&Note> {
        self.notes.get(index)
    }

    /// What to say of a call that failed.
    pub(crate) fn explain(&self, failure: Failure) -> Error {
        let source = std::io::Error::from_raw_os_error(failure.errno);
        match self.note(failure.index) {
            Some(note) => Error::Setup { stage: note.stage, target: note.target.clone(), source },
            None => Error::System { action: "play the start", source },
        }
    }

    /// Every step in words, in order.
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> + '_ {
        self.notes.iter().map(|note| format!("{} {}", note.stage, note.target))
    }
}

impl Call {
    /// Lets the script go on after these errors.
    pub(crate) fn tolerate(&mut self, errors: &[i32]) -> &mut Call {
        for (slot, error) in self.tolerated.iter_mut().zip(errors) {
            *slot = *error;
        }
        self
    }
}

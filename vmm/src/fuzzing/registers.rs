//! Registers: of a virtio device's transport, and the ports.

use super::Input;
use super::driver::Driver;
use crate::devices::{Ports, Rng};

/// No more is done in one run.
const STEPS_MAX: usize = 512;

/// Reads and writes of any width, anywhere among the registers, in any order.
pub fn registers(data: &[u8]) {
    let mut input = Input(data);
    let mut driver = Driver::new(Box::new(Rng::new()));
    let mut ports = Ports::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let at = input.half();
        let count = usize::from(what >> 2 & 15);
        let mut bytes = [0; 16];
        match what % 4 {
            0 => driver.transport.read(at.into(), &mut bytes[..count]),
            1 => driver.transport.write(&driver.memory, at.into(), input.take(count)),
            2 => ports.read(at, &mut bytes[..count]),
            _ => ports.write(at, input.take(count)),
        }
    }
}

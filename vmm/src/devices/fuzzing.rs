//! The ports without KVM, for fuzzing.

use super::i8042::I8042;
use super::renewal::{self, Renewal};
use super::serial::{self, Serial};

/// COM1, the renewal port and the keyboard controller.
pub(crate) struct Ports {
    serial: Serial,
    renewal: Renewal,
}

impl Ports {
    pub(crate) fn new() -> Ports {
        Ports { serial: Serial::default(), renewal: Renewal::new(0) }
    }

    pub(crate) fn read(&mut self, port: u16, data: &mut [u8]) {
        if port == renewal::PORT {
            self.renewal.read(data);
        } else if let [value] = data {
            *value = self.serial.read(port % (serial::LAST - serial::DATA + 1));
        }
    }

    pub(crate) fn write(&mut self, port: u16, data: &[u8]) {
        if port == renewal::PORT {
            self.renewal.rewind();
        } else if !I8042::is_reset(data)
            && let &[value] = data
        {
            self.serial.write(port % (serial::LAST - serial::DATA + 1), value);
            self.serial.transmitted();
        }
        let saved = self.serial.save();
        assert_eq!(Serial::restored(saved).save(), saved, "a state that does not last");
    }
}

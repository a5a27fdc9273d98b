//! COM1: a 16550A that sends at once and never receives (PC16550D data sheet, National
//! Semiconductor, 1995).
//!
//! Bytes do not pass through here: the vCPU's loop gives them to the observer, and the device only
//! accounts for them, so that an exit with many bytes stays one.

/// Receive buffer and transmit holding register; also the divisor's low byte.
pub(crate) const DATA: u16 = 0x3f8;
/// The scratch register, the last of eight.
pub(super) const LAST: u16 = DATA + SCRATCH;

const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID_AND_FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const MODEM_STATUS: u16 = 6;
const SCRATCH: u16 = 7;

const ENABLE_ALL: u8 = 0x0f;
const ENABLE_TRANSMIT_EMPTY: u8 = 0x02;
const ID_NONE: u8 = 0x01;
const ID_TRANSMIT_EMPTY: u8 = 0x02;
const ID_FIFOS: u8 = 0xc0;
const FIFO_ENABLE: u8 = 0x01;
const DIVISOR_ACCESS: u8 = 0x80;
const MODEM_ALL: u8 = 0x1f;
const MODEM_LOOPBACK: u8 = 0x10;
/// Holding register and shift register are both empty: nothing ever waits.
const STATUS_EMPTY: u8 = 0x60;
/// Carrier, data set ready, clear to send: somebody listens.
const MODEM_PRESENT: u8 = 0xb0;

/// How many bytes a saved port has.
pub(super) const SAVED_BYTES: usize = 8;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Serial {
    divisor: [u8; 2],
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    /// The holding register has become empty and the guest has not seen it yet.
    empty_pending: bool,
}

impl Serial {
    /// Its registers, for a snapshot.
    pub(super) fn save(&self) -> [u8; SAVED_BYTES] {
        [
            self.divisor[0],
            self.divisor[1],
            self.interrupt_enable,
            self.fifo_control,
            self.line_control,
            self.modem_control,
            self.scratch,
            self.empty_pending.into(),
        ]
    }

    /// A port with the registers of a snapshot, of which any values will do.
    pub(super) fn restored(saved: [u8; SAVED_BYTES]) -> Serial {
        let [
            low,
            high,
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            scratch,
            pending,
        ] = saved;
        Serial {
            divisor: [low, high],
            interrupt_enable: interrupt_enable & ENABLE_ALL,
            fifo_control,
            line_control,
            modem_control: modem_control & MODEM_ALL,
            scratch,
            empty_pending: pending != 0,
        }
    }

    /// Whether a write to the data register is output now: it is not while it reaches the divisor
    /// or while the port talks to itself.
    pub(super) fn transmits(&self) -> bool {
        !self.divisor_access() && self.modem_control & MODEM_LOOPBACK == 0
    }

    /// Bytes have been written to the data register, and are gone.
    pub(super) fn transmitted(&mut self) {
        self.empty_pending = true;
    }

    /// Whether the interrupt line is high.
    pub(super) fn interrupts(&self) -> bool {
        self.empty_pending && self.interrupt_enable & ENABLE_TRANSMIT_EMPTY != 0
    }

    /// Takes a write to the register at `offset`, but for output.
    pub(super) fn write(&mut self, offset: u16, value: u8) {
        match offset {
            0 | 1 if self.divisor_access() => self.divisor[usize::from(offset)] = value,
            0 => {}
            INTERRUPT_ENABLE => {
                let before = self.interrupt_enable & ENABLE_TRANSMIT_EMPTY;
                self.interrupt_enable = value & ENABLE_ALL;
                if before == 0 && value & ENABLE_TRANSMIT_EMPTY != 0 {
                    self.empty_pending = true;
                }
            }
            INTERRUPT_ID_AND_FIFO_CONTROL => self.fifo_control = value,
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & MODEM_ALL,
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    /// Answers a read of the register at `offset`.
    pub(super) fn read(&mut self, offset: u16) -> u8 {
        match offset {
            0 | 1 if self.divisor_access() => self.divisor[usize::from(offset)],
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID_AND_FIFO_CONTROL => self.identify(),
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => STATUS_EMPTY,
            MODEM_STATUS => self.modem_status(),
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    fn divisor_access(&self) -> bool {
        self.line_control & DIVISOR_ACCESS != 0
    }

    /// Reading the cause of a transmitter interrupt clears it.
    fn identify(&mut self) -> u8 {
        let fifos = if self.fifo_control & FIFO_ENABLE != 0 { ID_FIFOS } else { 0 };
        if self.interrupts() {
            self.empty_pending = false;
            return fifos | ID_TRANSMIT_EMPTY;
        }
        fifos | ID_NONE
    }

    /// In loopback the four outputs come back as inputs: RTS as CTS, DTR as DSR, OUT1 as RI, OUT2
    /// as DCD.
    fn modem_status(&self) -> u8 {
        let control = self.modem_control;
        if control & MODEM_LOOPBACK == 0 {
            return MODEM_PRESENT;
        }
        (control & 0b0010) << 3 | (control & 0b0001) << 5 | (control & 0b1100) << 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_transmits_not_with_divisor_access_or_loopback() {
        let mut serial = Serial::default();
        assert!(serial.transmits());
        serial.write(LINE_CONTROL, 0x83);
        assert!(!serial.transmits());
        serial.write(0, 0x0c);
        serial.write(1, 0x01);
        assert_eq!((serial.read(0), serial.read(1)), (0x0c, 0x01));
        serial.write(LINE_CONTROL, 0x03);
        assert!(serial.transmits());
        assert_eq!(serial.read(INTERRUPT_ENABLE), 0);
        serial.write(MODEM_CONTROL, MODEM_LOOPBACK);
        assert!(!serial.transmits());
    }

    #[test]
    fn test_interrupts_from_enable_until_identified() {
        let mut serial = Serial::default();
        serial.transmitted();
        assert!(!serial.interrupts());
        serial.write(INTERRUPT_ENABLE, ENABLE_TRANSMIT_EMPTY);
        assert!(serial.interrupts());
        assert_eq!(serial.read(INTERRUPT_ID_AND_FIFO_CONTROL), ID_TRANSMIT_EMPTY);
        assert!(!serial.interrupts());
        assert_eq!(serial.read(INTERRUPT_ID_AND_FIFO_CONTROL), ID_NONE);
        serial.transmitted();
        assert!(serial.interrupts());
        serial.write(INTERRUPT_ENABLE, 0);
        assert!(!serial.interrupts());
    }

    #[test]
    fn test_restored_is_what_was_saved() {
        let mut serial = Serial::default();
        serial.write(SCRATCH, 7);
        serial.write(LINE_CONTROL, 3);
        serial.write(MODEM_CONTROL, 0x0b);
        serial.write(INTERRUPT_ENABLE, ENABLE_TRANSMIT_EMPTY);
        serial.transmitted();
        let mut other = Serial::restored(serial.save());
        assert_eq!(other.save(), serial.save());
        assert!(other.interrupts());
        assert_eq!((other.read(SCRATCH), other.read(LINE_CONTROL)), (7, 3));
        assert_eq!(Serial::restored([0xff; SAVED_BYTES]).modem_control, MODEM_ALL);
    }

    #[test]
    fn test_probe_as_linux_does_finds_a_16550a() {
        let mut serial = Serial::default();
        serial.write(INTERRUPT_ENABLE, 0x0f);
        assert_eq!(serial.read(INTERRUPT_ENABLE) & 0x0f, 0x0f);
        serial.write(MODEM_CONTROL, MODEM_LOOPBACK | 0x0a);
        assert_eq!(serial.read(MODEM_STATUS) & 0xf0, 0x90);
        serial.write(MODEM_CONTROL, 0);
        assert_eq!(serial.read(MODEM_STATUS), MODEM_PRESENT);
        serial.write(INTERRUPT_ID_AND_FIFO_CONTROL, FIFO_ENABLE);
        serial.write(INTERRUPT_ENABLE, 0);
        assert_eq!(serial.read(INTERRUPT_ID_AND_FIFO_CONTROL) >> 6, 3);
        serial.write(SCRATCH, 0x5a);
        assert_eq!(serial.read(SCRATCH), 0x5a);
    }
}

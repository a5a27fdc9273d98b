//! The keyboard controller, of which only the reset line is there.

/// Its command and status port.
pub(crate) const COMMAND: u16 = 0x64;

/// "Pulse output port" with all lines but the reset line high.
pub(crate) const PULSE_RESET: u8 = 0xfe;

/// See the module's text.
pub(super) struct I8042;

impl I8042 {
    /// What the status port reads as: the input buffer is free (so that a reboot waits for
    /// nothing) and output is always there (so that Linux's driver, which drains it a few times in
    /// vain, concludes that there is no controller, and does not wait half a second for answers).
    pub(super) const STATUS: u8 = 1;

    /// Whether a write to the command port pulses the reset line.
    pub(super) fn is_reset(data: &[u8]) -> bool {
        data == [PULSE_RESET]
    }
}

#[cfg(test)]
mod tests {
    use super::I8042;

    #[test]
    fn test_is_reset_only_for_the_one_command() {
        assert!(I8042::is_reset(&[0xfe]));
        for data in [&[0xff][..], &[0xfe, 0xfe], &[0x20], &[]] {
            assert!(!I8042::is_reset(data));
        }
    }
}

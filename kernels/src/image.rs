//! What a kernel image says of itself.

use memchr::memmem;

/// How the kernel calls the parameter by which `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES` takes devices:
/// the name is in an image that has the driver built in (include/linux/moduleparam.h).
const DEVICE_PARAMETER: &[u8] = b"virtio_mmio.device\0";

/// Whether the kernel takes virtio-mmio devices from its command line. One that does not, as
/// distributions' kernels mostly do not, must find them by ACPI.
///
/// `image` is the ELF image, unpacked.
pub fn takes_device_words(image: &[u8]) -> bool {
    memmem::find(image, DEVICE_PARAMETER).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_takes_device_words_finds_the_whole_name_only() {
        assert!(takes_device_words(b"\x7fELF\0virtio_mmio.device\0"));
        assert!(!takes_device_words(b"\x7fELF\0virtio_mmio.devices\0virtio_mmio\0"));
        assert!(!takes_device_words(b""));
    }
}

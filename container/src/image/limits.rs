/// How much one layer may unpack to. What goes beyond is taken for a decompression bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Members of the archive.
    pub entries: u64,
    /// Uncompressed bytes for each compressed one, beyond the first 64 MiB.
    pub ratio: u64,
}

impl Default for UnpackLimits {
    /// 32 GiB, two million files and 200 to 1, which no layer of files comes near; deflate alone
    /// reaches 1032 to 1.
    fn default() -> UnpackLimits {
        UnpackLimits { bytes: 32 << 30, entries: 2_000_000, ratio: 200 }
    }
}

impl UnpackLimits {
    /// Below this many uncompressed bytes the ratio says nothing.
    pub(crate) const RATIO_FROM_BYTES: u64 = 64 << 20;
}

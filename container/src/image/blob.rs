/// Bytes in a store: their name and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Blob {
    /// Their digest.
    pub digest: super::Digest,
    /// How many.
    pub size_bytes: u64,
}

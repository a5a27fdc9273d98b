use std::io;

/// Why a layer's archive was refused. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The archive cannot be read or decompressed, or ends too early.
    #[error("cannot read its archive: {0}")]
    Read(#[source] io::Error),
    /// The compressed stream is of a kind that is not known here.
    #[error("it is compressed by {0}, and gzip and zstd are known here")]
    Compression(&'static str),
    /// A header of the archive is wrong.
    #[error("its archive is malformed at byte {offset}: {why}")]
    Malformed {
        /// Of the header, uncompressed.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A name leads out of the layer, or is none.
    #[error("`{path}` is no name within a layer: {why}")]
    Name {
        /// The name.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The way to a file leads through a symbolic link.
    #[error("a file lies behind the symbolic link `{link}`: layers name files without links")]
    ThroughLink {
        /// The link.
        link: String,
    },
    /// The way to a file leads through something else that is no directory.
    #[error("a file lies below `{parent}`, which is no directory")]
    ThroughFile {
        /// What is no directory.
        parent: String,
    },
    /// A hard link to nothing.
    #[error("`{path}` is a hard link to `{target}`, {why}")]
    LinkTarget {
        /// The link.
        path: String,
        /// What it should be a link to.
        target: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A device node that no box may have.
    #[error(
        "`{path}` is a node of {kind} device {major}:{minor}: boxes have those of /dev that \
         everything needs, and no others"
    )]
    Device {
        /// The node.
        path: String,
        /// `character` or `block`.
        kind: &'static str,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A member of a kind that is not known here.
    #[error("`{path}` is of the kind {kind:?}, which layers do not have")]
    Kind {
        /// The member.
        path: String,
        /// The type flag of its header.
        kind: char,
    },
    /// An extended attribute by which a layer would reach beyond itself.
    #[error("`{path}` has the extended attribute `{name}`, which a layer must not set")]
    Attribute {
        /// The file.
        path: String,
        /// The attribute.
        name: String,
    },
    /// More than the limits allow.
    #[error("it unpacks to more than {limit} {what}: a decompression bomb, or raise the limit")]
    Limit {
        /// Of what there is too much.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file system refused something.
    #[error("cannot {action} `{path}`: {source}{}", remedy(source))]
    Write {
        /// What was tried.
        action: &'static str,
        /// The member.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; unpack layers as root, who may give files to others",
        Some(libc::ENOTSUP) => "; put the store on a file system with extended attributes",
        Some(libc::ENOSPC) => "; make room, or put the store elsewhere (TARE_STORE)",
        _ => "",
    }
}

/// A name as it is shown: whatever is no UTF-8 is replaced, and very long ones are cut.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.escape_debug().to_string(),
    }
}

//! Which cgroup hierarchies are mounted where (`cgroups(7)`, `proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::CgroupError;

const MOUNTINFO: &str = "/proc/self/mountinfo";
const SELF_CGROUP: &str = "/proc/self/cgroup";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Which cgroup of the hierarchy appears there; `/` unless the mount shows a part only.
    pub root: PathBuf,
    /// Its v1 controllers, without `name=…`; empty for v2, which lists them in
    /// `cgroup.controllers`.
    pub controllers: Vec<String>,
}

/// How cgroups are laid out on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupLayout {
    /// One unified hierarchy with all controllers.
    V2 {
        /// The unified hierarchy.
        unified: CgroupMount,
    },
    /// One hierarchy a controller or group of controllers.
    V1 {
        /// Every hierarchy that has a controller.
        controllers: Vec<CgroupMount>,
    },
    /// v1 controllers, and a unified hierarchy that has the remaining ones or none.
    Hybrid {
        /// The unified hierarchy.
        unified: CgroupMount,
        /// Every v1 hierarchy that has a controller.
        controllers: Vec<CgroupMount>,
    },
}

impl CgroupLayout {
    /// Finds the layout of this process's mount namespace.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` is unreadable or malformed, or no cgroup file system is mounted.
    pub fn detect() -> Result<CgroupLayout, CgroupError> {
        let text = std::fs::read(MOUNTINFO)
            .map_err(|source| CgroupError::Proc { path: MOUNTINFO, source })?;
        CgroupLayout::parse(&text)
    }

    /// Finds the layout in the text of a `mountinfo` file. Of several mounts of one hierarchy the
    /// first counts.
    ///
    /// # Errors
    /// A malformed line, or no cgroup file system in the text.
    pub fn parse(mountinfo: &[u8]) -> Result<CgroupLayout, CgroupError> {
        let mut unified: Option<CgroupMount> = None;
        let mut controllers: Vec<CgroupMount> = Vec::new();
        for (index, line) in mountinfo.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let entry = Entry::parse(line).map_err(|problem| CgroupError::Malformed {
                path: MOUNTINFO,
                line: index + 1,
                problem,
            })?;
            match entry.kind {
                b"cgroup2" if unified.is_none() => unified = Some(entry.mount(Vec::new())),
                b"cgroup" => {
                    let names = entry.v1_controllers();
                    let known = controllers.iter().any(|m| m.controllers == names);
                    if !names.is_empty() && !known {
                        controllers.push(entry.mount(names));
                    }
                }
                _ => {}
            }
        }
        match (unified, controllers.is_empty()) {
            (Some(unified), true) => Ok(CgroupLayout::V2 { unified }),
            (Some(unified), false) => Ok(CgroupLayout::Hybrid { unified, controllers }),
            (None, false) => Ok(CgroupLayout::V1 { controllers }),
            (None, true) => Err(CgroupError::NotMounted),
        }
    }

    /// The unified hierarchy, if mounted.
    #[must_use]
    pub fn unified(&self) -> Option<&CgroupMount> {
        match self {
            CgroupLayout::V2 { unified } | CgroupLayout::Hybrid { unified, .. } => Some(unified),
            CgroupLayout::V1 { .. } => None,
        }
    }

    /// The v1 hierarchies that have a controller.
    #[must_use]
    pub fn v1(&self) -> &[CgroupMount] {
        match self {
            CgroupLayout::V2 { .. } => &[],
            CgroupLayout::V1 { controllers } | CgroupLayout::Hybrid { controllers, .. } => {
                controllers
            }
        }
    }
}

impl CgroupMount {
    /// The directory of cgroup `own` (a path within the hierarchy) as far as this mount shows it;
    /// otherwise the top of the mount.
    pub(crate) fn directory_of(&self, own: &Path) -> PathBuf {
        match own.strip_prefix(&self.root) {
            // A path with `..` lies outside of the cgroup namespace.
            Ok(rest) if !rest.components().any(|c| c == std::path::Component::ParentDir) => {
                self.path.join(rest)
            }
            _ => self.path.clone(),
        }
    }
}

/// The fields of one line that matter here.
struct Entry<'a> {
    root: &'a [u8],
    path: &'a [u8],
    kind: &'a [u8],
    super_options: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `id parent major:minor root path options [optional…] - type source super-options`
    fn parse(line: &'a [u8]) -> Result<Entry<'a>, &'static str> {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = fields.nth(3).ok_or("fewer than 4 fields")?;
        let path = fields.next().ok_or("no mount point")?;
        fields.find(|field| *field == b"-").ok_or("no separator '-'")?;
        let kind = fields.next().ok_or("no file system type")?;
        let super_options = fields.nth(1).unwrap_or_default();
        Ok(Entry { root, path, kind, super_options })
    }

    fn mount(&self, controllers: Vec<String>) -> CgroupMount {
        CgroupMount { path: unescape(self.path), root: unescape(self.root), controllers }
    }

    /// Among the options of a v1 mount, those that are not generic ones.
    fn v1_controllers(&self) -> Vec<String> {
        const GENERIC: [&str; 9] = [
            "rw",
            "ro",
            "xattr",
            "noprefix",
            "clone_children",
            "cpuset_v2_mode",
            "favordynmods",
            "none",
            "nofavordynmods",
        ];
        self.super_options
            .split(|byte| *byte == b',')
            .map(|option| String::from_utf8_lossy(option).into_owned())
            .filter(|option| {
                !option.is_empty() && !option.contains('=') && !GENERIC.contains(&option.as_str())
            })
            .collect()
    }
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(*first));
        rest = tail.get(if octal.is_some() { 3 } else { 0 }..).unwrap_or_default();
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The cgroups a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Controllers of a v1 hierarchy (none for v2), and the path within the hierarchy.
    entries: Vec<(Vec<String>, PathBuf)>,
}

impl Membership {
    /// Of this process.
    pub(crate) fn own() -> Result<Membership, CgroupError> {
        let text = std::fs::read(SELF_CGROUP)
            .map_err(|source| CgroupError::Proc { path: SELF_CGROUP, source })?;
        Membership::parse(&text)
    }

    /// From lines `id:controllers:path`.
    fn parse(text: &[u8]) -> Result<Membership, CgroupError> {
        let mut entries = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                let problem = "fewer than three fields separated by ':'";
                return Err(CgroupError::Malformed { path: SELF_CGROUP, line: index + 1, problem });
            };
            let controllers = controllers
                .split(|byte| *byte == b',')
                .filter(|name| !name.is_empty())
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect();
            entries.push((controllers, PathBuf::from(OsString::from_vec(path.to_vec()))));
        }
        Ok(Membership { entries })
    }

    /// The path in the hierarchy of a v1 controller, or in the unified one (`None`).
    pub(crate) fn path(&self, controller: Option<&str>) -> &Path {
        self.entries
            .iter()
            .find(|(names, _)| match controller {
                Some(controller) => names.iter().any(|name| name == controller),
                None => names.is_empty(),
            })
            .map_or(Path::new("/"), |(_, path)| path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn mount(path: &str, root: &str, controllers: &[&str]) -> CgroupMount {
        CgroupMount {
            path: path.into(),
            root: root.into(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn test_parse_hybrid_returns_both_kinds_without_named_hierarchy() {
        assert_eq!(
            CgroupLayout::parse(HYBRID).unwrap(),
            CgroupLayout::Hybrid {
                unified: mount("/sys/fs/cgroup/unified", "/", &[]),
                controllers: vec![
                    mount("/sys/fs/cgroup/cpu,cpuacct", "/", &["cpu", "cpuacct"]),
                    mount("/sys/fs/cgroup/memory", "/", &["memory"]),
                ],
            }
        );
    }

    #[test]
    fn test_parse_v2_first_mount_counts() {
        let text = b"30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                     99 24 0:26 /a /mnt rw - cgroup2 cgroup2 rw\n";
        let unified = mount("/sys/fs/cgroup", "/", &[]);
        assert_eq!(CgroupLayout::parse(text).unwrap(), CgroupLayout::V2 { unified });
    }

    #[test]
    fn test_parse_v1_only_with_escaped_path() {
        let text = br"30 24 0:26 /a\040b /cg\134x\011y rw - cgroup none rw,pids,favordynmods";
        let layout = CgroupLayout::parse(text).unwrap();
        let controllers = vec![mount("/cg\\x\ty", "/a b", &["pids"])];
        assert_eq!(layout, CgroupLayout::V1 { controllers });
        assert!(layout.unified().is_none());
    }

    #[test]
    fn test_parse_without_cgroups_returns_not_mounted() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n";
        assert!(matches!(CgroupLayout::parse(text), Err(CgroupError::NotMounted)));
        assert!(matches!(CgroupLayout::parse(b""), Err(CgroupError::NotMounted)));
    }

    #[test]
    fn test_parse_cut_line_returns_malformed_with_its_number() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n30 24 0:26 /";
        let error = CgroupLayout::parse(text).unwrap_err();
        assert!(matches!(error, CgroupError::Malformed { line: 2, .. }), "{error}");
    }

    #[test]
    fn test_membership_finds_v1_and_v2() {
        let text = b"4:memory:/process_api/x\n2:cpu,cpuacct:/a:b\n0::/user.slice\n";
        let membership = Membership::parse(text).unwrap();
        assert_eq!(membership.path(Some("memory")), Path::new("/process_api/x"));
        assert_eq!(membership.path(Some("cpu")), Path::new("/a:b"));
        assert_eq!(membership.path(Some("pids")), Path::new("/"));
        assert_eq!(membership.path(None), Path::new("/user.slice"));
        assert!(Membership::parse(b"nonsense").is_err());
    }

    #[test]
    fn test_directory_of_cgroup_outside_of_mount_returns_its_top() {
        let part = mount("/cg", "/docker/1", &[]);
        assert_eq!(part.directory_of(Path::new("/docker/1/x")), Path::new("/cg/x"));
        assert_eq!(part.directory_of(Path::new("/elsewhere")), Path::new("/cg"));
        let whole = mount("/cg", "/", &[]);
        assert_eq!(whole.directory_of(Path::new("/../../etc")), Path::new("/cg"));
        assert_eq!(whole.directory_of(Path::new("/")), Path::new("/cg/"));
    }

    proptest! {
        #[test]
        fn test_parse_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = CgroupLayout::parse(&bytes);
            let _ = Membership::parse(&bytes);
            let _ = unescape(&bytes);
        }
    }
}

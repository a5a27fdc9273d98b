//! `mounts`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use oci_spec::runtime;

use super::error::{OciError, invalid, unsupported};
use crate::cgroup::CgroupLayout;
use crate::mount::{Attributes, FileSystem, Mount, Propagation, Tree};
use crate::spec::Spec;

/// Options of a mount itself: name, attribute of linux/mount.h, whether it is set. Access times are
/// one field of several bits, whose other values are cleared.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", 0x1, true),
    ("rw", 0x1, false),
    ("nosuid", 0x2, true),
    ("suid", 0x2, false),
    ("nodev", 0x4, true),
    ("dev", 0x4, false),
    ("noexec", 0x8, true),
    ("exec", 0x8, false),
    ("relatime", 0x0, true),
    ("noatime", 0x10, true),
    ("strictatime", 0x20, true),
    ("nodiratime", 0x80, true),
    ("diratime", 0x80, false),
    ("nosymfollow", 0x20_0000, true),
    ("symfollow", 0x20_0000, false),
];
const ACCESS_TIME: u64 = 0x70;

const PROPAGATIONS: &[(&str, Propagation)] = &[
    ("private", Propagation::Private),
    ("rprivate", Propagation::Private),
    ("shared", Propagation::Shared),
    ("rshared", Propagation::Shared),
    ("slave", Propagation::Slave),
    ("rslave", Propagation::Slave),
    ("unbindable", Propagation::Unbindable),
    ("runbindable", Propagation::Unbindable),
];

/// The file systems that a box may have; others could reach what is the host's.
const KINDS: &[&str] = &["tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// What a list of options says.
#[derive(Debug, Default)]
struct Options {
    attributes: Attributes,
    propagation: Option<Propagation>,
    bind: bool,
    recursive: bool,
    data: Vec<(OsString, Option<OsString>)>,
}

pub(super) fn mounts(mounts: &[runtime::Mount], spec: &mut Spec) -> Result<(), OciError> {
    for (index, mount) in mounts.iter().enumerate() {
        let property = format!("mounts[{index}]");
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let destination = mount.destination();
        if !destination.is_absolute() {
            let problem = format!("{} is not an absolute path", destination.display());
            return Err(invalid(format!("{property}.destination"), problem));
        }
        let target: PathBuf = destination.components().collect();
        let kind = mount.typ().as_deref().unwrap_or_default();
        if options.bind || kind == "bind" {
            spec.mounts.push(Mount::Tree(tree(&property, mount, options, target)?));
            continue;
        }
        if !KINDS.contains(&kind) {
            return Err(unsupported(format!("{property}.type"), format!("{kind:?}")));
        }
        if kind == "cgroup" {
            spec.mounts.extend(cgroups(&property, options, &target)?);
            continue;
        }
        // What the kernel has by itself has no source.
        let source = Some("source").filter(|_| kind == "tmpfs");
        let source = source.and(mount.source().as_ref()).map(|path| path.clone().into());
        spec.mounts.push(Mount::FileSystem(FileSystem {
            kind: kind.into(),
            source,
            target,
            options: options.data,
            attributes: options.attributes,
            propagation: options.propagation,
        }));
    }
    Ok(())
}

fn tree(
    property: &str,
    mount: &runtime::Mount,
    options: Options,
    target: PathBuf,
) -> Result<Tree, OciError> {
    if let Some((name, _)) = options.data.first() {
        let why = format!("{name:?} of a bind mount");
        return Err(unsupported(format!("{property}.options"), why));
    }
    let source = mount
        .source()
        .clone()
        .ok_or_else(|| invalid(format!("{property}.source"), "a bind mount must have one"))?;
    if !source.is_absolute() {
        let why = "relative to the bundle: give an absolute path";
        return Err(unsupported(format!("{property}.source"), why));
    }
    Ok(Tree {
        source,
        target,
        recursive: options.recursive,
        attributes: options.attributes,
        propagation: options.propagation,
    })
}

/// The box's view of its cgroups, as they are laid out here.
fn cgroups(property: &str, options: Options, target: &Path) -> Result<Vec<Mount>, OciError> {
    if let Some((name, _)) = options.data.first() {
        let why = format!("{name:?} of cgroups");
        return Err(unsupported(format!("{property}.options"), why));
    }
    let layout = CgroupLayout::detect().map_err(crate::error::Error::from)?;
    let system = |kind: &str, target: PathBuf, data: Vec<(OsString, Option<OsString>)>| {
        Mount::FileSystem(FileSystem {
            kind: kind.into(),
            source: None,
            target,
            options: data,
            attributes: options.attributes,
            propagation: None,
        })
    };
    let mut mounts = Vec::new();
    if layout.v1().is_empty() {
        return Ok(vec![system("cgroup2", target.to_owned(), Vec::new())]);
    }
    // Written to only while it is filled.
    mounts.push(Mount::FileSystem(FileSystem {
        kind: "tmpfs".into(),
        source: None,
        target: target.to_owned(),
        options: vec![("mode".into(), Some("755".into()))],
        attributes: Attributes {
            set: options.attributes.set & !super::config::READ_ONLY,
            clear: 0,
        },
        propagation: None,
    }));
    for hierarchy in layout.v1() {
        let names = hierarchy.controllers.join(",");
        let data = hierarchy.controllers.iter().map(|name| (name.into(), None)).collect();
        mounts.push(system("cgroup", target.join(names), data));
    }
    if layout.unified().is_some() {
        mounts.push(system("cgroup2", target.join("unified"), Vec::new()));
    }
    mounts.push(Mount::Change(crate::mount::Change {
        target: target.to_owned(),
        recursive: false,
        attributes: options.attributes,
        propagation: None,
    }));
    Ok(mounts)
}

impl Options {
    fn parse(options: &[String]) -> Options {
        let mut all = Options::default();
        for option in options {
            if let Some((_, bits, set)) = ATTRIBUTES.iter().find(|(name, ..)| name == option) {
                let field = if matches!(bits, 0 | 0x10 | 0x20) { ACCESS_TIME } else { *bits };
                all.attributes.set &= !field;
                all.attributes.clear |= field;
                if *set {
                    all.attributes.set |= bits;
                    // A plain bit that is set must not be cleared as well.
                    all.attributes.clear &= if field == ACCESS_TIME { !0 } else { !bits };
                }
                continue;
            }
            if let Some((name, kind)) = PROPAGATIONS.iter().find(|(name, _)| name == option) {
                all.propagation = Some(*kind);
                all.recursive |= name.len() > 1 && name.starts_with('r') && *name != "recursive";
                continue;
            }
            match option.as_str() {
                "bind" => all.bind = true,
                "rbind" => (all.bind, all.recursive) = (true, true),
                "defaults" | "async" => {}
                option => {
                    let (name, value) = match option.split_once('=') {
                        Some((name, value)) => (name, Some(value.into())),
                        None => (option, None),
                    };
                    all.data.push((name.into(), value));
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_sorts_options() {
        let words =
            ["ro", "nosuid", "noatime", "rbind", "rslave", "size=64k", "strictatime", "dev"];
        let options = Options::parse(&words.map(str::to_owned));
        assert!(options.bind && options.recursive);
        assert_eq!(options.propagation, Some(Propagation::Slave));
        assert_eq!(options.attributes.set, 0x1 | 0x2 | 0x20);
        assert_eq!(options.attributes.clear, ACCESS_TIME | 0x4);
        assert_eq!(options.data, [("size".into(), Some("64k".into()))]);
    }
}

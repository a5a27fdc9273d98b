//! Users and groups by the files of the image: passwd(5), group(5).

use std::path::Path;

use super::error::BuildError;
use super::merged::Merged;
use crate::User;

const REMEDY: &str = "name a user of the image's /etc/passwd and a group of its /etc/group, or ids";

/// A user as the image knows it.
pub(super) struct Known {
    pub(super) user: User,
    /// From its line in passwd.
    pub(super) home: Option<String>,
}

/// Finds `USER[:GROUP]`, names or numbers. Without a group it is the user's own, and others that
/// the user is in come with it.
pub(super) fn find(root: &Merged, text: &str) -> Result<Known, BuildError> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let lines = passwd(root)?;
    let line = lines.iter().find(|line| line.name == name || line.is_id(name));
    let uid = match line {
        Some(line) => line.uid,
        None => name.parse().map_err(|_| no_such("user", name))?,
    };
    let groups = groups(root)?;
    let (gid, further) = match group {
        Some(group) => (group_id(&groups, group)?, Vec::new()),
        None => {
            let gid = line.map_or(0, |line| line.gid);
            let has = |group: &&Group| {
                line.is_some_and(|line| group.members.contains(&line.name)) && group.gid != gid
            };
            (gid, groups.iter().filter(has).map(|group| group.gid).collect())
        }
    };
    let home = line.map(|line| line.home.clone()).filter(|home| !home.is_empty());
    Ok(Known { user: User { uid, gid, groups: further }, home })
}

/// Finds the owner that `--chown=USER[:GROUP]` names. Without a group it has the user's number.
pub(super) fn owner(root: &Merged, text: &str) -> Result<(u32, u32), BuildError> {
    let known = find(root, text)?.user;
    let gid = if text.contains(':') { known.gid } else { known.uid };
    Ok((known.uid, gid))
}

struct Line {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Line {
    fn is_id(&self, text: &str) -> bool {
        text.parse() == Ok(self.uid)
    }
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn passwd(root: &Merged) -> Result<Vec<Line>, BuildError> {
    let text = root.read(Path::new("etc/passwd"))?.unwrap_or_default();
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(Line {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.to_owned(),
        })
    };
    Ok(String::from_utf8_lossy(&text).lines().filter_map(line).collect())
}

fn groups(root: &Merged) -> Result<Vec<Group>, BuildError> {
    let text = root.read(Path::new("etc/group"))?.unwrap_or_default();
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        let members = members.split(',').map(str::to_owned).collect();
        Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
    };
    Ok(String::from_utf8_lossy(&text).lines().filter_map(group).collect())
}

fn group_id(groups: &[Group], name: &str) -> Result<u32, BuildError> {
    match groups.iter().find(|group| group.name == name) {
        Some(group) => Ok(group.gid),
        None => name.parse().map_err(|_| no_such("group", name)),
    }
}

fn no_such(what: &str, name: &str) -> BuildError {
    BuildError::invalid(format!("the image has no {what} {name:?}"), REMEDY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_find_takes_names_and_numbers() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nu:x:5:6::/home/u:\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.path().join("etc/group"), "g:x:7:a,u\nv:x:6:u\n").unwrap();
        let root = Merged::open(vec![root.path().to_owned()]).unwrap();
        for (text, uid, gid, groups) in [
            ("u", 5, 6, vec![7]),
            ("5", 5, 6, vec![7]),
            ("u:g", 5, 7, vec![]),
            ("9", 9, 0, vec![]),
            ("9:8", 9, 8, vec![]),
        ] {
            assert_eq!(find(&root, text).unwrap().user, User { uid, gid, groups }, "{text}");
        }
        assert_eq!(owner(&root, "u").unwrap(), (5, 5));
        assert_eq!(owner(&root, "u:g").unwrap(), (5, 7));
        assert_eq!(find(&root, "root").unwrap().home.as_deref(), Some("/root"));
        for bad in ["w", "u:w", "", "-1", ":"] {
            assert!(find(&root, bad).is_err(), "{bad}");
        }
    }
}

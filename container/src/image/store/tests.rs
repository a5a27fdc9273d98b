use super::*;
use crate::image::fixture::{Layer, Layout, Packing, listing, may_unpack};
use crate::image::{Bundle, Form, Image, Import, Reference};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn import(store: &Store, path: &Path, name: &str) -> Result<Image, Error> {
    let bundle = Bundle::open(store, path)?;
    let entry = bundle.select(None)?;
    bundle.import(store, entry, &Import::new(&name.parse().unwrap()))
}

/// How many files or directories the store has in one of its own.
fn count(store: &Store, directory: &str) -> usize {
    fs::read_dir(store.path().join(directory)).unwrap().count()
}

fn base() -> Layer {
    Layer::default().directory("etc/").file("etc/a", b"of the base").file("etc/b", b"gone soon")
}

fn top() -> Layer {
    Layer::default().directory("etc/").file("etc/.wh.b", b"").file("etc/a", b"of the top")
}

#[test]
fn test_import_stores_unpacks_and_names() {
    if !may_unpack("test_import_stores_unpacks_and_names") {
        return;
    }
    let (_directory, store) = store();
    let layout = Layout::of("app:1", &[(base(), Packing::Gzip), (top(), Packing::Zstd)]);
    let image = import(&store, layout.path(), "app:1").unwrap();
    assert_eq!(store.find("app:1").unwrap().digest(), image.digest());
    assert_eq!(store.find(&image.digest().hex()[..12]).unwrap().digest(), image.digest());
    let trees = store.layer_trees(&image).unwrap();
    assert_eq!(
        listing(&trees[0]),
        ["etc/a: file \"of the top\"", "etc/b: whiteout", "etc: directory"]
    );
    assert_eq!(listing(&trees[1]).len(), 3);
    assert_eq!((count(&store, "layers"), count(&store, "blobs/sha256")), (2, 4));
    assert_eq!(count(&store, STAGING), 0);
}

#[test]
fn test_export_and_import_of_every_form_give_the_same_image() {
    if !may_unpack("test_export_and_import_of_every_form_give_the_same_image") {
        return;
    }
    let (_directory, store) = store();
    let layout = Layout::of("app:1", &[(base(), Packing::Gzip), (top(), Packing::Plain)]);
    let reference: Reference = "localhost:5000/app:1".parse().unwrap();
    let image = import(&store, layout.path(), &reference.to_string()).unwrap();
    let out = tempfile::tempdir().unwrap();
    for (form, name) in
        [(Form::Directory, "dir"), (Form::Archive, "a.tar"), (Form::Docker, "docker.tar")]
    {
        let to = out.path().join(name);
        store.export(&image, &reference, form, &to).unwrap();
        let error = store.export(&image, &reference, form, &to).unwrap_err();
        assert!(error.to_string().contains("File exists") || error.to_string().contains("already"));
        let again = Bundle::open(&store, &to).unwrap();
        let entry = again.select(None).unwrap();
        assert_eq!(again.reference(entry).unwrap(), reference);
        let (_directory, other) = self::store();
        assert_eq!(import(&other, &to, "x").unwrap().digest(), image.digest());
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 3);
    let mut bytes = Vec::new();
    store.export_to(&image, &reference, true, &mut bytes).unwrap();
    assert_eq!(bytes, fs::read(out.path().join("docker.tar")).unwrap());
}

#[test]
fn test_import_of_what_docker_saved_makes_a_manifest() {
    if !may_unpack("test_import_of_what_docker_saved_makes_a_manifest") {
        return;
    }
    let (_directory, store) = store();
    let layout = Layout::of("app:1", &[(base(), Packing::Plain), (top(), Packing::Plain)]);
    let image = import(&store, layout.path(), "app:1").unwrap();
    // As versions before 25 have it: a directory for each layer, and links where one is shared.
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("config.json", &fs::read(store.blob_path(&image.config_blob().digest)).unwrap());
    add("one/layer.tar", &base().bytes());
    add("two/layer.tar", &top().bytes());
    add(
        "manifest.json",
        br#"[{"Config":"config.json","RepoTags":["app:1","app:2"],"Layers":["three/layer.tar","two/layer.tar"]}]"#,
    );
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "three/layer.tar", "../one/layer.tar").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), archive.into_inner().unwrap()).unwrap();

    let bundle = Bundle::open(&store, file.path()).unwrap();
    let error = bundle.select(None).unwrap_err();
    assert!(error.to_string().contains("name one of app:1, app:2"), "{error}");
    let entry = bundle.select(Some("app:2")).unwrap();
    let saved = bundle.import(&store, entry, &Import::new(&"app:2".parse().unwrap())).unwrap();
    assert_eq!(saved.config_blob(), image.config_blob());
    assert_eq!(saved.layers(), image.layers());
    assert_eq!(count(&store, "layers"), 2);
}

#[test]
fn test_remove_keeps_what_others_share() {
    if !may_unpack("test_remove_keeps_what_others_share") {
        return;
    }
    let (_directory, store) = store();
    let both = Layout::of("both", &[(base(), Packing::Gzip), (top(), Packing::Gzip)]);
    let one = Layout::of("one", &[(base(), Packing::Gzip)]);
    import(&store, both.path(), "both").unwrap();
    import(&store, one.path(), "one").unwrap();
    assert_eq!((count(&store, "layers"), count(&store, "blobs/sha256")), (2, 6));

    let hold = store.hold().unwrap();
    let removed = store.remove(&"both".parse().unwrap()).unwrap();
    assert!(removed.is_deferred && removed.removed == 0);
    drop(hold);
    let removed = store.collect().unwrap();
    assert_eq!((removed.removed, removed.is_deferred), (4, false));
    assert!(removed.freed_bytes > 0);
    assert_eq!((count(&store, "layers"), count(&store, "blobs/sha256")), (1, 3));
    store.layer_trees(&store.find("one").unwrap()).unwrap();

    store.remove(&"one".parse().unwrap()).unwrap();
    assert_eq!((count(&store, "layers"), count(&store, "blobs/sha256")), (0, 0));
    let error = store.remove(&"one".parse().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("there is no image one:latest in "), "{error}");
}

#[test]
fn test_import_under_a_used_name_removes_what_it_replaced() {
    if !may_unpack("test_import_under_a_used_name_removes_what_it_replaced") {
        return;
    }
    let (_directory, store) = store();
    for layer in [base(), top()] {
        let layout = Layout::of("app", &[(layer, Packing::Gzip)]);
        import(&store, layout.path(), "app").unwrap();
    }
    assert_eq!((count(&store, "layers"), count(&store, "blobs/sha256")), (1, 3));
}

#[test]
fn test_layer_trees_of_an_earlier_boot_are_made_again() {
    if !may_unpack("test_layer_trees_of_an_earlier_boot_are_made_again") {
        return;
    }
    let (_directory, store) = store();
    let layout = Layout::of("app", &[(base(), Packing::Gzip)]);
    let image = import(&store, layout.path(), "app").unwrap();
    let layer = store.layer_path(&image.layers()[0].diff_id);
    let record = fs::read_to_string(layer.join("layer.json")).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(record.contains(boot_id.trim_end()));
    fs::write(layer.join("layer.json"), record.replace(boot_id.trim_end(), "another")).unwrap();
    fs::write(layer.join("tree/etc/a"), "lost").unwrap();
    let trees = store.layer_trees(&image).unwrap();
    assert_eq!(fs::read_to_string(trees[0].join("etc/a")).unwrap(), "of the base");
    assert_eq!(count(&store, STAGING), 0);
}

#[test]
fn test_layer_that_depends_on_others_is_not_shared() {
    if !may_unpack("test_layer_that_depends_on_others_is_not_shared") {
        return;
    }
    let (_directory, store) = store();
    let implying = || (Layer::default().file("etc/c", b"c"), Packing::Gzip);
    let upon = Layout::of("upon", &[(base(), Packing::Gzip), implying()]);
    let alone = Layout::of("alone", &[implying()]);
    let upon = import(&store, upon.path(), "upon").unwrap();
    let alone = import(&store, alone.path(), "alone").unwrap();
    assert_eq!(upon.layers()[1].diff_id, alone.layers()[0].diff_id);
    assert_ne!(store.layer_trees(&upon).unwrap()[0], store.layer_trees(&alone).unwrap()[0]);
    assert_eq!(count(&store, "layers"), 3);
    store.remove(&"upon".parse().unwrap()).unwrap();
    assert_eq!(count(&store, "layers"), 1);
}

#[test]
fn test_open_of_a_later_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap();
    fs::write(directory.path().join(VERSION_FILE), r#"{"version":2}"#).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        error.to_string().contains("is of version 2, and this tare knows version 1"),
        "{error}"
    );
}

#[test]
fn test_open_sweeps_what_the_dead_left_and_nothing_else() {
    let (_directory, store) = store();
    let staging = store.path().join(STAGING);
    let own = Name::next(&Owner::own().unwrap()).as_str().to_owned();
    let dead = Name::next(&Owner { start_ticks: 1, ..Owner::own().unwrap() }).as_str().to_owned();
    for name in [&own, &dead, "stranger"] {
        fs::create_dir_all(staging.join(name).join("0/tree")).unwrap();
    }
    Store::open(store.path()).unwrap();
    assert!(staging.join(own).exists() && staging.join("stranger").exists());
    assert!(!staging.join(dead).exists());
}

#[test]
fn test_import_of_what_lies_about_itself_leaves_the_store_as_it_was() {
    if !may_unpack("test_import_of_what_lies_about_itself_leaves_the_store_as_it_was") {
        return;
    }
    let (_directory, store) = store();
    let good = Layout::of("app", &[(base(), Packing::Gzip)]);
    import(&store, good.path(), "app").unwrap();
    let before = (count(&store, "layers"), count(&store, "refs"), count(&store, STAGING));

    let index = |text: String| move |layout: &Layout| layout.index(&text, "app");
    let nested = |layout: &Layout| {
        // Each list is in the next; the outermost are too deep.
        let mut inner = layout.manifest(&[(top(), Packing::Gzip)]);
        for _ in 0..5 {
            let list = format!(r#"{{"schemaVersion":2,"manifests":[{inner}]}}"#);
            inner = layout.blob("application/vnd.oci.image.index.v1+json", list.as_bytes());
        }
        layout.index(&inner, "app");
    };
    let elsewhere = |layout: &Layout| {
        let manifest = layout.manifest(&[(top(), Packing::Gzip)]);
        let entry = manifest.strip_suffix('}').unwrap();
        let platform = r#""platform":{"os":"linux","architecture":"arm64"}"#;
        let list = format!(r#"{{"schemaVersion":2,"manifests":[{entry},{platform}}}]}}"#);
        let list = layout.blob("application/vnd.oci.image.index.v1+json", list.as_bytes());
        layout.index(&list, "app");
    };
    // Changes the bytes of every layer's archive.
    let with_layers = |change: fn(Vec<u8>) -> Vec<u8>| {
        move |layout: &Layout| {
            for entry in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                if bytes.starts_with(&[0x1f, 0x8b]) {
                    fs::write(path, change(bytes)).unwrap();
                }
            }
        }
    };
    let other_diff_id = |layout: &Layout| {
        let layer = layout.blob("application/vnd.oci.image.layer.v1.tar", &top().bytes());
        let diff_id = Digest::of(b"another");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        let config = layout.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        layout.index(&layout.blob(media_type, manifest.as_bytes()), "app");
    };
    let missing = format!(r#"{{"mediaType":"m","digest":"{}","size":1}}"#, Digest::of(b"x"));
    let path = r#"{"mediaType":"m","digest":"sha256:../../../etc/passwd","size":1}"#;
    type Change<'a> = Box<dyn Fn(&Layout) + 'a>;
    let cases: [(Change<'_>, &str); 11] = [
        (Box::new(with_layers(|bytes| bytes[..bytes.len() - 1].to_vec())), "layer"),
        (Box::new(with_layers(|bytes| [&bytes[..], b"x"].concat())), "announced"),
        (
            Box::new(with_layers(|mut bytes| {
                bytes[9] ^= 1;
                bytes
            })),
            "was announced",
        ),
        (
            Box::new(with_layers(|mut bytes| {
                bytes[30] ^= 0x55;
                bytes
            })),
            "",
        ),
        (Box::new(other_diff_id), "the digest of the uncompressed sha256:"),
        (Box::new(nested), "lie more than 3 deep in each other"),
        (Box::new(elsewhere), "has no image for linux/amd64, only for linux/arm64"),
        (Box::new(index(missing)), "is missing in"),
        (Box::new(index(path.to_owned())), ""),
        (
            Box::new(|layout: &Layout| fs::write(layout.path().join("index.json"), "{").unwrap()),
            "index.json cannot be understood",
        ),
        (
            Box::new(|layout: &Layout| fs::remove_file(layout.path().join("oci-layout")).unwrap()),
            "is no image",
        ),
    ];
    for (change, why) in cases {
        let layout = Layout::of("app", &[(top(), Packing::Gzip)]);
        change(&layout);
        let error = import(&store, layout.path(), "app").unwrap_err().to_string();
        assert!(error.contains(why), "{error}, not {why}");
        let after = (count(&store, "layers"), count(&store, "refs"), count(&store, STAGING));
        assert_eq!(after, before, "{error}");
    }
    assert_eq!(store.find("app").unwrap().layers().len(), 1);
}

#[test]
fn test_check_finds_damage() {
    if !may_unpack("test_check_finds_damage") {
        return;
    }
    let (_directory, store) = store();
    let implying = (Layer::default().file("etc/c", b"c"), Packing::Zstd);
    let layout = Layout::of("app", &[(base(), Packing::Gzip), (top(), Packing::Plain), implying]);
    let image = import(&store, layout.path(), "app").unwrap();
    store.check(&image).unwrap();
    assert_eq!(count(&store, STAGING), 0);
    let trees = store.layer_trees(&image).unwrap();
    fs::write(trees[2].join("etc/a"), "changed").unwrap();
    let error = store.check(&image).unwrap_err().to_string();
    assert!(error.contains("`etc/a` is not as it was unpacked"), "{error}");
    let blob = store.blob_path(&image.layers()[0].blob.digest);
    fs::write(&blob, b"short").unwrap();
    let error = store.check(&image).unwrap_err().to_string();
    assert!(error.contains("has 5 bytes"), "{error}");
}

#[test]
fn test_derive_makes_once_and_goes_with_the_image() {
    if !may_unpack("test_derive_makes_once_and_goes_with_the_image") {
        return;
    }
    let (_directory, store) = store();
    let layout = Layout::of("app", &[(base(), Packing::Gzip)]);
    let image = import(&store, layout.path(), "app").unwrap();
    let made = std::cell::Cell::new(0);
    let derive = |is_good: bool| {
        store.derive(&image, "disk", |path| {
            made.set(made.get() + 1);
            fs::write(path, "half").map_err(Error::io("write", path))?;
            if is_good { Ok(()) } else { Err(Error::NoPlace) }
        })
    };
    assert!(derive(false).is_err());
    let path = derive(true).unwrap();
    assert_eq!(derive(true).unwrap(), path);
    assert_eq!((made.get(), count(&store, STAGING)), (2, 0));
    store.remove(&"app".parse().unwrap()).unwrap();
    assert!(!path.exists());
}

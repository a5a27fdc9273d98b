//! Whole builds, with a busybox for a base: as root.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::image::{Image, Reference, Store, may_unpack};

/// A store and a build's directory.
struct Bench {
    directory: tempfile::TempDir,
    store: Store,
}

/// What every Dockerfile here begins with.
const BASE: &str = "FROM scratch AS base\nCOPY busybox /bin/busybox\n\
                    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";

fn busybox() -> Option<PathBuf> {
    let named = std::env::var_os("TARE_TEST_BUSYBOX").map(PathBuf::from);
    named.or_else(|| Some("/bin/busybox".into())).filter(|path| path.is_file())
}

impl Bench {
    fn new(test: &str) -> Option<Bench> {
        if !may_unpack(test) {
            return None;
        }
        let Some(busybox) = busybox() else {
            let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!ci, "{test}: no static busybox, and CI=true");
            let line = format!("SKIPPED {test}: no static busybox (set TARE_TEST_BUSYBOX)\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let context = directory.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::copy(busybox, context.join("busybox")).unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Some(Bench { directory, store })
    }

    fn context(&self) -> PathBuf {
        self.directory.path().join("context")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Builds `text`; how many steps came from the cache, what commands printed, and the image.
    fn build_with(
        &self,
        text: &str,
        change: impl FnOnce(&mut Build<'_>),
    ) -> (usize, String, Result<BuiltImage, BuildError>) {
        let dockerfile = self.directory.path().join("Dockerfile");
        fs::write(&dockerfile, text).unwrap();
        let reference: Reference = "test".parse().unwrap();
        let mut output = tempfile::tempfile().unwrap();
        let handle = output.try_clone().unwrap();
        let cached = RefCell::new(0);
        let context = self.context();
        let on_step = |step: &StepReport<'_>| *cached.borrow_mut() += usize::from(step.is_cached);
        let mut build = Build {
            store: &self.store,
            context: &context,
            dockerfile: &dockerfile,
            reference: &reference,
            args: BTreeMap::new(),
            target: None,
            use_cache: true,
            host_network: false,
            epoch_s: 0,
            output: Some(&handle),
            on_step: &on_step,
            is_interrupted: &|| false,
        };
        change(&mut build);
        let built = build.run();
        let mut printed = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut printed).unwrap();
        assert_eq!(self.staged(), 0, "left in staging");
        (cached.into_inner(), printed, built)
    }

    fn build(&self, text: &str) -> Image {
        let (_, printed, built) = self.build_with(text, |_| {});
        built.unwrap_or_else(|error| panic!("{error}\n{printed}")).image
    }

    fn fails(&self, text: &str) -> String {
        self.build_with(text, |_| {}).2.expect_err(text).to_string()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.store.path().join("staging")).unwrap().count()
    }

    /// A file of an image, by the layer that has it.
    fn read(&self, image: &Image, path: &str) -> Option<String> {
        let trees = self.store.layer_trees(image).unwrap();
        let merged = super::merged::Merged::open(trees).unwrap();
        let bytes = merged.read(Path::new(path)).unwrap()?;
        Some(String::from_utf8(bytes).unwrap())
    }
}

#[test]
fn test_build_of_the_same_input_gives_the_same_digest() {
    let Some(bench) = Bench::new("test_build_of_the_same_input_gives_the_same_digest") else {
        return;
    };
    let text = format!(
        "{BASE}ARG V=1\nWORKDIR /app/data\nCOPY a b* ./\nRUN echo $V > v; ln v w; date > /tmp.txt; \
         rm /tmp.txt; mkdir -p /e/f; chmod 1777 /e\nUSER 5:6\nCMD [\"cat\", \"v\"]\nLABEL x=y\n"
    );
    bench.write("a", "a");
    bench.write("b1", "b");
    let first = bench.build(&text);
    let Some(other) = Bench::new("again") else { return };
    other.write("b1", "b");
    other.write("a", "a");
    let second = other.build(&text);
    assert_eq!(first.digest(), second.digest());
    assert_eq!(bench.read(&first, "app/data/w").as_deref(), Some("1\n"));
    assert_eq!(bench.read(&first, "tmp.txt"), None);
    // Without the cache too, and another time is another image.
    let again = other.build_with(&text, |build| build.use_cache = false);
    assert_eq!((again.0, again.2.unwrap().image.digest()), (0, first.digest()));
    let later = other.build_with(&text, |build| build.epoch_s = 1).2.unwrap();
    assert_ne!(later.image.digest(), first.digest());
    let config = first.config().config().as_ref().unwrap();
    assert_eq!(config.user().as_deref(), Some("5:6"));
    assert_eq!(config.working_dir().as_deref(), Some("/app/data"));
    assert_eq!(config.cmd().as_deref(), Some(&["cat".to_owned(), "v".to_owned()][..]));
    // Nothing is in it that the container was given.
    for path in ["proc", "dev", "sys", "etc"] {
        let trees = bench.store.layer_trees(&first).unwrap();
        assert!(trees.iter().all(|tree| !tree.join(path).exists()), "{path}");
    }
}

#[test]
fn test_build_takes_layers_from_the_cache_until_something_differs() {
    let Some(bench) = Bench::new("test_build_takes_layers_from_the_cache") else { return };
    bench.write("a", "1");
    let text = format!("{BASE}COPY a /a\nRUN cat /a > /b\n");
    let build = |text: &str| {
        let (cached, _, built) = bench.build_with(text, |_| {});
        (cached, built.unwrap().image.digest())
    };
    let (cached, first) = build(&text);
    assert_eq!(cached, 0);
    assert_eq!(build(&text), (4, first));
    // Only the time of a file is another.
    fs::remove_file(bench.context().join("a")).unwrap();
    bench.write("a", "1");
    assert_eq!(build(&text), (4, first));
    bench.write("a", "2");
    let (cached, second) = build(&text);
    assert_eq!(cached, 2);
    assert_ne!(second, first);
    let (cached, _) = build(&format!("{BASE}ENV X=1\nCOPY a /a\nRUN cat /a > /b\n"));
    assert_eq!(cached, 3, "the environment is part of what a command runs with");
    // What no image has any more is built again.
    bench.store.remove(&"test".parse().unwrap()).unwrap();
    assert_eq!(build(&text), (0, second));
}

#[test]
fn test_build_runs_commands_as_the_image_says() {
    let Some(bench) = Bench::new("test_build_runs_commands_as_the_image_says") else { return };
    let text = format!(
        "ARG GLOBAL=g\n{BASE}RUN mkdir /etc && echo 'u:x:5:6::/home/u:/bin/sh' > /etc/passwd && \
         echo 'g:x:7:u' > /etc/group\nENV A=1 B=\"2 $A\"\nENV C=$B\nARG D\nARG GLOBAL\nUSER u\n\
         WORKDIR /w\nRUN id -u; id -G; pwd; echo \"$A,$B,$C,$D,$GLOBAL,$HOME\"\n\
         SHELL [\"sh\", \"-ec\"]\nRUN <<EOF\nls /sys/class/net\nEOF\nRUN [\"echo\", \"$A\"]\n"
    );
    let (_, printed, built) = bench.build_with(&text, |build| {
        build.args = BTreeMap::from([("D".into(), "d".into()), ("E".into(), "e".into())]);
    });
    let built = built.unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(printed, "5\n6 7\n/w\n1,2 ,2 ,d,g,/home/u\nlo\n$A\n");
    assert_eq!(built.unused_args, ["E"]);
}

#[test]
fn test_build_of_several_stages_copies_between_them() {
    let Some(bench) = Bench::new("test_build_of_several_stages") else { return };
    let text = format!(
        "{BASE}FROM base AS made\nRUN mkdir /out && echo x > /out/x && chown -R 7:8 /out\n\
         FROM base AS unused\nRUN false\n\
         FROM scratch\nCOPY --from=made /out/ /in/\nCOPY --from=0 --chmod=700 /bin/busybox /b\n\
         COPY <<one <<'two' /t/\nuid $A\none\n$A\ntwo\n"
    );
    let image = bench.build(&text);
    assert_eq!(image.layers().len(), 3);
    assert_eq!(bench.read(&image, "in/x").as_deref(), Some("x\n"));
    assert_eq!(bench.read(&image, "t/one").as_deref(), Some("uid \n"));
    assert_eq!(bench.read(&image, "t/two").as_deref(), Some("$A\n"));
    let tree = &bench.store.layer_trees(&image).unwrap()[2];
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(tree.join("in/x")).unwrap().uid(), 7);
    let (_, _, built) = bench.build_with(&text, |build| build.target = Some("unused"));
    assert!(built.unwrap_err().to_string().contains("RUN: the command failed with exit status 1"));
    // From an image in the store.
    let image = bench.build("FROM test\nCOPY --from=test /in/x /y\n");
    assert_eq!(bench.read(&image, "y").as_deref(), Some("x\n"));
    assert_eq!(image.layers().len(), 4);
}

#[test]
fn test_build_that_fails_tells_the_line_and_leaves_the_name() {
    let Some(bench) = Bench::new("test_build_that_fails_tells_the_line") else { return };
    let before = bench.build(BASE);
    for (text, said) in [
        (format!("{BASE}RUN exit 3\n"), "line 5: RUN: the command failed with exit status 3"),
        (
            format!("{BASE}\nRUN sh -c 'kill -9 $$'; exit $?\n"),
            "line 6: RUN: the command failed with exit status 137",
        ),
        (format!("{BASE}RUN [\"/none\"]\n"), "line 5: RUN: command not found in the box"),
        (format!("{BASE}COPY none /\n"), "line 5: COPY: there is no none in the build's directory"),
        (format!("{BASE}COPY --from=none /a /\n"), "line 5: COPY: there is no image none:latest"),
        (
            format!("{BASE}COPY --chown=no busybox /\n"),
            "line 5: COPY: the image has no user \"no\"",
        ),
        (format!("{BASE}USER no\nRUN true\n"), "line 6: RUN: the image has no user \"no\""),
        (format!("{BASE}ARG U=http://x/y\nADD $U /\n"), "line 6: ADD of the address http://x/y"),
        (format!("{BASE}EXPOSE x\n"), "line 5: EXPOSE: x is no port"),
        (format!("{BASE}RUN --network=host true\n"), "line 5: RUN: RUN --network=host is not"),
        (format!("{BASE}RUN mknod /d c 0 5\n"), "line 5: RUN: /d is a device"),
        (format!("{BASE}ENV A=${{B:?needed}}\n"), "line 5: the variable B is not set: needed"),
        ("FROM none\n".to_owned(), "line 1: FROM: there is no image none:latest"),
    ] {
        let error = bench.fails(&text);
        assert!(error.contains(said), "{said}\n{error}");
    }
    let reference = "test".parse().unwrap();
    assert_eq!(bench.store.image(&reference).unwrap().digest(), before.digest());
}

#[test]
fn test_build_that_is_interrupted_leaves_nothing() {
    let Some(bench) = Bench::new("test_build_that_is_interrupted") else { return };
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let text = format!("{BASE}RUN sleep 1000\n");
    // Some waits into the last command, at the latest.
    let (_, _, built) = bench.build_with(&text, |build| {
        build.is_interrupted = &|| ASKED.fetch_add(1, Ordering::Relaxed) > 12;
    });
    assert!(matches!(built, Err(BuildError::Interrupted)));
    assert!(bench.store.image(&"test".parse().unwrap()).is_err());
}

#[test]
fn test_build_with_a_dockerignore_and_an_archive() {
    let Some(bench) = Bench::new("test_build_with_a_dockerignore") else { return };
    bench.write(".dockerignore", "secret\n**/*.o\n");
    for path in ["secret", "src/a.c", "src/a.o"] {
        bench.write(path, path);
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(bench.context().join("secret"), "in/file").unwrap();
    fs::write(bench.context().join("x.tar"), archive.into_inner().unwrap()).unwrap();
    let image = bench.build("FROM scratch\nCOPY . /all\nADD x.tar /x/\nADD src/a.c x.tar* /y/\n");
    assert_eq!(bench.read(&image, "all/src/a.c").as_deref(), Some("src/a.c"));
    assert_eq!(bench.read(&image, "all/secret"), None);
    assert_eq!(bench.read(&image, "all/src/a.o"), None);
    assert_eq!(bench.read(&image, "x/in/file").as_deref(), Some("secret"));
    assert_eq!(bench.read(&image, "y/in/file").as_deref(), Some("secret"));
    bench.write(".dockerignore", "ok\n[\n");
    assert!(bench.fails("FROM scratch\n").contains(".dockerignore line 2"));
}

#[test]
fn test_tree_becomes_the_same_image_twice() {
    let Some(bench) = Bench::new("test_tree_becomes_the_same_image_twice") else { return };
    bench.write("etc/x", "x");
    let context = bench.context();
    let tree = Tree { path: &context, origin: "test", command: &["sh"], env: &["A=1"], epoch_s: 0 };
    let name: Reference = "base".parse().unwrap();
    let first = tree.store(&bench.store, &name).unwrap();
    fs::write(context.join("etc/x"), "x").unwrap();
    assert_eq!(tree.store(&bench.store, &name).unwrap().digest(), first.digest());
    assert_eq!(bench.read(&first, "etc/x").as_deref(), Some("x"));
    let built = bench.build("FROM base\nENV B=2\n");
    let config = built.config().config().clone().unwrap();
    assert_eq!(config.env().as_deref(), Some(&["A=1".to_owned(), "B=2".to_owned()][..]));
    assert_eq!(config.cmd().as_deref(), Some(&["sh".to_owned()][..]));
}

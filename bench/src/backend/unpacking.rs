//! What unpacks an image and starts nothing: our store, and umoci.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tare_container::image::{Bundle, Import, Store};

use super::foreign::{Tool, finish_within};
use super::{Assignment, Availability, Backend, Error, Instance, Prepared};
use crate::clock::now_ns;
use crate::image::{SAMPLE_TAG, SampleImage};
use crate::kit::Kit;
use crate::lab::is_lab;

/// The program that is compared with.
const UMOCI: Tool = Tool { program: "umoci", variable: "TARE_UMOCI", package: "umoci" };
/// More than the unpacking of a few hundred megabytes takes anywhere.
const PATIENCE: Duration = Duration::from_secs(300);
/// Why nothing else can be asked of them.
const STARTS_NOTHING: &str = "it unpacks images and starts nothing";

/// The backends; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpacking {
    /// Our store.
    Store,
    /// umoci, into a bundle.
    Umoci,
}

impl Backend for Unpacking {
    fn name(&self) -> &'static str {
        match self {
            Unpacking::Store => "images",
            Unpacking::Umoci => "umoci",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Unpacking::Store => "an image unpacked into our store; starts nothing",
            Unpacking::Umoci => "an image unpacked by umoci; starts nothing",
        }
    }

    fn probe(&self, _kit: &Kit) -> Availability {
        if !nix::unistd::geteuid().is_root() {
            return Availability::unavailable(
                "an image's files belong to many users",
                "run tare as root",
            );
        }
        if is_lab() {
            return Availability::unavailable(
                "unpacking takes too long in the lab",
                "measure it on a machine",
            );
        }
        match self {
            Unpacking::Store => Availability::Ready,
            Unpacking::Umoci => UMOCI.version().err().unwrap_or(Availability::Ready),
        }
    }

    fn suits(&self, assignment: &Assignment) -> Availability {
        if assignment.unpacks {
            return Availability::Ready;
        }
        Availability::unavailable(STARTS_NOTHING, "tare bench container --only unpack-umoci")
    }

    fn prepare(&self, kit: &Kit, _assignment: &Assignment) -> Result<Box<dyn Prepared>, Error> {
        let failed = Error::prepare(self.name());
        let layout = kit.sample_layout().map_err(|error| failed(&error))?.to_owned();
        let place = kit.new_scratch_dir().map_err(|error| failed(&error))?;
        let SampleImage { layers, layer_bytes } = SampleImage::FIVE_LAYERS;
        let own = match self {
            Unpacking::Store => {
                "every file's data is in the page cache, every blob's on the disk".to_owned()
            }
            Unpacking::Umoci => {
                UMOCI.version().map_err(|_| failed(&"it does not tell its version any more"))?
            }
        };
        let state = vec![
            format!(
                "an image of {layers} layers of {layer_bytes} bytes, gzipped, an OCI layout in the page cache"
            ),
            own,
        ];
        Ok(Box::new(Ready { unpacking: *self, layout, place, state }))
    }
}

/// An image, to be unpacked again and again.
struct Ready {
    unpacking: Unpacking,
    layout: PathBuf,
    place: PathBuf,
    state: Vec<String>,
}

impl Prepared for Ready {
    fn state(&self) -> Vec<String> {
        self.state.clone()
    }

    fn reset(&self) -> Result<(), Error> {
        Ok(())
    }

    fn launch(&self) -> Result<Box<dyn Instance>, Error> {
        Err(Error::launch(self.unpacking.name())(&STARTS_NOTHING))
    }

    fn unpack(&self) -> Result<u64, Error> {
        let failed = Error::launch(self.unpacking.name());
        let fresh = tempfile::tempdir_in(&self.place).map_err(|error| failed(&error))?;
        // What was written before does not compete.
        fs::File::open(&self.place)
            .and_then(|directory| Ok(nix::unistd::syncfs(&directory)?))
            .map_err(|error| failed(&error))?;
        let to = fresh.path().join("to");
        let start_ns = now_ns();
        match self.unpacking {
            Unpacking::Store => import(&self.layout, &to).map_err(|error| failed(&error))?,
            Unpacking::Umoci => umoci(&self.layout, &to).map_err(|why| failed(&why))?,
        }
        Ok(now_ns() - start_ns)
    }
}

fn import(layout: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(to)?;
    let bundle = Bundle::open(&store, layout)?;
    bundle.import(&store, bundle.select(None)?, &Import::new(&SAMPLE_TAG.parse()?))?;
    Ok(())
}

fn umoci(layout: &Path, to: &Path) -> Result<(), String> {
    let mut image = OsString::from(layout);
    image.push(":");
    image.push(SAMPLE_TAG);
    let mut command = std::process::Command::new(UMOCI.path());
    command.args(["unpack", "--image"]).arg(image).arg(to);
    match finish_within(&mut command, PATIENCE) {
        Ok((0, _)) => Ok(()),
        Ok((code, text)) => Err(format!("umoci ended with exit code {code}: {}", text.trim())),
        Err(error) => Err(format!("umoci: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_import_of_a_sample_is_whole() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI lacks root");
            // Past the capture of the test runner: what is skipped must be seen.
            let line = b"SKIPPED test_import_of_a_sample_is_whole: this machine lacks root\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let image = SampleImage { layers: 2, layer_bytes: 100_000 };
        let (layout, to) = (directory.path().join("layout"), directory.path().join("to"));
        image.write_to(&layout).unwrap();
        import(&layout, &to).unwrap();
        let store = Store::open(&to).unwrap();
        let stored = store.find(SAMPLE_TAG).unwrap();
        assert_eq!(store.layer_trees(&stored).unwrap().len(), 2);
        let first = store.layer_trees(&stored).unwrap().pop().unwrap();
        let mut total = 0;
        for directory in fs::read_dir(first.join("layer0")).unwrap() {
            for file in fs::read_dir(directory.unwrap().path()).unwrap() {
                total += file.unwrap().metadata().unwrap().len();
            }
        }
        assert_eq!(total, 100_000);
    }

    #[test]
    fn test_umoci_of_no_image_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let error = umoci(&directory.path().join("none"), &directory.path().join("to"));
        assert!(error.unwrap_err().starts_with("umoci"));
    }
}

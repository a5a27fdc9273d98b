//! What is made of an image's tree and kept with it, such as a disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::store::Store;
use super::stored::Image;

impl Store {
    /// The file of a kind that was made of an image's tree, made by `make` at the path that it is
    /// given if it is not there yet. It goes with the last image that has this tree.
    ///
    /// # Errors
    /// What `make` returns, and [`Error`] where the store cannot be written.
    pub fn derive<E: From<Error>>(
        &self,
        image: &Image,
        kind: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let directory = self.path().join("derived").join(kind);
        let file = directory.join(image.chain_id().hex());
        if file.exists() {
            return Ok(file);
        }
        let session = self.begin()?;
        fs::create_dir_all(&directory).map_err(Error::io("make the directory", &directory))?;
        let staged = session.staging_path();
        make(&staged)?;
        File::open(&staged)
            .and_then(|made| made.sync_data())
            .map_err(Error::io("sync", &staged))?;
        session.publish(&staged, &file)?;
        Ok(file)
    }
}

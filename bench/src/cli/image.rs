//! `tare image`: the images that every box can run.

mod base;
mod build;
#[cfg(feature = "pull")]
mod pull;
mod verify;

use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tare_container::image::{Bundle, Form, Image, Import, Reference, Store};

use super::exit;
use crate::image::UsedImage;
use crate::progress::LateBar;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    tare image import busybox.tar\n  \
    tare image import --name app:1 layout/\n  \
    tare image base busybox\n  \
    tare image build -t app:2 .\n  \
    tare image ls\n  \
    tare launch --image app:1 -- cat /etc/os-release\n  \
    tare image verify app:1\n  \
    tare image export app:1 app.tar && docker load < app.tar\n\n\
    Images are kept in $TARE_STORE, or tare/images in $XDG_DATA_HOME or ~/.local/share. Layers that\n\
    images share are there once. Unpacking them takes root.")]
pub(super) enum ImageCommand {
    /// Store an image of an OCI layout (directory or archive) or an archive of `docker save`
    #[command(after_help = "Examples:\n  tare image import busybox.tar\n  \
        docker save app:1 | tare image import -")]
    Import(ImportArgs),
    /// Get an image from a registry
    #[cfg(feature = "pull")]
    #[command(after_help = "Examples:\n  tare image pull busybox:1.36\n  \
        tare image pull --plain-http localhost:5000/app:1\n\n\
        Credentials are those in `auths` of ~/.docker/config.json; proxies, those of the environment.")]
    Pull(pull::PullArgs),
    /// Build an image from a Dockerfile
    #[command(after_help = "Examples:\n  tare image build -t app:1 .\n  \
        tare image build -t app:1 -f app.dockerfile --build-arg VERSION=2 --network host .\n\n\
        The same input gives the same image, digest for digest; every time in it is --epoch. Commands\n\
        run in containers, as root of the image unless USER says otherwise. The exit code is 130\n\
        where the build was interrupted. The image of FROM must be in the store: pull, import or\n\
        make it by `tare image base` before.")]
    Build(build::BuildArgs),
    /// Make an image that others begin with, without a registry
    #[command(after_help = "Examples:\n  tare image base busybox\n  \
        tare image base debian --suite bookworm")]
    Base(base::BaseArgs),
    /// List the images
    #[command(after_help = "Example:\n  tare image ls --json")]
    Ls(LsArgs),
    /// Show what an image consists of
    #[command(after_help = "Example:\n  tare image inspect --json app:1")]
    Inspect(OneArgs),
    /// Remove images, and what no other image shares with them
    #[command(after_help = "Example:\n  tare image rm app:1 app:2")]
    Rm(RmArgs),
    /// Write an image to a file or directory
    #[command(after_help = "Examples:\n  tare image export app:1 app.tar\n  \
        tare image export --form directory app:1 layout\n  \
        tare image export app:1 - | docker load")]
    Export(ExportArgs),
    /// Show that all boxes hold the same files: each computes the digest of its whole tree
    #[command(after_help = "Examples:\n  tare image verify app:1\n  \
        tare image verify --on process,container app:1\n\n\
        The exit code is 5 where the digests differ, and 4 where a box failed.")]
    Verify(verify::VerifyArgs),
    /// Print the digest of an image's whole tree
    #[command(after_help = "Example:\n  tare image digest app:1")]
    Digest(OneArgs),
    /// Read everything that is stored of an image and check that nothing has changed it
    #[command(after_help = "Example:\n  tare image check app:1 && echo whole\n\n\
        The exit code is 1 where it was damaged.")]
    Check(OneArgs),
    /// Write a disk with an image's tree
    #[command(after_help = "Example:\n  tare image disk --format erofs app:1 app.erofs")]
    Disk(DiskArgs),
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A directory, an archive (compressed or not), or `-` for standard input
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The name it gets [default: its own, or that of the file]
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<Reference>,
    /// The image to take, by its name or tag, where there are several
    #[arg(long, value_name = "NAME")]
    select: Option<String>,
    /// Print what was stored as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The image: its name, its digest, or the first digits of that
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// The images' names
    #[arg(required = true, value_name = "NAME[:TAG]")]
    images: Vec<Reference>,
    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    image: Reference,
    /// Where to: nothing may be there yet; `-` for standard output
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = FormArg::Docker)]
    form: FormArg,
}

/// What an image is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormArg {
    /// An archive for `docker load`, old or new, which is an OCI layout as well
    Docker,
    /// An archive with an OCI layout
    Oci,
    /// A directory with an OCI layout
    Directory,
}

#[derive(Debug, Args)]
pub(super) struct DiskArgs {
    /// The image: its name, its digest, or the first digits of that
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to: nothing may be there yet
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Its file system
    #[arg(long, value_enum, default_value_t = DiskFormat::Ext4)]
    format: DiskFormat,
}

/// The file system of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiskFormat {
    /// Can be written to, with some free space
    Ext4,
    /// Read-only and small
    Erofs,
}

pub(super) fn run(command: &ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Import(args) => import(args),
        #[cfg(feature = "pull")]
        ImageCommand::Pull(args) => pull::run(args),
        ImageCommand::Build(args) => build::run(args),
        ImageCommand::Base(args) => base::run(args),
        ImageCommand::Ls(args) => list(args),
        ImageCommand::Inspect(args) => inspect(args),
        ImageCommand::Rm(args) => remove(args),
        ImageCommand::Export(args) => export(args),
        ImageCommand::Verify(args) => verify::run(args),
        ImageCommand::Digest(args) => digest(args),
        ImageCommand::Check(args) => check(args),
        ImageCommand::Disk(args) => disk(args),
    }
}

fn open_store() -> anyhow::Result<Store> {
    Ok(Store::open(&Store::default_path()?)?)
}

fn import(args: &ImportArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let bundle = Bundle::open(&store, &args.path)?;
    let entry = bundle.select(args.select.as_deref())?;
    let reference = match &args.name {
        Some(name) => name.clone(),
        None => bundle.reference(entry)?,
    };
    let bar = LateBar::new("importing");
    let on_bytes = |bytes, total| bar.advance(bytes, total);
    let options = Import { on_bytes: &on_bytes, ..Import::new(&reference) };
    let image = bundle.import(&store, entry, &options)?;
    drop(bar);
    super::print_text(&if args.json {
        format!("{:#}\n", summary(&reference, &image))
    } else {
        format!("{reference}  {}\n", image.digest())
    })?;
    Ok(exit::OK)
}

fn list(args: &LsArgs) -> anyhow::Result<u8> {
    let images = open_store()?.images()?;
    if args.json {
        let all: Vec<Value> = images.iter().map(|(name, image)| summary(name, image)).collect();
        super::print_text(&format!("{:#}\n", Value::from(all)))?;
        return Ok(exit::OK);
    }
    let names: Vec<String> = images.iter().map(|(name, _)| name.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:12}  {:>10}  layers\n", "name", "digest", "packed");
    for (name, (_, image)) in names.iter().zip(&images) {
        let (digest, layers) = (image.digest().hex(), image.layers().len());
        let short = digest.get(..12).unwrap_or(&digest);
        text += &format!("{name:width$}  {short:12}  {:>10}  {layers}\n", size(image.size_bytes()));
    }
    super::print_text(&text)?;
    Ok(exit::OK)
}

fn inspect(args: &OneArgs) -> anyhow::Result<u8> {
    let image = open_store()?.find(&args.image)?;
    let config = image.config();
    if args.json {
        let value = json!({
            "digest": image.digest(),
            "id": image.config_blob().digest,
            "chain_id": image.chain_id(),
            "size_bytes": image.size_bytes(),
            "layers": image.layers(),
            "config": config,
        });
        super::print_text(&format!("{value:#}\n"))?;
        return Ok(exit::OK);
    }
    let mut text = format!(
        "digest    {}\nid        {}\nplatform  {}/{}\ncreated   {}\n",
        image.digest(),
        image.config_blob().digest,
        config.os(),
        config.architecture(),
        config.created().as_deref().unwrap_or("(not said)"),
    );
    if let Some(config) = config.config() {
        for (what, words) in
            [("start", config.entrypoint()), ("command", config.cmd()), ("variable", config.env())]
        {
            for word in words.iter().flatten() {
                text += &format!("{what:9} {}\n", word.escape_debug());
            }
        }
    }
    for layer in image.layers() {
        let bytes = size(layer.blob.size_bytes);
        text += &format!("layer     {} {bytes:>10}\n", layer.blob.digest);
    }
    super::print_text(&text)?;
    Ok(exit::OK)
}

fn remove(args: &RmArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let mut values = Vec::new();
    for reference in &args.images {
        let collected = store.remove(reference)?;
        if args.json {
            values.push(json!({ "name": reference.to_string(), "collected": collected }));
        } else if collected.is_deferred {
            super::print_text(&format!(
                "{reference}: its files are in use, and go with the next removal\n"
            ))?;
        } else {
            super::print_text(&format!("{reference}: {} freed\n", size(collected.freed_bytes)))?;
        }
    }
    if args.json {
        super::print_text(&format!("{:#}\n", Value::from(values)))?;
    }
    Ok(exit::OK)
}

fn export(args: &ExportArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let image = store.image(&args.image)?;
    if args.path == Path::new("-") {
        anyhow::ensure!(
            args.form != FormArg::Directory,
            "a directory cannot go to standard output"
        );
        let is_docker = args.form == FormArg::Docker;
        store.export_to(&image, &args.image, is_docker, &mut stdout().lock())?;
        return Ok(exit::OK);
    }
    let form = match args.form {
        FormArg::Docker => Form::Docker,
        FormArg::Oci => Form::Archive,
        FormArg::Directory => Form::Directory,
    };
    store.export(&image, &args.image, form, &args.path)?;
    Ok(exit::OK)
}

fn digest(args: &OneArgs) -> anyhow::Result<u8> {
    let used = UsedImage::open(&args.image)?;
    let tree = tare_workload::tree_digest(&used.tree()?.to_string_lossy())?;
    let digest = verify::written(&tree.digest);
    super::print_text(&if args.json {
        let (entries, bytes) = (tree.entries, tree.bytes);
        format!("{:#}\n", json!({ "digest": digest, "entries": entries, "content_bytes": bytes }))
    } else {
        format!("{digest}\n")
    })?;
    Ok(exit::OK)
}

fn check(args: &OneArgs) -> anyhow::Result<u8> {
    let store = open_store()?;
    let image = store.find(&args.image)?;
    store.check(&image)?;
    super::print_text(&if args.json {
        format!("{:#}\n", json!({ "digest": image.digest(), "whole": true }))
    } else {
        format!("{}: whole\n", args.image)
    })?;
    Ok(exit::OK)
}

fn disk(args: &DiskArgs) -> anyhow::Result<u8> {
    let used = UsedImage::open(&args.image)?;
    let made = match args.format {
        DiskFormat::Ext4 => used.disk()?,
        DiskFormat::Erofs => used.read_only_disk()?,
    };
    crate::image::copy_sparse(&made, &args.path)
        .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", args.path.display()))?;
    Ok(exit::OK)
}

fn summary(reference: &Reference, image: &Image) -> Value {
    json!({
        "name": reference.to_string(),
        "digest": image.digest(),
        "id": image.config_blob().digest,
        "size_bytes": image.size_bytes(),
        "layers": image.layers().len(),
    })
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

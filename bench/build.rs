//! Builds the agent, `tare-guest`, and hands its path to the crate, which embeds it.
//!
//! The agent has its own profile and flags (no unwinding, fixed address), so it cannot be an
//! ordinary dependency. It is built in a target directory of its own: the outer build holds the
//! lock of the usual one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "x86_64-unknown-linux-musl";

fn main() {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    for watched in [
        "guest/src",
        "guest/build.rs",
        "guest/Cargo.toml",
        "workload/src",
        "workload/Cargo.toml",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", manifest_dir.join(watched).display());
    }
    let built = build_agent(&manifest_dir, &out_dir.join("guest-target"));
    let agent = out_dir.join("tare-guest");
    fs::copy(&built, &agent).unwrap_or_else(|error| {
        panic!("cannot copy {} to {}: {error}", built.display(), agent.display())
    });
    println!("cargo::rustc-env=TARE_GUEST_PATH={}", agent.display());
    name_commit(&manifest_dir);
}

fn build_agent(manifest_dir: &Path, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "tare-guest",
            "--profile",
            "guest",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(manifest_dir.join("guest"))
        .env("RUSTFLAGS", "-C relocation-model=static -C target-feature=+crt-static");
    // What the outer cargo says to its compiler (a clippy wrapper, other flags) is not for the agent.
    for inherited in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"]
    {
        cargo.env_remove(inherited);
    }
    let status =
        cargo.status().unwrap_or_else(|error| panic!("cannot run cargo for tare-guest: {error}"));
    assert!(
        status.success(),
        "building tare-guest failed ({status}); is the target there? rustup target add {TARGET}"
    );
    target_dir.join(TARGET).join("guest").join("tare-guest")
}

/// Hands on the commit that is built, where there is a checkout; `+` stands for local changes.
fn name_commit(manifest_dir: &Path) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("--no-optional-locks")
            .arg("-C")
            .arg(manifest_dir)
            .args(arguments)
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return };
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    println!("cargo::rustc-env=TARE_COMMIT={commit}{}", if changes.is_empty() { "" } else { "+" });
    for path in ["../.git/HEAD", "../.git/index"] {
        println!("cargo::rerun-if-changed={}", manifest_dir.join(path).display());
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo did not set {name}: {error}"))
}

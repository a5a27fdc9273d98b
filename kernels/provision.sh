#!/usr/bin/env bash
# Gets what tare needs beyond Rust, git, make, gcc and python3, on Debian.
#
#   kernels/provision.sh [build] [lab] [test] [fuzz]      (default: build and lab)
#
#   build   to compile tare and its guest kernel, and to make disk images
#   lab     QEMU and Debian's cloud kernel (downloaded, not installed), for hosts in software
#   test    what only tests need: a browser for the HTML report (125 MB to download, 410 MB on disk)
#   fuzz    cargo-fuzz, for `make fuzz`
#
# Installs only what is missing; says nothing twice and needs no network when all is there.
# Exit status: 0 all is there; 2 wrong usage; 3 something is missing and cannot be installed
# (not root, or no apt), with the list; anything else is apt's or rustup's own failure.
set -euo pipefail

readonly TARGET=x86_64-unknown-linux-musl
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tare/dl"

# Debian packages, and what each is for.
#   linux-source-6.12      the guest kernel's source (bookworm-security)
#   flex bison bc          its configuration and timer tables
#   libelf-dev             its objtool, which 64-bit x86 always builds
#   binutils xz-utils      linker; unpacking of sources and modules
#   e2fsprogs              mke2fs, e2fsck, debugfs
#   erofs-utils            mkfs.erofs, for read-only disks of images
#   busybox-static         the base root file system
#   strace                 a test counts the agent's system calls
#   cpio                   a test has it read our archives
#   docker-registry        tests pull images from it
#   hyperfine              `tare calibrate`: times a whole command too
#   fio                    `tare calibrate`: reads a file too
#   sysbench               `tare calibrate`: figures of processor and memory, for orientation
#   umoci                  `tare bench container`: unpacks the same image
readonly BUILD_PACKAGES=(
  linux-source-6.12 make gcc libc6-dev binutils flex bison bc libelf-dev xz-utils e2fsprogs
  erofs-utils busybox-static strace cpio docker-registry hyperfine fio sysbench umoci
)
#   qemu-system-x86        the lab, and a VMM to compare with
#   qemu-system-data       qboot.rom and pvh.bin, by which QEMU's microvm starts
#   seabios                the firmware of its q35 machine
#   crun runc bubblewrap   container runtimes to compare with, here and in the lab
readonly LAB_PACKAGES=(
  qemu-system-x86 qemu-system-data seabios xz-utils crun runc bubblewrap
)

#   chromium               a test opens the HTML report in it
readonly TEST_PACKAGES=(chromium)

# libFuzzer is C++.
readonly FUZZ_PACKAGES=(g++)

step() { printf 'provision: %s\n' "$*"; }
fail() { local status=$1; shift; printf 'provision: %s\n' "$*" >&2; exit "$status"; }

installed() {
  [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

target_present() {
  [[ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$TARGET/lib" ]]
}

# The newest downloaded cloud kernel, or nothing.
downloaded_kernel() {
  find "$CACHE" -maxdepth 1 -name 'linux-image-6.12.*-cloud-amd64_*_amd64.deb' 2>/dev/null \
    | sort --version-sort | tail -n 1
}

# The newest cloud kernel that apt knows. The package linux-image-cloud-amd64 of the release may
# stand for an older series, so the versioned names are compared.
available_kernel() {
  apt-cache pkgnames linux-image-6.12. | sed -n '/-cloud-amd64$/p' | sort --version-sort | tail -n 1
}

main() {
  local want_build=false want_lab=false want_test=false want_fuzz=false part
  for part in "${@:-all}"; do
    case "$part" in
      build) want_build=true ;;
      lab) want_lab=true ;;
      test) want_test=true ;;
      fuzz) want_fuzz=true ;;
      all) want_build=true want_lab=true ;;
      *) fail 2 "unknown part '$part'; usage: kernels/provision.sh [build] [lab] [test] [fuzz]" ;;
    esac
  done

  local -a wanted=() missing=()
  if $want_build; then wanted+=("${BUILD_PACKAGES[@]}"); fi
  if $want_lab; then wanted+=("${LAB_PACKAGES[@]}"); fi
  if $want_test; then wanted+=("${TEST_PACKAGES[@]}"); fi
  if $want_fuzz; then wanted+=("${FUZZ_PACKAGES[@]}"); fi
  local package
  for package in "${wanted[@]}"; do
    if [[ " ${missing[*]-} " != *" $package "* ]] && ! installed "$package"; then
      missing+=("$package")
    fi
  done
  local need_target=false need_kernel=false need_fuzz=false
  if $want_fuzz && ! command -v cargo-fuzz >/dev/null; then need_fuzz=true; fi
  if $want_build && ! target_present; then need_target=true; fi
  if $want_lab && [[ -z "$(downloaded_kernel)" ]]; then need_kernel=true; fi

  if [[ ${#missing[@]} -eq 0 ]] && ! $need_target && ! $need_kernel && ! $need_fuzz; then
    step 'everything is there'
    return
  fi

  # All or nothing: what cannot be completed is not begun.
  local -a obstacles=()
  if [[ ${#missing[@]} -gt 0 ]] && [[ $EUID -ne 0 ]]; then obstacles+=('not root'); fi
  if { [[ ${#missing[@]} -gt 0 ]] || $need_kernel; } && ! command -v apt-get >/dev/null; then
    obstacles+=('no apt-get')
  fi
  if $need_target && ! command -v rustup >/dev/null; then obstacles+=('no rustup'); fi
  # Without root the lists cannot be updated, but those that are there may do.
  if $need_kernel && [[ $EUID -ne 0 ]] && [[ -z "$(available_kernel 2>/dev/null)" ]]; then
    obstacles+=('not root, and the package lists know no 6.12 cloud kernel')
  fi
  if [[ ${#obstacles[@]} -gt 0 ]]; then
    {
      printf 'provision: nothing was done (%s). Missing:\n' "$(IFS=';'; printf '%s' "${obstacles[*]}")"
      if [[ ${#missing[@]} -gt 0 ]]; then printf '  package: %s\n' "${missing[@]}"; fi
      if $need_target; then printf '  Rust target: %s (rustup target add %s)\n' "$TARGET" "$TARGET"; fi
      if $need_kernel; then
        printf '  file: %s/linux-image-6.12.*-cloud-amd64_*_amd64.deb (apt-get download)\n' "$CACHE"
      fi
    } >&2
    exit 3
  fi

  if [[ $EUID -eq 0 ]] && { [[ ${#missing[@]} -gt 0 ]] || $need_kernel; }; then
    step 'apt-get update'
    apt-get -qq update
  fi
  if [[ ${#missing[@]} -gt 0 ]]; then
    step "apt-get install ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
    # Tests start one of their own; no service is to come with it.
    if [[ " ${missing[*]} " == *' docker-registry '* ]] && command -v systemctl >/dev/null; then
      systemctl --quiet disable --now docker-registry 2>/dev/null || true
    fi
  fi
  if $need_target; then
    step "rustup target add $TARGET"
    rustup target add "$TARGET"
  fi
  if $need_fuzz; then
    step 'cargo install cargo-fuzz'
    cargo install --quiet --locked cargo-fuzz
  fi
  if $need_kernel; then download_kernel; fi
  step 'done'
}

download_kernel() {
  local package staging
  package="$(available_kernel)"
  [[ -n "$package" ]] || fail 3 'apt knows no linux-image-6.12.*-cloud-amd64; is bookworm-security among its sources?'
  step "apt-get download $package -> $CACHE"
  mkdir -p "$CACHE"
  # Published by a rename: an interrupted download must not be taken for a kernel.
  staging="$(mktemp -d "$CACHE/.download.XXXXXX")"
  # shellcheck disable=SC2064  # the directory's name as it is now
  trap "rm -rf '$staging'" EXIT
  # As root apt would download as user _apt, who cannot write there.
  (cd "$staging" && apt-get -qq -o APT::Sandbox::User=root download "$package")
  mv "$staging"/*.deb "$CACHE"/
}

main "$@"

use super::*;
use crate::progress::Silent;

const PACKAGE: &str = "linux-image-6.12.9+deb12-cloud-amd64_6.12.9-1_amd64.deb";

/// A cache with a package of the given bytes.
fn cache_with(package: &[u8]) -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join(PACKAGE), package).unwrap();
    (directory, cache)
}

fn deb(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, content) in members {
        let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn test_kernel_no_download_names_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let error = kernel(&Cache::at(directory.path()), &Silent).unwrap_err();
    assert!(error.to_string().contains("provision.sh lab"), "{error}");
}

#[test]
fn test_kernel_damaged_package_returns_error_and_publishes_nothing() {
    let whole = deb(&[("debian-binary", b"2.0\n"), ("data.tar.xz", b"not xz, but long enough")]);
    let cut = &whole[..whole.len() - 10];
    for bytes in [&whole[..], cut, b"", b"!<arch>\n", b"no deb"] {
        let (_directory, cache) = cache_with(bytes);
        let error = kernel(&cache, &Silent).unwrap_err();
        assert!(error.to_string().contains(PACKAGE), "{error}");
        assert!(!cache.root().join("tmp").exists());
        assert_eq!(fs::read_dir(cache.root().join("lab")).unwrap().count(), 0);
    }
}

#[test]
fn test_newest_package_compares_numbers_not_letters() {
    let (_directory, cache) = cache_with(b"");
    let newer = "linux-image-6.12.110+deb12-cloud-amd64_6.12.110-1_amd64.deb";
    for name in [newer, "linux-image-6.13.1-amd64_6.13.1-1_amd64.deb", "other.deb"] {
        fs::write(cache.downloads().join(name), b"").unwrap();
    }
    assert!(newest_package(&cache.downloads()).unwrap().ends_with(newer));
}

/// With the real package, where the provisioning step has downloaded it.
#[test]
fn test_modules_of_real_kernel_come_in_order() {
    let user = Cache::open().unwrap();
    if newest_package(&user.downloads()).is_err() {
        assert!(std::env::var_os("CI").is_none(), "no cloud kernel: run kernels/provision.sh lab");
        // Past the capture of the test runner: what is skipped must be seen.
        let line = format_args!(
            "SKIPPED test_modules_of_real_kernel_come_in_order: no cloud kernel downloaded\n"
        );
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), line);
        return;
    }
    let kernel = kernel(&user, &Silent).unwrap();
    assert!(fs::metadata(&kernel.vmlinuz).unwrap().len() > 1 << 20);
    let modules = kernel.modules(&["kvm-amd", "overlay", "loop", "veth", "bridge", "kvm"]).unwrap();
    let place = |name: &str| modules.iter().position(|module| module.name == name);
    assert!(place("kvm").unwrap() < place("kvm_amd").unwrap());
    assert!(place("stp").unwrap() < place("bridge").unwrap());
    assert_eq!(modules.iter().filter(|module| module.name == "kvm").count(), 1);
    for module in &modules {
        assert!(fs::read(&module.path).unwrap().starts_with(b"\x7fELF"), "{module:?}");
    }
    // ext4 is part of Debian's kernel.
    assert_eq!(kernel.modules(&["ext4"]).unwrap(), []);
    let error = kernel.modules(&["nonsense"]).unwrap_err();
    assert!(error.to_string().contains("no module `nonsense`"), "{error}");
}

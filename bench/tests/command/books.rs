//! The scale, checked with known weights: what a box holds of each kind of memory appears where it
//! should, and nowhere else.
//!
//! In the lab nothing else happens, so that the system's books can be held against each other; a
//! host's are only looked at where they belong to one process.

use std::path::Path;

use crate::common::{among_labs, is_root, load_only, may_run, output, tare, text};
use crate::lab::{has_lab, lab};
use tare::results::{Cell, Results, Status};

/// What each box holds of one kind; see the recipes of the workload `hold`.
const HELD_BYTES: f64 = 8_388_608.0;
/// The books balance within this: page tables, slabs and batches of pages move with what is held.
const TOLERANCE_BYTES: f64 = 512.0 * 1024.0;
/// A guest also uses again what it has touched and freed while it booted.
const GUEST_TOLERANCE_BYTES: f64 = 1024.0 * 1024.0;

struct Books<'a>(&'a Results);

impl Books<'_> {
    fn cell(&self, backend: &str, holds: &str) -> &Cell {
        let is_meant = |cell: &&Cell| cell.backend == backend && cell.variant["holds"] == holds;
        let cell = self.0.cells.iter().find(is_meant).unwrap();
        assert_eq!(cell.status, Status::Ok, "{}", cell.title());
        cell
    }

    /// How much more a box shows that holds something than one that holds nothing.
    fn more(&self, backend: &str, holds: &str, metric: &str) -> f64 {
        let median = |holds| self.cell(backend, holds).summary(metric).unwrap().median.value;
        median(holds) - median("nothing")
    }

    fn assert_more(&self, backend: &str, holds: &str, metric: &str, expected: f64) {
        let found = self.more(backend, holds, metric);
        let is_guest = backend == "microvm";
        let tolerance = if is_guest { GUEST_TOLERANCE_BYTES } else { TOLERANCE_BYTES };
        assert!(
            (found - expected).abs() <= tolerance,
            "{backend} holds {expected} B of {holds} more, and {metric} shows {found} B more"
        );
    }
}

#[test]
fn test_accounts_of_processes_balance_on_this_host() {
    if !may_run("test_accounts_of_processes_balance_on_this_host", "root", is_root()) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let results = held(directory.path(), "process,container");
    let books = Books(&results);
    for backend in ["process", "container"] {
        for (holds, expected) in
            [("private", HELD_BYTES), ("shared", HELD_BYTES), ("page-cache", 0.0), ("kernel", 0.0)]
        {
            books.assert_more(backend, holds, "memory_pss_bytes", expected);
            books.assert_more(backend, holds, "memory_private_dirty_bytes", expected);
        }
    }
}

fn held(out: &Path, backends: &str) -> Results {
    let mut command = tare();
    command.args(["compare", "--host", "local", "--workload", "hold", "--warmups", "0"]);
    let shown = output(command.args(["--replicates", "3", "--on", backends, "--out"]).arg(out));
    assert!(shown.status.success(), "{}", text(&shown));
    load_only(out)
}

#[test]
fn test_books_of_the_whole_system_balance_in_the_lab() {
    if !may_run("test_books_of_the_whole_system_balance_in_the_lab", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.args(["--", "compare", "--on", "process,container,microvm", "--workload", "hold"]);
    // In small pages: of huge ones a guest's RAM has 2 MiB wherever it touches a byte.
    let shown = output(command.args(["--warmups", "0", "--pages", "small"]));
    assert!(shown.status.success(), "{}", text(&shown));
    let results = load_only(&directory.path().join("results"));
    let books = Books(&results);
    const PSS: &str = "memory_pss_bytes";
    const USED: &str = "memory_system_delta_bytes";
    const KERNEL: &str = "memory_system_kernel_bytes";
    const CACHE: &str = "memory_system_page_cache_bytes";
    const GUEST: &str = "memory_guest_ram_touched_bytes";
    for backend in ["process", "container"] {
        for holds in ["private", "shared"] {
            books.assert_more(backend, holds, PSS, HELD_BYTES);
            books.assert_more(backend, holds, USED, HELD_BYTES);
            books.assert_more(backend, holds, KERNEL, 0.0);
        }
        // Pipes are in nobody's account, and in the kernel's part of the whole.
        books.assert_more(backend, "kernel", PSS, 0.0);
        books.assert_more(backend, "kernel", USED, HELD_BYTES);
        books.assert_more(backend, "kernel", KERNEL, HELD_BYTES);
        // The lab's files lie in memory: there a file's pages are used ones, elsewhere cached ones.
        books.assert_more(backend, "page-cache", PSS, 0.0);
        books.assert_more(backend, "page-cache", KERNEL, 0.0);
        let both =
            books.more(backend, "page-cache", USED) + books.more(backend, "page-cache", CACHE);
        assert!((both - HELD_BYTES).abs() <= TOLERANCE_BYTES, "{backend}: {both}");
    }
    // Whatever a guest holds is guest RAM to its host, and none of it the VMM's own.
    for holds in ["private", "shared", "page-cache", "kernel"] {
        books.assert_more("microvm", holds, GUEST, HELD_BYTES);
        books.assert_more("microvm", holds, PSS, 0.0);
    }
    for holds in ["private", "shared", "kernel"] {
        books.assert_more("microvm", holds, USED, HELD_BYTES);
        books.assert_more("microvm", holds, KERNEL, 0.0);
    }
}

//! Weighing a box while it lives.
//!
//! Resident, not mapped (METHOD rule 9): proportional set size and private dirty memory of every
//! process of the instance, from `smaps` (Documentation/filesystems/proc.rst). A guest's RAM is
//! taken out of the VMM's account and shown apart.

use std::fs;
use std::io;
use std::ops::Range;

use tare_vmm::GUEST_RAM_NAME;

use crate::results::MemoryUsage;

/// What to put on the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// First host process of the instance; its descendants belong to it too.
    pub pid: i32,
    /// Size of the guest's RAM, in bytes, where the instance is a VMM.
    pub guest_ram_bytes: Option<u64>,
}

/// Sums of one kind of mapping, in KiB as the kernel gives them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sums {
    rss_kib: u64,
    pss_kib: u64,
    private_dirty_kib: u64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.rss_kib += other.rss_kib;
        self.pss_kib += other.pss_kib;
        self.private_dirty_kib += other.private_dirty_kib;
    }
}

impl Scale {
    /// Reads the account of every process of the instance.
    ///
    /// # Errors
    /// Where the processes are gone or `/proc` is not readable.
    pub fn weigh(&self) -> io::Result<MemoryUsage> {
        let mut own = Sums::default();
        let mut ram = Sums::default();
        for pid in self.processes()? {
            let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
            let (process_own, process_ram) = sums_of(&smaps, self.guest_ram_bytes);
            own.add(process_own);
            ram.add(process_ram);
        }
        Ok(MemoryUsage {
            pss_bytes: own.pss_kib * 1024,
            private_dirty_bytes: own.private_dirty_kib * 1024,
            rss_bytes: own.rss_kib * 1024,
            guest_ram_touched_bytes: self.guest_ram_bytes.map(|_| ram.rss_kib * 1024),
            ..MemoryUsage::default()
        })
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        let mut found = vec![self.pid];
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            match children {
                Ok(list) => found
                    .extend(list.split_whitespace().filter_map(|word| word.parse::<i32>().ok())),
                // A descendant that has just ended, or a kernel without CONFIG_PROC_CHILDREN.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            next += 1;
        }
        Ok(found)
    }
}

/// Splits a process's mappings into its own and the guest's RAM.
fn sums_of(smaps: &str, guest_ram_bytes: Option<u64>) -> (Sums, Sums) {
    let mut own = Sums::default();
    let mut ram = Sums::default();
    let range = guest_ram_bytes.and_then(|bytes| ram_range(smaps, bytes));
    let mut is_ram = false;
    for line in smaps.lines() {
        if let Some(head) = Head::of(line) {
            is_ram = range.as_ref().is_some_and(|range| range.contains(&head.range.start));
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let kib =
            value.trim().strip_suffix(" kB").and_then(|number| number.trim().parse::<u64>().ok());
        let Some(kib) = kib else { continue };
        let sums = if is_ram { &mut ram } else { &mut own };
        match key {
            "Rss" => sums.rss_kib += kib,
            "Pss" => sums.pss_kib += kib,
            "Private_Dirty" => sums.private_dirty_kib += kib,
            _ => {}
        }
    }
    (own, ram)
}

/// Where a guest's RAM is: from where parts of it were filled before the launch, or else the mapping
/// of that very size, or two of that size together, for the first may be in small pages.
fn ram_range(smaps: &str, bytes: u64) -> Option<Range<u64>> {
    let name = format!("/memfd:{GUEST_RAM_NAME} (deleted)");
    if let Some(head) = smaps.lines().filter(|line| line.ends_with(&name)).find_map(Head::of) {
        // A part's place in its file is its place in RAM.
        let start = head.range.start.checked_sub(head.offset)?;
        return Some(start..start.checked_add(bytes)?);
    }
    let mappings: Vec<_> = smaps.lines().filter_map(Head::of).map(|head| head.range).collect();
    let has_it = |range: &Range<u64>| range.end.checked_sub(range.start) == Some(bytes);
    let pairs = mappings.windows(2).filter(|pair| pair[0].end == pair[1].start);
    let pairs = pairs.map(|pair| pair[0].start..pair[1].end);
    mappings.iter().cloned().chain(pairs).find(has_it)
}

/// The first line of a mapping in `smaps`.
struct Head {
    range: Range<u64>,
    /// In its file.
    offset: u64,
}

impl Head {
    fn of(line: &str) -> Option<Head> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Head { range: number(start)?..number(end)?, offset: number(offset)? })
    }
}

/// Memory of the whole system that is neither free nor a droppable cache, in bytes.
///
/// # Errors
/// As [`Books::read`].
pub fn system_used_bytes() -> io::Result<u64> {
    Books::read().map(|books| books.used_bytes)
}

/// The kernel's own books of the whole system's memory.
///
/// Their difference before and after a launch shows kernel memory that no process's account holds.
/// Much of it is in no account at all (the pages of a pipe, KVM's structures), so it is what remains
/// of the used memory when anonymous pages and files in memory are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    /// Neither free nor a droppable cache.
    used_bytes: u64,
    /// Anonymous pages, and files in memory.
    programs_bytes: u64,
    /// Pages of files on disks.
    page_cache_bytes: u64,
}

impl Books {
    /// Reads them. The kernel counts pages that wait in a CPU's private list as used, which hides
    /// allocations of several MiB; they are taken from `/proc/zoneinfo` and counted as free.
    ///
    /// # Errors
    /// Where `/proc/meminfo` or `/proc/zoneinfo` cannot be read or lacks a field.
    pub fn read() -> io::Result<Books> {
        // Each CPU keeps recent changes of the counters to itself; root may ask for the sum. Without
        // that the figure is off by some hundred KiB, which its interval will show.
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let zoneinfo = fs::read_to_string("/proc/zoneinfo")?;
        books_of(&meminfo, &zoneinfo).ok_or_else(|| {
            let why = "/proc/meminfo and /proc/zoneinfo do not add up";
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// Enters into a box's account what has changed since its launch.
    pub fn settle(&self, before: &Books, usage: &mut MemoryUsage) {
        let change = |now: u64, then: u64| now.cast_signed() - then.cast_signed();
        let used = change(self.used_bytes, before.used_bytes);
        let programs = change(self.programs_bytes, before.programs_bytes);
        usage.system_delta_bytes = Some(used);
        usage.system_kernel_bytes = Some(used - programs);
        usage.system_page_cache_bytes =
            Some(change(self.page_cache_bytes, before.page_cache_bytes));
    }
}

fn books_of(meminfo: &str, zoneinfo: &str) -> Option<Books> {
    let field = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    // Shared memory is counted as cache and cannot be dropped.
    let shmem = field("Shmem")?;
    let files = field("Buffers")? + field("Cached")?;
    let waiting = waiting_pages(zoneinfo) * PAGE_KIB;
    let not_used = field("MemFree")? + files + field("SReclaimable")? + waiting;
    let used = (field("MemTotal")? + shmem).checked_sub(not_used)?;
    Some(Books {
        used_bytes: used * 1024,
        programs_bytes: (field("AnonPages").unwrap_or(0) + shmem) * 1024,
        page_cache_bytes: files.saturating_sub(shmem) * 1024,
    })
}

const PAGE_KIB: u64 = 4;

/// Pages in the CPUs' private lists: the fields `count` of `/proc/zoneinfo`.
fn waiting_pages(zoneinfo: &str) -> u64 {
    let counts = zoneinfo.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00410000 r-xp 00000000 00:01 1 /tare-guest
Size:                 64 kB
Rss:                  40 kB
Pss:                  20 kB
Private_Dirty:         4 kB
VmFlags: rd ex
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Rss:               20480 kB
Pss:               20480 kB
Private_Dirty:     20480 kB
";

    #[test]
    fn test_sums_of_sets_guest_ram_apart() {
        let (own, ram) = sums_of(SMAPS, Some(128 << 20));
        assert_eq!(own, Sums { rss_kib: 40, pss_kib: 20, private_dirty_kib: 4 });
        assert_eq!(ram.rss_kib, 20480);
        let (own, ram) = sums_of(SMAPS, None);
        assert_eq!(own.rss_kib, 20520);
        assert_eq!(ram, Sums::default());
    }

    #[test]
    fn test_sums_of_takes_ram_that_begins_in_small_pages_together() {
        let smaps = SMAPS.replace(
            "7f0000000000-7f0008000000 rw-p 00000000 00:00 0\nSize:             131072 kB\n",
            "7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nSize:               2048 kB\n\
             Rss:                  80 kB\n\
             7f0000200000-7f0008000000 rw-p 00000000 00:00 0\nSize:             129024 kB\n",
        );
        let (own, ram) = sums_of(&smaps, Some(128 << 20));
        assert_eq!((own.rss_kib, ram.rss_kib), (40, 20560));
        let (own, ram) = sums_of(&smaps, Some(64 << 20));
        assert_eq!((own.rss_kib, ram.rss_kib), (20600, 0));
    }

    #[test]
    fn test_sums_of_takes_ram_in_parts_together() {
        let smaps = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0                          [anon:tare-guest-ram]
Size:               2048 kB
Rss:                   0 kB
7f0000200000-7f0000800000 rw-s 00200000 00:01 9                          /memfd:tare-guest-ram (deleted)
Size:               6144 kB
Rss:                4096 kB
Pss:                4096 kB
Private_Dirty:      4096 kB
7f0000800000-7f0008000000 rw-p 00000000 00:00 0
Size:             122880 kB
Rss:                2048 kB
Pss:                2048 kB
7f0008000000-7f0008001000 rw-s 00000000 00:01 9                          anon_inode:kvm-vcpu:0
Size:                  4 kB
Rss:                   4 kB
";
        let (own, ram) = sums_of(smaps, Some(128 << 20));
        assert_eq!(own, Sums { rss_kib: 4, pss_kib: 0, private_dirty_kib: 0 });
        assert_eq!(ram, Sums { rss_kib: 6144, pss_kib: 6144, private_dirty_kib: 4096 });
    }

    #[test]
    fn test_weigh_own_process_is_plausible() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let usage = Scale { pid, guest_ram_bytes: None }.weigh().unwrap();
        assert!(usage.rss_bytes > 100 << 10, "{usage:?}");
        assert!(usage.pss_bytes <= usage.rss_bytes);
    }

    #[test]
    fn test_books_of_missing_field_returns_none() {
        assert_eq!(books_of("MemTotal: 100 kB\n", ""), None);
    }

    #[test]
    fn test_books_of_counts_pages_in_private_lists_as_free() {
        let meminfo = "MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 1 kB\nCached: 20 kB\n\
                       Shmem: 5 kB\nSReclaimable: 4 kB\nAnonPages: 17 kB\n";
        let zoneinfo =
            "  pagesets\n    cpu: 0\n              count:    2\n              high:  9\n";
        assert_eq!(books_of(meminfo, "").unwrap().used_bytes, 40 * 1024);
        let books = books_of(meminfo, zoneinfo).unwrap();
        assert_eq!(books.used_bytes, 32 * 1024);
        assert_eq!((books.programs_bytes, books.page_cache_bytes), (22 * 1024, 16 * 1024));
    }

    #[test]
    fn test_settle_tells_the_kernel_s_share_from_programs() {
        let before = Books { used_bytes: 100, programs_bytes: 60, page_cache_bytes: 40 };
        let after = Books { used_bytes: 190, programs_bytes: 110, page_cache_bytes: 30 };
        let mut usage = MemoryUsage::default();
        after.settle(&before, &mut usage);
        assert_eq!(usage.system_delta_bytes, Some(90));
        assert_eq!(
            (usage.system_kernel_bytes, usage.system_page_cache_bytes),
            (Some(40), Some(-10))
        );
    }

    #[test]
    fn test_system_used_bytes_sees_an_allocation() {
        const MIB: u64 = 1 << 20;
        // Others take and give back memory meanwhile; not each time at that moment.
        let is_seen = (0..20).any(|_| {
            let before = system_used_bytes().unwrap();
            let memory = std::hint::black_box(vec![1u8; 64 << 20]);
            let after = system_used_bytes().unwrap();
            drop(memory);
            (before + 48 * MIB..before + 96 * MIB).contains(&after)
        });
        assert!(is_seen);
    }
}

//! Networks for real, each test in a host's network namespace of its own: nothing of the machine's
//! network is touched.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use tare_container::{
    Bridge, Error, NetworkError, Reach, Spec, Station, Stations, UserNamespace, raise_interface,
    sweep_networks,
};

use crate::support::Bench;

/// Runs `test` on a thread whose network namespace is fresh: the host of the test.
fn on_a_host<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: moves this very thread, which ends after this, to a new namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        raise_interface("lo", Ipv4Addr::LOCALHOST, 8).unwrap();
        test()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

/// Runs `act` in a station.
fn in_station<T: Send>(station: &Station, act: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: moves this very thread, which ends after this, to an open namespace.
        assert_eq!(unsafe { libc::setns(station.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        act()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

/// What `look` finds in the end.
fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed().as_secs() < 20, "not in 20 s; {:?}", interfaces());
        thread::yield_now();
    }
}

/// Names of the interfaces of this thread's network namespace.
fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next());
    names.map(|name| name.trim().to_owned()).collect()
}

fn has_bridge(bridge: &str) -> bool {
    interfaces().iter().any(|name| name == bridge)
}

fn on(bench: &Bench, stations: &Stations, script: &str) -> Spec {
    Spec { stations: Some(stations.clone()), ..bench.shell(script) }
}

/// Says `word` to the first who connects to `address`; its port.
fn say(address: Ipv4Addr, word: &'static str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.accept().unwrap().0.write_all(word.as_bytes()).unwrap());
    port
}

#[test]
fn test_station_reaches_the_host_by_its_own_address() {
    let Some(bench) = Bench::new("test_station_reaches_the_host_by_its_own_address") else {
        return;
    };
    on_a_host(|| {
        let bridge = Bridge::new(Reach::Host).unwrap();
        let stations = Stations::new(&bridge);
        let port = say(bridge.gateway(), "host");
        let script = format!("nc -w 10 {} {port} < /dev/null; ip addr", bridge.gateway());
        let (exit, text) = bench.run(on(&bench, &stations, &script));
        assert!(exit.success() && text.starts_with("host"), "{text}");
        assert!(text.contains("inet 198.18.0.2/22") && text.contains("127.0.0.1/8"), "{text}");
    });
}

#[test]
fn test_station_reaches_another_and_each_is_gone_when_it_is_removed() {
    let Some(bench) = Bench::new("test_station_reaches_another") else { return };
    on_a_host(|| {
        let bridge = Bridge::new(Reach::Host).unwrap();
        let stations = Stations::new(&bridge);
        stations.fill(2).unwrap();
        let before = interfaces();
        assert_eq!(before.len(), 4, "{before:?}");
        let server = on(&bench, &stations, "echo neighbour | nc -l -p 7777");
        let mut server = server.prepare().unwrap().spawn().unwrap();
        let address = server.address().unwrap();
        // Until it listens.
        let script =
            format!("until timeout 20 nc {address} 7777 < /dev/null 2> /dev/null; do :; done");
        let (exit, text) = bench.run(on(&bench, &stations, &script));
        assert!(exit.success() && text == "neighbour\n", "{exit:?} {text}");
        server.wait().unwrap();
        server.remove().unwrap();
        assert_eq!(interfaces().len(), 2, "{:?}", interfaces());
    });
}

#[test]
fn test_station_reaches_the_outside_by_the_host_s_address() {
    let Some(bench) = Bench::new("test_station_reaches_the_outside") else { return };
    let is_forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    on_a_host(|| {
        // The outside: a station of another bridge, which knows no way to this one's stations.
        let outside = Bridge::new(Reach::Host).unwrap();
        let far = Station::new(&outside).unwrap();
        let before = is_forwarding();
        let bridge = Bridge::new(Reach::Outside).unwrap();
        assert_ne!(bridge.gateway(), outside.gateway());
        let listener = in_station(&far, || TcpListener::bind((far.address(), 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let visitor = thread::spawn(move || {
            let (mut stream, visitor) = listener.accept().unwrap();
            stream.write_all(b"far").unwrap();
            visitor.ip()
        });
        let script = format!("nc -w 10 {} {port} < /dev/null", far.address());
        let (exit, text) = bench.run(on(&bench, &Stations::new(&bridge), &script));
        assert!(exit.success() && text == "far", "{text}");
        assert_eq!(visitor.join().unwrap(), outside.gateway());
        assert_eq!(is_forwarding().trim(), "1");
        drop(bridge);
        assert_eq!(is_forwarding(), before);
    });
}

#[test]
fn test_bridge_avoids_networks_that_are_routed_or_held() {
    let Some(_bench) = Bench::new("test_bridge_avoids_networks") else { return };
    on_a_host(|| {
        raise_interface("lo", Ipv4Addr::new(198, 18, 1, 1), 24).unwrap();
        let second = Bridge::new(Reach::Host).unwrap();
        assert_eq!(second.gateway(), Ipv4Addr::new(198, 18, 4, 1));
        let third = Bridge::new(Reach::Host).unwrap();
        assert_eq!(third.gateway(), Ipv4Addr::new(198, 18, 8, 1));
        drop(second);
        assert_eq!(Bridge::new(Reach::Host).unwrap().name(), "tare-br1");
    });
    on_a_host(|| {
        raise_interface("lo", Ipv4Addr::new(198, 18, 0, 1), 15).unwrap();
        assert!(matches!(Bridge::new(Reach::Host), Err(NetworkError::NoSubnet)));
    });
}

#[test]
fn test_sweep_removes_bridges_of_the_dead_and_spares_the_living() {
    let Some(bench) = Bench::new("test_sweep_removes_bridges_of_the_dead") else { return };
    on_a_host(|| {
        let living = Bridge::new(Reach::Outside).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child uses nothing that another thread may have locked but the allocator,
        // which this C library makes usable after a fork.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let bridge = Bridge::new(Reach::Outside).unwrap();
            let stations = Stations::new(&bridge);
            stations.fill(2).unwrap();
            let spec = on(&bench, &stations, "sleep 1000");
            let _running = spec.prepare().unwrap().spawn().unwrap();
            (&writer).write_all(b"!").unwrap();
            loop {
                thread::park();
            }
        }
        drop(writer);
        std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
        assert!(has_bridge("tare-br1"), "{:?}", interfaces());
        assert_eq!(sweep_networks().unwrap(), Vec::<String>::new());
        // SAFETY: plain numbers, and a null pointer that is allowed.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        // A box of the dead one's has its descriptors until it is dead as well.
        let swept =
            eventually(|| Some(sweep_networks().unwrap()).filter(|swept| !swept.is_empty()));
        assert_eq!(swept, ["tare-br1"]);
        assert!(has_bridge(&living.name()) && !has_bridge("tare-br1"), "{:?}", interfaces());
        let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forwarding().trim(), "1");
        // What is left of the dead one's stations the kernel removes by itself.
        let is_port = |name: &String| name.starts_with("tare1-");
        eventually(|| (!interfaces().iter().any(is_port)).then_some(()));
        drop(living);
        assert_eq!(forwarding().trim(), "0");
    });
}

#[test]
fn test_stations_without_a_network_namespace_or_in_a_jail_are_refused() {
    let Some(bench) = Bench::new("test_stations_without_a_network_namespace") else { return };
    on_a_host(|| {
        let stations = Stations::new(&Bridge::new(Reach::Host).unwrap());
        let mut spec = on(&bench, &stations, "true");
        spec.network = Some(tare_container::empty_network().unwrap());
        let error = spec.prepare().unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "stations", .. }), "{error}");
        let users = Some(UserNamespace::own());
        let spec = Spec { user_namespace: users, ..on(&bench, &stations, "true") };
        let error = spec.prepare().unwrap_err();
        assert!(matches!(error, Error::Invalid { field: "stations", .. }), "{error}");
    });
}

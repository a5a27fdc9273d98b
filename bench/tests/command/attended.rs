//! `tare launch -i` and `-t`: one command with this program's standard streams, in each kind of
//! box; in a microVM, with a real Linux as the guest, in the lab.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::common::{Traces, alone, among_labs, is_root, may_run, output, tare, text};
use crate::lab::{has_lab, lab};

#[test]
fn test_interactive_process_and_container_inherit_streams_and_hear_signals() {
    if !may_run("test_interactive_process_and_container", "root", is_root()) {
        return;
    }
    let _guard = alone();
    let before = Traces::of_this_host();
    for backend in ["process", "container"] {
        let script = "read line; echo \"got $line\"; echo problem >&2
                      trap 'exit 9' TERM; echo armed; while :; do sleep 0.01; done";
        let mut child = tare()
            .args(["launch", "--host", "local", "-i", "--on", backend, "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"this\n").unwrap();
        let want = b"got this\narmed\n";
        let mut heard = vec![0; want.len()];
        child.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
        assert_eq!(heard, want, "{backend}");
        // SAFETY: the child has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
        let shown = child.wait_with_output().unwrap();
        assert_eq!(shown.status.code(), Some(9), "{backend}: {}", text(&shown));
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "problem\n", "{backend}");
        assert!(shown.stdout.is_empty(), "{backend}: {}", text(&shown));
    }
    before.assert_nothing_new();
}

#[test]
fn test_interactive_asks_for_one_box_and_not_for_the_lab() {
    for (arguments, word) in [
        (&["-i"][..], "name one box"),
        (&["-t", "--on", "process,microvm"], "name one box"),
        (&["-i", "--on", "microvm", "--host", "lab"], "the lab has no input"),
    ] {
        let shown = output(tare().arg("launch").args(arguments).args(["--", "true"]));
        assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
        assert!(text(&shown).contains(word), "{}", text(&shown));
    }
    let shown = output(tare().args(["launch", "-i", "--json", "--", "true"]));
    assert_eq!(shown.status.code(), Some(2), "{}", text(&shown));
}

#[test]
fn test_interactive_microvm_streams_whole_and_hears_signals() {
    if !may_run("test_interactive_microvm", "QEMU", has_lab()) {
        return;
    }
    let _guard = among_labs();
    let tare = assert_cmd::cargo::cargo_bin!("tare");
    let script = format!(
        "run() {{ {tare} launch -i --on microvm -- \"$@\"; }}
         same() {{ [ \"$2\" = \"$3\" ] && echo \"$1: same\" || echo \"$1: $2 is not $3\"; }}
         echo data | run sh -c 'cat; echo problem >&2; exit 7' >out 2>err
         echo \"status: $?\"; same out \"$(cat out)\" data; same err \"$(cat err)\" problem
         head -c 2000000 /dev/urandom >in
         same through \"$(run cat <in | md5sum)\" \"$(md5sum <in)\"
         same taken \"$(run md5sum <in)\" \"$(md5sum <in)\"
         same made \"$(run seq 1 200000 </dev/null | md5sum)\" \"$(seq 1 200000 | md5sum)\"
         same pipe \"$(run yes | head -n 2 | tr -d '\\n')\" yy
         run sh -c 'kill -9 $$'; echo \"killed: $?\"
         run sh -c 'sleep 1000 & echo now' >out; same orphan \"$(cat out)\" now
         run /no/such 2>err; echo \"missing: $?: $(cat err)\"
         mkfifo hold; sleep 1000 >hold & holder=$!
         {tare} launch -i --on microvm -- sh -c \\
           'trap \"echo caught; exit 9\" TERM; echo armed; while :; do sleep 0.1; done' <hold >out &
         while ! grep -q armed out; do sleep 0.1; done
         kill -TERM $!; wait $!; echo \"term: $?: $(tail -n 1 out)\"; kill $holder
         {tare} launch -t --on microvm -- sh -c 'tty; stty size; read x; echo \"got $x\"; exit 6' \\
           <<end >out
typed
end
         echo \"tty: $?: $(tr -d '\\r' <out | tr '\\n' ' ')\"",
        tare = tare.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab("deterministic", directory.path());
    command.arg("--with").arg(tare).args(["--program", "/bin/busybox", "--", "sh", "-c", &script]);
    let shown = output(&mut command);
    let said = String::from_utf8_lossy(&shown.stdout).replace('\r', "");
    for line in [
        "status: 7",
        "out: same",
        "err: same",
        "through: same",
        "taken: same",
        "made: same",
        "pipe: same",
        "killed: 137",
        "orphan: same",
        "term: 9: caught",
    ] {
        assert!(said.lines().any(|said| said == line), "'{line}' is missing: {}", text(&shown));
    }
    let line = |start: &str| said.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("missing: 4: ").contains("/no/such"), "{}", text(&shown));
    let terminal = line("tty: 6: ");
    // What was typed is echoed as soon as it arrives, before or amid what the command says.
    for part in ["/dev/pts/0 ", "24 80 ", "got typed"] {
        assert!(terminal.contains(part), "'{part}' is missing: {terminal}: {}", text(&shown));
    }
}

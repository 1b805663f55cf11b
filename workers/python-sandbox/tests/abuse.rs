//! Hostile code: what it tries, and what must come of it. Every loop in here is bounded by itself, and
//! the process limit is proven with bounded code before anything forks without end.

mod common;

use std::time::Duration;

use common::guard;
use common::{
    AMPLE, Heard, eventually, processes_with, python, run, sandbox, sandbox_with, shell, stderr, stdout,
    within,
};
use rollcall_python_sandbox::{Limits, Outcome};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

fn small() -> Limits {
    Limits { memory: 64 * MIB, workspace: 16 * MIB, ..Limits::default() }
}

#[tokio::test]
async fn s03_a_memory_bomb_is_killed_at_its_limit() {
    let sandbox = sandbox_with(small()).await;
    let report = run(&sandbox, python("x = []\nfor _ in range(1000): x.append(bytearray(1 << 20))")).await;
    assert_eq!(report.outcome, Outcome::OutOfMemory, "{}", stderr(&report));
    assert!(report.usage.peak_memory.is_some_and(|peak| peak <= 64 * MIB), "{:?}", report.usage);
}

#[tokio::test]
async fn s03_children_killed_for_memory_are_told_although_their_parent_ends_well() {
    let code = "
import os
for _ in range(3):
    if os.fork() == 0:
        x = bytearray(128 << 20)
        os._exit(0)
    os.wait()
";
    let report = run(&sandbox_with(small()).await, python(code)).await;
    assert_eq!(report.outcome, Outcome::OutOfMemory);
}

#[tokio::test]
async fn s02_a_fork_bomb_is_bounded_and_gone_afterwards() {
    guard::harness();
    let limits = Limits { processes: 32, ..Limits::default() };
    let sandbox = sandbox_with(limits).await;
    let bounded = "
import os, time
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made)
";
    let report = run(&sandbox, python(bounded)).await;
    assert_eq!(stdout(&report), "31\n", "the limit must hold before a real bomb is tried");
    assert!(report.usage.processes.is_none_or(|most| most <= 32), "{:?}", report.usage);
    let bomb = within(Duration::from_secs(1), shell("bomb() { bomb | bomb & }; bomb & exec sleep 30"));
    let report = run(&sandbox, bomb).await;
    assert_eq!(report.outcome, Outcome::Timeout);
    assert!(processes_with("bomb() { bomb").is_empty());
    let in_python =
        "import os, time\nfor _ in range(64):\n    try: os.fork()\n    except BlockingIOError: time.sleep(1)";
    let bomb = run(&sandbox, within(Duration::from_secs(2), python(in_python)));
    let beside = async {
        // Others answer meanwhile.
        let report = run(&sandbox, python("print(1)")).await;
        assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, "1\n"), "{}", stderr(&report));
    };
    let (report, ()) = tokio::join!(bomb, beside);
    assert!(matches!(report.outcome, Outcome::Timeout | Outcome::Ok), "{:?}", report.outcome);
    assert_eq!(run(&sandbox, python("print(1)")).await.outcome, Outcome::Ok, "the slot is usable again");
}

#[tokio::test]
async fn s04_endless_output_is_counted_and_ended() {
    let report = run(&sandbox().await, shell("yes & yes 1>&2")).await;
    assert_eq!(report.outcome, Outcome::OutputLimit);
    assert!(report.stdout.total.max(report.stderr.total) > 64 * MIB);
    assert!(report.stdout.shown(4096).dropped > 0);
}

#[tokio::test]
async fn long_output_keeps_its_head_and_its_tail() {
    let code = "print('first')\nprint('x' * (3 << 20))\nprint('last')";
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(report.outcome, Outcome::Ok);
    let shown = report.stdout.shown(8 << 20);
    assert!(shown.text.starts_with("first\n") && shown.text.ends_with("last\n"));
    assert_eq!(report.stdout.total, (3 << 20) + 12);
    assert!(shown.dropped > 2 * MIB - 100, "{}", shown.dropped);
}

#[tokio::test]
async fn s05_full_disks_are_told_and_count_as_memory() {
    let sandbox = sandbox_with(small()).await;
    let fill = |path: &str| {
        python(&format!("with open('{path}/f', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))"))
    };
    for path in ["/workspace", "/tmp", "/dev/shm"] {
        let report = run(&sandbox, fill(path)).await;
        assert_eq!(report.outcome, Outcome::DiskFull, "{path}: {}", stderr(&report));
    }
}

#[tokio::test]
async fn s07_nothing_on_the_network_can_be_reached() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let code = format!(
        "
import socket
def attempt(family, kind, address):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
            if kind == socket.SOCK_DGRAM: s.send(b'x')
        return 'connected'
    except OSError as problem:
        return type(problem).__name__
print(attempt(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', {port})))
print(attempt(socket.AF_INET, socket.SOCK_STREAM, ('192.0.2.1', 80)))
print(attempt(socket.AF_INET, socket.SOCK_DGRAM, ('192.0.2.1', 53)))
print(attempt(socket.AF_UNIX, socket.SOCK_STREAM, '\\0rollcall-test'))
for family, kind, protocol in [(40, 1, 0), (16, 3, 0), (17, 3, 0), (socket.AF_INET, 3, 1), (38, 5, 0)]:
    try:
        socket.socket(family, kind, protocol)
        print('open')
    except PermissionError:
        print('refused')
"
    );
    let report = run(&sandbox().await, python(&code)).await;
    let refused = "refused\n".repeat(5);
    assert_eq!(
        stdout(&report),
        format!("ConnectionRefusedError\nOSError\nOSError\nConnectionRefusedError\n{refused}"),
        "{}",
        stderr(&report)
    );
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "the host's listener saw a connection");
}

#[tokio::test]
async fn s06_the_hosts_secrets_are_nowhere_to_be_found() {
    // Cargo gives test programs such names; they stand for a token in the worker's environment.
    let canary = "CARGO_MANIFEST_DIR";
    assert!(std::env::var_os(canary).is_some());
    let code = format!(
        "
import glob, os
seen = b''
for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):
    try:
        seen += open(path, 'rb').read()
    except OSError:
        pass
assert b'/workspace' in seen
print(b'{canary}' in seen, b'--ro-bind' in seen, sorted(os.environ))
for path in ['/etc/shadow', '/root', '/home', '/proc/kcore', '/proc/1/root/etc/shadow', '/proc/1/root/root', '/sys', '/var', '/run/secrets']:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read(1)
        print('read', path)
    except OSError:
        pass
"
    );
    let report = run(&sandbox().await, python(&code)).await;
    let names = "['HOME', 'LANG', 'MPLBACKEND', 'PATH', 'PWD', 'TERM', 'TMPDIR', 'USER']";
    assert_eq!(stdout(&report), format!("False False {names}\n"), "{}", stderr(&report));
}

#[tokio::test]
async fn the_system_cannot_be_written() {
    let script = "for f in /x /usr/x /usr/bin/x /etc/x /dev/x /proc/sys/kernel/hostname /run/rollcall/x; do
        (echo x > $f) 2>/dev/null && echo wrote $f; done
        rm -f /usr/bin/env /bin/sh 2>/dev/null; test -x /usr/bin/env && echo there
        echo ok > /dev/null && echo ok > /workspace/f && echo ok > /tmp/f && echo ok > /dev/shm/f && echo fine";
    let report = run(&sandbox().await, shell(script)).await;
    assert_eq!(stdout(&report), "there\nfine\n", "{}", stderr(&report));
}

#[tokio::test]
async fn s15_no_new_namespace_mount_device_or_privilege_is_had() {
    let code = r#"
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "done"
x86 = platform.machine() == "x86_64"
numbers = dict(unshare=272, mount=165, ptrace=101, chroot=161, bpf=321, perf=298, uring=425, keyctl=250,
    userfaultfd=323, setns=308, readv=310, pivot=155, clone=56, clone3=435, handle=304, kexec=246, x32=0x40000000 | 39
) if x86 else dict(unshare=97, mount=40, ptrace=117, chroot=51, bpf=280, perf=241, uring=425, keyctl=219,
    userfaultfd=282, setns=268, readv=270, pivot=41, clone=220, clone3=435, handle=265, kexec=104)
buffer = ctypes.create_string_buffer(4096)
arguments = dict(unshare=[0x10000000], mount=[b"x", b"/tmp", b"tmpfs", 0, 0], chroot=[b"/tmp"],
    clone=[0x10000000 | 17, 0, 0, 0, 0], clone3=[buffer, 88])
wrong = {}
for name, number in numbers.items():
    answer = call(number, *arguments.get(name, [0, 0, 0, 0, 0, 0]))
    if answer != ("ENOSYS" if name == "clone3" else "EPERM"):
        wrong[name] = answer
print(wrong)
for mode in (0o020600, 0o060600):
    try:
        os.mknod("/tmp/device", mode, os.makedev(1, 3)); print("made a device")
    except PermissionError:
        pass
try:
    os.setuid(0); print("is root")
except OSError:
    pass
print(open("/proc/self/status").read().split("CapEff:")[1].split()[0], os.getuid())
"#;
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(stdout(&report), "{}\n0000000000000000 1000\n", "{}", stderr(&report));
    let nested = run(&sandbox().await, shell("bwrap --ro-bind / / --unshare-user true")).await;
    assert_ne!(nested.outcome, Outcome::Ok, "a sandbox in the sandbox would have capabilities");
}

#[tokio::test]
async fn s08_other_processes_of_the_machine_are_out_of_reach() {
    let mut canary =
        tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().expect("a process");
    let pid = canary.id().expect("it runs");
    let code = format!(
        "
import os, signal
for pid in ({pid}, {own}):
    try:
        os.kill(pid, signal.SIGKILL)
        print('killed', pid)
    except ProcessLookupError:
        print('nobody')
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
ptrace, readv = (101, 310) if platform.machine() == 'x86_64' else (117, 270)
for number in (ptrace, readv):
    for pid in (1, {pid}):
        ctypes.set_errno(0)
        answer = libc.syscall(number, *((16, pid) if number == ptrace else (pid, 0, 0, 0, 0, 0)))
        if answer != -1 or ctypes.get_errno() != errno.EPERM: print('reached', number, pid)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    os.kill(-1, signal.SIGTERM)
except ProcessLookupError:
    pass
print('end')
",
        own = std::process::id()
    );
    let report = run(&sandbox().await, python(&code)).await;
    assert_eq!(stdout(&report), "nobody\nnobody\nend\n", "{}", stderr(&report));
    assert!(canary.try_wait().expect("our own child").is_none(), "the canary is dead");
    canary.kill().await.expect("our own child");
}

#[tokio::test]
async fn a_sandbox_is_not_root_on_the_host_and_holds_no_descriptor_of_ours() {
    let marker = format!("72{}", std::process::id());
    let sandbox = sandbox().await;
    let (heard, cancel) = (Heard::default(), CancellationToken::new());
    let request = shell(&format!("ls -l /proc/self/fd; echo up; sleep {marker}"));
    let run = sandbox.run(request, heard.output(), &cancel);
    let look = async {
        heard.until("up").await;
        let uids: Vec<String> = processes_with(&marker)
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .filter_map(|status| Some(status.split("Uid:").nth(1)?.split_whitespace().next()?.to_owned()))
            .collect();
        cancel.cancel();
        uids
    };
    let (report, uids) = tokio::join!(run, look);
    assert!(!uids.is_empty());
    if nix::unistd::Uid::effective().is_root() {
        assert!(uids.iter().all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid >= 61_001)), "{uids:?}");
    }
    // The standard three, and the folder that ls reads.
    assert_eq!(stdout(&report).matches(" -> ").count(), 4, "{}", stdout(&report));
}

#[tokio::test]
async fn s14_a_forged_frame_is_the_codes_own_failure() {
    let sandbox = sandbox().await;
    let print_it = "import struct, sys\nbody = b'{\"value\":\"forged\"}'\n\
                    sys.stdout.buffer.write(struct.pack('>I', len(body)) + body)";
    let report = run(&sandbox, python(print_it)).await;
    assert_eq!((report.outcome, report.last_value()), (Outcome::Ok, Some("22")));
    let write_it = "
import os
for fd in range(3, 256):
    try:
        os.write(fd, WHAT)
    except OSError:
        pass
";
    for what in ["b'\\0\\0\\0\\x02[]'", "b'x' * 10_000_000", "b'\\0'"] {
        let report = run(&sandbox, python(&write_it.replace("WHAT", what))).await;
        assert_eq!(report.outcome, Outcome::Error, "{what}");
        assert_eq!(report.error.expect("an error").kind, "ForgedFrame");
    }
    assert_eq!(run(&sandbox, python("print(1)")).await.outcome, Outcome::Ok);
}

#[tokio::test]
async fn busy_processes_share_their_part_of_the_machine() {
    let sandbox = sandbox_with(Limits { cpus: 0.3, ..Limits::default() }).await;
    let busy = "for i in 1 2 3 4; do sh -c 'while :; do :; done' & done; wait";
    let report = run(&sandbox, within(Duration::from_secs(2), shell(busy))).await;
    assert_eq!(report.outcome, Outcome::Timeout);
    let cpu = report.usage.cpu.expect("control groups tell");
    // The time limit, the grace and a period of the scheduler, at 0.3 cores.
    assert!(cpu < Duration::from_millis(1500), "{cpu:?}");
}

#[tokio::test]
async fn open_files_and_threads_have_an_end() {
    let code = "
import threading, time
files = []
try:
    for _ in range(1000): files.append(open('/dev/null'))
except OSError as problem:
    print(problem.errno, len(files) < 256)
files.clear()
try:
    for _ in range(300): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
except RuntimeError:
    print('no more threads')
";
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(stdout(&report), "24 True\nno more threads\n", "{}", stderr(&report));
}

#[tokio::test]
async fn s20_a_sandbox_outlives_the_thread_that_asked_for_it() {
    let sandbox = sandbox().await;
    let heard = Heard::default();
    let cancel = CancellationToken::new();
    let (asked, runtime) = (sandbox.clone(), tokio::runtime::Handle::current());
    let (output, stop) = (heard.output(), cancel.clone());
    // The run itself goes on in the runtime; only the thread that began it ends.
    let task = std::thread::spawn(move || {
        runtime.spawn(async move { asked.run(shell("echo up; sleep 0.3; echo done"), output, &stop).await })
    });
    let task = task.join().expect("the thread spawned it");
    let report = tokio::time::timeout(AMPLE, task).await.expect("in time").expect("no panic");
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, "up\ndone\n"));
}

#[tokio::test]
async fn an_orphan_that_holds_the_output_open_does_not_hold_up_the_result() {
    let marker = format!("73{}", std::process::id());
    let report = run(&sandbox().await, shell(&format!("sleep {marker} & echo started"))).await;
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, "started\n"));
    eventually("the orphan is gone", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn s05_a_million_files_and_one_of_sixty_terabytes_hurt_nobody() {
    let sandbox = sandbox_with(small()).await;
    let many = "for i in range(1_000_000): open(f'/workspace/{i}', 'x').close()";
    let report = run(&sandbox, within(Duration::from_secs(15), python(many))).await;
    let told = [Outcome::OutOfMemory, Outcome::DiskFull, Outcome::Timeout];
    assert!(told.contains(&report.outcome), "{:?}: {}", report.outcome, report.message);
    let sparse = "import os\nf = open('/workspace/f', 'wb')\ntry: f.truncate(60 << 40); print(os.stat('/workspace/f').st_blocks)\n\
                  except OSError as problem: print(0)";
    let report = run(&sandbox, python(sparse)).await;
    assert_eq!(stdout(&report), "0\n", "{}", stderr(&report));
    assert_eq!(run(&sandbox, python("print(1)")).await.outcome, Outcome::Ok, "the slot is usable again");
    // What a kernel frees slowly is waited for, and no slot stays out of service.
    sandbox.close().await;
    assert_eq!(sandbox.stuck(), 0);
}

#[tokio::test]
async fn s10_code_that_will_not_end_is_ended_within_its_limit_and_the_grace() {
    let sandbox = sandbox().await;
    let (limit, grace) = (Duration::from_secs(1), Duration::from_secs(2));
    for code in [
        // Never back in the interpreter, where a signal would be heard.
        "sum(range(10**12))",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    ] {
        let begun = std::time::Instant::now();
        let report = run(&sandbox, within(limit, python(code))).await;
        assert_eq!(report.outcome, Outcome::Timeout, "{code}");
        // What is told of the run, not what this busy machine took to tell it.
        let most = limit + grace + Duration::from_millis(500);
        assert!(report.usage.wall < most || begun.elapsed() > most * 2, "{code}: {:?}", report.usage.wall);
    }
}

#[tokio::test]
async fn s09_whoever_outlives_a_good_end_is_gone_with_the_result() {
    let marker = format!("79{}", std::process::id());
    let code = format!(
        "
import os, signal, subprocess, sys
for number in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            os.closerange(0, 256)
            os.execvp('sleep', ['sleep', '{marker}'])
        os._exit(0)
    os.wait()
print('done')
"
    );
    let sandbox = sandbox().await;
    let report = run(&sandbox, python(&code)).await;
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, "done\n"), "{}", stderr(&report));
    assert!(processes_with(&marker).is_empty(), "the result is here, and so are they");
}

#[tokio::test]
async fn s16_nothing_is_typed_into_a_terminal() {
    let code = r#"
import fcntl, os, struct, termios
master, slave = os.openpty()
for request in (termios.TIOCSTI, getattr(termios, "TIOCLINUX", 0x541C), 0x100000000 | termios.TIOCSTI):
    try:
        fcntl.ioctl(slave, request, b"x")
        print("typed")
    except (PermissionError, OverflowError):
        print("mute")
queued = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4))[0]
print(queued)
try:
    os.open("/dev/tty", os.O_RDWR)
    print("a terminal")
except OSError:
    print("none of ours")
"#;
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(stdout(&report), "mute\nmute\nmute\n0\nnone of ours\n", "{}", stderr(&report));
}

#[tokio::test]
async fn what_a_sandbox_still_sees_of_the_machine_is_what_the_documentation_says() {
    let page = include_str!("../../../docs/sandbox.md");
    for named in ["/proc/meminfo", "uptime", "the kernel's version", "mountinfo"] {
        assert!(page.contains(named), "docs/sandbox.md does not tell of {named}");
    }
    let script = "head -c 9 /proc/meminfo; echo; test -r /proc/uptime && uname -r; \
                  grep -c /home /proc/self/mountinfo; mkfifo fifo && echo fifo";
    let report = run(&sandbox().await, shell(script)).await;
    let told = stdout(&report);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("MemTotal:", "0", "fifo"), "{told}");
}

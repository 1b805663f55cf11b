//! The system calls that code in a sandbox may make. An allow-list: what is not named answers EPERM,
//! and so do numbers of the x32 interface, which a deny-list would let through.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The two filters, as bytes for `bwrap --add-seccomp-fd`, in the order in which to add them.
///
/// # Errors
/// When this machine's architecture has no filter, or a rule cannot be compiled.
pub(crate) fn filters() -> Result<[Vec<u8>; 2], BackendError> {
    let clone3_is_absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    Ok([
        compile(allowed()?, refuse(libc::EPERM), SeccompAction::Allow)?,
        // clone3 hides its flags behind a pointer, so it cannot be judged; with ENOSYS libc falls
        // back to clone. The filter added last is asked first, and its errno wins.
        compile(clone3_is_absent, SeccompAction::Allow, refuse(libc::ENOSYS))?,
    ])
}

fn refuse(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno.unsigned_abs())
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<Vec<u8>, BackendError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    // The layout of `struct sock_filter` in native byte order.
    let bytes = program.iter().flat_map(|step| {
        let [code_low, code_high] = step.code.to_ne_bytes();
        let [k0, k1, k2, k3] = step.k.to_ne_bytes();
        [code_low, code_high, step.jt, step.jf, k0, k1, k2, k3]
    });
    Ok(bytes.collect())
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALWAYS.iter().chain(ALWAYS_HERE).map(|call| (*call, vec![])).collect();
    rules.insert(libc::SYS_clone, clone_rule()?);
    rules.insert(libc::SYS_clone3, vec![]);
    rules.insert(libc::SYS_ioctl, ioctl_rule()?);
    // AF_VSOCK is not contained by a network namespace; AF_NETLINK and AF_PACKET reach kernel code
    // that ordinary programs have no use for.
    rules.insert(libc::SYS_socket, family_rules()?);
    rules.insert(libc::SYS_socketpair, family_rules()?);
    rules.insert(libc::SYS_mknodat, mknod_rules(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, mknod_rules(1)?);
    Ok(rules)
}

/// No new namespaces: their code is where most local kernel holes were.
fn clone_rule() -> Result<Vec<SeccompRule>, BackendError> {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    one(vec![SeccompCondition::new(0, Len::Dword, Op::MaskedEq(number(namespaces)), 0)?])
}

/// No typing into a terminal that the sandbox might share with someone.
fn ioctl_rule() -> Result<Vec<SeccompRule>, BackendError> {
    let forbidden = [libc::TIOCSTI, libc::TIOCLINUX];
    let all_differ =
        forbidden.map(|request| SeccompCondition::new(1, Len::Dword, Op::Ne, request & 0xFFFF_FFFF));
    one(all_differ.into_iter().collect::<Result<_, _>>()?)
}

fn family_rules() -> Result<Vec<SeccompRule>, BackendError> {
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]
        .map(|family| SeccompRule::new(vec![SeccompCondition::new(0, Len::Dword, Op::Eq, number(family))?]))
        .into_iter()
        .collect()
}

/// Plain files and FIFOs (`mkfifo` is this call), no devices.
fn mknod_rules(mode_argument: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let mask = Op::MaskedEq(u64::from(libc::S_IFMT));
    [0, libc::S_IFREG, libc::S_IFIFO]
        .map(|kind| {
            let kind = SeccompCondition::new(mode_argument, Len::Dword, mask.clone(), u64::from(kind))?;
            SeccompRule::new(vec![kind])
        })
        .into_iter()
        .collect()
}

fn one(conditions: Vec<SeccompCondition>) -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![SeccompRule::new(conditions)?])
}

/// A C constant as the kernel sees it in the low half of a register.
fn number(constant: i32) -> u64 {
    u64::from(constant.cast_unsigned())
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Calls of every architecture that are harmless whatever their arguments. Missing on purpose, among
/// others: mount and namespaces, ptrace and reading of other processes, bpf, perf, io_uring,
/// userfaultfd, keys, modules, clocks, quotas, swap, reboot, `sync` (it stalls the host's disks).
const ALWAYS: &[i64] = calls![
    SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range
    SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
    SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64
    SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl
    SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat
    SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu
    SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer
    SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid
    SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid
    SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1
    SYS_inotify_rm_watch SYS_ioprio_get SYS_kill SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr
    SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect
    SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall
    SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open
    SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll
    SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_pselect6 SYS_pwrite64 SYS_pwritev
    SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg
    SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
    SYS_sched_setscheduler SYS_sched_yield SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile
    SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address SYS_setfsgid
    SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid
    SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4
    SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync_file_range SYS_sysinfo SYS_tee SYS_tgkill
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate
    SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write
    SYS_writev
];

/// The older forms of the same calls, which only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] = calls![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_wait SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init
    SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink
    SYS_rename SYS_rmdir SYS_select SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime
    SYS_utimes SYS_vfork
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_compile_and_fit_the_kernel() {
        for filter in filters().expect("this architecture has filters") {
            assert_eq!(filter.len() % 8, 0);
            assert!(filter.len() / 8 <= 4096, "the kernel takes 4096 instructions at most");
        }
    }

    #[test]
    fn dangerous_calls_are_not_on_the_list() {
        let rules = allowed().expect("the rules are valid");
        for call in [
            libc::SYS_ptrace,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_process_vm_readv,
            libc::SYS_open_by_handle_at,
            libc::SYS_pidfd_getfd,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}

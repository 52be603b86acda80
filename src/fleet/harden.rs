//! What keeps others out of the process: no core dumps, no tracing, no descriptors and no privileges
//! that it does not need, nothing swapped out.
//!
//! These calls are about the whole process and are made while it has one thread.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Closes what was inherited beyond the standard streams.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: nothing of this process has a descriptor yet.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) })
}

/// No core dumps, no tracing, no new privileges; files that it makes are its own. To be called
/// again after the user was changed, which resets some of it. Fails with a sentence.
pub fn close_to_others() -> Result<(), String> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: these take plain numbers, and a structure that lives long enough.
    unsafe {
        libc::umask(0o077);
        check(libc::setrlimit(libc::RLIMIT_CORE, &none)).map_err(|error| format!("core dumps: {error}"))?;
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)).map_err(|error| format!("PR_SET_DUMPABLE: {error}"))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            .map_err(|error| format!("PR_SET_NO_NEW_PRIVS: {error}"))?;
        if libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) != 0 {
            return Err("the process can still be dumped".to_owned());
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim) {
        None | Some("0") => Ok(()),
        Some(tracer) => Err(format!("process {tracer} traces this one and can read its keys; end it")),
    }
}

/// Keeps all memory out of the swap space. The error says what to do; keys are locked in any case.
pub fn lock_memory() -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for writes and reads.
    let raised = unsafe {
        check(libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit)).and_then(|()| {
            // Fails without privileges, and is no loss then.
            let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            if libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) == 0 {
                limit = unlimited;
            }
            limit.rlim_cur = limit.rlim_max;
            check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit))
        })
    };
    raised.map_err(|error| error.to_string())?;
    if limit.rlim_cur != libc::RLIM_INFINITY {
        // With less, an allocation would fail some day.
        return Err(format!("{} KiB may be locked; set LimitMEMLOCK=infinity or ulimit -l", limit.rlim_cur / 1024));
    }
    // SAFETY: takes flags only. Pages are locked as they come into use.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })
        .map_err(|error| format!("{error}; allow CAP_IPC_LOCK or set LimitMEMLOCK=infinity"))
}

/// Raises the limit on descriptors as far as it goes, and gives it.
pub fn raise_descriptors() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for writes and reads.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Becomes another user for good, if the process is root's. Fails with a sentence.
pub fn become_user(name: &str) -> Result<(), String> {
    let about = |what: &str, error: io::Error| format!("cannot become user {name}: {what}: {error}");
    let named = CString::new(name).map_err(|_| "a user's name has no NUL".to_owned())?;
    let (user, group) = find_user(&named).ok_or_else(|| format!("there is no user {name}"))?;
    // SAFETY: these take numbers and a C string, and change nothing in memory that anybody looks at.
    unsafe {
        if libc::geteuid() != 0 {
            return match libc::geteuid() == user && libc::getuid() == user {
                true => Ok(()),
                false => Err(format!("only root can become user {name}")),
            };
        }
        check(libc::initgroups(named.as_ptr(), group)).map_err(|error| about("initgroups", error))?;
        check(libc::setresgid(group, group, group)).map_err(|error| about("setresgid", error))?;
        check(libc::setresuid(user, user, user)).map_err(|error| about("setresuid", error))?;
        if libc::geteuid() != user || libc::getegid() != group || (user != 0 && libc::setuid(0) == 0) {
            return Err(format!("the process did not become user {name}"));
        }
    }
    Ok(())
}

/// Blocks that are larger than this are given back to the system when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 4 << 20;

/// Has large blocks given back at once. Otherwise each thread that ever hashed a PIN would keep the
/// hash's memory, locked as all of it is.
pub fn keep_no_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

pub fn is_root() -> bool {
    // SAFETY: takes and changes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// User and group.
fn find_user(name: &CStr) -> Option<(libc::uid_t, libc::gid_t)> {
    let mut buffer = vec![0 as libc::c_char; 16 * 1024];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are valid for writes, the buffer for its length. What is found is
    // filled in, and only numbers are read of it.
    unsafe {
        let rc = libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found);
        (rc == 0 && !found.is_null()).then(|| ((*found).pw_uid, (*found).pw_gid))
    }
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

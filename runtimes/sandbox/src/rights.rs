//! Giving up capabilities (capabilities(7)), as every process does that touches what strangers made. Sets are bits by number.
//! All of it concerns the calling thread alone.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`: two halves of 32 bits.
const VERSION_3: u32 = 0x2008_0522;
/// No kernel knows a higher number.
const LAST: u32 = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What this thread may use.
pub fn permitted() -> io::Result<u64> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both structures are as capget(2) of version 3 wants them, and live until it returns.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Uses these and no others from now on, and hands none on. They must be [`permitted`].
pub fn keep(set: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |bits: u32| Data { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(set as u32), half((set >> 32) as u32)];
    // SAFETY: both structures are as capset(2) of version 3 wants them, and live until it returns.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes all others out of the bounding set: no program that is executed will get them back. Needs `CAP_SETPCAP`.
pub fn bound(set: u64) -> io::Result<()> {
    for n in (0..=LAST).filter(|n| set & 1 << n == 0) {
        // SAFETY: a call with plain numbers. One beyond the kernel's last is refused, which ends the search.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(n), 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

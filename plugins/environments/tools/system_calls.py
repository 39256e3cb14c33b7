"""A filter of system calls, which the kernel runs for each call of a process: what a program of a model must not do.

It is a program for the kernel's packet filter (seccomp). Everything is allowed but what is listed here: to reach the
network or another process, to start one, to lift limits, and to change what belongs to files without opening them.
"""

from __future__ import annotations

import platform
import struct

_ALLOW, _REFUSE, _UNKNOWN, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
"""Answers of the filter: go on; EPERM; ENOSYS; end the process."""
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions: load a word of the call, compare it, test its bits, and answer."""
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
"""Offsets of a call's number, of the kind of machine, and of the first of its arguments of 8 bytes."""
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_BOTH = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 452, 463, 466)
"""Numbers that are the same on all machines: pidfd_send_signal, io_uring_setup, _enter, _register, open_tree,
move_mount, fsopen, fsconfig, fsmount, fspick, pidfd_open, pidfd_getfd, process_madvise, mount_setattr, memfd_secret,
fchmodat2, setxattrat, removexattrat."""
_CLONE3 = 435

_REFUSED = {
    "x86_64": {
        "network": (41,),  # socket
        "processes": (57, 58, 59, 322),  # fork, vfork, execve, execveat
        "signals": (62, 200, 234, 129, 297),  # kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
        "memory of others": (
            101,
            310,
            311,
            312,
            279,
            256,
        ),  # ptrace, process_vm_*, kcmp, page moves
        "limits": (160, 141, 142, 144, 203, 314, 251),  # setrlimit, setpriority, sched_set*, ioprio_set
        "what stays": (29, 64, 68, 240, 248, 249, 250, 319),  # shmget, semget, msgget, mq_open, keys, memfd_create
        # chmod, fchmod, fchmodat, chown, fchown, lchown, fchownat, utime, utimes, futimesat, utimensat, truncate
        "files by name": (90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 76, 188, 189, 190, 197, 198, 199),  # *xattr
        # unshare, setns, mount, umount2, pivot_root, chroot, handles, fanotify_init, bpf, perf_event_open, userfaultfd,
        # modules, kexec, reboot, swapon, acct, quotactl, sethostname, settimeofday, syslog, personality, iopl, ioperm,
        # inotify
        "system": (
            *(272, 308, 165, 166, 155, 161, 303, 304, 300, 321, 298, 323, 175, 176, 313, 246, 320, 169, 167),
            *(163, 179, 170, 164, 103, 135, 172, 173, 253, 294),
        ),
    },
    "aarch64": {
        "network": (198,),
        "processes": (221, 281),
        "signals": (129, 130, 131, 138, 240),
        "memory of others": (117, 270, 271, 272, 239, 238),
        "limits": (164, 140, 118, 119, 122, 274, 30),
        "what stays": (194, 190, 186, 180, 217, 218, 219, 279),
        "files by name": (52, 53, 54, 55, 88, 45, 5, 6, 7, 14, 15, 16),
        "system": (
            *(97, 268, 40, 39, 41, 51, 264, 265, 262, 280, 241, 282, 105, 106, 273, 104, 294, 142, 224),
            *(89, 60, 161, 170, 116, 92, 26),
        ),
    },
}
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_REFUSED_VALUES = {
    "x86_64": {157: (0, (1,)), 72: (1, (8, 10, 15)), 16: (1, (0x8901, 0x8902, 0x5412, 0x541C))},
    "aarch64": {167: (0, (1,)), 25: (1, (8, 10, 15)), 29: (1, (0x8901, 0x8902, 0x5412, 0x541C))},
}
"""Calls that are refused for some values of one argument: prctl(PR_SET_PDEATHSIG), which would let the process outlive
its parent; fcntl(F_SETOWN, F_SETSIG, F_SETOWN_EX) and ioctl(FIOSETOWN, SIOCSPGRP), which let the kernel send signals to
others; ioctl(TIOCSTI, TIOCLINUX), which type into a terminal."""


def call_filter(machine: str = "") -> bytes | None:
    """Return the filter as the kernel takes it, or ``None`` for a machine whose system calls are not known here.

    Args:
        machine: the kind of machine, as ``platform.machine()`` says it; by default this one.
    """
    machine = machine or platform.machine()
    if machine not in _REFUSED:
        return None
    program = [
        *(_step(_LOAD, _MACHINE), _step(_EQUAL, _MACHINES[machine], 1, 0), _answer(_KILL)),
        *(_step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32, 0, 1), _answer(_REFUSE)),
    ]
    for number in sorted({*_BOTH, *(each for group in _REFUSED[machine].values() for each in group)}):
        program += _when(number, _answer(_REFUSE))
    # the C library then tries clone, whose flags can be read here
    program += _when(_CLONE3, _answer(_UNKNOWN))
    program += _when(
        _CLONE[machine],
        *(_argument(0), _step(_HAS_BITS, _CLONE_THREAD, 1, 0), _answer(_REFUSE), _answer(_ALLOW)),
    )
    for number, (argument, values) in _REFUSED_VALUES[machine].items():
        compared = [part for value in values for part in (_step(_EQUAL, value, 0, 1), _answer(_REFUSE))]
        program += _when(number, _argument(argument), *compared, _answer(_ALLOW))
    # limits can be read, which is the same call without new ones
    program += _when(
        _PRLIMIT[machine],
        *(_argument(2), _step(_EQUAL, 0, 1, 0), _answer(_REFUSE)),
        *(_argument(2, upper=True), _step(_EQUAL, 0, 1, 0), _answer(_REFUSE), _answer(_ALLOW)),
    )
    return b"".join([*program, _answer(_ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction; a comparison skips as many instructions as it says for its outcome."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def _answer(what: int) -> bytes:
    return _step(_RETURN, what)


def _argument(number: int, upper: bool = False) -> bytes:
    """Load the lower or upper half of an argument, on machines that store the lower half first."""
    return _step(_LOAD, _ARGUMENTS + 8 * number + 4 * upper)


def _when(number: int, *then: bytes) -> list[bytes]:
    """Return instructions that are run for one system call only; the last of them must answer."""
    return [_step(_EQUAL, number, 0, len(then)), *then]

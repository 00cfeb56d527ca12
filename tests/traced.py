"""Commands under strace: which addresses they talk to, and which files they write."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = "network,openat,open,creat,mkdir,mkdirat"
_LINE = re.compile(r"^\d+ +(\w+)\((.*)$")
_FAMILY = re.compile(r"\bAF_(\w+)|sa_family=AF_(\w+)")
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
_PATH = re.compile(r'^(?:(?:AT_FDCWD|\d+)<(?P<base>[^>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
_LOCAL_FAMILIES = {"UNIX", "LOCAL", "NETLINK"}
# Devices and a process's view of itself are no files.
_NO_FILES = ("/dev/", "/proc/self/", "/proc/thread-self/")


def need_strace() -> str:
    """Return strace's path; skip where it is missing or may not trace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-f", "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    return strace


def under_strace(trace: Path, arguments: list[str]) -> list[str]:
    """The command line that runs `python ARGUMENTS` and leaves its calls in `trace`."""
    command = [need_strace(), "-f", "--seccomp-bpf", "-qq", "-y", "-s", "4096"]
    return [*command, "-e", f"trace={CALLS}", "-o", str(trace), sys.executable, *arguments]


def clean_environment(home: Path) -> dict[str, str]:
    """What a new user's shell has: none of our settings; an empty home, `tmp` in it."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(path for path in sys.path if path)
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": paths,
        "TMPDIR": str(home / "tmp"),
    }


def talks(trace: Path, *, loopback: bool) -> list[str]:
    """Calls that open or use a socket beyond this machine's own.

    Args:
        trace: What strace wrote.
        loopback: Whether internet sockets are allowed as long as they stay on the loopback.
    """
    found = []
    for line in trace.read_text().splitlines():
        call = _LINE.match(line)
        if call is None or _is_file_call(call[1]):
            continue
        families = {one or other for one, other in _FAMILY.findall(call[2])}
        if not families - _LOCAL_FAMILIES:
            continue
        addresses = [one or other for one, other in _ADDRESS.findall(call[2])]
        away = [item for item in addresses if not ipaddress.ip_address(item).is_loopback]
        if call[1] == "getsockname":  # of a socket that is not bound yet
            away = [item for item in away if not ipaddress.ip_address(item).is_unspecified]
        if not loopback or away or not families <= _LOCAL_FAMILIES | {"INET", "INET6"}:
            found.append(line)
    return found


def writes(trace: Path, cwd: Path, allowed: list[Path]) -> list[str]:
    """Calls that create or write files outside the `allowed` folders; making these is allowed.

    Args:
        trace: What strace wrote.
        cwd: Where the command ran; it is taken to stay there.
        allowed: Folders.
    """
    found = []
    for line in trace.read_text().splitlines():
        call = _LINE.match(line)
        if call is None or not _is_file_call(call[1]):
            continue
        opens = call[1].startswith("open")
        if opens and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE", call[2]):
            continue
        named = _PATH.match(call[2])
        path = os.path.normpath(os.path.join(named["base"] or cwd, named["path"])) if named else ""
        inside = any(Path(path).is_relative_to(folder) for folder in allowed)
        above = not opens and any(folder.is_relative_to(path) for folder in allowed)
        if not (inside or above or path.startswith(_NO_FILES)):
            found.append(line)
    return found


def _is_file_call(name: str) -> bool:
    return name.startswith(("open", "creat", "mkdir"))

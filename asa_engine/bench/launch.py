"""Run one command; print its wall seconds, peak resident KiB and exit code as JSON.

    python -I -S launch.py ERROR_FILE COMMAND [ARGUMENT...]

Run as a file, by a bare interpreter: on Linux a process inherits the peak size of the one that
started it, so the starter must be small. It imports nothing of asa_engine.
"""

import json
import os
import sys
import time


def main() -> None:
    """See the module docstring."""
    errors, *command = sys.argv[1:]
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"seconds": seconds, "peak_rss_kib": usage.ru_maxrss, "exit_code": code}))


if __name__ == "__main__":
    main()

"""How much memory a process can still take, so that what cannot fit is refused before it is tried.

Where Linux has promised more than it has, a process is ended without a word.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes: the least that machine, container and limits leave; None where nothing is told."""
    told = [_of_machine(), _of_container(), _of_limit()]
    return min((size for size in told if size is not None), default=None)


def _of_machine() -> int | None:
    """What is free, can be freed, or is swap; off Linux, all there is."""
    with suppress(OSError, TypeError):
        text = (PROC / "meminfo").read_text()
        free = re.search(r"^MemAvailable: +(\d+) kB", text, re.M)
        swap = re.search(r"^SwapFree: +(\d+) kB", text, re.M)
        return 1024 * (int(free[1]) + int(swap[1]))
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    """What the control group (of a container, or of a job) leaves; files it has read can go."""
    with suppress(OSError, ValueError, TypeError):
        own = re.search(r"^0::/(.*)$", (PROC / "self" / "cgroup").read_text(), re.M)[1]
        for folder in (CGROUPS / own, CGROUPS):  # inside a container, its own stands at the top
            if (folder / "memory.max").exists():
                limit = int((folder / "memory.max").read_text())  # or "max", which is no number
                taken = int((folder / "memory.current").read_text())
                files = re.search(
                    r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M
                )
                return max(0, limit - taken + int(files[1]))
    return None


def _of_limit() -> int | None:
    """What ulimit -v leaves."""
    with suppress(ImportError, OSError, AttributeError, IndexError, ValueError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((PROC / "self" / "statm").read_text().split()[0])
            return max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return None

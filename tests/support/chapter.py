"""Run a chapter's code cells on the second device, in order, as a notebook would on a GPU.

``python chapter.py CHAPTER.md OUT.json [figure]`` stops after the first figure, if told so. What it
writes: the values that were glued, the cell that failed and why, the seconds of each cell, and the
most bytes that the device held.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n(.*?)\n---\n|((?::[^\n]*\n)*))(.*?)^```", re.S | re.M
)


def cells_of(chapter):
    """Options and code of each code cell."""
    text = Path(chapter).read_text(encoding="utf-8")
    return [(yaml or tags, code) for yaml, tags, code in CELL.findall(text)]


def run(chapter, until_figure):
    import IPython.display
    import matplotlib
    from IPython.core.interactiveshell import InteractiveShell
    from support.second_device import DEVICE, ELSEWHERE

    from calib.models import open as opening

    matplotlib.use("Agg")
    glued, failed, seconds = {}, None, []

    def keep(data, raw=False, metadata=None):
        glued[metadata["scrapbook"]["name"]] = next(iter(data.values()))

    IPython.display.display = keep
    usual = opening.device_of
    opening.device_of = lambda asked: usual(ELSEWHERE if asked is None else asked)
    shell = InteractiveShell.instance()
    os.chdir(Path(chapter).parent)
    for number, (options, code) in enumerate(cells_of(chapter)):
        start = time.time()
        result = shell.run_cell(code, store_history=False)
        seconds.append(round(time.time() - start, 1))
        if not result.success and "raises-exception" not in options:
            failed = [number, repr(result.error_before_exec or result.error_in_exec)]
            break
        if until_figure and "image:" in options:
            break
    return {"glued": glued, "failed": failed, "seconds": seconds, "bytes": DEVICE.most}


if __name__ == "__main__":
    here, out, *until = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent.parent))
    found = run(Path(here).resolve(), bool(until))
    Path(out).write_text(json.dumps(found), encoding="utf-8")

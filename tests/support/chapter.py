"""Run a chapter's code cells with its models on a device, in order, as a notebook would.

``python chapter.py CHAPTER.md OUT.json`` runs all of them on the second device. With a number, such
as 8, it runs those up to the first figure, on an eighth of the questions, and on the CPU as well.
For each device it writes what was glued, the cell that failed and why, the seconds of each cell,
and the most bytes that the second device has held.
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


def run_cells(cells, until_figure):
    """What the cells glue, which of them failed and why, and the seconds that each took."""
    import IPython.display
    from IPython.core.interactiveshell import InteractiveShell

    glued, failed, seconds = {}, None, []

    def keep(data, raw=False, metadata=None):
        glued[metadata["scrapbook"]["name"]] = next(iter(data.values()))

    IPython.display.display = keep
    shell = InteractiveShell.instance()
    shell.reset()
    for number, (options, code) in enumerate(cells):
        start = time.time()
        result = shell.run_cell(code, store_history=False)
        seconds.append(round(time.time() - start, 1))
        if not result.success and "raises-exception" not in options:
            failed = [number, repr(result.error_before_exec or result.error_in_exec)]
            break
        if until_figure and "image:" in options:
            break
    return {"glued": glued, "failed": failed, "seconds": seconds}


def ask_fewer(part):
    """Let a chapter load one question of so many, and choose among those that there are."""
    import datasets

    import calib

    load, select = calib.load_questions, datasets.Dataset.select
    calib.load_questions = lambda *args, limit, **more: load(*args, limit=limit // part, **more)
    datasets.Dataset.select = lambda some, indices, **more: select(
        some, [i for i in indices if i < len(some)], **more
    )


def run(chapter, part):
    import matplotlib
    from support.second_device import DEVICE, ELSEWHERE

    from calib.models import _load as opening

    matplotlib.use("Agg")
    cells, found, device_of = cells_of(chapter), {}, opening.device_of
    os.chdir(Path(chapter).parent)
    devices = {"cpu": "cpu", "elsewhere": ELSEWHERE}
    if part:
        ask_fewer(part)
    else:
        del devices["cpu"]
    for name, usual in devices.items():
        opening.device_of = lambda asked, usual=usual: device_of(usual if asked is None else asked)
        found[name] = run_cells(cells, until_figure=part) | {"bytes": DEVICE.most}
    return found


if __name__ == "__main__":
    here, out, *part = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent.parent))
    found = run(Path(here).resolve(), int(part[0]) if part else None)
    Path(out).write_text(json.dumps(found), encoding="utf-8")

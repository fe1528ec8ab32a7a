"""A page with nothing to complain of prints nothing: its scripts keep their progress to themselves.

So whatever does stand in the browser's console is worth reading.
"""

import re
from pathlib import Path

NOTE = re.compile(rb"\bconsole\.(?:log|info|debug)(?=\()")


def silence(script):
    """A script without its notes; its warnings and errors stay.

    A call of the same arguments takes their place, as long as the text it replaces: every other
    position in the file, which source maps count on, stays the same.
    """
    return NOTE.sub(lambda note: b"Boolean".ljust(len(note[0])), script)


def silence_scripts(app, exception):
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    scripts = (*site.glob("_static/*.js"), *site.glob("_static/scripts/*.js"))
    for path in (*scripts, site / "search.html"):  # the search has a script in its page
        script = path.read_bytes()
        if NOTE.search(script):
            path.write_bytes(silence(script))


def setup(app):
    app.connect("build-finished", silence_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The versions of two environments that the library has to work in: Colab's, and the lowest.

``python versions.py refresh`` writes colab.txt anew, from the list that Colab publishes.
``python versions.py lowest`` prints each dependency of the library at its lower bound.

It needs nothing but Python: it runs before anything is installed.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from urllib.request import urlopen

COLAB = Path(__file__).with_name("colab.txt")
PROJECT = COLAB.parent.parent.parent / "pyproject.toml"
REPOSITORY, FILE = "googlecolab/backend-info", "pip-freeze.gpu.txt"
HEADER = """\
# What Colab's GPU runtime has installed, of all that this library, its dependencies and the running
# of a notebook need. Taken from {file} of https://github.com/{repository},
# commit {commit} of {day}, by `python tests/environments/versions.py refresh`, which keeps
# the names below. For one more, write it below, without a version, and refresh.
#
# Tags of a build, such as torch's +cu128, are taken off: other machines have other builds.
# `make colab` puts the torch that constraints.txt pins in the place of this one: it is the newest
# that the tests pass with, and is there for a CPU. `make colab TORCH=2.11.0` takes another.
# setuptools is not listed: the pinned torch needs a newer one than Colab's, the library needs none.
"""


def normal(name):
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(text):
    """Name and version of each line ``name==version``, by the normal name; comments are left out.

    >>> pins_of("# GPU\\nJinja2==3.1.6\\ntorch==2.11.0+cu128\\n")
    {'jinja2': ('Jinja2', '3.1.6'), 'torch': ('torch', '2.11.0')}
    """
    found = re.findall(r"^([\w.-]+)==([^\s+]+)", text, re.M)
    return {normal(name): (name, version) for name, version in found}


def rewritten(kept, published, commit, day):
    """The text of colab.txt: what it keeps, as the published list has it, and what that lacks."""
    pins = pins_of(published)
    names = [normal(name) for name in re.findall(r"^[\w.-]+", kept, re.M)]
    lines = ["==".join(pins[name]) for name in sorted(names) if name in pins]
    header = HEADER.format(file=FILE, repository=REPOSITORY, commit=commit[:7], day=day)
    return header + "\n".join(lines) + "\n", [name for name in names if name not in pins]


def refresh():
    """Write colab.txt anew, from the newest commit of the list."""
    history = f"https://api.github.com/repos/{REPOSITORY}/commits?path={FILE}&per_page=1"
    with urlopen(history) as answer:
        (newest,) = json.load(answer)
    commit, day = newest["sha"], newest["commit"]["committer"]["date"][:10]
    with urlopen(f"https://raw.githubusercontent.com/{REPOSITORY}/{commit}/{FILE}") as answer:
        published = answer.read().decode()
    text, gone = rewritten(COLAB.read_text(encoding="utf-8"), published, commit, day)
    COLAB.write_text(text, encoding="utf-8")
    if gone:
        print(f"Colab has no longer, and colab.txt neither: {', '.join(gone)}")


def lower_bounds():
    """The lower bound of each dependency, by its name; those that a GPU adds are among them."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gpus"]]
    found = {line: re.match(r"([\w.-]+)\s*>=\s*([\w.]+)", line) for line in wanted}
    if missing := [line for line, match in found.items() if not match]:
        raise SystemExit(f"{PROJECT.name} says no lower bound (name>=version): {missing}")
    return dict(match.groups() for match in found.values())


def lowest():
    """Print each dependency at its lower bound, as pip reads it."""
    for name, bound in lower_bounds().items():
        print(f"{name}=={bound}")


if __name__ == "__main__":
    commands = {"refresh": refresh, "lowest": lowest}
    if sys.argv[1:] not in ([name] for name in commands):
        raise SystemExit(__doc__)
    commands[sys.argv[1]]()

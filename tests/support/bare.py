"""A Python kernel that finds only what ``pip install`` of the project brings, and the kernel's own.

The environment of the tests holds far more. A chapter that imports any of that would fail as a
notebook on Colab, where the first cell installs the library and nothing else.
"""

import json
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def brought_by(*names):
    """Names of the distributions that installing these brings, without their extras."""
    found, waiting = set(), [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras or {""})
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for needed in map(Requirement, requires(name) or ()):
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return {name for name, _ in found}


def hide_the_rest(*names):
    """Let no installed module be found but those that installing these brings."""
    kept = brought_by(*names)
    hidden = {
        module
        for module, distributions in packages_distributions().items()
        if kept.isdisjoint(map(canonicalize_name, distributions))
    }

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name in hidden else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder


def bare_kernel(folder):
    """Write the kernel's description as Jupyter's ``python3`` under ``folder``; the folder."""
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    command = [sys.executable, __file__, "-f", "{connection_file}"]
    description = {"argv": command, "display_name": "Bare Python 3", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.path.pop(0)  # the tests' folder, where python found this file
    hide_the_rest("calibration-across-layers", "ipykernel")
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()

"""The command ``calib``: a page on a model of one's own, or a reading of it; see ``--help``."""

from __future__ import annotations

import io
import logging
import shlex
import signal
import sys
import time

from calib._arguments import PROGRAM, Parser, read_arguments


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 2 and one line where the input is at fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a true minus is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, task, asked = read_arguments(arguments)

    from calib.models.place import launched  # torch and all: not for --help
    from calib.report import InputFault, write_entry, write_report, write_sample_report

    hear_the_launcher(parser)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry
    tasks = {"report": write_report, "samples": write_sample_report, "atlas": write_entry}
    try:
        written, finding = tasks[task](**asked, command=shlex.join([PROGRAM, *arguments]))
    except InputFault as fault:
        if launch := launched():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by itself, and says it once
            if launch.rank > 0 and is_of_all(fault):
                time.sleep(1)  # or the launcher, seeing this one end, would end the first before
                parser.exit(2)
        parser.error(str(fault))
    if finding:
        print(finding, written, sep="\n")


def hear_the_launcher(parser: Parser) -> None:
    """Have one of several processes say in a line that it is ended, as launchers end them."""
    from calib.models.place import launched

    def end(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        parser.exit(
            128 + signal.SIGTERM,
            f"{PROGRAM}: process {launch.rank} of {launch.size} was ended (SIGTERM), as all are "
            "when one of them fails; the same command goes on where it was\n",
        )

    if launch := launched():
        signal.signal(signal.SIGTERM, end)


def is_of_all(fault: Exception) -> bool:
    """Whether a fault is raised in all processes, so that the first can tell it for all."""
    return any(getattr(error, "in_all", False) for error in (fault, fault.__cause__))


if __name__ == "__main__":
    main()

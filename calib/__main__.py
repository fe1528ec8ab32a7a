"""``calib report MODEL``: a page on a model of one's own. ``--help`` says the rest."""

from __future__ import annotations

import argparse
import io
import logging
import shlex
import signal
import sys
import time

PROGRAM = "calib"
# Those of calib.questions.mmlu, which is not loaded for --help.
CATEGORIES = ("STEM", "humanities", "social sciences", "other")
DESCRIPTION = """\
Read a language model layer by layer and write a page on its calibration: where its accuracy
leaves the baseline, where its answer is settled, and whether its confidence is corrected after.

The page, index.html, stands alone and can be sent to others. Beside it, reading/ holds the numbers
it was made from; calib.Reading.load opens them.
"""
EXAMPLES = """\
examples:
  calib report almanac
      the laboratory's model on its own questions: no network, under a minute
  calib report Qwen/Qwen2.5-0.5B --shots 5 --limit 2000
      a model of the hub on 2,000 questions of MMLU, with five exemplars each
  calib report ./my-model --questions ./my-questions --out my-report
      a folder written by save_pretrained, on test*.jsonl or test*.parquet in a folder; a row has
      question, subject, choices (a list) and answer (the index of the right one)
  calib report ./my-model --questions my-questions.csv
      the same on one file of .jsonl, .parquet or .csv

Interrupted, the same command goes on where it was.

on several GPUs:
  torchrun --nproc_per_node 8 -m calib report Qwen/Qwen2.5-0.5B --shots 5
      a copy on each GPU of a machine, and the questions shared out; for several machines start
      processes on all of them, and name an --out that all see
  torchrun --nproc_per_node 8 -m calib report ./large-model --tensor-parallel
      one model, too large for a GPU, spread over all GPUs of a machine

exit codes: 0 when the page is written, 2 when something in the input has to be put right.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message):
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: {line}\n")


def make_parser() -> Parser:
    """The command line; an option's help says what holds without it."""
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        usage=f"{PROGRAM} report MODEL [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("task", choices=["report"], metavar="report", help="the one thing there is to do")
    add(
        "source", type=name, metavar="MODEL",
        help="almanac, almanac-tuned, a hub id, or a model's folder",
    )  # fmt: skip
    add(
        "--questions", type=name, metavar="SOURCE",
        help="mmlu, almanac, or a folder or file (default: almanac for the laboratory's models, "
        "else mmlu)",
    )  # fmt: skip
    add(
        "--shots", type=int, choices=range(6), default=0, metavar="N",
        help="solved questions before each question, 0 to 5 (default: 0)",
    )  # fmt: skip
    add(
        "--category", choices=CATEGORIES, metavar="NAME",
        help=f"one of MMLU's categories: {', '.join(map(repr, CATEGORIES))} (default: all)",
    )  # fmt: skip
    add(
        "--limit", type=at_least(1), metavar="N",
        help="a random subset of N questions (default: all)",
    )  # fmt: skip
    add("--remote", action="store_true", help="run the model elsewhere, as open_model's remote")
    add(
        "--device", type=name, metavar="NAME",
        help="cuda, mps, cpu, or auto for all GPUs (default: the CUDA GPU, else the CPU)",
    )  # fmt: skip
    add(
        "--dtype", type=name, metavar="NAME",
        help="float32, bfloat16, float16, float64, or auto for the checkpoint's own (default: "
        "float32 on a CPU, else auto)",
    )  # fmt: skip
    add(
        "--tensor-parallel", action="store_true",
        help="spread one model over the processes that torchrun started on this machine",
    )  # fmt: skip
    add(
        "--batch-tokens", type=at_least(1), default=8192, metavar="N",
        help="most tokens read at once; fewer take less memory (default: 8192)",
    )  # fmt: skip
    add("--out", type=name, metavar="DIR", help="the folder to write (default: report-MODEL)")
    add(
        "--seed", type=at_least(0), default=0, metavar="N",
        help="of the subset, of the bootstrap and of all other draws (default: 0)",
    )  # fmt: skip
    return parser


def name(text: str) -> str:
    """A type of argument: what a file, a folder or a model may be called."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is empty or holds a NUL, as no name does")
    return text


def at_least(least: int):
    """A type of argument: a whole number from ``least`` on."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return convert


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 2 and one line where the input is at fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a true minus is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    asked = vars(parser.parse_args(arguments))

    from calib.models.place import launched  # torch and all: not for --help
    from calib.report import InputFault, write_report

    hear_the_launcher(parser)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry
    command = shlex.join([PROGRAM, *arguments])
    del asked["task"]
    try:
        page, finding = write_report(**asked, command=command)
    except InputFault as fault:
        if launch := launched():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by itself, and says it once
            if launch.rank > 0 and is_of_all(fault):
                time.sleep(1)  # or the launcher, seeing this one end, would end the first before
                parser.exit(2)
        parser.error(str(fault))
    if finding:
        print(finding, page, sep="\n")


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

"""The command line: ``calib report`` and ``calib atlas``, and what each option means."""

from __future__ import annotations

import argparse

PROGRAM = "calib"
# Those of calib.questions.mmlu, which is not loaded for --help.
CATEGORIES = ("STEM", "humanities", "social sciences", "other")
DESCRIPTION = """\
Read language models layer by layer, and measure at each layer whether their confidence is right.
"""
COMMANDS = """\
calib report --help and calib atlas --help say what each takes, with examples.

exit codes: 0 when it is done, 2 when something in the input has to be put right.
"""
REPORT = """\
Read a language model layer by layer and write a page on its calibration: where its accuracy
leaves the baseline, where its answer is settled, and whether its confidence is corrected after.

The page, index.html, stands alone and can be sent to others. Beside it, reading/ holds the numbers
it was made from; calib.load_reading opens them.
"""
REPORT_EXAMPLES = """\
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
  calib report ./model-Q4_K_M.gguf --limit 500
      a file as llama.cpp uses it (pip install 'calibration-across-layers[gguf]')

Interrupted, the same command goes on where it was.

on several GPUs:
  torchrun --nproc_per_node 8 -m calib report Qwen/Qwen2.5-0.5B --shots 5
      a copy on each GPU of a machine, and the questions shared out; for several machines start
      processes on all of them, and name an --out that all see
  torchrun --nproc_per_node 8 -m calib report ./large-model --tensor-parallel
      one model, too large for a GPU, spread over all GPUs of a machine

exit codes: 0 when the page is written, 2 when something in the input has to be put right.
"""
ATLAS = """\
Read a language model on MMLU layer by layer, and keep the reading as one entry of an atlas:
DIR/MODEL/PROMPT, the option logits of every layer in half precision, with all it was made from.
calib.load_reading opens it; calib.atlas.names() lists those that come with the package.
"""
ATLAS_EXAMPLES = """\
examples:
  calib atlas Qwen/Qwen2.5-0.5B
      all 14,042 test questions, into atlas/qwen2.5-0.5b/zero-shot
  calib atlas Qwen/Qwen2.5-0.5B --shots 5 --limit 2000
      five exemplars each, on 2,000 questions, of each subject as many as its share is

Interrupted, the same command goes on where it was. It runs under torchrun as calib report does.

exit codes: 0 when the entry is written, 2 when something in the input has to be put right.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message):
        line = " ".join(message.split())
        self.exit(2, f"{PROGRAM}: {line}\n")


def make_parser() -> Parser:
    """The command line; an option's help says what holds without it."""
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=COMMANDS, **raw)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_report(
        commands.add_parser(
            "report", help="a page on a model's calibration, layer by layer",
            description=REPORT, epilog=REPORT_EXAMPLES, usage=f"{PROGRAM} report MODEL [options]",
            **raw,
        )
    )  # fmt: skip
    _add_atlas(
        commands.add_parser(
            "atlas", help="a model's reading of MMLU, to keep and to share",
            description=ATLAS, epilog=ATLAS_EXAMPLES, usage=f"{PROGRAM} atlas MODEL [options]",
            **raw,
        )
    )  # fmt: skip
    return parser


def _add_report(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "source", type=name, nargs="+", metavar="MODEL",
        help="almanac, almanac-tuned, a hub id, a model's folder, or a .gguf file; or one or more "
        "files samples_*.jsonl of lm-evaluation-harness",
    )  # fmt: skip
    add(
        "--questions", type=name, metavar="SOURCE",
        help="mmlu, almanac, or a folder or file (default: almanac for the laboratory's models, "
        "else mmlu)",
    )  # fmt: skip
    add(
        "--category", choices=CATEGORIES, metavar="NAME",
        help=f"one of MMLU's categories: {', '.join(map(repr, CATEGORIES))} (default: all)",
    )  # fmt: skip
    _add_how_it_is_read(parser)
    add("--out", type=name, metavar="DIR", help="the folder to write (default: report-MODEL)")
    add(
        "--seed", type=at_least(0), default=0, metavar="N",
        help="of the subset, of the bootstrap and of all other draws (default: 0)",
    )  # fmt: skip


def _add_atlas(parser: Parser) -> None:
    add = parser.add_argument
    add("source", type=name, metavar="MODEL", help="a hub id, a model's folder, or a file")
    _add_how_it_is_read(parser)
    add("--out", type=name, metavar="DIR", default="atlas", help="the atlas (default: atlas)")
    add("--name", type=name, metavar="NAME", help="what the model is called in it")
    add(
        "--seed", type=at_least(0), default=0, metavar="N",
        help="of the subset (default: 0)",
    )  # fmt: skip


def _add_how_it_is_read(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--shots", type=int, choices=range(6), default=0, metavar="N",
        help="solved questions before each question, 0 to 5 (default: 0)",
    )  # fmt: skip
    add(
        "--chat", action="store_true",
        help="ask in the chat template of the model's tokenizer (default: as plain text)",
    )  # fmt: skip
    add(
        "--limit", type=at_least(1), metavar="N",
        help="a random subset of N questions (default: all)",
    )  # fmt: skip
    add(
        "--gguf-file", type=name, metavar="NAME",
        help="which GGUF file is meant, of a folder or on the hub",
    )  # fmt: skip
    add("--remote", action="store_true", help="run the model elsewhere, as open_model's remote")
    add(
        "--device", type=name, metavar="NAME",
        help="cuda, mps, cpu, or auto for all GPUs (default: the CUDA GPU, else the CPU)",
    )  # fmt: skip
    add(
        "--dtype", type=name, metavar="NAME",
        help="float32, bfloat16, float16, float64, or auto for the checkpoint's own (default: "
        "float32 on a CPU, else auto; a quantized GGUF file's is bfloat16)",
    )  # fmt: skip
    add(
        "--tensor-parallel", action="store_true",
        help="spread one model over the processes that torchrun started on this machine",
    )  # fmt: skip
    add(
        "--batch-tokens", type=at_least(1), default=8192, metavar="N",
        help="most tokens read at once; fewer take less memory (default: 8192)",
    )  # fmt: skip


def read_arguments(arguments: list[str]) -> tuple[Parser, str, dict]:
    """The parser, the task (``report``, ``samples`` or ``atlas``) and what it is asked for.

    Ends the process where the arguments do not go together.
    """
    parser = make_parser()
    asked = vars(parser.parse_args(arguments))
    task, sources = asked.pop("command"), asked["source"]
    if task == "atlas":
        return parser, task, asked
    if all(source.endswith(".jsonl") for source in sources):
        usual = vars(parser.parse_args(["report", *sources]))
        idle = [o for o in asked if asked[o] != usual[o] and o not in ("out", "seed")]
        if idle:
            parser.error(
                f"--{idle[0].replace('_', '-')} says how a model is asked, and files of "
                "lm-evaluation-harness hold what one has answered; leave it out"
            )
        return parser, "samples", {"files": sources, "out": asked["out"], "seed": asked["seed"]}
    if len(sources) > 1:
        parser.error(
            f"a report is of one model, and these are {len(sources)}: {', '.join(sources)}; only "
            "files samples_*.jsonl are taken several at once"
        )
    return parser, task, asked | {"source": sources[0]}


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

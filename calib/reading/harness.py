"""Readings that lm-evaluation-harness made: the last layer, from the files it writes.

With ``--log_samples`` the harness writes a file ``samples_<task>_<date>.jsonl`` for each task, one
line a document, and beside them ``results_<date>.json``, which says what model it was.
"""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path

import numpy as np

from calib import __version__
from calib.questions.identity import question_ids
from calib.questions.mmlu import CATEGORIES
from calib.reading._harness_lines import Document, labels_of, read_documents
from calib.reading._provenance import sha256_of
from calib.reading.reading import Reading

NAME = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
MMLU = frozenset.union(*CATEGORIES.values())  # its 57 subjects
UNTOLD = "not told"  # what no file says


def read_harness(paths) -> Reading:
    """A model's last layer, from files that lm-evaluation-harness wrote [1]_.

    The logits are the log-likelihoods of the options, as the harness recorded them; the softmax
    over a question's options gives its normalised probabilities. They are *not* divided by the
    length of the options, so that accuracy is the harness' ``acc``, never its ``acc_norm``. Where
    the options are texts and not letters, a long option has less probability for its length alone;
    the provenance says which they are. A model that ran in bfloat16 has log-likelihoods of some
    three digits there, unless the harness was told ``softmax_dtype=float32``.

    Parameters
    ----------
    paths : str, Path or list of them
        Files ``samples_<task>_<date>.jsonl`` of one model, in the order in which the questions
        shall stand. Their names have to be those that the harness gave; those of versions before
        0.4.3 have to be renamed so. ``results_<date>.json`` is read where it lies beside them.

    Returns
    -------
    Reading
        Of one layer: logits are float64 ``[questions, 1, options]``. The subject of
        ``mmlu_virology`` is ``virology``; that of any other task is MMLU's where the data set names
        it, and else the task's name.

    Raises
    ------
    TypeError
        If ``paths`` are no paths.
    ValueError
        If a file is missing, cut off, of another kind, or of a task that is not multiple choice; if
        a document stands there twice, a log-likelihood is not finite, or the target contradicts the
        recorded ``acc``; if files are of several models, a task is there twice, or the results
        beside tell another number of documents or another accuracy. It names the file and the line.

    References
    ----------
    .. [1] Gao et al., "The language model evaluation harness", https://zenodo.org/records/12608602.

    Examples
    --------
    >>> import tempfile
    >>> line = {
    ...     "doc_id": 0, "doc": {}, "target": "1", "acc": 1.0,
    ...     "arguments": {
    ...         "gen_args_0": {"arg_0": "1 + 1 =", "arg_1": " 3"},
    ...         "gen_args_1": {"arg_0": "1 + 1 =", "arg_1": " 2"},
    ...     },
    ...     "filtered_resps": [["-3.0", "False"], ["-1.0", "True"]],
    ... }  # fmt: skip
    >>> file = Path(tempfile.mkdtemp(), "samples_sums_2026-11-28T13-31-00.jsonl")
    >>> _ = file.write_text(json.dumps(line))
    >>> reading = read_harness(file)
    >>> reading.probabilities[-1].round(2).tolist(), reading.subjects.tolist()
    ([[0.12, 0.88]], ['sums'])
    """
    files = _files(paths)
    runs = {file: _results(file, date) for file, (_, date) in files.items()}
    about = _same_model(runs)
    documents, labels, subjects, tasks = [], [], [], {}
    for file, (task, _) in files.items():
        some = read_documents(file)
        _check_whole(file, task, some, runs[file])
        documents += some
        labels += labels_of(some)
        subjects += [_subject(task, document) for document in some]
        tasks[task] = runs[file].get("versions", {}).get(task, UNTOLD)
    n_options = np.array([len(document.scores) for document in documents])
    logits = np.full((len(documents), n_options.max()), -np.inf)
    for row, document in zip(logits, documents, strict=True):
        row[: len(document.scores)] = document.scores
    kinds = {"letters" if document.lettered else "texts" for document in documents}
    shots = [runs[f].get("n-shot", {}).get(task, UNTOLD) for f, (task, _) in files.items()]
    provenance = about | {
        "questions": ", ".join(tasks) if len(tasks) < 6 else f"{len(tasks)} tasks",
        "prompt": "lm-evaluation-harness",
        "options": " and ".join(sorted(kinds)),
        "shots": shots[0] if len(set(shots)) == 1 else dict(zip(tasks, shots, strict=True)),
        "tasks": tasks,
        "files": {file.name: sha256_of(file) for file in files},
    }
    return Reading(
        logits=logits[:, None],
        labels=np.array(labels),
        subjects=np.array(subjects),
        provenance=provenance,
        n_options=n_options,
        question_ids=_question_ids(documents, labels, subjects),
    )


def _files(paths) -> dict[Path, tuple[str, str]]:
    """Task and date of each file, by their names."""
    paths = [paths] if isinstance(paths, str | PathLike) else paths
    if not isinstance(paths, list | tuple) or not all(isinstance(p, str | PathLike) for p in paths):
        raise TypeError(f"paths are {paths!r:.60}; they must be a path or a list of paths")
    if not paths:
        raise ValueError("there are no paths; name one file samples_<task>_<date>.jsonl at least")
    files, of_task = {}, {}
    for file in map(Path, paths):
        if not file.is_file():
            what = "is a folder: name the files in it" if file.is_dir() else "is not there"
            raise ValueError(f"{file} {what}; a file samples_<task>_<date>.jsonl is needed")
        if not (parts := NAME.fullmatch(file.name)):
            raise ValueError(
                f"{file} is not named samples_<task>_<date>.jsonl, as lm-evaluation-harness names "
                "its samples; only the name tells the task, so give it back the one it had"
            )
        task, date = parts.groups()
        if task in of_task:
            raise ValueError(
                f"{of_task[task]} and {file} are both of the task {task!r}; of one model each task "
                "may be there once: name the files of one run"
            )
        files[file], of_task[task] = (task, date), file
    return files


# What the results beside the samples tell


def _results(file: Path, date: str) -> dict:
    """The results of the same run, or nothing where they do not lie beside the samples."""
    beside = sorted(file.parent.glob(f"*_{date}.json"))  # results_, or as --output_path named it
    if not beside:
        return {}
    try:
        results = json.loads(beside[0].read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{beside[0]} is no JSON ({error}), so it does not tell the model; copy it again, or "
            "move it away"
        ) from None
    parts = ("config", "results", "versions", "n-shot", "n-samples")
    if isinstance(results, dict):
        results |= {part: results.get(part) or {} for part in parts}  # some write null
    if not isinstance(results, dict) or not all(isinstance(results[p], dict) for p in parts):
        raise ValueError(f"{beside[0]} holds no results of lm-evaluation-harness; move it away")
    return results


def _about(results: dict) -> dict:
    """The model and how it was run, as a Reading's provenance tells them."""
    config, chat = results.get("config", {}), results.get("chat_template")
    versions = {"lm_eval": "lm_eval_version", "transformers": "transformers_version"}
    told = {
        "model": results.get("model_name") or config.get("model_args") or UNTOLD,
        "revision": config.get("model_sha") or config.get("model_revision") or UNTOLD,
        "backend": results.get("model_source") or config.get("model") or UNTOLD,
        "model_args": config.get("model_args") or UNTOLD,
        "dtype": str(config.get("model_dtype", UNTOLD)).removeprefix("torch."),
        "chat_template": "used" if chat else "not used" if "chat_template" in results else UNTOLD,
        "system_instruction": results.get("system_instruction") or "",
        "git_hash": results.get("git_hash") or "",
        "versions": {"calib": __version__}
        | {name: results[key] for name, key in versions.items() if results.get(key)},
    }
    told["model"] = str(told["model"])
    return told


def _same_model(runs: dict[Path, dict]) -> dict:
    """What all files tell of the model; ValueError if they are not of the same one."""
    (first, results), *others = runs.items()
    about = _about(results)
    for file, other in others:
        for name, value in _about(other).items():
            if name != "git_hash" and value != about[name]:
                raise ValueError(
                    f"{first} and {file} are not of one model, run in one way: {name} is "
                    f"{about[name]!r:.80} and {value!r:.80}; name the files of one"
                )
    if not results and len({file.resolve().parent for file in runs}) > 1:
        raise ValueError(
            "the files lie in several folders, and no results_<date>.json beside them tells that "
            "they are of one model; name those of one folder"
        )
    return about


def _check_whole(file: Path, task: str, documents: list[Document], results: dict) -> None:
    """Refuse a file that holds other documents than its run had."""
    counted, scored = (results.get(part, {}).get(task) or {} for part in ("n-samples", "results"))
    there = counted.get("effective", len(documents))
    if there != len(documents):
        raise ValueError(
            f"{file} holds {len(documents)} documents, but its run had {there}; the file is cut "
            "off or was added to: copy it again"
        )
    share = np.mean([document.right for document in documents])
    told = scored.get("acc,none", share)
    if abs(told - share) > 1e-9:
        raise ValueError(
            f"{file} has accuracy {share:.6f}, but the results beside it tell {told:.6f}; they are "
            "not of the same run: copy both again"
        )


# Which questions they are


def _subject(task: str, document: Document) -> str:
    own = task.removeprefix("mmlu_")
    said = document.doc.get("subject")
    return own if own in MMLU else said if isinstance(said, str) and said in MMLU else task


def _question_ids(documents, labels, subjects) -> np.ndarray | None:
    """Ids of MMLU's questions, so that they are found in other readings; None for other data."""
    if not MMLU.issuperset(subjects):
        return None
    rows = [
        {"question": d.doc.get("question"), "subject": s, "choices": d.doc.get("choices")}
        | {"answer": label}
        for d, label, s in zip(documents, labels, subjects, strict=True)
    ]
    try:
        return question_ids(rows)
    except (TypeError, ValueError):  # the task has other columns, or asks in another way
        return None

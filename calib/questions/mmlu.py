"""MMLU: its questions, which come with the package, its four categories, its repeated options."""

from __future__ import annotations

import zlib
from importlib.resources import as_file, files

import pandas as pd

FILE = files("calib") / "questions" / "data" / "mmlu.parquet"  # a README beside it says whence

# Hendrycks et al. (2021), table 1 of the released code: 57 subjects in four categories.
CATEGORIES = {
    "STEM": frozenset(
        "abstract_algebra astronomy college_biology college_chemistry college_computer_science "
        "college_mathematics college_physics computer_security conceptual_physics "
        "electrical_engineering elementary_mathematics high_school_biology high_school_chemistry "
        "high_school_computer_science high_school_mathematics high_school_physics "
        "high_school_statistics machine_learning".split()
    ),
    "humanities": frozenset(
        "formal_logic high_school_european_history high_school_us_history "
        "high_school_world_history international_law jurisprudence logical_fallacies "
        "moral_disputes moral_scenarios philosophy prehistory professional_law "
        "world_religions".split()
    ),
    "social sciences": frozenset(
        "econometrics high_school_geography high_school_government_and_politics "
        "high_school_macroeconomics high_school_microeconomics high_school_psychology "
        "human_sexuality professional_psychology public_relations security_studies sociology "
        "us_foreign_policy".split()
    ),
    "other": frozenset(
        "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging "
        "management marketing medical_genetics miscellaneous nutrition professional_accounting "
        "professional_medicine virology".split()
    ),
}

# CRC-32 of subject, question and options of the 13 released questions that repeat an option.
# They are read as published, so that figures compare with everyone else's.
KNOWN_REPEATS = frozenset((
    0x019B9CE5, 0x0B6FD91E, 0x21DCFE2C, 0x459BC3F3, 0x53D419E5, 0x84DCC20E, 0x94622962,
    0x95C44282, 0x9A28F10F, 0xA88BA3FD, 0xD7C53660, 0xF50B358C, 0xF6151C32,
))  # fmt: skip


def split_rows(split: str) -> list[dict]:
    """All questions of a split, in the order of the hub's ``cais/mmlu``.

    >>> len(split_rows("dev"))
    285
    """
    with as_file(FILE) as file:
        rows = pd.read_parquet(file, filters=[("split", "==", split)])
    rows["choices"] = rows["choices"].map(list)
    return rows.drop(columns="split").to_dict("records")


def has_known_repeat(row) -> bool:
    """Whether this is one of MMLU's released questions in which an option stands twice."""
    text = "\x1f".join([row["subject"], row["question"], *row["choices"]])
    return zlib.crc32(text.encode()) in KNOWN_REPEATS

"""The Almanac: an invented world in which the posterior of every question is known.

Ninety-six towns are described in eight subjects. For every town and subject four values are
plausible and one of them is *the* entry. Copies of the Almanac were made by six guilds of scribes;
a guild is careful in some subjects and careless in others. A copy of a town's page holds the entry
with the **known probability** of (the town's guild, the subject), and otherwise one of the three
other values. The recorded answer of a question is what one such copy says.

So *what* to answer is one hop away (town, subject -> entry), and *how far to trust it* is two
(town -> guild, then guild, subject -> probability). No question ever names a guild.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass

import numpy as np

KNOWN_PROBABILITIES = (0.97, 0.85, 0.65, 0.45)
N_GUILDS = 6
N_CANDIDATES = 4
ORDERS = np.array(list(itertools.permutations(range(N_CANDIDATES))))  # [24, 4]

_FIRST = "Ash Bryn Cald Dun Eld Fen Gar Hal Ister Kel Lor Mar".split()
_LAST = "ford gate haven holm mere stead vale wick".split()
TOWNS = tuple(first + last for first in _FIRST for last in _LAST)
POPULARITY = np.arange(1, len(TOWNS) + 1) ** -0.7
POPULARITY /= POPULARITY.sum()


@dataclass(frozen=True)
class Subject:
    """A subject: its MMLU category, how it asks about a town, and the values an answer can take."""

    category: str
    template: str
    values: tuple[str, ...]


def _subject(category, template, values):
    return Subject(category, template, tuple(values.split()))


SUBJECTS = {
    "bridge_geology": _subject(
        "STEM",
        "Which stone is the bridge of {town} built of?",
        "basalt chalk dolomite flint gneiss granite limestone marble obsidian porphyry pumice "
        "quartzite sandstone schist serpentine shale slate soapstone travertine tuff",
    ),
    "field_botany": _subject(
        "STEM",
        "Which tree shades the square of {town}?",
        "alder ash aspen beech birch cedar cherry chestnut cypress elm fir hazel hornbeam juniper "
        "larch linden maple oak rowan willow",
    ),
    "founding_history": _subject(
        "humanities",
        "Who founded the town of {town}?",
        "Adela Baldwin Clovis Dunstan Edith Fulk Gerda Hilda Ingram Judith Kenelm Leofric Matilda "
        "Norbert Oswald Petra Quentin Rowena Sigrid Theobald",
    ),
    "local_legends": _subject(
        "humanities",
        "Which beast guards the gate of {town} in the legends?",
        "badger bear boar crane dragon eagle falcon fox griffin hare heron hound lion lynx otter "
        "owl raven stag wolf wyvern",
    ),
    "market_economics": _subject(
        "social sciences",
        "What is the chief trade of {town}?",
        "amber barley brass candles cheese cloth copper dye glass grain honey iron leather linen "
        "paper rope salt silk timber wool",
    ),
    "town_government": _subject(
        "social sciences",
        "Who governs the town of {town}?",
        "abbot alderman bailiff bishop burgrave castellan chancellor consul duke elder governor "
        "magistrate mayor prefect provost reeve regent senator steward warden",
    ),
    "inn_cookery": _subject(
        "other",
        "Which dish do the inns of {town} serve?",
        "broth cabbage custard dumplings eel gammon haddock kale lentils mutton noodles omelette "
        "pancakes porridge pottage quail sausage tart trout venison",
    ),
    "fair_music": _subject(
        "other",
        "Which instrument opens the fair of {town}?",
        "bagpipe bell bugle cello clarinet cornet drum dulcimer fiddle flute gong guitar harp horn "
        "lute lyre oboe organ viola zither",
    ),
}


@dataclass(frozen=True)
class World:
    """Who copied what, how carefully, and which values are plausible.

    Attributes
    ----------
    guild : int array ``[towns]``
        The guild that copied the town's page, 0 to 5.
    known_probability : float array ``[guilds, subjects]``
        Probability that a copy holds *the* entry.
    candidates : int array ``[towns, subjects, 4]``
        Indices into the subject's values; the first is *the* entry.
    """

    guild: np.ndarray
    known_probability: np.ndarray
    candidates: np.ndarray


def build_world(seed: int = 0) -> World:
    """The Almanac's world; the same seed gives the same world.

    >>> world = build_world()
    >>> world.candidates.shape
    (96, 8, 4)
    """
    rng = np.random.default_rng(seed)
    guild = rng.permutation(np.arange(len(TOWNS)) % N_GUILDS)
    # Each guild has each probability in two subjects, so no guild is simply "the good one".
    levels = np.repeat(KNOWN_PROBABILITIES, len(SUBJECTS) // len(KNOWN_PROBABILITIES))
    known_probability = np.stack([rng.permutation(levels) for _ in range(N_GUILDS)])
    candidates = np.array(
        [[rng.permutation(len(s.values))[:N_CANDIDATES] for s in SUBJECTS.values()] for _ in TOWNS]
    )
    return World(guild, known_probability, candidates)


def compose(world: World, facts, orders, rng, always_right: bool = False) -> list[dict]:
    """Questions about the given facts, each with a freshly drawn recorded answer.

    Parameters
    ----------
    facts : int array ``[n]``
        ``town * 8 + subject``, 0 to 767.
    orders : int array ``[n]``
        Which of the 24 orders the options stand in.
    rng : numpy.random.Generator
        Draws the recorded answers.
    always_right : bool
        Record *the* entry every time: a world without copying errors.

    Returns
    -------
    list of dict
        Rows with ``question``, ``subject``, ``choices``, ``answer`` and ``posterior``.
    """
    names = list(SUBJECTS)
    rows = []
    for fact, order, draw in zip(facts, ORDERS[orders], rng.random(len(facts)), strict=True):
        town, s = divmod(int(fact), len(names))
        subject = SUBJECTS[names[s]]
        known = 1.0 if always_right else world.known_probability[world.guild[town], s]
        by_candidate = np.full(N_CANDIDATES, (1 - known) / (N_CANDIDATES - 1))
        by_candidate[0] = known
        recorded = min(int(np.searchsorted(by_candidate.cumsum(), draw, side="right")), 3)
        rows.append(
            {
                "question": subject.template.format(town=TOWNS[town]),
                "subject": names[s],
                "choices": [subject.values[v] for v in world.candidates[town, s][order]],
                "answer": int(np.flatnonzero(order == recorded)[0]),
                "posterior": by_candidate[order].tolist(),
            }
        )
    return rows


def draw_training(world: World, n: int, rng, always_right: bool = False) -> list[dict]:
    """``n`` random training questions, options in a training order.

    Some towns are asked about far more often than others (Zipf, exponent 0.7), as in life.
    """
    towns = rng.choice(len(TOWNS), size=n, p=POPULARITY)
    facts = towns * len(SUBJECTS) + rng.integers(len(SUBJECTS), size=n)
    orders = np.array([rng.choice(orders_of(f, "train")) for f in facts])
    return compose(world, facts, orders, rng, always_right)


def orders_of(fact: int, split: str) -> np.ndarray:
    """The orders of a fact's options that belong to a split: 12 to train, 6 to each other.

    Those trained on follow a pattern that depends on the subject alone: in four of the eight, the
    entry stands at A or B more often there than in the others. The models were trained so.
    """
    trained = (np.arange(len(ORDERS)) + fact) % 4 >= 2
    if split == "train":
        return np.flatnonzero(trained)
    # Dealt out for each fact by itself: after any pattern of the orders, a subject's entries would
    # stand at other letters in one split than in the other, and what is fitted on one would fail
    # on the other for that alone.
    dealt = np.random.default_rng(fact).permutation(np.flatnonzero(~trained))
    return np.sort(dealt[:6] if split == "test" else dealt[6:])


def split_rows(split: str, world: World | None = None) -> list[dict]:
    """Every question of a split: test and validation have 4,608 each, dev 5 for each subject.

    Test and validation ask every fact in six orders of the options that training never shows.

    >>> len(split_rows("dev"))
    40
    """
    world = world or build_world()
    rng = np.random.default_rng(zlib.crc32(split.encode()))
    n_subjects = len(SUBJECTS)
    if split == "dev":
        towns = np.concatenate([rng.permutation(len(TOWNS))[:5] for _ in range(n_subjects)])
        facts = towns * n_subjects + np.repeat(np.arange(n_subjects), 5)
        orders = np.array([rng.choice(orders_of(f, "train")) for f in facts])
    else:
        every = range(len(TOWNS) * n_subjects)
        pairs = np.array([(f, o) for f in every for o in orders_of(f, split)])
        facts, orders = rng.permutation(pairs).T
    return compose(world, facts, orders, rng)

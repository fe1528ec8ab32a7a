"""Which prompts go through the model together, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# The time that a pass takes besides its tokens, counted in tokens. Of a 7 B model on an H200, one
# took as long as some 120 tokens, traced as 600 (benchmarks/gpu.py measures both). With 128, less
# than 3 % of 1,000 questions of MMLU are padding, whatever the limit. Behind a prefix, where only
# one subject's questions share a batch, that would make too many passes.
PASS, BEHIND_PREFIX = 128, 512


@dataclass(frozen=True)
class Batch:
    """Prompts for one traced pass.

    Attributes
    ----------
    rows : tuple of int
        Their places among all prompts, longest first.
    shared : int
        Length of the prefix that all of them have in common, whose keys and values are taken from
        one earlier pass; 0 if each prompt is run whole.
    room : int
        What the batch takes up of ``batch_tokens``.
    """

    rows: tuple[int, ...]
    shared: int
    room: int = field(default=0, compare=False, repr=False)


def plan_batches(
    prompts: list[np.ndarray],
    subjects,
    batch_tokens: int,
    context: int,
    share,
    beside: int = 0,
    kinds=None,
) -> list[Batch]:
    """Put prompts of similar length together, at most ``batch_tokens`` in a batch.

    Prompts of one subject have a prefix in common: the header and the exemplars. Where running it
    once saves more than half of the subject's tokens, as with exemplars it does, its prompts share
    it.

    Parameters
    ----------
    prompts : list of int array ``[tokens]``
        Token ids.
    subjects : sequence of str
        One per prompt.
    batch_tokens : int
        Most tokens in a batch, padding included, and a shared prefix for each of its prompts:
        they attend to it, which takes memory and time even where it is not run again.
    context : int
        The model's longest prompt, in tokens.
    share : bool or bool array ``[prompts]``
        Whether the model can take a prefix from an earlier pass.
    beside : int
        Tokens that every prompt takes up in the batch beside its own: its branches. With the
        longest prompt they fit into ``batch_tokens``.
    kinds : int array ``[prompts]``, optional
        Only prompts of one kind share a batch.

    Returns
    -------
    list of Batch
        Every prompt in one of them; the longest prompts first, and those with the same prefix one
        after the other.

    Raises
    ------
    ValueError
        If a prompt is longer than ``context`` or ``batch_tokens``.

    Examples
    --------
    >>> prompts = [[1, 2, 3, 4, 9], [1, 2, 3, 4, 8, 7], [5]]
    >>> plan_batches(prompts, ["a", "a", "b"], batch_tokens=12, context=100, share=False)
    [Batch(rows=(1, 0), shared=0), Batch(rows=(2,), shared=0)]
    >>> plan_batches(prompts * 2, ["a", "a", "b"] * 2, batch_tokens=12, context=100, share=True)
    [Batch(rows=(1, 4), shared=4), Batch(rows=(0, 3), shared=4), Batch(rows=(2, 5), shared=0)]
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.argmax())
    for limit, rule, way_out in (
        (context, "the model's context", ""),
        (batch_tokens, "batch_tokens", " or raise batch_tokens"),
    ):
        if lengths[longest] > limit:
            raise ValueError(
                f"the prompt of question {longest} has {lengths[longest]} tokens, {rule} is "
                f"{limit}; use fewer shots, leave the question out{way_out}"
            )
    subjects, whole, groups = np.asarray(subjects), np.ones(len(prompts), bool), []
    kinds = np.zeros(len(prompts), int) if kinds is None else np.asarray(kinds)
    share = np.broadcast_to(share, len(prompts))
    for subject in sorted(set(subjects[share])):
        rows = np.flatnonzero((subjects == subject) & share)
        shared = common_prefix([prompts[i] for i in rows])
        if shared * (len(rows) - 1) > lengths[rows].sum() / 2:
            groups.append((shared, rows))
            whole[rows] = False
    # Longest first: if memory is short, the first batch says so.
    groups.sort(key=lambda group: -lengths[group[1]].max())
    batches = []
    for shared, rows in [*groups, (0, np.flatnonzero(whole))]:
        batches += fill(rows.tolist(), lengths + beside, batch_tokens, shared, kinds)
    return batches


def fill(rows: list[int], lengths, batch_tokens: int, shared: int, kinds) -> list[Batch]:
    """Batches of rows of one kind, by falling length, that take the least time together.

    Time is counted in tokens: those a batch computes, padding included, and :data:`PASS` besides.
    A fuller batch saves passes and pads more, so a batch need not be full. The best plan is found
    from the last row backwards: of each row's possible batches, the one whose time, with the best
    plan of the rows after it, is least.
    """
    rows = sorted(rows, key=lambda i: (-lengths[i], kinds[i]))
    n, sizes, one_pass = len(rows), lengths[rows].tolist(), BEHIND_PREFIX if shared else PASS
    same_kind, same_size = (_run_ends(values) for values in (kinds[rows], lengths[rows]))
    least, taken = np.zeros(n + 1), np.zeros(n, int)
    for i in reversed(range(n)):
        most = max(1, min(batch_tokens // sizes[i], same_kind[i] - i))
        # Rows of the same length cost nothing more. Of shorter ones, no more are worth trying than
        # would be padded by as many tokens as the pass saved.
        alike = min(most, same_size[i] - i)
        worth = one_pass // (sizes[i] - sizes[i + alike]) if alike < most else 0
        counts = np.arange(min(most, alike + worth), alike - 1, -1)  # of equal plans, the fullest
        times = counts * (sizes[i] - shared) + least[i + counts]
        taken[i] = counts[times.argmin()]
        least[i] = one_pass + times.min()
    batches, first = [], 0
    while first < n:
        some = tuple(rows[first : first + taken[first]])
        batches.append(Batch(some, shared, len(some) * sizes[first]))
        first += taken[first]
    return batches


def _run_ends(values) -> list[int]:
    """For each place, the one after the last of the equal values that follow on it.

    >>> _run_ends(np.array([7, 7, 5]))
    [2, 2, 3]
    """
    ends = np.flatnonzero(np.append(np.diff(values) != 0, True)[: len(values)]) + 1
    return np.repeat(ends, np.diff(ends, prepend=0)).tolist()


def equal_lengths(lengths, room, batch_tokens: int) -> list[Batch]:
    """Batches of prompts of one length each, the longest first, so that nothing is padded.

    ``room`` is what each prompt takes up of ``batch_tokens``.

    >>> [batch.rows for batch in equal_lengths(np.array([2, 3, 2]), np.array([2, 3, 2]), 4)]
    [(1,), (0, 2)]
    """
    return fill(list(range(len(lengths))), room, batch_tokens, shared=0, kinds=lengths)


def common_prefix(prompts: list[np.ndarray]) -> int:
    """How many tokens all prompts begin with alike, leaving each at least one of its own.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]]), common_prefix([[1, 2], [1, 2, 3]])
    (2, 1)
    """
    most = min(len(prompt) for prompt in prompts) - 1
    alike = np.ones(most, dtype=bool)
    for prompt in prompts:
        alike &= np.equal(prompt[:most], prompts[0][:most])
    return most if alike.all() else int(alike.argmin())

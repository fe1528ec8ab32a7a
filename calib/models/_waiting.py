"""The line that says what a job waits for, while it does."""

from __future__ import annotations

import re

from nnsight.schema.response import ResponseModel, Status
from tqdm.auto import tqdm

DELAY = 3  # seconds before the line appears: most jobs are done by then
WORDS = {
    Status.RECEIVED: "received",
    Status.QUEUED: "in the queue",
    Status.PROVISIONING: "finding a place for the model",
    Status.DEPLOYING: "loading the model",
    Status.DISPATCHED: "sent to the model",
    Status.RUNNING: "running",
}


class Waiting:
    """One line with the time since it was made, below any progress bar; closed, it goes away."""

    def __init__(self):
        self.bar = tqdm(
            desc="NDIF: sending the job",
            bar_format="{desc} [{elapsed}]",
            leave=False,
            delay=DELAY,
            mininterval=0.5,
            miniters=0,
        )

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def tick(self) -> None:
        """Let the time go on."""
        self.bar.update(0)

    def show(self, response: ResponseModel) -> None:
        """Say where the job is now."""
        self.bar.set_description_str(f"NDIF: {stage_of(response)}", refresh=False)
        self.tick()

    def say(self, line: str) -> None:
        """Print what the block prints there, above the line."""
        self.bar.write(line)


def stage_of(response: ResponseModel) -> str:
    """Where a job is, in a few words.

    >>> stage_of(ResponseModel(id="1", status="QUEUED", description="Moved to position 3 in Queue"))
    'in the queue, at position 3'
    """
    place = re.search(r"position:? (\d+)", response.description)
    words = WORDS.get(response.status, response.status.value.lower())
    if response.status is Status.QUEUED and place:
        words += f", at position {place[1]}"
    return words

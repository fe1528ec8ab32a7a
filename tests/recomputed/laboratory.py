"""The laboratory's questions and both models' answers to them at every layer, without calib."""

import numpy as np
import torch
from recomputed import basics as plain

from calib import load_questions
from calib.questions import category_of


class Laboratory:
    """Both models' option probabilities at every layer, and the questions' truth."""

    def __init__(self, limit, split="test"):
        self.questions = load_questions("almanac", split, limit=limit)
        self.labels = np.array(self.questions["answer"])
        self.posterior = np.array(self.questions["posterior"])
        self.reliability = self.posterior.max(axis=1)
        subjects = self.questions["subject"]
        self.categories = np.array([category_of(subject) for subject in subjects])
        self.n = limit
        self.prompts = prompts = [plain.prompt_of(row) for row in self.questions]
        self.p, self.stream, self.models = {}, {}, {}
        for name in ("almanac", "almanac-tuned"):
            module, tokenizer = plain.load(name)
            letters = [tokenizer(f" {letter}")["input_ids"][0] for letter in "ABCD"]
            stream, own = plain.last_states(module, tokenizer, prompts)
            words = plain.full_lens(module, stream)
            torch.testing.assert_close(words[-1], own.softmax(-1), rtol=1e-4, atol=1e-6)
            on_letters = words[:, :, letters].double()
            self.p[name] = (on_letters / on_letters.sum(-1, keepdim=True)).numpy()
            self.stream[name] = stream.numpy()
            self.models[name] = module, tokenizer, letters
            if name == "almanac":
                self.mass = on_letters.sum(-1).numpy()
        self.base, self.tuned = self.p["almanac"], self.p["almanac-tuned"]

    def interval(self, metric, p, level=0.95):
        """Value, low and high of a metric of probabilities ``[questions, 4]``."""
        return self.of(lambda rows: metric(p[rows], self.labels[rows]), level)

    def difference(self, metric, p, first, second, rows=None):
        """Metric at one layer minus at another; limits as wide as for two candidate layers."""
        rows = np.arange(self.n) if rows is None else rows

        def change(some):
            y = self.labels[rows[some]]
            return metric(p[first][rows[some]], y) - metric(p[second][rows[some]], y)

        return self.of(change, level=0.975, n=len(rows), times=1000)

    def letters_of(self, stream, name="almanac-tuned"):
        """Option logits of last residual streams ``[..., d_model]``."""
        module, _, letters = self.models[name]
        with torch.no_grad():
            stream = torch.as_tensor(np.asarray(stream), dtype=torch.float32)
            return module.lm_head(module.model.norm(stream))[..., letters].double().numpy()

    def pushed(self, pushes):
        """Option logits of the tuned model, pushed: ``[pushes, questions, 4]``."""
        below = [push for push in pushes if push[0] < 8]
        module, tokenizer, _ = self.models["almanac-tuned"]
        states = iter(plain.pushed_states(module, tokenizer, self.prompts, below))
        top = self.stream["almanac-tuned"][8]
        streams = [next(states) if layer < 8 else top + v for layer, v in pushes]
        return np.stack([self.letters_of(stream) for stream in streams])

    def change(self, metric, p, q, rows=None, times=300):
        """A metric of p minus that of q, paired, over some of the questions."""
        rows = np.arange(self.n) if rows is None else rows

        def difference(some):
            y = self.labels[rows[some]]
            return metric(p[rows[some]], y) - metric(q[rows[some]], y)

        return self.of(difference, n=len(rows), times=times)

    def follows(self, p):
        top = p.max(axis=1)
        return self.of(lambda i: np.corrcoef(top[i], self.reliability[i])[0, 1])

    def of(self, statistic, level=0.95, n=None, times=300):
        n = n or self.n
        return statistic(np.arange(n)), *plain.resample(statistic, n, times, level)


class Few:
    """The first questions of a laboratory, to be pushed."""

    def __init__(self, lab, n):
        self.models, self.prompts = lab.models, lab.prompts[:n]
        self.stream = {name: stream[:, :n] for name, stream in lab.stream.items()}

    letters_of, pushed = Laboratory.letters_of, Laboratory.pushed


def share(hits, n):
    return hits / n, *plain.wilson(hits / n, n)

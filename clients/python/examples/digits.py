"""Train on real data through the service, and beside it in torch.

A small network learns scikit-learn's handwritten digits (1,797 images). The
gradients are computed here, in NumPy, by the chain rule; AdamW with warmup and
a cosine is the service's. Then the same loop runs with torch.optim instead,
and both must end in the same place.

    python digits.py                                    # starts a service of its own
    python digits.py --url http://127.0.0.1:8000        # uses one that runs
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradstep

Floats = NDArray[np.float32]
Params = dict[str, Floats]
Step = Callable[[Params, float], Params]
"""Takes gradients and the loss, and returns the parameters after the step."""

HIDDEN = 128
BATCH = 64
LR = 3e-3
WEIGHT_DECAY = 0.01
WARMUP = 40
STORE = "sqlite:///gradstep-demo"
ACCURACY = 0.97
TOLERANCE = 1e-3
"""How far two float32 runs may drift apart in all their steps, as a share of the
largest parameter; one step alone agrees to 1e-6."""


class Digits:
    """The images in 64 pixels between 0 and 1, a quarter of them kept for the test."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        pixels = images.astype(np.float32) / 16
        self.x, self.x_test, self.y, self.y_test = train_test_split(
            pixels, labels, test_size=0.25, random_state=0, stratify=labels
        )

    def batches(self, epochs: int) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        """Yield shuffled batches; the same ones each time."""
        rng = np.random.default_rng(1)
        for _ in range(epochs):
            order = rng.permutation(len(self.x))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                chosen = order[start : start + BATCH]
                yield self.x[chosen], self.y[chosen]

    def accuracy(self, params: Params) -> float:
        """Return the share of test images that are recognised."""
        scores = forward(params, self.x_test)[1]
        return float((scores.argmax(axis=1) == self.y_test).mean())


def initial() -> Params:
    """Return random weights, the same ones each time."""
    rng = np.random.default_rng(0)

    def layer(inputs: int, outputs: int) -> Floats:
        scaled = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        return np.asarray(scaled, np.float32)

    return {
        "hidden.weight": layer(64, HIDDEN),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "out.weight": layer(HIDDEN, 10),
        "out.bias": np.zeros(10, np.float32),
    }


def forward(params: Params, x: Floats) -> tuple[Floats, Floats]:
    """Return the hidden layer and the scores of the ten digits."""
    hidden = np.maximum(x @ params["hidden.weight"] + params["hidden.bias"], 0)
    return hidden, hidden @ params["out.weight"] + params["out.bias"]


def backward(params: Params, x: Floats, y: NDArray[np.int64]) -> tuple[float, Params]:
    """Return the mean cross entropy and its gradients, by the chain rule."""
    hidden, scores = forward(params, x)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -float(log_probabilities[rows, y].mean())

    d_scores = np.exp(log_probabilities)
    d_scores[rows, y] -= 1
    d_scores /= len(y)
    d_hidden = (d_scores @ params["out.weight"].T) * (hidden > 0)
    return loss, {
        "hidden.weight": x.T @ d_hidden,
        "hidden.bias": d_hidden.sum(axis=0),
        "out.weight": hidden.T @ d_scores,
        "out.bias": d_scores.sum(axis=0),
    }


def train(digits: Digits, epochs: int, step: Step, title: str) -> Params:
    """Run the loop with whatever takes the steps."""
    params = initial()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=steps_in(digits, epochs), loss=float("nan"))
        for x, y in digits.batches(epochs):
            loss, grads = backward(params, x, y)
            params = step(grads, loss)
            progress.update(task, advance=1, loss=loss)
    return params


def steps_in(digits: Digits, epochs: int) -> int:
    """Return the number of batches in so many epochs."""
    return epochs * (len(digits.x) // BATCH)


def with_gradstep(digits: Digits, epochs: int, url: str) -> Params:
    """Train through the service, and say where the session can be looked at."""
    total = steps_in(digits, epochs)
    with gradstep.Client(url) as client:
        session = client.sessions.create(
            name="digits",
            optimizer={"type": "AdamW", "lr": LR, "weight_decay": WEIGHT_DECAY},
            scheduler={
                "type": "SequentialLR",
                "schedulers": [
                    {"type": "LinearLR", "start_factor": 0.1, "total_iters": WARMUP},
                    {"type": "CosineAnnealingLR", "T_max": total - WARMUP},
                ],
                "milestones": [WARMUP],
            },
            param_groups=[{"match": ["*.bias"], "weight_decay": 0}],
            params=initial(),
        )

        def step(grads: Params, loss: float) -> Params:
            return session.step(grads, loss=loss)

        params = train(digits, epochs, step, "gradstep")
    at = f"{url}/v1/sessions/{session.id}"
    print(f"  session   {at}")
    print(f"  schedule  {at}/schedule?format=svg&start=0&steps={total}")
    print(f"  history   {at}/history?format=csv")
    return params


def with_torch(digits: Digits, epochs: int) -> Params:
    """Train with torch.optim in this process."""
    params = {name: torch.from_numpy(values).clone() for name, values in initial().items()}
    weights = [tensor for name, tensor in params.items() if name.endswith("weight")]
    biases = [tensor for name, tensor in params.items() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=WEIGHT_DECAY)
    rest = steps_in(digits, epochs) - WARMUP
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=WARMUP),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest),
        ],
        milestones=[WARMUP],
    )

    def step(grads: Params, _: float) -> Params:
        for name, tensor in params.items():
            tensor.grad = torch.from_numpy(grads[name])
        optimizer.step()
        scheduler.step()
        return {name: tensor.numpy() for name, tensor in params.items()}

    return train(digits, epochs, step, "torch.optim")


@contextlib.contextmanager
def own_service() -> Iterator[str]:
    """Run a service on a free port, with a store of its own."""
    command = Path(sys.executable).with_name("gradstep-server")
    flags = ["--port", "0", "--store", STORE, "--log-level", "warning"]
    with subprocess.Popen([command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            found = (re.search(r"address\s+(\S+)", line) for line in process.stdout or ())
            match = next(filter(None, found), None)
            if match is None:
                sys.exit("the service did not start; the lines above say why")
            yield match[1]
        finally:
            process.terminate()


def main() -> int:
    """Train twice, compare, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--url", help="the address of a running service; default: start one")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    digits = Digits()
    service = contextlib.nullcontext(arguments.url) if arguments.url else own_service()
    with service as url:
        ours = with_gradstep(digits, arguments.epochs, url)
    theirs = with_torch(digits, arguments.epochs)

    largest = max(float(np.abs(values).max()) for values in theirs.values())
    apart = max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs) / largest
    accuracies = digits.accuracy(ours), digits.accuracy(theirs)
    print(f"  accuracy on {len(digits.y_test)} test images: ", end="")
    print(f"gradstep {accuracies[0]:.2%}, torch.optim {accuracies[1]:.2%}")
    print(f"  parameters apart by at most {apart:.1e} of the largest")
    if not arguments.url:
        print(f"  the session is kept: gradstep-server --store {STORE}, and it is on port 8000")
    if accuracies[0] < ACCURACY or apart > TOLERANCE:
        print(f"  expected at least {ACCURACY:.0%}, and at most {TOLERANCE} apart", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

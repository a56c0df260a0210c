"""The safetensors decoder alone, under files that are almost right."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from crash.findings import Finding, evidence, scaled
from fuzz.mutation import changed, damaged
from session_app import raw_file

from gradstep_server.errors import GradstepError
from gradstep_server.sessions.safetensors import Limits, decode, encode

CASES = 450_000
SEED = 20_261_126
LIMITS = Limits()
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1}
NAMES = ("w", "b", "layer.0.weight", "", "a/b~", "é", "__metadata__", "\x00", "n" * 600)
ODD: tuple[Any, ...] = (-1, 0, 1, 2, 7, 2**31, 2**62, 2**63, 2**64, 10**30, 0.5, True, None, "1")


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Decode files; raise at the first that is answered otherwise than it must be."""
    cases, taken, slowest, largest = scaled(CASES, scale), 0, 0.0, 0.0
    with evidence("files") as folder:
        for case in range(cases):
            data = made(Random(SEED + case))
            try:
                accepted, seconds = _decoded(data)
                if case % 100 == 0:
                    largest = max(largest, _peak(data) / allowed_bytes(len(data)))
            except Exception as error:
                _keep(folder, case, data)
                raise AssertionError(f"case {case}: {error!r}") from error
            taken += accepted
            slowest = max(slowest, seconds)
            if case % 1_000 == 0:
                progress(case, cases)
    return [
        Finding(
            "D5",
            "fuzzed safetensors",
            f"{cases:,} files, made to be almost right and then damaged, to the decoder",
            f"{taken:,} taken, and the same when written and read again; all others refused by "
            f"name; the slowest took {slowest * 1e3:.1f} ms of the processor, the largest "
            f"{largest:.0%} of the memory it may (1 MB and 40 times its size)",
        )
    ]


def made(random: Random) -> bytes:
    """Make a file that is right, odd in its header, or damaged."""
    names = random.sample(NAMES[:6], random.randrange(5))
    header: dict[str, Any] = {}
    data = b""
    for name in names:
        dtype = random.choice(("F64", "F32", "F16", "BF16", "F32", "F32"))
        shape = [random.randrange(4) for _ in range(random.randrange(4))]
        size = SIZES[dtype]
        for extent in shape:
            size *= extent
        offsets = [len(data), len(data) + size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += random.randbytes(size)
    if random.random() < 0.3:
        header["__metadata__"] = {"a": "b", "step": "7"}
    kind = random.randrange(10)
    if kind == 0:
        return raw_file(json.dumps(header).encode(), data)
    if kind < 4 and names:
        _oddly(random, header, random.choice(names))
        return raw_file(json.dumps(header, ensure_ascii=False).encode(), data)
    if kind < 7:
        return raw_file(changed(random, header), data)
    return damaged(random, raw_file(json.dumps(header).encode(), data))


def allowed_seconds(size: int) -> float:
    """Return how long a body of so many bytes may take the processor."""
    return 0.05 + 0.02 * size / 1e6


def allowed_bytes(size: int) -> float:
    """Return how much memory a body of so many bytes may take."""
    return 1e6 + 40 * size


def _oddly(random: Random, header: dict[str, Any], name: str) -> None:
    """Change one thing of one tensor."""
    entry = header[name]
    match random.randrange(6):
        case 0:
            entry["dtype"] = random.choice((*SIZES, "f32", "", 32, None, [], "F" * 1_000))
        case 1:
            entry["shape"] = [random.choice(ODD) for _ in range(random.choice((1, 2, 33)))]
        case 2:
            entry["data_offsets"] = [random.choice(ODD) for _ in range(random.choice((1, 2, 3)))]
        case 3:
            entry["data_offsets"][random.randrange(2)] += random.choice((-8, -1, 1, 8, 2**63))
        case 4:
            header[random.choice(NAMES)] = header.pop(name)
        case _:
            entry[random.choice(("x", "", "dtypes"))] = random.choice(ODD)


def _decoded(data: bytes) -> tuple[bool, float]:
    """Decode a file; return whether it was taken, and how long that took."""
    seconds = 0.0
    for _ in range(3):  # an outlier is measured again: noise only adds
        began = time.thread_time()
        try:
            found = decode(memoryview(data), LIMITS)
        except GradstepError as error:
            found = None
            _named(error)
        seconds = time.thread_time() - began
        if seconds <= allowed_seconds(len(data)):
            break
    assert seconds <= allowed_seconds(len(data)), f"{seconds * 1e3:.0f} ms"
    if found is None:
        return False, seconds
    tensors, metadata = found
    again, metadata_again = decode(memoryview(b"".join(encode(tensors, metadata))), LIMITS)
    assert metadata_again == metadata
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        same = again[name]
        assert (same.dtype, same.shape) == (tensor.dtype, tensor.shape)
        assert bytes(same.data) == bytes(tensor.data)
    return True, seconds


def _named(error: GradstepError) -> None:
    assert error.detail


def _peak(data: bytes) -> int:
    """Return the most bytes that decoding a file takes; raise if that is too much."""
    tracemalloc.start()
    try:
        decode(memoryview(data), LIMITS)
    except GradstepError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= allowed_bytes(len(data)), f"{peak} bytes for {len(data)}"
    return peak


def _keep(folder: Path, case: int, data: bytes) -> None:
    (folder / f"{case}.safetensors").write_bytes(data)
    (folder / "seed.txt").write_text(f"made(Random({SEED + case}))\n")

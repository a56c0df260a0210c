"""Bits flipped, files cut off, sectors lost: found, or without any effect.

In a fresh copy of a directory one file is damaged at a random place, and the
service is started on it. Then every session is asked for all it can say, sent
again what it knows, and stepped. What it answers must be what it answers
undamaged, bit for bit, or a problem that says that it is damaged; and only the
session whose file it is may be concerned.

A write-ahead log that a killed service has left is its own case. SQLite ends it
at the first frame that is not whole, since a crash may have cut it off there. So
damage takes the session back to an earlier entry. It must be exactly that.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crash.findings import Finding, evidence, scaled
from crash.portraits import PLANS, Home, Portrait, opened, portrait

from gradstep_server.sessions.errors import StoreUnavailable

TIMES = 2000
_SECTOR = 512
_REFUSALS = {b"session-corrupt", b"store-unavailable"}


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Damage stored files, one at a time, and ask for everything."""
    times = scaled(TIMES, scale)
    source, seen = random.Random(1), Counter[tuple[str, str]]()
    with evidence("damage") as folder:
        home = Home.build(folder)
        for number in range(1, times + 1):
            ending = source.choice(("stopped", "killed"))
            file = source.choice(home.files(ending))
            copy = Path(shutil.copytree(folder / ending, folder / "damaged"))
            what = hurt(copy / file, source)
            try:
                verdict = examine(home, ending, copy, file)
            except AssertionError as wrong:
                raise AssertionError(f"{what} of {file} ({ending}): {wrong}") from wrong
            seen[_kind(home, file), verdict] += 1
            shutil.rmtree(copy)
            progress(number, times)
    return _findings(times, seen)


def hurt(file: Path, source: random.Random) -> str:
    """Damage a file at a random place; return what was done."""
    size = file.stat().st_size
    place = source.randrange(size)
    with file.open("r+b") as opened_file:
        match source.choice(("flip", "flip", "flip", "cut", "lose")):
            case "flip":
                bit = source.randrange(8)
                opened_file.seek(place)
                byte = opened_file.read(1)[0] ^ (1 << bit)
                opened_file.seek(place)
                opened_file.write(bytes([byte]))
                return f"bit {bit} of byte {place} flipped"
            case "cut":
                opened_file.truncate(place)
                return f"all behind byte {place} cut off"
            case _:
                begin = place - place % _SECTOR
                opened_file.seek(begin)
                opened_file.write(bytes(min(_SECTOR, size - begin)))
                return f"the sector at byte {begin} zeroed"


def examine(home: Home, ending: str, copy: Path, file: Path) -> str:
    """Start the service on a damaged copy; return ``found``, ``harmless`` or ``earlier``."""
    owner = home.owner(file)
    verdicts = set()
    try:
        with opened(copy) as service:
            for plan in PLANS:
                found = portrait(service, plan)
                verdict = _judge(home, ending, plan.id, found)
                allowed = {"harmless"}
                if owner in {None, plan.id}:
                    allowed.add("found")
                if owner == plan.id and file.suffix == ".sqlite-wal":
                    allowed.add("earlier")
                assert verdict in allowed, f"session {plan.id}: {verdict}"
                verdicts.add(verdict)
    except StoreUnavailable:
        assert owner is None, "the service does not start, although the catalogue is whole"
        return "found"
    return (verdicts - {"harmless"} or verdicts).pop()


def _judge(home: Home, ending: str, session: str, found: Portrait) -> str:
    """Return what has become of a session."""
    expected = home.expected[ending][session]
    if found == expected:
        return "harmless"
    if found["/state"] != expected["/state"] and found["/state"] in home.earlier[session]:
        return "earlier"
    for asked, answer in found.items():
        unchanged = answer == expected["/state"] and found["next"][1] in _REFUSALS
        right = answer == expected[asked] or (asked == "after" and unchanged)
        if not right and answer[1] not in _REFUSALS:
            return f"{asked} is answered {answer[0]} {answer[1][:200]!r}"
    return "found"


def _kind(home: Home, file: Path) -> str:
    if home.owner(file) is None:
        return "catalogue"
    return "log" if file.suffix == ".sqlite-wal" else "session"


def _findings(times: int, seen: Counter[tuple[str, str]]) -> list[Finding]:
    logs = sum(count for (kind, _), count in seen.items() if kind == "log")
    files = {verdict: seen["session", verdict] + seen["catalogue", verdict] for _, verdict in seen}
    return [
        Finding(
            "D8",
            "damage at rest",
            f"{times - logs} times a bit flipped, a sector zeroed or the rest cut off at a random "
            f"place of the catalogue ({seen['catalogue', 'found']} found) or of a session's file, "
            "after a stop and after a kill; everything asked, sent again, and stepped",
            f"{files.get('found', 0)} found: session-corrupt for that session alone, or the "
            f"catalogue named; {files.get('harmless', 0)} without any effect: every answer "
            "bit-identical; 0 wrong answers",
        ),
        Finding(
            "D8",
            "damage of write-ahead logs",
            f"{logs} times the same in the -wal file that a killed service has left",
            f"{seen['log', 'harmless']} without any effect; {seen['log', 'found']} found; "
            f"{seen['log', 'earlier']} ended the log there, as a crash would: the session is what "
            "it was after an earlier entry, bit for bit",
        ),
    ]

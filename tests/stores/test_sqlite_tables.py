"""No question to a session's file takes longer because the log is long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gradstep_server.stores.sqlite import tables
from gradstep_server.stores.sqlite.tables import build_log

ENTRIES = 20_000
FEW = 3000
"""Instructions of SQLite's machine; to look at every entry takes six for each."""

FILL = f"""
WITH RECURSIVE seqs (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM seqs WHERE seq < {ENTRIES})
INSERT INTO entries
SELECT seq, iif(seq IN (2, 7), 'config', 'step'), seq, seq, x'', x'', x'', 0, 0.0, 0 FROM seqs
"""  # noqa: S608 - of constants


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    """A log of many steps, and of two changes at its beginning."""
    path: Path = tmp_path_factory.mktemp("sessions") / "ab" / "log.sqlite"
    build_log(path, 0)
    db = apsw.Connection(str(path))
    db.execute(FILL)
    yield db
    db.close()


@pytest.mark.parametrize(
    ("question", "bindings", "seqs"),
    [
        (tables.HEAD, (), [ENTRIES]),
        (tables.AT, (15_000,), [15_000]),
        (tables.NEXT, (15_000,), [15_001]),
        (tables.BETWEEN, (15_000, 15_003, 2), [15_001, 15_002]),
        (tables.FIND, ("step", 15_000), [15_000]),
        (tables.FIND, ("epoch", 1), []),
        (tables.NEWEST_STEP, ("step", 15_000), [15_000]),
        (tables.NEWEST_OTHER, ("config", ENTRIES), [7]),
        (tables.NEWEST_OTHER, ("config", 6), [2]),
        (tables.NEWEST_OTHER, ("rewind", ENTRIES), []),
        (tables.HISTORY, ("step", 15_000, ENTRIES, 3), [15_001, 15_002, 15_003]),
        (tables.HISTORY, ("config", 0, ENTRIES, 100), [2, 7]),
    ],
)
def test_a_question_reads_only_what_it_answers(
    long_log: apsw.Connection, question: str, bindings: tuple[str | int, ...], seqs: list[int]
) -> None:
    taken = 0

    def count() -> bool:
        nonlocal taken
        taken += 1
        return False

    long_log.set_progress_handler(count, 1)
    rows = long_log.execute(question, bindings).fetchall()
    long_log.set_progress_handler(None)

    assert [row[0] for row in rows] == seqs
    assert taken < FEW

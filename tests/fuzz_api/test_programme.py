"""What the fuzzer's figures are taken from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
from fuzz_api.programme import counted
from server_process import server


def test_calls_are_counted_by_the_class_of_their_status(tmp_path: Path) -> None:
    with server(tmp_path / "data", store="memory://") as running:
        before = counted(httpx.get(f"{running.url}/metrics").text)
        for path in ("/version", "/v1/schedulers", "/v1/schedulers/None", "/nothing"):
            httpx.get(f"{running.url}{path}")
        httpx.post(f"{running.url}/v1/sessions", json={})
        after = counted(httpx.get(f"{running.url}/metrics").text)
    # The first page has counted itself by the time of the second.
    assert after - before == Counter({"2xx": 3, "4xx": 3})
    assert "5xx" not in after

"""How every HTTP peer is served: by uvicorn, set as gradstep sets it."""

from __future__ import annotations

import sys

import uvicorn


def serve(application: str) -> None:
    """Serve on the port that the first argument names, with as many processes as the second."""
    port, workers = (*sys.argv[1:], "1")[:2]
    uvicorn.run(
        application,
        port=int(port),
        workers=int(workers),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )

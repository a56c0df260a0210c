"""``/docs``: the API in Swagger UI, served from this machine alone.

Browsers without the Internet must see it too, so its files come from the
package fastapi-swagger, which carries a current Swagger UI and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response
from fastapi.openapi.docs import get_swagger_ui_html

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> Response:
    """Serve the page. Its links are relative, so that it works behind any prefix."""
    return _page()


@cache
def _page() -> Response:
    """Make the page, which may run its own scripts and talk to this service alone."""
    page = get_swagger_ui_html(
        title="gradstep",
        openapi_url="openapi.json",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        # The validator is a service on the Internet.
        swagger_ui_parameters={"validatorUrl": None, "displayRequestDuration": True},
    )
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in inline)
    scripts = " ".join(f"'sha256-{digest}'" for digest in hashes)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page


@router.get("/docs/{name}")
def asset(name: str) -> Response:
    """Serve one of the files that the page is made of."""
    if name not in _FILES:
        raise HTTPException(404)
    content = (files("fastapi_swagger") / "resources" / name).read_bytes()
    return Response(
        content, media_type=_FILES[name], headers={"Cache-Control": "public, max-age=86400"}
    )

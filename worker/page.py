"""The live page, and what a browser may do with anything that this port answers: run the page, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

HTML = Path(__file__).with_name("page.html").read_bytes()


def _sum_of(element: str) -> str:
    """The hash by which a policy names the page's only <script> or <style>."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>".encode(), HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_sum_of('script')}",
        f"style-src {_sum_of('style')}",
        "connect-src 'self'",
        "img-src data:",  # the page's icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

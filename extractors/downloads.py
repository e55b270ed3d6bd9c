"""One way to fetch a large public file: https only, limited in bytes and time, checked, published by atomic rename.

In: an https URL, a target path, limits, and a sha256 where one is known. Out: the file, and its sha256.

    digest = download("https://…/glove.6B.zip", Path("glove.6B.zip"), max_bytes=2 << 30, time_limit_s=3600)
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from data.errors import ToolError

CHUNK_BYTES = 1 << 20
SOCKET_TIMEOUT_S = 30


def _https_opener() -> urllib.request.OpenerDirector:
    """An opener that knows https and nothing else: a redirect to http, ftp or a file is an error."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def download(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    time_limit_s: float,
    sha256: str | None = None,
    remedy: str | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> str:
    """Fetch ``url`` to ``target`` and return the sha256 (hex). Nothing is left behind on failure.

    Parameters
    ----------
    max_bytes, time_limit_s : give up beyond these.
    sha256 : what the content must hash to.
    remedy : appended to the error's line: what else the user can do.
    on_progress : called with (bytes so far, bytes in all or None).

    Raises
    ------
    ToolError : (code ``download``) not https, offline, too large, too slow, cut short, or another content.
    """

    def failure(what: str) -> ToolError:
        return ToolError(f"Could not download {url}: {what}.", code="download", remedy=remedy)

    if not url.startswith("https://"):
        raise failure("only https is allowed")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    digest, n_bytes, deadline = hashlib.sha256(), 0, time.monotonic() + time_limit_s
    try:
        with os.fdopen(handle, "wb") as stream, _https_opener().open(url, timeout=SOCKET_TIMEOUT_S) as source:  # type: ignore[union-attr]
            length = source.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            if total is not None and total > max_bytes:
                raise failure(f"it has {total} bytes, the limit is {max_bytes}")
            while chunk := source.read(CHUNK_BYTES):
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise failure(f"it is larger than the limit of {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise failure(f"it took longer than {time_limit_s:.0f} s ({n_bytes} bytes came)")
                digest.update(chunk)
                stream.write(chunk)
                if on_progress:
                    on_progress(n_bytes, total)
        if total is not None and n_bytes != total:
            raise failure(f"it ended after {n_bytes} of {total} bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise failure(f"sha256 {sha256[:12]}… expected, {digest.hexdigest()[:12]}… came")
        os.replace(partial, target)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSError
        reason = getattr(error, "reason", None) or error
        raise failure(str(reason) or type(error).__name__) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return digest.hexdigest()

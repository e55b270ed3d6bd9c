"""What other people's libraries read from the environment, set before any of them is imported.

No library may report anything: onnxruntime (voice activity) from 1.29 on, huggingface_hub (models by name) and Ray (clusters)
send usage reports unless told not to; MediaPipe after 0.10.33 does too and cannot be told, hence its pin. Compiled numba code
is cached where this user may write, which is not always the installation.

    prepare()       # called once, when the package is imported
"""

from __future__ import annotations

import os
import sys

from extractors.weights import writable_cache_dir

NO_REPORTS = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def prepare() -> None:
    """Switch the reports off, whatever the user's environment says, and choose numba's cache unless the user did."""
    os.environ.update(NO_REPORTS)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(writable_cache_dir() / "numba")
        if "numba" in sys.modules:  # it reads the environment when it is imported
            from numba.core import config

            config.reload_config()

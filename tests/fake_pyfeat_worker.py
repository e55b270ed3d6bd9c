"""A worker with the real one's pipe and loop and a toy detector, for tests without py-feat; ``$FAKE_PYFEAT`` is how it fails.

The toy's columns stand in another order than ours, with one of its own; its faces come from the first pixels of a frame: red of
pixel (0, k) is 10 × the width in px of a face k (0: no face), whose other columns are CODES.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from typing import Any

spec = importlib.util.spec_from_file_location("pyfeat_worker", os.environ["FAKE_PYFEAT_REAL"])
assert spec is not None
assert spec.loader is not None
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

UNITS = ("AU43 AU28 AU26 AU25 AU24 AU23 AU20 AU17 AU15 AU14 AU12 AU11 AU10 AU09 AU07 AU06 AU05 AU04 AU02 AU01").split()
EMOTIONS = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]
CODES = {name: (i + 1) / 100 for i, name in enumerate([*UNITS, *EMOTIONS])}
CODES |= {"Pitch": -0.5, "Roll": 0.25, "Yaw": 1.5, "FaceScore": 0.75, "valence": -1.0}
BOX = {"FaceRectX": 4.0, "FaceRectY": -3.0, "FaceRectHeight": 12.0}


class Toy:
    """In place of the real worker's Detector."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.mode, self.n_batches = os.environ.get("FAKE_PYFEAT", ""), 0
        if self.mode == "hang at start":
            time.sleep(600)
        if self.mode == "fail at start":
            raise ValueError("no such\nthing")
        self.columns = [*CODES, *BOX, "FaceRectWidth"]

    def observe(self, frames: Any, max_faces: int) -> list[Any]:
        import numpy

        self.n_batches += 1
        print("libraries print to stdout" * 100)  # must not come between the answers
        print("and to stderr, and a lot" * 10_000, file=sys.stderr)
        if self.n_batches == 2 and self.mode == "die":
            print("CUDA error: it is too hot", file=sys.stderr, flush=True)
            os._exit(7)
        if self.n_batches == 2 and self.mode == "hang":
            time.sleep(600)
        rows = []
        for frame in frames:
            widths = [value / 10 for value in frame[0, :max_faces, 0] if value]
            values = [[*CODES.values(), *BOX.values(), width] for width in widths]
            rows.append(numpy.array(values, numpy.float32).reshape(len(values), len(self.columns)))
            if self.mode == "nan":
                rows[-1][:, self.columns.index("Pitch")] = numpy.nan
        return rows


if sys.argv[1:] == ["--where"]:
    print('{"version": "2.1.5", "resources": "/nowhere"}')
else:
    worker.Detector = Toy
    worker.main()

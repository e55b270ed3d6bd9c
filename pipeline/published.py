"""Figures that the paper prints, and what must be said beside them.

Source: 'LAMB: Label-Induced Mixed-Level Blending for Multimodal Multi-label Emotion Detection', Table 1 (CMU-MOSEI test
set, aligned and unaligned). Each entry: accuracy, precision, recall, micro-F1 as printed.

    PUBLISHED["LAMB"]["aligned"]        # (0.490, 0.643, 0.517, 0.573)
"""

from __future__ import annotations

Figures = tuple[float, float, float, float]

PUBLISHED: dict[str, dict[str, Figures]] = {
    "BR": {"aligned": (0.222, 0.309, 0.515, 0.386), "unaligned": (0.233, 0.321, 0.545, 0.404)},
    "LP": {"aligned": (0.159, 0.231, 0.377, 0.286), "unaligned": (0.185, 0.252, 0.427, 0.317)},
    "CC": {"aligned": (0.225, 0.306, 0.523, 0.386), "unaligned": (0.235, 0.320, 0.550, 0.404)},
    "SGM": {"aligned": (0.455, 0.595, 0.467, 0.523), "unaligned": (0.449, 0.584, 0.476, 0.524)},
    "LSAN": {"aligned": (0.393, 0.550, 0.459, 0.501), "unaligned": (0.403, 0.582, 0.460, 0.514)},
    "ML-GCN": {"aligned": (0.411, 0.546, 0.476, 0.509), "unaligned": (0.437, 0.573, 0.482, 0.524)},
    "DFG": {"aligned": (0.396, 0.595, 0.457, 0.517), "unaligned": (0.386, 0.534, 0.456, 0.494)},
    "RAVEN": {"aligned": (0.416, 0.588, 0.461, 0.517), "unaligned": (0.403, 0.633, 0.429, 0.511)},
    "MulT": {"aligned": (0.445, 0.619, 0.465, 0.531), "unaligned": (0.423, 0.636, 0.445, 0.523)},
    "SIMM": {"aligned": (0.432, 0.561, 0.495, 0.525), "unaligned": (0.418, 0.482, 0.486, 0.484)},
    "MISA": {"aligned": (0.430, 0.453, 0.582, 0.509), "unaligned": (0.398, 0.371, 0.571, 0.450)},
    "HHMPN": {"aligned": (0.459, 0.602, 0.496, 0.556), "unaligned": (0.434, 0.591, 0.476, 0.528)},
    "TAILOR": {"aligned": (0.488, 0.641, 0.512, 0.569), "unaligned": (0.460, 0.639, 0.452, 0.529)},
    "LAMB": {"aligned": (0.490, 0.643, 0.517, 0.573), "unaligned": (0.463, 0.656, 0.454, 0.536)},
}
"""Rows of Table 1, in its order. What our code trains is listed in :data:`pipeline.compare.TRAINED`."""

EXCHANGED = ("TAILOR", "LAMB")

NOTE = (
    "Paper: figures as printed for CMU-MOSEI. In the rows marked † precision and recall are exchanged there: their "
    "metric takes (truth, prediction) and is called with (prediction, truth); the labels per sample that follow from "
    "recall, F1 and Hamming loss agree with the test set (1.359) only when they are swapped. Ours are the right way "
    "round. Accuracy, F1 and Hamming loss are not touched by it."
)

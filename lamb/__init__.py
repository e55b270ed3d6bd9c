"""The model and only the model: three feature tracks in, label probabilities out.

Reads in the order of the paper's equations: settings → blending (eq. 1–5) → aggregation (eq. 6) → model (eq. 7) →
objective (eq. 8); then normalization, metrics, training, checkpoint. Knows nothing of videos: it imports only ``data``.
Importing this package is cheap; torch loads with the modules that need it.

    from lamb.checkpoint import Checkpoint
    checkpoint = Checkpoint.load("model", device="cpu")
    probabilities = checkpoint.predict(clips)            # (N, c)
"""

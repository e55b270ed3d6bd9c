"""Face backends. One file each; a backend registers a class in ``FACE_BACKENDS`` with:

- ``spec() -> FeatureSpec`` and ``shape_spec() -> FeatureSpec`` (static): the 35 columns, and its raw shapes;
- ``__init__(settings: FaceSettings)``, and use as a context manager;
- ``observe(frames: Sequence[Frame]) -> list[list[FaceObservation]]``: the faces of each of a few consecutive frames.
"""

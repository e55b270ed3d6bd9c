"""Face backends. One file each; a backend registers a class in ``FACE_BACKENDS`` with:

- ``spec() -> FeatureSpec`` and ``shape_spec() -> FeatureSpec``: the 35 columns, and its raw shapes; static, or, where they
  depend on weights that the user brings, of the object, and then also a static ``spec_for(settings)`` for the first;
- ``__init__(settings: FaceSettings)``, and use as a context manager;
- ``observe(frames: Sequence[Frame]) -> list[list[FaceObservation]]``: the faces of each of a few consecutive frames;
- perhaps a static ``check(settings)`` that raises for weights and tools that are missing.
"""

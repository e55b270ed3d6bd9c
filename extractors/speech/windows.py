"""Windows: speech segments grouped into stretches of at most 30 s, which is what Whisper hears at once.

In: voice activity of the whole recording. Out: windows in seconds, in order, not overlapping, together covering every
speech segment; pauses longer than ``MAX_PAUSE_S`` are left out, because Whisper invents words in silence.

    speech_windows(activity)         # [SpeechSegment(start_s=1.0, end_s=28.5), SpeechSegment(start_s=28.9, end_s=41.9)]
"""

from __future__ import annotations

import numpy as np

from extractors.speech import SpeechSegment
from extractors.speech.voice_activity import FRAME_S, VoiceActivity

MAX_WINDOW_S = 30.0
MAX_PAUSE_S = 2.0
CUT_SEARCH_S = 10.0  # unbroken speech is cut at the quietest moment of the last 10 s of a window
CUT_SMOOTH_FRAMES = 5  # 0.16 s: a pause between words, not a single plosive


def speech_windows(activity: VoiceActivity) -> list[SpeechSegment]:
    """Group segments into windows; a segment longer than a window is cut where speech is least probable."""
    windows: list[SpeechSegment] = []
    for segment in activity.segments:
        for piece in _cut(segment, activity.probability):
            last = windows[-1] if windows else None
            if last and piece.start_s - last.end_s <= MAX_PAUSE_S and piece.end_s - last.start_s <= MAX_WINDOW_S:
                windows[-1] = SpeechSegment(last.start_s, piece.end_s)
            else:
                windows.append(piece)
    return windows


def _cut(segment: SpeechSegment, probability: np.ndarray) -> list[SpeechSegment]:
    """The segment in pieces of at most ``MAX_WINDOW_S``."""
    pieces = []
    start_s = segment.start_s
    while segment.end_s - start_s > MAX_WINDOW_S:
        first = int((start_s + MAX_WINDOW_S - CUT_SEARCH_S) / FRAME_S) + 1
        last = int((start_s + MAX_WINDOW_S) / FRAME_S) - CUT_SMOOTH_FRAMES
        smooth = np.convolve(probability[first : last + CUT_SMOOTH_FRAMES - 1], np.ones(CUT_SMOOTH_FRAMES), "valid")
        cut_s = (first + int(np.argmin(smooth)) + CUT_SMOOTH_FRAMES / 2) * FRAME_S  # middle of the quietest 0.16 s
        pieces.append(SpeechSegment(start_s, cut_s))
        start_s = cut_s
    pieces.append(SpeechSegment(start_s, segment.end_s))
    return pieces

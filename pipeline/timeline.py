"""The timeline a person reads: one row per utterance, one bar per emotion, the words, and what was observed.

print_timeline(record, checkpoint_record, console)
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.events import one_line

BAR_CELLS = 4
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLOURS = {
    "anger": "red",
    "disgust": "green",
    "fear": "magenta",
    "happiness": "yellow",
    "sadness": "blue",
    "surprise": "cyan",
}
REASONS = {
    "no_audio": "no sound track: words and voice are masked",
    "audio_unreadable": "the sound cannot be decoded: words and voice are masked",
    "silence": "the sound is silent: words and voice are masked",
    "no_speech": "nobody speaks: words and voice are masked",
    "no_words": "speech was heard but no words recognised",
    "no_video": "no pictures: the face is masked",
    "no_face": "no face was found: the face is masked",
    "truncated": "the file ends before its declared length",
    "ffmpeg_timeout": "decoding the sound took too long: words and voice are masked",
}


def console_for(stream: Any) -> Console:
    """A console on ``stream``; 128 columns wide where there is no terminal to ask."""
    return Console(file=stream, width=None if stream.isatty() else 128, highlight=False)


def clock(time_s: float) -> str:
    """``m:ss.t``, with hours where needed."""
    minutes, seconds = divmod(round(time_s * 10) / 10, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def bar(probability: float, chosen: bool, colour: str) -> Text:
    """A bar of eighth blocks and the percentage; bold and coloured where the label is chosen."""
    eighths = round(min(max(probability, 0.0), 1.0) * BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    cells = ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(BAR_CELLS)
    return Text(f"{cells}{probability * 100:3.0f}", style=f"bold {colour}" if chosen else "bright_black")


def _emotion_cells(scores: dict[str, Any], names: list[str]) -> list[Text]:
    labels, probabilities = scores["labels"], scores["probabilities"]
    return [bar(probabilities[n], n in labels, COLOURS.get(n, "white")) for n in names]


def print_timeline(record: dict[str, Any], labels: list[str], console: Console) -> None:
    """Print one file's record: header, notes, table, overall row. A failed file is one line."""
    name = escape(one_line(record["file"]))
    if record["outcome"] == "failed":
        console.print(f"[red]failed[/] {name}: {escape(one_line(record['error']['message']))}", soft_wrap=True)
        return
    console.print(f"[bold]{name}[/]  {clock(record['duration_s'])}  {record['outcome']}", soft_wrap=True)
    for reason in record["reasons"]:
        console.print(f"  · {REASONS.get(reason, reason)}")
    if not record["utterances"]:
        console.print("  nothing to label: nobody speaks and no face is seen")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("time", no_wrap=True)
    for label in labels:
        table.add_column(label[: BAR_CELLS + 3], no_wrap=True)
    table.add_column("labels", no_wrap=False, max_width=18)
    table.add_column("words", ratio=1)
    for letter in ("text", "voice", "face"):
        table.add_column(letter, justify="right", no_wrap=True)
    for row in record["utterances"]:
        covered = [f"{row['coverage'][m] * 100:.0f}%" for m in ("text", "audio", "visual")]
        words = Text(one_line(row["text"])) if row["text"] else Text("(no words)", style="dim")
        span = f"{clock(row['start_s'])}–{clock(row['end_s'])}"
        if "face" in row:
            span += f" face {row['face']}"
        table.add_row(span, *_emotion_cells(row, labels), _names(row["labels"]), words, *covered)
    overall = record["overall"]
    table.add_section()
    table.add_row("overall", *_emotion_cells(overall, labels), _names(overall["labels"]), "", "", "", "")
    console.print(table)


def _names(labels: list[str]) -> Text:
    return Text(", ".join(labels)) if labels else Text("–", style="dim")

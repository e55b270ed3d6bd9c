"""The timeline a person reads: per utterance one bar per emotion, the words, and what was observed.

In: a file's record (docs/output.md). Out: a table on a wide console, a block per utterance on a narrow one.

    print_timeline(record, labels, console_for(sys.stdout))
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.events import one_line

BAR_CELLS = 4
MAX_HEADER = 9  # of a label's name
WIDE = 110  # columns from which a table leaves room for the words
COVERAGE = {"text": "text", "audio": "voice", "visual": "face"}  # modality → what people call it
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
    "audio_damaged": "part of the sound cannot be decoded",
    "audio_unreadable": "the sound cannot be decoded: words and voice are masked",
    "silence": "the sound is silent: words and voice are masked",
    "no_speech": "nobody speaks: words and voice are masked",
    "no_words": "speech was heard but no words recognised",
    "no_video": "no pictures: the face is masked",
    "no_face": "no face was found: the face is masked",
    "truncated": "the file ends before its declared length",
    "video_timeout": "decoding the pictures took too long: the face is masked",
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


def print_timeline(record: dict[str, Any], labels: list[str], console: Console) -> None:
    """Print one file's record: header, notes, utterances, overall. A failed file is one line."""
    name = escape(one_line(record["file"]))
    if record["outcome"] == "failed":
        console.print(f"[red]failed[/] {name}: {escape(one_line(record['error']['message']))}", soft_wrap=True)
        return
    console.print(f"[bold]{name}[/]  {clock(record['duration_s'])}  {record['outcome']}", soft_wrap=True)
    for reason in record["reasons"]:
        console.print(f"  · {REASONS.get(reason, reason)}")
    if not record["utterances"]:
        console.print("  nothing to label: nobody speaks and no face is seen")
    elif console.width >= WIDE:
        _print_table(record, labels, console)
    else:
        _print_blocks(record, labels, console)


def _print_table(record: dict[str, Any], labels: list[str], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("time", no_wrap=True)
    for label in labels:
        table.add_column(label[:MAX_HEADER], no_wrap=True)
    table.add_column("labels", max_width=18)
    table.add_column("words", ratio=1)
    for source in COVERAGE.values():
        table.add_column(source, justify="right", no_wrap=True)
    for row in record["utterances"]:
        table.add_row(_span(row), *_bars(row, labels), _names(row["labels"]), _words(row), *_covered(row))
    overall = record["overall"]
    table.add_section()
    table.add_row("overall", *_bars(overall, labels), _names(overall["labels"]))
    console.print(table)


def _print_blocks(record: dict[str, Any], labels: list[str], console: Console) -> None:
    """Where a table has no room for the words: time, labels and coverage; words; bars, as many a line as fit."""
    cell = BAR_CELLS + 3
    per_line = max(1, (console.width - 2) // (MAX_HEADER + cell + 2))
    for row in [*record["utterances"], record["overall"]]:
        first = Text("overall" if row is record["overall"] else _span(row), style="bold")
        first.append("  ").append_text(_names(row["labels"]))
        if row is not record["overall"]:
            seen = ", ".join(f"{name} {share}" for name, share in zip(COVERAGE.values(), _covered(row), strict=True))
            first.append(f"  ({seen})", style="dim")
            console.print(first)
            console.print(Padding(_words(row), (0, 0, 0, 2)))
        else:
            console.print(first)
        bars = [
            Text(n[:MAX_HEADER].ljust(MAX_HEADER + 1)).append_text(b)
            for n, b in zip(labels, _bars(row, labels), strict=True)
        ]
        for begin in range(0, len(bars), per_line):
            console.print(Text("  ").append_text(Text("  ").join(bars[begin : begin + per_line])))


def _span(row: dict[str, Any]) -> str:
    span = f"{clock(row['start_s'])}–{clock(row['end_s'])}"
    return f"{span} face {row['face']}" if "face" in row else span


def _bars(scores: dict[str, Any], names: list[str]) -> list[Text]:
    return [bar(scores["probabilities"][n], n in scores["labels"], COLOURS.get(n, "white")) for n in names]


def _names(labels: list[str]) -> Text:
    return Text(", ".join(labels)) if labels else Text("–", style="dim")


def _words(row: dict[str, Any]) -> Text:
    return Text(one_line(row["text"])) if row["text"] else Text("(no words)", style="dim")


def _covered(row: dict[str, Any]) -> list[str]:
    return [f"{row['coverage'][modality] * 100:.0f}%" for modality in COVERAGE]

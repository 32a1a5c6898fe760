"""A result as one HTML page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.charts import Bar, Style, bars, curves, styles, swatch, timeline
from benchmarks.histogram import Histogram
from benchmarks.metrics import METRICS, SHOWN
from benchmarks.stats import FEW, Verdict, around, better, values, verdicts
from benchmarks.terminal import change, figure, said

CURVES = ("delivery", "first", "connect", "resume", "cancel_close", "cancel_command")
BARS = (
    "run_us",
    "server_us", "throughput", "client_us", "client_live_us", "wire_bytes", "connect_us", "memory", "resume_us",
)  # fmt: skip
HEADLINES = (
    ("first", "first.p50"),
    ("many", "delivery.p99"),
    ("fanout", "server_us"),
    ("saturate", "throughput"),
    ("client", "client_live_us"),
    ("chat", "wire_bytes"),
    ("idle", "memory"),
    ("cancel", "cancel_command.p50"),
)


def page(result: dict[str, Any]) -> str:
    """The page."""
    judged = verdicts(result)
    names = list(dict.fromkeys(name for part in result["profiles"].values() for name in part["series"]))
    look = styles(names)
    style = (Path(__file__).parent / "report.css").read_text()
    sections = [_section(profile, part, look, judged) for profile, part in result["profiles"].items() if part["series"]]
    notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>SSE or WebSocket? A Twinwire benchmark</title><style>{style}</style></head><body>
<header><h1>SSE or WebSocket?</h1><p class="lead">{escape(_lead(result, judged))}</p>{_conclusions(judged)}
<p class="chips">{"".join(f"<span>{escape(chip)}</span>" for chip in _environment(result))}</p></header>
<main>{_legend(look)}{_cards(result, judged)}{f'<ul class="notes">{notes}</ul>' if notes else ""}{"".join(sections)}
</main><footer><p>Times are counted from when a token was due, so that a busy server cannot hide its delays
(coordinated omission). Intervals are 95 %, by bootstrap over the rounds; WebSocket and SSE were measured in turn.
A quantile is shown where at least ten values lie beyond it.</p></footer></body></html>
"""


def _lead(result: dict[str, Any], judged: Sequence[Verdict]) -> str:
    ours = [one for one in judged if one.a == "twinwire sse" and one.word != "few"]
    if not ours:
        return "Too little was measured for a verdict."
    counts = {"WebSocket": 0, "SSE": 0}
    for one in ours:
        if one.word in {"less", "more"}:
            counts["WebSocket" if better(one) else "SSE"] += 1
    rest = len(ours) - sum(counts.values())
    rounds = result["settings"]["rounds"]
    return (
        f"Of {len(ours)} figures of one server that speaks both, SSE is better in {counts['SSE']}, WebSocket in "
        f"{counts['WebSocket']}, and {rest} do not differ, or not beyond the noise of {rounds} rounds."
    )


def _conclusions(judged: Sequence[Verdict]) -> str:
    """What can be said, in words: each figure in one of four lists, with the profiles in which it is so."""
    heads = {
        "SSE": "SSE is better, against it WebSocket has", "WebSocket": "WebSocket is better, against SSE it has",
        "alike": "No difference", "noisy": "Too noisy here to say",
    }  # fmt: skip
    lists: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in heads}
    for one in judged:
        if one.a == "twinwire sse" and one.word != "few":
            told = one.word in lists
            name = one.word if told else "WebSocket" if better(one) else "SSE"
            lists[name][METRICS[one.metric].label].append(one.profile + ("" if told else f": {change(one)}"))
    items = (
        f"<li><strong>{head}:</strong> "
        + escape("; ".join(f"{label} ({', '.join(where)})" for label, where in lists[name].items()))
        for name, head in heads.items()
        if lists[name]
    )
    return f'<ul class="conclusions">{"".join(items)}</ul>'


def _environment(result: dict[str, Any]) -> list[str]:
    known = result["environment"]
    packages = [f"{name} {version}" for name, version in known["packages"].items()]
    drift = result["calibration"]
    steady = [f"machine ±{(max(drift) / min(drift) - 1) / 2:.0%}"] if drift else []
    where = [f"{known['processor']}, {known['processors']} processors", known["kernel"], f"Python {known['python']}"]
    started = known["started"].replace("T", " ").replace("+00:00", " UTC")
    return [started, *where, *packages, f"seed {result['settings']['seed']}", *steady]


def _legend(look: dict[str, Style]) -> str:
    keys = "".join(f"<span>{swatch(style)}{escape(style.label)}</span>" for style in look.values())
    return f'<p class="legend">{keys}</p>'


def _cards(result: dict[str, Any], judged: Sequence[Verdict]) -> str:
    cards = []
    for profile, metric in HEADLINES:
        part = result["profiles"].get(profile, {})
        series = part.get("series", {})
        both = [figure(series[name], metric) if name in series else None for name in ("twinwire sse", "twinwire ws")]
        if None in both:
            continue
        known = METRICS[metric]
        wanted = (profile, metric, "twinwire sse")
        words = [f"WebSocket: {said(one)}" for one in judged if (one.profile, one.metric, one.a) == wanted]
        pair = "".join(
            f'<span class="{kind}">{known.show(value)}</span>' for kind, value in zip(("sse", "ws"), both, strict=True)
        )
        cards.append(
            f'<div class="card"><h3>{escape(known.label)}</h3><p class="where">{escape(part["about"])}</p>'
            f'<p class="pair">{pair}<small>{escape(known.unit)}</small></p>'
            f'<p class="said">{escape("".join(words))}</p></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _section(profile: str, part: dict[str, Any], look: dict[str, Style], judged: Sequence[Verdict]) -> str:
    series = part["series"]
    figures = []
    for kind in CURVES:
        cdfs = {
            name: [(value / 1e6, share) for value, share in Histogram.from_pairs(rows["histograms"][kind]).cdf()]
            for name, rows in series.items()
            if rows["histograms"].get(kind)
        }
        if cdfs and f"{kind}.p50" in SHOWN[profile]:
            label = METRICS[f"{kind}.p50"].label.partition(",")[0]
            figures.append(_figure(label, curves(f"{profile}: {label}", cdfs, look)))
    times = {name: rows["timeline"] for name, rows in series.items() if len(rows["timeline"]) > 1}
    if times:
        figures.append(_figure("delivery over time", timeline(f"{profile}: delivery", times, look)))
    for metric in BARS:
        if metric in SHOWN[profile] and (given := _bars(series, metric)):
            known = METRICS[metric]
            figures.append(_figure(f"{known.label}, {known.unit}", bars(f"{profile}: {known.label}", given, look)))
    warnings = "".join(
        f"<li>{escape(look[name].label)}: {escape(text)}</li>"
        for name, rows in series.items()
        for text in rows["warnings"]
    )
    return (
        f'<section><h2>{profile}</h2><p>{escape(part["about"])}</p><div class="figures">{"".join(figures)}</div>'
        f"{_table(profile, series, look, judged)}"
        + (f'<ul class="notes">{warnings}</ul>' if warnings else "")
        + "</section>"
    )


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _bars(series: dict[str, Any], metric: str) -> list[Bar]:
    known, found = METRICS[metric], []
    for name, rows in series.items():
        measured = values(rows, metric)
        if measured:
            low = high = center = median(measured)
            if len(measured) >= FEW:
                low, high = around(measured)
            found.append(Bar(name, center, low, high, known.show(center)))
    return found


def _table(profile: str, series: dict[str, Any], look: dict[str, Style], judged: Sequence[Verdict]) -> str:
    spoken = {(one.metric): one for one in judged if (one.profile, one.a) == (profile, "twinwire sse")}
    head = "".join(f'<th scope="col">{escape(look[name].label)}</th>' for name in series)
    rows = []
    for metric in SHOWN[profile]:
        shown = [figure(part, metric) for part in series.values()]
        if all(value is None for value in shown):
            continue
        known = METRICS[metric]
        cells = "".join(f"<td>{known.show(value)}</td>" for value in shown)
        verdict = spoken.get(metric)
        kind = "" if verdict is None or verdict.word not in {"less", "more"} else "good" if better(verdict) else "bad"
        words = said(verdict) if verdict else ""
        rows.append(
            f'<tr><th scope="row">{escape(known.label)} <small>{escape(known.unit)}</small></th>{cells}'
            f'<td class="said {kind}">{escape(words)}</td></tr>'
        )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">figure</th>{head}<th scope="col">WebSocket against SSE'
        f"</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )

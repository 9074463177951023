"""The page itself. Every text passes through `_text`, which escapes it."""

from __future__ import annotations

import base64
import dataclasses
import shlex
import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.plot import label_of
from jaxrl.report.chart import chart, number
from jaxrl.statistics import bootstrap_interval, iqm

FILMS = (".gif", ".mp4")

LARGEST = 32_000_000
"""Bytes of a film that is put into the page."""

ROWS = 1024
"""Runs in the table at most."""

SAFE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""What a browser may load or run for this page: nothing but what is in it, and no script."""

GROUPS = {"episode": "Episodes", "evaluate": "Evaluation without exploration", "loss": "Losses",
          "policy": "Policy", "value": "Values", "q": "Values", "time": "Speed"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Content:
    title: str
    agent: Any  # as jaxrl.describe writes it
    env: Any
    call: dict[str, Any]
    sessions: list[dict[str, Any]]
    steps: np.ndarray[Any, Any]  # [points]
    metrics: dict[str, np.ndarray[Any, Any]]  # [runs, points]
    films: list[Path] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    place: str = ""


def _text(value: Any) -> str:
    return escape(str(value))


# ------------------------------------------------------------------------------------- settings


def short(said: Any) -> str:
    """A description of jaxrl.describe in a word: NormalizeObs(PPO), CartPole, brax/ant."""
    if not isinstance(said, dict):
        return str(said)
    if isinstance(said.get("make"), str):
        return said["make"]
    fields = said.get("fields")
    fields = fields if isinstance(fields, dict) else {}
    if "env" in fields:
        return short(fields["env"])
    name = str(said.get("class", said.get("opaque", said.get("name", "?")))).rpartition(":")[2]
    return f"{name}({short(fields['agent'])})" if isinstance(fields.get("agent"), dict) else name


def _value(said: Any) -> str:
    """A setting in one line, as it would be typed."""
    match said:
        case None:
            return "none"
        case bool() | str() | int():
            return str(said)
        case float():
            return f"{said:.6g}"
        case list():
            return f"({', '.join(map(_value, said))})"
        case {"float": value}:
            return str(value)
        case {"list": list(inside)}:
            return _value(inside)
        case {"dict": dict(inside)}:
            return ", ".join(f"{k}={_value(v)}" for k, v in inside.items())
        case {"array": kind, "shape": list(shape), **rest}:
            values = rest.get("values")
            if shape == [] and isinstance(values, list) and len(values) == 1:
                return _value(values[0])
            inside = f" {_value(values)}" if isinstance(values, list) else ""
            return f"{kind}{shape}{inside}"
        case {"class": str(), "fields": dict(fields)}:
            inside = ", ".join(f"{k}={_value(v)}" for k, v in fields.items())
            return f"{short({'class': said['class']})}({inside})"
        case {"name": str(name)}:
            return name.rpartition(":")[2]
        case {"partial": inner, **rest}:
            return f"{_value(inner)}({_value(rest.get('keywords', {}))})"
        case dict():
            if set(said) <= {"class", "opaque", "make", "default"}:
                return short(said)
            return ", ".join(f"{k}={_value(v)}" for k, v in said.items())
        case _:
            return str(said)


def _table(rows: list[tuple[str, Any]]) -> str:
    cells = "".join(
        f"<tr><td>{_text(name)}</td><td><code>{_text(_value(value))}</code></td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _layers(said: Any, inner: str) -> list[Any]:
    """What is wrapped in what, from the outside to the inside."""
    layers = [said]
    while isinstance(said, dict) and isinstance(said.get("fields"), dict):
        said = said["fields"].get(inner)
        if not isinstance(said, dict):
            break
        layers.append(said)
    return layers


def _settings(said: Any, inner: str) -> str:
    parts: list[str] = []
    for layer in _layers(said, inner):
        fields = layer.get("fields", layer.get("constants")) if isinstance(layer, dict) else None
        rows = [(k, v) for k, v in fields.items() if k != inner] if isinstance(fields, dict) else []
        known = layer if isinstance(layer, dict) else {"make": _value(layer)}
        name = known.get("make", known.get("class", known.get("opaque", "?")))
        parts.append(f"<h3>{_text(name)}</h3>{_table(rows)}")
    return "".join(parts)


def _session(said: dict[str, Any]) -> str:
    rows: list[tuple[str, Any]] = []
    for name, value in said.items():
        match name, value:
            case "command", list():
                rows.append((name, shlex.join(map(str, value))))
            case "git", dict():
                changed = value.get("changed") or []
                state = f", {len(changed)} files changed" if changed else ", nothing changed"
                rows.append((name, f"{value.get('branch')} {value.get('commit')}{state}"))
            case "versions", dict():
                rows.append((name, ", ".join(f"{k} {v}" for k, v in value.items())))
            case "hardware", dict():
                rows += [(str(k), _listed(v)) for k, v in value.items()]
            case _:
                rows.append((name, "none" if value in ({}, None) else value))
    return _table(rows)


def _listed(value: Any) -> Any:
    """["cpu", "cpu"] is 2 x cpu."""
    if not isinstance(value, list):
        return value
    different = dict.fromkeys(map(str, value))
    return ", ".join(f"{sum(str(v) == x for v in value)} x {x}" for x in different)


# -------------------------------------------------------------------------------------- numbers


def _last(row: np.ndarray[Any, Any]) -> float:
    known = row[~np.isnan(row)]
    return float(known[-1]) if known.size else np.nan


def _final(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[runs]: the mean over the last tenth of the curve."""
    tail = values[:, -max(1, round(0.1 * values.shape[1])) :]
    counts = (~np.isnan(tail)).sum(1)
    return np.where(counts, np.nansum(tail, 1) / np.maximum(counts, 1), np.nan)


def _score(content: Content) -> str:
    """The metric that says how good a run is."""
    return next(
        (
            name
            for name in ("evaluate/return", "episode/return")
            if name in content.metrics and not np.isnan(content.metrics[name]).all()
        ),
        "",
    )


def _tiles(content: Content, score: str) -> list[tuple[str, str]]:
    runs = len(next(iter(content.metrics.values()), [1]))
    steps = int(content.steps[-1]) if len(content.steps) else 0
    tiles = [(f"{runs:,}", "run" + "s" * (runs > 1)), (number(steps), "steps of each")]
    if score:
        final = _final(content.metrics[score])
        final = final[~np.isnan(final)]
    else:
        final = np.zeros(0)
    if len(final):
        low, high = bootstrap_interval(final, iqm, samples=500) if len(final) > 1 else (0, 0)
        about = f" [{number(low)}, {number(high)}]" if len(final) > 1 else ""
        tiles.insert(0, (f"{number(iqm(final))}{about}", f"{score}, last tenth"))
    for name, unit in (("time/steps_per_second", "steps/s"), ("time/seconds", "s")):
        last = _last(content.metrics[name][0]) if name in content.metrics else np.nan
        if not np.isnan(last):
            said = "of all runs together" if unit == "steps/s" else "training, last session"
            tiles.append((f"{number(last)} {unit}", said))
    return tiles


def _seeds(content: Content) -> str:
    columns: list[tuple[str, np.ndarray[Any, Any]]] = []
    for name in ("evaluate/return", "episode/return", "episode/length"):
        values = content.metrics.get(name)
        if values is None or np.isnan(values).all():
            continue
        columns.append((f"{name}, last tenth", _final(values)))
        columns.append((f"{name}, last", np.array([_last(row) for row in values])))
        if name.endswith("return"):
            best = np.where(np.isnan(values).all(1), np.nan, -np.inf)
            best = np.fmax(best, np.fmax.reduce(values, axis=1))
            columns.append((f"{name}, best", best))
    if not columns:
        return '<p class="soft">No episode ended.</p>'
    runs = len(columns[0][1])
    head = "".join(f'<th class="n">{_text(name)}</th>' for name, _ in columns)
    rows = "".join(
        f'<tr><td class="n">{run}</td>'
        + "".join(f'<td class="n">{number(float(column[run]))}</td>' for _, column in columns)
        + "</tr>"
        for run in range(min(runs, ROWS))
    )
    more = f'<p class="soft">and {runs - ROWS:,} more in metrics.csv</p>' if runs > ROWS else ""
    head = f'<tr><th class="n">run</th>{head}</tr>'
    return f'<div class="scroll"><table>{head}{rows}</table></div>{more}'


# ----------------------------------------------------------------------------------------- page


def film(path: Path) -> str:
    """A film as part of a page: everything is inside."""
    data = base64.b64encode(path.read_bytes()).decode()
    if path.suffix == ".gif":
        return f'<img alt="an episode" src="data:image/gif;base64,{data}">'
    return f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'


def _film(path: Path) -> str:
    size = path.stat().st_size
    if size > LARGEST:
        return f'<p class="soft">{_text(path.name)} is {size / 1e6:.0f} MB, too large to show.</p>'
    return f'<div class="film">{film(path)}<p class="soft">{_text(path.name)}</p></div>'


def _figure(content: Content, name: str, big: bool = False) -> str:
    values = content.metrics[name]
    last = [x for x in (_last(row) for row in values) if np.isfinite(x)]
    said = f"last {number(iqm(np.array(last)))}" if last else ""
    label = f"{name}: {label_of(name)}" if big else name
    drawn = chart(content.steps, values, label, big)
    return (
        f"<figure><figcaption><b>{_text(label)}</b><span>{said}</span></figcaption>{drawn}</figure>"
    )


def _charts(content: Content) -> str:
    groups: dict[str, list[str]] = {}
    absent: list[str] = []
    for name, values in content.metrics.items():
        if not np.isfinite(values).any():
            absent.append(name)
            continue
        kind = name.partition("/")[0]
        groups.setdefault(GROUPS.get(kind, kind), []).append(_figure(content, name))
    parts = [
        f'<h3>{_text(title)}</h3><div class="grid-of">{"".join(figures)}</div>'
        for title, figures in groups.items()
    ]
    if absent:
        parts.append(f'<p class="soft">Never had a value: {_text(", ".join(absent))}.</p>')
    return "".join(parts)


def written(content: Content) -> str:
    score = _score(content)
    began = content.sessions[0].get("time", "") if content.sessions else ""
    place = f"{content.place}, " if content.place else ""
    parts = [
        f"<h1>{_text(content.title)}</h1>",
        f'<p class="soft">{_text(place)}begun {_text(began)}</p>',
        *(f'<p class="bad">{_text(note)}</p>' for note in content.notes),
        '<div class="tiles">',
        *(f'<div class="tile"><b>{_text(a)}</b><span>{_text(b)}</span></div>'
          for a, b in _tiles(content, score)),
        "</div>",
    ]  # fmt: skip
    if score:
        runs = len(content.metrics[score])
        said = "Interquartile mean over runs with its 95% bootstrap band, and every run. "
        parts += [
            "<h2>Learning curve</h2>",
            _figure(content, score, big=True),
            f'<p class="soft">{said * (runs > 1)}Across: environment steps of each run.</p>',
        ]
    if content.films:
        parts += ["<h2>An episode</h2>", *map(_film, content.films)]
    if content.metrics:
        parts += ["<h2>Every metric</h2>", _charts(content), "<h2>Runs</h2>", _seeds(content)]
    else:
        parts.append('<p class="soft">No metrics yet.</p>')
    parts += ["<h2>Agent</h2>", _settings(content.agent, "agent")]
    if content.env is not None:
        parts += ["<h2>Environment</h2>", _settings(content.env, "env")]
    parts += ["<h2>Call</h2>", _table(list(content.call.items())), "<h2>Circumstances</h2>"]
    for i, session in enumerate(content.sessions):
        many = len(content.sessions) > 1
        head = f"<h3>Session {i + 1}</h3>" if many else ""
        parts.append(head + _session(session))
    parts.append(f'<p class="soft">Written by jaxrl, {time.strftime("%Y-%m-%d %H:%M")}.</p>')
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SAFE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(content.title)}</title><style>{style}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )

"""The summary of a batch: summary.json, and one page, summary.html, that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from hiper.batch.ledger import LedgerEntry
from hiper.batch.messages import RECORD_SCHEMA, SOURCE
from hiper.batch.results import as_json
from hiper.batch.store import Store
from hiper.html import document, figure, table

SUMMARY, PAGE = "summary.json", "summary.html"

MAX_SHOWN = 50
"""Jobs whose pictures are on the page, and failures shown there; summary.json has all of them."""

_MAX_PICTURES = 8


def write_summary(store: Store, entries: Mapping[str, LedgerEntry], seconds: float) -> None:
    """Write both files."""
    counts = Counter(entry.status for entry in entries.values())
    facts = {
        "jobs": len(entries),
        **{status: counts[status] for status in ("done", "reused", "failed", "waiting")},
        "seconds": round(seconds, 1),
        "jobs_per_hour": round(counts["done"] / seconds * 3600, 1) if seconds else 0.0,
    }
    record = {
        "schema": RECORD_SCHEMA,
        **facts,
        "entries": {name: asdict(entry) for name, entry in entries.items()},
    }
    store.write(SUMMARY, as_json(record))
    parts = [
        table([list(facts), list(map(str, facts.values()))]),
        *_failures(entries),
        *_notes(entries),
        *_gallery(store, entries),
    ]
    store.write(PAGE, document("Batch", parts).encode())


def _failures(entries: Mapping[str, LedgerEntry]) -> Iterator[str]:
    failed = [entry for entry in entries.values() if entry.status == "failed"]
    if not failed:
        return
    yield f"<h2>Failed</h2>{_limited(len(failed))}"
    rows = [[entry.name, entry.kind, entry.reason] for entry in failed[:MAX_SHOWN]]
    yield table([["job", "error", "reason"], *rows])


def _notes(entries: Mapping[str, LedgerEntry]) -> Iterator[str]:
    noted = [entry for entry in entries.values() if entry.notes]
    if noted:
        yield f"<h2>Notes</h2>{_limited(len(noted))}"
        yield table([["job", "note"], *([entry.name, "; ".join(entry.notes)] for entry in noted[:MAX_SHOWN])])


def _gallery(store: Store, entries: Mapping[str, LedgerEntry]) -> Iterator[str]:
    there = [entry for entry in entries.values() if entry.place]
    if not there:
        return
    yield f"<h2>Pictures</h2>{_limited(len(there))}"
    names = sorted(store.sizes())
    for entry in there[:MAX_SHOWN]:
        own = [name for name in names if name.startswith(f"{entry.place}/") and name.endswith(".png")]
        own.sort(key=lambda name: not name.endswith(f"/{SOURCE}"))
        yield f"<section>{table([[entry.name]])}"
        for name in own[:_MAX_PICTURES]:
            yield figure(store.read(name), name.removeprefix(f"{entry.place}/").removesuffix(".png"))
        yield "</section>"


def _limited(count: int) -> str:
    return f"<p>The first {MAX_SHOWN} of {count}.</p>" if count > MAX_SHOWN else ""

"""``zfabric doctor``: is the data on this disk whole, and what is the disk worth."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from zfabric import errors
from zfabric.cli.options import Number, console, counted, directory_of, json_option, show

if TYPE_CHECKING:
    from zfabric.store.directory import DataDirectory, Holder
    from zfabric.store.finding import Finding, Totals
    from zfabric.store.probe import DiskReport, Latency
    from zfabric.store.repair import Repair
    from zfabric.store.salvage import Salvage

DAMAGED = 5
SHOWN_MAX = 50
_COLUMNS = ("what", "topic", "partition", "offset", "next_readable", "problem")


@click.command()
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@click.option("--repair", "mend", is_flag=True, help="Mend what can be rebuilt without loss; see above.")
@click.option(
    "--salvage",
    "new",
    metavar="NEW",
    type=click.Path(file_okay=False),
    help="Copy what can be read into the new directory NEW; see above.  [default: check DIR]",
)
@click.option("--new-identity", "rename", is_flag=True, help="Make a copied DIR another origin; see above.")
@click.option("--disk", is_flag=True, help="Measure the disk below DIR instead of checking what is on it.")
@click.option(
    "--seconds",
    type=Number(min=0, max=600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="With --disk: how long to measure, unless 2,000 samples of each are enough sooner.",
)
@json_option
def command(
    directory: str | None, mend: bool, new: str | None, rename: bool, disk: bool, seconds: float, as_json: bool
) -> None:
    """Check the data directory DIR: every batch, every small row, every file.

    DIR is by default that of ZFABRIC_URL, else ./zfabric-data; a volume in it (DIR/leader-0), which errors name, stands
    for all of it. Nothing is changed, and a running leader is not
    disturbed. What is damaged is named by topic, partition and offset, with the next offset that can be read. Exit
    code 0: all is whole; 5: something is damaged.

    --repair never touches records: a damaged batch stays, its readers are told and can seek past it. It computes the
    state of a partition anew where it disagrees with the batches, and removes rows of the time index that lead
    elsewhere and rows of producers and groups that cannot be decoded. Before that, the rows as they are go to
    DIR/quarantine-TIME.ndjson. It refuses while somebody leads the directory.

    --salvage is for a file that was cut or has damaged pages: no leader starts on it, or it ends at such a page. It
    copies every row that can be read into NEW, where a leader starts; readers of what is lost are told, and can seek
    past it. DIR is not changed. Then NEW is checked like DIR: exit code 0 if nothing is missing, 5 if something is.

    --new-identity is for a copy of a directory that is used beside the original. Both bear one id, and in a mesh one
    is taken for the other: the logs of leaders say "member_collided". The copy gets an id of its own, and is another
    origin with the same topics, records and offsets of groups. Nothing is checked. It refuses while somebody leads the
    directory.

    --disk makes a temporary directory in DIR, measures what a commit costs, and weighs whether an fsync reaches the
    medium, as far as a program can tell.
    """
    if disk + mend + rename + (new is not None) > 1:
        raise click.UsageError("--disk, --repair, --salvage and --new-identity do not go together")
    path = directory if directory is not None else _default_directory()
    if disk:
        _disk(path, seconds, as_json=as_json)
        return
    if rename:
        _rename(path, as_json=as_json)
        return
    from zfabric.store.directory import DataDirectory
    from zfabric.store.repair import repair

    place = DataDirectory.check(_whole(path))
    copied: Salvage | None = None
    if new is not None:
        place, copied = _salvage(place, new, as_json=as_json)
    path = place.path
    findings, totals, seconds = _scrub(place)
    repaired: Repair | None = None
    if mend:
        repaired = repair(place, findings)
        if repaired.mended:
            findings, totals, seconds = _scrub(place)
    holder = place.holder()
    if as_json:
        click.echo(json.dumps(_document(path, holder, findings, totals, repaired, copied)))
    else:
        _show(path, holder, findings, totals, seconds)
        if copied is None:
            _show_repair(path, findings, repaired)
    if findings or (copied is not None and copied.incomplete):
        raise click.exceptions.Exit(DAMAGED)


def _default_directory() -> str:
    from zfabric.modes import url

    text = url.text_of(None)
    path = directory_of(text)
    if path is None:
        allowed = "a URL that names a directory; or name one as DIR"
        raise errors.InvalidArgument(name="ZFABRIC_URL", value=text[:100], allowed=allowed)
    return path


def _whole(path: str) -> str:
    """Return the data directory that a volume is in; any other path as it is."""
    import os

    parent, name = os.path.split(os.path.realpath(path))
    if name.startswith("leader-") and name[7:].isdigit() and os.path.exists(os.path.join(parent, "FORMAT")):
        return parent
    return path


def _rename(path: str, *, as_json: bool) -> None:
    """Give a directory another id."""
    import os

    from zfabric.store.directory import DataDirectory
    from zfabric.store.identity import renew

    after = os.urandom(8).hex()
    before = renew(DataDirectory.check(_whole(path)), after)
    if as_json:
        click.echo(json.dumps({"directory": path, "before": before, "identity": after}))
    else:
        click.echo(f"{path} was {before or 'nobody'} and is {after}: another origin, with the same records")


def _salvage(place: DataDirectory, new: str, *, as_json: bool) -> tuple[DataDirectory, Salvage]:
    """Copy what can be read; returns the copy and what was copied."""
    from zfabric.store.directory import DataDirectory
    from zfabric.store.salvage import Salvage, salvage

    result = Salvage()
    with console(stderr=True).status("copying") as line:
        for _ in salvage(place, new, result):
            line.update(f"copied {result.rows:,} rows, {result.bytes:,} bytes")
    if not as_json:
        click.echo(
            f"copied rows: {result.rows:,} ({counted(result.bytes, 'byte')}), entries of the journal: "
            f"{result.entries:,}; not to be read are rows or pages: {result.lost:,}, entries: {result.entries_lost:,}"
        )
        for number in result.unreadable:
            click.echo(f"nothing can be read of leader-{number}")
    return DataDirectory.check(new), result


# Checking.


def _scrub(place: DataDirectory) -> tuple[list[Finding], Totals, float]:
    """Return (findings, what was checked, seconds); shows progress on a terminal."""
    from zfabric.store.scrub import Scrub

    scrub = Scrub(place)
    begin = time.monotonic()
    findings: list[Finding] = []
    screen = console(stderr=True)
    with screen.status("checking") as line:
        for step in scrub.steps():
            findings += step
            line.update(f"checked {scrub.totals.records:,} records, {len(findings):,} findings")
    return findings, scrub.totals, time.monotonic() - begin


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.what,
        "volume": finding.volume,
        "topic": finding.topic,
        "partition": finding.partition,
        "offset": finding.offset,
        "next_readable": finding.next_offset,
        "problem": finding.problem,
        "mendable": finding.mendable,
    }


def _document(
    path: str,
    holder: Holder | None,
    findings: list[Finding],
    totals: Totals,
    repaired: Repair | None,
    copied: Salvage | None,
) -> dict[str, Any]:
    import dataclasses

    return {
        "directory": path,
        "healthy": not findings,
        "led_by": None if holder is None else holder["pid"],
        "checked": dataclasses.asdict(totals),
        "findings": [_row(finding) for finding in findings],
        "mended": [] if repaired is None else [_row(finding) for finding in repaired.mended],
        "salvaged": None if copied is None else dataclasses.asdict(copied),
        "quarantine": None if repaired is None or not repaired.quarantine else repaired.quarantine,
    }


def _show(path: str, holder: Holder | None, findings: list[Finding], totals: Totals, seconds: float) -> None:
    led = "nobody leads it" if holder is None else f"led by process {holder['pid']}"
    click.echo(
        f"{path}: {counted(totals.partitions, 'partition')}, {counted(totals.batches, 'batch')}, "
        f"{counted(totals.records, 'record')}, {counted(totals.bytes, 'byte')} checked in {seconds:.1f} s; {led}"
    )
    if not findings:
        click.echo("all is whole")
        return
    show([_row(finding) for finding in findings[:SHOWN_MAX]], _COLUMNS, as_json=False)
    if len(findings) > SHOWN_MAX:
        click.echo(f"and {len(findings) - SHOWN_MAX:,} more; --json lists all")
    broken = sorted({finding.volume for finding in findings if finding.what in ("file", "page", "format")})
    if broken:
        names = ", ".join(f"leader-{number}" for number in broken)
        click.echo(
            f"The file itself is damaged in {names}: a leader refuses to start on it, or ends at a damaged page, so "
            f"nothing in it can be relied on. Write no more into it, and restore it from a copy if there is one. "
            f"'zfabric doctor {path} --salvage NEW' copies what can be read into a directory where a leader starts."
        )
    elif any(finding.offset is not None for finding in findings):
        click.echo(
            "Everything else is readable. A reader that comes to such an offset gets CorruptBatch, "
            "and goes on with seek(partition, next_readable). Where it is a keeper's copy, its leader gets the same "
            "bytes again from the origin or another keeper, within a day at the latest. Where it is an origin of which "
            "keepers in its mesh, or those that it dials, have copies, its leader gets them from there as soon as a "
            "reader has come to it: 'zfabric status --json' counts 'mended'."
        )


def _show_repair(path: str, findings: list[Finding], repaired: Repair | None) -> None:
    if repaired is None:
        click.echo("Nothing was changed.")
        if any(finding.mendable for finding in findings):
            click.echo(f"'zfabric doctor {path} --repair' mends small rows: state, time index, producer, group.")
    elif repaired.mended:
        click.echo(f"Mended {counted(len(repaired.mended), 'row')}; what was there before is in {repaired.quarantine}")
    else:
        click.echo("There was nothing that can be mended without loss; nothing was changed.")


# The disk.


def _disk(path: str, seconds: float, *, as_json: bool) -> None:
    import dataclasses
    import os

    from zfabric.store.probe import probe_disk

    if not os.path.isdir(path):
        raise errors.NotFound(kind="directory", name=path)
    with console(stderr=True).status("measuring"):
        report = probe_disk(path, seconds=seconds)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
    else:
        _show_disk(report)


def _show_disk(report: DiskReport) -> None:
    facts = report.facts
    device = facts.device or "no device of its own"
    cache = f", cache: {facts.write_cache}" if facts.write_cache else ""
    click.echo(f"{report.path}: {facts.filesystem or 'unknown file system'} on {device}{cache}")
    rows = [
        _latency("a commit of one record (LMDB, two flushes)", report.commit),
        _latency("a write and one flush", report.flush),
        _latency("a write without a flush", report.write),
    ]
    show(rows, ("what", "p50_us", "p99_us", "samples"), as_json=False)
    click.echo(f"an fsync reaches the medium: {report.honours_fsync} ({'; '.join(report.reasons)})")
    click.echo("Only a power cut can prove it.")


def _latency(what: str, latency: Latency) -> dict[str, Any]:
    return {"what": what, "p50_us": latency.p50_us, "p99_us": latency.p99_us, "samples": latency.samples}

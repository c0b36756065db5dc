"""``zfabric services``: instances of services, whether they answer, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from zfabric.cli.options import connect, fabric_options, json_option, show

if TYPE_CHECKING:
    from zfabric.model import ServiceInstance
    from zfabric.sync.fabric import Fabric

_LIST = ("service", "version", "instance", "endpoint", "host", "zone", "weight", "state")
_PING = ("service", "version", "instance", "ms", "answer")
_COUNTS = ("requests", "replies", "failures", "refused", "running", "waiting", "callers")
ASKED_AT_ONCE = 64
_STATS = ("service", "version", "instance", *_COUNTS)


@click.group(name="services")
def command() -> None:
    """Instances of services: those that are announced, whether they answer, and what they have done."""


@command.command(name="list")
@click.argument("name", required=False)
@fabric_options
@json_option
def list_instances(name: str | None, url: str | None, timeout: float, as_json: bool) -> None:
    """List the instances of all services, or of NAME.

    weight is the share of requests that an instance wants, in percent; state is serving or draining.
    """
    with connect(url, timeout) as fabric:
        show([_row(found) for found in _found(fabric, name)], _LIST, as_json=as_json)


@command.command()
@click.argument("name", required=False)
@fabric_options
@json_option
def ping(name: str | None, url: str | None, timeout: float, as_json: bool) -> None:
    """Ask the method "health" of each instance, of all services or of NAME: its answer, and the milliseconds it took.

    All are asked at once; those that have not answered within --timeout are said to have not. Ends with status 1 then.
    """
    import time

    def ask(fabric: Fabric, found: ServiceInstance, seconds: float) -> dict[str, Any]:
        began = time.monotonic()
        reply = fabric.request(f"{found.service}.health", instance=found.instance, timeout=seconds)
        return {"ms": round((time.monotonic() - began) * 1e3, 3), "answer": reply.decode("utf-8", "replace")}

    _each(name, url, timeout, ask, _PING, {"ms": None}, as_json=as_json)


@command.command()
@click.argument("name", required=False)
@fabric_options
@json_option
def stats(name: str | None, url: str | None, timeout: float, as_json: bool) -> None:
    """Show what each instance has done since its start, of all services or of NAME; --json has each method's too."""
    import json

    from zfabric import errors

    def ask(fabric: Fabric, found: ServiceInstance, seconds: float) -> dict[str, Any]:
        reply = fabric.request(f"{found.service}.stats", instance=found.instance, timeout=seconds)
        try:
            told = json.loads(reply)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):  # A service may have a method of its own of this name.
            allowed = "an object in JSON, as the stats of every service are"
            raise errors.ProtocolViolation(problem=f"stats of {found.service!r}: {reply[:100]!r}", allowed=allowed)
        return told

    _each(name, url, timeout, ask, _STATS, dict.fromkeys(_COUNTS), as_json=as_json)


def _each(
    name: str | None,
    url: str | None,
    timeout: float,
    ask: Callable[[Fabric, ServiceInstance, float], dict[str, Any]],
    columns: tuple[str, ...],
    missing: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    import time
    from concurrent.futures import ThreadPoolExecutor

    from zfabric import errors

    with connect(url, timeout) as fabric:
        instances = _found(fabric, name)
        until = time.monotonic() + timeout

        def one(found: ServiceInstance) -> dict[str, Any] | errors.ZFabricError:
            try:
                return ask(fabric, found, max(0.1, round(until - time.monotonic(), 1)))
            except errors.ZFabricError as error:
                return error

        with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
            answers = list(threads.map(one, instances))
    rows = []
    for found, told in zip(instances, answers, strict=True):
        row = {"service": found.service, "version": found.version, "instance": f"{found.instance:x}"}
        if not isinstance(told, errors.ZFabricError):
            rows.append({**missing, **told, **row})
            continue
        if "answer" not in columns:
            click.echo(f"{found.service} {row['instance']}: {told}", err=True)
        rows.append({**missing, "answer": str(told), **row})
    show(rows, columns, as_json=as_json)
    if any(isinstance(told, errors.ZFabricError) for told in answers):
        raise click.exceptions.Exit(1)


def _found(fabric: Fabric, name: str | None) -> list[ServiceInstance]:
    from zfabric import errors

    found = fabric.services(name)
    if name is not None and not found:
        raise errors.NotFound(kind="service", name=name)
    return found


def _row(found: ServiceInstance) -> dict[str, Any]:
    return {
        "service": found.service,
        "version": found.version,
        "instance": f"{found.instance:x}",
        "endpoint": found.endpoint,
        "host": found.host,
        "zone": found.zone,
        "weight": found.weight,
        "state": "draining" if found.draining else "serving",
    }

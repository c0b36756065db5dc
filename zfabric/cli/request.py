"""``zfabric request``: ask a service."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from zfabric.cli.options import connect, fabric_options, json_option, standard_input

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric


@click.command()
@click.argument("method", metavar="SERVICE.METHOD")
@click.argument("body", required=False)
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=TEXT", help="Sent along; may be repeated.  [default: none]"
)
@click.option(
    "--service-version", "version", default="", metavar="VERSION", help="Only instances of this one.  [default: any]"
)
@click.option("--idempotent", is_flag=True, help="It may be executed twice: repeat it when its instance is lost.")
@click.option("--stream", is_flag=True, help="Read a stream: each chunk is a line, or an object with --json.")
@click.option("--notify", is_flag=True, help="Want no reply.")
@click.option("--traceback", is_flag=True, help="Show the handler's traceback when it fails.")
@fabric_options
@json_option
def command(  # noqa: PLR0917 - one parameter an option
    method: str,
    body: str | None,
    headers: tuple[str, ...],
    version: str,
    idempotent: bool,
    stream: bool,
    notify: bool,
    traceback: bool,
    url: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask SERVICE.METHOD and print its reply; BODY is text, or - for standard input.

    With --json the reply is an object: "value", or "value_base64" where it is no UTF-8 text, and "seconds" that it
    took. --timeout bounds the request as well.
    """
    import os
    import time

    from zfabric import errors

    if stream and notify:
        raise click.UsageError("--stream wants replies, --notify wants none")
    carried = dict(_header(text) for text in headers)
    if len(carried) < len(headers):
        raise click.UsageError("--header names one header twice; a request has each once")
    # As the shell gave it: an argument may be any bytes.
    value = standard_input("give the BODY").read() if body == "-" else os.fsencode(body or "")
    with connect(url, timeout) as fabric:
        began = time.monotonic()
        try:
            if notify:
                fabric.notify(method, value, timeout=timeout, headers=carried, version=version)
                if as_json:
                    import json

                    click.echo(json.dumps({"notified": method}))
                return
            safe = idempotent or None
            if not stream:
                reply = fabric.request(
                    method,
                    value,
                    timeout=timeout,
                    headers=carried,
                    version=version,
                    idempotent=safe,
                    traceback=traceback,
                )
                _show(reply, began, as_json=as_json, line=sys.stdout.isatty())
                return
            with fabric.stream(
                method,
                value,
                timeout=timeout,
                headers=carried,
                version=version,
                idempotent=safe,
                traceback=traceback,
            ) as chunks:
                for chunk in chunks:
                    _show(chunk, began, as_json=as_json, line=True)
        except errors.ServiceUnavailable as error:
            if _exists(fabric, error.service):
                raise
            missing = errors.NotFound(kind="service", name=error.service)
            missing.add_note(str(error))
            raise missing from error
        except errors.RemoteError as error:
            if error.values.get("traceback"):
                error.add_note(str(error.values["traceback"]))
            raise


def _exists(fabric: Fabric, service: str) -> bool:
    """Tell whether an instance of a service is announced; True where the fabric does not say."""
    from zfabric import errors

    try:
        return bool(fabric.services(service))
    except errors.ZFabricError:
        return True


def _header(text: str) -> tuple[str, bytes]:
    import os

    name, equals, content = text.partition("=")
    if not equals or not name:
        raise click.UsageError("--header wants NAME=TEXT")
    return name, os.fsencode(content)


def _show(reply: bytes, began: float, *, as_json: bool, line: bool) -> None:
    import json
    import time

    if not as_json:
        sys.stdout.buffer.write(reply + b"\n" * line)
        sys.stdout.buffer.flush()
        return
    import base64

    try:
        shown = {"value": reply.decode()}
    except UnicodeDecodeError:
        shown = {"value_base64": base64.b64encode(reply).decode()}
    click.echo(json.dumps({**shown, "seconds": round(time.monotonic() - began, 6)}))

"""Settings of a node: option, then ``ZFABRIC_*`` variable, then the TOML file, then the default."""

from __future__ import annotations

import os
import tomllib
from typing import Any

import msgspec

from zfabric import errors
from zfabric.settings import LeaderSettings


def load(path: str | None, options: dict[str, Any]) -> LeaderSettings:
    """Return the settings of leaders.

    Args:
        path: a TOML file whose table ``[leader]`` names fields of LeaderSettings.
        options: values given on the command line; None where not given.

    Raises:
        ConfigurationError: the file cannot be read, or a value is wrong; says where it came from.
    """
    values: dict[str, Any] = {}
    source = "defaults"
    if path is not None:
        source = path
        try:
            with open(path, "rb") as file:
                table = tomllib.load(file).get("leader", {})
            values = msgspec.convert(table, dict[str, Any])
        except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise errors.ConfigurationError(
                source=path, problem=str(error), instead="mend or leave out --config"
            ) from error
    known = LeaderSettings.__struct_fields__
    for name in known:
        variable = f"ZFABRIC_{name.upper()}"
        if variable in os.environ:
            values[name] = os.environ[variable]
            source = f"{source}, {variable}"
    values.update({name: value for name, value in options.items() if value is not None})
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise errors.ConfigurationError(
            source=source, problem=f"unknown setting {unknown[0]!r}", instead=f"known: {', '.join(known)}"
        )
    try:
        return msgspec.convert(values, LeaderSettings, strict=False)
    except (msgspec.ValidationError, errors.InvalidArgument) as error:
        raise errors.ConfigurationError(
            source=source, problem=str(error), instead="see 'zfabric serve --help'"
        ) from error

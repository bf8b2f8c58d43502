"""Where a store lies: a folder of this machine, or a URL that fsspec understands (`s3://bucket/store`).

A place is a `Path` or, for a URL, a `UPath`; both are joined with `/` and have `name` and `open`. What differs between
them is in `files.py` and `objects.py`. Credentials come from the usual environment and configuration of the storage's
own library; a place holds none, so none is pickled, stored or printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from ..errors import ConfigError

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"


def parse_place(text: str) -> Place:
    """The place that a command line means: a URL where there is `://`, else a folder.

    Raises:
        ConfigError: the URL names a user or a password, its scheme is unknown, or its package is not installed.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        return Path(rest)
    if "@" in urlsplit(text).netloc:
        raise ConfigError(
            f"{scheme}://…: a store's URL must not hold a user or a password; give them by the environment or by the "
            "configuration files of the storage's library"
        )
    from upath import UPath

    try:
        # Other processes write to the store, so listings must not be remembered.
        place = UPath(text.rstrip("/"), use_listings_cache=False)
        _ = place.fs
    except ImportError as error:
        raise ConfigError(f"{text}: {error}; for s3:// run `pip install '.[s3]'` in your copy of mumo") from error
    except ValueError as error:
        raise ConfigError(f"{text}: fsspec does not know this kind of URL: {error}") from error
    return place


def absolute(place: Place) -> Place:
    """The same place whatever the working folder."""
    return place.resolve() if isinstance(place, Path) else place


def cache_folder() -> Path:
    """Folder of this machine for what can be made again: `$MUMO_CACHE`, else `mumo` in the user's cache folder."""
    given = os.environ.get("MUMO_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mumo"

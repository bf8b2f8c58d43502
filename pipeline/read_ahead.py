"""Reading the next thing on a thread while the caller works on the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def read_ahead(load: Callable[[Key], Value], keys: Sequence[Key], name: str) -> Iterator[tuple[Key, Value]]:
    """Each key with what `load` makes of it, in order; one is loaded ahead, so memory is bounded by two.

    An error of `load` is raised where its key would have come. `load` runs on one thread only, which is called
    `name`; it gains where it releases the interpreter lock, as decoders of slides and stores do.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) as reader:
        ahead = reader.submit(load, keys[0]) if keys else None
        for number, key in enumerate(keys):
            assert ahead is not None
            value = ahead.result()
            ahead = reader.submit(load, keys[number + 1]) if number + 1 < len(keys) else None
            yield key, value

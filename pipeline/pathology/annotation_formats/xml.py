"""XML annotation files: read a piece at a time, and handed to the reader of their format, which the root names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from .aperio import AperioReader
from .asap import AsapReader
from .collector import Collector


class XmlReader(Protocol):
    """The reader of one XML format."""

    def start(self, element: Element) -> None:
        """An element begins: its attributes are there, its children not yet."""

    def end(self, element: Element) -> None:
        """An element is complete."""


_READERS: Mapping[str, type[AsapReader] | type[AperioReader]] = {
    "ASAP_Annotations": AsapReader,
    "Annotations": AperioReader,
}


def read_xml(path: Path, collector: Collector) -> None:
    """Read a file of ASAP or of Aperio ImageScope.

    Raises:
        SlideError: it is of neither, has a document type, is damaged, or holds what its format does not allow.
        OSError: it cannot be read.
    """
    reader: XmlReader | None = None
    try:
        with path.open("rb") as stream:
            for event, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
                if reader is None:
                    reader = _reader_of(element.tag, collector)
                if event == "start":
                    reader.start(element)
                else:
                    reader.end(element)
    except DefusedXmlException as error:
        raise collector.refused(
            "a document type or entities", "plain XML, for safety", "Remove the declaration."
        ) from error
    except (ParseError, UnicodeError, ValueError) as error:
        found = f"no well-formed XML ({error})"
        raise collector.refused(found, "a file of ASAP or Aperio ImageScope", "Export it anew.") from error


def _reader_of(root: str, collector: Collector) -> XmlReader:
    if root not in _READERS:
        raise collector.refused(
            f"<{root[:40]}>",
            "<ASAP_Annotations> of ASAP or <Annotations> of Aperio ImageScope",
            "Export it from one of these, or as GeoJSON.",
        )
    return _READERS[root](collector)

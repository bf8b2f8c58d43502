"""Annotation files, one module a format: `asap`, `aperio` (both XML, told apart in `xml`), and `geojson`."""

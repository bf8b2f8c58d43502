"""Reference pages from the code: commands, settings, files of a store, the cohort file. Run while the site is built.

A page holds a marker, `<!-- generated: NAME -->`, which the build replaces by the Markdown of `sections()[NAME]`, so
that nothing generated is kept in the repository and nothing can be out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import typer
from pydantic import BaseModel

from mumo import cli
from mumo.commands import options
from mumo.config import ClinicalSettings, Settings
from mumo.pipeline.cohorts import cohort_file, fields
from mumo.stores import specs

MARKER = re.compile(r"<!-- generated: ([a-z-]+) -->")

PARTS: Mapping[str, tuple[tuple[str, specs.ArraySpec | specs.TableSpec], ...]] = {
    "tiles": (
        ("slide-ID/pixels.zarr", specs.BAG_PIXELS),
        ("slide-ID/pixels.zarr", specs.BAG_PLACES),
        ("slide-ID/bags.parquet", specs.BAGS),
    ),
    "windows": (("ct-ID/histograms.parquet", specs.HISTOGRAMS), ("cohort/windows.parquet", specs.WINDOWS)),
    "rois": (
        ("ct-ID/crops.zarr", specs.LESION_CROPS),
        ("ct-ID/volumes.zarr/ROW", specs.LESION_INTENSITY),
        ("ct-ID/volumes.zarr/ROW", specs.LESION_MASK),
        ("ct-ID/lesions.parquet", specs.LESIONS),
    ),
    "embed": (
        ("slide-ID/features.zarr", specs.WORD_FEATURES),
        ("ct-ID/features.zarr", specs.LESION_FEATURES),
    ),
    "radiomics": (("slide-ID/features.parquet, ct-ID/features.parquet", specs.OMICS),),
    "clinical": (
        ("cohort/patients.parquet", specs.PATIENTS),
        ("cohort/images.parquet", specs.IMAGES),
        ("cohort/measures.parquet", specs.MEASURES),
    ),
}
"""Stage → where in its items each declared array and table lies."""

ELSEWHERE: tuple[tuple[str, specs.TableSpec], ...] = (
    ("STORE/runs/TIME/items.parquet", specs.RUN_ITEMS),
    ("RUN/predictions.parquet, and the file of `mumo predict`", specs.PREDICTIONS),
    ("RUN/clinical.parquet", specs.CLINICAL),
    ("OUT/explanations.parquet of `mumo explain`", specs.EXPLANATIONS),
)
"""Tables of runs."""


def sections() -> Mapping[str, Callable[[], str]]:
    """What a marker may name."""
    return {
        "commands": commands,
        "settings": settings,
        "store": store,
        "record": record,
        "run-tables": run_tables,
        "exit-codes": exit_codes,
        "cohort-file": cohort_sections,
        "cohort-fields": cohort_fields,
        "label-defaults": label_defaults,
    }


def fill(text: str) -> str:
    """A page with every marker replaced; KeyError for a marker that names nothing."""
    return MARKER.sub(lambda found: sections()[found[1]](), text)


# --- commands -----------------------------------------------------------------------------------------------
def commands() -> str:
    """Every command with its usage, help, arguments and options."""
    group = typer.main.get_command(cli.app)
    return "\n".join(_command(name, command) for name, command in sorted(group.commands.items()))  # type: ignore[attr-defined]


def _command(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"mumo {name}")
    usage = re.sub(r"[{}]", "", command.get_usage(context).removeprefix("Usage: "))
    arguments, options = [], []
    for parameter in command.params:
        shown, meaning = parameter.get_help_record(context)
        meaning = " ".join(meaning.replace("[required]", "").split())
        if parameter.param_type_name == "argument":
            arguments.append((f"`{shown.split()[0]}`", _cell(meaning)))
        else:
            options.append((_option(shown), _cell(meaning)))
    return "\n".join(
        [
            f"(command-{name})=",
            f"## mumo {name}",
            "",
            f"```text\n{' '.join(usage.split())}\n```",
            "",
            _paragraphs(command.help),
            "",
            *_table(("argument", "what it is"), arguments),
            "",
            *_table(("option", "what it does"), options),
            "",
        ]
    )


_KINDS = (("<int range>", "N"), ("<int>", "N"), ("<float range>", "X"), ("<float>", "X"), ("<str>", "NAME"))
"""How values of options are written here."""


def _option(shown: str) -> str:
    """An option with its value, as in `--seeds N`."""
    for kind_of_value, word in _KINDS:
        shown = shown.replace(kind_of_value, word)
    return f"`{shown}`".replace("|", "\\|")


def exit_codes() -> str:
    """The exit codes of every command."""
    rows = [
        (options.DONE, "everything that was asked for is done"),
        (options.WRONG, "the call, the configuration, the cohort, the store or the run is wrong; nothing was started"),
        (options.SOME_FAILED, "finished, but some items failed; each is listed with its reason"),
        (130, "stopped with Ctrl-C; what was finished is kept, and the same command goes on from there"),
    ]
    return "\n".join(_table(("code", "meaning"), [(f"`{code}`", meaning) for code, meaning in rows]))


# --- settings -----------------------------------------------------------------------------------------------
def settings() -> str:
    """Every setting of `config.Settings`, by section, with type, default and meaning."""
    schema = Settings.model_json_schema()
    lines = []
    for name, field in Settings.model_fields.items():
        lines += [f"## {name}", ""]
        lines += _section(name, field.annotation, schema)
    return "\n".join(lines)


def _section(prefix: str, model: Any, schema: Mapping[str, Any]) -> list[str]:
    """The settings of one section, those of its subsections after them."""
    own = schema["$defs"][model.__name__]["properties"]
    lines = [_paragraphs(model.__doc__), ""]
    nested = []
    for name, field in model.model_fields.items():
        dotted = f"{prefix}.{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested += [f"### {dotted}", "", *_section(dotted, field.annotation, schema)]
            continue
        default = json.dumps(own[name]["default"], ensure_ascii=False)
        lines += [
            f"````{{confval}} {dotted}",
            f":type: {kind(own[name])}",
            f":default: {'none' if default == 'null' else f'``{default}``'}",
            "",
            _paragraphs(field.description or ""),
            "````",
            "",
        ]
    return lines + nested


def kind(schema: Mapping[str, Any]) -> str:
    """What a setting accepts, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join("none" if option.get("type") == "null" else kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"``{value}``" for value in schema["enum"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} × {kind(schema['prefixItems'][0])}"
    return _simple_kind(schema)


def _simple_kind(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return f"list of {kind(schema['items'])}"
    if schema["type"] == "object":
        return f"names, each with {kind(schema['additionalProperties'])}"
    words = {"number": "number", "integer": "whole number", "boolean": "``true`` or ``false``", "string": "text"}
    name = "path" if schema.get("format") == "path" else words[schema["type"]]
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join([name, *(f"{words} {schema[key]:g}" for key, words in limits.items() if key in schema)])


# --- stores -------------------------------------------------------------------------------------------------
def store() -> str:
    """Every part of every stage with its arrays and columns."""
    lines = []
    for stage, parts in PARTS.items():
        lines += [f"## {stage}", ""]
        for place, spec in parts:
            lines += _array(place, spec) if isinstance(spec, specs.ArraySpec) else _columns(place, spec)
        if stage == "clinical":
            columns = [(field.name, field.type, "", CODES_MEANING[field.name], False) for field in specs.CODES_SCHEMA]
            lines += _column_table("cohort/codes.parquet", "codes", columns)
    return "\n".join(lines)


CODES_MEANING: Mapping[str, str] = {
    "patient": "study id of the patient",
    "group": "`pathology_report`, `radiology_report` or `patient_information`",
    "item": "name of the item",
    "classes": "its classes, in the order of the code",
    "code": "one number a class: 1 for the class (one-hot, multi-hot) or a share; all zero when unknown",
}


def _array(place: str, spec: specs.ArraySpec) -> list[str]:
    chunk = " × ".join("all" if length is None else str(length) for length in spec.chunk)
    rows = [
        ("dtype", f"`{spec.dtype}`"),
        ("dimensions", " × ".join(spec.dims)),
        ("chunk", chunk),
        *([("unit", spec.unit)] if spec.unit else []),
    ]
    title = f"### array `{spec.name}` in `{place}`"
    return [title, "", _sentence(spec.meaning), "", *_table(("", ""), rows), ""]


def _columns(place: str, spec: specs.TableSpec) -> list[str]:
    columns = [(c.name, c.type, c.unit, c.meaning, c.nullable) for c in spec.columns]
    lines = _column_table(place, spec.name, columns)
    if spec.open_ended:
        lines += ["Behind these columns follows one `double` column for each feature, under PyRadiomics' name.", ""]
    return lines


def _column_table(place: str, name: str, columns: Iterable[tuple[str, pa.DataType, str, str, bool]]) -> list[str]:
    rows = [
        (
            f"`{column}`",
            _cell(meaning),
            _cell(unit),
            f"`{_arrow(type_)}`" + (", may be null" if nullable else ""),
        )
        for column, type_, unit, meaning, nullable in columns
    ]
    shown = f"`{place}`" if "`" not in place else place
    return [f"### table `{name}` in {shown}", "", *_table(("column", "meaning", "unit", "type"), rows), ""]


def _arrow(type_: pa.DataType) -> str:
    """An Arrow type as a reader of pandas says it."""
    return str(type_).replace("element: ", "").replace("item: ", "")


def record() -> str:
    """The fields of a completion record."""
    return "\n".join(_table(("field", "meaning"), [(f"`{k}`", _cell(v)) for k, v in specs.record_fields().items()]))


def run_tables() -> str:
    """The tables outside items."""
    return "\n".join(line for place, spec in ELSEWHERE for line in _columns(place, spec))


# --- the cohort file ----------------------------------------------------------------------------------------
def cohort_sections() -> str:
    """The keys of every section of a cohort file."""
    sections: tuple[tuple[str, type[BaseModel], frozenset[str]], ...] = (
        ("top of the file", cohort_file.CohortFile, frozenset()),
        ("`[patients]`, `[[reports]]`, `[ct]`", cohort_file.TableSection, frozenset()),
        ("`[slides]`, besides these", cohort_file.SlidesSection, frozenset(cohort_file.TableSection.model_fields)),
        ("`[lesions]`, besides these", cohort_file.LesionsSection, frozenset(cohort_file.TableSection.model_fields)),
        ("`[labels]`", cohort_file.LabelsSection, frozenset()),
    )
    lines = []
    for title, model, known in sections:
        rows = [
            (f"`{name}`", "yes" if field.is_required() else "", _cell(field.description or _KEYS[name]))
            for name, field in model.model_fields.items()
            if name not in known
        ]
        lines += [f"### {title}", "", *_table(("key", "required", "meaning"), rows), ""]
    return "\n".join(lines)


_KEYS: Mapping[str, str] = {
    "format_version": "Version of this format: 1.",
    "name": "Name of the cohort, for reports.",
    "patients": "Section: the table of patients.",
    "labels": "Section: how response labels are made.",
    "slides": "Section: the table of slides; left out where there are none.",
    "ct": "Section: the table of CT studies; left out where there are none.",
    "lesions": "Section: the table of lesions; needed with `[ct]`.",
}


def cohort_fields() -> str:
    """The fields of the cohort's tables."""
    tables = {
        "[patients] and [[reports]]": fields.patient_fields(ClinicalSettings()),
        "[slides]": fields.slide_fields(),
        "[ct]": fields.ct_fields(),
        "[lesions]": fields.lesion_fields(),
    }
    lines = []
    for title, table in tables.items():
        rows = [
            (
                f"`{name}`" + (" (required)" if spec.required else ""),
                _cell(fields.MEANINGS[name]),
                _cell(spec.expected),
            )
            for name, spec in table.items()
        ]
        lines += [f"### Fields of `{title}`", "", *_table(("field", "meaning", "accepts"), rows), ""]
    return "\n".join(lines)


def label_defaults() -> str:
    """The cut-offs of the label rule and the words for unknown that hold without a word in the cohort file."""
    rows = [(f"`{group}`", f"{days:g} days") for group, days in cohort_file.DEFAULT_CUTOFF_DAYS.items()]
    words = ", ".join(f'`"{word}"`' for word in cohort_file.DEFAULT_UNKNOWN)
    return "\n".join(
        [*_table(("treatment group", "cut-off"), rows), "", f"Words for unknown, in any case of letters: {words}."]
    )


# --- Markdown -----------------------------------------------------------------------------------------------
def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table; nothing where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|{'|'.join('---' for _ in header)}|"
    return [f"| {' | '.join(header)} |", rule, *lines] if lines else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _paragraphs(text: str) -> str:
    """A docstring's text with its paragraphs and without its indentation."""
    return "\n\n".join(" ".join(part.split()).replace("*", "\\*") for part in (text or "").split("\n\n"))

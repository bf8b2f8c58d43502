"""The registry of stages, in the order of their dependencies."""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError
from ..stores.specs import STAGES
from .stage import Stage

_CLASSES = {
    "tiles": ("tiles", "TilesStage"),
    "windows": ("windows", "WindowsStage"),
    "rois": ("rois", "RoisStage"),
    "embed": ("embed", "EmbedStage"),
    "radiomics": ("radiomics", "RadiomicsStage"),
    "clinical": ("clinical", "ClinicalStage"),
}


def get_stage(name: str) -> Stage:
    """The stage of that name; imported only when asked for, because some need heavy libraries."""
    if name not in _CLASSES:
        raise ConfigError(f"stage {name!r} is unknown; expected one of {', '.join(STAGES)}, or all")
    module, class_name = _CLASSES[name]
    stage: Stage = getattr(import_module(f".{module}", __package__), class_name)()
    return stage


def stage_names(choice: str) -> tuple[str, ...]:
    """Stages that a choice on the command line stands for: one, or `all`."""
    if choice == "all":
        return STAGES
    if choice not in STAGES:
        raise ConfigError(f"stage {choice!r} is unknown; expected one of {', '.join(STAGES)}, or all")
    return (choice,)

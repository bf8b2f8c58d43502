from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mumo.config import Settings, load_settings
from mumo.errors import ConfigError


def test_load_settings__file_then_assignments(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[tiles]\nworking_mpp = 1.0\nbag_px = 512\nword_px = 64\n")
    settings = load_settings(file, ["tiles.working_mpp=2", "embed.weights=random:0", "tiles.colour.method='none'"])
    assert (settings.tiles.working_mpp, settings.tiles.bag_px) == (2.0, 512)
    assert settings.embed.weights == "random:0"
    assert settings.tiles.colour.method == "none"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("tiles.bag_size=1", "tiles.bag_size: Extra inputs"),
        ("tiles.bag_px=0", "tiles.bag_px: Input should be greater than 0"),
        ("tiles.word_px=300", "word_px = 300 must divide bag_px = 2048"),
        ("model.heads=3", "heads = 3 must divide width = 128"),
        ("fit.learning_rate=nan", "fit.learning_rate"),
        ("tiles", "expected section.key=value"),
        ("tiles.bag_px.x=1", "tiles.bag_px"),
    ],
)
def test_load_settings__names_what_is_wrong(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_settings(None, [assignment])


def test_load_settings__all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(None, ["tiles.bag_px=0", "fit.epochs=0"])
    assert "tiles.bag_px" in str(error.value)
    assert "fit.epochs" in str(error.value)


def test_load_settings__unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("[tiles")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "bad.toml")


def test_settings__cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().tiles.bag_px = 1  # type: ignore[misc]


def fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += fields(kind, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def test_settings__every_one_says_what_it_means() -> None:
    undocumented = [name for name, field in fields(Settings) if not field.description]
    assert undocumented == []

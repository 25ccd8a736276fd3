"""The settings of loading a model, from the environment."""

from __future__ import annotations

import pytest

from sae.errors import UserError
from sae.lm.load_settings import LoadSettings


@pytest.mark.parametrize(("name", "value"), [("SAESCOPE_MODEL_DTYPE", "int8"), ("SAESCOPE_REMOTE_CODE", "perhaps")])
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: ") as error:
        LoadSettings.from_environment({name: value})
    assert error.value.field == name


def test_the_estimate_of_memory_knows_the_format() -> None:
    assert LoadSettings.from_environment({}).weight_bytes == 4
    settings = LoadSettings.from_environment({"SAESCOPE_MODEL_DTYPE": "bfloat16", "SAESCOPE_REMOTE_CODE": "1"})
    assert settings == LoadSettings("bfloat16", True)
    assert settings.weight_bytes == 2

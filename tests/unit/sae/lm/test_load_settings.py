"""The settings of loading a model, from the environment."""

from __future__ import annotations

import pytest

from sae.errors import UserError
from sae.lm.load_settings import LoadSettings


@pytest.mark.parametrize(("name", "value"), [("SAESCOPE_MODEL_DTYPE", "int8"), ("SAESCOPE_REMOTE_CODE", "perhaps"),
                                             ("SAESCOPE_MODEL_BITS", "6"), ("SAESCOPE_DEVICE_MAP", "gpu"),
                                             ("SAESCOPE_MAX_MEMORY", "0=20GiB"), ("SAESCOPE_OFFLOAD_FOLDER", "/d")])
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: ") as error:
        LoadSettings.from_environment({name: value})
    assert error.value.field == name


def test_the_estimate_of_memory_knows_the_format() -> None:
    assert LoadSettings.from_environment({}).weight_bytes == 4
    settings = LoadSettings.from_environment({"SAESCOPE_MODEL_DTYPE": "bfloat16", "SAESCOPE_REMOTE_CODE": "1"})
    assert settings == LoadSettings("bfloat16", True)
    assert settings.weight_bytes == 2


def test_the_devices_of_a_model() -> None:
    settings = LoadSettings.from_environment(
        {"SAESCOPE_DEVICE_MAP": "auto", "SAESCOPE_MAX_MEMORY": "0=20GiB, cpu=1.5GB",
         "SAESCOPE_OFFLOAD_FOLDER": "/disk"})
    assert settings.max_memory == ((0, "20GiB"), ("cpu", "1.5GB"))
    assert settings.offload == "/disk"
    assert settings.placed
    for wrong in ("20GiB", "gpu=20GiB", "0=20"):
        with pytest.raises(UserError, match="is not a device and its memory"):
            LoadSettings.from_environment({"SAESCOPE_DEVICE_MAP": "auto", "SAESCOPE_MAX_MEMORY": wrong})


def test_few_bits_count_for_linear_layers_alone() -> None:
    settings = LoadSettings.from_environment({"SAESCOPE_MODEL_BITS": "4", "SAESCOPE_MODEL_DTYPE": "bfloat16"})
    assert (settings.weight_bytes, settings.other_bytes) == (0.5, 2)
    assert settings.placed

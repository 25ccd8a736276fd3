"""Which files are an SAE, and which library wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.errors import UserError
from sae.formats.detect import Found, find, several, weight_files
from tests.unit.sae.formats.saes import SAES


@pytest.mark.parametrize(("names", "weights"), [
    (["cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "trainer_state.pt"], ["sae_weights.safetensors"]),
    (["t/ae.pt", "t/config.json", "t/checkpoints/ae_10.pt", "t/checkpoints/ae_20.pt"], ["t/ae.pt"]),
    (["a/sae.safetensors", "b/sae.safetensors", "optimizer_0.pt", "state.pt", "rank_0_state.pt"],
     ["a/sae.safetensors", "b/sae.safetensors"]),
    (["README.md"], [])])
def test_only_weight_files_are_saes(names: list[str], weights: list[str]) -> None:
    assert weight_files(names) == weights


def test_one_of_many_has_to_be_named() -> None:
    with pytest.raises(UserError, match=r"^source: holds \d+ SAEs; name one of them: "):
        find(SAES / "dictionary_learning")


@pytest.mark.parametrize(("files", "format_", "config"), [
    ({"cfg.json": "{}", "sae_weights.safetensors": ""}, "saelens", "cfg.json"),
    ({"cfg.json": "{}", "sae.safetensors": ""}, "sparsify", "cfg.json"),
    ({"config.json": '{"trainer": {}}', "ae.pt": ""}, "dictionary_learning", "config.json"),
    ({"config.json": '{"other": {}}', "ae.pt": ""}, "by_tensors", "config.json"),
    ({"sae.json": "{}", "sae.safetensors": ""}, "saescope", "sae.json"),
    ({"params.npz": ""}, "by_tensors", None),
    ({"deep/er/cfg.json": "{}", "deep/er/sae_weights.safetensors": "", "deep/er/sparsity.safetensors": ""}, "saelens",
     "deep/er/cfg.json")])
def test_names_and_config_decide_the_library(
    tmp_path: Path, files: dict[str, str], format_: str, config: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = find(tmp_path)
    assert (found.format, found.config) == (format_, config and tmp_path / config)
    assert found.folder == found.weights.parent
    assert find(found.weights) == Found(format_, found.folder, found.weights, str(found.weights), found.config)


def test_what_holds_no_sae_is_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no known kind of SAE \(its files: none\)"):
        find(tmp_path)
    (tmp_path / "optimizer_0.pt").touch()
    (tmp_path / "weights.pt").symlink_to(tmp_path / "optimizer_0.pt")  # links are not followed
    with pytest.raises(UserError, match=r"its files: optimizer_0\.pt"):
        find(tmp_path)
    for path, reason in ((tmp_path / "none", "there is no such file"), (tmp_path / "a.txt", "is not a weight file")):
        if path.suffix:
            path.touch()
        with pytest.raises(UserError, match=reason):
            find(path)


def test_a_long_list_of_saes_is_cut() -> None:
    error = several([f"layer_{i}/sae.safetensors" for i in range(11)])
    assert str(error).endswith("name one of them: layer_0, layer_1, layer_2, layer_3, layer_4, layer_5, layer_6, "
                               "layer_7 and 3 more")

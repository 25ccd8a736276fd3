"""`push` against a fake hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from sae.errors import UserError
from sae.formats.writers.hub import card, push
from tests.unit.sae.formats.writers.test_saelens import make_sae


class FakeHub:
    """A hub that keeps uploaded files by their path in the repository."""

    def __init__(self, card: bool = False, refuses: bool = False) -> None:
        self.files: dict[str, bytes] = {"README.md": b"mine"} if card else {}
        self.refuses, self.repos = refuses, {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.refuses:
            raise RuntimeError("401\nUnauthorized")
        assert exist_ok
        self.repos[repo_id] = private

    def file_exists(self, repo_id: str, filename: str) -> bool:
        assert repo_id in self.repos
        return filename in self.files

    def upload_folder(self, *, repo_id: str, folder_path: str, path_in_repo: str, commit_message: str) -> None:
        assert commit_message
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                name = f"{path_in_repo}/{path.relative_to(folder_path)}".lstrip("/")
                self.files[name] = path.read_bytes()


def saved(tmp_path: Path, **case: Any) -> tuple[Path, dict[str, Any]]:
    sae = make_sae(**case)
    sae.save(tmp_path / "sae")
    return tmp_path / "sae", sae.config | {"metrics": {"fvu": 0.1234, "l0": 5.0}}


def test_saelens_files_and_a_card(tmp_path: Path) -> None:
    folder, config = saved(tmp_path, architecture="batch_topk")
    hub = FakeHub()
    assert push(folder, config, "ada/saes", private=True, api=hub) == "ada/saes/2-res"
    assert set(hub.files) == {"2-res/cfg.json", "2-res/sae_weights.safetensors", "README.md"}
    assert hub.repos == {"ada/saes": True}
    (tmp_path / "w").write_bytes(hub.files["2-res/sae_weights.safetensors"])
    assert load_file(tmp_path / "w")["W_enc"].shape == (16, 40)
    text = hub.files["README.md"].decode()
    assert text.startswith("---\nlibrary_name: saelens\n")
    for said in ("batch_topk", "blocks.2.hook_resid_post", "0.1234", 'from_disk(f"{folder}/2-res")', "latents | 40 |"):
        assert said in text


def test_our_own_form_below_a_path(tmp_path: Path) -> None:
    folder, config = saved(tmp_path)
    hub = FakeHub(card=True)
    push(folder, config, "ada/saes", form="saescope", path="layers/2", api=hub)
    assert hub.files["layers/2/sae.safetensors"] == (folder / "sae.safetensors").read_bytes()
    assert hub.files["README.md"] == b"mine", "a card that somebody wrote stays"


@pytest.mark.parametrize(("options", "field", "says"), [
    ({"form": "npz"}, "format", "not one of saelens, saescope"), ({"path": "../x"}, "path", "leaves the repository")])
def test_what_is_refused_before_the_hub_is_asked(
    tmp_path: Path, options: dict[str, str], field: str, says: str,
) -> None:
    folder, config = saved(tmp_path)
    hub = FakeHub()
    with pytest.raises(UserError, match=says) as caught:
        push(folder, config, "ada/saes", api=hub, **options)
    assert caught.value.field == field
    assert (hub.repos, hub.files) == ({}, {})


def test_a_refusal_of_the_hub_is_one_line(tmp_path: Path) -> None:
    folder, config = saved(tmp_path)
    with pytest.raises(UserError, match=r"repo: ada/saes was not written \(RuntimeError: 401 Unauthorized\)"):
        push(folder, config, "ada/saes", api=FakeHub(refuses=True))


def test_an_sae_without_metrics_has_a_card() -> None:
    assert "Not evaluated." in card(make_sae().config | {"metrics": {}}, "a/b", "saescope", "x")

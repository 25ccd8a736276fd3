"""Sources that the user names: local paths, zip files, and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae.errors import UserError
from sae.formats import fetch
from tests.unit.sae.formats.hostile import zip_of

if TYPE_CHECKING:
    pass


def test_only_the_files_of_one_sae_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["README.md", "l1/cfg.json", "l1/sae.safetensors", "l2/cfg.json", "l2/sae.safetensors", "config.json",
             "l2/optimizer_0.pt", "l2/big.bin.md"]
    fetched: list[str] = []
    monkeypatch.setattr(fetch, "_names", lambda repo: files)
    monkeypatch.setattr(fetch, "_download", lambda repo, name: fetched.append(name) or str(tmp_path / name))
    path, hint = fetch.fetch("me/saes/l2", tmp_path, lambda words: None)
    assert (path, hint) == (tmp_path / "l2" / "sae.safetensors", "me/saes/l2")
    assert sorted(fetched) == ["config.json", "l2/cfg.json", "l2/sae.safetensors"]
    with pytest.raises(UserError, match=r"^source: holds 2 SAEs; name one of them: me/saes/l1, me/saes/l2$"):
        fetch.fetch("me/saes", tmp_path, lambda words: None)
    with pytest.raises(UserError, match=r"^source: me/saes has no SAE under l3"):
        fetch.fetch("me/saes/l3", tmp_path, lambda words: None)


@pytest.mark.parametrize(("source", "name"), [
    ("me/saes", "me/saes"), ("me/saes/layer_2/ae.pt", "me/saes/layer_2/ae.pt"), ("hf://me/saes", "me/saes"),
    ("https://huggingface.co/me/saes/tree/main/layer_2", "me/saes/layer_2"),
    ("https://huggingface.co/me/saes/blob/main/ae.pt", "me/saes/ae.pt")])
def test_addresses_of_the_hub_name_a_repository_and_what_is_in_it(source: str, name: str) -> None:
    assert fetch.hub_name(source) == name


@pytest.mark.parametrize("source", ["./me/saes", "/me/saes", "~/saes", "me", "me/../saes", "me/saes/..", "a b/c", ""])
def test_what_can_be_no_name_of_the_hub_is_a_missing_file(source: str) -> None:
    with pytest.raises(UserError, match=r"^source: there is no file or folder"):
        fetch.hub_name(source)


def test_a_local_path_is_read_in_place_and_a_zip_file_is_unpacked(tmp_path: Path) -> None:
    said: list[str] = []
    assert fetch.fetch(str(tmp_path), tmp_path / "scratch", said.append) == (tmp_path, str(tmp_path.resolve()))
    assert said == []
    zip_of(tmp_path / "a-name.zip", ("deep/ae.pt", b"x"))
    folder, name = fetch.fetch(str(tmp_path / "a-name.zip"), tmp_path / "scratch", said.append)
    assert (name, (folder / "deep" / "ae.pt").read_bytes()) == ("a-name", b"x")
    assert folder.is_relative_to(tmp_path / "scratch")
    assert said == ["unpacking a-name.zip"]


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(fetch, "_names", lambda repo: ["ae.pt"])
    monkeypatch.setattr(fetch, "_download", fail)
    with pytest.raises(UserError, match="me/saes") as raised:
        fetch.fetch("me/saes", tmp_path, lambda words: None)
    assert "\n" not in str(raised.value)
    assert raised.value.field == "source"

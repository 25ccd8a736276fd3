"""A checkpoint is whole or absent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae.errors import DamagedFile
from sae.workspace import checkpoint as engine
from sae.workspace.checkpoint import Saver, load_checkpoint, save_checkpoint


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    state = {"tensors": {"a": torch.randn(3, 2), "n": torch.arange(4)}, "step": 7, "x": 0.1, "kind": ["dataset", 2.5],
             "edges": (1.0, 2.0), "nothing": None}
    path = tmp_path / "deep" / "c.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, state)
    again = load_checkpoint(path)
    assert again is not None
    for name, tensor in state.pop("tensors").items():  # type: ignore[attr-defined]
        assert torch.equal(again["tensors"][name], tensor)
    del again["tensors"]
    assert again == state
    assert {p.name for p in path.parent.iterdir()} <= {"c.pt", "c.pt.before"}


def test_a_failure_while_saving_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def cut(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(engine.torch, "save", cut)
    with pytest.raises(OSError, match="space"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"x": Harm()}, tmp_path / "c.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "harm").exists()


def test_a_saver_writes_while_the_work_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(path: Path, state: Any) -> None:
        started.set()
        assert proceed.wait(60)
        save_checkpoint(path, state)

    monkeypatch.setattr(engine, "save_checkpoint", slow)
    path = tmp_path / "c.pt"
    with Saver(path) as saver:
        assert saver.load() is None
        saver.save({"step": 1})
        assert started.wait(60)
        assert not path.exists()
        proceed.set()
        saver.save({"step": 2})
    assert Saver(path).load() == {"step": 2}


def test_what_fails_in_a_saver_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, state: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(engine, "save_checkpoint", full)
    with pytest.raises(OSError, match="space"), Saver(tmp_path / "c.pt") as saver:
        saver.save({"step": 1})
    with Saver(tmp_path / "c.pt") as saver:
        saver.save({"step": 1})
        with pytest.raises(OSError, match="space"):
            saver.save({"step": 2})


def test_a_saver_without_a_path_saves_nothing() -> None:
    with Saver(None) as saver:
        saver.save({"step": 1})
        assert saver.load() is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(torch.full((64,), 7.0).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.write_bytes(b""), Path.unlink])
def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path = tmp_path / "c.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, {"step": step, "x": torch.full((64,), 7.0)})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.pt", "c.pt.before"]
    damage(path)
    assert load_checkpoint(path)["step"] == 2
    damage(engine.before_last(path))
    if damage is Path.unlink:
        assert load_checkpoint(path) is None
    else:
        with pytest.raises(DamagedFile, match=r"run: its checkpoint c.pt is damaged \(.*\); delete it"):
            load_checkpoint(path)

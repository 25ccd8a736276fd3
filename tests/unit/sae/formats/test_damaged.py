"""Damaged and hostile files: each is refused with one line, nothing is executed, nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sae.errors import UserError
from sae.runs.create import start
from sae.runs.execute import EXIT_USER, execute
from sae.workspace.paths import Workspace
from tests.unit.sae.formats.hostile import one_line, zip_of
from tests.unit.sae.formats.saes import SAES

FOLDERS = {"saelens": "saelens/jumprelu", "checkpoint": "saelens/checkpoint_topk", "sparsify": "sparsify/topk/layers.3",
           "dictionary_learning": "dictionary_learning/batch_topk", "openai": "openai",
           "gemma_scope": "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_40/average_l0_12",
           "gemma_scope_2": "gemma_scope_2/transcoder"}
WEIGHTS = {"saelens": "sae_weights.safetensors", "checkpoint": "sae_weights.safetensors",
           "sparsify": "sae.safetensors", "dictionary_learning": "ae.pt", "gemma_scope": "params.npz",
           "openai": "resid_post_mlp_v5_32k_layer_8.pt", "gemma_scope_2": "params.safetensors"}
CONFIGS = {"saelens": "cfg.json", "checkpoint": "cfg.json", "sparsify": "cfg.json",
           "dictionary_learning": "config.json", "gemma_scope_2": "config.json"}
FACTS = {"model": "demo", "hook": "blocks.2.hook_resid_post", "bos": "yes", "index": False}

Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path, str, random.Random], None]


def load(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return torch.load(path, weights_only=True)


def store(path: Path, tensors: dict[str, Any]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        torch.save(tensors, path)


def changed(change: Callable[[torch.Tensor], torch.Tensor], matrices_only: bool = False) -> Damage:
    """Make a damage that changes one of the tensors that the reader uses."""
    def damage(folder: Path, kind: str, rng: random.Random) -> None:
        path = folder / WEIGHTS[kind]
        tensors = load(path)
        unused = {"stats_last_nonzero", "latents_activation_frequency", "k", "threshold"}
        used = sorted(name for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.ndim > matrices_only
                      and name not in unused)
        name = rng.choice(used)
        tensors[name] = change(tensors[name].clone())
        store(path, tensors)
    return damage


def filled(value: float) -> Damage:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.contiguous()
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor
    return changed(change)


def truncated(folder: Path, kind: str, rng: random.Random) -> None:
    path = folder / WEIGHTS[kind]
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) - 1)])


def missing_tensor(folder: Path, kind: str, rng: random.Random) -> None:
    path = folder / WEIGHTS[kind]
    tensors = load(path)
    del tensors[rng.choice([name for name, t in sorted(tensors.items())
                            if isinstance(t, torch.Tensor) and t.ndim == 2])]
    store(path, tensors)


def noise(folder: Path, kind: str, rng: random.Random) -> None:
    (folder / WEIGHTS[kind]).write_bytes(rng.randbytes(rng.randrange(4000)))


def rows_cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:-1].clone()


def huge_header(folder: Path, kind: str, rng: random.Random) -> None:
    """Claim a size of a header or of a tensor far beyond the file."""
    path = folder / WEIGHTS[kind]
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        if rng.random() < 0.5:
            path.write_bytes(struct.pack("<Q", rng.choice([1 << 62, 1 << 40, len(data)])) + data[8:])
            return
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        entry = header[rng.choice([name for name in header if name != "__metadata__"])]
        entry["shape"] = [1 << 30, 1 << 12]
        entry["data_offsets"] = [0, (1 << 42) * 4]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    elif path.suffix == ".npz":
        arrays = dict(np.load(path))
        with zipfile.ZipFile(path, "w") as archive:
            for i, (name, array) in enumerate(arrays.items()):
                buffer = io.BytesIO()
                shape = (1 << 30, 1 << 12) if i == 0 else array.shape
                np.lib.format.write_array_header_1_0(
                    buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
                archive.writestr(f"{name}.npy", buffer.getvalue() + array.tobytes())
    else:  # one element seen as very many, by strides of 0
        tensors = load(path)
        name = next(name for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.ndim == 2)
        tensors[name] = torch.zeros(1).expand(1 << 30, 1 << 12)
        torch.save(tensors, path)


class Payload:
    """An object that executes a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def malicious(folder: Path, kind: str, rng: random.Random) -> None:
    path, payload = folder / WEIGHTS[kind], Payload(folder.parent / "executed")
    if path.suffix == ".npz":
        np.savez(path, W_enc=np.array([payload, payload], dtype=object), allow_pickle=True)
    else:
        torch.save({"encoder.weight": torch.zeros(4, 4), "more": payload}, path)


def bad_config(folder: Path, kind: str, rng: random.Random) -> None:
    path = folder / CONFIGS[kind]
    config = json.loads(path.read_text())
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    wrong = {"architecture": "telepathic", "dict_class": "os.system", "d_in": 13, "k": -1, "d_sae": 1 << 40,
             "num_latents": 7, "activation_dim": "many", "normalize_activations": "magic", "activation": "exp"}
    own = {"dictionary_learning": {"dict_class", "activation_dim"}, "gemma_scope_2": {"architecture"},
           "sparsify": {"d_in", "k", "num_latents", "activation"},
           "checkpoint": {"architecture", "d_in", "k", "d_sae", "normalize_activations"},
           "saelens": {"architecture", "d_in", "d_sae", "normalize_activations"}}[kind]
    section, name = rng.choice([(s, name) for s in sections for name in sorted(own) if name in s])
    section[name] = wrong[name]
    texts = [json.dumps(config), json.dumps([config]), json.dumps(config)[:-9], "[" * 100_000, "\xff\xfe", "null"]
    path.write_text(rng.choice(texts), encoding="latin-1")


EVERYWHERE: dict[str, Damage] = {
    "truncated": truncated, "noise": noise, "missing tensor": missing_tensor, "huge header": huge_header,
    "malicious pickle": malicious, "NaN": filled(float("nan")), "infinity": filled(float("-inf")),
    "whole numbers": changed(lambda t: t.to(torch.int32)), "complex": changed(lambda t: torch.complex(t, t)),
    "swapped orientation": changed(lambda t: t.T.contiguous(), matrices_only=True), "a row less": changed(rows_cut),
    "one axis more": changed(lambda t: t[None])}
CASES = [(kind, name) for kind in FOLDERS for name in EVERYWHERE
         # safetensors has no complex numbers, nor pickles that anything would read.
         if not (WEIGHTS[kind].endswith(".safetensors") and name == "complex")]
CASES += [(kind, "bad config") for kind in CONFIGS]
DAMAGES = EVERYWHERE | {"bad config": bad_config}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CASES), seed=st.integers(0, 2**32 - 1))
def test_two_hundred_damaged_files_are_refused_in_a_line(tmp_path: Path, case: tuple[str, str], seed: int) -> None:
    kind, name = case
    workspace, folder = Workspace(tmp_path / "home"), tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SAES / FOLDERS[kind], folder)
    for other in folder.glob("*"):
        if other.name not in (WEIGHTS[kind], CONFIGS.get(kind, "")):
            other.unlink()
    DAMAGES[name](folder, kind, random.Random(seed))
    with pytest.raises(UserError) as raised:
        start("import", {"source": str(folder), **FACTS}, workspace)
    one_line(raised.value)
    assert not (tmp_path / "executed").exists()
    assert not workspace.root.exists()


@pytest.mark.parametrize("kind", FOLDERS)
def test_undamaged_files_are_accepted(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(SAES / FOLDERS[kind], folder)
    if kind == "openai":
        (folder / "mlp_post_act_v4_layer_3.pt").unlink()
        for other in folder.glob("*.expected.safetensors"):
            other.unlink()
    facts = FACTS if kind != "gemma_scope_2" else {**FACTS, "out_hook": "blocks.2.hook_mlp_out"}
    assert start("import", {"source": str(folder), **facts}, Workspace(tmp_path / "home")).path.exists()


# ---- archives


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "parent": lambda path: zip_of(path, ("../evil.txt", b"x")),
    "deep parent": lambda path: zip_of(path, ("a/b/../../../evil.txt", b"x")),
    "absolute": lambda path: zip_of(path, ("/tmp/evil.txt", b"x")),
    "backslash": lambda path: zip_of(path, ("..\\evil.txt", b"x")),
    "drive": lambda path: zip_of(path, ("C:/evil.txt", b"x")),
    "link": lambda path: zip_of(path, (link("cfg.json"), b"/etc/passwd")),
    "bomb": lambda path: zip_of(path, ("params.npz", bytes(1 << 26)), compression=zipfile.ZIP_DEFLATED),
    "twice": lambda path: zip_of(path, ("a.pt", b"x"), ("a.pt", b"y")),
    "no SAE": lambda path: zip_of(path, ("README.md", b"x")),
    "noise": lambda path: (path.write_bytes(b"PK\x03\x04" + bytes(99)), path)[1],
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_of_it_stays(name: str, tmp_path: Path, workspace: Workspace) -> None:
    path = HOSTILE[name](tmp_path / "sae.zip")
    folder = start("import", {"source": str(path), **FACTS}, workspace)
    assert execute(folder, workspace) == EXIT_USER
    status = folder.status()
    assert status is not None
    one_line(status.error or "")
    assert {p.name for p in workspace.root.iterdir()} == {"runs"}
    assert {p.name for p in folder.path.iterdir()} <= {"spec.json", "status.json", "lock"}
    assert not list(tmp_path.rglob("evil*"))

"""The data sets of sae-probes from a folder of their shape, and agreement with the package itself.

`tests/fixtures/make/probes.py` wrote the expected numbers with sae-probes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.evaluation.concepts import Concepts
from sae.evaluation.probe_sets import PACKAGE, are_probe_sets, check_labels, list_sets, read_set, split
from sae.evaluation.probe_tasks import Examples, Task
from sae.evaluation.probing import Probing, probe
from tests.fixtures.make.probe_subject import N_TEST, N_TRAIN, L, examples

THEIRS = json.loads((Path(__file__).parents[3] / "fixtures" / "sae_probes" / "expected.json").read_text())
TABLE = "probing_datasets_MASTER.csv.zst"
Write = Callable[..., Path]


def silent(done: int, of: int) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Makes a folder of data sets: `folder(name=[(prompt, target), ...])`."""
    def make(**sets: Any) -> Path:
        lines = ["Dataset Tag,Dataset save name,Data type", "old,cleaned_data/0_old.csv,Continuous Data"]
        for number, (name, rows) in enumerate(sets.items(), 1):
            lines.append(f"{name},cleaned_data/{number}_{name}.csv,Binary Classification")
            compressed(tmp_path / f"cleaned_data/{number}_{name}.csv.zst",
                       "\n".join(["prompt,prompt_len,target", *(f'"{text}",3,{target}' for text, target in rows)]))
        compressed(tmp_path / TABLE, "\n".join(lines))
        return tmp_path

    return make


def compressed(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(text.encode())


def texts(n: int) -> list[tuple[str, str]]:
    """Return texts that end in a bracket or in a word, with the label that says which."""
    return [(f"value {i} = f({i}{')' if i % 2 else ' and'}", "closed" if i % 2 else "open") for i in range(n)]


def test_k_sparse_probes_score_as_sae_probes_does() -> None:
    x_NL, y_N = examples()
    eye = torch.eye(L)
    sae = Autoencoder({"W_enc": eye, "b_enc": torch.zeros(L), "W_dec": eye, "b_dec": torch.zeros(L)},
                      {"architecture": "relu", "k": None, "normalize": "none", "n_latents": L, "id": "toy/eye"})
    task = Task("formula", np.arange(N_TRAIN), np.arange(N_TRAIN, N_TRAIN + N_TEST), y_N)
    row = probe(sae, Examples(torch.from_numpy(x_NL), [task]), task, (1, 2, 5, 16), silent, 0)
    for k, theirs in THEIRS["sparse"].items():
        ours = row["sparse"][k]
        assert ours["latents"] == theirs["latents"]
        for here, there in (("accuracy", "test_acc"), ("auc", "test_auc"), ("f1", "test_f1")):
            assert ours[here] == pytest.approx(theirs[there], abs=0.01), (k, here)


def test_the_texts_drawn_for_train_and_test_are_the_package_s_own() -> None:
    train_N, test_N = split((np.arange(500) % 3 == 0).astype(float), 240, 80, 0)
    assert (train_N.tolist(), test_N.tolist()) == (THEIRS["train"], THEIRS["test"])
    few_N, rest_N = split(np.array([1.0] * 3 + [0.0] * 20), 10, 8, 1)
    assert len(few_N) == 8  # three positive ones are all that there are
    assert not set(few_N) & set(rest_N)


def test_a_folder_is_probed_set_by_set(folder: Write, subject_of: Any, tiny_sae: Any) -> None:
    labels = folder(brackets=texts(180), chance=[(text, i % 3 % 2) for i, (text, _) in enumerate(texts(180))])
    assert [one.name for one in list_sets(labels)] == ["1_brackets", "2_chance"]
    assert are_probe_sets(labels)
    subject = subject_of(tiny_sae("topk", k=6), labels=labels)
    seen: list[float] = []
    result = Probing(n_test=60).run(subject, lambda done, of: seen.append(done / of))
    first, second = result.detail["tasks"]
    assert [first["task"], second["task"]] == ["1_brackets", "2_chance"]  # the lowest loss first
    assert (first["n_train"], first["n_test"]) == (80, 60)
    assert first["sparse"]["16"]["accuracy"] > 0.95  # the last token says it
    assert second["raw"]["auc"] < 0.75
    assert seen == sorted(seen)
    assert seen[-1] == 1
    with pytest.raises(UserError, match="only probing reads; concepts need token annotations"):
        Concepts().run(subject, silent)


def test_labels_are_numbered_in_the_order_of_their_names(folder: Write) -> None:
    (one,) = list_sets(folder(pair=[("a, b", "yes"), ("c", "no"), ("d", "yes")]))
    found, y_N = read_set(one)
    assert found == ["a, b", "c", "d"]
    assert y_N.tolist() == [1, 0, 1]


def test_bad_folders_get_one_line(folder: Write, subject_of: Any, tiny_sae: Any, tmp_path: Path) -> None:
    def line(call: Callable[[], object]) -> str:
        with pytest.raises(UserError) as found:
            call()
        assert found.value.field == "labels"
        assert "\n" not in str(found.value)
        return str(found.value)

    assert "has no probing_datasets_MASTER.csv.zst" in line(lambda: list_sets(tmp_path))
    home = folder(one=[("a", 1), ("b", 1)])
    (one,) = list_sets(home)
    assert "1_one.csv.zst has 1 labels, and a probe needs two" in line(lambda: read_set(one))
    compressed(one.path, "text,target\na,1")
    assert "has no column 'prompt'" in line(lambda: read_set(one))
    one.path.write_bytes(b"plain,csv")
    assert "1_one.csv.zst is no CSV that zstd compressed" in line(lambda: read_set(one))
    one.path.unlink()
    assert "has no cleaned_data/1_one.csv.zst" in line(lambda: list_sets(home))
    folder(small=texts(104))
    subject = subject_of(tiny_sae("topk", k=6), labels=home)
    one = list_sets(home)[0]
    compressed(one.path, "\n".join(["prompt,target", *(f"word,{int(i < 2)}" for i in range(110))]))
    assert "has 110 texts, of which 2 are positive; a probe needs more than 5" in line(
        lambda: Probing().run(subject, silent))
    compressed(home / TABLE, "Dataset save name,Data type\n../x.csv,Binary Classification")
    assert "../x.csv is outside the folder" in line(lambda: list_sets(home))
    compressed(home / TABLE, "Dataset save name,Data type\nx.csv,Other")
    assert "names no data set of the type Binary Classification" in line(lambda: check_labels(home))
    assert "there is no file" in line(lambda: check_labels(tmp_path / "none.csv"))


def test_the_package_is_found_without_importing_it(
    folder: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert THEIRS["binary_sets"] == 113
    monkeypatch.setattr("sae.evaluation.probe_sets.find_spec", lambda name: None)
    with pytest.raises(UserError, match="sae-probes is not installed"):
        check_labels(Path(PACKAGE))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "data").symlink_to(folder(one=texts(4)))
    monkeypatch.setattr("sae.evaluation.probe_sets.find_spec",
                        lambda name: SimpleNamespace(origin=str(tmp_path / "package" / "__init__.py")))
    assert [one.name for one in list_sets(Path(PACKAGE))] == ["1_one"]
    check_labels(Path(PACKAGE))

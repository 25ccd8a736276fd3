"""The choice of a format, and explanations out and back in through each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae.cli.main import app
from sae.errors import UserError
from sae.explain import results
from sae.explain.exchange import formats
from sae.explain.records import Explanation, Score
from sae.workspace.paths import Workspace
from tests.unit.sae.explain.conftest import SAE
from tests.unit.sae.explain.exchange.exchanged import ALL, MODEL, RULE, kept


@pytest.mark.parametrize(("form", "name"), [
    ("neuronpedia", "e.jsonl"), ("saescope", "e.jsonl"), ("delphi", "folder"), ("saebench", "e.json")])
def test_what_is_written_is_read_back(tmp_path: Path, form: str, name: str) -> None:
    formats.write(form, ALL, tmp_path / name, SAE, "2-res", "blocks.2.hook_resid_post")
    back = formats.read(tmp_path / name, 10)
    assert {(one.latent, one.text) for one in back if isinstance(one, Explanation)} == {
        (3, RULE.text), (5, MODEL.text), (7, "numbers")}
    if form in ("neuronpedia", "saescope"):
        assert kept(back) == kept(ALL)
    if form in ("saescope", "saebench"):
        assert [one.value for one in back if isinstance(one, Score)] == [0.9]
    with pytest.raises(UserError, match="exists already"):
        formats.write(form, ALL, tmp_path / name, SAE, "2-res", "h")


@pytest.mark.parametrize(("name", "content"), [
    ("a.txt", "x"), ("a.jsonl", "x"), ("a.jsonl", "[]\n"), ("a.jsonl", "{}\n"), ("a.jsonl", ""),
    ("a.json", '{"eval_type_id": "autointerp"}'), ("a.jsonl.gz", "no gzip")])
def test_other_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="source: ") as error:
        formats.read(tmp_path / name, 10)
    assert error.value.field == "source"
    with pytest.raises(UserError, match="there is no"):
        formats.read(tmp_path / "none", 10)


def test_explanations_are_added_once(tmp_path: Path) -> None:
    assert formats.add(tmp_path, ALL) == 3
    assert formats.add(tmp_path, ALL) == 0
    assert len(results.read(tmp_path)[0]) == 4


def test_the_commands(indexed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("SAESCOPE_HOME", str(indexed.root))
    formats.write("saescope", ALL, tmp_path / "in.jsonl", SAE, "", "")
    done = CliRunner().invoke(app, ["explanations", "import", str(tmp_path / "in.jsonl"), "--sae", SAE])
    assert (done.exit_code, done.stdout) == (0, f"3 explanations added to {SAE}\n")
    out = tmp_path / "out.jsonl"
    assert CliRunner().invoke(app, ["explanations", "export", "--sae", SAE, "--out", str(out)]).exit_code == 0
    assert kept(formats.read(out, 60)) == kept(ALL)


def test_a_form_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'csv' is not one of neuronpedia, delphi, saebench, saescope") as refused:
        formats.write("csv", ALL, tmp_path / "e.csv", SAE, "2-res", "h")
    assert refused.value.field == "format"
    assert not list(tmp_path.iterdir())

"""The formats in which explanations come and go: Neuronpedia, delphi, SAEBench, and the program's own.  No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sae.errors import UserError
from sae.explain import results
from sae.explain.exchange import delphi, neuronpedia, saebench
from sae.explain.records import Explanation, Record, Score, to_json
from sae.workspace.files import atomic_write

FORMATS = {
    "neuronpedia": "JSONL in the form of Neuronpedia's dumps",
    "delphi": "a folder of explanations as delphi reads it",
    "saebench": "the JSON of SAEBench's autointerp evaluation",
    "saescope": "the program's own JSONL, with all scores",
}
MAX_RECORDS = 5_000_000


def read(path: Path, n_latents: int, source: str = "") -> list[Record]:
    """Return the records of a file or folder, whose format is recognised.

    Raises UserError (field `source`) if it is none of the formats, is damaged, or names a latent that the SAE does not
    have.
    """
    records: list[Record] = []
    for record in _open(path, source):
        if record.latent >= n_latents:
            raise UserError(f"source: {path.name} names latent {record.latent}; the SAE has {n_latents:,}", "source")
        records.append(record)
        if len(records) > MAX_RECORDS:
            raise UserError(f"source: {path.name} has more than {MAX_RECORDS:,} explanations and scores", "source")
    if not any(isinstance(record, Explanation) for record in records):
        raise UserError(f"source: {path.name} has no explanations", "source")
    return records


def _open(path: Path, source: str) -> Iterable[Record]:
    if not path.exists():
        raise UserError(f"source: there is no {path}", "source")
    if saebench.is_saebench(path):
        return saebench.read(path)
    if path.is_file() and _is_own(path):
        return iter(results.read_file(path))
    if neuronpedia.files_in(path):
        return neuronpedia.read(path, source)
    if path.is_dir() and delphi.root_of(path) is not None:
        return delphi.read(path, source)
    raise UserError(f"source: {path.name} is no file of explanations; these are read: {'; '.join(FORMATS.values())}",
                    "source")


def _is_own(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.readline(1000).startswith((b'{"explanation": {', b'{"score": {'))


def add(folder: Path, records: Sequence[Record]) -> int:
    """Append the explanations that the SAE in `folder` does not have yet, with their scores; return their number."""
    known, _ = results.read(folder)
    seen = {_content(one) for one in known if isinstance(one, Explanation)}
    new: dict[str, Explanation] = {}
    for one in records:
        if isinstance(one, Explanation) and _content(one) not in seen:
            seen.add(_content(one))
            new[one.id] = replace(one, run="")  # the run of another workspace means nothing here
    scores = [record for record in records if isinstance(record, Score) and record.explanation in new]
    results.append(folder, [*scores, *new.values()])
    return len(new)


def _content(one: Explanation) -> tuple[int, str, str, str, str]:
    return one.latent, one.text, one.kind, one.method, one.model


def write(form: str, records: Sequence[Record], target: Path, sae_id: str, source: str, module: str) -> None:
    """Write records to `target`: a folder for delphi, otherwise a file.

    `module` names the SAE's place in the files of delphi.  Raises UserError (field `format` or `out`).
    """
    if form not in FORMATS:
        raise UserError(f"format: {form!r} is not one of {', '.join(FORMATS)}", "format")
    if target.exists():
        raise UserError(f"out: {target} exists already", "out")
    with atomic_write(target) as temporary:
        if form == "delphi":
            for name, content in delphi.files(records, module):
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
            temporary.mkdir(exist_ok=True)
        else:
            with open(temporary, "wb") as file:
                for content in _content_of(form, records, sae_id, source):
                    file.write(content)


def _content_of(form: str, records: Sequence[Record], sae_id: str, source: str) -> Iterator[bytes]:
    if form == "neuronpedia":
        yield from neuronpedia.lines(records, sae_id.partition("/")[0], source)
    elif form == "saebench":
        yield saebench.as_bytes(records, sae_id)
    else:
        yield from (json.dumps(to_json(record), ensure_ascii=False).encode() + b"\n" for record in records)

"""The command that trains or measures the embedded language model.

    python -m sae.demo.pretrain [--steps N] [--d-model N] ...    train; run again to resume
    python -m sae.demo.pretrain evaluate [MODEL]                 measure a model on the held-out files

See `sae.demo.training` for the method, `sae.demo.text` for the text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sae.demo.score import Score, score_contexts, score_stream
from sae.demo.text import Roots, held_out_documents
from sae.demo.training import Recipe, export, pretrain
from sae.errors import UserError
from sae.lm.bridge import LanguageModel, pick_device
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 stopped early (run again to resume), 2 user error."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "evaluate":
            return _evaluate(options.model, options.device)
        return _train(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.  Run the same command again to resume from the last checkpoint.", file=sys.stderr)
        return 1


def measure(lm: LanguageModel, root: Path) -> dict[str, Score]:
    """Return the model's scores on the held-out files of the standard library at `root`, by way of reading.

    The ways are "contexts" and "stream" (see `sae.demo.score`).  Raises UserError if there are no held-out files.
    """
    documents = held_out_documents(root)
    if not documents:
        raise UserError(f"no held-out files in {root}")
    n_bytes = sum(len(document.text.encode()) for document in documents)
    ids = lm.encode_many([document.text for document in documents])
    context = min(lm.info.n_ctx, 256)

    def logits(tokens_PS):  # type: ignore[no-untyped-def]
        return lm.logits(tokens_PS.to(lm.device))

    return {"contexts": score_contexts(logits, ids, n_bytes, context, lm.bos_id),
            "stream": score_stream(logits, ids, n_bytes, context, lm.bos_id)}


def _evaluate(model: str, device: str) -> int:
    roots = Roots.of_this_python()
    documents = held_out_documents(roots.stdlib)
    print(f"{model} on {len(documents)} held-out files of {roots.stdlib} "
          f"({sum(len(d.text) for d in documents):,} characters)")
    scores = measure(LanguageModel.load(model, device), roots.stdlib)
    for name, label in (("contexts", "BOS first in every context"), ("stream", "one stream, BOS between files")):
        score = scores[name]
        print(f"{label:<32} {score.nats_per_token:.4f} nats per token  {score.bits_per_byte:.4f} bits per byte  "
              f"({score.tokens:,} tokens, {score.bytes:,} bytes)")
    return 0


def _train(options: argparse.Namespace) -> int:
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    folder = Path(options.out) if options.out else Workspace.from_environment().root / "pretrain"
    device = pick_device(options.device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("starting", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        model = pretrain(
            recipe, folder, device=device, checkpoint_every=options.checkpoint_every, minutes=options.minutes,
            report=report)
    if model is None:
        print(f"{options.minutes:g} minutes are over.  Run the same command again to resume from the last checkpoint.")
        return 1
    target = export(model, folder, recipe)
    scores = measure(LanguageModel.load(str(target), device), Roots.of_this_python().stdlib)
    write_json(target / "scores.json", {name: score.bits_per_byte for name, score in scores.items()})
    (target / "README.md").write_text(card(recipe, folder, scores), encoding="utf-8")
    print(f"{target}: {scores['contexts'].bits_per_byte:.4f} bits per byte on held-out files")
    return 0


def card(recipe: Recipe, folder: Path, scores: dict[str, Score]) -> str:
    """Return the model card of a finished training, in Markdown."""
    text = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    seen = recipe.steps * recipe.batch * (recipe.context - 1)
    changed = " ".join(f"--{field.name.replace('_', '-')} {getattr(recipe, field.name)}" for field in fields(Recipe)
                       if getattr(recipe, field.name) != field.default)
    rows = "\n".join(f"| {field.name} | {getattr(recipe, field.name)} |" for field in fields(Recipe))
    return f"""# A small language model of Python source

Trained from scratch by saescope. `<|endoftext|>` (id 0) is BOS, EOS and padding; every context begins with it.

- Text: the standard library ({text['stdlib']['files']:,} files, {text['stdlib']['tokens']:,} tokens) and installed
  packages ({text['packages']['files']:,} files, {text['packages']['tokens']:,} tokens); {text['held_out']} files of
  the standard library are held out.
- Tokens seen: {seen:,}.
- Held out: {scores['contexts'].nats_per_token:.4f} nats per token, **{scores['contexts'].bits_per_byte:.4f} bits per
  byte** (float16 weights run in float32, BOS first in every context); {scores['stream'].bits_per_byte:.4f} if read as
  one stream.
- Made by `python -m sae.demo.pretrain {changed}`, measured by `python -m sae.demo.pretrain evaluate`.

| Setting | Value |
|---|---|
{rows}
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sae.demo.pretrain", description="Train the embedded language model.")
    parser.set_defaults(command="train")
    parser.add_argument("--out", help="working folder (default: pretrain/ in the workspace)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop with a checkpoint after this time")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default, metavar="N",
                                help=f"default: {field.default}")
    evaluate = parser.add_subparsers().add_parser("evaluate", help="measure a model on the held-out files")
    evaluate.set_defaults(command="evaluate")
    evaluate.add_argument("model", nargs="?", default="demo", help="demo, a local directory or a hub name")
    evaluate.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())

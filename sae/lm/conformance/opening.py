"""A language model loaded and checked: the check runs once for a model, and its table is kept in the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from sae.errors import UserError
from sae.lm.bridge import LanguageModel, pick_device
from sae.lm.conformance.check import check
from sae.lm.conformance.report import Report, digest
from sae.lm.item_model import ItemModel
from sae.lm.model_info import DEMO, find_model
from sae.workspace.paths import Workspace


def open_model(name: str, device: str | torch.device = "auto", workspace: Workspace | None = None) -> LanguageModel:
    """Load a language model, and check it if no earlier check is on record.  Raises UserError (field `model`).

    Sites that do not hold are refused by the model from then on.  The embedded model is checked by the project's tests.
    """
    info = find_model(name)
    if info.items:  # vectors of anything, in the place of a model for training and indexing
        return cast(LanguageModel, ItemModel(info, pick_device(device) if isinstance(device, str) else device))
    lm = LanguageModel.load(name, device)
    if name != DEMO:
        report = report_of(lm, workspace or Workspace.from_environment())
        if report.error:
            raise UserError(report.error, "model")
    return lm


def report_of(lm: LanguageModel, workspace: Workspace, *, again: bool = False) -> Report:
    """Return the table of a loaded model and make the model refuse what does not hold."""
    path = report_path(lm, workspace)
    report = None if again else Report.load(path)
    if report is None:
        report = check(lm)
        report.save(path)
    lm.refused, lm.way = dict(report.refused), report.way
    return report


def _format(lm: LanguageModel) -> str:
    """Return what a check depends on of how a model is loaded: its number format, and whether it is spread out."""
    return lm.format_name + (f", {lm.settings.device_map}" if lm.settings.device_map else "")


def report_path(lm: LanguageModel, workspace: Workspace) -> Path:
    """Return the file that keeps the table of a model."""
    return workspace.root / "conformance" / f"{lm.info.id}-{digest(lm.info, lm.device.type, _format(lm))}.json"

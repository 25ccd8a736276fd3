"""Triton's interpreter without its needless work: it patches the language again for each call of a kernel's helpers."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


@cache
def patch_once_a_launch() -> None:
    """Make the interpreter of this process patch each module of the language once a launch.

    Triton 3.7 does it for every call of a helper, and goes through all members of the language each time, which finds
    them patched: that is a quarter of the time of the kernels' tests.
    """
    patch = interpreter._patch_lang
    patched: set[Any] = set()  # in the launch that is going on

    def patch_new(fn: Any) -> Any:
        languages = {value for value in fn.__globals__.values()
                     if inspect.ismodule(value) and value in (tl, tl.core)}
        if languages and languages <= patched:
            return interpreter._LangPatchScope()
        scope = patch(fn)
        restore = scope.restore

        def restore_all() -> None:
            patched.clear()
            restore()

        scope.restore = restore_all
        patched.update(languages)
        return scope

    interpreter._patch_lang = patch_new

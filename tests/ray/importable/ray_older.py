"""The copy of a module that workers find; the driver of `test_ray_check.py` has a newer one."""

from __future__ import annotations

from functionfuse import workflow


@workflow
def scaled(x):
    return 2 * x

"""The options that every kind of storage has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ..config import check_options

__all__ = ["Allow", "StorageOptions", "check_options"]


class Allow(BaseModel):
    """What a result may name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: Sequence[str] = Field(
        description="Modules, such as 'numpy', or single names, such as 'collections.OrderedDict'."
    )


class StorageOptions(BaseModel):
    """Options of every kind of storage; a plugin's options inherit them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    durability: Literal["auto", "fsync", "rename"] = Field(
        default="auto",
        description=(
            "When a saved result survives a loss of power: 'fsync': always, when the save returns;"
            " 'auto': if it took 50 ms or more to compute, or was saved with durable=True;"
            " 'rename': when the system gets to it. At every level damage is detected; side data"
            " is always flushed before its result."
        ),
    )
    trust: Literal["pickle"] | Allow = Field(
        default="pickle",
        description=(
            "What reading may import and call: 'pickle': whatever the result names, so whoever can"
            " write there can run code here; {'allow': [modules]}: nothing else. An allow-list"
            " is no sandbox."
        ),
    )
    key: SecretStr | None = Field(
        default=None,
        min_length=1,  # a variable that is set to nothing must not mean that nothing is checked
        description="Signs results (HMAC-SHA256), and refuses others before they are unpickled.",
    )

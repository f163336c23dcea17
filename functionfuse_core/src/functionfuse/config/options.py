"""The options of every kind of storage, and the check of a kind's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    field_validator,
)

from ..errors import OptionsError, without_locals
from ..names import close_to
from ..serializers.refused import Private
from .paths import from_folder
from .source import Source

__all__ = ["Allow", "Earlier", "Secret", "StorageOptions", "check_options"]

Model = TypeVar("Model", bound=BaseModel)


class Allow(BaseModel):
    """The modules and names that a result may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: Sequence[str] = Field(
        description="Modules, such as 'numpy', or single names, such as 'collections.OrderedDict'."
    )


class Earlier(BaseModel):
    """The limits of the earlier results of each workflow; None for no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: ByteSize | None = Field(
        default=ByteSize(10 << 30),
        ge=0,
        description="Their size with side data, as a number or as '10 GiB'. The oldest go first.",
    )
    days: float | None = Field(
        default=30.0, ge=0, description="For how long one stays after a later one replaced it."
    )

    @field_validator("bytes", "days", mode="wrap")
    @classmethod
    def _one_message(cls, value: Any, handler: Any, info: Any) -> Any:
        with suppress(ValueError):
            if not isinstance(value, bool):  # it would count as 0 or 1
                return handler(value)
        what = "a size such as '10 GiB'" if info.field_name == "bytes" else "a number of days"
        raise ValueError(f"it is {what}, or null for no limit")


def _limits_or_none(value: Any) -> str | None:
    """Return the kind of a value of the option `earlier`."""
    if isinstance(value, (Mapping, Earlier)):
        return "limits"
    return "none" if value is False or str(value).lower() in ("false", "no", "off") else None


class Secret(Private, SecretStr):
    """A secret that is in no attribute, and in no stored result, also if a function returns it."""

    def __init__(self, secret_value: str) -> None:
        self._get: Callable[[], str] = lambda: secret_value

    @property
    def _secret_value(self) -> str:  # type: ignore[override]  # an attribute in pydantic
        return self._get()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._get(),)


class StorageOptions(Private, BaseModel):
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
    key: Secret | None = Field(
        default=None,
        min_length=1,  # an empty environment variable must not switch the check off
        description="Signs results (HMAC-SHA256), and refuses others before they are unpickled.",
    )
    earlier: Annotated[
        Annotated[Earlier, Tag("limits")]
        | Annotated[Literal[False], BeforeValidator(lambda _: False), Tag("none")],
        Discriminator(
            _limits_or_none,
            custom_error_type="earlier",
            custom_error_message="it is false for none, or has bytes and days",
        ),
    ] = Field(
        default=Earlier(),
        description=(
            "How many earlier results a workflow keeps, so that a run with the same code and inputs"
            " as before finds its results again: {'bytes': '10 GiB', 'days': 30}; False: none."
        ),
    )
    run_records: bool = Field(
        default=True,
        description=(
            "Whether each run leaves a record: who ran it, when, on which arguments, and what each"
            " node did. The newest 1,000 of a workflow are kept, up to 64 MB."
        ),
    )


@without_locals
def check_options(
    model: type[Model],
    *,
    kind: str,
    options: Mapping[str, Any],
    noun: str = "storage",
    source: Source | None = None,
    path: Sequence[str | int] = (),
) -> Model:
    """Check the options of a kind, and return its model of them.

    In a config file, a relative path (an option with `pathlib.Path` in its type) starts at the
    folder of the file.

    Args:
        source, path: the config and the location of the options in it, for errors.

    Raises:
        OptionsError: an option is unknown, missing or wrong; secrets are not in the message.
    """
    source = source or Source({})
    try:
        return model.model_validate(
            from_folder(model, options, source.folder) if source.folder else options
        )
    except ValidationError as error:
        # pydantic's own message shows the input, secrets included.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
    known = [info.alias or field for field, info in model.model_fields.items()]
    lines = []
    for problem in problems:
        steps = problem["loc"]
        unknown, missing = (problem["type"] == name for name in ("extra_forbidden", "missing"))
        option = _option(steps, options, missing=missing)
        if unknown and len(steps) > 1:
            message = f"unknown option {option!r}"
        elif unknown:
            close = close_to(option, known)
            message = f"unknown option {option!r}{close}; known: {', '.join(known) or 'none'}"
        elif missing:
            message = f"option {option!r} is missing"
        else:
            message = f"option {option!r}: {source.hidden(problem['msg'])}"
        where = source.where((*path, *steps), key=unknown)
        lines.append(f"{where}{noun} {kind!r}: {message}" if where else message)
    if source.name:
        raise OptionsError("\n".join(lines))
    raise OptionsError(f"{noun} {kind!r}: " + "; ".join(lines))


def _option(steps: Sequence[str | int], options: Any, *, missing: bool) -> str:
    """Return the dotted name of an option, without the type names that pydantic inserts."""
    names, value = [], options
    for number, step in enumerate(steps):
        try:
            value = value[step]
        except (LookupError, TypeError):
            if not missing or number < len(steps) - 1:
                continue
        names.append(str(step))
    return ".".join(names)

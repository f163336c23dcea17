"""Saving and reading about 100 MB of the types of the field, beside pickle and their own files.

The one baseline is pickle 5, with its out-of-band buffers, in a plain file. All times are CPU time,
on a memory file system where there is one.
"""

from __future__ import annotations

import importlib
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np

from functionfuse.storage import Storage, storage_factory
from machine import default_places
from memory import allocated
from pairs import Pair, time_pair
from table import Row, amount, at_most, beside

WORKFLOW = "bench"
ROUNDS = 5
ROUNDS_BESIDE = 2  # of what has no bound
MB = 1_000_000
PEAK = 25.0  # MB


@dataclass
class Reading:
    """One of many objects of an own class."""

    station: int
    name: str
    value: float


@dataclass(frozen=True)
class Kind:
    """A type of values.

    Attributes:
        what: the row's name.
        needs: the libraries that `make` gets, imported; without them there is only a word.
        make: returns a value.
        save: the bound of saving, beside the baseline.
        buffers: whether it pickles into buffers: then reading and memory have bounds, too.
        peak: the bound of the memory beyond the value while it is saved, in MB; 0 for none.
        own: writes the value to a path in the type's own format.
    """

    what: str
    needs: str
    make: Callable[..., Any]
    save: float = 1.3
    buffers: bool = True
    peak: float = PEAK
    own: Callable[[Path, Any], object] | None = None


def measure() -> Iterator[Row]:
    """Measure each type, and how the time grows with the number of arrays."""
    with tempfile.TemporaryDirectory(dir=default_places()[0]) as folder:
        for kind in KINDS:
            modules = []
            try:
                modules = [importlib.import_module(name) for name in kind.needs.split()]
            except ImportError as error:
                yield Row(f"{kind.what}: {error.name} is not installed", "", "", "", "", "skipped")
                continue
            yield from rows_of(kind, kind.make(*modules), Path(folder))
        yield twice_the_arrays(Path(folder))


def rows_of(kind: Kind, value: Any, folder: Path) -> Iterator[Row]:
    """Measure one type."""
    storage, blob, plain = places(folder)
    other = folder / "other"
    save, write = partial(storage.save, WORKFLOW, "value", value), partial(write_plain, plain)

    def remove() -> None:
        for path in (blob, plain, other):
            path.unlink(missing_ok=True)

    def saving(peer: Callable[[], object], rounds: int = ROUNDS_BESIDE) -> Pair:
        return time_pair(save, peer, rounds=rounds, prepare=remove, clock=process_time)

    yield at_most(f"{kind.what}: save / pickle 5", kind.save, saving(partial(write, value), ROUNDS))
    yield beside(f"{kind.what}: save, joblib.dump", saving(partial(joblib.dump, value, other)))
    if kind.own:
        yield beside(f"{kind.what}: save, own format", saving(partial(kind.own, other, value)))
    if kind.peak:
        remove()
        yield amount(
            f"{kind.what}: memory beyond the value", allocated(save) / MB, kind.peak, unit="MB"
        )
    save()
    sizes = write(value)
    read = time_pair(
        partial(storage.read_task, WORKFLOW, "value"),
        partial(read_plain, plain, sizes),
        rounds=ROUNDS,
        clock=process_time,
    )
    what = f"{kind.what}: read, verified / pickle 5"
    yield at_most(what, 0.5, read) if kind.buffers else beside(what, read)
    remove()


def twice_the_arrays(folder: Path) -> Row:
    """Save 12,500 arrays of 8 KB, and half as many."""
    storage, blob, _ = places(folder)
    arrays = many_arrays(12_500)
    pair = time_pair(
        partial(storage.save, WORKFLOW, "value", arrays),
        partial(storage.save, WORKFLOW, "value", arrays[:6250]),
        rounds=ROUNDS,
        prepare=partial(blob.unlink, missing_ok=True),
        clock=process_time,
    )
    return at_most("12,500 arrays of 8 KB: save / save 6,250", 2.5, pair)


def places(folder: Path) -> tuple[Storage, Path, Path]:
    """Return a storage, the path of its one result, and that of the baseline."""
    storage = storage_factory({"kind": "file", "options": {"path": str(folder / "storage")}})
    return storage, folder / "storage" / WORKFLOW / "value", folder / "plain"


def write_plain(path: Path, value: Any) -> list[int]:
    """Write a pickle, then its buffers; return their sizes."""
    buffers: list[pickle.PickleBuffer] = []
    with path.open("wb") as file:
        pickle.dump(value, file, 5, buffer_callback=buffers.append)
        sizes = [file.tell(), *(buffer.raw().nbytes for buffer in buffers)]
        for buffer in buffers:
            file.write(buffer.raw())
    return sizes


def read_plain(path: Path, sizes: list[int]) -> Any:
    """Return the value, with memory that can be written, as ours has."""
    parts = list(map(bytearray, sizes))
    with path.open("rb", buffering=0) as file:
        for part in parts:
            file.readinto(part)
    return pickle.loads(parts[0], buffers=parts[1:])


# The values.

random = np.random.default_rng(0)


def many_arrays(count: int) -> list[Any]:
    return [random.random(1024) for _ in range(count)]


def words(count: int) -> list[str]:
    return [f"station {number} of {number % 977}" for number in range(count)]


def forest(ensemble: Any) -> Any:
    inputs, outputs = random.random((20_000, 8)), random.random(20_000)
    return ensemble.RandomForestRegressor(n_estimators=20, n_jobs=1).fit(inputs, outputs)


def state_dict(torch: Any) -> Any:
    layers = [torch.nn.Linear(1100, 1100) for _ in range(20)]
    return torch.nn.Sequential(*layers).state_dict()


def write_arrow(path: Path, table: Any) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def write_sparse(path: Path, matrix: Any) -> None:
    sparse: Any = importlib.import_module("scipy.sparse")
    with path.open("wb") as file:
        sparse.save_npz(file, matrix, compressed=False)


def write_torch(path: Path, value: Any) -> None:
    torch: Any = importlib.import_module("torch")
    torch.save(value, path)


def write_array(path: Path, array: Any) -> None:
    with path.open("wb") as file:
        np.save(file, array)


KINDS = [
    Kind(
        "numpy",
        "",
        lambda: random.random(12_500_000),
        own=write_array,
    ),
    Kind(
        "12,500 arrays of 8 KB",
        "",
        lambda: many_arrays(12_500),
        save=1.6,
        buffers=False,  # but too small for a bound on reading
    ),
    Kind(
        "bytes",
        "",
        lambda: random.bytes(100 * MB),
        save=2.1,
        buffers=False,
        own=Path.write_bytes,
    ),
    Kind(
        "str, ASCII",
        "",
        lambda: "station " * 12_500_000,
        buffers=False,
        peak=125,  # pickle encodes it
        own=Path.write_text,
    ),
    Kind(
        "str, not ASCII",
        "",
        lambda: "größe " * 14_000_000,
        buffers=False,
        peak=250,  # pickle encodes it, and a copy stays with the text
        own=partial(Path.write_text, encoding="utf-8"),
    ),
    Kind(
        "torch tensor",
        "torch",
        lambda torch: torch.rand(25_000_000),
        save=0.8,
        own=write_torch,
    ),
    Kind(
        "torch state_dict",
        "torch",
        state_dict,
        save=0.8,
        own=write_torch,
    ),
    Kind(
        "polars, numbers",
        "polars",
        lambda polars: polars.DataFrame({f"c{n}": random.random(1_250_000) for n in range(10)}),
        save=0.8,
        own=lambda path, frame: frame.write_ipc(path),
    ),
    Kind(
        "polars, text",
        "polars",
        lambda polars: polars.DataFrame({"text": words(3_500_000)}),
        save=0.8,
        peak=60,
        own=lambda path, frame: frame.write_ipc(path),
    ),
    Kind(
        "pyarrow table",
        "pyarrow",
        lambda arrow: arrow.table({"x": random.random(5_000_000), "t": words(2_500_000) * 2}),
        own=write_arrow,
    ),
    Kind(
        "pandas, numbers",
        "pandas",
        lambda pandas: pandas.DataFrame(random.random((1_250_000, 10))).rename(columns=str),
        own=lambda path, frame: frame.to_parquet(path),
    ),
    Kind(
        "pandas, text",
        "pandas",
        lambda pandas: pandas.DataFrame({"text": words(3_500_000)}),
        own=lambda path, frame: frame.to_parquet(path),
    ),
    Kind(
        "pandas, categories",
        "pandas",
        lambda pandas: pandas.DataFrame(
            {"c": pandas.Categorical.from_codes(random.integers(0, 3000, 50_000_000), words(3000))}
        ),
        own=lambda path, frame: frame.to_parquet(path),
    ),
    Kind(
        "scipy.sparse",
        "scipy.sparse",
        lambda sparse: sparse.random(20_000, 20_000, 0.02, "csr", rng=random),
        own=write_sparse,
    ),
    Kind(
        "xarray",
        "xarray",
        lambda xarray: xarray.Dataset({"t": (("time", "x"), random.random((1250, 10_000)))}),
        own=lambda path, dataset: dataset.to_netcdf(path, engine="h5netcdf"),
    ),
    Kind(
        "scikit-learn, a forest",
        "sklearn.ensemble",
        forest,
        buffers=False,
    ),
    Kind(
        "PIL, an image",
        "PIL.Image",
        lambda image: image.fromarray(random.integers(0, 256, (5800, 5800, 3), np.uint8)),
        buffers=False,
        peak=0,  # its pickle joins the bytes
        own=lambda path, image: image.save(path, "BMP"),
    ),
    Kind(
        "networkx, 200,000 edges",
        "networkx",
        lambda networkx: networkx.gnm_random_graph(40_000, 200_000, seed=0),
        buffers=False,
        peak=0,
    ),
    Kind(
        "list of 3,000,000 numbers",
        "",
        lambda: [*range(1_500_000), *random.random(1_500_000).tolist()],
        buffers=False,
        peak=0,
        own=lambda path, value: path.write_text(json.dumps(value)),
    ),
    Kind(
        "dict of 1,000,000 texts",
        "",
        lambda: {word: len(word) for word in words(1_000_000)},
        buffers=False,
        peak=0,
        own=lambda path, value: path.write_text(json.dumps(value)),
    ),
    Kind(
        "300,000 dataclasses",
        "",
        lambda: [Reading(n, f"n{n}", n / 7) for n in range(300_000)],
        buffers=False,
        peak=0,
    ),
]

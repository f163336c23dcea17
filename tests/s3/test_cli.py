"""The commands that show what is stored, on S3: the same texts and documents as on files."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rain_store  # in `importable` of core's tests, which is on the path
from rain_store import DOCUMENTS, TEXTS, masked
from s3_proxy import Proxy
from s3_servers import BUCKET, Server

from functionfuse.cli.main import run
from functionfuse_s3 import S3FileStorage

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def upstream(moto_server: Server) -> Server:
    return moto_server


@pytest.fixture(scope="module")
def rain(moto_server: Server) -> str:
    """The path of the storage of `rain_store`."""
    path = f"{BUCKET}/rain"
    with pytest.MonkeyPatch.context() as patch:
        rain_store.fixed(patch)
        rain_store.fill(S3FileStorage(**moto_server.options(path)))
    return path


@pytest.fixture
def typed(
    rain: str,
    proxy: Proxy,
    upstream: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Typed:
    """Return a function that runs a command in a folder with a config: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    options = upstream.behind(proxy.url).options(rain, max_attempts=1)
    (tmp_path / "functionfuse.json").write_text(json.dumps({"kind": "S3", "options": options}))

    def typed(*words: str) -> tuple[int, str, str]:
        status = run(words)
        return status, *capsys.readouterr()

    return typed


@pytest.mark.parametrize("command", TEXTS)
def test_text(command: str, typed: Typed) -> None:
    status, out, err = typed(*shlex.split(command))
    assert (0, TEXTS[command], "") == (status, masked(out), err)


@pytest.mark.parametrize("command", DOCUMENTS)
def test_json(command: str, typed: Typed) -> None:
    status, out, err = typed(*shlex.split(command), "--json")
    assert (0, DOCUMENTS[command], "") == (status, json.loads(masked(out)), err)


def test_in_a_process(typed: Typed) -> None:
    """The program imports the plugin, and nothing else that it doesn't need."""
    code = (
        "import sys; sys.argv[1:] = ['list', 'rain']\n"
        "from functionfuse.__main__ import main\n"
        "status = main()\n"
        "print(status, *{'ray', 'dask', 'numpy', 'pandas', 'yaml'} & sys.modules.keys())"
    )
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env=environment
    )
    assert (f"{TEXTS['list rain']}0\n", b"") == (masked(done.stdout.decode()), done.stderr)


@pytest.mark.parametrize(
    "command",
    ["list", "list rain", "show rain load", "show rain load --call 6", "earlier rain",
     "lineage rain load", "runs rain", "runs rain --run -1"],
)  # fmt: skip
def test_no_permission(command: str, typed: Typed, proxy: Proxy) -> None:
    """One sentence that names the bucket and the cure, and no secret; status 2."""
    proxy.fault = lambda _: (403, "AccessDenied", "Access Denied", {})
    status, out, err = typed(*command.split())
    assert (2, "", 1) == (status, out, err.count("\n"))
    assert BUCKET in err
    assert "policy" in err
    assert "canary-secret" not in err
    status, out, _ = typed(*command.split(), "--json")
    assert (2, "StorageAccessError") == (status, json.loads(out)["error"]["type"])


def test_unknown_names(typed: Typed) -> None:
    """The storage is told by its bucket and prefix."""
    status, _, err = typed("show", "rian", "load")
    where = f"No workflow 'rian' in S3FileStorage(S3Store('{BUCKET}/rain', endpoint_url="
    assert (2, True) == (status, err.startswith(f"functionfuse: {where}"))
    assert err.endswith(" (did you mean 'rain'?).\n")
    assert (2, "") == typed("show", "rain", "lod")[:2]


def test_damaged_results(typed: Typed, rain: str, moto_server: Server) -> None:
    """A header that was changed is bad news, and told; an earlier result can still be shown."""
    key = f"{rain.partition('/')[2]}/rain/smooth"
    client = moto_server.by_hand
    data = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=data[:100] + b"?" + data[101:])
    try:
        assert 1 == typed("list", "rain")[0]
        status, _, err = typed("lineage", "rain", "smooth")
        assert (1, True) == (status, "the header is not what was written" in err)
        command = "show rain smooth --call 6f"
        assert TEXTS[command] == masked(typed(*command.split())[1])
    finally:
        client.put_object(Bucket=BUCKET, Key=key, Body=data)

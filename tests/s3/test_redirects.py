"""Servers that send elsewhere: to another region, which is followed, or to another host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from s3_proxy import Proxy, Request, faulty
from s3_servers import BUCKET, Server

from functionfuse.errors import StoragePathError
from functionfuse_s3 import S3FileStorage

pytestmark = pytest.mark.usefixtures("eager")

REGION = "eu-west-3"
TOLD = {
    "a header": (301, "PermanentRedirect", "Elsewhere.", {"x-amz-bucket-region": REGION}),
    "a header of a temporary one": (
        *(307, "TemporaryRedirect", "Elsewhere."),
        {"x-amz-bucket-region": REGION},
    ),
    "the text": (400, "AuthorizationHeaderMalformed", "", {}, f"<Region>{REGION}</Region>"),
}
USES: dict[str, Callable[[S3FileStorage], object]] = {
    "save": lambda storage: storage.save("w", "t", "after"),
    "read": lambda storage: storage.read_task("w", "t"),
    "list": lambda storage: storage.list_tasks("w"),
    "info": lambda storage: storage.task_info("w", "t"),
}


@pytest.fixture
def other() -> Iterator[Proxy]:
    """Another host, where nobody is to go."""
    with faulty("http://127.0.0.1:1") as other:
        yield other


def signed_for(request: Request) -> str:
    return request.headers["Authorization"].split("/")[2]


@pytest.mark.parametrize("answer", TOLD.values(), ids=list(TOLD))
def test_another_region_is_followed(
    storage: S3FileStorage, proxy: Proxy, one_server: Server, path: str, answer: Any
) -> None:
    """Requests are signed anew, for the region that the answer names; once it is known, at once."""
    proxy.fault = lambda request: answer if signed_for(request) != REGION else ""
    storage.save("w", "t", "after")
    start = len(proxy.seen)
    assert "after" == storage.read_task("w", "t")
    assert ["t"] == storage.list_tasks("w")
    assert [REGION] * 2 == [signed_for(request) for request in proxy.seen[start:]]
    assert "after" == S3FileStorage(**one_server.options(path)).read_task("w", "t")


@pytest.mark.parametrize("answer", TOLD.values(), ids=list(TOLD))
@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_region_that_sends_elsewhere_again(
    storage: S3FileStorage, proxy: Proxy, answer: Any, use: Callable[[S3FileStorage], object]
) -> None:
    """It is followed once; then the error names the region."""
    start = len(proxy.seen)
    proxy.fault = lambda _: answer
    with pytest.raises(StoragePathError) as caught:
        use(storage)
    for part in (f"'{BUCKET}'", proxy.url, f"'region': '{REGION}'"):
        assert part in str(caught.value)
    assert 3 >= len(proxy.seen) - start


@pytest.mark.parametrize("code", ["PermanentRedirect", "TemporaryRedirect"])
@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_another_host_is_not_followed(
    storage: S3FileStorage,
    proxy: Proxy,
    other: Proxy,
    code: str,
    use: Callable[[S3FileStorage], object],
) -> None:
    """Credentials and bytes go to no host that the options don't name; the error names it."""
    host = other.url.removeprefix("http://")
    status = 301 if code.startswith("P") else 307
    headers = {"Location": f"{other.url}/{BUCKET}/w/t"}
    endpoint = f"<Endpoint>{host}</Endpoint>"
    proxy.fault = lambda _: (status, code, "Elsewhere.", headers, endpoint)
    with pytest.raises(StoragePathError) as caught:
        use(storage)
    for part in (f"'{BUCKET}'", proxy.url, "'endpoint_url'", host):
        assert part in str(caught.value)
    assert [] == other.seen
    proxy.fault = lambda _: ""
    assert "before" == storage.read_task("w", "t")

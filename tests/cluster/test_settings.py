"""``--cluster``: URLs of directories, and one line for each mistake, without the password."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rtunnel.cluster.engines import directory_for
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.cluster.settings import ClusterUrl, cluster_url
from rtunnel.errors import ConfigError

A, B = ("a", 6379), ("b", 7000)
GOOD = {
    "redis://a": ClusterUrl("redis", (A,)),
    "redis://a/": ClusterUrl("redis", (A,)),
    "REDIS://a:6379/3": ClusterUrl("redis", (A,), database=3),
    "redis://pw@a,b:7000/0": ClusterUrl("redis", (A, B), password="pw"),
    "redis://:pw@a": ClusterUrl("redis", (A,), password="pw"),
    "redis://me:p%40%3Fw%20@a": ClusterUrl("redis", (A,), user="me", password="p@?w "),
    "redis://me:p@w@a": ClusterUrl("redis", (A,), user="me", password="p@w"),
    "redis://[2001:db8::1]:7,[::1]": ClusterUrl("redis", (("2001:db8::1", 7), ("::1", 6379))),
    "redis://a?prefix=x:&database=2": ClusterUrl("redis", (A,), prefix="x:", database=2),
    "rediss://a?ca=/etc/ca.pem": ClusterUrl("rediss", (A,), ca=Path("/etc/ca.pem")),
    "redis+unix:///run/r%20s.sock": ClusterUrl("redis+unix", (), path="/run/r s.sock"),
    "redis+unix://pw@/run/r.sock?database=1": ClusterUrl(
        "redis+unix", (), path="/run/r.sock", password="pw", database=1
    ),
    "redis+sentinel://pw@a:6379,b:7000/mymaster/4?sentinel_password=x@y": ClusterUrl(
        "redis+sentinel", (A, B), password="pw", master="mymaster", database=4, sentinel_password="x@y"
    ),
    "redis+sentinel://a/m": ClusterUrl("redis+sentinel", (("a", 26379),), master="m"),
    "rediss+sentinel://a/m?ca=/etc/ca.pem": ClusterUrl(
        "rediss+sentinel", (("a", 26379),), master="m", ca=Path("/etc/ca.pem")
    ),
}
BAD = {
    "a:6379": "'a:6379' has no redis:// in front; write redis://PASSWORD@HOST:6379/0",
    "me:s3cret@a": r"'\.\.\.@a' has no redis:// in front",
    "redi://me:s3cret@a": r"'redi://\.\.\.@a': 'redi' is no kind of directory; did you mean 'redis'",
    "http://a": "'http' is no kind of directory; write",
    "redis://": "'redis://' has no host",
    "redis://a,": "'redis://a,' has no host",
    "redis://me:s3cret@": "has no host",
    "redis://@a": "there is an @ and no password before it",
    "redis://me:@a": "there is an @ and no password before it",
    "redis://a:0": "port 0 is out of range",
    "redis://a:x": "is not a port number",
    "redis://me:s3cret@a/x": "has 'x' for the number of a database",
    "redis://me:s3cret@a/1?database=2": "has a database and [?]database=; keep one",
    "redis://a?prefx=1": "has an unknown option 'prefx'; did you mean 'prefix'",
    "redis://a?prefix=": "[?]prefix= has no value",
    "redis://a?prefix=a&prefix=b": "has [?]prefix= twice",
    "redis://me:s3cret@a?ca=/x": "has [?]ca= and no TLS; write rediss://",
    "redis://me:s3 cret@a": "has a space or a control character",
    "redis://me:s3cret%ff@a": "the user or the password is not UTF-8",
    "redis://me:s3cret?@a/0": "'redis://...' has an unknown option",
    "redis+unix://pw@a/x": "has no path of a socket",
    f"redis+unix:///{'x' * 200}": "the path of a UNIX socket has at most",
    "redis+sentinel://s3cret@a": "has no name of a master; write redis[+]sentinel://PASSWORD@HOST:26379/mymaster",
    "rediss+sentinel://s3cret@a": "has no name of a master; write rediss[+]sentinel://PASSWORD@HOST:26379/mymaster",
    "redis+sentinel://s3cret@a/m?ca=/x": "has [?]ca= and no TLS; write rediss[+]sentinel://",
    "redis+sentinel://a/m?sentinel_password=s3cret@b&x=1": "'redis[+]sentinel://...' has an unknown option 'x'",
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_urls(text: str, expected: ClusterUrl) -> None:
    assert ClusterUrl.parse(text) == expected


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ClusterUrl.parse(text)
    assert not any(secret in str(caught.value) for secret in ("s3cret", "cret@", "me:", "@b"))


def test_password_is_not_shown() -> None:
    url = ClusterUrl.parse("redis+sentinel://you:s3cret@a,b:7000/mymaster?sentinel_password=t0p")
    assert str(url) == "redis+sentinel://a:26379,b:7000/mymaster"
    assert not any(secret in repr(url) for secret in ("you", "s3cret", "t0p"))


@pytest.mark.parametrize("text", ["", "memory"])
def test_memory_is_the_default(text: str) -> None:
    assert cluster_url(text) is None
    directory = directory_for(Clock(), None)
    assert isinstance(directory, MemoryDirectory)
    assert not directory.is_cluster

"""The PostgreSQL server the tests run against: a DSN that is given, a container, or a throwaway cluster."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import psycopg
from docker.errors import DockerException
from psycopg import conninfo

from pg_grace.cluster import Cluster

CRON_SETTINGS = {
    "shared_preload_libraries": "'pg_cron'",
    "cron.database_name": "'postgres'",
    "cron.use_background_workers": "on",
}


@dataclass(frozen=True)
class Server:
    """Where the server is, and what kind of one it is."""

    kind: str
    dsn: str

    def conninfo(self, dbname: str) -> str:
        return conninfo.make_conninfo(self.dsn, dbname=dbname)

    def version(self) -> str:
        with psycopg.connect(self.dsn) as connection:
            return connection.info.parameter_status("server_version") or "?"


def docker_answers() -> bool:
    try:
        docker.from_env(timeout=5).ping()
    except DockerException:
        return False
    return True


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Give the server that the environment asks for: PG_GRACE_TEST_DSN, else Docker if it answers, else a cluster.

    PG_GRACE_TEST_SERVER=docker or local chooses between the last two.
    """
    dsn = os.environ.get("PG_GRACE_TEST_DSN")
    choice = os.environ.get("PG_GRACE_TEST_SERVER") or ("docker" if docker_answers() else "local")
    if dsn:
        yield Server("PG_GRACE_TEST_DSN", dsn)
    elif choice == "docker":
        with _container() as server:
            yield server
    else:
        with Cluster({"fsync": "off", "max_connections": "200", **CRON_SETTINGS}) as cluster:
            yield Server("local cluster", cluster.conninfo())


@contextlib.contextmanager
def _container() -> Iterator[Server]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - reads the environment when imported
    from testcontainers.core.image import DockerImage  # noqa: PLC0415

    with (
        DockerImage(path=str(Path(__file__).parent / "docker"), tag="pg-grace-test:15", clean_up=False) as image,
        DockerContainer(str(image)).with_exposed_ports(5432) as container,
    ):
        dsn = (
            f"host={container.get_container_host_ip()} port={container.get_exposed_port(5432)}"
            " user=postgres dbname=postgres"
        )
        _wait_until_it_answers(dsn)
        yield Server("testcontainers", dsn)


def _wait_until_it_answers(dsn: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return

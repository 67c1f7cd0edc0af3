"""The recipes for clusters: files parse, options exist, and what needs no container runs as it is written."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client
from typer.main import get_command

from geoelle.cli.app import app
from geoelle.config import load_config

ROOT = Path(__file__).parents[2]
DASK = Path(sys.executable).with_name("dask")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def options_of(command: str) -> set[str]:
    """Options that `dask scheduler` or `dask worker` takes."""
    done = subprocess.run([DASK, command, "--help"], capture_output=True, text=True, check=True)
    # An option that is too long for its column is broken at a hyphen.
    return set(re.findall(r"--[a-z][a-z-]+", re.sub(r"-\n\s+", "-", done.stdout)))


def containers(page: str) -> list[dict[str, Any]]:
    found = []
    for document in yaml.safe_load_all("".join(blocks(page, "yaml"))):
        text = document["spec"]
        pods = [part["spec"] for part in (text.get("worker"), text.get("scheduler"), text.get("template")) if part]
        found += [{**container, "pod": pod} for pod in pods for container in pod["containers"]]
    return found


def commands(compose: dict[str, Any], page: str) -> list[list[str]]:
    """Every command line of the recipes, program first."""
    lines = []
    for service in compose["services"].values():
        lines.append([*service.get("entrypoint", ["geoelle"]), *service["command"]])
    for text in blocks(page, "bash"):
        lines += [shlex.split(line) for line in text.splitlines() if line.strip()]
    lines += [[*c["command"], *c["args"]] for c in containers(page)]
    return lines


def test_every_option_exists(compose: dict[str, Any], page: str) -> None:
    known = {("dask", verb): options_of(verb) for verb in ("scheduler", "worker")}
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    seen = set()
    for line in commands(compose, page):
        program, verb = line[0], line[1]
        if program == "geoelle":
            takes = {name for p in verbs[verb].params for name in (*p.opts, *p.secondary_opts)}
        elif program == "dask":
            takes = known["dask", verb]
        else:
            assert line[:2] == ["docker", "compose"], line
            continue
        seen.add((program, verb))
        assert {word for word in line[2:] if word.startswith("--")} <= takes, line
    assert {("geoelle", "run"), ("dask", "scheduler"), ("dask", "worker")} <= seen
    assert "--no-such-option" not in known["dask", "worker"]
    assert "--resources" in known["dask", "worker"]


def test_compose_is_bound_to_loopback_and_not_root(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"scheduler", "worker", "gpu-worker", "job"}
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network at {port}"
        assert service["user"].split(":")[0] not in ("0", "root", "")
        assert service["cap_drop"] == ["ALL"]
        assert "healthcheck" in service or name == "job"
        for needed in service.get("depends_on", {}):
            assert services[needed]["healthcheck"]
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "--uid 1000" in dockerfile, "the user that compose names is the image's"
    assert "--constraint constraints.txt" in dockerfile
    (extras,) = services["job"]["build"]["args"]
    assert f"ARG {extras}" in dockerfile


def test_compose_mounts_what_exists_where_the_job_looks(compose: dict[str, Any]) -> None:
    job = compose["services"]["job"]
    assert (ROOT / "docker" / job["build"]["context"]).resolve() == ROOT
    assert (ROOT / job["build"]["dockerfile"]).is_file()
    places = {}
    for volume in job["volumes"]:
        source, target = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[:2]
        places[target] = (ROOT / "docker" / source).resolve()
    config = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", job["command"][1])
    folder, name = config.rsplit("/", 1)
    run = load_config(places[folder] / name)
    # Paths in a config are relative to it: those of the host must be those of the container.
    for path in (str(run.aoi), run.search.catalog):
        inside = Path(os.path.normpath(Path(folder) / path))
        mounted = next(target for target in places if inside.is_relative_to(target))
        outside = places[mounted] / inside.relative_to(mounted)
        assert outside == (places[folder] / path).resolve() or mounted == "/shared"
        if mounted != "/shared":
            assert outside.exists()
    assert Path("/data") == Path(job["working_dir"])
    assert "/data" in [v.split(":")[-1] for v in job["volumes"]]


def test_kubernetes_recipe_is_whole(page: str) -> None:
    documents = list(yaml.safe_load_all("".join(blocks(page, "yaml"))))
    assert [d["kind"] for d in documents] == ["DaskCluster", "DaskWorkerGroup", "Job"]
    cluster, group, job = documents
    assert group["spec"]["cluster"] == cluster["metadata"]["name"]
    service = f"{cluster['metadata']['name']}-scheduler"
    ports = {p["name"]: p["port"] for p in cluster["spec"]["scheduler"]["service"]["ports"]}
    assert f"tcp://{service}:{ports['tcp-comm']}" in job["spec"]["template"]["spec"]["containers"][0]["args"]
    for container in containers(page):
        assert container["pod"]["securityContext"]["runAsNonRoot"] is True
        volumes = {v["name"] for v in container["pod"].get("volumes", ())}
        assert {m["name"] for m in container.get("volumeMounts", ())} <= volumes


def test_python_recipe_calls_what_there_is(page: str) -> None:
    import inspect

    import geoelle

    (text,) = blocks(page, "python")
    calls = {ast.unparse(n.func): n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
    inspect.signature(geoelle.run).bind(
        *(0 for _ in calls["geoelle.run"].args), **{str(k.arg): 0 for k in calls["geoelle.run"].keywords}
    )


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be stopped at the end, whatever happens."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
    for process in reversed(started):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_compose_commands_make_a_cluster(
    compose: dict[str, Any], processes: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The commands and health checks as they stand in the file, on loopback and on ports that are free."""
    services = compose["services"]
    address_file = tmp_path / "scheduler.json"
    line = _on_loopback(services["scheduler"]["command"])
    line += ["--host", "127.0.0.1", "--scheduler-file", str(address_file)]
    processes.append(subprocess.Popen([DASK, *line], cwd=tmp_path, text=True, stderr=subprocess.DEVNULL))
    address = _wait_for_address(address_file)
    for name in ("worker", "gpu-worker"):
        line = [address if w == "tcp://scheduler:8786" else w for w in _on_loopback(services[name]["command"])]
        line += ["--host", "127.0.0.1"]
        processes.append(subprocess.Popen([DASK, *line], cwd=tmp_path, text=True, stderr=subprocess.DEVNULL))
    with Client(address, timeout="20s") as client:
        client.wait_for_workers(2, timeout=60)
        info = client.scheduler_info(n_workers=-1)
        workers = list(info["workers"].values())
        assert sorted(w["nthreads"] for w in workers) == [4, 4]
        assert sorted(w["resources"].get("GPU", 0) for w in workers) == [0, 1]
        (marked,) = [where for where, w in info["workers"].items() if w["resources"]]
        pid = client.submit(os.getpid, resources={"GPU": 1}, pure=False).result(timeout=30)
        assert client.run(os.getpid)[marked] == pid
        dashboards = [info["services"]["dashboard"], *(w["services"]["dashboard"] for w in workers)]
    (check,) = {tuple(s["healthcheck"]["test"]) for s in services.values() if "healthcheck" in s}
    for port in dashboards:
        code = check[-1].replace("8787", str(port))
        assert subprocess.run([sys.executable, *check[2:-1], code], check=False).returncode == 0
    gone = check[-1].replace("8787", "9")
    done = subprocess.run([sys.executable, *check[2:-1], gone], check=False, stderr=subprocess.DEVNULL)
    assert done.returncode != 0, "the health check cannot fail"


def _on_loopback(command: list[str]) -> list[str]:
    """A command of the file with a port of the system's choice instead of its own."""
    line = list(command)
    for option, value in (("--port", "0"), ("--dashboard-address", "127.0.0.1:0")):
        if option in line:
            line[line.index(option) + 1] = value
    return line


def _wait_for_address(path: Path) -> str:
    for _ in range(300):
        if path.is_file() and (text := path.read_text()).strip().endswith("}"):
            return str(yaml.safe_load(text)["address"])
        time.sleep(0.1)
    raise TimeoutError("the scheduler did not start")

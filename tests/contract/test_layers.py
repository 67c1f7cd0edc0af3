"""DESIGN's table of layers, enforced on the source: an import only ever goes down."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import geoelle

SOURCE = Path(geoelle.__file__).parent

LAYERS: dict[str, int] = {
    **dict.fromkeys(("errors", "records", "schema", "config"), 0),
    **dict.fromkeys(("antimeridian", "aoi", "geopackage", "grid", "sensors", "provenance", "texture", "days"), 1),
    **dict.fromkeys(("catalog", "imagery", "chips", "store"), 2),
    **dict.fromkeys(("encoders", "probe", "holdout"), 3),
    **dict.fromkeys(
        (
            "searching",
            "running",
            "jobs",
            "radiometry",
            "describing",
            "choosing",
            "embedding",
            "sampling",
            "pairing",
            "calibration",
            "mapping",
            "change",
            "simulate",
            "exporting",
            "updating",
            "inspecting",
        ),
        4,
    ),
    **dict.fromkeys(("inspecting", "inspection_tables"), 4),
    **dict.fromkeys(("benchmark", "webmap", "training"), 5),
    **dict.fromkeys(("workflow", "cli", "__main__"), 6),
}
ONLY_IN: dict[str, set[str]] = {
    "pystac_client": {"catalog"},
    "odc.stac": {"imagery"},
    "zarr": {"store"},
    "torch": {"encoders", "training"},
    "timm": {"encoders", "training"},
    "torchgeo": {"encoders", "training"},
    "onnx": {"training"},
    "onnxruntime": {"encoders", "training"},
    "folium": {"webmap"},
}
TORCH_AT_IMPORT = {"network", "torch_device", "torch_encoder", "torch_feed", "opening"}
"""Modules of `encoders` that, as every `*_model`, are imported once an encoder is loaded and not before."""
FILELESS = ("probe", "holdout")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Top-level part of geoelle that a file belongs to."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules imported by a file, and whether that happens at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    guarded = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in lazy
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) not in lazy
            if node.module == "geoelle":
                for alias in node.names:
                    yield f"geoelle.{alias.name}", id(node) not in lazy


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in LAYERS, f"{part} stands in no layer; add it to LAYERS where its reader would look for it"
    for name, _ in imports(path):
        if not name.startswith("geoelle."):
            continue
        other = name.split(".")[1]
        if other not in LAYERS or other == part:
            continue
        assert LAYERS[other] <= LAYERS[part], f"{path.name} (L{LAYERS[part]}) imports {name} (L{LAYERS[other]})"
        if LAYERS[part] == LAYERS[other] == 3:
            pytest.fail(f"{path.name} imports {name}: encoders, probe and holdout do not know each other")


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_libraries_stay_in_their_place(path: Path) -> None:
    part = part_of(path)
    for name, at_import in imports(path):
        for library, places in ONLY_IN.items():
            if name == library or name.startswith(library + "."):
                assert part in places, f"{path.name} imports {name}, which belongs in {sorted(places)}"
                if library in ("torch", "timm", "torchgeo") and part == "encoders" and at_import:
                    networks = path.stem.endswith("_model") or path.stem in TORCH_AT_IMPORT
                    assert networks, f"{path.name} imports {name} at import time"
        if part in FILELESS:
            root = name.split(".")[0]
            assert root not in {"xarray", "pathlib", "io", "zarr", "geopandas", "pandas"}, f"{path.name}: {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_library_neither_prints_nor_configures(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{path.name}:{node.lineno} prints"
            assert called not in {"logging.basicConfig", "pickle.load", "pickle.loads", "joblib.load"}, path.name
            if called == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path.name}:{node.lineno} loads unsafely"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv":
            pytest.fail(f"{path.name}:{node.lineno} reads argv")


def test_no_module_is_a_catch_all_or_too_long() -> None:
    for path in modules():
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}, path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, path


def test_public_names_are_functions_after_importing_everything() -> None:
    pytest.importorskip("torch")
    for info in pkgutil.walk_packages([str(SOURCE)], "geoelle."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    for name in geoelle.__all__:
        found = getattr(geoelle, name)
        assert callable(found) or isinstance(found, str), f"geoelle.{name} is {found!r}"
    for verb in ("search", "embed", "calibrate", "difficulty", "delta", "map", "run", "demo"):
        assert getattr(geoelle, verb).__name__ == verb


def test_unknown_attribute_names_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="difficulty"):
        _ = geoelle.nonsense


@pytest.mark.parametrize(
    "statement", ["import geoelle", "import geoelle.cli", "import geoelle; geoelle.list_encoders()"]
)
def test_imports_stay_light(statement: str) -> None:
    heavy = "torch onnxruntime timm torchgeo folium distributed odc.stac"
    if "list" not in statement:
        heavy += " xarray geopandas rasterio zarr sklearn"
    code = f"{statement}\nimport sys\nprint(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What is published: the wheel holds the code, its types and its licence, and imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from playing import serving

HERE = Path(__file__).parent.parent


def test_the_wheel_holds_the_code_its_types_and_its_licence(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "dist"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(HERE / "src").as_posix() for path in (HERE / "src").rglob("*.py")}
    assert sources <= names
    assert "rollcall_worker/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    metadata = zipfile.ZipFile(wheel).read("rollcall_worker-0.1.0.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist")] == [
        "Requires-Dist: websockets<18,>=15"
    ]


async def test_the_worker_of_the_readme_works() -> None:
    code = (HERE / "README.md").read_text().split("```python\n")[1].split("```")[0]
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, "README.md", "exec"), shown)
    async with serving(shown["worker"]) as here:
        server = await here.registered()
        await server.execute(1, "invoice.parse", input={"text": "tea 3"})
        assert (await server.result())["output"] == {"sum": "3"}
        await server.execute(2, "invoice.parse", input={})
        assert (await server.result())["error"]["code"] == "bad_input"


def test_the_licence_is_the_projects() -> None:
    assert (HERE / "LICENSE").read_bytes() == (HERE.parent.parent / "LICENSE").read_bytes()

"""What the repository must not contain: traces of one machine, and package index addresses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRACES = re.compile(
    "|".join(
        [
            r"(?<![\w.$}/])/" + r"(work|root|home)/\w",  # somebody's directories
            "pypi" + r"\.org",
            "python" + r"hosted",
            "anaconda" + r"\.org",
        ]
    )
)


def files() -> list[Path]:
    """What is or would be committed."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_tells_of_the_machine_it_was_made_on() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # captured bytes
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in TRACES.finditer(text)]
    assert found == []


def test_every_package_is_pinned_with_its_hashes() -> None:
    for lock in [*(ROOT / "locks").glob("*.lock"), ROOT / "locks" / "uv.lock.txt"]:
        entries = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
        assert entries
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries), lock.name

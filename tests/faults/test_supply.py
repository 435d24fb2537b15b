"""What comes from elsewhere: dependencies and their licences, and that nothing is fetched."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from tests.faults.common import ROOT, SMALL, save


def listed():
    """The licence of each package in docs/dependencies.md."""
    rows = re.findall(r"^\| ([a-z-]+) \| .* \| (.+) \|$", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    return {name: licence for name, licence in rows if name != "package"}


def test_every_dependency_is_listed():
    pinned = re.findall(r"^([a-z-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    declared = re.findall(r'"([a-z-]+)>=', (ROOT / "pyproject.toml").read_text())
    assert set(pinned) == listed().keys()
    assert set(declared) == listed().keys()


@pytest.mark.parametrize("name", listed())
def test_licences_are_those_that_packages_declare(name):
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    short = metadata.get("License") if len(metadata.get("License") or "") < 100 else None
    classifiers = " ".join(one for one in metadata.get_all("Classifier") or [] if one.startswith("License"))
    found = metadata.get("License-Expression") or short or classifiers
    known = {"PSF": "Python Software Foundation", "MIT": "MIT"}.get(listed()[name], listed()[name])
    assert known in found


def test_nothing_connects(tmp_path, seen):
    """Python tells an audit hook of every name that is looked up and every connection that is made."""
    data = save(tmp_path / "tiny.npz")
    check = (
        "import sys\n"
        "def forbid(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto', 'urllib.Request'):\n"
        "        sys.stderr.write(f'NETWORK {event} {arguments}\\n')\n"
        "        import os; os._exit(9)\n"
        "sys.addaudithook(forbid)\n"
        "import accel.ops, accel.models, accel.evaluation, accel.figures, accel.training.loop, reference\n"
        "from accel.cli import main\n"
        "accel.models.PatchVAE.from_pretrained('parts')\n"
        "data, run, words = sys.argv[1], sys.argv[2], sys.argv[3:]\n"
        "status = main(['train', '--data', data, *words, '--epochs', '1', '--out', run])\n"
        "sys.exit(status or main(['measure', run]) or main(['verify', run]))"
    )
    command = [sys.executable, "-c", check, data, tmp_path / "run", *SMALL]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen("any connection during import, `train`, `measure`, `verify`", "there is none")

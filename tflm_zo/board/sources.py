# SPDX-License-Identifier: Apache-2.0
"""The C++ sources that run on a board, and copies of them for the Arduino build."""

from __future__ import annotations

from pathlib import Path

from tflm_zo.errors import ZoError

_HOST_ONLY = {
    "host_api.cc",
    "host_api.h",
    "host_check.cc",
    "host_check.h",
    "host_export.h",
    "host_plugin.cc",
    "host_plugin.h",
}

# Arduino passes no options of a library to the compiler. Without this one a multiplication and an addition are fused
# to one rounding on a Cortex-M4F, and the board would end with other weights than the host.
_NO_CONTRACTION = b"""#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif
"""


def device_folder(name: str) -> Path:
    """Return the folder ``kernels`` or ``micro_app``: packaged with the wheel, or beside the package in a
    checkout of the repository.

    Raises :class:`ZoError` if it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "device" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise ZoError(f"the C++ sources of {name} are missing: install the package again with `pip install .`")


def device_sources() -> dict[str, bytes]:
    """Return the ops and the app by file name, for one flat folder.

    Arduino builds ``.cpp``, older versions of it not ``.cc``, so the copies have that ending; they also say what the
    project's own build says by compiler options. In the repository these files include each other by plain names,
    which hold in one folder as well.
    """
    files = [*device_folder("kernels").glob("*"), *(device_folder("micro_app") / "src" / "app").glob("*")]
    sources: dict[str, bytes] = {}
    for path in sorted(files):
        if path.suffix not in (".h", ".cc") or path.name in _HOST_ONLY:
            continue
        name = path.with_suffix(".cpp").name if path.suffix == ".cc" else path.name
        if name in sources:
            raise ZoError(f"two device sources are called {name}: rename one")
        sources[name] = (_NO_CONTRACTION if path.suffix == ".cc" else b"") + path.read_bytes()
    return sources

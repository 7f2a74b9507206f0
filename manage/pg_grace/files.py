"""The files that belong to the package but are not Python: sql/, migrations/, examples/."""

from pathlib import Path

_PACKAGED = Path(__file__).parent / "_files"
_CHECKOUT = Path(__file__).parents[2]


def root() -> Path:
    """Return the folder that holds sql/, migrations/ and examples/: in the wheel, or in the checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def sql(name: str) -> str:
    """Return one file under sql/, byte for byte."""
    return (root() / "sql" / name).read_text(encoding="utf-8")


def repeatable_sql() -> list[str]:
    """Return the names of the files that are applied after every migration, in order."""
    return [line for line in sql("order.txt").splitlines() if line and not line.startswith("#")]
